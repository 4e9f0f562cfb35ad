"""The checker finds what is broken on purpose, and the kernels agree with plain Python."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.audit.checker import Auditor, check_state
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine import events
from virtgym.envs.sim.engine.orders import check_move, check_place, check_power_off, check_power_on
from virtgym.envs.sim.engine.waiting import FIRST_FIT, choose_host
from virtgym.envs.sim.models.power import BOOTING, SPEC_POWER_W, power_at
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Counters, Totals
from virtgym.envs.sim.state.cluster_state import MIG_NONE, PENDING, ClusterState


def indices(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int32)


@pytest.fixture
def busy(make_sim: Any) -> Simulator:
    """Four hosts, six VMs, two copies under way, one VM that will depart, one host short of CPU."""
    load = {
        "cpu_mhz": [1600.0, 1600.0, 1000.0, 1000.0, 500.0, 500.0],
        "vcpus": 2,
        "mem_mib": 2000.0,
        "departure_s": [np.inf] * 5 + [2000.0],
    }
    sim: Simulator = make_sim([[0.9] * 6], 4, load=load, arrival="policy", arrival_cpu_overcommit=3.0)
    sim.apply(Decisions(place_vm=indices(0, 1, 2, 3, 4), place_host=indices(0, 0, 1, 1, 2)))
    sim.step(Decisions(power_off=indices(3)))
    sim.apply(Decisions(place_vm=indices(5), place_host=indices(2), power_on=indices(3)))
    sim.apply(Decisions(move_vm=indices(2, 3), move_host=indices(3, 3), power_off=indices(1)))
    sim.advance(10.0)
    assert check_state(sim.params, sim.state) == []
    assert sim.state.host_sat_now.tolist() == [1, 0, 0, 0]
    return sim


def put(name: str, index: int, value: float) -> Callable[[ClusterState], None]:
    """Overwrite one place of one array."""

    def spoil(state: ClusterState) -> None:
        getattr(state, name)[index] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (put("vm_host", 0, 2), "not exactly once in the list"),
        (put("vm_next", 0, -1), "tail of host 0"),
        (put("vm_next", 1, 0), "circle"),
        (put("vm_prev", 1, -1), "links back"),
        (put("vm_in_next", 3, 3), "circle"),
        (put("host_head", 0, -1), "tail of host 0"),
        (put("host_n_vms", 2, 1), "number of residents of host 2"),
        (put("host_n_in", 3, 0), "number of incoming copies"),
        (put("vm_dest", 2, 0), "incoming list"),
        (put("vm_state", 0, PENDING), "run without a host"),
        (put("vm_mig", 2, MIG_NONE), "migration and destination disagree"),
        (put("vm_mig_end_s", 2, np.inf), "end of copy"),
        (put("vm_mig_end_s", 2, 1.0), "overdue"),
        (put("host_mem_mib", 0, 3999.0), "memory does not add up"),
        (put("host_nominal_mhz", 0, 1.0), "nominal CPU does not add up"),
        (put("host_ask_mhz", 2, 1.0), "asked does not add up"),
        (put("host_demand_mhz", 2, 1.0), "demand does not add up"),
        (put("host_power_state", 0, 0), "not on"),
        (put("host_power_state", 3, BOOTING), "copied to a host that is not on"),
        (put("host_drain", 3, 1), "empty hosts not switched off"),
        (put("host_power_now_w", 0, 90.0), "outside idle..peak"),
        (put("host_power_now_w", 2, 151.0), "does not follow"),
        (put("host_active_now", 3, 0.0), "counted as loaded"),
        (put("host_sat_now", 0, 0.0), "wrongly short"),
        (put("host_trans_end_s", 0, 999.0), "end of boot"),
        (put("vm_demand_mhz", 0, 1.0), "demand"),
        (put("vm_ask_mhz", 0, 5000.0), "ask"),
        (put("vm_granted_mhz", 0, 1441.0), "granted more than they ask"),
        (put("vm_granted_mhz", 0, 999.0), "granted and missed"),
        (put("vm_granted_mhz", 0, -1.0), "negative"),
        (put("vm_miss_mhz", 0, 0.0), "granted and missed"),
        (put("vm_mig_loss_mhz", 2, 0.0), "loss to migration"),
        (put("counters", Counters.queued, 1), "queued and due differ"),
        (put("heap_time", 0, 5.0), "events"),
        (put("heap_item", 1, 4), "events"),
        (put("heap_time", 9, 5.0), "unused"),
    ],
)
def test_every_fault_is_found(busy: Simulator, spoil: Callable[[ClusterState], None], words: str) -> None:
    spoil(busy.state)
    found = check_state(busy.params, busy.state)
    assert words in " | ".join(found)


def add(name: str, index: Any, value: float) -> Callable[[ClusterState], None]:
    def spoil(state: ClusterState) -> None:
        getattr(state, name)[index] += value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (add("host_energy_j", 2, 1.0), "total energy_j is not the sum"),
        (add("vm_missed", 0, 1e9), "missed too much"),
        (add("vm_down_s", 4, 5.0), "more downtime"),
        (add("vm_requested", 4, -1e9), "shrank"),
        (add("clock", 0, -500.0), "backwards"),
        (add("totals", Totals.departures, 1.0), "VMs departed"),
        (add("totals", Totals.mig_done, 1.0), "migrations"),
        (add("totals", Totals.requested, 1e3), "is not the sum"),
    ],
)
def test_the_auditor_finds_faults_in_time(
    busy: Simulator, spoil: Callable[[ClusterState], None], words: str
) -> None:
    auditor = Auditor(busy)
    busy.step()
    spoil(busy.state)
    auditor.observe()
    assert words in " | ".join(auditor.violations)
    assert auditor.violations[0].startswith("at ")


def test_the_auditor_recomputes_energy_and_unserved_cpu(busy: Simulator) -> None:
    busy.advance(290.0)
    auditor = Auditor(busy)
    busy.step()
    assert auditor.observe() == []
    assert auditor.exact_hosts == 3
    for h, v in ((0, 0), (3, 2)):
        busy.step()
        busy.state.host_energy_j[h] -= 10.0
        busy.state.totals.energy_j -= 10.0
        assert "wrong energy" in auditor.observe()[0]
        busy.step()
        busy.state.vm_missed[v] += 100.0
        busy.state.totals.missed += 100.0
        assert "wrong unserved CPU" in auditor.observe()[0]


def test_the_checker_reads_views(busy: Simulator) -> None:
    assert check_state(busy.view.params, busy.view.state) == []


def test_power_against_numpy() -> None:
    rng = np.random.default_rng(0)
    tables = [np.array(table, dtype=float) for table in SPEC_POWER_W.values()]
    tables += [np.sort(rng.uniform(50, 300, points)) for points in (2, 3, 7, 31)]
    for table in tables:
        points = np.linspace(0, 1, len(table))
        loads = np.concatenate([rng.uniform(-0.2, 1.2, 200), points, [np.nextafter(1, 0)]])
        want = np.interp(loads, points, table)
        assert [power_at(table, x) for x in loads] == pytest.approx(want, rel=1e-12)


def test_the_event_queue_against_heapq(make_sim: Any) -> None:
    sim = make_sim([[0.5] * 40], 20, load={"mem_mib": 1.0})
    state, kernel = sim.state, sim.kernel_state
    rng = np.random.default_rng(1)
    twin: list[tuple[float, int, int]] = []
    for _ in range(3000):
        action = rng.random()
        if action < 0.5 and len(twin) < 100:
            event = (float(rng.integers(0, 9)), int(rng.integers(0, 4)), int(rng.integers(0, 40)))
            if any(event[1:] == other[1:] for other in twin):
                continue  # a VM or host has one event of a kind
            heapq.heappush(twin, event)
            events.push_event(kernel, *event)
        elif action < 0.8 and twin:
            first = (state.heap_time[0], state.heap_kind[0], state.heap_item[0])
            assert first == heapq.heappop(twin)
            events.pop_event(kernel)
        elif twin:
            gone = twin.pop(int(rng.integers(len(twin))))
            heapq.heapify(twin)
            events.drop_event(kernel, *gone[1:])
        assert state.counters.queued == len(twin)
        assert (state.heap_time[len(twin) :] == 0).all()
        assert (state.heap_item[len(twin) :] == 0).all()


def test_checks_tell_what_orders_do(random_episode: Any) -> None:
    """Masks come from the check functions: legal means that the order is carried out, and nothing else."""
    for seed in range(15):
        episode = random_episode(seed)
        sim = Simulator(episode.config, episode.workload, horizon_s=episode.horizon_s)
        for _ in range(3):
            p, s = sim.kernel_params, sim.kernel_state
            n_hosts, n_vms = len(sim.state.host_drain), len(sim.state.vm_state)
            refusing = sim.fork()  # what refuses an order is as it was

            def told(code: int, orders: Decisions, sim: Simulator = sim, kept: Simulator = refusing) -> None:
                twin = kept if code else sim.fork()
                assert [r.code for r in twin.apply(orders)] == ([code] if code else [])

            for h in range(-1, n_hosts + 1):
                told(check_power_on(p, s, h), Decisions(power_on=indices(h)))
                told(check_power_off(p, s, h), Decisions(power_off=indices(h)))
                for v in range(-1, n_vms + 1):
                    told(check_move(p, s, v, h), Decisions(move_vm=indices(v), move_host=indices(h)))
                    told(check_place(p, s, v, h), Decisions(place_vm=indices(v), place_host=indices(h)))
            sim.step(episode.orders(sim))


def test_first_fit_takes_the_first_host_that_fits(make_sim: Any) -> None:
    sim = make_sim([[0.5] * 3], 4, load={"mem_mib": [4000.0, 100.0, 1000.0]})
    assert sim.state.vm_host.tolist() == [0, 1, 1]  # 4,000 + 100 MiB do not fit into 4,096
    params, state = sim.kernel_params, sim.kernel_state
    assert choose_host(params, state, 2, FIRST_FIT, False) == 2  # 1,000 + 1,000 MHz are taken on host 1
    assert choose_host(params, state, 2, FIRST_FIT, True) == -1  # no host is off
