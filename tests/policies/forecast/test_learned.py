"""The learned forecaster: what its network may say, where it comes from, and who uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError
from virtgym.experiments.evaluate import evaluate
from virtgym.policies import make_policy
from virtgym.policies.forecast.forecasters import make_forecaster
from virtgym.policies.forecast.history import squares_of_past, young_variance
from virtgym.policies.forecast.inputs import (
    DEVIATION,
    INPUTS,
    LOWEST,
    MEAN,
    NORMAL,
    OUTPUTS,
    QUANTILES,
    WINDOW,
)
from virtgym.policies.forecast.learned import LAYOUT, LearnedForecaster, quantile_architecture
from virtgym.policies.forecast.quantile_net import describe_many
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.storage import META, WEIGHTS, Agent, Member, merge_agents, save_agent


def network(seed: int = 0, width: int = 8, size: float = 0.5) -> Member:
    """A network with random weights; no PyTorch is needed for one."""
    architecture = quantile_architecture(width)
    rng = np.random.default_rng(seed)
    weights = {k: rng.normal(0, size, s).astype(np.float32) for k, s in architecture.shapes().items()}
    weights["prior"] = np.array([0.7], np.float32)
    return Member(architecture, LAYOUT, weights)


def forecaster(*seeds: int) -> LearnedForecaster:
    return LearnedForecaster(Agent(tuple(map(network, seeds or (0,))), "forecast"))


@pytest.fixture
def past() -> F8:
    """Series of many kinds: noise, waves, ramps, steps, rare bursts, constants, idle ones."""
    rng = np.random.default_rng(1)
    t = np.arange(130)[:, None]
    noise = np.abs(rng.normal(0.3, 0.1, (130, 8)))
    kinds = [0.5 + 0.4 * np.sin(t / 9), t / 130, (t > 60) * 0.8, (t % 17 == 0) * 1.0, t * 0 + 0.25, t * 0.0]
    return np.hstack([noise, *kinds, rng.lognormal(-2, 1, (130, 6))])


def test_normal_deviations_are_those_of_the_levels() -> None:
    norm = pytest.importorskip("scipy.stats").norm
    np.testing.assert_allclose(norm.ppf(QUANTILES), NORMAL, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 6, 400])
def test_quantiles_never_cross(seed: int, steps: int, past: F8) -> None:
    """Whatever the weights, and however few the samples."""
    wild = LearnedForecaster(Agent((network(seed, size=3.0),), "forecast"))
    for counts in (np.full(past.shape[1], 130), np.arange(past.shape[1]) % 4):
        found = wild.outputs(past, steps, counts)
        assert np.isfinite(found).all()
        rises = np.vstack((found[DEVIATION : DEVIATION + 1], np.diff(found[LOWEST:], axis=0)))
        idle = (counts == 0) | np.array([not past[130 - c :, v].any() for v, c in enumerate(counts)])
        assert (rises[:, ~idle] > 0).all()
        assert (found[:, idle] == 0).all()  # nobody knows anything of them


def test_units_do_not_matter(past: F8) -> None:
    one = forecaster().outputs(past, 3)
    np.testing.assert_array_equal(forecaster().outputs(8.0 * past, 3), 8.0 * one)
    np.testing.assert_allclose(forecaster().outputs(2300.0 * past, 3), 2300.0 * one, rtol=1e-5)


def test_a_series_is_forecast_alike_alone_and_among_others(past: F8) -> None:
    """To the bit; and nothing is read that a series does not have, or that lies before the window."""
    counts = np.arange(past.shape[1]) * 6
    dirty = past.copy()
    for v, c in enumerate(counts):
        dirty[: 130 - c, v] = 1e9
    learned = forecaster(0, 1)
    together = learned.outputs(dirty, 2, counts)
    for v, c in enumerate(counts):
        alone = learned.outputs(past[130 - c :, v : v + 1], 2)
        np.testing.assert_array_equal(together[:, v], alone[:, 0] if c else np.zeros(OUTPUTS))
    np.testing.assert_array_equal(learned.predict(dirty, 2, counts), together[0])
    np.testing.assert_array_equal(learned.outputs(past[-WINDOW:], 2), learned.outputs(past, 2))
    assert learned.predict(np.zeros((0, 3))).tolist() == [0.0, 0.0, 0.0]
    assert learned.outputs(np.zeros((5, 0))).shape == (OUTPUTS, 0)


def test_an_ensemble_is_the_mean(past: F8) -> None:
    parts = [forecaster(seed).outputs(past) for seed in range(3)]
    np.testing.assert_allclose(forecaster(0, 1, 2).outputs(past), np.mean(parts, axis=0), rtol=1e-12)


def test_the_kernel_is_the_network_of_torch(past: F8) -> None:
    torch = pytest.importorskip("torch")
    from virtgym.experiments.training.forecasts.learner import QuantileMlp

    member = network(3, 16)
    net = QuantileMlp(16, np.random.default_rng(0))
    net.load_state_dict({k: torch.from_numpy(w) for k, w in member.weights.items() if k != "prior"})
    n = past.shape[1]
    inputs, place = np.zeros((n, len(INPUTS)), np.float32), np.zeros((n, 2))
    counts, prior = np.arange(1, n + 1), float(member.weights["prior"][0])
    describe_many(past, np.full(n, 130), counts, np.arange(n), np.full(n, 4), prior, inputs, place)
    with torch.no_grad():
        said = net(torch.from_numpy(inputs)).numpy().T
    expected = place[:, 0] + place[:, 1] * said
    expected[DEVIATION] -= place[:, 0]
    got = LearnedForecaster(Agent((member,), "forecast")).outputs(past, 4, counts)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


def test_what_is_asked_for_is_part_of_what_is_said(past: F8) -> None:
    learned = forecaster()
    said = learned.outputs(past, 2)
    np.testing.assert_array_equal(learned.predict(past, 2), said[MEAN])
    np.testing.assert_array_equal(learned.deviation(past, 2), said[DEVIATION])
    np.testing.assert_array_equal(learned.upper(past, 2), said[LOWEST + 1 :])
    assert make_forecaster("ewma").deviation(past) is None
    assert make_forecaster("ewma").upper(past) is None


def test_spread_of_the_past_is_that_of_a_plain_loop(past: F8) -> None:
    counts = np.arange(past.shape[1])
    squares, n = squares_of_past(past, counts, 8)
    got = young_variance(squares, n, 2.0)
    for v, c in enumerate(counts):
        y = past[130 - min(int(c), 8) :, v]
        own = ((y - y.mean()) ** 2).sum() if c else 0.0
        assert got[v] == pytest.approx((own + 2 * 0.2**2) / (max(len(y) - 1, 0) + 2))


def test_a_folder_is_a_name_of_a_forecaster(
    tmp_path: Path, past: F8, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_agent(tmp_path / "mine", Agent((network(),), "forecast", {"sample_s": 300.0}))
    np.testing.assert_array_equal(
        make_forecaster(str(folder)).predict(past, 4), forecaster().predict(past, 4)
    )
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(make_forecaster("mine").predict(past), forecaster().predict(past))
    other = save_agent(tmp_path / "other", Agent((network(1),), "forecast"))
    merge_agents([folder, other], tmp_path / "both")
    np.testing.assert_array_equal(make_forecaster("./both").predict(past), forecaster(0, 1).predict(past))


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        meta = json.loads((folder / META).read_text())
        change(meta)
        (folder / META).write_text(json.dumps(meta))

    return make


def _replace_agent(agent: Agent) -> Callable[[Path], None]:
    return lambda folder: (save_agent(folder, agent), None)[1]


def _placement() -> Agent:
    layout = Layout.current("basic")
    architecture = Architecture("equivariant", *layout.sizes, hidden=(8, 8))
    weights = {k: np.zeros(s, np.float32) for k, s in architecture.shapes().items()}
    return Agent((Member(architecture, layout, weights),))


def _other_inputs() -> Agent:
    layout = Layout("forecast", (("sample.0",), ("level",)))
    architecture = Architecture("quantiles", 1, 0, 1, n_extra=OUTPUTS, hidden=(8, 8))
    weights = {k: np.zeros(s, np.float32) for k, s in architecture.shapes().items()}
    return Agent((Member(architecture, layout, weights),), "forecast")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "no description": lambda folder: (folder / META).unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "not JSON": lambda folder: (folder / META).write_text("{"),
    "other weights": lambda folder: (folder / WEIGHTS).write_bytes(b"PK" + bytes(100)),
    "a pickle": lambda folder: (folder / WEIGHTS).write_bytes(b"\x80\x04K\x01."),
    "an agent that places": _replace_agent(_placement()),
    "other inputs": _replace_agent(_other_inputs()),
    "another task": _edit(lambda meta: meta.update(task="cluster")),
    "no member": _edit(lambda meta: meta.update(members=[])),
    "huge": _edit(lambda meta: meta["members"][0]["architecture"].update(hidden=[1 << 24, 1 << 24])),
    "more outputs": _edit(lambda meta: meta["members"][0]["architecture"].update(n_extra=9)),
    "no outputs": _edit(lambda meta: meta["members"][0]["architecture"].update(n_extra=0)),
    "another network": _edit(lambda meta: meta["members"][0]["architecture"].update(network="scorer")),
    "another function": _edit(lambda meta: meta["members"][0]["architecture"].update(activation="tanh")),
    "columns of a cluster": _edit(
        lambda meta: meta["members"][0].update(columns={"candidates": ["offered"], "globals": ["g"]})
    ),
    "columns that are no list": _edit(lambda meta: meta["members"][0].update(columns={"samples": 3})),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("policy", ["dpm", "drs"])
def test_hostile_folders_are_refused_in_one_line(kind: str, policy: str, tmp_path: Path) -> None:
    folder = save_agent(tmp_path / "mine", Agent((network(),), "forecast"))
    HOSTILE[kind](folder)
    with pytest.raises(ConfigError) as caught:
        make_policy(policy, forecaster=str(folder))
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert len(text) < 600


def test_what_is_not_a_forecaster_says_what_is(tmp_path: Path) -> None:
    folder = save_agent(tmp_path / "mine", Agent((network(),), "forecast"))
    with pytest.raises(ConfigError, match=r"task forecast; .* policy\.forecaster=FOLDER$"):
        make_policy(str(folder))
    with pytest.raises(ConfigError, match=r"^policy\.forecaster=.*none: no such folder; allowed: a name \("):
        make_policy("dpm", forecaster=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"has no parameters, got window$"):
        make_policy("drs", forecaster=str(folder), window=4)


@pytest.mark.parametrize("policy", ["dpm", "dpm_ortools", "drs", "platform"])
def test_rules_use_a_folder_and_rows_tell_it_by_content(policy: str, tmp_path: Path) -> None:
    key = "power" if policy == "platform" else ""
    params: dict[str, Any] = {} if key else {"forecaster": str(tmp_path / "mine")}
    if key:
        params = {"dpm": {"forecaster": str(tmp_path / "mine")}}
    hashes = []
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        save_agent(tmp_path / "mine", Agent((network(seed),), "forecast"))
        row = evaluate("small", policy, overrides={"horizon_s": 6000}, params=params).iloc[0]
        assert row["finished"]
        hashes.append(row["config_hash"])
    assert hashes[0] != hashes[1]
