"""Planners and the simulator agree on power, room and the cost of a migration, whatever the physics."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.config import ClusterConfig, HostType, MigrationConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.orders import check_move_beside
from virtgym.envs.sim.guests import GUEST_PROFILES, GuestProfile, IoProfile
from virtgym.envs.sim.models.io_path import IoConfig
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.power import PowerConfig, PowerCurve
from virtgym.envs.sim.models.precopy import PrecopyConfig
from virtgym.envs.sim.models.rules import Rules, VmHostRule
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE
from virtgym.envs.sim.workload import Workload
from virtgym.policies.base import PlanningPolicy
from virtgym.policies.dpm.ortools_policy import OrtoolsDpmPolicy
from virtgym.policies.dpm.policy import DpmPolicy
from virtgym.policies.drs.policy import DrsPolicy
from virtgym.policies.literature.policy import ConsolidationPolicy
from virtgym.policies.planning import power
from virtgym.policies.planning.memory import PlanMemory, allocate_memory
from virtgym.policies.planning.moves import copy_cost, move_energy_j
from virtgym.policies.planning.power import boot_energy_j, host_watts, power_tables
from virtgym.policies.planning.problem import cluster_problem
from virtgym.policies.planning.room import begin_room, hold_room
from virtgym.policies.simple import RandomPolicy
from virtgym.policies.solvers.consolidation import solve_consolidation
from virtgym.policies.solvers.model import host_energy

HOST = HostType("a", 4, 2000.0, 16_384.0, "hp_ml110_g4", boot_time_s=240.0)
WIDE = replace(HOST, name="b", cores=16, core_mhz=2500.0, nic_mbps=1e4, power_w="dell_r740_8280")
PLAIN: dict[str, Any] = {"memory": "binding", "migration": MigrationConfig(100.0, 0.1, 0.1)}

POWER: dict[str, dict[str, Any]] = {
    "table": {},
    "another table": {"power_w": "fujitsu_rx1440_m2"},
    "short table": {"power_w": (80.0, 100.0, 200.0)},
    "linear": {"curve": PowerCurve("linear", 90.0, 210.0)},
    "fan": {"curve": PowerCurve("fan", 90.0, 210.0)},
    "busy fan": {"curve": PowerCurve("fan", 90.0, 210.0, busy_w=30.0, scale=1.1)},
    "busy table": {"curve": PowerCurve(busy_w=30.0)},
    "flat fan": {"curve": PowerCurve("fan", 90.0, 210.0, exponent=1.9)},
    "pue": {"power": PowerConfig(pue=1.7)},
    "fan and pue": {"curve": PowerCurve("fan", 90.0, 210.0), "power": PowerConfig(pue=1.3)},
    "boot power": {"boot_power_w": 333.0},
    "boot level": {"power": PowerConfig(boot_level=0.9)},
    "boot time": {"boot_time_s": 100.0},
}
"""Changes to the host type or the cluster."""

PRECOPY: dict[str, dict[str, Any]] = {
    "pre-copy": {},
    "preparation": {"init_s": 7.0, "resume_s": 3.0},
    "bound": {"max_mbps": 400.0},
    "energy": {"energy_j": 5000.0},
    "energy per data": {"energy_j_per_mb": 3.0},
    "rounds": {"max_rounds": 2},
    "throttled": {"on_divergence": "auto_converge"},
    "post-copy": {"on_divergence": "post_copy"},
}
MOVES: dict[str, dict[str, Any]] = {
    "fixed rate": {"migration": MigrationConfig(100.0, 0.1, 0.1)},
    "slow": {"migration": MigrationConfig(20.0, 0.1, 0.1)},
    **{name: {"migration": PrecopyConfig(**changes)} for name, changes in PRECOPY.items()},
    "nic": {"migration": PrecopyConfig(), "nic_mbps": 10_000.0},
    "tiers": {"migration": PrecopyConfig(), "memory": "multiplexed"},
}

ROOM: dict[str, dict[str, Any]] = {
    "ignored": {"memory": "ignored"},
    "binding": {"memory": "binding"},
    "overcommit": {"memory": "multiplexed", "memory_overcommit": 1.5},
    "reservations": {"memory": "multiplexed", "cpu": SchedulingConfig()},
    "nodes": {"memory": "binding", "numa": NumaConfig(cpu_overcommit=2.0), "numa_nodes": 2},
    "blind nodes": {"memory": "binding", "numa": NumaConfig("blind", cpu_overcommit=3.0), "numa_nodes": 4},
    "functions": {"memory": "ignored", "io": IoConfig(), "io_functions": 2},
    "small": {"memory": "binding", "memory_mib": 15_000.0},
    "everything": {
        "memory": "multiplexed",
        "memory_overcommit": 1.2,
        "cpu": SchedulingConfig(),
        "numa": NumaConfig(cpu_overcommit=1.5),
        "numa_nodes": 2,
        "io": IoConfig(),
        "migration": PrecopyConfig(),
    },
}


class Memory(PlanMemory):
    """A planner's memory that holds nothing else."""

    first: NDArray[np.int32]


def make_sim(
    changes: dict[str, Any], util: Any, n_hosts: int = 2, kinds: tuple[HostType, ...] = (HOST,), **load: Any
) -> Simulator:
    """A cluster of some hosts; changes that are fields of a host type go to all types."""
    fields = set(HostType.__dataclass_fields__)
    of_host = {k: v for k, v in changes.items() if k in fields}
    of_cluster = {k: v for k, v in changes.items() if k not in fields}
    types = tuple(replace(kind, **of_host) for kind in kinds)
    of = np.arange(n_hosts, dtype=np.int32) % len(types)
    u = np.atleast_2d(np.asarray(util, dtype=np.float64))
    n = u.shape[1]
    columns: dict[str, Any] = {
        "cpu": 2000.0,
        "vcpus": 1,
        "mem": 2048.0,
        "profiles": (GuestProfile(),),
        "profile": 0,
    } | load

    def column(name: str, kind: Any = np.float64) -> Any:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(columns[name], dtype=kind), (n,)))

    workload = Workload(
        "w", 300.0, u, column("cpu"), column("vcpus", np.int32), column("mem"), np.zeros(n),
        np.full(n, np.inf), profiles=columns["profiles"], vm_profile=column("profile", np.int32),
    )  # fmt: skip
    return Simulator(ClusterConfig(types, of, **{**PLAIN, **of_cluster}), workload, strict=False)


def indices(*items: int) -> NDArray[np.int32]:
    return np.array(items, dtype=np.int32)


@pytest.mark.parametrize("name", POWER)
def test_power_of_a_load_is_what_the_simulator_draws(name: str) -> None:
    for load in (0.0, 0.004, 0.1, 0.37, 0.5, 0.83, 1.0):
        sim = make_sim(POWER[name], [[load] * 4] * 2, n_hosts=1)
        p = sim.params
        sim.advance(300.0)
        drawn = p.pue * float(sim.state.totals.energy_j) / 300.0
        mhz = load * float(p.host_cpu_mhz[0])
        assert host_watts(sim.kernel_params, 0, mhz) == pytest.approx(drawn, rel=1e-12)
        everyone = np.arange(4)
        problem = cluster_problem(
            sim.view, everyone, np.arange(1), 0 * everyone, everyone[:0],
            vm_cpu_mhz=sim.state.vm_demand_mhz, horizon_s=300.0,
        )  # fmt: skip
        within = 1e-9 if p.curve_plain.all() else 3e-4 * float(p.power_w[0, -1] - p.power_w[0, 0])
        within += float(p.curve_busy_w[0]) if 0.0 < load < 0.01 else 0.0  # a jump at 0 becomes a slope
        assert host_energy(problem, np.array([mhz]))[0] / 300.0 == pytest.approx(drawn, abs=within)
        table = power_tables(p)[0]
        planned = np.interp(load, np.linspace(0.0, 1.0, len(table)), table)
        assert planned == pytest.approx(drawn, abs=within)


@pytest.mark.parametrize("name", POWER)
def test_a_boot_takes_the_energy_that_planners_reckon_with(name: str) -> None:
    sim = make_sim({"hosts_start_on": False, **POWER[name]}, [[0.0]] * 4, n_hosts=2)
    p, before = sim.params, float(sim.state.totals.energy_j)
    boots = int((sim.state.host_power_state == 1).sum())  # one is booting for the VM
    more = np.flatnonzero(sim.state.host_power_state == 0)[:1]
    sim.apply(Decisions(power_on=more.astype(np.int32)))
    sim.advance(float(p.host_boot_s[0]))
    drawn = p.pue * (float(sim.state.totals.energy_j) - before)
    assert drawn == pytest.approx((boots + len(more)) * boot_energy_j(p)[0])


@pytest.mark.parametrize("name", MOVES)
def test_a_migration_takes_the_time_data_and_energy_that_planners_reckon_with(name: str) -> None:
    for dirty in (0.0, 30.0, 300.0):
        guest = GuestProfile(dirty_mib_s=(dirty, 0.0), working_share=0.5)
        sim = make_sim(MOVES[name], np.full((40, 1), 0.5), profiles=(guest,))
        a = int(sim.state.vm_host[0])
        handles = sim.kernel_params, sim.kernel_state
        seconds, sent = copy_cost(*handles, 0, a, 1 - a)
        energy = move_energy_j(*handles, 0, a, 1 - a)
        assert not sim.apply(Decisions(move_vm=indices(0), move_host=indices(1 - a)))
        sim.advance(seconds * (1.0 - 1e-6))
        assert sim.state.vm_mig[0] != MIG_NONE
        sim.advance(seconds * 2e-6)
        assert sim.state.vm_mig[0] == MIG_NONE
        assert sim.state.totals.mig_mib == pytest.approx(sent, rel=1e-9)
        if sim.params.has_precopy:  # a copy at a fixed rate is charged by nobody but planners
            assert sim.state.totals.mig_energy_j == pytest.approx(energy, rel=1e-9)
        else:
            assert energy == pytest.approx(20.2 + 0.512 * 1.048576 * sent)


def crowd(name: str, seed: int, **more: Any) -> Simulator:
    """Forty VMs of all kinds on eight hosts of two types."""
    rng = np.random.default_rng(seed)
    profiles = (*GUEST_PROFILES.values(), GuestProfile(cpu=CpuControl(reservation_mhz=400.0)))
    return make_sim(
        ROOM[name] | more, rng.random((12, 40)) * 0.6, 8, (HOST, WIDE), cpu=rng.choice([500.0, 1000.0], 40),
        vcpus=rng.choice([1, 2, 4], 40), mem=rng.choice([1024.0, 2048.0, 4096.0], 40), profiles=profiles,
        profile=rng.integers(0, len(profiles), 40),
    )  # fmt: skip


@pytest.mark.parametrize("name", ROOM)
@pytest.mark.parametrize("seed", range(2))
def test_what_fits_beside_a_plan_is_what_the_simulator_takes(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sim = crowd(name, seed)
    sim.advance(300.0)
    memory: Any = make_handle("room_test", allocate_memory(Memory, sim.state, (), {}, {}))
    p, s = sim.kernel_params, sim.kernel_state
    begin_room(s, memory)
    twin = sim.fork()
    twin.strict = False
    said: list[bool] = []
    moved = set()
    for _ in range(400):
        v, h = int(rng.integers(40)), int(rng.integers(8))
        if v in moved:
            continue
        said.append(bool(check_move_beside(p, s, memory, v, h) == 0))
        took = not twin.apply(Decisions(move_vm=indices(v), move_host=indices(h)))
        assert said[-1] == took, (v, h, [str(r) for r in twin.refusals])
        if took:
            moved.add(v)
            hold_room(p, memory, v, h, 1.0)
    assert any(said)
    assert not all(said)


EAGER: dict[str, Any] = {"threshold": 0.0, "residence": 0, "horizon_s": 7200.0}
PLANNERS: dict[str, PlanningPolicy] = {
    "thr-mmt": ConsolidationPolicy(detector="thr", safety=0.4),
    "loess_robust-mu": ConsolidationPolicy(detector="loess_robust", selector="mu", placer="best_fit"),
    "dpm": DpmPolicy(target=0.5, min_on_s=0.0),
    "dpm_ortools": OrtoolsDpmPolicy(rounds=10, min_on_s=0.0),
    "drs": DrsPolicy(threshold=0.0, residence=0, horizon_s=7200.0),
    "drs_ortools": DrsPolicy(
        threshold=0.0, residence=0, horizon_s=7200.0, solver="ortools", solver_rounds=10, forecaster=None
    ),
    "random": RandomPolicy(moves=20),
}


@pytest.mark.parametrize("name", ROOM)
@pytest.mark.parametrize("planner", PLANNERS)
def test_no_planner_orders_what_the_simulator_refuses(planner: str, name: str) -> None:
    sim, policy = crowd(name, 3, arrival="worst_fit"), PLANNERS[planner]
    policy.reset(sim.view, np.random.default_rng(0))
    orders = 0
    for _ in range(8):
        plan = policy.plan(sim.view)
        orders += len(plan.move_vm) + len(plan.power_off)
        assert [str(r) for r in sim.apply(plan)] == []
        sim.advance(300.0)
    assert orders > 0


@pytest.mark.parametrize("kind", [DpmPolicy, OrtoolsDpmPolicy])
def test_the_scenarios_energy_of_a_migration_decides_whether_hosts_are_emptied(kind: type[DpmPolicy]) -> None:
    moves = {}
    for energy_j in (20.2, 1e9):
        migration = PrecopyConfig(energy_j=energy_j)
        sim = make_sim({"migration": migration, "arrival": "worst_fit"}, np.full((40, 4), 0.1), n_hosts=4)
        policy = kind(min_on_s=0.0)
        policy.reset(sim.view, np.random.default_rng(0))
        moves[energy_j] = 0
        while not sim.done:
            plan = policy.plan(sim.view)
            moves[energy_j] += len(plan.move_vm)
            sim.step(plan)
    assert moves[20.2] > 0
    assert moves[1e9] == 0


def test_bounds_hold_under_an_analytic_curve() -> None:
    rng = np.random.default_rng(1)
    sim = make_sim(POWER["fan and pue"], rng.random((2, 14)) * 0.5, 6, (HOST, WIDE), arrival="worst_fit")
    vms = np.flatnonzero(sim.state.vm_host >= 0)
    problem = cluster_problem(
        sim.view, vms, np.arange(6), sim.state.vm_host[vms].astype(np.int64), vms[:0],
        vm_cpu_mhz=sim.state.vm_demand_mhz[vms], horizon_s=3600.0,
    )  # fmt: skip
    result = solve_consolidation(problem, rounds=40)
    assert 0.0 < result.bound_j <= result.objective_j * (1.0 + 1e-9)
    assert result.objective_j <= result.stay.objective_j


def test_rules_reach_solvers_by_the_problems_numbers() -> None:
    rules = Rules(affinity=((0, 1), (2, 3)), anti_affinity=((1, 2, 5),), must=(VmHostRule((0, 4), (1, 2)),))
    sim = make_sim({"rules": rules}, np.full((2, 6), 0.1), n_hosts=4)
    vms, hosts = np.array([0, 1, 2, 4, 5]), np.array([1, 2, 3])
    home = np.array([0, 0, 1, 2, 2])
    found = cluster_problem(
        sim.view, vms, hosts, home, np.array([3]), vm_cpu_mhz=np.full(5, 100.0), horizon_s=300.0
    ).rules
    assert found.affinity == [[0, 1]]
    assert found.anti_affinity == [[1, 2, 4]]
    assert found.must == [([3], [2]), ([0], [0, 1])]  # VM 4 cannot move now: it stays, rule or not


def test_wishes_and_what_hosts_offer_reach_solvers() -> None:
    """A wish that is kept stays kept; cores, devices, virtualization as the simulator has them."""
    rules = Rules(should=(VmHostRule((0,), (0, 1)), VmHostRule((1,), (2,))))
    profiles = (
        GUEST_PROFILES["default"],
        replace(GUEST_PROFILES["default"], io=IoProfile("passthrough")),
    )
    kinds = (HOST, replace(HOST, name="fast", core_mhz=3000.0))
    sim = make_sim(
        {"rules": rules, "io": IoConfig()},
        np.full((2, 4), 0.1),
        4,
        kinds,
        profiles=profiles,
        profile=[0, 0, 0, 1],
    )
    every = np.arange(4)
    found = cluster_problem(
        sim.view, every, every, np.array([0, 1, 3, 0]), np.empty(0, dtype=np.int64),
        vm_cpu_mhz=np.full(4, 100.0), peak_mhz=sim.params.vm_vcpus * np.array([100.0, 100.0, 2500.0, 100.0]),
    ).rules.must  # fmt: skip
    assert ([0], [0, 1]) in found
    assert ([2], [1, 3]) in found  # cores of 2,000 MHz would be too slow
    assert ([3], [0]) in found  # its device holds it
    assert all(vms != [1] for vms, _ in found)  # its wish is not kept now


def test_planners_follow_a_new_curve_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``power.curve_power`` says of a host type is what planners plan with."""
    sim = make_sim(POWER["fan"], [[0.1]])
    p = sim.params

    def cubic(_p: Any, _kind: int, load: float) -> float:
        return 50.0 + 400.0 * min(1.0, max(0.0, load)) ** 3

    monkeypatch.setattr(power, "curve_power", cubic)
    table = power_tables(p)[0]
    np.testing.assert_allclose(table, 50.0 + 400.0 * np.linspace(0.0, 1.0, len(table)) ** 3)
    kernel: Any = host_watts
    assert kernel.py_func(p, 0, 0.5 * p.host_cpu_mhz[0]) == 100.0


def test_nobody_else_reads_power_tables_room_or_prices(repo_dir: Path) -> None:
    """In policies only ``planning`` reads the parameters that say what power and migrations are."""
    physical = {
        "curve_kind", "curve_exponent", "curve_scale", "curve_busy_w", "curve_plain", "pue", "host_boot_w",
        "mig_mib_s", "copy_params", "copy_max_mbps", "host_nic_mbps",
        "migration_j", "migration_j_per_mb", "vm_working_mib", "vm_dirty_mib_s",
    }  # fmt: skip
    found = []
    for path in sorted((repo_dir / "policies").rglob("*.py")):
        if path.parent.name == "planning":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            table = node.attr == "power_w" and owner in ("params", "cluster")
            if node.attr in physical or table:
                found.append(f"{path.name}:{node.lineno} {node.attr}")
    assert found == []
