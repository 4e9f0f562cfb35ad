"""``virtgym train`` on clusters, end to end: folder, policy, table, killed and resumed, wrong settings."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from oracles.killed import killed_run
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.cli.commands import main
from virtgym.experiments.run.cell import load_scenario, make_cell, run_cell
from virtgym.experiments.run.rollout import make_env, rollout
from virtgym.experiments.training import cluster_task
from virtgym.experiments.training.cluster_task import RULES, ClusterTrainTask
from virtgym.experiments.training.compose import compose_training
from virtgym.policies import make_policy
from virtgym.policies.learned.storage import load_agent

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

DAY = ("scenario=small", "scenario.horizon_s=7200", "scenario.trace.options.n_vms=12")
TINY = (
    *DAY,
    *("scenario.hosts.0.count=2", "scenario.hosts.1.count=2", "agent.hidden=[8,8]", "num_envs=3"),
    *("total_timesteps=400", "eval_every=150", "tensorboard=false"),
)
AGENTS: dict[str, tuple[str, ...]] = {
    "ppo": ("agent.n_steps=16", "agent.batch_size=24"),
    "maskable_ppo": ("agent.n_steps=16", "agent.batch_size=24", "agent.network=mlp"),
    "a2c": ("agent.n_steps=8",),
    "dqn": ("agent.learning_starts=60", "agent.buffer_size=300", "agent.batch_size=16"),
    "imitation": ("agent.teacher_params.horizon=6",),
    "expert_iteration": (
        *("agent.teacher_params={horizon: 6}", "agent.search_share=0.4", "agent.n_steps=16"),
        *("agent.batch_size=24", "agent.search_rollouts=4"),
    ),
}


TWO_DAYS = (
    "from virtgym.experiments.training import cluster_task\n"
    "cluster_task.validation_seeds = lambda scenario: [2000, 2001]"
)


@pytest.fixture(autouse=True)
def two_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate on two days in place of ten."""
    monkeypatch.setattr(cluster_task, "validation_seeds", lambda scenario: [2000, 2001])


def train(agent: str, *arguments: str) -> int:
    return main(["train", *TINY, f"agent={agent}", *AGENTS[agent], *arguments])


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an agent's training in one go, which is run once."""

    @functools.cache
    def run(agent: str) -> Path:
        out = tmp_path_factory.mktemp(agent) / "run"
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert train(agent, f"out={out}") == 0
        assert f"agent: {out / 'agent'}" in said.getvalue()
        return out

    return run


@pytest.mark.parametrize("agent", list(AGENTS))
def test_every_agent_trains_to_a_policy_by_folder(
    agent: str, tmp_path: Path, trained: Callable[[str], Path]
) -> None:
    out = trained(agent)
    progress = pd.read_csv(out / "progress.csv")
    assert len(progress) == 4
    np.testing.assert_array_equal(progress["best"], progress["objective"].cummin())
    info = json.loads((out / "train.json").read_text())
    loaded = load_agent(out / "agent")
    assert loaded.task == "cluster"
    assert loaded.protocol["actions"] == "candidates"
    assert loaded.training["validation_seeds"] == [2000, 2001]
    rows = pd.read_csv(out / "validation.csv")
    assert set(rows["policy"]) == {str(out / "agent"), *RULES}
    mine = rows[rows["policy"] == str(out / "agent")]
    assert set(mine["kind"]) == {"agent"}
    assert mine["cost"].mean() == pytest.approx(info["objective"])  # the default reward is minus the cost
    evaluated = tmp_path / "evaluated"
    typed = ("seeds=[2000,2001]", "policies=[static," + str(out / "agent") + "]")
    assert main(["benchmark", *TINY[:5], *typed, "report=false", f"out={evaluated}"]) == 0
    again = pd.read_csv(evaluated / "results.csv")
    pd.testing.assert_series_equal(
        again.loc[again["policy"] == str(out / "agent"), "cost"].reset_index(drop=True),
        mine["cost"].reset_index(drop=True),
    )


def test_an_agent_plays_clusters_of_other_sizes_and_models(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train("ppo", f"out={out}", "env.candidates.empty_power=1", "env.candidates.plans=[drs]") == 0
    policy: Any = make_policy(str(out / "agent"))
    assert policy.env_options["candidates"]["empty_power"] == 1
    assert policy.env_options["candidates"]["on"] == 2  # defaults are noted, too
    full = {"memory": "multiplexed", "numa.enabled": True, "migration.mode": "precopy"}
    for changes in ({"hosts.0.count": 12, "trace.options": {"n_vms": 40}}, full):
        scenario = load_scenario("small", 0, {**changes, "horizon_s": 3600})
        env = make_env(scenario, policy)  # type: ignore[arg-type]
        assert env.unwrapped.candidates.empty_power == 1  # type: ignore[attr-defined]
        assert rollout(env, policy).finished
        row = run_cell(make_cell(scenario, str(out / "agent")), 0).rows[0]
        assert row["finished"]
        assert row["kind"] == "agent"
        assert row["information"] == env.unwrapped.sim.information  # type: ignore[attr-defined]


TIMES = ["wall_s", "frames_per_s", "collect_s", "update_s"]


def assert_same_training(one: Path, two: Path) -> None:
    """The same progress and weights, to the bit."""
    a, b = (pd.read_csv(out / "progress.csv").drop(columns=TIMES, errors="ignore") for out in (one, two))
    pd.testing.assert_frame_equal(a, b)
    mine, theirs = (load_agent(folder / "agent").members[0].weights for folder in (one, two))
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name])


def test_a_training_that_broke_off_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Callable[[str], Path]
) -> None:
    """The same weights and progress, to the bit, as in one go; also where an episode was under way."""
    for agent in ("ppo", "dqn", "imitation", "expert_iteration"):
        b = tmp_path / agent

        def fail(*_: Any) -> None:
            raise RuntimeError("power cut")

        with monkeypatch.context() as patch:
            patch.setattr("virtgym.experiments.training.train.Training._write_checkpoint", _second(fail))
            assert train(agent, f"out={b}", "checkpoint_every=100") == 1
        assert not json.loads((b / "train.json").read_text())["finished"]
        assert (b / "checkpoint.npz").exists()
        assert train(agent, f"out={b}", "checkpoint_every=100") == 0
        assert_same_training(trained(agent), b)


@pytest.mark.parametrize("agent", ["ppo", "imitation", "expert_iteration"])
def test_a_training_that_was_killed_ends_the_same(
    agent: str, tmp_path: Path, trained: Callable[[str], Path]
) -> None:
    """kill -9 of a process of its own; expert iteration is killed while it searches or imitates."""
    typed = (*TINY, f"agent={agent}", *AGENTS[agent], "checkpoint_every=100")
    killed_run(tmp_path, typed, 1, signal.SIGKILL, TWO_DAYS)
    assert not json.loads((tmp_path / "train.json").read_text())["finished"]
    assert main(["train", *typed, f"out={tmp_path}"]) == 0
    assert_same_training(trained(agent), tmp_path)


def _second(fail: Any) -> Any:
    """The method until it has been called once, then something else."""
    from virtgym.experiments.training.loop import Training

    before, calls = Training._write_checkpoint, []

    def write(self: Any) -> None:
        calls.append(1)
        (before if len(calls) < 2 else fail)(self)

    return write


def test_another_agent_is_begun_with(tmp_path: Path, trained: Callable[[str], Path]) -> None:
    first = trained("ppo")
    assert train("ppo", "total_timesteps=0", f"initial={first / 'agent'}", f"out={tmp_path}") == 0
    a, b = (load_agent(folder / "agent").members[0].weights for folder in (first, tmp_path))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["reward=delay"], ["reward=delay: has no effect on clusters", "env.reward"]),
        (["wait_scale_s=10"], ["wait_scale_s=10", "no effect on clusters"]),
        (["env.rewrad.cost=1"], ["env.rewrad", "did you mean reward?"]),
        (["env.reward.csot=1"], ["csot", "did you mean cost?"]),
        (["env.reward=3"], ["env.reward=3", "must be a mapping"]),
        (["env.actions=knobs"], ["env.actions=knobs", "candidates"]),
        (["env.candidates.reliev=1"], ["env.candidates", "reliev", "relieve"]),
        (["env.candidates.plans=[no_such]"], ["no_such"]),
        (["env.candidates.plans=['my_pkg:Plan']"], ["my_pkg:Plan", "is a path"]),
        (["env.max_decisions_per_interval=0"], ["env.max_decisions_per_interval=0", "at least 1"]),
        (["agent.network=equivariant"], ["agent.network=equivariant", "scorer, mlp"]),
        (["agent.observation=slots"], ["agent.observation=slots", "candidates"]),
        (["agent.hidden=[8,9]"], ["hidden=[8, 9]", "two layers of the same width"]),
        (["agent.n_steps=10000000000"], ["agent.n_steps", "GiB"]),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("ppo", *arguments, f"out={tmp_path / 'run'}") == 2
    (line,) = errors(capsys)
    assert line.startswith("virtgym train: ")
    for part in parts:
        assert part in line, line
    assert not (tmp_path / "run").exists()


def test_what_learns_placement_only_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "scenario=small", "agent=rollout_iteration"]) == 2
    (line,) = errors(capsys)
    assert "is of kind cluster" in line
    assert "use agent=ppo, a2c, dqn, maskable_ppo" in line
    assert main(["train", "scenario=demo_placement", "agent=ppo", "env.reward.cost=-1"]) == 2
    (line,) = errors(capsys)
    assert "env.reward: has no effect on scenarios of kind placement" in line


def test_defaults_are_those_of_the_kind_and_typed_values_win() -> None:
    placement = compose_training(["scenario=demo_placement", "agent=ppo"])
    cluster = compose_training(["scenario=small", "agent=ppo"])
    assert (placement.config["num_envs"], cluster.config["num_envs"]) == (256, 8)
    assert (placement.config["reward"], cluster.config["reward"]) == ("delay", None)
    assert (placement.agent.network, cluster.agent.network) == ("equivariant", "scorer")
    assert (placement.agent.gamma, cluster.agent.gamma) == (0.99, 0.98)
    typed = compose_training(["scenario=small", "agent=ppo", "agent.gamma=0.5", "num_envs=2"])
    assert (typed.agent.gamma, typed.config["num_envs"]) == (0.5, 2)


def test_the_days_of_validation_are_the_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    task = ClusterTrainTask(build_scenario("small"))
    assert cluster_task.validation_seeds(task.scenario) == list(range(2000, 2010))
    with pytest.raises(ConfigError, match="is a path"):
        ClusterTrainTask(task.scenario, env={"candidates": {"plans": ["a.b"]}})
    assert asdict(task.scenario.config)["trace"]["path"] is None


def test_a_zip_of_sb3_plays_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one of SB3's own MlpPolicy, trained on the batch of clusters by SB3 alone."""
    from stable_baselines3 import PPO

    from virtgym.envs.sb3 import ClusterVecEnv

    scenario = load_scenario("small", 0, {"horizon_s": 3600})
    envs = ClusterVecEnv(2, scenario, actions="candidates")
    model = PPO("MlpPolicy", envs, n_steps=16, batch_size=16, seed=0)
    model.learn(64)
    model.save(tmp_path / "model.zip")
    typed = ("scenario=small", "scenario.horizon_s=3600", f"policy={tmp_path / 'model.zip'}")
    with pytest.warns(UserWarning, match="may run any code"):
        assert main(["evaluate", *typed, f"out={tmp_path / 'out'}"]) == 0
    row = pd.read_csv(tmp_path / "out" / "results.csv").iloc[0]
    assert (row["kind"], row["finished"]) == ("agent", True)
    (tmp_path / "bad.zip").write_bytes(b"PK")
    capsys.readouterr()
    with pytest.warns(UserWarning, match="may run any code"):
        assert main(["evaluate", "scenario=small", f"policy={tmp_path / 'bad.zip'}"]) == 2
    (line,) = errors(capsys)
    assert f"{tmp_path / 'bad.zip'}: cannot be read as ppo, maskable_ppo, a2c, dqn" in line


def test_a_sweep_over_kinds_has_the_defaults_of_each(tmp_path: Path) -> None:
    """Where the scenario is swept, the kind is known only once a job is composed."""
    typed = ("-m", "scenario=small,demo_placement", "agent=ppo", "total_timesteps=0", "tensorboard=false")
    assert main(["train", *typed, f"out={tmp_path / 'sweep'}"]) == 0
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv").set_index("scenario")
    assert table["finished"].all()
    tasks = {
        name: load_agent(tmp_path / "sweep" / table.loc[name, "job"] / "agent").task for name in table.index
    }
    assert tasks == {"small": "cluster", "demo_placement": "placement"}
