"""What may come while candidates are tried: demand that errs as before, turnover, one failure at a time.

Demand. At an origin in the past a forecast f was made, and what followed was measured: the errors y - f of
all VMs, interval by interval, are one future, laid on the forecast of now. So VMs rise together as they have
risen together, a load that grows faster than its forecast goes on doing so, and nothing is assumed about
distributions. Signals of the trace besides demand (working sets, traffic) are forecast to stay what they are.

Turnover. VMs come and leave as often as they have so far: Poisson arrivals, each like one of the VMs that are
there, and exponential lives.

Failures. Every host, and every failure domain, fails once, alone, in a fork of its own; what that changes
counts by the number of such failures to expect, span / (mean time up). To first order in the rates this is
the expected value, without the noise of drawing what fails. Who is down now is back after the mean time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.sim.config import ClusterConfig
from virtgym.envs.sim.models.failures import HOST_FAILS, HOST_REPAIRED, S_PER_H, weibull_mean_h
from virtgym.envs.sim.models.power import FAILED
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED
from virtgym.envs.sim.telemetry.shown import SIGNALS

from ..forecast.history import History
from .daily import Outlook


class Unit(NamedTuple):
    """Hosts that fail together."""

    hosts: tuple[int, ...]
    up_s: float  # mean time up
    down_s: float  # mean time down


def failing_units(config: ClusterConfig) -> list[Unit]:
    """What may fail in a cluster: its hosts, then its failure domains; nothing where failures are off."""
    failures = config.failures
    if failures is None:
        return []
    units = [Unit(d.hosts, d.mtbf_h * S_PER_H, d.mttr_h * S_PER_H) for d in config.domains]
    if failures.model == "none":
        return units
    up, down = (weibull_mean_h(*times) * S_PER_H for times in (failures.up(), failures.down()))
    return [*(Unit((h,), up, down) for h in range(config.n_hosts)), *units]


def faults(failing: list[tuple[int, float, float]]) -> dict[str, Any]:
    """Parameters of a fork in which hosts fail.

    Args:
        failing: Host, when it fails (s, -inf = it is down now) and when it is repaired (s).
    """
    events = [(at, HOST_FAILS, h) for h, at, _ in failing if at > -np.inf]
    events += [(until, HOST_REPAIRED, h) for h, _, until in failing]
    time_s, kind, item = zip(*sorted(events)) if events else ((), (), ())
    return {
        "fail_time_s": np.array(time_s, dtype=np.float64),
        "fail_item": np.array(item, dtype=np.int32),
        "fail_kind": np.array(kind, dtype=np.int8),
    }


def _reorder(order: Any, n: int, at_s: F8) -> Any:
    """VMs to which something has happened, n of them, in that order, then the others by time."""
    rest = order[n:]
    return np.concatenate([order[:n], rest[np.argsort(at_s[rest], kind="stable")]]).astype(order.dtype)


def _alike(wanted: I8, there: I8) -> I8:
    """The place of one of each kind that is wanted among those there, each place once; -1 = none, (n,)."""
    order, mine = np.argsort(there, kind="stable"), np.argsort(wanted, kind="stable")
    asked, kinds = wanted[mine], there[order]
    place = np.searchsorted(kinds, asked) + np.arange(len(asked)) - np.searchsorted(asked, asked)
    enough = place < np.searchsorted(kinds, asked, side="right")
    found: I8 = np.full(len(wanted), -1)
    found[mine[enough]] = order[place[enough]]
    return found


class Futures:
    """Keeps what was forecast and what was measured, and makes futures of it.

    Args:
        view: The cluster.
        scenarios: Futures of demand, at most; 0 = the forecast alone.
        past: Intervals that an origin lies back, at most.
        horizon: Intervals that are tried.
        seed: Of the run's generator: for who comes and leaves.
    """

    def __init__(
        self, view: ClusterView, outlook: Outlook, scenarios: int, past: int, horizon: int, seed: int = 0
    ) -> None:
        self.outlook = outlook
        self.scenarios, self.past, self.horizon = scenarios, past, horizon
        p = view.params
        self.signals = [name for name in SIGNALS if len(getattr(p, name))] if scenarios else []
        n = view.n_vms
        self._known = {name: History(n, past + 1) for name in ("util", "level", *self.signals)}
        self._seed = seed
        self._came, self._vm_s, self._last_s = -1, 0.0, view.time_s
        sizes = np.stack([p.vm_mem_mib, p.vm_vcpus, p.vm_cpu_mhz, p.vm_weight], axis=1)
        self._kind = np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)
        self.units = failing_units(view.config) if scenarios else []

    def note(self, view: ClusterView, there: Any, level: F8) -> None:
        """Take note of an interval.

        Args:
            view: What it showed.
            there: VMs of which there is a measurement, (V,).
            level: Of the outlook, (V,).
        """
        if not self.scenarios:
            return
        self._vm_s += float(there.sum()) * (view.time_s - self._last_s)
        self._last_s = view.time_s
        if self._came < 0:
            self._came = view.state.counters.arrived  # at the beginning: no arrivals
        shown = {"util": view.state.vm_demand_mhz / view.params.vm_cpu_mhz, "level": level}
        for name, history in self._known.items():
            history.push(shown[name] if name in shown else getattr(view.params, name)[0], there)

    def demand(self, view: ClusterView, ahead: F8) -> list[dict[str, Any]]:
        """Parameters of forks, one for every future of demand; none as long as there is no past.

        Args:
            view: The cluster.
            ahead: What the outlook says of the intervals to come, (horizon or 1, V).
        """
        counts = self._known["util"].counts
        longest = min(self.past, int(counts.max(initial=0)) - 1)
        n = min(self.scenarios, longest)
        if n < 1:
            return []
        # Evenly spread, so that the newest past and the oldest have a say.
        lags = 1 + ((np.arange(n) + 0.5) * longest / n).astype(np.int64)
        per_interval = max(1, round(view.params.interval_s / view.params.sample_s))
        gone = int(view.time_s / view.params.sample_s + 1e-9)
        rows = np.repeat(np.arange(self.horizon), per_interval)
        known = self._known
        futures = []
        for i, lag in enumerate(lags.tolist()):
            made: dict[str, Any] = {}
            for name in ("util", *self.signals):
                values = known[name].values
                if name == "util":
                    then = view.time_s - lag * view.params.interval_s
                    origin = self.outlook.path(known["level"].values[-1 - lag], then, lag)
                    level = ahead
                else:
                    origin, level = values[-1 - lag][None], getattr(view.params, name)[:1]
                errors = (values[len(values) - lag :] - origin)[rows % lag]
                # A wave that rises goes beyond what was seen.
                highest = np.where(counts > 0, values.max(axis=0), 0.0) if len(level) == 1 else 1.0
                level = level[np.minimum(rows, len(level) - 1)]
                path = np.clip(level + np.where(counts > lag, errors, 0.0), 0.0, np.maximum(level, highest))
                made[name] = np.concatenate([np.repeat(path[:1], gone, axis=0), path])
            futures.append(made)
            self._let_come_and_leave(view, i, made)
        return futures

    def _let_come_and_leave(self, view: ClusterView, i: int, made: dict[str, Any]) -> None:
        """Add who comes and who leaves to a future, as often as it was seen so far.

        Who comes is like one of those that are there: of its size, with its demand.
        """
        s, p, now = view.state, view.params, view.time_s
        came, left = s.counters.arrived - self._came, s.counters.left
        if came + left < 1:
            return
        turn = int(now / p.interval_s + 0.5)
        rng = np.random.default_rng((self._seed, turn, i))
        span = min(self.horizon * p.interval_s, view.horizon_s - now)
        arrival_s, departure_s = p.vm_arrival_s.copy(), p.vm_departure_s.copy()
        there = np.flatnonzero((s.vm_state != ABSENT) & (s.vm_state != DEPARTED))
        stays = rng.exponential(max(self._vm_s, 1.0) / max(left, 1e-9), size=len(there))
        departure_s[there] = np.where(stays < span, now + stays, np.inf)
        times = np.sort(rng.uniform(0.0, span, size=rng.poisson(came / now * span)))
        like = there[rng.integers(len(there), size=len(times))] if len(there) else there
        absent = rng.permutation(np.flatnonzero(s.vm_state == ABSENT))
        found = _alike(self._kind[like], self._kind[absent])
        vms, fits = absent[found[found >= 0]], found >= 0
        arrival_s[vms] = now + times[fits]
        made["util"][:, vms] = made["util"][-1, like[fits]]
        made |= {
            "vm_arrival_s": arrival_s,
            "vm_departure_s": departure_s,
            "arrival_order": _reorder(p.arrival_order, s.counters.arrived, arrival_s),
            "departure_order": _reorder(p.departure_order, s.counters.left, departure_s),
        }

    def _down(self, view: ClusterView) -> list[tuple[int, float, float]]:
        """Hosts that are down now, and when they are expected back, as ``faults`` takes them."""
        if not self.units:
            return []
        back_s = view.time_s + self.units[0].down_s
        return [(int(h), -np.inf, back_s) for h in np.flatnonzero(view.state.host_power_state == FAILED)]

    def repairs(self, view: ClusterView) -> dict[str, Any]:
        """Parameters of forks in which no other host fails; nothing where none is down."""
        down = self._down(view)
        return faults(down) if down else {}

    def failures(self, view: ClusterView) -> tuple[list[dict[str, Any]], F8]:
        """Parameters of forks in each of which one unit fails, and how often that is to be expected."""
        now, state = view.time_s, view.state.host_power_state
        span = min(self.horizon * view.params.interval_s, view.horizon_s - now)
        # All at the same time: whoever moves then finds no host that fails later than the one that is left.
        at = now + 0.5 * span
        made, weights = [], []
        back = self._down(view)
        for unit in self.units:
            up = [h for h in unit.hosts if state[h] != FAILED]
            if up:
                made.append(faults([*back, *((h, at, at + unit.down_s) for h in up)]))
                weights.append(span / unit.up_s)
        return made, np.array(weights)


def surely(gains: F8, margin: float) -> F8:
    """Means of gains less ``margin`` standard errors, (n,); gains are (S, n), one row a future."""
    n = len(gains)
    errors: F8 = gains.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(gains.shape[1])
    return np.asarray(gains.mean(axis=0) - margin * errors)
