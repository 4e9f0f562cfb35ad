"""The ``candidates`` form as an environment: checkers, limits, durations, plug-ins, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from virtgym.envs.cluster.candidates.columns import CANDIDATE_COLUMNS
from virtgym.envs.cluster.candidates.plugins import CANDIDATES, register_candidate
from virtgym.envs.cluster.candidates.settings import KINDS, OWN, PLAN, CandidateSettings
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions

SHORT: dict[str, Any] = {"trace.options.n_samples": 24}
FULL: dict[str, Any] = {**SHORT, "overhead.enabled": True, "memory": "multiplexed"}


def make(**options: Any) -> ClusterEnv:
    options.setdefault("scenario_overrides", SHORT)
    return ClusterEnv("small", actions="candidates", **options)


def play(env: ClusterEnv, seed: int) -> list[Any]:
    """All that is told in an episode of random choices."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    told: list[Any] = []
    over = False
    while not over:
        told += [observation["candidates"], observation["globals"]]
        action = int(rng.choice(np.flatnonzero(env.action_masks())))
        observation, reward, _, over, info = env.step(action)
        told += [reward, info["duration"]]
    return told


def test_shapes_and_the_mask_in_the_observation() -> None:
    n = CandidateSettings().n
    for tables in (False, True):
        env = make(tables=tables)
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        rows = observation["candidates"].reshape(n, len(CANDIDATE_COLUMNS))
        assert (observation["candidates"].ndim == 2) == tables
        offered = [column.name for column in CANDIDATE_COLUMNS].index("offered")
        np.testing.assert_array_equal(rows[:, offered] == 1.0, env.action_masks())
        assert not rows[~env.action_masks()].any()


@pytest.mark.parametrize("overrides", [SHORT, FULL], ids=["simple", "full"])
def test_the_same_seed_tells_the_same(overrides: dict[str, Any]) -> None:
    options: dict[str, Any] = {"scenario_overrides": overrides, "max_decisions_per_interval": 3}
    one, two = make(**options), make(**options)
    for told in zip(play(one, 3), play(two, 3), strict=True):
        np.testing.assert_array_equal(*told)
    other = play(one, 4)
    assert any(not np.array_equal(a, b) for a, b in zip(other, play(two, 3)))


def test_time_passes_after_as_many_choices_as_allowed() -> None:
    env = make()
    env.reset(seed=0)
    assert env.max_decisions_per_interval == 1  # ten hosts
    k = int(np.flatnonzero(env.action_masks())[1])
    info = env.step(k)[4]
    assert (info["duration"], info["time_s"]) == (1.0, 300.0)
    assert "forced_stop" not in info
    env = make(max_decisions_per_interval=2)
    env.reset(seed=0)
    durations = [env.step(int(np.flatnonzero(env.action_masks())[1]))[4]["duration"] for _ in range(2)]
    assert durations == [0.0, 1.0]
    assert env.step(0)[4]["duration"] == 1.0


def test_what_is_not_offered_is_illegal_and_changes_nothing() -> None:
    env = make(max_decisions_per_interval=2, reward={"illegal": -1.0})
    env.reset(seed=0)
    illegal = int(np.flatnonzero(~env.action_masks())[0])
    for action in (illegal, -1, env.candidates.n):
        before = env.sim.digest()
        _, reward, _, _, info = env.step(action)
        assert info["illegal_action"].startswith("the candidate is not offered")
        if info["duration"] == 0.0:
            assert (reward, env.sim.digest()) == (-1.0, before)


def test_every_form_tells_how_much_time_passed() -> None:
    knobs = ClusterEnv("small", scenario_overrides=SHORT, actions="knobs")
    knobs.reset(seed=0)
    assert knobs.step(knobs.action_space.sample())[4]["duration"] == 1.0
    assert knobs.step(Decisions())[4]["duration"] == 1.0
    env = ClusterEnv("small", scenario_overrides=SHORT)
    env.reset(seed=0)
    vm = int(np.flatnonzero(env.action_masks())[1])
    assert env.step(vm)[4]["duration"] == 0.0
    assert env.step(env.codec.n)[4]["duration"] == 0.0  # illegal
    assert env.step(0)[4]["duration"] == 0.0  # the VM is let go
    assert env.step(0)[4]["duration"] == 1.0


def test_observing_or_not_the_same_happens() -> None:
    one, two = make(), make(observe=False)
    rng = np.random.default_rng(0)
    one.reset(seed=1)
    assert not two.reset(seed=1)[0]["candidates"].any()
    for _ in range(12):
        np.testing.assert_array_equal(one.action_masks(), two.action_masks())
        action = int(rng.choice(np.flatnonzero(one.action_masks())))
        assert one.step(action)[1] == two.step(action)[1]
    assert one.sim.digest() == two.sim.digest()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_alike(clone: Any) -> None:
    env = make(max_decisions_per_interval=2, candidates={"plans": ["dpm"]})
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(7):
        env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
    twin = clone(env)
    for _ in range(9):
        np.testing.assert_array_equal(env.action_masks(), twin.action_masks())
        action = int(rng.choice(np.flatnonzero(env.action_masks())))
        a, b = env.step(action), twin.step(action)
        np.testing.assert_array_equal(a[0]["candidates"], b[0]["candidates"])
        assert a[1:3] == b[1:3]


@pytest.mark.parametrize("overrides", [SHORT, FULL], ids=["simple", "full"])
@pytest.mark.parametrize("name", ["dpm", "drs", "dpm_ortools", "platform"])
def test_always_choosing_a_policys_plan_is_that_policy(name: str, overrides: dict[str, Any]) -> None:
    from virtgym.policies.registry import make_policy

    env = make(candidates={"plans": [name]}, scenario_overrides=overrides)
    env.reset(seed=0)
    k = env.candidates.n - 1
    assert KINDS[PLAN] == "plan"
    assert env.form.candidates.kind[k] == PLAN
    alone = ClusterEnv("small", scenario_overrides=overrides)
    policy = make_policy(name)
    alone.reset(seed=0)
    policy.reset(alone.view, np.random.default_rng(0))
    over = False
    planned = 0
    while not over:
        offered = bool(env.action_masks()[k])
        planned += offered
        over = env.step(k if offered else 0)[3]
        alone.step(policy.predict(None)[0])
    assert env.sim.digest() == alone.sim.digest() or name == "platform"
    assert planned > 0
    assert env.sim.state.totals.illegal == 0


class Evacuate:
    """Asks for the moves of all VMs of one host, legal or not."""

    def __init__(self) -> None:
        self.episodes = 0

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        self.episodes += 1

    def __call__(self, view: Any) -> Decisions:
        vms = np.flatnonzero(view.state.vm_host == 0).astype(np.int32)
        to = np.arange(len(vms), dtype=np.int32) % view.n_hosts
        return Decisions(move_vm=vms, move_host=to)


def nothing_at_all(view: Any) -> None:
    return None


def test_kinds_of_ones_own() -> None:
    before = dict(CANDIDATES._entries)
    try:
        register_candidate("test_evacuate", "of a test", Evacuate)
        register_candidate("test_nothing", "of a test", nothing_at_all)
        env = make(candidates={"own": ["test_evacuate", "test_nothing"]}, tables=True)
        observation, _ = env.reset(seed=0)
        k = env.candidates.n - 2
        assert env.form.candidates.kind[k:].tolist() == [OWN, OWN]
        assert env.action_masks()[k:].tolist() == [True, False]
        asked = Evacuate()(env.view)
        legal = env.form.decisions(k)
        assert 0 < len(legal) < len(asked)  # who is to stay where it is, or does not fit, is left out
        names = [column.name for column in CANDIDATE_COLUMNS]
        assert observation["candidates"][k][names.index("is_own")] == 1.0
        info = env.step(k)[4]
        assert "illegal_action" not in info
        assert info["step_metrics"]["migrations"] == len(legal)
        assert "test_evacuate" in CANDIDATES
    finally:
        CANDIDATES._entries = before


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"relief": 1}, "env.candidates=relief: did you mean relieve"),
        ({"relieve": -1}, r"env.candidates.relieve=-1: must be a whole number"),
        ({"relieve": "x"}, r"env.candidates"),
        ({"fills": [0.0]}, r"env.candidates.fills=0.0: must be a positive number"),
        ({"fills": 1.0}, r"env.candidates.fills=1.0: must be a list"),
        ({"plans": ["dpmm"]}, "policy=dpmm: did you mean dpm"),
        ({"plans": ["first_fit"]}, "plans=first_fit: does not plan"),
        ({"own": ["nowhere:thing"]}, "env.candidates.own=nowhere:thing"),
        ({"balance": 4}, "env.candidates.balance=4: must be at most 3"),
        ([1], "env.candidates"),
    ],
)
def test_impossible_settings_name_the_key(candidates: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(candidates=candidates)
