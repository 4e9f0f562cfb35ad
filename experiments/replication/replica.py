"""The replica's one public function."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError

from .candidates import make_cands
from .day import DVFS, NPA, OPTIMISE, REPLAY, Log, place_all, run_day
from .detectors import IQR, LOESS, MAD, OLS, ROBUST, THR
from .live import Flags, Live, make_live
from .machines import Site, make_site
from .metrics import DecisionLog, Events, ReplicaResult, summarise
from .optimiser import Rule, make_plan
from .quirks import Quirks
from .selection import MC, MMT, MU, RS

N_HOSTS = 800
SAMPLES = 288

_DETECTORS = {
    "thr": (THR, 0.8),
    "mad": (MAD, 2.5),
    "iqr": (IQR, 1.5),
    "lr": (LOESS, 1.2),
    "lrr": (ROBUST, 1.2),
}
_SELECTIONS = {"mmt": MMT, "mc": MC, "mu": MU, "rs": RS}

REPLICA_POLICIES: tuple[str, ...] = (
    "npa",
    "dvfs",
    *(f"{detector}-{selection}" for detector in _DETECTORS for selection in _SELECTIONS),
)
"""Names that ``run_replica`` takes; ``ols-*`` is ``lr-*`` with its weights never applied."""


def _parse(policy: str, quirks: Quirks, safety: float | None) -> tuple[int, Rule]:
    """Mode and rule of a policy's name."""
    if policy in ("npa", "dvfs"):
        return (NPA if policy == "npa" else DVFS), Rule(THR, 1.0, MMT)
    name, _, selection = policy.partition("-")
    if name == "ols" and selection in _SELECTIONS:
        kind, default = OLS, 1.2
    elif name in _DETECTORS and selection in _SELECTIONS:
        kind, default = _DETECTORS[name]
    else:
        raise ConfigError(f"policy={policy!r}: the replica knows {', '.join(REPLICA_POLICIES)} and ols-*")
    if quirks.unweighted_regression and kind in (LOESS, ROBUST):
        kind = OLS
    value = default if safety is None else float(safety)
    need(value > 0.0, f"safety={value}: must be positive")
    return OPTIMISE, Rule(kind, value, _SELECTIONS[selection])


def _check(util_percent: NDArray[Any], decisions: DecisionLog | None, n_hosts: int, rounds: int) -> None:
    """Check what a user can get wrong."""
    if util_percent.ndim != 2 or util_percent.shape[1] != SAMPLES or util_percent.shape[0] == 0:
        raise ConfigError(f"util_percent has shape {util_percent.shape}, expected (VMs, {SAMPLES})")
    if not (np.isfinite(util_percent).all() and util_percent.min() >= 0 and util_percent.max() <= 100):
        raise ConfigError("util_percent: every sample must be between 0 and 100 percent")
    if decisions is None:
        return
    n_vms = util_percent.shape[0]
    if decisions.initial.shape != (n_vms,):
        raise ConfigError(f"decisions.initial has shape {decisions.initial.shape}, expected ({n_vms},)")
    limits = ((decisions.initial, n_hosts), (decisions.dest, n_hosts), (decisions.vm, n_vms))
    for values, limit in (*limits, (decisions.round, rounds)):
        if values.size and not (values.min() >= 0 and values.max() < limit):
            raise ConfigError(f"decisions: an index lies outside 0...{limit - 1}")
    if (np.diff(decisions.round) < 0).any():
        raise ConfigError("decisions.round must ascend")


def _make_log(rounds: int, n_vms: int, decisions: DecisionLog | None, record: bool) -> Log:
    """Allocate the log, filled with the migrations of ``decisions`` if there are any."""
    events = 4 * rounds + 2
    start = np.zeros(rounds + 1, dtype=np.int64)
    vm = np.empty(2 * n_vms * rounds if record else 0, dtype=np.int32)
    host = np.empty_like(vm)
    if decisions is not None:
        start[:] = np.searchsorted(decisions.round, np.arange(rounds + 1))
        vm = np.ascontiguousarray(decisions.vm, dtype=np.int32)
        host = np.ascontiguousarray(decisions.dest, dtype=np.int32)
    return Log(
        past=np.empty((rounds, n_vms)),
        times=np.empty(rounds),
        start=start,
        vm=vm,
        host=host,
        event_s=np.empty(events),
        event_j=np.empty(events),
        event_hosts=np.empty(events, dtype=np.int32),
        event_vms=np.empty(events, dtype=np.int32),
        size=np.zeros(1, dtype=np.int64),
    )


def _place(site: Site, live: Live, mode: int, decisions: DecisionLog | None) -> NDArray[np.int32]:
    """Place all VMs, or take the placement of ``decisions``."""
    initial = np.full(site.mhz.size, -1, dtype=np.int32)
    if decisions is not None:
        initial[:] = decisions.initial
    failed = place_all(site, live, mode in (OPTIMISE, REPLAY), initial)
    if failed >= 0:
        raise ConfigError(f"vm {failed} fits on none of the {live.held.size} hosts")
    return initial


def run_replica(
    util_percent: NDArray[Any],
    policy: str,
    quirks: Quirks = Quirks(),  # noqa: B008 - frozen
    seed: int = 0,
    safety: float | None = None,
    decisions: DecisionLog | None = None,
    record: bool = False,
    n_hosts: int = N_HOSTS,
) -> ReplicaResult:
    """Run one day of the PlanetLab experiment as CloudSim 3.0.3 does.

    Args:
        util_percent: CPU utilisation in percent of each VM's nominal CPU, shape (N, 288), in the code-point
            order of the trace's file names (the order decides the VM types).
        policy: One of ``REPLICA_POLICIES``, or ``ols-mmt`` and the like.
        quirks: Which of the peer's peculiarities to reproduce.
        seed: Seed of the ``rs`` selection; nothing else is random.
        safety: Parameter of the detector; None = the peer's (thr 0.8, mad 2.5, iqr 1.5, lr and lrr 1.2).
        decisions: Replay these decisions instead of running the optimiser of ``policy``.
        record: Return the decisions.
        n_hosts: Number of hosts; even ones are of the smaller type.

    Returns:
        The numbers of the day.

    Raises:
        ConfigError: For an unknown policy, a malformed matrix or log, or VMs that fit nowhere.
    """
    util_percent = np.asarray(util_percent)
    mode, rule = _parse(policy, quirks, safety)
    if decisions is not None and mode == OPTIMISE:
        mode = REPLAY
    rounds = SAMPLES - 1 if quirks.skip_first_sample else SAMPLES
    _check(util_percent, decisions, n_hosts, rounds)
    site = make_site(util_percent)
    flags = Flags(**asdict(quirks))
    live = make_live(site, n_hosts, quirks.never_used_counts_as_shutdown)
    initial = _place(site, live, mode, decisions)
    n_vms = site.mhz.size
    log = _make_log(rounds, n_vms, decisions, record)
    cands = make_cands(n_hosts, n_vms)
    plan = make_plan(n_hosts, n_vms, rule.kind, seed)
    run_day(site, live, cands, plan, rule, flags, log, mode)
    size = int(log.size[0])
    events = Events(
        t=log.event_s[:size],
        energy_kwh=log.event_j[:size] / 3.6e6,
        hosts=log.event_hosts[:size],
        vms=log.event_vms[:size],
        migrations=np.diff(log.start),
    )
    kept = _keep(log, initial) if record else None
    return summarise(live, quirks, events, kept)


def _keep(log: Log, initial: NDArray[np.int32]) -> DecisionLog:
    """The decisions of a run, without the unused room of the log."""
    count = int(log.start[-1])
    rounds = np.repeat(np.arange(log.start.size - 1), np.diff(log.start))
    return DecisionLog(initial, rounds, log.vm[:count].copy(), log.host[:count].copy())
