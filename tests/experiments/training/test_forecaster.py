"""``virtgym train agent=forecaster``: end to end, killed and resumed, wrong settings, what it learns."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.envs.arrays import F8
from virtgym.envs.traces import Trace
from virtgym.experiments.analysis.forecast_skill import Load, SkillSettings, mean_of, measure
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.overrides import PolicySpec
from virtgym.experiments.evaluate import evaluate
from virtgym.experiments.run.cell import load_scenario
from virtgym.experiments.training.compose import compose_training
from virtgym.experiments.training.forecasts.task import ForecastTrainTask, measured
from virtgym.experiments.training.settings.own import ForecasterConfig
from virtgym.experiments.training.train import make_task
from virtgym.policies.forecast.learned import LearnedForecaster
from virtgym.policies.learned.storage import Agent, load_agent

pytest.importorskip("torch")

TINY = (
    *("agent=forecaster", "scenario=small", "scenario.trace.options.n_samples=100", "agent.days=2"),
    *("agent.hidden=[8,8]", "agent.batch_size=64", "total_timesteps=4000", "eval_every=2000"),
    "tensorboard=false",
)


def train(*arguments: str) -> int:
    return main(["train", *TINY, *arguments])


@dataclass
class GivenLoad:
    """What a learner asks of its task."""

    loads: list[Load]
    total_timesteps: int
    seed: int = 0
    device: str = "cpu"
    _rest: dict[str, Any] = field(default_factory=dict)

    def seeds(self, n: int) -> list[int]:
        return [int(s) for s in np.random.SeedSequence(self.seed).generate_state(n)]


def wander(rng: np.random.Generator, samples: int, series: int) -> F8:
    """AR(1) around levels: y(n + 1) = m + 0.8 (y(n) - m) + 0.03 e, each of a unit of its own."""
    y = np.empty((samples, series))
    y[0] = rng.normal(0, 0.05, series)
    for n in range(1, samples):
        y[n] = 0.8 * y[n - 1] + rng.normal(0, 0.03, series)
    return (0.5 + y) * rng.uniform(0.2, 1.0, series)


def test_it_learns_the_quantiles_of_a_process_that_is_known() -> None:
    """The best forecast is m + 0.8**h (y - m), its error normal: MAE and coverage are known."""
    from virtgym.experiments.training.forecasts.learner import ForecastLearner

    rng = np.random.default_rng(0)

    def load(series: int) -> Load:
        util = wander(rng, 300, series)
        return Load(util, np.zeros(series, np.int64), np.full(series, 299))

    task: Any = GivenLoad([load(200)], 400_000)
    learner = ForecastLearner(task, ForecasterConfig(learning_rate=4e-3, horizon=4))
    while learner.timesteps < task.total_timesteps:
        learner.learn_chunk(1)
    learned = LearnedForecaster(Agent(learner.snapshot(), "forecast"))
    fresh = load(200)
    scale = fresh.util.mean(axis=0) / 0.5
    settings = SkillSettings((PolicySpec("ewma"),), origins=60, warmup=96)
    for steps in (1, 3):
        found = measure(fresh, learned, steps, settings)
        deviation = 0.03 * np.sqrt(sum(0.8 ** (2 * k) for k in range(steps)))
        best = float(np.mean(deviation * np.sqrt(2 / np.pi) * scale))
        assert best * 0.97 < mean_of(found.absolute, found) < best * 1.06
        for level, covered in zip((0.84, 0.95, 0.99), found.covered):
            assert mean_of(covered, found) == pytest.approx(level, abs=0.02)
        assert abs(mean_of(found.signed, found)) < 0.1 * best


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training in one go."""
    out = tmp_path_factory.mktemp("forecaster") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert train(f"out={out}") == 0
    assert "persistence" in said.getvalue()
    return out


def test_from_nothing_to_a_rule_that_uses_it(tmp_path: Path, trained: Path) -> None:
    out = trained
    agent = load_agent(out / "agent")
    assert (agent.task, agent.protocol) == ("forecast", {"sample_s": 300.0})
    assert agent.training["seeds"] == [1000, 1002]
    rows = pd.read_csv(out / "validation.csv")
    assert set(rows["forecaster"]) == {str(out / "agent"), "ewma", "loess", "persistence"}
    assert rows[["pinball", "coverage_84", "coverage_95", "coverage_99"]].notna().all(axis=None)
    progress = pd.read_csv(out / "progress.csv")
    assert progress["objective"].min() < progress["objective"].iloc[0]  # it learned something
    small = ("trace.options.n_vms=5", "trace.options.n_samples=60", f"out={tmp_path / 'table'}")
    assert main(["forecast", "trace=synthetic", f"forecasters=[ewma,{out / 'agent'}]", *small]) == 0
    table = pd.read_csv(tmp_path / "table" / "forecast.csv")
    assert set(table["forecaster"]) == {"ewma", str(out / "agent")}
    short = ("scenario=small", "scenario.horizon_s=6000", f"out={tmp_path / 'eval'}")
    assert main(["evaluate", *short, "policy=dpm", f"policy.forecaster={out / 'agent'}"]) == 0
    row = evaluate("small", f"drs(forecaster={out / 'agent'})", overrides={"horizon_s": 3000}).iloc[0]
    assert row["finished"]


def test_interrupted_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    """An interruption at a checkpoint, the same command again: the same weights and progress."""
    from virtgym.experiments.training.loop import Training

    one, two = trained, tmp_path / "two"
    write = Training._write_checkpoint

    def write_and_die(self: Any) -> None:
        write(self)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_write_checkpoint", write_and_die)
        assert train(f"out={two}") == 1
    assert (two / "checkpoint.npz").exists()
    assert train(f"out={two}") == 0
    for name, array in load_agent(one / "agent").members[0].weights.items():
        np.testing.assert_array_equal(load_agent(two / "agent").members[0].weights[name], array)
    first, second = (pd.read_csv(out / "progress.csv") for out in (one, two))
    clock = ["wall_s", "frames_per_s"]
    pd.testing.assert_frame_equal(first.drop(columns=clock), second.drop(columns=clock))


def test_another_seed_is_another_forecaster(tmp_path: Path) -> None:
    for seed in (0, 1):
        assert train(f"out={tmp_path / str(seed)}", f"seed={seed}", "total_timesteps=1000") == 0
    first, second = (load_agent(tmp_path / seed / "agent").members[0].weights for seed in "01")
    assert (first["quantile.0.weight"] != second["quantile.0.weight"]).any()


def test_a_trace_is_learned_from_its_past_only(tmp_path: Path) -> None:
    """The first part of the trace, or other traces; what is validated on is never learned from."""
    rng = np.random.default_rng(0)
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        for v in range(4):
            values = rng.integers(0, 100, 288)
            (tmp_path / day / f"vm{v}").write_text("".join(f"{x}\n" for x in values))
    shared = ["agent=forecaster", "scenario=planetlab", f"scenario.trace.path={tmp_path / 'monday'}"]
    run = compose_training(shared)
    task = make_task(load_scenario(run.scenario, 0), run.config, run.agent)
    assert isinstance(task, ForecastTrainTask)
    (load,) = task.loads
    assert load.util.shape == (216, 4)
    assert load.last.max() == 215
    assert task.validation().settings.begin == 0.75
    np.testing.assert_array_equal(load.util, task.held_out.util[:216])
    run = compose_training([*shared, f"agent.traces=[{tmp_path / 'tuesday'}]"])
    other = make_task(load_scenario(run.scenario, 0), run.config, run.agent)
    assert isinstance(other, ForecastTrainTask)
    assert other.loads[0].util.shape == (288, 4)
    assert (other.loads[0].util != task.held_out.util).any()
    assert other.validation().settings.begin == 0.0
    assert other.fingerprint() != task.fingerprint()


def test_samples_are_means_over_intervals() -> None:
    util = np.array([[0.0], [0.3], [0.6], [0.9], [0.4], [0.2]])
    trace = Trace("t", "table", "t", 100.0, util, ("a",), np.zeros(1), np.full(1, np.inf))
    np.testing.assert_allclose(measured(trace, 300.0).util, [[0.3], [0.5]])
    slow = measured(replace(trace, sample_s=300.0), 150.0)
    np.testing.assert_allclose(slow.util, np.repeat(util, 2, axis=0))
    np.testing.assert_allclose(measured(trace, 150.0).util[:, 0], [0.1, 0.5, 1.1 / 1.5, 0.4 / 1.5])
    assert measured(trace, 100.0) is trace


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["agent.horizon=0"], ["agent.horizon=0", "from 1 to 1000"]),
        (["agent.young=1.5"], ["agent.young=1.5", "at most 1"]),
        (["agent.hidden=[8,9]"], ["agent.hidden=[8, 9]", "two layers of the same width"]),
        (["agent.network=scorer"], ["agent.network=scorer", "must be one of quantiles"]),
        (["agent.n_steps=3"], ["agent.n_steps", "no such key", "horizon"]),
        (["agent.traces=[x]"], ["agent.traces=['x']", "generates its load"]),
        (["env.reward.energy=2"], ["env.reward", "learns from load"]),
        (["scenario=demo_placement"], ["is of kind placement", "agent=forecaster learns"]),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = [a for a in TINY if a.split("=")[0] not in {b.split("=")[0] for b in arguments}]
    if "scenario=demo_placement" in arguments:
        keep = [a for a in keep if not a.startswith("scenario.")]
    assert main(["train", *keep, *arguments, f"out={tmp_path / 'run'}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_plain_data() -> None:
    from virtgym.experiments.training.forecasts.learner import ForecastLearner

    util = np.random.default_rng(0).random((50, 3))
    task: Any = GivenLoad([Load(util, np.zeros(3, np.int64), np.full(3, 49))], 1000)
    config = ForecasterConfig(hidden=[8, 8], batch_size=16)
    one, two = ForecastLearner(task, config), ForecastLearner(task, config)
    one.learn_chunk(1)
    arrays, state = one.arrays()
    two.restore(arrays, json.loads(json.dumps(state)))
    assert two.timesteps == one.timesteps
    assert one.learn_chunk(1) == two.learn_chunk(1)
    for (name, a), b in zip(one.arrays()[0].items(), two.arrays()[0].values()):
        np.testing.assert_array_equal(a, b, err_msg=name)
