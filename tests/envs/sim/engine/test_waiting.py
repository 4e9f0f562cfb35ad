"""VMs that wait are tried by size, not one by one: the same placements, and few looks at the hosts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.waiting import REMEMBERED, is_hopeless, no_failures, note_failure
from virtgym.envs.sim.models.failures import FailureConfig, replay_outages
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.power import PowerConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING
from virtgym.envs.sim.workload import Workload

MODELS: dict[str, dict[str, Any]] = {
    "simple": {},
    "full": {"power": PowerConfig(resume_time_s=11.0)},
    "numa": {"numa": NumaConfig()},
}


def fails(host: int, down_s: float, up_s: float, n_hosts: int = 2) -> dict[str, Any]:
    """A host that fails once."""
    at = np.array([host], np.int32), np.array([down_s]), np.array([up_s])
    return {"failures": FailureConfig("none"), "replayed": replay_outages(*at, n_hosts)}


def crowd(seed: int, arrival: Any, **more: Any) -> Simulator:
    """Five hosts and eighty VMs of many sizes, most of which have to wait until others leave."""
    rng = np.random.default_rng(seed)
    n = 80
    types = (
        HostType("a", 4, 2000.0, 8192.0, (100.0, 200.0)),
        HostType("b", 8, 3000.0, 16384.0, (100.0, 200.0), boot_time_s=60.0),
    )
    config = ClusterConfig(
        types, np.array([0, 1, 0, 1, 1], dtype=np.int32), memory="binding", arrival=arrival,
        arrival_core_speed=bool(seed % 2), auto_boot=True, hosts_start_on=bool(seed % 3), **more,
    )  # fmt: skip
    arrival_s = np.where(rng.random(n) < 0.6, 0.0, rng.uniform(0.0, 3000.0, n))
    load = Workload(
        "crowd", 300.0, rng.uniform(0.1, 0.9, (20, n)), rng.choice([500.0, 1500.0, 2500.0, 4000.0], n),
        rng.integers(1, 3, n).astype(np.int32), rng.choice([512.0, 1024.0, 3000.0, 5000.0], n),
        arrival_s, arrival_s + rng.exponential(2000.0, n) + 1.0,
    )  # fmt: skip
    return Simulator(config, load)


def host_of(sim: Simulator, v: int, rule: str, off: bool) -> int:
    """The host that a rule gives a VM, in plain Python: no one is left out."""
    p, s = sim.params, sim.state
    best, least = -1, np.inf
    for h in range(len(p.host_type)):
        state = s.host_power_state[h]
        if state != 0 if off else (state not in (1, 2) or s.host_drain[h]):
            continue
        slack = 1.0 + 1e-9
        if s.host_mem_mib[h] + p.vm_mem_mib[v] > p.host_mem_mib[h] * slack:
            continue
        if s.host_nominal_mhz[h] + p.vm_cpu_mhz[v] > p.host_cpu_mhz[h] * slack:
            continue
        if p.arrival_core_speed and p.vm_cpu_mhz[v] > p.vm_vcpus[v] * p.host_core_mhz[h] * slack:
            continue
        free = p.host_cpu_mhz[h] - s.host_nominal_mhz[h]
        score = {"first_fit": 0.0, "best_fit": free, "worst_fit": -free}[rule]
        if best < 0 or score < least - 1e-9:
            best, least = h, score
    return best


@pytest.mark.parametrize("rule", ["first_fit", "best_fit", "worst_fit"])
@pytest.mark.parametrize("model", ["simple", "full"])
def test_every_vm_that_waits_has_been_tried(model: str, rule: str) -> None:
    """After each interval's retry nobody waits who has a host: by a rule that leaves nobody out."""
    waited = 0
    for seed in range(8):
        sim = crowd(seed, rule, **MODELS[model])
        while not sim.done:
            sim.advance(1e-3)  # the retry of this instant has been, hardly anything else
            waiting = np.flatnonzero((sim.state.vm_state == PENDING) & (sim.state.vm_dest < 0))
            waited += len(waiting)
            for v in waiting.tolist():
                assert host_of(sim, v, rule, False) < 0, (seed, sim.time_s, v)
                assert host_of(sim, v, rule, True) < 0, (seed, sim.time_s, v)
            sim.advance(300.0 - 1e-3)
    assert waited > 500


@pytest.mark.parametrize("model", MODELS)
def test_only_who_needs_as_much_is_left_out(model: str) -> None:
    """Whoever is called hopeless after a failure really fits nowhere."""
    from virtgym.envs.sim.engine.orders import fits_arrival

    found = 0
    for seed in range(6):
        sim = crowd(seed, "policy", **MODELS[model])
        p, s = sim.kernel_params, sim.kernel_state
        rng = np.random.default_rng(seed)
        pairs = rng.permutation(80), rng.integers(0, 5, 80)
        sim.apply(Decisions(place_vm=pairs[0].astype(np.int32), place_host=pairs[1].astype(np.int32)))
        fits = {v: any(fits_arrival(p, s, v, h) == 0 for h in range(5)) for v in range(80)}
        for w in range(80):
            if fits[w]:
                continue
            failed = no_failures()
            note_failure(failed, w)
            for v in range(80):
                if is_hopeless(p, failed, v):
                    found += 1
                    assert not fits[v], (seed, v, w)
    assert found > 200


def test_the_memory_is_bounded() -> None:
    failed = no_failures()
    for v in range(3 * REMEMBERED):
        note_failure(failed, v)
    assert failed[0] == REMEMBERED
    assert failed[1:].tolist() == list(range(REMEMBERED))


def test_restarts_go_by_time_down_then_by_number(make_sim: Any) -> None:
    """Hosts 1 and 0 fail one after the other; host 2 has room for the four VMs of one."""
    sim = make_sim(
        [0.2] * 8, n_hosts=3, cores=4, arrival="first_fit", auto_boot=False, horizon_s=3600.0,
        failures=FailureConfig("none"),
        replayed=replay_outages(
            np.array([0, 1], np.int32), np.array([200.0, 100.0]), np.array([3000.0, 3000.0]), 3
        ),
    )  # fmt: skip
    sim.reset(np.random.default_rng(0))
    assert sim.state.host_n_vms.tolist() == [4, 4, 0]
    sim.step(Decisions(power_off=np.array([2], np.int32)))
    sim.step(Decisions(power_on=np.array([2], np.int32)))  # all eight wait by now
    sim.step()
    assert np.flatnonzero(sim.state.vm_host == 2).tolist() == [4, 5, 6, 7]  # down for longer


class FirstFit:
    """The arrival rule ``first_fit`` as a policy: who comes now, then who has waited, in order."""

    def plan(self, sim: Simulator) -> Decisions:
        trial = sim.fork()
        pairs = []
        waiting = np.flatnonzero((sim.state.vm_state == PENDING) & (sim.state.vm_dest < 0))
        for v in sorted(waiting.tolist(), key=lambda v: (sim.params.vm_arrival_s[v] != sim.time_s, v)):
            for h in range(len(sim.params.host_type)):
                order = Decisions(place_vm=np.array([v], np.int32), place_host=np.array([h], np.int32))
                if not trial.apply(order):
                    pairs.append((v, h))
                    break
        vms, hosts = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
        return Decisions(place_vm=vms.copy(), place_host=hosts.copy())


@pytest.mark.parametrize("model", ["simple", "full"])
def test_failed_placements_count_alike_whoever_places(make_sim: Any, model: str) -> None:
    """VMs come at decisions: the rule and a policy that does the same have the same failures."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n = 30
        at = np.sort(300.0 * rng.integers(0, 9, n))
        load = {"arrival_s": at, "departure_s": at + 300.0 * rng.integers(1, 9, n),
                "mem_mib": rng.choice([1024.0, 2048.0, 4096.0], n)}  # fmt: skip
        util = rng.uniform(0.1, 0.9, (12, n))
        sims = [
            make_sim(util, n_hosts=3, cores=4, memory="binding", memory_mib=8192.0, auto_boot=False,
                     arrival=arrival, load=load, **MODELS[model])
            for arrival in ("first_fit", "policy")
        ]  # fmt: skip
        while not sims[0].done:
            sims[0].step()
            sims[1].step(FirstFit().plan(sims[1]))
        rule, policy = (sim.metrics() for sim in sims)
        assert rule["failed_placements"] == policy["failed_placements"] > 0
        assert sims[0].state.totals.failed_placements <= n


@pytest.mark.parametrize("after_s", [1.0, 5.0, 16.0])
def test_an_aborted_copy_has_sent_what_it_has_sent(make_sim: Any, after_s: float) -> None:
    """1 GiB at 62.5 MiB/s takes 16.384 s; the VM departs, or its destination fails, before that."""
    for how in ("departs", "fails"):
        sim = make_sim(
            [0.5], n_hosts=2, memory="binding", arrival="first_fit",
            load={"mem_mib": [1024.0], "departure_s": [after_s if how == "departs" else np.inf]},
            **(fails(1, after_s, 600.0) if how == "fails" else {}),
        )  # fmt: skip
        sim.reset(np.random.default_rng(0))
        sim.step(Decisions(move_vm=np.array([0], np.int32), move_host=np.array([1], np.int32)))
        mib_s = sim.params.mig_mib_s
        assert sim.metrics()["migrations"] == 1
        assert sim.metrics()["migration_data_gib"] == pytest.approx(after_s * mib_s / 1024.0, rel=1e-9)


def beside(rule: str, sizes: list[tuple[int, float]], numa: NumaConfig | None, **changes: Any) -> Simulator:
    """VMs of (vCPUs, MiB) on hosts of two nodes of 4 cores and 8, 16 and 16 GiB."""
    kinds = tuple(HostType(f"{g}", 8, 1000.0, g * 2048.0, (100.0, 200.0), numa_nodes=2) for g in (8, 16))
    of = np.array([0, 1, 1], dtype=np.int32)
    config = ClusterConfig(kinds, of, memory="binding", arrival=rule, numa=numa, **changes)
    vcpus = np.array([n for n, _ in sizes], dtype=np.int32)
    memory, there = np.array([mib for _, mib in sizes]), np.zeros(len(sizes))
    load = Workload(
        "beside",
        300.0,
        np.ones((20, len(sizes))),
        np.multiply(vcpus, 1000.0),
        vcpus,
        memory,
        there,
        there + np.inf,
    )
    return Simulator(config, load)


BLIND = NumaConfig(scheduling="blind", cpu_overcommit=4)
AWARE = NumaConfig(cpu_overcommit=4)


@pytest.mark.parametrize(
    ("rule", "numa", "host"),
    [
        *(("first_fit", numa, 0) for numa in (None, BLIND)),
        *((rule, AWARE, 1) for rule in ("first_fit", "best_fit", "worst_fit", "pabfd")),
    ],
)
def test_a_vm_is_not_split_where_another_host_has_a_node_for_it(
    rule: str, numa: NumaConfig | None, host: int
) -> None:
    """10 GiB: two nodes of host 0, which the guest of two vCPUs does not see, or one of host 1."""
    assert beside(rule, [(2, 10240.0)], numa).state.vm_host.tolist() == [host]


def test_a_guest_that_sees_its_nodes_may_be_split() -> None:
    sees = NumaConfig(cpu_overcommit=4, vnuma_min_vcpus=2)
    assert beside("first_fit", [(2, 10240.0)], sees).state.vm_host.tolist() == [0]


def test_a_vm_that_every_host_would_split_goes_where_it_fits() -> None:
    """20 GiB: more than a node of any host; it is not left waiting."""
    assert beside("first_fit", [(2, 20480.0)], AWARE).state.vm_host.tolist() == [1]


@pytest.mark.parametrize(("numa", "hosts"), [(BLIND, (0, 1)), (AWARE, (1, 2))])
def test_restarts_prefer_the_same(numa: NumaConfig, hosts: tuple[int, int]) -> None:
    """The host of a VM of 10 GiB fails."""
    sim = beside("first_fit", [(2, 10240.0)], numa, **fails(hosts[0], 400.0, 5000.0, 3))
    sim.reset(rng=np.random.default_rng(0))
    assert sim.state.vm_host.tolist() == [hosts[0]]
    sim.advance(900.0)
    assert sim.state.vm_host.tolist() == [hosts[1]]
