"""Unrolled actions of the cluster environment: exact masks, illegal actions, equivalence with Decisions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from virtgym.envs.cluster.actions import ACTION_REASONS, ActionCodec
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.audit.checker import Auditor
from virtgym.envs.sim.decisions import REASONS, Decisions
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING

# Memory sizes whose sums round: three VMs of a third fill a host to the last bit.
CROWDED: dict[str, Any] = {
    "name": "crowded",
    "trace": {"format": "synthetic", "options": {"n_vms": 14, "n_samples": 12, "churn": 0.6}},
    "hosts": [
        {"name": "slow", "count": 3, "cores": 4, "core_mhz": 1800, "memory_mib": 4096, "boot_time_s": 400},
        {"name": "fast", "count": 2, "cores": 8, "core_mhz": 2400, "memory_mib": 8192, "boot_time_s": 0},
    ],
    "vm_types": [
        {"name": "third", "vcpus": 1, "vcpu_mhz": 2000, "memory_mib": 4096 / 3},
        {"name": "half", "vcpus": 2, "vcpu_mhz": 2000, "memory_mib": 2048},
        {"name": "large", "vcpus": 4, "vcpu_mhz": 1500, "memory_mib": 6000},
    ],
    "vm_assignment": "random",
    "arrival": "policy",
    "arrival_cpu_overcommit": 1.5,
}
RULES = [
    pytest.param({}, id="policy-binding"),
    pytest.param({"arrival": "best_fit", "auto_boot": False}, id="best_fit-binding"),
    pytest.param({"memory": "ignored", "arrival_core_speed": True}, id="policy-ignored"),
]


def make(overrides: dict[str, Any], **kwargs: Any) -> ClusterEnv:
    """The crowded cluster under some rules."""
    return ClusterEnv(CROWDED, scenario_overrides=overrides, resample_trace=True, **kwargs)


def accepted(twin: Simulator, **orders: Any) -> bool:
    """Whether a simulator carries out one order; it is put back as it was."""
    decisions = Decisions(**{key: np.array([value], dtype=np.int32) for key, value in orders.items()})
    before = twin._blocks.copy()
    refused = twin.apply(decisions)
    for block, was in zip(twin._blocks, before):
        block[:] = was
    return not refused


def can_send(twin: Simulator, vm: int, host: int) -> bool:
    """Whether the simulator accepts a VM on a host, as a placement or a migration."""
    return accepted(twin, place_vm=vm, place_host=host) or accepted(twin, move_vm=vm, move_host=host)


def expected_mask(env: ClusterEnv) -> np.ndarray[Any, Any]:
    """The mask by trying every order on a fork."""
    n_hosts, n_vms = env.codec.n_hosts, env.codec.n_vms
    twin, chosen = env.sim.fork(), env.chosen_vm
    if chosen >= 0:
        hosts = [can_send(twin, chosen, h) for h in range(n_hosts)]
        return np.array([True, *[False] * n_vms, *hosts, *[False] * n_hosts])  # 0 lets it go
    vms = [any(can_send(twin, v, h) for h in range(n_hosts)) for v in range(n_vms)]
    power = [accepted(twin, power_on=h) or accepted(twin, power_off=h) for h in range(n_hosts)]
    return np.array([True, *vms, *[False] * n_hosts, *power])


def random_legal(env: ClusterEnv, rng: np.random.Generator, stop: float = 0.2) -> int:
    """A legal action; ``stop`` is the probability to let time pass where that is legal."""
    mask = env.action_masks()
    if mask[0] and rng.random() < stop:
        return 0
    return int(rng.choice(np.flatnonzero(mask)))


def test_codec_numbers_every_action_once() -> None:
    codec = ActionCodec(n_hosts=3, n_vms=5)
    pairs = [codec.decode(action) for action in range(codec.n)]
    assert codec.n == 12
    assert [codec.encode(*pair) for pair in pairs] == list(range(codec.n))
    assert pairs[0] == ("stop", 0)
    assert pairs[1] == ("vm", 0)
    assert pairs[6] == ("host", 0)
    assert pairs[9] == ("power", 0)
    with pytest.raises(ValueError, match=r"host 3: must lie in 0\.\.2"):
        codec.encode("host", 3)
    with pytest.raises(ValueError, match=r"action 12: must lie in 0\.\.11"):
        codec.decode(12)


@pytest.mark.parametrize("overrides", RULES)
def test_masks_say_exactly_what_the_simulator_accepts(overrides: dict[str, Any]) -> None:
    env = make(overrides)
    rng = np.random.default_rng(5)
    env.reset(seed=5)
    n_legal = np.zeros(3, dtype=np.int64)
    for _ in range(250):
        mask = env.action_masks()
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, expected_mask(env))
        n_legal += [mask[1:15].sum(), mask[15:20].sum(), mask[20:].sum()]
        *_, over, info = env.step(random_legal(env, rng))
        assert "illegal_action" not in info
        if over:
            env.reset()
    assert n_legal.min() > 50, "the case does not try every kind of action"


def test_every_action_outside_the_mask_changes_nothing_and_says_why() -> None:
    env = make({})
    rng = np.random.default_rng(2)
    observation, _ = env.reset(seed=2)
    seen = set()
    n_illegal = 0
    for _ in range(80):
        for action in np.flatnonzero(~env.action_masks()).tolist():
            before, chosen = env.sim.digest(), env.chosen_vm
            after, reward, terminated, truncated, info = env.step(action)
            assert (reward, terminated, truncated) == (0.0, False, False)
            assert (env.sim.digest(), env.chosen_vm) == (before, chosen)
            assert info["illegal_action"] in ACTION_REASONS.values()
            for key in ("hosts", "vms", "vm_host"):
                np.testing.assert_array_equal(after[key], observation[key])
            seen.add(info["illegal_action"])
            n_illegal += 1
            if "time_s" in info:
                break
        env._decisions = 0  # the limit per interval is tested elsewhere
        observation, _, _, over, info = env.step(random_legal(env, rng))
        if over:
            break
    assert {REASONS[2], REASONS[3], REASONS[4], REASONS[6], REASONS[10]} <= seen
    assert {"no VM is chosen", "a VM is chosen: only its host may come next, or 0, which lets it go"} <= seen
    while not over:
        *_, over, info = env.step(Decisions())
    assert info["illegal_actions"] == n_illegal


def test_numbers_outside_the_action_space_are_illegal_and_other_types_an_error() -> None:
    env = ClusterEnv(CROWDED)
    env.reset(seed=0)
    for action in (-1, env.codec.n, 10**9):
        assert env.step(action)[4]["illegal_action"] == "no such action"
    with pytest.raises(ConfigError, match=r"action 1\.5: must be a whole number"):
        env.step(1.5)
    assert "time_s" in env.step(np.int64(0))[4]
    assert "time_s" in env.step(np.array(0))[4]


def test_an_illegal_action_costs_its_weight_at_once() -> None:
    env = ClusterEnv(CROWDED, reward={"illegal": -0.5})
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.codec.encode("host", 0))
    assert reward == -0.5
    assert info["reward_terms"] == {"illegal": 1.0}
    _, _, _, _, info = env.step(0)
    assert info["reward_terms"]["illegal"] == 0.0


def test_an_interval_ends_by_itself_after_too_many_decisions() -> None:
    env = ClusterEnv(CROWDED, max_decisions_per_interval=3)
    env.reset(seed=0)
    host = int(np.flatnonzero(env.sim.params.host_boot_s > 0)[0])
    toggle = env.codec.encode("power", host)
    infos = [env.step(action)[4] for action in (toggle, toggle, env.codec.encode("host", 0))]
    assert "time_s" not in infos[1]
    assert infos[2]["forced_stop"]
    assert infos[2]["time_s"] == env.sim.time_s == 300.0
    assert infos[2]["illegal_action"] == "no VM is chosen"
    assert infos[2]["reward_terms"]["illegal"] == 1.0
    assert "forced_stop" not in env.step(0)[4]


def test_a_vm_chosen_without_a_host_is_let_go_when_the_interval_is_forced_to_end() -> None:
    env = ClusterEnv("small", max_decisions_per_interval=1, tables=True)
    env.reset(seed=0)
    vm = int(np.flatnonzero(env.action_masks()[1:51])[0])
    observation, *_, info = env.step(env.codec.encode("vm", vm))
    assert info["forced_stop"]
    assert env.chosen_vm == -1
    assert observation["vms"][vm, 12] == 0.0
    assert env.action_masks()[0]


def _unrolled(env: ClusterEnv, rng: np.random.Generator) -> Decisions:
    """Take random legal single actions in the order in which a Decisions object is carried out."""
    codec, s = env.codec, env.sim.state
    orders: dict[str, list[int]] = {
        name: [] for name in ("power_on", "place_vm", "place_host", "move_vm", "move_host", "power_off")
    }

    def pick(candidates: list[int], kind: Any) -> int | None:
        legal = [i for i in candidates if env.action_masks()[codec.encode(kind, i)]]
        return int(rng.choice(legal)) if legal else None

    def take(kind: Any, index: int, name: str) -> None:
        info = env.step(codec.encode(kind, index))[4]
        assert "illegal_action" not in info
        orders[name].append(index)

    for stage, state in (("place", PENDING), ("move", RUNNING)):
        if stage == "place":
            for _ in range(rng.integers(3)):
                host = pick(np.flatnonzero((s.host_power_state == 0) | (s.host_drain == 1)).tolist(), "power")
                if host is not None:
                    take("power", host, "power_on")
        for _ in range(rng.integers(5)):
            vm = pick(np.flatnonzero(s.vm_state == state).tolist(), "vm")
            if vm is not None:
                take("vm", vm, f"{stage}_vm")
                host = pick(list(range(codec.n_hosts)), "host")
                assert host is not None, "a VM that may be chosen has a host"
                take("host", host, f"{stage}_host")
    for _ in range(rng.integers(4)):
        host = pick(np.flatnonzero((s.host_power_state == 2) & (s.host_drain == 0)).tolist(), "power")
        if host is not None:
            take("power", host, "power_off")
    return Decisions(**{key: np.array(value, dtype=np.int32) for key, value in orders.items()})


@pytest.mark.parametrize("overrides", RULES)
def test_single_actions_equal_the_same_orders_as_decisions(overrides: dict[str, Any]) -> None:
    one, whole = make(overrides), make(overrides)
    rng = np.random.default_rng(11)
    for env in (one, whole):
        env.reset(seed=11)
    n_orders, over = 0, False
    for _ in range(4):
        while not over:
            decisions = _unrolled(one, rng)
            n_orders += len(decisions)
            a = one.step(0)
            b = whole.step(decisions)
            assert "refusals" not in b[4]
            assert one.sim.digest() == whole.sim.digest()
            assert a[1:4] == b[1:4]
            assert a[4]["reward_terms"] == b[4]["reward_terms"]
            for key in a[0]:
                np.testing.assert_array_equal(a[0][key], b[0][key])
            over = a[3]
        np.testing.assert_equal(a[4]["metrics"], b[4]["metrics"])
        for env in (one, whole):
            env.reset()
        over = False
    assert n_orders > 60


def test_a_rule_may_do_without_observations() -> None:
    looking, blind = make({}), make({}, observe=False)
    rng = np.random.default_rng(8)
    for env in (looking, blind):
        env.reset(seed=8)
    for _ in range(100):
        action = random_legal(looking, rng)
        a, b = looking.step(action), blind.step(action)
        np.testing.assert_array_equal(looking.action_masks(), blind.action_masks())
        assert a[1:4] == b[1:4]
        assert blind.observation_space.contains(b[0])
        assert not b[0]["hosts"].any()
        if a[3]:
            break
    assert looking.sim.digest() == blind.sim.digest()


def test_decisions_report_what_was_refused() -> None:
    env = ClusterEnv("small", reward={"illegal": -1.0})
    env.reset(seed=0)
    home = int(env.sim.state.vm_host[4])
    bad = Decisions(move_vm=np.array([4, 4]), move_host=np.array([home, 99]))
    *_, info = env.step(bad)
    assert info["refusals"] == [
        f"move: vm 4 to host {home}: the VM already runs on this host",
        "move: vm 4 to host 99: no such VM or host",
    ]
    assert info["reward_terms"]["illegal"] == 2.0
    assert info["time_s"] == 300.0


@pytest.mark.parametrize("overrides", RULES)
def test_random_episodes_satisfy_the_independent_checker(overrides: dict[str, Any]) -> None:
    env = make(overrides)
    rng = np.random.default_rng(3)
    for seed in range(6):
        env.reset(seed=seed)
        auditor = Auditor(env.sim)
        over = False
        while not over:
            *_, over, info = env.step(random_legal(env, rng))
            if "time_s" in info:
                assert auditor.observe() == []


def test_stepping_past_the_end_is_an_error() -> None:
    env = ClusterEnv(CROWDED)
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    steps = 0
    over = False
    while not over:
        _, _, terminated, over, info = env.step(0)
        assert not terminated
        steps += 1
    assert steps == 12
    assert info["time_s"] == env.scenario.horizon_s
    assert set(info["metrics"]) >= {"energy_kwh", "slatah", "sla_unserved"}
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(0)
    env.reset()
    env.step(0)
