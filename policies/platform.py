"""One platform: high availability over power management over balancing, without fights (docs/policies.md).

Each of the three managers is a policy of its own (``ha``, ``dpm`` or ``dpm_ortools``, ``drs``). Alone, each
would undo what the others do: load balancing fills the host that power management has just emptied, and
power management switches off what is kept for a failure. Here they plan one after the other, in every
interval, and whoever is later sees what was ordered before as done:

1. **HA** restarts, admits and places VMs, and switches hosts on while the failover guarantee fails.
2. **DPM** relieves hosts, empties and switches off, switches on.
3. **DRS** empties hosts in maintenance, mends broken rules, evens out what is left.

What one has done binds the others for the thrash window of 12 intervals; ``MoveLedger`` remembers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1
from virtgym.envs.checks import one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.simulator import ClusterView, Simulator

from .base import MovingPolicy, PlanningPolicy
from .dpm.ortools_policy import OrtoolsDpmPolicy
from .dpm.policy import DpmPolicy
from .drs.policy import LEVELS, DrsPolicy
from .forecast.told import Foretold
from .ha.policy import HaPolicy
from .planning.arrivals import is_guarded
from .planning.guard import AdmissionGuard
from .planning.ledger import MoveLedger
from .planning.limits import MoveLimits
from .planning.plans import merge_plans, without_refused
from .planning.positions import homes_of
from .schema import check_parameters

POWER_MANAGERS: dict[str, type[DpmPolicy] | None] = {
    "dpm": DpmPolicy,
    "dpm_ortools": OrtoolsDpmPolicy,
    "none": None,
}
"""Who switches hosts."""
BALANCERS: dict[str, dict[str, Any]] = {
    "drs": {},
    "drs_loess": {"forecaster": "loess"},
    "drs_ortools": {"solver": "ortools"},
    "none": {"level": 1},
}
"""Who evens load out: the parameters of ``DrsPolicy`` that a name stands for. ``none`` still keeps rules and
empties hosts in maintenance."""

KNOBS: dict[str, tuple[float, float, float]] = {
    "target": (0.3, 0.9, 0.63),
    "tolerance": (0.02, 0.3, 0.18),
    "spare_share": (0.0, 0.5, 0.0),
    "risk": (0.0, 3.0, 1.0),
    "threshold": (0.02, 0.5, 0.2),
}
"""What an agent turns with ``actions=knobs``: of DPM the band and its margins, of DRS the threshold."""


@dataclass(frozen=True)
class PlatformRound:
    """What each manager ordered in an interval.

    Attributes:
        ha: Orders of HA.
        dpm: Orders of power management.
        drs: Orders of load balancing, maintenance included.
        taken_back: Orders that were not given because they would have undone another manager's, or because
            they were no longer legal without those.
    """

    ha: Decisions
    dpm: Decisions
    drs: Decisions
    taken_back: int


@dataclass
class PlatformPolicy(MovingPolicy):
    """HA over DPM over DRS.

    Attributes:
        power: Who switches hosts, one of ``POWER_MANAGERS``.
        balance: Who evens load out, one of ``BALANCERS``.
        ha: Parameters of ``HaPolicy``.
        dpm: Parameters of the power manager.
        drs: Parameters of ``DrsPolicy``.
    """

    power: str = "dpm"
    balance: str = "drs"
    ha: dict[str, Any] = field(default_factory=dict)
    dpm: dict[str, Any] = field(default_factory=dict)
    drs: dict[str, Any] = field(default_factory=dict)

    arrival: ClassVar[str | None] = "pabfd"
    restart: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        one_of("policy.power", self.power, POWER_MANAGERS)
        one_of("policy.balance", self.balance, BALANCERS)
        if POWER_MANAGERS[self.power] is None and self.dpm:
            raise ConfigError(f"policy.dpm.{next(iter(self.dpm))}: needs policy.power")
        self._make_managers()

    def _make_managers(self) -> None:
        manager = POWER_MANAGERS[self.power]
        self._ha = _make("ha", HaPolicy, self.ha)
        self._dpm = None if manager is None else _make("dpm", manager, self.dpm)
        drs = {**BALANCERS[self.balance], **self.drs}
        level = drs.get("level", 3)
        if level != 1 and level in LEVELS:  # finer balance, by number of hosts, would keep hosts from being
            drs.setdefault("threshold", LEVELS[level])  # hardly used, and on
        self._drs = _make("drs", DrsPolicy, drs)

    @property
    def kind(self) -> str:
        """A solver if a manager is one; see ``registry.KINDS``."""
        kinds = {getattr(part, "kind", "rule") for part in (self._dpm, self._drs)}
        return "solver" if "solver" in kinds else "rule"

    def arrival_in(self, cluster: ClusterConfig) -> str | None:
        """Who places arriving VMs: HA itself where the scenario leaves it to policies or promises something.

        Args:
            cluster: The cluster; its guarantee and its placement rules are kept by HA, not by a rule of the
                simulator.
        """
        return "policy" if cluster.arrival == "policy" or is_guarded(cluster) else self.arrival

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view; every manager starts an episode."""
        super().reset(view, rng)
        self._make_managers()  # knobs turned in the last episode are forgotten
        self._ha.reset(view, rng)
        if self._dpm is not None:
            self._dpm.reset(view, rng)
        self._drs.reset(view, rng)
        self._guard = AdmissionGuard(view)
        self._ledger = MoveLedger(view)
        self._vms = np.arange(view.n_vms, dtype=np.int32)
        self._in_rules: B1 = np.zeros(view.n_vms, dtype=np.bool_)
        rules = view.config.rules
        for group in (*rules.joined, *rules.anti_affinity):
            self._in_rules[list(group)] = True
        self._maintenance: set[int] = set()  # asked for and not granted yet
        self._leaving: set[int] = set()
        self._round = PlatformRound(Decisions(), Decisions(), Decisions(), 0)

    def enter_maintenance(self, hosts: Iterable[int]) -> None:
        """Take hosts into maintenance as soon as the failover guarantee allows it; DRS empties them.

        Args:
            hosts: Hosts that are to be emptied and take no VM until ``leave_maintenance``.

        Raises:
            ConfigError: If there is no such host.
        """
        named = self.hosts_named(hosts).tolist()
        self._maintenance.update(named)
        self._leaving -= self._maintenance

    def leave_maintenance(self, hosts: Iterable[int]) -> None:
        """Let hosts take VMs again from the next plan on.

        Args:
            hosts: Hosts in maintenance, or waiting for it.

        Raises:
            ConfigError: If there is no such host.
        """
        named = self.hosts_named(hosts).tolist()
        self._leaving.update(named)
        self._maintenance -= self._leaving

    def set_knobs(self, values: Mapping[str, float]) -> None:
        """Turn thresholds until the next reset, see ``KNOBS``; values outside the ranges are clipped.

        Args:
            values: Value by name.

        Raises:
            ValueError: If there is no such knob.
        """
        unknown = [name for name in values if name not in KNOBS]
        if unknown:
            raise ValueError(f"no such knob: {', '.join(unknown)}; there are: {', '.join(KNOBS)}")
        clipped = {name: float(np.clip(value, *KNOBS[name][:2])) for name, value in values.items()}
        if "threshold" in clipped:
            self._drs.set_threshold(clipped.pop("threshold"))
        if self._dpm is not None and clipped:
            self._dpm.set_targets(**clipped)

    def plan(self, view: ClusterView) -> Decisions:
        """Let the managers plan one after the other."""
        self._ledger.open(view.time_s)
        stage = _Stage(view, self._ledger, self._in_rules, self.limits)
        maintenance = self._take_maintenance(stage)
        ha = stage.take("ha", self._ha.plan(stage.view))
        dpm = Decisions()
        if self._dpm is not None:
            self._dpm.hold(self._filled(view))
            before = self._stays(stage.view)
            dpm = stage.take("dpm", self._dpm.plan(stage.view))
            self._ledger.note_emptied((before > 0) & (self._stays(stage.view) == 0))
            self._drs.keep_off(self._kept_empty(stage.view))
        orders = self._drs.plan(stage.view)
        drs = stage.take("drs", orders, exempt=self._drs.last_round.mandatory)
        self._round = PlatformRound(ha, dpm, merge_plans([maintenance, drs]), stage.taken_back)
        return merge_plans([maintenance, ha, dpm, drs])

    @property
    def last_round(self) -> PlatformRound:
        """What each manager ordered in the last interval."""
        return self._round

    def foretold(self) -> Foretold | None:
        """What power management, or without it balancing, expects."""
        manager: DrsPolicy | DpmPolicy = self._drs if self._dpm is None else self._dpm
        return manager.foretold()

    @property
    def managers(self) -> dict[str, PlanningPolicy]:
        """The managers, by their fields of ``PlatformRound``."""
        found: dict[str, PlanningPolicy | None] = {"ha": self._ha, "dpm": self._dpm, "drs": self._drs}
        return {name: part for name, part in found.items() if part is not None}

    def plan_metrics(self) -> dict[str, float]:
        """What the results say of OR-Tools' plans, if they are made."""
        dpm = self._dpm.plan_metrics() if isinstance(self._dpm, OrtoolsDpmPolicy) else {}
        drs = self._drs.plan_metrics()
        failed = [part["solver_fallbacks"] for part in (dpm, drs) if "solver_fallbacks" in part]
        return {**drs, **dpm, **({"solver_fallbacks": sum(failed)} if failed else {})}

    def _filled(self, view: ClusterView) -> NDArray[np.intp]:
        """Hosts that DPM had booted and DRS has filled within the window: what they came on for holds."""
        assert self._dpm is not None
        hosts = self._ledger.received_from("drs")
        young = self._dpm.on_for_s(view)[hosts] < self._dpm.min_on_s + self._ledger.window_s
        return np.asarray(hosts[young])

    def _kept_empty(self, view: ClusterView) -> list[int]:
        """Hosts that DPM wants empty: spare and underused ones, and those that it has just emptied."""
        assert self._dpm is not None
        empty = (view.state.host_power_state == ON) & (self._stays(view) == 0) & self._ledger.emptied()
        empty |= self._dpm.underused(view)
        return [*np.flatnonzero(empty).tolist(), *self._dpm.empty_hosts_kept(view)]

    def _stays(self, view: ClusterView) -> NDArray[np.int64]:
        """VMs that are on every host, or come to it, and do not leave, shape (H,)."""
        home = homes_of(view.state, self._vms)
        return np.bincount(home[home >= 0], minlength=view.n_hosts)

    def _take_maintenance(self, stage: _Stage) -> Decisions:
        """Begin and end maintenance as asked, as far as the guarantee allows; the rest stays asked for."""
        view = stage.view
        if not (self._maintenance or self._leaving):
            self._ha.make_room_for(())
            return Decisions()
        self._guard.renew(view)
        begin, end = sorted(self._maintenance), sorted(self._leaving)
        flags = view.state.host_maintenance
        self._maintenance -= {h for h in begin if flags[h]}
        begin = [h for h in begin if not flags[h] and self._guard.leave(h)]
        end = [h for h in end if flags[h]]
        orders = Decisions(maintenance=np.array(begin, np.int32), end_maintenance=np.array(end, np.int32))
        self._maintenance -= set(begin)
        self._ha.make_room_for(self._maintenance)
        self._leaving = set()
        return stage.take("maintenance", orders)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters; a policy starts an episode with ``reset``."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Make the managers anew."""
        vars(self).update(saved)
        self._make_managers()


class _Stage:
    """The cluster as it stands with the orders so far, and the orders."""

    def __init__(self, view: ClusterView, ledger: MoveLedger, in_rules: B1, limits: MoveLimits) -> None:
        self.view = view
        self.taken_back = 0
        self._ledger = ledger
        self._in_rules = in_rules
        self._limits = limits
        self._copy: Simulator | None = None

    def take(self, manager: str, plan: Decisions, exempt: int = 0) -> Decisions:
        """Carry a manager's plan out on a copy; returns what is left of it.

        Args:
            manager: Whose plan it is.
            plan: The plan.
            exempt: So many moves from the first one on must be made, even if they go back.
        """
        if len(plan) == 0:
            return plan
        wanted = len(plan)
        plan = self._limits.keep(self.view, self._without_returns(plan, exempt))
        sim = self._copy
        if sim is None:
            self._copy = sim = self.view.fork()
            sim.strict = False
            self.view = sim.view
        sources = self.view.state.vm_host[plan.move_vm].copy()
        kept = without_refused(plan, sim.apply(plan))
        sources = sources[np.isin(plan.move_vm, kept.move_vm)]
        plan = kept
        self.taken_back += wanted - len(plan)
        self._ledger.record(manager, plan.move_vm, sources, plan.move_host)
        return plan

    def _without_returns(self, plan: Decisions, exempt: int) -> Decisions:
        """Leave out moves back to hosts that VMs left within the window.

        VMs whose rules name other VMs were planned with them: where one of a plan may not go, none of them
        goes.
        """
        back = self._ledger.goes_back(plan.move_vm, plan.move_host)
        back[:exempt] = False
        if not back.any():
            return plan
        if self._in_rules[plan.move_vm[back]].any():
            back |= self._in_rules[plan.move_vm]
            back[:exempt] = False
        return replace(plan, move_vm=plan.move_vm[~back], move_host=plan.move_host[~back])


def _make(key: str, kind: type[Any], params: Mapping[str, Any]) -> Any:
    """Make a manager; its messages name the parameter below the platform's."""
    check_parameters(f"the platform's {key}", kind, params, f"policy.{key}")
    try:
        return kind(**params)
    except ConfigError as error:
        raise ConfigError(str(error).replace("policy.", f"policy.{key}.")) from None
