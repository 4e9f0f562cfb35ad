"""The one loop that runs every kind of policy: rules, solvers and agents."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import virtgym.envs  # noqa: F401 - registers the environments
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import Simulator
from virtgym.policies.base import Policy, placers_in

from .reasons import Reasons
from .recording import Recorder


@dataclass(frozen=True)
class Rollout:
    """One episode.

    Attributes:
        metrics: The metrics of docs, Metrics by name.
        record: What happened in every interval.
        reasons: What the policy foretold and chose, ``Reasons.arrays``; empty without ``heat``.
        wall_s: Time of the loop, s: environment, simulator and policy, without building them.
        sim_s: Simulated time, s.
        finished: Whether the horizon was reached.
        episode_return: Sum of the rewards.
    """

    metrics: dict[str, float]
    record: Recorder
    reasons: dict[str, NDArray[Any]]
    wall_s: float
    sim_s: float
    finished: bool
    episode_return: float


def policy_rng(seed: int) -> np.random.Generator:
    """The policy's own stream of random numbers: the third child of the seed (a scenario takes two)."""
    return np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])


def make_env(scenario: Scenario, policy: Policy | None = None, **options: Any) -> gym.Env[Any, Any]:
    """Make ``virtgym/Cluster-v0`` for a policy.

    Args:
        scenario: The scenario.
        policy: Its ``arrival_in`` (or ``arrival``) says who places arriving VMs, ``restart_in`` (``restart``)
            who those that restart; one with ``information = "oracle"`` is given ``view.oracle()``, and its
            rows say so; its ``env_options`` are arguments that the environment must have for it, which may
            depend on the scenario (``begin_on``).
        **options: Further arguments of the environment.
    """
    if (begin_on := getattr(policy, "begin_on", None)) is not None:
        begin_on(scenario)
    options = {**getattr(policy, "env_options", {}), **options}
    options = {**placers_in(policy, scenario.cluster), **options}
    options.setdefault("oracle", getattr(policy, "information", None) == "oracle")
    # Rules and solvers read the view: observations would be written for nobody.
    options.setdefault("observe", policy is None or not _plans(policy))
    # The suite runs Gymnasium's checker; here it would only cost time.
    return gym.make("virtgym/Cluster-v0", scenario=scenario, disable_env_checker=True, **options)


def _plans(policy: Policy) -> bool:
    return hasattr(policy, "plan")


def rollout(
    env: gym.Env[Any, Any],
    policy: Policy,
    seed: int = 0,
    *,
    heat: bool = True,
    max_intervals: int | None = None,
) -> Rollout:
    """Run one episode.

    Args:
        env: ``virtgym/Cluster-v0``.
        policy: A policy of any kind.
        seed: Seed of the environment and of the policy.
        heat: Whether to keep the utilisation of every host in every interval, and the policy's reasons.
        max_intervals: Stop earlier.

    Returns:
        Metrics and log.
    """
    limit = max_intervals if max_intervals is not None else 2**62
    observation, _ = env.reset(seed=seed)
    inner = cast(ClusterEnv, env.unwrapped)
    sim = inner.sim
    policy.reset(sim.view, policy_rng(seed))
    record = Recorder(sim, heat=heat)
    reasons = Reasons(policy, record.capacity) if heat else None
    start = time.perf_counter()
    run = _run_planner if _plans(policy) else _run_agent
    try:
        episode_return = run(env, sim, policy, record, reasons, observation, limit)
    finally:
        if reasons is not None:
            reasons.close()
    wall_s = time.perf_counter() - start
    record.close()
    metrics = {**inner.metrics(), "futile_moves": float(record.moves.count())}
    if record.n:
        p50, p99 = np.percentile(record.decision_ms, (50, 99))
        metrics["decision_ms_p50"], metrics["decision_ms_p99"] = float(p50), float(p99)
    if sim.config.events:
        metrics["events_refused"] = float(len(sim.agenda.refused))
    told = {} if reasons is None else reasons.arrays
    return Rollout(metrics, record, told, wall_s, sim.time_s, sim.done, episode_return)


def _run_planner(
    env: gym.Env[Any, Any],
    sim: Simulator,
    policy: Policy,
    record: Recorder,
    reasons: Reasons | None,
    observation: Any,
    limit: int,
) -> float:
    """Policies that plan an interval at once: one step of the environment per interval.

    Returns:
        The sum of rewards.
    """
    step, predict, clock = env.step, policy.predict, time.perf_counter_ns
    state = None
    over, total = sim.done, 0.0
    while not over and record.n < limit:
        before = clock()
        decisions, state = predict(observation, state)
        spent = clock() - before
        observation, reward, terminated, truncated, _ = step(decisions)
        over, total = terminated or truncated, total + float(reward)
        record.record(spent)
        if reasons is not None:
            reasons.end_interval()
    return total


def _run_agent(
    env: gym.Env[Any, Any],
    sim: Simulator,
    policy: Policy,
    record: Recorder,
    reasons: Reasons | None,
    observation: Any,
    limit: int,
) -> float:
    """Policies that read observations: many steps may make one interval, whose decision times add up.

    Returns:
        The sum of rewards.
    """
    clock = time.perf_counter_ns
    inner = cast(ClusterEnv, env.unwrapped)
    masks: Callable[[], Any] | None = getattr(inner, "action_masks", None)
    state: Any = None
    begins = np.ones(1, dtype=bool)
    over, total = sim.done, 0.0
    now, spent = sim.time_s, 0
    while not over and record.n < limit:
        mask = masks() if masks is not None else None
        before = clock()
        action, state = policy.predict(observation, state, begins, True, mask)
        spent += clock() - before
        begins[0] = False
        if not isinstance(action, Decisions):
            action = np.asarray(action).reshape(env.action_space.shape or ())[()]
        if reasons is not None:
            reasons.look(inner, action)
        observation, reward, terminated, truncated, _ = env.step(action)
        over, total = terminated or truncated, total + float(reward)
        if sim.time_s > now:
            record.record(spent)
            now, spent = sim.time_s, 0
            if reasons is not None:
                reasons.end_interval()
    return total
