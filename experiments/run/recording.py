"""What is logged of an episode, interval by interval: by the rollout loop, never by the policy.

Inside the loop the recorder only copies a few arrays (a microsecond or two each); everything is worked out
afterwards, or block by block where an episode is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8
from virtgym.envs.sim.metrics import service_metrics
from virtgym.envs.sim.models.memory import MEMORY_STATES
from virtgym.envs.sim.models.power import (
    BOOTING,
    FAILED,
    OFF,
    ON,
    RESUMING,
    SHUTTING_DOWN,
    STANDBY,
    SUSPENDING,
)
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Totals
from virtgym.envs.sim.state.cluster_state import ClusterState

from .move_judge import MoveJudge

if TYPE_CHECKING:
    import pandas as pd

HEAT_PER_UNIT = 200
"""Heat value of a host at full load: one step is 0.5 %."""
HEAT_FAILED = 252
"""Heat value of a host that has failed."""
HEAT_OVERLOADED = 253
"""Heat value of a host that was short of CPU at some time in the interval."""
HEAT_IN_TRANSIT = 254
"""Heat value of a host that is booting, shutting down, suspending or resuming."""
HEAT_OFF = 255
"""Heat value of a host that is off or in standby."""

_IN_TRANSIT = (BOOTING, SHUTTING_DOWN, SUSPENDING, RESUMING)
_NOT_ON = (OFF, STANDBY)
_STATES = ((HEAT_IN_TRANSIT, _IN_TRANSIT), (HEAT_OFF, _NOT_ON), (HEAT_FAILED, (FAILED,)))

_BLOCK = 64
_J_PER_KWH = 3.6e6


SWAPPING = MEMORY_STATES.index("hard")
"""From this state of its memory on, a host swaps."""

NUMA_FULL = 0.25
"""Share of the work lost to remote memory that is written as full."""


def _lost_to_numa(s: ClusterState, n_hosts: int) -> F8:
    """Share of the work that a host's VMs lose to remote memory, mean over its VMs, shape (H,)."""
    there = s.vm_host >= 0
    host = s.vm_host[there]
    lost = np.bincount(host, 1.0 - 1.0 / np.maximum(s.vm_numa_slowdown[there], 1.0), n_hosts)
    return lost / np.maximum(np.bincount(host, minlength=n_hosts), 1)


GAUGES: dict[str, tuple[str, Callable[[ClusterState], Any]]] = {
    "hosts_failed": ("has_failures", lambda s: np.count_nonzero(s.host_power_state == FAILED)),
    "vms_down": ("has_failures", lambda s: s.vm_down_now.sum(dtype=np.int64)),
    "ballooned_mib": ("has_tiers", lambda s: s.vm_ballooned_mib.sum()),
    "swapped_mib": ("has_tiers", lambda s: s.vm_swapped_mib.sum()),
}
"""Columns of the per-interval table that only some clusters have, at the end of the interval: the parameter
that says so, and what is read."""


class Recorder:
    """Log of one episode.

    Args:
        sim: Simulator of the episode, just reset.
        heat: Whether to keep what every host did in every interval.

    Attributes:
        n: Intervals that have been logged.
        capacity: Intervals of the episode.
    """

    def __init__(self, sim: Simulator, *, heat: bool = True) -> None:
        self._sim = sim
        self._state = sim.state
        self.moves = MoveJudge(sim)
        self.capacity = capacity = math.ceil(sim.horizon_s / sim.params.interval_s - 1e-9)
        n_hosts = sim.config.n_hosts
        self.n = 0
        self._totals = np.zeros((capacity + 1, len(Totals.places))).view(Totals)
        self._totals[0] = sim.state.totals
        self._time_s = np.zeros(capacity + 1)
        self._time_s[0] = sim.time_s
        self._waiting = np.zeros(capacity, dtype=np.int64)
        self._decision_ns = np.zeros(capacity, dtype=np.int64)
        self._load = np.zeros(capacity)
        self._ask = np.zeros((_BLOCK, n_hosts))
        self._power = np.zeros((_BLOCK, n_hosts), dtype=np.int8)
        self._short_s = np.zeros((_BLOCK + 1, n_hosts))
        self._short_s[0] = sim.state.host_sat_s
        p = sim.params
        self._gauges = {name: np.zeros(capacity) for name, (flag, _) in GAUGES.items() if getattr(p, flag)}
        kept = {"heat": True, "memory": p.memory_binding, "numa": p.has_numa} if heat else {}
        self.layers = {name: np.zeros((n_hosts, capacity), np.uint8) for name, there in kept.items() if there}
        self._memory = np.zeros((_BLOCK, n_hosts))
        self._swapping = np.zeros((_BLOCK, n_hosts), dtype=np.bool_)
        self._numa = np.zeros((_BLOCK, n_hosts))

    @property
    def heat(self) -> NDArray[np.uint8] | None:
        """Utilisation of every host in every interval, shape (H, intervals); None = not kept."""
        return self.layers.get("heat")

    def record(self, decision_ns: int) -> None:
        """Log the interval that has just ended.

        Args:
            decision_ns: Time the policy took to decide about it, ns.
        """
        self.moves.look()
        n, s = self.n, self._state
        self._totals[n + 1] = s.totals
        self._time_s[n + 1] = s.clock.now_s
        self._waiting[n] = s.counters.pending
        self._decision_ns[n] = decision_ns
        i = n % _BLOCK
        self._ask[i] = s.host_ask_mhz
        self._power[i] = s.host_power_state
        self._short_s[i + 1] = s.host_sat_s
        for name, values in self._gauges.items():
            values[n] = GAUGES[name][1](s)
        if "memory" in self.layers:
            self._memory[i] = s.host_mem_mib
            if self._sim.params.has_tiers:
                self._swapping[i] = s.host_mem_state >= SWAPPING
        if "numa" in self.layers:
            self._numa[i] = _lost_to_numa(s, len(s.host_mem_mib))
        self.n = n + 1
        if i == _BLOCK - 1:
            self._flush(_BLOCK)

    def close(self) -> None:
        """Work out what is left of the last block."""
        if self.n % _BLOCK:
            self._flush(self.n % _BLOCK)

    def _flush(self, count: int) -> None:
        """Turn a block of raw arrays into loads and heat."""
        first = self.n - count
        capacity = self._sim.params.host_cpu_mhz
        power, ask = self._power[:count], self._ask[:count]
        on = power == ON
        offered = np.einsum("th,h->t", on, capacity)  # not BLAS: its rounding depends on the CPU
        asked = np.einsum("th,th->t", on, ask)
        np.divide(asked, offered, out=self._load[first : self.n], where=offered > 0)
        for name, table in self.layers.items():
            if name == "heat":
                share, over = ask / capacity, np.diff(self._short_s[: count + 1], axis=0) > 0
            elif name == "memory":
                share, over = self._memory[:count] * self._sim.params.host_inv_mem, self._swapping[:count]
            else:
                share, over = self._numa[:count] / NUMA_FULL, np.zeros_like(on)
            block = np.rint(np.minimum(share, 1.0) * HEAT_PER_UNIT).astype(np.uint8)
            block[over & on] = HEAT_OVERLOADED
            for value, states in _STATES:
                block[np.isin(power, states)] = value
            table[:, first : self.n] = block.T
        self._short_s[0] = self._short_s[count]

    @property
    def decision_ms(self) -> NDArray[np.float64]:
        """Time of the policy in every interval, ms."""
        return self._decision_ns[: self.n] / 1e6

    @property
    def vm_intervals(self) -> float:
        """VMs that were there, summed over the intervals."""
        columns = self.columns()
        return float((columns["vms_running"] + columns["vms_waiting"]).sum())

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of the per-interval table.

        Rates (``hosts_on``, ``power_w``, ``demand_mhz``, ``unserved_mhz``, ``saturated_hosts``, the
        imbalances) are exact means over the interval; ``cpu_load``, ``migrations_in_flight`` and the VM
        counts are those at its end; ``time_s`` is its start.
        """
        n = self.n
        totals = self._totals[: n + 1]
        delta: Any = np.diff(totals, axis=0)
        span = np.diff(self._time_s[: n + 1])
        end: Any = totals[1:]
        waiting = self._waiting[:n]
        in_flight = end.mig_started - end.mig_done - end.mig_aborted
        return {
            "step": np.arange(n),
            "time_s": self._time_s[:n],
            "hosts_on": delta.on_s / span,
            "power_w": delta.energy_j / span,
            "energy_kwh": self._sim.params.pue * delta.energy_j / _J_PER_KWH,
            "cpu_load": self._load[:n],
            "demand_mhz": delta.requested / span,
            "unserved_mhz": delta.missed / span,
            "saturated_hosts": delta.sat_s / span,
            "migrations": delta.mig_started.astype(np.int64),
            "migrations_in_flight": in_flight.astype(np.int64),
            "boots": delta.boots.astype(np.int64),
            "shutdowns": delta.shutdowns.astype(np.int64),
            "vms_running": (end.arrivals - end.departures).astype(np.int64) - waiting,
            "vms_waiting": waiting,
            "imbalance_cpu": delta.imb_cpu_s / span,
            "imbalance_mem": delta.imb_mem_s / span,
            "decision_ms": self.decision_ms,
            **{name: values[:n] for name, values in self._gauges.items()},
            **self._service(delta),
        }

    def _service(self, delta: Any) -> dict[str, NDArray[np.float64]]:
        """Cost, its terms and weighted unserved work of every interval, by the names of the metrics."""
        rows = [service_metrics(self._sim.params, one) for one in delta]
        return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}

    def frame(self, **keys: Any) -> pd.DataFrame:
        """The per-interval table, with ``keys`` as its first columns."""
        import pandas as pd

        return pd.DataFrame({**{k: [v] * self.n for k, v in keys.items()}, **self.columns()})
