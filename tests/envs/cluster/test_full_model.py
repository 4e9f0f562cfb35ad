"""The cluster environment with every sub-model on: columns, masks, checkers, copies, pictures."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from oracles.full_cluster import EVERYTHING
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.global_columns import FULL_GLOBAL_COLUMNS, GLOBAL_COLUMNS
from virtgym.envs.cluster.host_columns import FULL_HOST_COLUMNS, HOST_COLUMNS
from virtgym.envs.cluster.tables import columns_of
from virtgym.envs.cluster.vm_columns import FULL_VM_COLUMNS, VM_COLUMNS
from virtgym.envs.sim.decisions import REASONS, Decisions
from virtgym.envs.sim.metrics import METRICS
from virtgym.envs.sim.models.power import FAILED, ON, RESUMING, STANDBY, SUSPENDING
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Rates
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED, PENDING, STARTING
from virtgym.envs.wrappers import FlatObservation

MBIT = 8.388608
RATE = {name: place.number for name, place in Rates.places.items()}
HOUR = {"horizon_s": 3600.0}

FULL: dict[str, Any] = {
    **EVERYTHING,
    "power": {"pue": 1.4},
    "carbon": {"g_per_kwh": 250.0, "source": "by hand"},
}

make = functools.partial(ClusterEnv, FULL)


def accepted(twin: Simulator, **orders: Any) -> bool:
    """Whether a simulator carries out one order; it is put back as it was."""
    decisions = Decisions(**{key: np.array([value], dtype=np.int32) for key, value in orders.items()})
    before = twin._blocks.copy()
    refused = twin.apply(decisions)
    for block, was in zip(twin._blocks, before):
        block[:] = was
    return not refused


def expected_mask(env: ClusterEnv) -> np.ndarray[Any, Any]:
    """The mask by trying every order on a fork."""
    n_hosts, n_vms = env.codec.n_hosts, env.codec.n_vms
    twin, chosen = env.sim.fork(), env.chosen_vm

    def sends(v: int, h: int) -> bool:
        return accepted(twin, place_vm=v, place_host=h) or accepted(twin, move_vm=v, move_host=h)

    if chosen >= 0:
        hosts = [sends(chosen, h) for h in range(n_hosts)]
        return np.array([True] + [False] * n_vms + hosts + [False] * n_hosts)
    vms = [any(sends(v, h) for h in range(n_hosts)) for v in range(n_vms)]
    power = [accepted(twin, power_on=h) or accepted(twin, power_off=h) for h in range(n_hosts)]
    return np.array([True, *vms, *[False] * n_hosts, *power])


def random_legal(env: ClusterEnv, rng: np.random.Generator, stop: float = 0.25) -> int:
    """A legal action; hosts' power is rarely touched, or soon nothing would be on."""
    mask = env.action_masks()
    first_power = 1 + env.codec.n_vms + env.codec.n_hosts
    stops = env.chosen_vm < 0  # 0 lets a chosen VM go, and no time passes
    if stops and (rng.random() < stop or not mask[1:].any()):
        return 0
    if mask[:first_power].sum() > stops and rng.random() < 0.9:
        mask[first_power:] = False
    mask[0] = False
    return int(rng.choice(np.flatnonzero(mask)))


def named(table: Any, columns: Any) -> dict[str, Any]:
    """Columns of a table (or elements of a vector) by name."""
    return {column.name: table[..., i] for i, column in enumerate(columns)}


def ratio(part: Any, whole: Any) -> Any:
    """A share; 0 of nothing."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def traffic(env: ClusterEnv) -> tuple[Any, Any]:
    """What every NIC sends and receives, Mbit/s, from the arrays that are shown."""
    s, p = env.view.state, env.view.params
    out, into = np.zeros(env.codec.n_hosts), np.zeros(env.codec.n_hosts)
    for v in range(env.codec.n_vms):
        h = s.vm_host[v]
        if h >= 0:
            out[h] += s.vm_net_out_mbps[v]
            into[h] += s.vm_net_in_mbps[v]
        if s.vm_mig[v] == 2:
            ends = (h, s.vm_dest[v]) if s.copy_phase[v] != 5 else (s.vm_dest[v], h)
            out[ends[0]] += s.copy_rate_mib_s[v] * MBIT
            into[ends[1]] += s.copy_rate_mib_s[v] * MBIT
        if s.vm_secondary[v] >= 0:
            assert p.vm_protected[v]
            out[h] += s.vm_mirror_mbps[v]
            into[s.vm_secondary[v]] += s.vm_mirror_mbps[v]
    return out, into


def expected_hosts(env: ClusterEnv) -> dict[str, Any]:
    """The hosts' columns of the full model, worked out with NumPy."""
    s, p = env.view.state, env.view.params
    on = s.host_power_state == ON
    rates = np.where(on[:, None], s.host_rates, 0.0)
    takes = (p.node_cores * p.numa_overcommit)[:, None]
    out, into = traffic(env)
    mem = p.host_mem_mib

    def mib(name: str) -> Any:
        return rates[:, RATE[name]] / mem

    return {
        "is_standby": s.host_power_state == STANDBY,
        "is_suspending": s.host_power_state == SUSPENDING,
        "is_resuming": s.host_power_state == RESUMING,
        "is_failed": s.host_power_state == FAILED,
        "maintenance": s.host_maintenance,
        "spare": s.host_profile < 0,
        "allocated": on * s.host_alloc_mhz / p.host_cpu_mhz,
        "ready": ratio(rates[:, RATE["ready"]], rates[:, RATE["vcpus"]]),
        "reserved": s.host_reserved_mhz / p.host_cpu_mhz,
        "added": (rates[:, RATE["overhead"]] + rates[:, RATE["io_cpu"]]) / p.host_cpu_mhz,
        "remote": ratio(rates[:, RATE["remote"]], rates[:, RATE["alloc"]]),
        "roomiest_node": ((takes - s.node_vcpus) / takes).max(axis=1),
        "node_spread": np.ptp(s.node_load_mhz, axis=1) / p.node_cpu_mhz,
        "memory_state": on * s.host_mem_state / 4,
        "memory_free": on * s.host_free_mib / mem,
        "memory_reserved": on * s.host_mem_reserved_mib / mem,
        **{name: mib(name) for name in ("shared", "ballooned", "compressed", "swapped")},
        "nic_out": on * out / p.host_nic_mbps,
        "nic_in": on * into / p.host_nic_mbps,
        "functions": s.host_functions_used / p.host_functions,
        "copies": s.host_copies / p.host_slots,
        "mirrored": s.host_mirrors / 4,
        "mirror_memory": s.host_mirror_mib / mem,
        **dict.fromkeys(("kept_free", "domain"), 0.0),
        "line_rate": p.host_nic_mbps / 10000,
        "node_cpu": p.node_cpu_mhz / p.host_cpu_mhz.max(),
    }


def expected_vms(env: ClusterEnv) -> dict[str, Any]:
    """The VMs' columns of the full model, worked out with NumPy."""
    s, p = env.view.state, env.view.params
    there = (s.vm_state != ABSENT) & (s.vm_state != DEPARTED)
    placed = there & (s.vm_host >= 0)
    line = p.host_nic_mbps[np.maximum(s.vm_host, 0)]
    copying = placed & (s.vm_mig == 2)
    asked = s.vm_net_out_ask + s.vm_net_in_ask
    got = s.vm_net_out_mbps + s.vm_net_in_mbps
    second = placed & (s.vm_secondary >= 0)
    latency = np.log1p(1e6 * s.vm_io_latency_s) / np.log1p(1e6)
    dynamic = {
        "starting": there & (s.vm_state == STARTING),
        "failed": (s.vm_state == PENDING) & (s.vm_restart == 1),
        "restarting": (s.vm_state == PENDING) & (s.vm_restart == 2),
        "down": there & (s.vm_down_now > 0),
        "allocated": s.vm_alloc_mhz / p.vm_cpu_mhz * placed,
        "ready": s.vm_ready_share * placed,
        "limited": s.vm_limited_mhz / p.vm_cpu_mhz * placed,
        "capped": s.vm_capped_mhz / p.vm_cpu_mhz * placed,
        "co_stop": s.vm_co_stop_mhz / p.vm_cpu_mhz * placed,
        "added": (s.vm_overhead_mhz + s.vm_io_mhz) / p.vm_cpu_mhz * placed,
        "remote": s.vm_remote_share * placed,
        "numa_loss": (1 - 1 / s.vm_numa_slowdown) * placed,
        "memory_loss": (1 - 1 / s.vm_mem_slowdown) * placed,
        "active": s.vm_active_mib / p.vm_mem_mib * placed,
        "resident": s.vm_resident_mib / p.vm_mem_mib * placed,
        "ballooned": s.vm_ballooned_mib / p.vm_mem_mib * placed,
        "compressed": s.vm_compressed_mib / p.vm_mem_mib * placed,
        "swapped": s.vm_swapped_mib / p.vm_mem_mib * placed,
        "net": got / 2 / line * placed,
        "net_dropped": ratio(asked - got, asked) * placed,
        "io_latency": latency * placed * (s.vm_io_rate > 0),
        "dirty": s.vm_dirty_mib_s * MBIT / line * placed,
        "copy_waits": there & (s.vm_mig == 1),
        "copy_rounds": copying & np.isin(s.copy_phase, (1, 2)),
        "copy_stopped": copying & np.isin(s.copy_phase, (3, 4)),
        "copy_pull": copying & (s.copy_phase == 5),
        "copy_sent": s.copy_sent_mib / 4 / p.vm_mem_mib * copying,
        "copy_rate": s.copy_rate_mib_s * MBIT / line * copying,
        "has_secondary": second,
        "log_share": ratio(s.vm_mirror_mbps, s.vm_mirror_need_mbps) * second,
    }
    kind = [env.scenario.workload.profiles[k] for k in env.scenario.workload.vm_profile]
    shares = p.vm_shares / p.vm_vcpus
    constant = {
        "protected": [k.protected for k in kind],
        **dict.fromkeys(("together", "apart", "closed"), 0.0),
        "pinned": [k.io.mode == "passthrough" for k in kind],
        "priority": np.array([k.restart_priority for k in kind]) / 5,
        "reservation": np.array([k.cpu.reservation_mhz for k in kind]) / p.vm_cpu_mhz,
        "limit": np.minimum(1, np.array([k.cpu.limit_mhz for k in kind]) / p.vm_cpu_mhz),
        "shares": shares / shares.max(),
        "stalls": [k.stalls for k in kind],
        "memory_reservation": np.array([k.memory.reservation_mib for k in kind]) / p.vm_mem_mib,
        "working_set": [k.working_share for k in kind],
    }
    return {**dynamic, **constant}


def expected_globals(env: ClusterEnv) -> dict[str, Any]:
    """The global columns of the full model, worked out with NumPy."""
    s, p = env.view.state, env.view.params
    n_hosts, n_vms = env.codec.n_hosts, env.codec.n_vms
    on = s.host_power_state == ON
    there = (s.vm_state != ABSENT) & (s.vm_state != DEPARTED)
    out, into = traffic(env)
    room = np.maximum(0, (p.node_cores * p.numa_overcommit)[:, None] - s.node_vcpus)[on]
    rates, memory = s.host_rates[on], p.host_mem_mib[on].sum()
    return {
        "hosts_standby": np.mean(s.host_power_state == STANDBY),
        "hosts_failed": np.mean(s.host_power_state == FAILED),
        "hosts_maintenance": s.host_maintenance.sum() / n_hosts,
        "spares": np.mean(s.host_profile < 0),
        "starting": np.mean(s.vm_state == STARTING),
        "restarting": np.mean((s.vm_state == PENDING) & (s.vm_restart > 0)),
        "down": s.vm_down_now.sum() / n_vms,
        "copying": np.mean(s.vm_mig == 2),
        "unprotected": np.sum(there & (p.vm_protected > 0) & (s.vm_secondary < 0)) / n_vms,
        "ready": ratio(rates[:, RATE["ready"]].sum(), rates[:, RATE["vcpus"]].sum()),
        "memory_free": ratio(s.host_free_mib[on].sum(), memory),
        "swapped": ratio(rates[:, RATE["swapped"]].sum(), memory),
        "nic": ratio((out + into)[on].sum(), 2 * p.host_nic_mbps[on].sum()),
        "fragments": ratio((room % 16).sum(), room.sum()),
        "guarantee": 0.0,
        "carbon": 1.0,
    }


def test_columns_say_what_the_view_holds() -> None:
    env = make(tables=True)
    rng = np.random.default_rng(0)
    seen: dict[str, set[str]] = {"hosts": set(), "vms": set(), "globals": set()}
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            assert env.observation_space.contains(observation)
            checks = (
                ("hosts", FULL_HOST_COLUMNS, expected_hosts(env)),
                ("vms", FULL_VM_COLUMNS, expected_vms(env)),
                ("globals", FULL_GLOBAL_COLUMNS, expected_globals(env)),
            )
            for key, columns, want in checks:
                got = named(observation[key][..., -len(columns) :], columns)
                assert list(got) == list(want)
                for name, value in got.items():
                    high = next(column.high for column in columns if column.name == name)
                    clipped = np.clip(np.asarray(want[name], float), 0, high)
                    np.testing.assert_allclose(value, clipped, atol=2e-6, err_msg=f"{key} {name}")
                    if np.any(value):
                        seen[key].add(name)
            action: Any = random_legal(env, rng)
            if rng.random() < 0.1:  # what single choices cannot order
                s = env.sim.state
                empty = np.flatnonzero((s.host_power_state == ON) & (s.host_n_vms + s.host_n_in == 0))
                action = Decisions(suspend=empty[:1].astype(np.int32), maintenance=np.array([5]))
            observation, *_, over, _ = env.step(action)
    # These last for less than an interval, or need more load than this cluster has.
    rare = {"is_suspending", "is_resuming", "copy_stopped", "net_dropped", "failed", "starting", "log_share"}
    rare |= {"compressed"}
    # What rules, domains and admission promise: test_promises.
    rare |= {"kept_free", "domain", "together", "apart", "closed", "guarantee"}
    for key, columns in (
        ("hosts", FULL_HOST_COLUMNS),
        ("vms", FULL_VM_COLUMNS),
        ("globals", FULL_GLOBAL_COLUMNS),
    ):
        unseen = {column.name for column in columns} - seen[key] - rare
        assert not unseen, f"{key}: never other than 0"


def test_masks_say_exactly_what_the_simulator_accepts() -> None:
    env = make(scenario_overrides={"trace.options.n_vms": 12})
    n_vms = env.codec.n_vms
    rng = np.random.default_rng(3)
    env.reset(seed=3)
    n_legal = np.zeros(3, dtype=np.int64)
    reasons = set()
    for _ in range(200):
        mask = env.action_masks()
        np.testing.assert_array_equal(mask, expected_mask(env))
        n_legal += [mask[1 : 1 + n_vms].sum(), mask[1 + n_vms : -6].sum(), mask[-6:].sum()]
        before, decided = env.sim.digest(), env._decisions
        for action in rng.choice(np.flatnonzero(~mask), 3).tolist():
            info = env.step(action)[4]
            reasons.add(info["illegal_action"])
            assert env.sim.digest() == before
        env._decisions = decided
        *_, over, info = env.step(random_legal(env, rng))
        assert "illegal_action" not in info
        if over:
            env.reset()
    assert n_legal.min() > 50, "the case does not try every kind of action"
    assert {REASONS[19], REASONS[20], REASONS[26]} & reasons, "no limit of the full model was met"


def test_the_power_of_hosts_in_standby_failed_or_spare() -> None:
    env = make(
        scenario_overrides={
            "failures.model": "none",
            "failures.vm_mtbf_h": None,
            "failures.outages": [{"host": 1, "down_s": 100.0}],
            "arrival": "policy",
            "recovery.spares": [5],
        }
    )
    env.reset(seed=0)

    def state(host: int) -> int:
        return int(env.sim.state.host_power_state[host])

    def toggle(host: int) -> int:
        return env.codec.encode("power", host)

    env.step(Decisions(suspend=np.array([2])))
    assert (state(2), state(1)) == (STANDBY, FAILED)
    mask = env.action_masks()
    assert mask[toggle(2)]
    assert not mask[toggle(1)]
    assert not mask[toggle(5)]
    assert env.step(toggle(1))[4]["illegal_action"] == "the host has failed"
    assert env.step(toggle(5))[4]["illegal_action"] == "the host is a spare without a profile"
    assert "illegal_action" not in env.step(toggle(2))[4]
    assert state(2) == RESUMING
    observation, *_ = env.step(0)
    assert state(2) == ON
    assert observation["hosts"].shape == (6 * (len(HOST_COLUMNS) + len(FULL_HOST_COLUMNS)),)


@pytest.mark.parametrize("actions", ["unrolled", "knobs", "candidates"])
def test_checkers_have_nothing_to_say(actions: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("virtgym/Cluster-v0", scenario=FULL, scenario_overrides=HOUR, actions=actions)
        check_env(env.unwrapped)
        checker.check_env(env)
        checker.check_env(FlatObservation(env))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_continue_identically(duplicate: Any) -> None:
    env = make(scenario_overrides=HOUR)
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(40):
        if env.step(random_legal(env, rng))[3]:
            env.reset()
    twin = duplicate(env)
    np.testing.assert_array_equal(twin.action_masks(), env.action_masks())
    for _ in range(60):
        action = random_legal(env, rng)
        one, two = env.step(action), twin.step(action)
        np.testing.assert_equal(one, two)
        if one[3]:
            np.testing.assert_equal(env.reset(), twin.reset())


def test_equal_seeds_draw_equal_faults_and_others_do_not() -> None:
    faults = []
    for seed in (7, 7, 8):
        env = make()
        env.reset(seed=seed)
        faults.append(env.sim.params.fail_time_s.tolist())
        assert env.view.params.fail_time_s.size == 0  # faults to come are nothing to see
    assert faults[0] == faults[1] != faults[2]


def test_metrics_and_rewards_of_every_sub_model() -> None:
    weights = {"downtime": -1.0, "restarts": -2.0, "ready": -3.0, "swap": -4.0}
    env = make(reward=weights)
    env.reset(seed=1)
    rng = np.random.default_rng(2)
    over, sums, rewards = False, dict.fromkeys(("downtime", "restarts", "energy_kwh"), 0.0), 0.0
    while not over:
        *_, over, info = env.step(random_legal(env, rng))
        if "step_metrics" in info:
            terms = info["reward_terms"]
            for name in sums:
                sums[name] += terms[name]
            assert terms["ready"] == pytest.approx(info["step_metrics"]["ready_pct"] / 100)
            memory = env.sim.params.host_mem_mib.sum()
            assert terms["swap"] == pytest.approx(info["step_metrics"]["swap_mib"] / memory)
            rewards += terms["downtime"]
    found = info["metrics"]
    missing = {name for name in METRICS if np.isnan(found[name])}
    guarantee = {"unguarded_s", "guarantee_lost", "guarantee_broken"}  # there is none
    assert missing == {"decision_ms_p50", "decision_ms_p99", "futile_moves"} | guarantee
    assert sums["energy_kwh"] == pytest.approx(found["energy_kwh"])
    assert sums["restarts"] * env.codec.n_vms == pytest.approx(found["restarts"])
    assert sums["downtime"] * env.codec.n_vms * 300 == pytest.approx(found["downtime_s"])
    assert found["host_failures"] > 0
    assert found["carbon_kg"] == pytest.approx(0.25 * found["energy_kwh"])
    assert found["downtime_s"] > 0


def test_a_sub_model_that_is_off_leaves_its_columns_empty() -> None:
    env = ClusterEnv("small", scenario_overrides={**HOUR, "power.resume_time_s": 11.0}, tables=True)
    env.reset(seed=0)
    observation, *_ = env.step(0)
    assert env.sim.params.full
    hosts = named(observation["hosts"], columns_of(True)[0])
    vms = named(observation["vms"], columns_of(True)[1])
    for name in ("memory_free", "nic_out", "copies", "spare", "roomiest_node", "line_rate", "reserved"):
        assert not hosts[name].any(), name
    assert hosts["allocated"].any()
    for name in ("limit", "dirty", "resident", "stalls", "protected"):
        assert not vms[name].any(), name
    assert vms["allocated"].any()
    assert observation["globals"].shape == (len(GLOBAL_COLUMNS) + len(FULL_GLOBAL_COLUMNS),)


def test_the_first_columns_are_those_of_a_simple_cluster() -> None:
    simple = ClusterEnv("small", scenario_overrides=HOUR, tables=True)
    full = ClusterEnv("small", scenario_overrides={**HOUR, "power.resume_time_s": 11.0}, tables=True)
    widths = {"hosts": len(HOST_COLUMNS), "vms": len(VM_COLUMNS), "globals": len(GLOBAL_COLUMNS)}
    a, b = simple.reset(seed=0)[0], full.reset(seed=0)[0]
    rng = np.random.default_rng(0)
    for _ in range(60):
        for key, width in widths.items():
            assert a[key].shape[-1] == width
            np.testing.assert_allclose(b[key][..., :width], a[key], atol=1e-6)
        np.testing.assert_array_equal(simple.action_masks(), full.action_masks())
        action = random_legal(simple, rng)
        (a, r, _, over, _), (b, q, *_) = simple.step(action), full.step(action)
        assert r == pytest.approx(q)
        if over:
            break


def test_it_is_made_by_name() -> None:
    env = gym.make("virtgym/Cluster-v0", scenario=FULL, scenario_overrides=HOUR)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
