"""A batch of clusters does, bit for bit, what single environments do one after the other."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import virtgym.envs
from virtgym.envs.cluster.batch import ClusterBatch
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.rewards import RewardTerm
from virtgym.envs.errors import ConfigError
from virtgym.envs.vector import ClusterVectorEnv

HOURS = {"horizon_s": 2700.0}
EVENTS = {
    **HOURS,
    "events": [{"at_s": 600.0, "maintenance": [0], "empty": 0}, {"at_s": 1500.0, "end_maintenance": [0]}],
}
FULL = {
    **HOURS,
    "hosts.0.count": 4,
    "hosts.1.count": 4,
    "trace.format": "synthetic",
    "trace.options": {"n_vms": 20, "churn": 0.5},
    "vm_types.3.profile": "web",
    "profiles.database.protected": True,
    "failures.model": "weibull",
}
KINDS = [
    pytest.param({"scenario_overrides": HOURS, "reward": {"illegal": -0.5, "migrations": -1.0}}, id="simple"),
    pytest.param({"scenario_overrides": EVENTS}, id="events"),
    pytest.param({"scenario": "suite/churn", "scenario_overrides": HOURS, "arrival": "policy"}, id="churn"),
    pytest.param({"scenario": "suite/ha_hot", "scenario_overrides": HOURS}, id="hot-standby"),
    pytest.param({"scenario": "suite/ha_cold", "scenario_overrides": HOURS}, id="cold-restart"),
    pytest.param({"scenario": "suite/upgrade", "scenario_overrides": HOURS}, id="upgrade"),
    pytest.param({"scenario": "planetlab_full", "scenario_overrides": FULL}, id="full"),
    pytest.param(
        {"scenario": "planetlab_full", "scenario_overrides": FULL, "resample_trace": True}, id="days"
    ),
]
FORMS = ("unrolled", "candidates")


def draw(rng: np.random.Generator, mask: NDArray[np.bool_], stop: float = 0.3) -> NDArray[np.int64]:
    """A random action per environment: legal, *stop* now and then, and some illegal ones."""
    weights = rng.random(mask.shape) * (mask | (rng.random(mask.shape) < 0.002))
    actions: NDArray[np.int64] = weights.argmax(1)
    return np.where(rng.random(len(mask)) < stop, 0, actions)


def without(infos: dict[str, Any], *names: str) -> dict[str, Any]:
    """Infos but for some."""
    return {key: value for key, value in infos.items() if key.removeprefix("_") not in names}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kwargs", KINDS)
def test_a_batch_is_single_environments(kwargs: dict[str, Any], form: str) -> None:
    n, rng = 3, np.random.default_rng(0)
    kwargs = {"scenario": "small", "actions": form, "max_decisions_per_interval": 6, **kwargs}
    batch = ClusterVectorEnv(n, infos=True, **kwargs)
    brief = ClusterVectorEnv(n, threads=2, **kwargs)
    singles = SyncVectorEnv([lambda: ClusterEnv(**kwargs)] * n, autoreset_mode=AutoresetMode.NEXT_STEP)
    ours: Any = batch.reset(seed=7)
    theirs: Any = singles.reset(seed=7)
    np.testing.assert_equal(ours, theirs)
    np.testing.assert_equal(brief.reset(seed=7), theirs)
    ended = passed = 0
    while ended < 4 or passed < 40:
        masks = batch.action_masks()
        np.testing.assert_array_equal(masks, singles.call("action_masks"))
        actions = draw(rng, masks)
        ours, theirs, told = batch.step(actions), singles.step(actions), brief.step(actions)
        np.testing.assert_equal(ours, theirs)
        np.testing.assert_equal(told[:4], theirs[:4])
        for name in ("duration", "illegal_action", "metrics", "time_s"):
            np.testing.assert_equal(told[4].get(name), theirs[4].get(name))
        digests = [env.unwrapped.sim.digest() for env in singles.envs]  # type: ignore[attr-defined]
        assert [env.sim.digest() for env in batch.envs] == digests
        ended += int(ours[3].sum())
        passed += int(ours[4]["duration"].sum())
    np.testing.assert_equal(batch.reset(), singles.reset())


def test_events_are_carried_out_in_a_batch() -> None:
    batch = ClusterVectorEnv(2, scenario_overrides=EVENTS)
    batch.reset(seed=0)
    for _ in range(3):
        batch.step([0, 0])
    assert [env.sim.state.host_maintenance[0] for env in batch.envs] == [1, 1]


def test_a_lane_alone_is_a_lane_among_others() -> None:
    one, many = (ClusterVectorEnv(n, scenario_overrides=HOURS) for n in (1, 5))
    one.reset(seed=3)
    many.reset(seed=[9, 8, 3, 7, 6])
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = draw(rng, many.action_masks())
        alone, among = one.step(actions[2:3]), many.step(actions)
        np.testing.assert_equal(
            {k: v[0] for k, v in alone[0].items()}, {k: v[2] for k, v in among[0].items()}
        )
        assert alone[1][0] == among[1][2]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"actions": "knobs"},
        {"render_mode": "rgb_array"},
        {"reward": {"virtgym.envs.cluster.rewards:term_of": 0.0}},
        {"actions": "candidates", "candidates": {"plans": ["dpm"]}},
        {"actions": "candidates", "candidates": {"plans": ["dpm"]}, "observe": False},
        {"actions": "candidates", "observe": False},
        {"observe": False},
        {"tables": True},
        {"actions": "candidates", "tables": True},
    ],
    ids=str,
)
def test_what_needs_python_at_every_step_is_the_same(kwargs: dict[str, Any], monkeypatch: Any) -> None:
    if "reward" in kwargs:
        term = RewardTerm("came", 0.0, "VMs that came", lambda d, c, illegal: d.arrivals / c.n_vms)
        monkeypatch.setattr("virtgym.envs.cluster.rewards.OWN_TERM", term, raising=False)
        kwargs = {"reward": {"virtgym.envs.cluster.rewards:OWN_TERM": -2.0}}
    kwargs = {"scenario_overrides": HOURS, **kwargs}
    batch = ClusterVectorEnv(2, infos=True, **kwargs)
    singles = SyncVectorEnv([lambda: ClusterEnv(**kwargs)] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    np.testing.assert_equal(batch.reset(seed=1), singles.reset(seed=1))
    rng = np.random.default_rng(0)
    for _ in range(40):
        if kwargs.get("actions") == "knobs":
            shape = batch.action_space.shape
            assert shape is not None
            actions: Any = rng.uniform(-1, 1, shape).astype(np.float32)
        else:
            np.testing.assert_array_equal(batch.action_masks(), singles.call("action_masks"))
            actions = draw(rng, batch.action_masks())
        np.testing.assert_equal(batch.step(actions), singles.step(actions))
    if "render_mode" in kwargs:
        np.testing.assert_equal(batch.render(), singles.render())


def play(batch: ClusterBatch, steps: int, seed: int) -> list[Any]:
    """What all lanes do under random actions, ended ones begun again."""
    rng, told = np.random.default_rng(seed), []
    for _ in range(steps):
        ended = batch.play(draw(rng, batch.masks))
        told += [batch.observations(), batch.masks.copy(), batch.books.reward.copy(), ended.copy()]
        told.append([env.sim.digest() for env in batch.lanes])
        for i in ended.tolist():
            told.append(batch.reset_lane(i))
    return told


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"scenario": "suite/ha_hot", "resample_trace": True, "actions": "candidates"},
        {"scenario_overrides": EVENTS},
        {"actions": "candidates", "candidates": {"plans": ["dpm"]}},
    ],
    ids=str,
)
def test_exported_and_pickled_batches_go_on_as_the_original(kwargs: dict[str, Any]) -> None:
    kwargs = {"scenario": "small", "scenario_overrides": HOURS, **kwargs}
    batch, other = ClusterBatch(3, **kwargs), ClusterBatch(3, **kwargs)
    for i in range(3):
        batch.reset_lane(i, seed=i)
    play(batch, 31, seed=0)
    saved = batch.export_state()
    twin = pickle.loads(pickle.dumps(batch))
    expected = play(batch, 40, seed=1)
    np.testing.assert_equal(play(twin, 40, seed=1), expected)
    other.import_state({name: array.copy() for name, array in saved.items()})
    np.testing.assert_equal(play(other, 40, seed=1), expected)
    with pytest.raises(ConfigError, match="checkpoint"):
        ClusterBatch(2, **kwargs).import_state(saved)


@pytest.mark.parametrize("form", ["unrolled", "candidates", "knobs"])
def test_gymnasium_makes_it(form: str) -> None:
    kwargs: dict[str, Any] = {"scenario_overrides": HOURS, "actions": form}
    envs = gym.make_vec("virtgym/Cluster-v0", num_envs=3, vectorization_mode="vector_entry_point", **kwargs)
    assert isinstance(envs.unwrapped, ClusterVectorEnv)
    assert isinstance(virtgym.envs.make_vec("virtgym/Cluster-v0", 2, **kwargs).unwrapped, ClusterVectorEnv)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observations, _ = envs.reset(seed=1)
    assert envs.observation_space.contains(observations)
    observations, rewards, *_ = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(observations)
    assert rewards.dtype == np.float64


def test_processes_of_gymnasium_show_the_same() -> None:
    kwargs: dict[str, Any] = {"scenario_overrides": HOURS}
    batch = ClusterVectorEnv(2, **kwargs)
    others = AsyncVectorEnv([lambda: gym.make("virtgym.envs:virtgym/Cluster-v0", **kwargs)] * 2)
    try:
        np.testing.assert_equal(batch.reset(seed=5)[0], others.reset(seed=5)[0])
        for _ in range(12):
            np.testing.assert_equal(batch.step([0, 0])[:4], others.step(np.zeros(2, np.int64))[:4])
    finally:
        others.close()


def test_some_environments_are_reset_and_the_others_stay() -> None:
    envs = ClusterVectorEnv(3, scenario_overrides=HOURS)
    envs.reset(seed=0)
    before, *_ = envs.step([0, 0, 0])
    which = np.array([False, True, False])
    after, infos = envs.reset(options={"reset_mask": which})
    assert infos["_time_s"].tolist() == which.tolist()
    for name in before:
        np.testing.assert_array_equal(before[name][[0, 2]], after[name][[0, 2]])
    assert [env.sim.time_s for env in envs.envs] == [300.0, 0.0, 300.0]


def test_observations_are_copies_unless_views_are_asked_for() -> None:
    for copy in (True, False):
        envs = ClusterVectorEnv(2, copy=copy, scenario_overrides=HOURS)
        observations, _ = envs.reset(seed=0)
        before = observations["globals"].copy()
        envs.step([0, 0])
        assert np.array_equal(observations["globals"], before) == copy


def test_misuse_is_refused() -> None:
    for wrong in ({"num_envs": 0}, {"threads": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            ClusterVectorEnv(**wrong)  # type: ignore[arg-type]
    envs = ClusterVectorEnv(2, scenario_overrides=HOURS)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step([0, 0])
    with pytest.raises(ConfigError, match="one number, or 2"):
        envs.reset(seed=[1])
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": [True]})
    envs.reset()
    with pytest.raises(ConfigError, match=r"one per environment, \(2,\)"):
        envs.step([0])
