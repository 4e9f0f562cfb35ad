"""The consolidation problem: which host should hold each VM, to draw the least energy until the next plan.

    minimise   horizon * sum_h P_h(load_h / cpu_h) over hosts that are on
               +  sum_h switch_h over hosts to be switched on  +  sum_v move_v over VMs that leave their host
    subject to load_h <= cpu_share * cpu_h,  memory_h <= mem_share * mem_h,  the room of every NUMA node,
               affinity, anti-affinity, VM-host rules, hosts that may hold nothing, hosts that must be on,
               capacity kept for failures

A host that is over a limit *now* may keep VMs that it holds, but may not receive any: so staying never breaks
a limit, and every plan can be compared with it. ``evaluate`` is the one judge of plans; searches and bounds
work with their own, faster forms of the same rules.

Energy of a migration, where nobody knows better: 0.512 J per MB moved + 20.2 J (``sim.precopy``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8, I8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.models.precopy import PrecopyConfig, migration_energy_j

from .nodes import VmNodes, nodes_have_room

SLACK = 1e-9
"""Sums of floats: a limit is broken from this share above it."""


def sums(index: NDArray[Any], weight: NDArray[Any], n: int) -> F8:
    """Sum of weights by index, (n,)."""
    return np.asarray(np.bincount(index, weights=weight, minlength=n), dtype=np.float64)


@dataclass(frozen=True)
class PlacementRules:
    """Rules by VM and host numbers.

    Attributes:
        affinity: Groups of VMs that must share a host.
        anti_affinity: Groups of VMs of which no two may share a host.
        must: Pairs of VMs and the hosts they may run on.
    """

    affinity: Sequence[Sequence[int]] = ()
    anti_affinity: Sequence[Sequence[int]] = ()
    must: Sequence[tuple[Sequence[int], Sequence[int]]] = ()


@dataclass(frozen=True, eq=False)
class ConsolidationProblem:
    """One instance. V VMs, H hosts, T power tables of P points, N NUMA nodes of a host at most.

    Attributes:
        vm_cpu_mhz: CPU that each VM is expected to ask for, MHz, (V,).
        vm_mem_mib: Memory, MiB, (V,).
        vm_host: Host now, (V,); -1 = not placed yet, placing it costs no migration.
        host_cpu_mhz: CPU of each host, MHz, (H,).
        host_mem_mib: Memory, MiB, (H,); ``inf`` = memory does not bind.
        host_power: Power table of each host, (H,).
        power_w: Tables over equally spaced loads 0...1, W, (T, P).
        horizon_s: Time that the plan is judged over, s.
        vm_move_j: Cost of a migration, J, (V,); None = the simulator's default for its memory.
        host_on: Whether a host is on now, (H,); None = all are.
        host_allowed: Whether a host may hold VMs, (H,); False = failed, in maintenance, or kept for failover.
        host_switch_j: Cost of switching on a host that is off, J, (H,); None = 0.
        cpu_share: Share of a host's CPU that may be planned for.
        mem_share: Share of its memory.
        rules: Affinity and the like.
        min_hosts: Hosts that stay on at least.
        reserve_cpu: Share of the CPU of all hosts that are on to be kept free (admission by percentage).
        reserve_mem: The same of memory.
        failover_hosts: The largest so many of the hosts that are on could fail and the rest still be large
            enough in total.
        vm_node_cpu: What a VM takes of its NUMA nodes' CPU, in the unit of ``node_cpu``, (V,); None = none.
        vm_node_mem: The same of memory, (V,); None = ``vm_mem_mib``.
        node_cpu: CPU of every node, (H, N): MHz or vCPUs; 0 = there is no such node.
        node_mem: Memory of every node, MiB, (H, N).
    """

    vm_cpu_mhz: F8
    vm_mem_mib: F8
    vm_host: I8
    host_cpu_mhz: F8
    host_mem_mib: F8
    host_power: I8
    power_w: F8
    horizon_s: float = 300.0
    vm_move_j: F8 | None = None
    host_on: B1 | None = None
    host_allowed: B1 | None = None
    host_switch_j: F8 | None = None
    cpu_share: float = 1.0
    mem_share: float = 1.0
    rules: PlacementRules = field(default_factory=PlacementRules)
    min_hosts: int = 0
    reserve_cpu: float = 0.0
    reserve_mem: float = 0.0
    failover_hosts: int = 0
    vm_node_cpu: F8 | None = None
    vm_node_mem: F8 | None = None
    node_cpu: F8 | None = None
    node_mem: F8 | None = None

    def __post_init__(self) -> None:
        """Fill in what was left out, bring arrays to their types, and check everything.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        n_vms, n_hosts = len(self.vm_cpu_mhz), len(self.host_cpu_mhz)
        defaults: dict[str, Any] = {
            "vm_move_j": lambda: migration_energy_j(PrecopyConfig(), self.vm_mem_mib),
            "host_on": lambda: np.ones(n_hosts, dtype=np.bool_),
            "host_allowed": lambda: np.ones(n_hosts, dtype=np.bool_),
            "host_switch_j": lambda: np.zeros(n_hosts),
        }
        if self.node_cpu is not None:
            defaults["vm_node_mem"] = lambda: self.vm_mem_mib
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default())
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.startswith(("vm_", "host_", "node_", "power_")) and value is not None:
                kind = _dtype_of(f.name)
                object.__setattr__(self, f.name, np.ascontiguousarray(value, dtype=kind))
        self._check_arrays(n_vms, n_hosts)
        self._check_numbers(n_hosts)
        _check_rules(self.rules, n_vms, n_hosts)

    def _check_arrays(self, n_vms: int, n_hosts: int) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray):
                continue
            size = n_vms if name.startswith("vm_") else n_hosts
            if name != "power_w" and value.shape[0] != size:
                raise ConfigError(f"consolidation.{name}: has {value.shape[0]} rows, needs {size}")
            no_limit = name in ("host_mem_mib", "node_cpu", "node_mem")
            if value.dtype == np.float64 and not (value >= 0.0).all():
                raise ConfigError(f"consolidation.{name}: every value must be 0 or more")
            if value.dtype == np.float64 and not no_limit and not np.isfinite(value).all():
                raise ConfigError(f"consolidation.{name}: every value must be finite")
        if not (self.host_cpu_mhz > 0.0).all():
            raise ConfigError("consolidation.host_cpu_mhz: every value must be positive")
        if self.power_w.ndim != 2 or self.power_w.shape[1] < 2:
            raise ConfigError("consolidation.power_w: needs shape (tables, points), at least 2 points")
        for name, low, high in (
            ("vm_host", -1, n_hosts),
            ("host_power", 0, self.power_w.shape[0]),
        ):
            value = getattr(self, name)
            if value.size and not (int(value.min()) >= low and int(value.max()) < high):
                raise ConfigError(f"consolidation.{name}: must lie in {low}..{high - 1}")
        parts = (self.vm_node_cpu, self.node_cpu, self.node_mem)
        if any(part is None for part in parts) and not all(part is None for part in parts):
            raise ConfigError("consolidation: vm_node_cpu, node_cpu and node_mem come together or not at all")
        if (
            self.node_cpu is not None
            and self.node_mem is not None
            and (self.node_cpu.ndim != 2 or self.node_cpu.shape != self.node_mem.shape)
        ):
            raise ConfigError("consolidation.node_cpu and node_mem: need one shape (hosts, nodes)")

    def _check_numbers(self, n_hosts: int) -> None:
        need(0.0 < self.horizon_s < np.inf, f"consolidation.horizon_s={self.horizon_s}: must be positive")
        for name in ("cpu_share", "mem_share"):
            value = getattr(self, name)
            need(0.0 < value < np.inf, f"consolidation.{name}={value}: must be positive")
        for name in ("reserve_cpu", "reserve_mem"):
            value = getattr(self, name)
            need(0.0 <= value < 1.0, f"consolidation.{name}={value}: must lie in 0..1, below 1")
        for name in ("min_hosts", "failover_hosts"):
            value = getattr(self, name)
            need(0 <= value <= n_hosts, f"consolidation.{name}={value}: must lie in 0..{n_hosts}")

    @property
    def n_vms(self) -> int:
        """V."""
        return len(self.vm_cpu_mhz)

    @property
    def n_hosts(self) -> int:
        """H."""
        return len(self.host_cpu_mhz)

    @property
    def needed(self) -> tuple[float, float]:
        """CPU (MHz) and memory (MiB) that the hosts that are on need in total, by the shares kept free."""
        cpu = float(self.vm_cpu_mhz.sum()) / (1.0 - self.reserve_cpu) if self.reserve_cpu else 0.0
        mem = float(self.vm_mem_mib.sum()) / (1.0 - self.reserve_mem) if self.reserve_mem else 0.0
        return cpu, mem


def _dtype_of(name: str) -> Any:
    if name in ("vm_host", "host_power"):
        return np.int64
    return np.bool_ if name in ("host_on", "host_allowed") else np.float64


def _check_rules(rules: PlacementRules, n_vms: int, n_hosts: int) -> None:
    groups = [("affinity", g) for g in rules.affinity] + [("anti_affinity", g) for g in rules.anti_affinity]
    groups += [("must", vms) for vms, _ in rules.must]
    for name, group in groups:
        if any(not 0 <= v < n_vms for v in group):
            raise ConfigError(
                f"consolidation.rules.{name}: VMs must lie in 0..{n_vms - 1}, not {list(group)}"
            )
    for _, hosts in rules.must:
        if any(not 0 <= h < n_hosts for h in hosts):
            raise ConfigError(
                f"consolidation.rules.must: hosts must lie in 0..{n_hosts - 1}, not {list(hosts)}"
            )


def host_energy(problem: ConsolidationProblem, load_mhz: F8) -> F8:
    """Energy of every host over the horizon if it is on, J, (H,); switching it on included.

    Args:
        problem: The instance.
        load_mhz: CPU that the VMs on each host ask for, MHz, (H,).
    """
    p = problem
    last = p.power_w.shape[1] - 1
    x = np.clip(load_mhz / p.host_cpu_mhz, 0.0, 1.0) * last
    low = np.minimum(x.astype(np.int64), last - 1)
    below, above = p.power_w[p.host_power, low], p.power_w[p.host_power, low + 1]
    assert p.host_on is not None
    assert p.host_switch_j is not None
    return np.asarray(p.horizon_s * (below + (above - below) * (x - low)) + p.host_switch_j * ~p.host_on)


def _enough(problem: ConsolidationProblem, on: B1) -> bool:
    """Whether the hosts that are on are as many and as large as asked for."""
    p = problem
    if int(on.sum()) < p.min_hosts:
        return False
    cpu, mem = p.host_cpu_mhz[on], p.host_mem_mib[on]
    need_cpu, need_mem = p.needed
    if cpu.sum() < need_cpu * (1.0 - SLACK) or mem.sum() < need_mem * (1.0 - SLACK):
        return False
    if p.failover_hosts == 0:
        return True
    left = max(0, len(cpu) - p.failover_hosts)
    enough_cpu = np.sort(cpu)[:left].sum() >= p.vm_cpu_mhz.sum() * (1.0 - SLACK)
    return bool(enough_cpu and np.sort(mem)[:left].sum() >= p.vm_mem_mib.sum() * (1.0 - SLACK))


def on_hosts(problem: ConsolidationProblem, vm_host: I8) -> tuple[B1, bool]:
    """Hosts to be on under an assignment: those with VMs, and the cheapest that rules ask for beside.

    Args:
        problem: The instance.
        vm_host: Host of each VM, (V,), -1 = none.

    Returns:
        Whether each host is on, (H,), and whether that is enough for ``min_hosts`` and the reserves.
    """
    p = problem
    on = np.zeros(p.n_hosts, dtype=np.bool_)
    on[vm_host[vm_host >= 0]] = True
    if _enough(p, on):
        return on, True
    idle = host_energy(p, np.zeros(p.n_hosts))
    by_hosts = int(on.sum()) < p.min_hosts
    size = np.ones(p.n_hosts) if by_hosts else p.host_cpu_mhz
    if not by_hosts and np.isfinite(p.host_mem_mib).all() and p.host_mem_mib.sum() > 0:
        short_cpu, short_mem = _shortage(p, on)
        size = size if short_cpu >= short_mem else p.host_mem_mib
    assert p.host_allowed is not None
    spare = np.flatnonzero(~on & p.host_allowed)
    for h in spare[np.argsort((idle / np.maximum(size, 1e-9))[spare], kind="stable")]:
        on[h] = True
        if _enough(p, on):
            return _drop_useless(p, on, vm_host, idle), True
    return on, False


def _shortage(problem: ConsolidationProblem, on: B1) -> tuple[float, float]:
    """What is missing of CPU and memory, as shares of what is needed."""
    p = problem
    need_cpu, need_mem = p.needed
    cpu, mem = float(p.vm_cpu_mhz.sum()), float(p.vm_mem_mib.sum())
    left = max(0, int(on.sum()) - p.failover_hosts)
    if p.failover_hosts:
        need_cpu, need_mem = max(need_cpu, cpu), max(need_mem, mem)
    have_cpu, have_mem = (float(np.sort(size[on])[:left].sum()) for size in (p.host_cpu_mhz, p.host_mem_mib))
    return 1.0 - have_cpu / max(need_cpu, 1e-9), 1.0 - have_mem / max(need_mem, 1e-9)


def _drop_useless(problem: ConsolidationProblem, on: B1, vm_host: I8, idle: F8) -> B1:
    """Switch off again what is not needed after all, the dearest first."""
    extra = on.copy()
    extra[vm_host[vm_host >= 0]] = False
    for h in np.flatnonzero(extra)[np.argsort(-idle[extra], kind="stable")]:
        on[h] = False
        if not _enough(problem, on):
            on[h] = True
    return on


class Evaluation(NamedTuple):
    """What a plan costs, and what it breaks."""

    objective_j: float  # energy over the horizon, switching on, and migrations, J
    energy_j: float  # of that, hosts, J
    move_j: float  # of that, migrations, J
    migrations: int
    n_on: int  # hosts on
    violations: int  # rules and limits broken; 0 = the plan is allowed
    host_on: B1  # (H,)


def evaluate(problem: ConsolidationProblem, vm_host: I8) -> Evaluation:
    """Judge an assignment.

    Args:
        problem: The instance.
        vm_host: Host of each VM, (V,); -1 = not placed, which is a violation.
    """
    p = problem
    placed = vm_host >= 0
    moved = placed & (p.vm_host >= 0) & (vm_host != p.vm_host)
    on, enough = on_hosts(p, vm_host)
    load = sums(vm_host[placed], p.vm_cpu_mhz[placed], p.n_hosts)
    assert p.vm_move_j is not None
    energy, move = float(host_energy(p, load)[on].sum()), float(p.vm_move_j[moved].sum())
    broken = (
        int((~placed).sum()) + (not enough) + _rules_broken(p, vm_host) + _limits_broken(p, vm_host, load)
    )
    return Evaluation(energy + move, energy, move, int(moved.sum()), int(on.sum()), broken, on)


def _rules_broken(problem: ConsolidationProblem, vm_host: I8) -> int:
    p = problem
    assert p.host_allowed is not None
    placed = vm_host >= 0
    broken = int((~p.host_allowed[vm_host[placed]]).sum())
    for group in p.rules.affinity:
        broken += max(0, len({int(vm_host[v]) for v in group}) - 1)
    for group in p.rules.anti_affinity:
        hosts = [int(vm_host[v]) for v in set(group) if vm_host[v] >= 0]
        broken += len(hosts) - len(set(hosts))
    for vms, allowed in p.rules.must:
        inside = set(allowed)
        broken += sum(int(vm_host[v]) not in inside for v in set(vms) if vm_host[v] >= 0)
    return broken


def _limits_broken(problem: ConsolidationProblem, vm_host: I8, load: F8) -> int:
    """Hosts over a limit that hold a VM that was not there before, and hosts without room on their nodes."""
    p = problem
    placed = np.flatnonzero(vm_host >= 0)
    memory = sums(vm_host[placed], p.vm_mem_mib[placed], p.n_hosts)
    strange = np.zeros(p.n_hosts, dtype=np.bool_)
    came = placed[vm_host[placed] != p.vm_host[placed]]
    strange[vm_host[came]] = True
    over = load > p.cpu_share * p.host_cpu_mhz * (1.0 + SLACK)
    over |= memory > p.mem_share * p.host_mem_mib * (1.0 + SLACK)
    broken = int((over & strange).sum())
    if p.node_cpu is None:
        return broken
    assert p.vm_node_cpu is not None
    assert p.vm_node_mem is not None
    assert p.node_mem is not None
    for h in np.flatnonzero(strange).tolist():
        vms = VmNodes(p.vm_node_cpu[vm_host == h], p.vm_node_mem[vm_host == h])
        broken += not nodes_have_room(vms, p.node_cpu[h], p.node_mem[h])
    return broken
