"""The cluster environment as Gymnasium and Stable-Baselines3 see it: checkers, copies, seeds, vectors."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

import virtgym.envs
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.global_columns import GLOBAL_COLUMNS
from virtgym.envs.cluster.host_columns import HOST_COLUMNS
from virtgym.envs.cluster.knobs import KnobCodec
from virtgym.envs.cluster.vm_columns import VM_COLUMNS
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.wrappers import FlatObservation

ID = "virtgym/Cluster-v0"
HOUR = {"horizon_s": 3600.0}
FORMS = [
    pytest.param({}, id="unrolled"),
    pytest.param({"resample_trace": True}, id="unrolled-resampled"),
    pytest.param({"actions": "knobs"}, id="knobs"),
]


class StubPolicy:
    """Moves as many of the first VMs as the knob says to random other hosts."""

    KNOBS: ClassVar[Mapping[str, tuple[float, float, float]]] = {"moves": (0.0, 4.0, 1.0)}
    arrival = "worst_fit"

    def __init__(self) -> None:
        self.moves = 0

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        self.rng = rng

    def set_knobs(self, values: Mapping[str, float]) -> None:
        self.moves = round(values["moves"])

    def plan(self, view: ClusterView) -> Decisions:
        hosts = (view.state.vm_host[: self.moves] + self.rng.integers(1, 9, self.moves)) % view.n_hosts
        return Decisions(move_vm=np.arange(self.moves, dtype=np.int32), move_host=hosts.astype(np.int32))


def equal(a: Any, b: Any) -> None:
    """Two results of step (or reset) are equal to the last bit."""
    for x, y in zip(a, b, strict=True):
        np.testing.assert_equal(x, y)


def play(env: gym.Env[Any, Any], steps: int, seed: int) -> list[Any]:
    """Random actions, legal ones where the form of actions has masks."""
    rng = np.random.default_rng(seed)
    inner = env.unwrapped
    assert isinstance(inner, ClusterEnv)
    results: list[Any] = []
    for _ in range(steps):
        if inner.knobs is None:
            legal = np.flatnonzero(inner.action_masks())
            action: Any = 0 if legal[0] == 0 and rng.random() < 0.1 else int(rng.choice(legal))
        else:
            action = rng.uniform(-1, 1, inner.action_space.shape or ()).astype(np.float32)
        results.append(env.step(action))
        if results[-1][3]:
            results.append(env.reset())
    return results


@pytest.mark.parametrize("kwargs", FORMS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_continue_identically(kwargs: dict[str, Any], duplicate: Callable[[Any], Any]) -> None:
    env = gym.make(ID, scenario_overrides=HOUR, render_mode="rgb_array", **kwargs)
    env.reset(seed=4)
    play(env, 37, seed=0)
    twin = duplicate(env)
    np.testing.assert_array_equal(twin.unwrapped.action_masks(), env.unwrapped.action_masks())  # type: ignore[attr-defined]
    for a, b in zip(play(env, 120, seed=1), play(twin, 120, seed=1), strict=True):
        equal(a, b)
    np.testing.assert_array_equal(env.render(), twin.render())
    before = twin.unwrapped.sim.digest()
    play(env, 5, seed=2)
    assert twin.unwrapped.sim.digest() == before, "a copy shares no state"


@pytest.mark.parametrize(
    "kwargs", [*FORMS, pytest.param({"actions": "knobs", "knobs_policy": StubPolicy}, id="stub")]
)
def test_equal_seeds_give_equal_episodes(kwargs: dict[str, Any]) -> None:
    runs = []
    for _ in range(2):
        env = gym.make(ID, scenario_overrides=HOUR, **kwargs)
        runs.append([env.reset(seed=9), *play(env, 150, seed=1)])
    for a, b in zip(*runs, strict=True):
        equal(a, b)


def test_another_seed_gives_another_trace_only_where_traces_are_drawn() -> None:
    fixed = ClusterEnv(scenario_overrides=HOUR)
    first, second = fixed.reset(seed=1)[0], fixed.reset(seed=2)[0]
    np.testing.assert_array_equal(first["vms"], second["vms"])
    drawn = ClusterEnv(scenario_overrides=HOUR, resample_trace=True)
    seen = [drawn.reset(seed=1)[0], drawn.reset()[0], drawn.reset(seed=2)[0]]
    assert not np.array_equal(seen[0]["vms"], seen[1]["vms"])
    assert not np.array_equal(seen[0]["vms"], seen[2]["vms"])
    again, info = drawn.reset(seed=1)
    np.testing.assert_array_equal(seen[0]["vms"], again["vms"])
    # The drawn scenario can be built again by its seed.
    rebuilt = ClusterEnv(scenario_overrides=HOUR, scenario_seed=info["scenario_seed"])
    np.testing.assert_array_equal(rebuilt.reset()[0]["vms"], again["vms"])


def test_a_trace_from_a_file_cannot_be_drawn_anew(tmp_path: Any) -> None:
    for index in range(3):
        (tmp_path / f"vm-{index}").write_text("10\n" * 288)
    overrides = {"trace.path": str(tmp_path), "trace.format": "planetlab", "trace.options": {}}
    with pytest.raises(ConfigError, match=r"env\.resample_trace: .* only generated traces"):
        ClusterEnv("planetlab", scenario_overrides=overrides, resample_trace=True)


def test_knobs_set_the_policy_and_ask_for_its_arrival_rule() -> None:
    env = ClusterEnv(scenario_overrides=HOUR, actions="knobs", knobs_policy=StubPolicy)
    env.reset(seed=0)
    assert env.sim.config.arrival == "worst_fit"
    assert env.knobs is not None
    for action, moves in ((-1.0, 0), (0.0, 2), (1.0, 4), (7.0, 4)):
        *_, info = env.step(np.array([action], dtype=np.float32))
        assert info["step_metrics"]["migrations"] + len(info.get("refusals", [])) == moves
    np.testing.assert_allclose(env.knobs.codec.encode(), [-0.5])
    with pytest.raises(ValueError, match=r"must be 1 finite numbers \(moves\)"):
        env.step(np.array([np.nan]))
    assert (
        ClusterEnv(actions="knobs", knobs_policy=StubPolicy, arrival="best_fit").sim.config.arrival
        == "best_fit"
    )


def test_knob_codec_inverts_itself() -> None:
    codec = KnobCodec({"a": (0.0, 10.0, 5.0), "b": (-1.0, 3.0, 3.0)})
    assert codec.decode(codec.encode()) == {"a": 5.0, "b": 3.0}
    assert codec.decode(codec.encode({"a": 2.5})) == {"a": 2.5, "b": 3.0}
    assert codec.decode(np.array([-5.0, 0.0])) == {"a": 0.0, "b": 1.0}
    with pytest.raises(ValueError, match="no such knob: c; there are: a, b"):
        codec.encode({"c": 1.0})
    with pytest.raises(ConfigError, match=r"knob a: 5\.0 must lie in 7\.0\.\.9\.0"):
        KnobCodec({"a": (7.0, 9.0, 5.0)})


def test_shipped_knobs_change_what_happens() -> None:
    totals = []
    for value in (-1.0, 1.0):
        env = ClusterEnv(scenario_overrides={"horizon_s": 21600.0}, actions="knobs")
        env.reset(seed=0)
        over = False
        while not over:
            *_, over, info = env.step(np.full(env.action_space.shape or (), value, dtype=np.float32))
        totals.append(info["metrics"])
    assert totals[0]["energy_kwh"] != totals[1]["energy_kwh"]


def test_flat_observation_holds_the_tables_in_order() -> None:
    env = gym.make(ID, scenario_overrides=HOUR, tables=True)
    flat = FlatObservation(env)
    vector, _ = flat.reset(seed=0)
    tables, _ = env.reset(seed=0)
    assert vector.shape == (10 * len(HOST_COLUMNS) + 50 * len(VM_COLUMNS) + len(GLOBAL_COLUMNS),)
    assert flat.observation_space.contains(vector)
    np.testing.assert_array_equal(vector[:220].reshape(10, 22), tables["hosts"])
    np.testing.assert_array_equal(vector[-len(GLOBAL_COLUMNS) :], tables["globals"])
    np.testing.assert_array_equal(flat.action_masks(), env.unwrapped.action_masks())  # type: ignore[attr-defined]


def test_make_vec_steps_several_at_once() -> None:
    venv: Any = virtgym.envs.make_vec(
        ID, num_envs=3, scenario_overrides=HOUR, resample_trace=True, tables=True
    )
    observations, _ = venv.reset(seed=[1, 2, 3])
    assert observations["hosts"].shape == (3, 10, len(HOST_COLUMNS))
    assert not np.array_equal(observations["vms"][0], observations["vms"][1])
    assert venv.unwrapped.action_masks().shape == (3, 1 + 50 + 2 * 10)
    for _ in range(12):
        _, rewards, _, truncated, _ = venv.step(np.zeros(3, dtype=np.int64))
    assert (rewards < 0).all()
    assert truncated.all()
    venv.close()


def test_runs_in_processes_of_its_own() -> None:
    make = functools.partial(gym.make, f"virtgym.envs:{ID}", scenario_overrides=HOUR)
    venv = gym.vector.AsyncVectorEnv([make, make], context="spawn")
    observations, _ = venv.reset(seed=0)
    for _ in range(12):
        observations, _, _, truncated, infos = venv.step(np.zeros(2, dtype=np.int64))
    assert truncated.all()
    np.testing.assert_array_equal(observations["vms"][0], observations["vms"][1])
    assert infos["metrics"]["energy_kwh"][0] > 0
    venv.close()


def test_runs_in_stable_baselines_processes() -> None:
    vec = pytest.importorskip("stable_baselines3.common.vec_env")
    make = functools.partial(gym.make, f"virtgym.envs:{ID}", scenario_overrides=HOUR)
    venv = vec.SubprocVecEnv([make, make], start_method="forkserver")
    venv.reset()
    masks = venv.env_method("action_masks")
    assert masks[0].shape == (71,)
    for _ in range(12):
        _, _, dones, infos = venv.step(np.zeros(2, dtype=np.int64))
    assert dones.all()
    assert infos[0]["terminal_observation"]["hosts"].shape == (10 * len(HOST_COLUMNS),)
    assert infos[0]["TimeLimit.truncated"]
    venv.close()


@pytest.mark.parametrize("flat", [True, False])
def test_maskable_ppo_trains_on_it(flat: bool) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    env: gym.Env[Any, Any] = gym.make(ID, scenario_overrides=HOUR)
    env = FlatObservation(env) if flat else env
    policy = "MlpPolicy" if flat else "MultiInputPolicy"
    model = contrib.MaskablePPO(policy, env, n_steps=64, batch_size=32, n_epochs=2, seed=0)
    model.learn(256)
    observation, _ = env.reset(seed=0)
    for _ in range(20):
        masks = env.get_wrapper_attr("action_masks")()
        action, _ = model.predict(observation, action_masks=masks, deterministic=True)
        observation, *_, info = env.step(action)
        assert "illegal_action" not in info


def test_importing_the_environment_loads_neither_torch_nor_policies() -> None:
    code = (
        "import sys, gymnasium as gym, virtgym.envs\n"
        "assert 'numba' not in sys.modules, 'registration is lazy'\n"
        "gym.make('virtgym/Cluster-v0').reset(seed=0)\n"
        "assert 'torch' not in sys.modules and 'virtgym.policies' not in sys.modules\n"
        "assert virtgym.envs.ClusterEnv and 'make_vec' in dir(virtgym.envs)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        virtgym.envs.Nothing  # noqa: B018


def test_after_a_single_order_the_view_is_what_showing_all_of_it_gives() -> None:
    scene = {"hosts.0.count": 4, "hosts.1.count": 4, "trace.options": {"n_vms": 40}, "memory": "ignored"}
    env = ClusterEnv("planetlab", scenario_overrides=scene, max_decisions_per_interval=40)
    env.reset(seed=0)
    rng = np.random.default_rng(1)
    short = moving = 0
    for _ in range(3000):
        legal = np.flatnonzero(env.action_masks())
        env.step(int(rng.choice(legal[:2] if env.chosen_vm >= 0 else legal)))  # a few hosts fill up
        seen = env.sim._blocks.shown.copy()
        short += env.view.state.counters.short > 0
        moving += env.view.state.counters.moving > 0
        env.sim.show()
        np.testing.assert_array_equal(env.sim._blocks.shown, seen)
    assert min(short, moving) > 0
