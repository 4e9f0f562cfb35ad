"""``virtgym plan``: what a policy would do now, move by move, with what each is predicted to change."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I1, I4, I8
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.sim.decisions import ORDERS, Decisions
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.models.precopy import MBIT_PER_MIB, plan_precopy
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.policies.base import Policy
from virtgym.policies.planning.plans import without_refused
from virtgym.policies.planning.positions import homes_of
from virtgym.policies.planning.power import idle_watts

from ..run.rollout import make_env, policy_rng
from .outlook import Outlook, Picture, gain_of
from .reasons import nothing_because, why


@dataclass(frozen=True)
class Move:
    """One migration of a plan.

    Attributes:
        vm: VM by index.
        source: Host that it leaves.
        dest: Host that it goes to.
        round: Interval of the plan in which it is ordered, from 0.
        before: The cluster before it.
        after: The cluster with it.
        gain: What it is worth, in ``gain_unit``.
        gain_unit: One of ``outlook.GAINS``.
        why: What triggered it.
        start_s: When it can begin, s from now.
        seconds: How long it takes.
        downtime_s: How long the VM stands still.
    """

    vm: int
    source: int
    dest: int
    round: int
    before: Picture
    after: Picture
    gain: float = math.nan
    gain_unit: str = ""
    why: str = ""
    start_s: float = math.nan
    seconds: float = math.nan
    downtime_s: float = math.nan


@dataclass
class Plan:
    """What a policy would do.

    Attributes:
        moves: Migrations, in the order in which they can be carried out.
        actions: What hosts are told: name of the order, host, interval.
        refused: Orders that were not legal, and so are not part of it.
        nothing: Why the first round ordered nothing; "" = it did, or nobody knows.
        imbalance: Standard deviation of the hosts' CPU loads now and with the plan.
        watts: Power of hosts that are on, now and with the plan, W.
        hosts_on: Hosts that are on, now and at the end.
        overload_mhz: Demand above what hosts have, now and with the plan, MHz.
    """

    moves: list[Move] = field(default_factory=list)
    actions: list[tuple[str, int, int]] = field(default_factory=list)
    refused: int = 0
    nothing: str = ""
    imbalance: tuple[float, float] = (math.nan, math.nan)
    watts: tuple[float, float] = (math.nan, math.nan)
    hosts_on: tuple[int, int] = (0, 0)
    overload_mhz: tuple[float, float] = (math.nan, math.nan)

    @property
    def seconds(self) -> float:
        """From now to the end of the last migration, s."""
        return max((move.start_s + move.seconds for move in self.moves), default=0.0)

    @property
    def downtime_s(self) -> float:
        """Time that VMs stand still, all together, s."""
        return float(sum(move.downtime_s for move in self.moves))


def history_needed(warmup: int, interval_s: float, sample_s: float) -> int:
    """Samples of the usage that are replayed before a plan."""
    return max(1, math.ceil(warmup * interval_s / sample_s))


def make_plan(scenario: Scenario, policy: Policy, warmup: int, rounds: int, seed: int = 0) -> Plan:
    """Let a policy see the last of the history, then decide for the cluster as it stands.

    While it watches, what it orders is not carried out. Then demand holds, and it decides ``rounds`` times,
    an interval apart; what is legal is carried out on the simulator, as each decision builds on those before.

    Args:
        scenario: The cluster; of its usage the last samples.
        policy: Whoever decides.
        warmup: Intervals that it watches, at least 1.
        rounds: Intervals that it decides.
        seed: Seed of the policy.
    """
    interval = scenario.config.interval_s
    timed = replace(scenario.config, horizon_s=interval * (warmup + rounds))
    env = make_env(replace(scenario, config=timed), policy)
    observation, _ = env.reset(seed=seed)
    sim: Simulator = env.unwrapped.sim  # type: ignore[attr-defined]
    policy.reset(sim.view, policy_rng(seed))
    plans = hasattr(policy, "plan")
    for _ in range(warmup):
        if plans:
            policy.predict(observation)
        observation, *_ = env.step(Decisions())
    plan = Plan()
    first = _Totals(sim)
    decide = _decide if plans else _act
    for i in range(rounds):
        observation = decide(env, sim, policy, observation, plan, i)
    last = _Totals(sim)
    plan.imbalance, plan.watts = (first.imbalance, last.imbalance), (first.watts, last.watts)
    plan.hosts_on, plan.overload_mhz = (first.on, last.on), (first.overload, last.overload)
    _value(plan, sim.view, policy)
    _time(plan, sim.view, interval)
    env.close()
    return plan


class _Totals:
    """The cluster at a glance."""

    def __init__(self, sim: Simulator) -> None:
        outlook, s = Outlook(sim.view), sim.state
        on = np.flatnonzero(s.host_power_state == ON)
        self.on = int(on.size)
        self.imbalance = outlook.imbalance()
        self.watts = sum(outlook.watts(int(h)) for h in on)
        self.overload = float(np.maximum(outlook.load - sim.params.host_cpu_mhz, 0.0).sum())


def _decide(env: Any, sim: Simulator, policy: Policy, observation: Any, plan: Plan, i: int) -> Any:
    """One interval of a policy that plans it at once."""
    decisions, _ = policy.predict(observation)
    if not len(decisions):
        if i == 0:
            plan.nothing = nothing_because(policy, sim.view)
        return env.step(Decisions())[0]
    outlook = Outlook(sim.view)
    closed = sim.state.host_maintenance.copy()
    refused = sim.apply(decisions)
    plan.refused += len(refused)
    kept = without_refused(decisions, refused)
    for v, b in zip(kept.move_vm.tolist(), kept.move_host.tolist()):
        _note(plan, policy, outlook, v, b, i, bool(closed[outlook.home[v]]))
    for kind, (name, *more) in ORDERS.items():
        if not more:
            plan.actions += [(kind, int(h), i) for h in getattr(kept, name)]
    return env.step(Decisions())[0]


def _act(env: Any, sim: Simulator, policy: Policy, observation: Any, plan: Plan, i: int) -> Any:
    """One interval of an agent: it acts until time passes, and what it moved is seen from where VMs are."""
    now, vms = sim.time_s, np.arange(sim.view.n_vms, dtype=np.int32)
    begins = np.ones(1, dtype=bool)
    while sim.time_s == now:
        outlook = Outlook(sim.view)
        masks = env.unwrapped.action_masks() if hasattr(env.unwrapped, "action_masks") else None
        action, _ = policy.predict(observation, None, begins, True, masks)
        if not isinstance(action, Decisions):
            action = np.asarray(action).reshape(env.action_space.shape or ())[()]
        observation, *_ = env.step(action)
        moved = homes_of(sim.state, vms)
        for v in np.flatnonzero((moved != outlook.home) & (moved >= 0) & (outlook.home >= 0)).tolist():
            _note(plan, policy, outlook, v, int(moved[v]), i, False)
    return observation


def _note(plan: Plan, policy: Policy, outlook: Outlook, v: int, b: int, i: int, closed: bool) -> None:
    """Add a move, with what is known when it is ordered."""
    source = int(outlook.home[v])
    before, after = outlook.move(v, b)
    gain, unit = gain_of(before, after, closed, math.nan)
    plan.moves.append(
        Move(v, source, b, i, before, after, gain, unit, why(policy, outlook.view, unit, before, v))
    )


def _value(plan: Plan, view: ClusterView, policy: Policy) -> None:
    """Give the moves that empty a host their part of what it saves when it is off."""
    off = {h for kind, h, _ in plan.actions if kind in ("power_off", "suspend")}
    per_host = Counter(move.source for move in plan.moves)
    idle = idle_watts(view.params)
    for i, move in enumerate(plan.moves):
        if move.source in off and move.gain_unit == "imbalance":
            gain, unit = gain_of(
                move.before, move.after, False, float(idle[move.source]) / per_host[move.source]
            )
            plan.moves[i] = replace(move, gain=gain, gain_unit=unit)


def _time(plan: Plan, view: ClusterView, interval_s: float) -> None:
    """When each migration begins, how long it takes and how long the VM stands still.

    A host takes part in as many copies at once as it has slots; copies of a round that share a host share its
    network. Rates are those of the pre-copy model under the demand of now.
    """
    if not plan.moves:
        return
    p = view.params
    a, b, v = (np.array([getattr(m, k) for m in plan.moves]) for k in ("source", "dest", "vm"))
    if p.has_precopy:
        total, down = _precopy(view, a, b, v, np.array([move.round for move in plan.moves]))
        slots = p.host_slots
    else:  # at a fixed rate, without downtime
        total, down = p.vm_mem_mib[v] / p.mig_mib_s, np.zeros(len(v))
        slots = np.full(view.n_hosts, len(v))
    free: dict[int, list[float]] = {}
    for i, move in enumerate(plan.moves):
        both = [free.setdefault(h, [0.0] * int(slots[h])) for h in (move.source, move.dest)]
        start = max(move.round * interval_s, both[0][0], both[1][0])
        for ends in both:
            heapq.heapreplace(ends, start + float(total[i]))
        plan.moves[i] = replace(move, start_s=start, seconds=float(total[i]), downtime_s=float(down[i]))
    plan.moves.sort(key=lambda move: (move.round, move.start_s))


def _precopy(view: ClusterView, a: I8, b: I8, v: I8, order: I8) -> tuple[F8, F8]:
    """Time and downtime of migrations of VMs v from hosts a to b in rounds ``order``, s, all (N,)."""
    p, n = view.params, len(v)
    together = np.zeros(n)
    for i in np.unique(order):
        mine = order == i
        busy = [np.bincount(ends[mine], minlength=view.n_hosts)[ends] for ends in (a, b)]
        shared = np.maximum(*(np.minimum(count, p.host_slots[ends]) for count, ends in zip(busy, (a, b))))
        together[mine] = shared[mine]
    nic = np.minimum(p.host_nic_mbps[a], p.host_nic_mbps[b]) / together
    rate = np.minimum(nic, p.copy_max_mbps) / MBIT_PER_MIB
    total, down, data = np.zeros(n), np.zeros(n), np.zeros(n)
    rounds: I4 = np.zeros(n, dtype=np.int32)
    diverged: I1 = np.zeros(n, dtype=np.int8)
    dirty = view.state.vm_dirty_mib_s[v].copy()
    inputs = p.vm_mem_mib[v].copy(), p.vm_working_mib[v].copy(), rate, dirty
    plan_precopy(view.kernel_params, *inputs, total, down, data, rounds, diverged)
    return total, down
