"""Lifetimes: hazards by hand, predictions of the past alone, rules on small games, and their measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.scenarios.placement import build_placement_scenario
from virtgym.envs.traces import read_requests
from virtgym.envs.traces.requests import RequestTrace
from virtgym.experiments.analysis.lifetime_quality import auc, calibration_error, chance_within, usage_ratio
from virtgym.experiments.run.placement_rollout import play_windows
from virtgym.experiments.training.forecasts.lifetimes import train_lifetimes
from virtgym.policies import make_policy
from virtgym.policies.placement.lifetime_model import (
    EDGES_S,
    PRIOR,
    learn_lifetimes,
    load_lifetimes,
    rest_table,
)
from virtgym.policies.placement.lifetimes import LIFETIME_RULES, longer_s, look_ahead
from virtgym.policies.registry import policy_kind

HOUR = 3600.0


def stream(*requests: tuple[float, float, float, float]) -> RequestTrace:
    """Requests (cores, GiB, arrival, lifetime)."""
    cores, memory, arrival, life = (np.array(column, dtype=np.float64) for column in zip(*requests))
    return RequestTrace("t", "huawei", "t", cores, memory, arrival, life, np.arange(len(cores)))


def test_hazards_by_hand() -> None:
    """Two VMs of 100 s, one of 1,000 s, and one that still runs after 500 s."""
    requests = stream((1, 1, 0, 100), (1, 1, 0, 100), (1, 1, 0, 1000), (1, 1, 500, 9999), (1, 1, 1000, 1))
    model = learn_lifetimes(requests, range(4))
    k = int(np.searchsorted(EDGES_S, 100, side="right")) - 1
    rough = 1 / (len(EDGES_S) - 1)
    assert model.hazard[0][0, k] == pytest.approx((2 + PRIOR * rough) / (4 + PRIOR))
    late = int(np.searchsorted(EDGES_S, 1000, side="right")) - 1
    assert (model.hazard[0][:, late:] == 1.0).all(), "nobody was watched for longer"
    assert model.hazard[0][0, late - 1] == pytest.approx(PRIOR * rough / (1 + PRIOR))
    group, chance = model.predict(stream((1, 1, 0, 5), (7, 7, 0, 5)))
    assert group[1] == 0, "a flavour that nobody has seen is like all"
    np.testing.assert_allclose(chance.sum(axis=1), 1.0)


def test_a_vm_that_stays_is_predicted_anew() -> None:
    rng = np.random.default_rng(0)
    life = np.where(rng.random(3000) < 0.7, 60.0, 30 * HOUR)
    requests = stream(*((1.0, 1.0, 10.0 * i, life[i]) for i in range(3000)))
    model = learn_lifetimes(requests, range(3000), known_until_s=1e9)
    group, chance = model.predict(requests)
    rest = rest_table(chance)[group[2000]]
    at = np.searchsorted(EDGES_S, [0.0, 600.0, 3 * HOUR], side="right") - 1
    assert 6 * HOUR < rest[at[0]] < 13 * HOUR
    assert rest[at[1]] > 20 * HOUR
    within = [chance_within(chance, HOUR, age)[group[2000]] for age in (0.0, 600.0)]
    assert within[0] == pytest.approx(0.7, abs=0.08)
    assert within[1] < 0.15


@pytest.fixture(scope="module")
def generated() -> RequestTrace:
    return read_requests(None, "synthetic", n=3000, seed=3)


def test_learning_reads_nothing_after_the_window_begins(generated: RequestTrace) -> None:
    """Other lifetimes of VMs that had not left by then change no prediction."""
    first = 2000
    now = generated.arrival_s[first]
    open_then = (generated.arrival_s + generated.lifetime_s > now) | (np.arange(3000) >= first)
    other = replace(
        generated, lifetime_s=np.where(open_then, generated.lifetime_s + 1e6, generated.lifetime_s)
    )
    one, two = (learn_lifetimes(r, range(first)).predict(r) for r in (generated, other))
    assert all(np.array_equal(a, b) for a, b in zip(one, two))


def test_models_are_stored(tmp_path: Path, generated: RequestTrace) -> None:
    model = learn_lifetimes(generated, range(1000))
    model.save(tmp_path / "m.npz")
    again = load_lifetimes(tmp_path / "m.npz")
    assert all(np.array_equal(a, b) for a, b in zip(model.hazard, again.hazard))
    with np.load(tmp_path / "m.npz") as stored:
        arrays = dict(stored)
    for name, wrong in (
        *(
            ("hazard_1", value)
            for value in (np.array(["x"]), arrays["hazard_1"].astype(complex), np.zeros(3))
        ),
        *(
            ("keys_1", value)
            for value in (arrays["keys_1"] * np.nan, arrays["keys_1"].astype(str), np.array(7))
        ),
    ):
        np.savez(tmp_path / "x.npz", **{**arrays, name: wrong})
        with pytest.raises(ConfigError, match="holds no hazards of 40 classes"):
            load_lifetimes(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(ConfigError, match="is no model of lifetimes"):
        load_lifetimes(tmp_path / "x.npz")
    with pytest.raises(TraceError):
        load_lifetimes(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match="rows"):
        learn_lifetimes(generated, range(5000))


CASES: dict[str, tuple[float, dict[str, int]]] = {
    # lifetime of the newcomer: node that each rule takes, with a VM of 10 h on host 0, one of 1 h on host 1,
    # host 2 empty, all alike in room.
    "ends with the short one": (HOUR, {"nilas": 0, "lifetime_alignment": 2, "departure_classes": 2}),
    "ends with the long one": (10 * HOUR, {"nilas": 0, "lifetime_alignment": 0, "departure_classes": 0}),
    "outlives them": (100 * HOUR, {"nilas": 0, "lifetime_alignment": 0, "departure_classes": 4}),
    "is gone at once": (1.0, {"nilas": 0, "lifetime_alignment": 4, "departure_classes": 4}),
}


@pytest.mark.parametrize("rule", LIFETIME_RULES)
@pytest.mark.parametrize("case", CASES)
def test_rules_by_hand(case: str, rule: str) -> None:
    life, nodes = CASES[case]
    requests = stream((20, 1, 0, 10 * HOUR), (20, 1, 0, HOUR), (20, 1, 0, life))
    games = PlacementGames(requests, PlacementConfig(n_hosts=3, double_above_gib=64))
    games.begin([0], [0], [3])
    for node in (1, 3):
        games.step(node)
    policy: Any = make_policy(rule, lifetimes="true")
    policy.reset(games, np.random.default_rng(0))
    assert policy.choose()[0] // 2 == nodes[rule] // 2


def waits(rule: str, requests: RequestTrace, **params: Any) -> Any:
    batch = PlacementBatch(4, PlacementSettings(requests, PlacementConfig()))
    policy = make_policy(rule, **params)
    windows = [1000, 1200, 1400, 1600]
    return play_windows(policy, batch, windows, rng=np.random.default_rng(0)).total_wait_s


def test_what_is_known(generated: RequestTrace) -> None:
    true = waits("nilas", generated, lifetimes="true")
    assert np.array_equal(true, waits("nilas", generated, lifetimes="noisy", noise=0.0))
    assert not np.array_equal(true, waits("nilas", generated, lifetimes="noisy", noise=3.0))
    assert np.isfinite(waits("nilas", generated)).all()
    assert policy_kind(make_policy("nilas")) == "rule"
    assert policy_kind(make_policy("nilas", lifetimes="noisy")) == "oracle"
    for wrong in (
        {"lifetimes": "some"},
        {"ties": "x"},
        {"noise": -1},
        {"predictor": "x", "lifetimes": "true"},
    ):
        with pytest.raises(ConfigError):
            make_policy("nilas", **wrong)
    fading = PlacementGames(generated, PlacementConfig(protocol="fading"))
    with pytest.raises(ConfigError, match="no VM leaves"):
        make_policy("nilas").reset(fading, np.random.default_rng(0))


def test_a_trained_model_plays(tmp_path: Path, generated: RequestTrace) -> None:
    scenario = build_placement_scenario("demo_placement")
    found = train_lifetimes(scenario, tmp_path / "m.npz")
    assert all(0.5 < each["auc"] <= 1 for each in found.values())
    played = waits("nilas", generated, predictor=str(tmp_path / "m.npz"))
    assert not np.array_equal(played, waits("nilas", generated, lifetimes="true"))


def test_measures_by_hand() -> None:
    score, happened = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert auc(score, happened) == 0.75
    assert auc(np.zeros(4), happened) == 0.5
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, False])) == 0.5
    # Host 0 is in use 0..10 and 20..30, host 1 0..30; what runs fits on one host but at 0..10.
    requests = stream((60, 1, 0, 10), (60, 1, 0, 30), (20, 1, 20, 10))
    log = {
        "window": np.zeros(3, int),
        "request": np.arange(3),
        "time_s": np.array([0.0, 0, 20]),
        "node": np.array([0, 2, 1]),
    }
    assert usage_ratio(requests, log, PlacementConfig()) == pytest.approx(50 / 40)


def test_how_much_longer_a_host_is_in_use(generated: RequestTrace) -> None:
    """An empty host by the whole lifetime, one with a VM by less, with two VMs by less still."""
    games = PlacementGames(generated, PlacementConfig())
    games.begin([0], [2000], [10])
    policy: Any = make_policy("nilas")
    policy.reset(games, np.random.default_rng(0))
    policy.choose()
    arrays, row = policy._arrays, 2005
    arrays.gone[:] = 1.0
    whole = longer_s(policy._table, 0, row)
    assert whole == pytest.approx(arrays.rest[arrays.group[row], 0], rel=0.2)
    look_ahead(policy._table, 0, row, 0.0)
    one = longer_s(policy._table, 0, row)
    look_ahead(policy._table, 0, row, 100.0)
    assert 0 < longer_s(policy._table, 0, row) < one < whole
