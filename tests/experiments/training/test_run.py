"""``virtgym train`` as a user meets it: end to end, killed and resumed, wrong settings, what it learns."""

from __future__ import annotations

import functools
import json
import pickle
import signal
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.core.config_store import ConfigStore

from oracles.killed import killed_run
from virtgym.experiments.cli.commands import main
from virtgym.experiments.training import agents as train_agents
from virtgym.experiments.training.compose import compose_training
from virtgym.experiments.training.placement_task import PlacementTrainTask
from virtgym.experiments.training.settings.base import AgentConfig
from virtgym.policies import make_policy
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.storage import Member, load_agent

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

TINY = (
    "scenario=demo_placement",
    "scenario.n_windows=3",
    "scenario.trace.options.n=3000",
    "scenario.train_rows=[0,1500]",
    "total_timesteps=1200",
    "num_envs=8",
    "eval_every=400",
    "agent.hidden=[16,16]",
    "tensorboard=false",
)
PPO = ("agent=ppo", "agent.n_steps=16", "agent.batch_size=64")


def train(*arguments: str) -> int:
    return main(["train", *TINY, *arguments])


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line]


@pytest.mark.parametrize("network", ["mlp", "equivariant"])
@pytest.mark.parametrize(
    "agent",
    [
        PPO,
        ("agent=maskable_ppo", "agent.n_steps=16", "agent.batch_size=64"),
        ("agent=a2c",),
        ("agent=dqn", "agent.learning_starts=100", "agent.buffer_size=2000", "agent.batch_size=32"),
    ],
    ids=lambda settings: settings[0],
)
def test_every_agent_trains_to_a_policy_by_folder(
    agent: tuple[str, ...], network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(*agent, f"agent.network={network}", f"out={out}") == 0
    printed = capsys.readouterr()
    assert "first_fit" in printed.out
    assert f"agent: {out / 'agent'}" in printed.out
    assert sorted(p.name for p in out.iterdir()) == [
        "agent", "config.yaml", "progress.csv", "train.json", "validation.csv", "virtgym.json"
    ]  # fmt: skip
    progress = pd.read_csv(out / "progress.csv")
    assert progress["timesteps"].iloc[0] == 0
    assert progress["timesteps"].iloc[-1] >= 1200
    assert len(progress) == 4
    np.testing.assert_array_equal(progress["best"], progress["objective"].cummin())
    info = json.loads((out / "train.json").read_text())
    assert info["finished"]
    assert info["objective"] == pytest.approx(progress["objective"].min())
    loaded = load_agent(out / "agent")
    assert loaded.training["seed"] == 0
    assert loaded.training["timesteps"] == info["best_timesteps"]
    assert loaded.protocol["n_hosts"] == 5
    # The folder is a policy, and evaluates to what training said.
    evaluated = tmp_path / "evaluated"
    assert main(["evaluate", *TINY[:4], f"policy={out / 'agent'}", f"out={evaluated}"]) == 0
    rows = pd.read_csv(evaluated / "results.csv")
    assert rows["total_wait_s"].mean() == pytest.approx(info["objective"])  # of 3 windows none is trimmed


def test_tensorboard_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert train(*PPO, "tensorboard=true", f"out={tmp_path / 'run'}") == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that tests look at and leave as it is."""
    out = tmp_path_factory.mktemp("ppo") / "run"
    assert train(*PPO, f"out={out}") == 0
    return out


def test_one_seed_one_result(tmp_path: Path, ppo: Path) -> None:
    for seed in (0, 1):
        assert train(*PPO, f"seed={seed}", f"out={tmp_path / str(seed)}") == 0
    folders = (ppo, tmp_path / "0", tmp_path / "1")
    a, b, c = (load_agent(folder / "agent").members[0].weights for folder in folders)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert any((a[name] != c[name]).any() for name in a)


def test_a_finished_training_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train(*PPO, f"out={out}") == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert train(*PPO, f"out={out}") == 0
    second = capsys.readouterr()
    assert "finished before" in second.err
    assert second.out.splitlines()[0] == first.splitlines()[0]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert train(*PPO, "seed=1", "agent.gamma=0.9", f"out={out}") == 2
    (line,) = errors(capsys)
    assert "holds another training" in line
    assert "agent.gamma: 0.99 there, 0.9 now; seed: 0 there, 1 now" in line


AGENTS: dict[str, tuple[str, ...]] = {
    "ppo": ("agent=ppo", "agent.network=mlp", "agent.n_steps=16", "agent.batch_size=64"),
    "dqn": (
        "agent=dqn",
        "agent.network=mlp",
        "agent.learning_starts=100",
        "agent.buffer_size=1000",
        "agent.batch_size=32",
    ),
    "rollout_iteration": (
        "agent=rollout_iteration",
        "agent.states=64",
        "agent.population=2",
        "agent.selection_windows=5",
        "agent.hidden=[8,8]",
        "agent.safety=best_host_emptier_node",
        "agent.resampled=300",
    ),
}


SETTINGS = ("total_timesteps=8000", "eval_every=2000")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an agent's training in one go, which is run once."""

    @functools.cache
    def run(agent: str) -> Path:
        out = tmp_path_factory.mktemp(agent) / "run"
        assert train(*AGENTS[agent], *SETTINGS, f"out={out}") == 0
        return out

    return run


@pytest.mark.parametrize(
    ("agent", "number"),
    [
        ("ppo", signal.SIGKILL),
        ("dqn", signal.SIGKILL),
        ("rollout_iteration", signal.SIGKILL),
        ("ppo", signal.SIGINT),
    ],
)
def test_killed_in_the_middle_it_ends_the_same(
    agent: str, number: int, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    """kill -9 or Ctrl-C, the same command again: the same weights and progress as a run in one go."""
    settings = (*AGENTS[agent], *SETTINGS)
    one, two = whole(agent), tmp_path
    killed_run(two, (*TINY, *settings), 2, number)
    assert not json.loads((two / "train.json").read_text())["finished"]
    assert (two / "checkpoint.npz").exists()
    assert train(*settings, f"out={two}") == 0
    times = ["wall_s", "frames_per_s", "states_per_s", "update_s"]
    a, b = (
        pd.read_csv(folder / "progress.csv").drop(columns=times, errors="ignore") for folder in (one, two)
    )
    pd.testing.assert_frame_equal(a, b)
    mine, theirs = (load_agent(folder / "agent").members[0] for folder in (one, two))
    assert mine.safety == theirs.safety
    for name, weights in mine.weights.items():
        np.testing.assert_array_equal(weights, theirs.weights[name])
    info = json.loads((two / "train.json").read_text())
    assert info["finished"]
    assert len(info["resumed"]) == 1


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (*AGENTS["ppo"], "total_timesteps=100000000", "eval_every=100000000", "checkpoint_every=1000")
    text = killed_run(out, (*TINY, *settings), 1, signal.SIGINT)
    last = text.strip().splitlines()[-1]
    assert last.startswith("virtgym train: stopped at")
    assert f"out={out}" in last
    assert "Traceback" not in text
    assert (out / "checkpoint.npz").exists()


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def half_done(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a checkpoint: a training that broke down after its first ones."""
    from virtgym.experiments.training.placement_task import PlacementTrainTask

    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(PlacementTrainTask, "compare_with_rules", fail)
        assert train(*PPO, f"out={out}") == 1
    assert (out / "checkpoint.npz").exists()


def test_a_checkpoint_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mark = tmp_path / "run", tmp_path / "mark"
    half_done(out, monkeypatch)
    good = (out / "checkpoint.npz").read_bytes()
    np.savez(out / "checkpoint.npz", state=np.array([Bomb(mark)], dtype=object))
    for data in ((out / "checkpoint.npz").read_bytes(), pickle.dumps(Bomb(mark)), good[:1000]):
        (out / "checkpoint.npz").write_bytes(data)
        capsys.readouterr()
        assert train(*PPO, f"out={out}") == 2
        (line,) = errors(capsys)
        assert f"{out / 'checkpoint.npz'}: damaged" in line
    assert not mark.exists()
    (out / "checkpoint.npz").write_bytes(good)
    assert train(*PPO, f"out={out}") == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["agent=pop"], ["agent=pop", "did you mean ppo?", "maskable_ppo"]),
        (["agent=ppo", "agent.learnin_rate=1"], ["agent.learnin_rate", "did you mean learning_rate?"]),
        (["agent=dqn", "agent.n_epochs=1"], ["agent.n_epochs", "no such key", "buffer_size"]),
        (["agent.gamma=high"], ["agent.gamma", "high", "Float"]),
        (["agent.gamma=1.5"], ["agent.gamma=1.5", "at most 1"]),
        (["agent.network=cnn"], ["agent.network=cnn", "equivariant, mlp"]),
        (["agent.hidden=[8,9]"], ["hidden=[8, 9]", "two layers of the same width"]),
        (["totaltimesteps=5"], ["totaltimesteps", "did you mean total_timesteps?"]),
        (["num_envs=0"], ["num_envs=0", "at least 1"]),
        (["reward=money"], ["reward=money", "delay"]),
        (["scenario=planetlab_cloudsim3"], ["is of kind replica", "kind placement, cluster"]),
        (["scenario.trainrows=[0,5]"], ["scenario.trainrows", "did you mean train_rows?"]),
        (["initial=no/such/agent"], ["no/such/agent", "no such file"]),
        (["import=no/such.zip", "agent=ppo"], ["import=no/such.zip", "cannot be read"]),
        (["seed=0,1"], ["seed=0,1", "several values"]),
        (["hydra/launcher=jobib"], ["hydra/launcher=jobib", "no such hydra/launcher"]),
        (["agent=dqn", "scenario.placement.allow_reject=true"], ["agent=dqn", "use agent=maskable_ppo"]),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = [a for a in TINY if a.split("=")[0] not in {b.split("=")[0] for b in arguments}]
    if any(a == "scenario=planetlab_cloudsim3" for a in arguments):
        keep = [a for a in keep if not a.startswith("scenario.")]
    with (
        pytest.warns(UserWarning, match="may run any code")
        if arguments[0].startswith("import")
        else _nothing()
    ):
        assert main(["train", *keep, *arguments, f"out={tmp_path / 'run'}"]) == 2
    (line,) = errors(capsys)
    assert line.startswith("virtgym train: ")
    for part in parts:
        assert part in line


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_training_begins_with_the_weights_of_another_agent(tmp_path: Path, ppo: Path) -> None:
    settings = (*PPO, "total_timesteps=0", f"initial={ppo / 'agent'}")
    assert train(*settings, f"out={tmp_path}") == 0
    a, b = (load_agent(folder / "agent").members[0].weights for folder in (ppo, tmp_path))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_an_agent_keeps_the_observation_that_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other columns are neither begun with nor gone on with; either agent is compared with the rules."""
    for observation in ("basic", "slots"):
        out, wrong = tmp_path / observation, {"basic": "slots", "slots": "basic"}[observation]
        settings = (*PPO, f"agent.observation={observation}")
        assert train(*settings, f"out={out}") == 0
        agent = make_policy(str(out / "agent"))
        assert getattr(agent, "observation", None) == observation
        rows = pd.read_csv(out / "validation.csv")
        assert rows.loc[rows["policy"] == str(out / "agent"), "total_wait_s"].notna().all()
        other = (*PPO, f"agent.observation={wrong}", "total_timesteps=0")
        capsys.readouterr()
        assert train(*other, f"initial={out / 'agent'}", f"out={out}_wrong") == 2
        assert f"use agent.observation={observation}" in errors(capsys)[-1]
        assert train(*other, f"out={out}") == 2
        assert f"agent.observation: {observation} there, {wrong} now" in errors(capsys)[-1]
    assert train(*PPO, "agent.observation=all", f"out={tmp_path / 'no'}") == 2
    assert "agent.observation=all: must be one of basic, slots" in errors(capsys)[-1]


def save_zip(path: Path, policy: Any, make: Callable[..., Any], **fields: Any) -> Any:
    from virtgym.envs.sb3 import PlacementVecEnv

    model = make(policy, PlacementVecEnv(2, flat=True), **fields)
    model.save(path)
    return model


def test_sb3_zips_are_imported_with_a_warning_only(tmp_path: Path) -> None:
    """Also those of SB3's own MlpPolicy; the agent then does what the model does."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3 import PPO as Sb3Ppo

    from virtgym.policies.learned.sb3_policies import ActorCriticNetPolicy

    kinds: list[tuple[Any, ...]] = [
        (
            "MlpPolicy",
            Sb3Ppo,
            ("agent=ppo", "agent.network=mlp", "agent.activation=tanh", "agent.hidden=[64,64]"),
        ),
        (
            "MlpPolicy",
            DQN,
            ("agent=dqn", "agent.network=mlp", "agent.activation=relu", "agent.hidden=[64,64]"),
        ),
        (ActorCriticNetPolicy, Sb3Ppo, ("agent=ppo", "agent.hidden=[64,64]")),
    ]
    for i, (policy, make, settings) in enumerate(kinds):
        model = save_zip(tmp_path / f"{i}.zip", policy, make)
        out = tmp_path / str(i)
        others = ("total_timesteps=0", "agent.observation=basic")
        with pytest.warns(UserWarning, match="may run any code"):
            assert train(*settings, *others, f"import={tmp_path / f'{i}.zip'}", f"out={out}") == 0
        agent: Any = make_policy(str(out / "agent"))
        with pytest.warns(UserWarning, match="may run any code"):
            zipped: Any = make_policy(str(tmp_path / f"{i}.zip"))
        x = np.random.default_rng(0).random((9, model.observation_space.shape[0]), dtype=np.float32)
        mask = np.ones((9, 10), dtype=bool)
        player = agent._players[0]
        scores = player.net.scores(x)
        assert scores.shape == mask.shape
        np.testing.assert_array_equal(zipped._players[0].net.scores(x), scores)
        with torch.no_grad():
            if make is DQN:
                want = model.q_net(torch.from_numpy(x)).numpy()
            elif policy == "MlpPolicy":
                want = model.policy.action_net(
                    model.policy.mlp_extractor.forward_actor(torch.from_numpy(x))
                ).numpy()
            else:
                want = model.policy.net.scores(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(scores, want, atol=1e-5)


@pytest.mark.parametrize("network", ["mlp", "equivariant"])
def test_options_of_the_protocol_can_be_learned(network: str, tmp_path: Path) -> None:
    """Rejection and a queue window add actions, and the window adds columns."""
    settings = (
        *("agent=maskable_ppo", "agent.n_steps=16", "agent.batch_size=64", f"agent.network={network}"),
        *("scenario.placement.allow_reject=true", "scenario.placement.queue_window=3"),
    )
    out = tmp_path / "run"
    assert train(*settings, f"out={out}") == 0
    rows = pd.read_csv(out / "validation.csv")
    mine = rows[rows["policy"] == str(out / "agent")]
    assert mine["finished"].all()
    assert load_agent(out / "agent").members[0].architecture.n_extra == 2


@dataclass
class CoinConfig(AgentConfig):
    """Settings of a learner that is none of ours."""

    luck: float = 1.0


class CoinLearner:
    """Draws weights at random: the least that the protocol of learners asks for."""

    def __init__(self, task: PlacementTrainTask, config: CoinConfig) -> None:
        self.timesteps = 0
        self.rng = np.random.default_rng(task.seed)
        sizes = Layout.current().sizes
        self.architecture = Architecture(config.network, *sizes, hidden=tuple(config.hidden))
        self.learn_chunk(0)
        self.timesteps = 0
        self.luck = config.luck

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        shapes = self.architecture.shapes()
        self.weights = {k: self.rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
        self.timesteps += 100
        return {"luck": 1.0}

    def snapshot(self) -> tuple[Member, ...]:
        return (Member(self.architecture, Layout.current(), self.weights),)

    def arrays(self) -> tuple[dict[str, Any], dict[str, Any]]:
        state = {"timesteps": self.timesteps, "rng": self.rng.bit_generator.state}
        return dict(self.weights), state

    def restore(self, arrays: dict[str, Any], state: dict[str, Any]) -> None:
        self.weights, self.timesteps = arrays, state["timesteps"]
        self.rng.bit_generator.state = state["rng"]


@pytest.fixture
def forget_coin() -> Iterator[None]:
    """Take what Hydra keeps of it away: a sweep's processes get all that, and cannot import this file."""
    yield
    kept = ConfigStore.instance().repo["agent"]
    for name in [name for name in kept if name.startswith("coin")]:
        del kept[name]


@pytest.mark.usefixtures("forget_coin")
@pytest.mark.parametrize("name", ["coin", "coin:KIND"])
def test_a_learner_of_ones_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_agents.AGENTS, "_entries", dict(train_agents.AGENTS._entries))
    module: Any = types.ModuleType("coin")
    module.make = CoinLearner
    module.KIND = train_agents.AgentKind(CoinConfig, "coin:make")
    monkeypatch.setitem(sys.modules, "coin", module)
    train_agents.AGENTS.register("coin", "tosses", module.KIND)
    assert train(f"agent={name}", "agent.luck=2", f"out={tmp_path / 'run'}") == 0
    progress = pd.read_csv(tmp_path / "run" / "progress.csv")
    assert len(progress) == 4
    assert progress["luck"].iloc[-1] == 1.0
    assert load_agent(tmp_path / "run" / "agent").training["agent"]["luck"] == 2.0
    capsys.readouterr()
    assert train(f"agent={name}", "agent.lock=2", f"out={tmp_path / 'other'}") == 2
    assert "did you mean luck?" in errors(capsys)[0]
    assert train(f"agent={name}", f"initial={tmp_path / 'run' / 'agent'}", f"out={tmp_path / 'third'}") == 2
    assert "cannot begin with the weights of another" in errors(capsys)[0]


def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "virtgym.experiments.training.sb3", raising=False)
    monkeypatch.delitem(sys.modules, "virtgym.policies.learned.sb3_algorithms", raising=False)
    assert train(*PPO, f"out={tmp_path / 'run'}") == 2
    (line,) = errors(capsys)
    assert "agent=ppo: needs stable_baselines3" in line
    assert "virtgym[rl]" in line


def test_a_zip_in_place_of_an_agent_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(Exception, match=r"agent\.json: no such file"):
        make_policy(str(folder))


def test_defaults_of_every_agent_compose() -> None:
    assert set(train_agents.AGENTS) >= {"ppo", "a2c", "dqn", "maskable_ppo"}
    for name in train_agents.AGENTS:
        kind = train_agents.agent_kind(name).tasks[0]
        scenario = {"placement": "huawei_placement", "cluster": "small", "rescheduling": "rescheduling"}[kind]
        run = compose_training([f"agent={name}", f"scenario={scenario}"])
        assert run.agent.description
        default = train_agents.default_config(name)
        changed = train_agents.defaults_for(type(default), kind)
        assert asdict(run.agent) == {**asdict(default), **changed}
    run = compose_training([])
    assert run.agent.name == "maskable_ppo"
    assert run.scenario["train_rows"] == [0, 50000]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ("agent.hidden=[1000000,1000000]", "hidden=[1000000, 1000000]"),
        ("agent.network=mlp agent.hidden=[100000,100000]", "at most 16,777,216 are possible"),
        ("agent.hidden=[9223372036854775807,9223372036854775807]", "must be at most 2^53"),
        ("num_envs=1000000000", "num_envs x agent.n_steps: the training needs about"),
        ("agent.n_steps=1000000000000", "num_envs x agent.n_steps: the training needs about"),
        ("agent=a2c agent.n_steps=1000000000000", "num_envs x agent.n_steps: the training needs about"),
        ("agent=dqn agent.buffer_size=1000000000000000", "agent.buffer_size: the training needs about"),
        ("agent=dqn agent.batch_size=1000000000000", "agent.batch_size: the training needs about"),
        ("agent=rollout_iteration agent.states=100000000000", "the training needs about"),
        ("agent=rollout_iteration agent.probability=1e-300", "agent.states / agent.probability"),
        ("agent=rollout_iteration agent.population=1000000000", "agent.population: the training needs"),
        ("agent=rollout_iteration agent.selection_windows=1000000000000", "agent.selection_windows: the"),
        ("agent=rollout_iteration agent.horizon=1" + "0" * 30, "agent.horizon=1e+30: must be at most 2^53"),
        ("total_timesteps=1" + "0" * 400, "total_timesteps: must be at most 2^53"),
        ("scenario.placement.n_hosts=1000000000", "observations of 60,000,000,025 numbers"),
        ("scenario.placement.queue_window=1000000000000", "queue_window=1000000000000"),
        ("agent.hidden=[]", "must be 1 to 64 widths"),
        ("initial=/dev/zero", "/dev/zero/agent.json: no such file"),
        ("scenario=null", "scenario=null: no such scenario"),
    ],
)
def test_what_asks_for_too_much_is_refused_before_it_is_made(
    overrides: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(*overrides.split(), f"out={out}") == 2
    (line,) = errors(capsys)
    assert text in line
    assert not out.exists()


def test_a_refused_training_does_not_block_the_corrected_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where only the learner refuses, which is made last."""
    out = tmp_path / "run"
    for wrong in (f"initial={tmp_path / 'none'}", "agent.batch_size=1"):
        assert train(*PPO, wrong, f"out={out}") == 2
        assert not out.exists()
    assert train(*PPO, "total_timesteps=0", f"out={out}") == 0


@pytest.mark.parametrize("name", ["config.yaml", "progress.csv", "validation.csv", "agent", "run.json"])
def test_files_of_somebody_else_are_not_replaced(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    assert train(*PPO, f"out={tmp_path}") == 2
    (line,) = errors(capsys)
    assert f"out={tmp_path}" in line
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_validation_prefers_no_agent_that_leaves_requests_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A game in which nobody waits because nobody is placed costs more than any that is played."""
    from dataclasses import replace

    from virtgym.envs.scenarios.placement import build_placement_scenario
    from virtgym.experiments.run.placement_rollout import play_windows
    from virtgym.experiments.training import placement_task as train_validation
    from virtgym.policies.learned.comparisons import STUCK_S

    validation = train_validation.Validation(build_placement_scenario("demo_placement", seed=0), 3600.0)
    layout = Layout.current("basic")
    network = Architecture("equivariant", *layout.sizes, hidden=(8, 8))
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in network.shapes().items()}
    members = (Member(network, layout, weights),)
    played = validation(members)

    def give_up(*args: Any, **options: Any) -> Any:
        found = play_windows(*args, **options)
        return replace(found, total_wait_s=0.0 * found.total_wait_s, n_placed=0 * found.n_placed)

    monkeypatch.setattr(train_validation, "play_windows", give_up)
    assert validation(members) == STUCK_S > played
