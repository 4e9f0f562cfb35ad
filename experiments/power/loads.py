"""What hosts did in every step, by the engine: how many were at which load, and how many did anything.

Power is a function of a host's load, so the watts of a group of hosts need no more of an episode than how
many hosts were at which load. The engine plays the scenario with hosts that draw exactly their load (a linear
curve from 0 to 1 W): a host's energy in a step is then its mean load, exact between events, and with the time
in which it held VMs its load while it held them. Loads lie on a fine grid, shared between its two nearest
points, on which every curve of straight lines between points of it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.sim.models.power import ON, PowerCurve
from virtgym.envs.sim.simulator import Simulator

LINES = 200
"""Straight lines of the grid of loads."""
GRID = np.linspace(0.0, 1.0, LINES + 1)


@dataclass(frozen=True)
class Loads:
    """Hosts of each type in every step.

    Attributes:
        step_s: Length of a step, s.
        hosts: Mean number of hosts of each type at each load of ``GRID``, (S, T, LINES + 1).
        busy: Mean number of hosts of each type with any load, (S, T).
    """

    step_s: float
    hosts: F8
    busy: F8

    @property
    def load(self) -> F8:
        """Mean load of the hosts, (S,)."""
        by_load = self.hosts.sum(axis=1)
        return np.asarray(by_load @ GRID / by_load.sum(axis=1))


def play_loads(
    scenario: Scenario, step_s: float, steps: int, seed: int, tick: Callable[[], None] | None = None
) -> Loads:
    """Play a scenario without orders.

    Args:
        scenario: The scenario.
        step_s: Length of a step, s.
        steps: Steps.
        seed: Of what happens by chance.
        tick: Called after every part of a step that is played.

    Raises:
        ConfigError: If a host is not on in some step, or arrivals are placed by power.
    """
    cluster = scenario.cluster
    if cluster.arrival == "pabfd":
        raise ConfigError(
            "scenario.arrival=pabfd: places VMs by the power that is to be found; first_fit, best_fit and "
            "worst_fit do not"
        )
    draws_load = tuple(
        replace(kind, curve=PowerCurve("linear", idle_w=0.0, peak_w=1.0)) for kind in cluster.host_types
    )
    parts = max(1, math.ceil(step_s / scenario.workload.sample_s - 1e-6))  # within which loads change little
    part_s = step_s / parts
    cluster = replace(cluster, host_types=draws_load, interval_s=part_s)
    sim = Simulator(cluster, scenario.workload, horizon_s=steps * step_s)
    sim.reset(np.random.default_rng(seed))
    state, width = sim.state, LINES + 1
    kinds = cluster.host_type_of.astype(np.int64)
    n_types = len(cluster.host_types)
    hosts, busy = np.zeros((steps, n_types * width)), np.zeros((steps, n_types))
    energy, active = np.zeros(sim.view.n_hosts), np.zeros(sim.view.n_hosts)
    for k in np.repeat(np.arange(steps), parts).tolist():
        sim.advance()
        if not (state.host_power_state == ON).all():
            h = int(np.argmax(state.host_power_state != ON))
            raise ConfigError(
                f"scenario: host {h} is not on at {sim.time_s:g} s; power is fitted to hosts that stay on "
                "(scenario.hosts_start_on=true, scenario.failures.enabled=false)"
            )
        load, held = (state.host_energy_j - energy) / part_s, (state.host_active_s - active) / part_s
        energy[:], active[:] = state.host_energy_j, state.host_active_s
        held = np.clip(held, 0.0, 1.0)
        at = LINES * np.clip(load / np.maximum(held, 1e-12), 0.0, 1.0)
        low = np.minimum(at.astype(np.int64), LINES - 1)
        first = kinds * width
        for place, share in (
            (first, 1.0 - held),
            (first + low, held * (low + 1 - at)),
            (first + low + 1, held * (at - low)),
        ):
            hosts[k] += np.bincount(place, share, minlength=hosts.shape[1]) / parts
        busy[k] += np.bincount(kinds, np.where(load > 0, held, 0.0), minlength=n_types) / parts
        if tick is not None:
            tick()
    return Loads(step_s, hosts.reshape(steps, n_types, width), busy)


def count_steps(scenario: Scenario, step_s: float, until_s: float) -> int:
    """Whole steps of the scenario, at most up to a time."""
    return max(0, math.floor(min(scenario.horizon_s, until_s) / step_s + 1e-6))
