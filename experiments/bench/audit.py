"""Random episodes of the full model under the independent checker (`python -m ...bench.audit`).

Every sub-model is on, hosts fail, VMs crash, orders are legal or not. After all orders and every stretch of
time the state and what has happened are worked out again (``envs/sim/audit``). Anything that does not
hold is printed, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from oracles.random_episodes import RandomEpisode, random_orders
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario, load_scenario_config
from virtgym.envs.scenarios.schema import ScenarioConfig
from virtgym.envs.sim.audit.checker import Auditor
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Totals
from virtgym.policies.registry import make_policy, policy_names

from ..run.rollout import make_env
from ..suite.tasks import load_suite

UNFIT = ("random",)
"""Policies that do not plan intervals."""

EVENTS: dict[str, int] = {
    "arrivals": Totals.arrivals,
    "departures": Totals.departures,
    "migrations ordered": Totals.mig_started,
    "migrations done": Totals.mig_done,
    "migrations aborted": Totals.mig_aborted,
    "host boots": Totals.boots,
    "host shutdowns": Totals.shutdowns,
    "host failures": Totals.host_failures,
    "VM crashes": Totals.vm_crashes,
    "VM restarts": Totals.restarts,
    "take-overs": Totals.takeovers,
    "profile moves": Totals.profile_moves,
    "NUMA moves": Totals.numa_moves,
    "failed placements": Totals.failed_placements,
    "refused orders": Totals.illegal,
}
"""Label and index of the totals that are printed."""


@dataclass
class Audit:
    """What an audit has seen.

    Attributes:
        episodes: Number of episodes.
        intervals: Number of intervals.
        checks: Number of states checked.
        exact_hosts: (host, stretch) pairs whose energy was worked out exactly.
        events: How often what has happened.
        queued: Different events that were seen in the queue, by kind; shorter waits fall between two looks.
        states: How often what was seen in a state that was checked: phases of copies, memory states, hosts
            short of CPU, and the like.
        violations: Everything found, with the episode.
    """

    episodes: int = 0
    intervals: int = 0
    checks: int = 0
    exact_hosts: int = 0
    events: Counter[str] = field(default_factory=Counter)
    queued: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def count_events(self, sim: Simulator) -> None:
        """Add what has happened in an episode."""
        for name, index in EVENTS.items():
            self.events[name] += int(sim.state.totals[index])

    def report(self) -> str:
        """The figures in words, one kind a line."""
        lines = [
            f"episodes: {self.episodes}, intervals: {self.intervals}, states checked: {self.checks}, "
            f"host energies worked out exactly: {self.exact_hosts}",
            "events: " + ", ".join(f"{name} {n:,}" for name, n in self.events.items()),
            "queued: " + ", ".join(f"{name} {self.queued[name]:,}" for name in EVENT_KINDS),
            "seen: " + ", ".join(f"{name} {n:,}" for name, n in sorted(self.states.items())),
            f"violations: {len(self.violations)}",
        ]
        return "\n".join([*lines, *self.violations[:20]])


EVENT_KINDS = (
    *("migration end", "departure", "boot end", "shutdown end", "VM up", "pages end", "restart due"),
    *("host noticed", "profile moved"),
)
COPY_PHASES = ("idle", "init", "round", "stop", "resume", "pull")
MEMORY_STATES = ("high", "clear", "soft", "hard", "low")
POWER_STATES = ("off", "booting", "on", "shutting down", "standby", "suspending", "resuming", "failed")


def _note(audit: Audit, sim: Simulator) -> None:
    """Count what a state shows."""
    s, p = sim.state, sim.params

    def count(label: str, number: int) -> None:
        if number:
            audit.states[label] += number

    for code, name in enumerate(POWER_STATES):
        count(f"hosts {name}", int((s.host_power_state == code).sum()))
    count("hosts short of CPU", int((s.host_sat_now > 0).sum()))
    count("VMs waiting", int((s.vm_state == 1).sum()))
    count("VMs starting", int((s.vm_state == 4).sum()))
    if p.has_precopy:
        for code, name in enumerate(COPY_PHASES[1:], start=1):
            count(f"copies in {name}", int((s.copy_phase == code).sum()))
        count("VMs throttled", int((s.copy_throttle > 0).sum()))
    if p.has_tiers:
        for code, name in enumerate(MEMORY_STATES[1:], start=1):
            count(f"hosts with memory {name}", int((s.host_mem_state == code).sum()))
        count("VMs with blocked memory", int((s.vm_blocked_mib > 0).sum()))
    if p.has_standby:
        count("secondaries", int((s.vm_secondary >= 0).sum()))
    if p.has_numa:
        count("VMs with pages on the way", int((s.vm_pages_end_s > s.clock.now_s).sum()))
    if p.has_io:
        dropped = s.vm_net_out_ask + s.vm_net_in_ask > s.vm_net_out_mbps + s.vm_net_in_mbps + 1e-6
        count("VMs short of network", int((dropped & (s.vm_io_rate > 0)).sum()))


def _queue(sim: Simulator) -> set[tuple[float, int, int]]:
    """Time, kind and item of every event that waits."""
    s = sim.state
    n = int(s.counters.queued)
    return set(zip(s.heap_time[:n].tolist(), s.heap_kind[:n].tolist(), s.heap_item[:n].tolist()))


def audit_episode(episode: RandomEpisode, audit: Audit) -> None:
    """Run one random episode under the checker.

    Args:
        episode: The episode.
        audit: What was seen is added here.
    """
    sim, rng = episode.simulator()
    auditor = Auditor(sim)
    steps = 0
    queued: set[tuple[float, int, int]] = set()
    while not sim.done:
        sim.apply(random_orders(rng, sim))
        auditor.observe()
        queued |= _queue(sim)
        left = sim.params.interval_s
        if rng.random() < 0.3:  # look at some time between two decisions, too
            most = float(rng.choice([2.0, 30.0, left]))  # short stretches show the short phases of a copy
            part = float(rng.uniform(0.01, 0.99)) * most
            sim.advance(part)
            auditor.observe()
            audit.checks += 1
            _note(audit, sim)
            queued |= _queue(sim)
            left -= part
        sim.advance(left)
        auditor.observe()
        _note(audit, sim)
        steps += 1
        audit.checks += 2
        queued |= _queue(sim)
        if auditor.violations:
            break  # what follows from a fault says nothing new
    audit.episodes += 1
    audit.intervals += steps
    audit.queued.update(EVENT_KINDS[kind] for _, kind, _ in queued)
    audit.exact_hosts += auditor.exact_hosts
    audit.count_events(sim)
    audit.violations += [f"episode {episode.seed}: {line}" for line in auditor.violations[:5]]


def audit_episodes(
    episodes: int, intervals: int, *, first: int = 0, every: bool = True, progress: bool = False
) -> Audit:
    """Run random episodes under the checker.

    Args:
        episodes: How many.
        intervals: Length of each.
        first: Seed of the first one.
        every: Whether every sub-model is on; else some are off, at random.
        progress: Whether to print a line after every tenth episode.

    Returns:
        What was seen, and every violation.
    """
    audit = Audit()
    began = time.perf_counter()
    for seed in range(first, first + episodes):
        audit_episode(RandomEpisode(seed, intervals, every=every), audit)
        if progress and (seed - first + 1) % 10 == 0:
            spent = time.perf_counter() - began
            print(f"{audit.episodes} episodes, {spent:.0f} s, {len(audit.violations)} violations", flush=True)
    return audit


def audit_task(scenario: str, seed: int, episodes: int, intervals: int, audit: Audit) -> None:
    """Run random episodes of one load of a task under the checker, every other one by legal choices alone.

    Legal choices are drawn from the mask of ``Cluster-v0``: none of them may be refused, or break the
    failover guarantee. The others are random orders, legal or not.

    Args:
        scenario: A scenario of kind cluster.
        seed: Seed of its load, and of the first episode.
        episodes: How many.
        intervals: Length of each.
        audit: What was seen is added here.
    """
    raw = load_scenario_config(scenario)
    interval_s = float(raw.get("interval_s", ScenarioConfig.interval_s))
    built = build_scenario(raw, seed=seed, overrides={"horizon_s": intervals * interval_s})
    env = ClusterEnv(built, observe=False)
    for number in range(episodes):
        rng = np.random.default_rng([seed, number])
        env.reset(seed=int(rng.integers(2**31)))
        sim, legal, over = env.sim, number % 2 == 0, False
        auditor = Auditor(sim)
        found: list[str] = []
        while not over and not auditor.violations:
            time_s = sim.time_s
            while sim.time_s == time_s:
                if legal:
                    allowed = np.flatnonzero(env.action_masks())
                    stops = allowed[0] == 0 and rng.random() < 0.1
                    _, _, _, over, info = env.step(0 if stops else int(rng.choice(allowed)))
                    if "illegal_action" in info:
                        found.append(f"legal choice refused: {info['illegal_action']}")
                else:
                    _, _, _, over, _ = env.step(random_orders(rng, sim))
            auditor.observe()
            audit.checks += 1
            audit.intervals += 1
        broken = int(sim.state.totals.guarantee_broken)
        found += [f"the guarantee was broken {broken} times"] * (legal and broken > 0)
        audit.episodes += 1
        audit.exact_hosts += auditor.exact_hosts
        audit.count_events(sim)
        audit.violations += [f"{scenario} {seed}.{number}: {x}" for x in [*found, *auditor.violations][:5]]


def audit_suite(
    suite: str, episodes: int, intervals: int, *, first: int = 0, progress: bool = False
) -> Audit:
    """Run random episodes of all cluster tasks of a suite under the checker.

    Args:
        suite: Its name.
        episodes: How many, of all tasks together.
        intervals: Length of each.
        first: Seed of the first load.
        progress: Whether to print a line after every load.

    Returns:
        What was seen, and every violation.
    """
    tasks = [task for task in load_suite(suite).tasks if task.kind == "cluster"]
    audit = Audit()
    for turn in itertools.count():
        for task in tasks:
            if audit.episodes >= episodes:
                return audit
            audit_task(task.scenario, first + turn, min(50, episodes - audit.episodes), intervals, audit)
            if progress:
                print(f"{audit.episodes} episodes, {len(audit.violations)} violations", flush=True)
    raise AssertionError  # itertools.count has no end


def _begin_plans(policy: Any, episode: RandomEpisode) -> tuple[Simulator, Callable[[], None]]:
    """A cluster, and what plays an interval: a policy that plans, on the simulator itself."""
    sim, rng = episode.simulator()
    policy.reset(sim.view, rng)

    def play() -> None:
        sim.step(policy.plan(sim.view))

    return sim, play


def _begin_choices(policy: Any, episode: RandomEpisode) -> tuple[Simulator, Callable[[], None]]:
    """The same for an agent, whose choices ``Cluster-v0`` carries out."""
    config, workload, rng = episode.draw()
    base = build_scenario("small", overrides={"horizon_s": episode.horizon_s})
    env = make_env(replace(base, cluster=config, workload=workload), policy)
    observation, _ = env.reset(seed=episode.seed)
    inner: Any = env.unwrapped
    sim: Simulator = inner.sim
    policy.reset(sim.view, rng)

    def play() -> None:
        nonlocal observation
        now = sim.time_s
        while sim.time_s == now:
            action, _ = policy.predict(observation, action_masks=inner.action_masks())
            observation, *_ = env.step(action)

    return sim, play


def audit_policies(
    policies: Sequence[str], episodes: int, intervals: int, *, first: int = 0, progress: bool = False
) -> Audit:
    """Let policies operate random full-model clusters under the checker; none of them may fail.

    Args:
        policies: Their names.
        episodes: How many clusters, the same for each policy.
        intervals: Length of each episode.
        first: Seed of the first cluster.
        progress: Whether to print a line after every policy.

    Returns:
        What was seen, and every violation; a policy that a cluster is nothing for (a ``ConfigError`` when its
        episode begins) is counted under ``refused``.
    """
    audit = Audit()
    for name in policies:
        policy: Any = make_policy(name)
        begin = _begin_plans if hasattr(policy, "plan") else _begin_choices
        for seed in range(first, first + episodes):
            try:
                sim, play = begin(policy, RandomEpisode(seed, intervals, classes=True))
            except ConfigError:
                audit.states[f"{name} refused"] += 1
                continue
            auditor = Auditor(sim)
            try:
                while not sim.done and not auditor.violations:
                    play()
                    auditor.observe()
                    audit.intervals += 1
            except Exception as error:  # what is looked for
                audit.violations.append(f"{name} {seed}: {type(error).__name__}: {error}")
            audit.episodes += 1
            audit.checks += 1
            audit.count_events(sim)
            audit.violations += [f"{name} {seed}: {line}" for line in auditor.violations[:2]]
        if progress:
            print(f"{name}: {audit.episodes} episodes, {len(audit.violations)} violations", flush=True)
    return audit


def main(argv: list[str] | None = None) -> int:
    """Audit, print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m virtgym.experiments.bench.audit", description=__doc__)
    parser.add_argument("--episodes", type=int, default=200, help="number of episodes (default: 200)")
    parser.add_argument("--intervals", type=int, default=200, help="length of each (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first episode (default: 0)")
    parser.add_argument("--some", action="store_true", help="switch some sub-models off, at random")
    parser.add_argument("--suite", help="episodes of the tasks of a suite instead")
    parser.add_argument("--policies", nargs="*", metavar="NAME", help="policies decide; none named = all")
    options = parser.parse_args(argv)
    began = time.perf_counter()
    if options.policies is not None:
        names = options.policies or [name for name in policy_names("cluster") if name not in UNFIT]
        audit = audit_policies(names, options.episodes, options.intervals, first=options.first, progress=True)
    elif options.suite:
        audit = audit_suite(
            options.suite, options.episodes, options.intervals, first=options.first, progress=True
        )
    else:
        audit = audit_episodes(
            options.episodes, options.intervals, first=options.first, every=not options.some, progress=True
        )
    print(audit.report())
    print(f"{time.perf_counter() - began:.0f} s")
    return 1 if audit.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
