"""When hosts, failure domains and VMs fail (docs §8): outages sampled or replayed before an episode.

Every host alternates between up and down. Times are Weibull,

    F(t) = 1 - exp(-(t / lambda)^k),   mean lambda Gamma(1 + 1/k)

or exponential (k = 1). Defaults: the fit to LANL cluster 05 of the Failure Trace Archive, up k = 0.48,
lambda = 816.6 h, down k = 0.58, lambda = 2.18 h (verified there). The fit's own means are 1,766 h and 3.43 h;
the means measured there, MTBF 1,780 h and MTTR 5.9 h, are not those of the fitted curve for the repairs.

With k < 1 the hazard is infinite at age 0, so the age at time 0 matters: of *fresh* hosts 17 % would fail on
the first day, of hosts somewhere in their life 1.2 %. The default is ``stationary``: the first up time is the
residual of a renewal process, found exactly as U * X with X length-biased, X = lambda G^(1/k),
G ~ Gamma(1 + 1/k) (Cox, Renewal Theory, 1962, ch. 5). All hosts are up at time 0 either way.

Besides, independent of the hosts' own failures: *domains* (a rack, a power feed) that fail as a whole;
*incidents*, which strike a share of all hosts at once, replayed from a trace (as may be
the outages of single hosts); and crashes of single VMs, a
Poisson process per VM. A fit per host says nothing about faults of a whole cluster: the two are never drawn
from the same parameters.

Random numbers. Each of these has its own ``SeedSequence``, and each round of draws its own child: the n-th
failure of host i is the same whatever the number of hosts after it, the horizon and the other sub-models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arrays import F8, I1, I4
from ...checks import need, need_choice, need_not_negative, need_positive
from ...jit.kernels import kernel

FAILURE_MODELS = ("none", "weibull", "exponential")
START_AGES = ("stationary", "fresh")

HOST, DOMAIN, INCIDENT, REPLAYED = 0, 1, 2, 3
CAUSES = ("host", "domain", "incident", "replayed")
"""Why a host is down, the values of ``Outages.cause``."""

HOST_FAILS, HOST_REPAIRED, VM_CRASHES = 0, 1, 2
"""Kinds of faults, the values of ``fail_kind`` in the parameters."""

S_PER_H = 3600.0

_MOST_EVENTS = 1e6
"""Failures of one kind in an episode, at most; drawing them takes seconds."""
_LOWEST_SHAPE = 0.05
"""Powers of random numbers overflow below it."""
_LONGEST_H = 1e100


def weibull_mean_h(shape: float, scale_h: float) -> float:
    """Mean of a Weibull distribution: scale * Gamma(1 + 1 / shape), h."""
    return scale_h * math.gamma(1.0 + 1.0 / shape)


def _need_few(key: str, n: int, horizon_s: float, *times: tuple[float, float]) -> None:
    """Refuse failures that come so often that drawing them, all before the episode, would not end.

    Args:
        key: What to lengthen.
        n: Things that fail.
        horizon_s: Length of the episode, s.
        *times: Shape and scale (h) of the times between which they alternate. The expected number of
            renewals by t is within t / E[min(X, t)] - 1 and twice that (Erickson, Ann. Prob. 1(2), 1973).
    """
    quantiles = (np.arange(1000) + 0.5) / 1000
    draws = [scale_h * S_PER_H * (-np.log(quantiles)) ** (1.0 / shape) for shape, scale_h in times]
    cycle_s = max(float(np.minimum(draw, horizon_s).mean()) for draw in draws)
    events = max(n, 10) * horizon_s / cycle_s if cycle_s > 0 else math.inf  # a round costs as much as 10
    need(
        events <= _MOST_EVENTS,
        f"{key}: about {events:.1g} failures in {horizon_s / S_PER_H:.3g} h, at most {_MOST_EVENTS:.0e}; "
        "longer times are needed",
    )


def _need_times(owner: str, **times_h: float) -> None:
    """Times, h: positive, and no longer than sums of them can be told."""
    need_positive(owner, **times_h)
    for key, time_h in times_h.items():
        need(time_h <= _LONGEST_H, f"{owner}.{key}={time_h}: must be at most {_LONGEST_H:g}")


@dataclass(frozen=True)
class FailureDomain:
    """Hosts that fail together.

    Attributes:
        name: Such as ``rack-3`` or ``feed-a``.
        hosts: Their indices.
        mtbf_h: Mean time up, h (exponential).
        mttr_h: Mean time down, h (exponential).
    """

    name: str = "domain"
    hosts: tuple[int, ...] = ()
    mtbf_h: float = 8760.0
    mttr_h: float = 4.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = f"failures.domain {self.name}"
        need(len(self.hosts) > 0, f"{owner}.hosts: needs at least one host")
        need(len(set(self.hosts)) == len(self.hosts), f"{owner}.hosts: a host is named twice")
        need(min(self.hosts) >= 0, f"{owner}.hosts={min(self.hosts)}: must be 0 or more")
        _need_times(owner, mtbf_h=self.mtbf_h, mttr_h=self.mttr_h)


class Incident(NamedTuple):
    """A fault that strikes a share of all hosts at once."""

    start_s: float  # s
    duration_s: float  # s
    intensity: float  # share of the hosts, 0...1


@dataclass(frozen=True)
class FailureConfig:
    """Failures of hosts and VMs.

    Attributes:
        model: Distribution of the hosts' own up and down times; ``none`` = they do not fail by themselves.
        up_shape: Weibull shape of up times.
        up_scale_h: Weibull scale of up times, h.
        down_shape: Weibull shape of down times.
        down_scale_h: Weibull scale of down times, h.
        mtbf_h: Mean up time under ``exponential``, h (verified: LANL05's measured mean).
        mttr_h: Mean down time under ``exponential``, h (verified: LANL05's measured mean).
        start: Age of the hosts at time 0: ``stationary`` or ``fresh``.
        vm_mtbf_h: Mean time between crashes of a VM while its host is up, h; None = never.
    """

    model: str = "weibull"
    up_shape: float = 0.48
    up_scale_h: float = 816.6
    down_shape: float = 0.58
    down_scale_h: float = 2.18
    mtbf_h: float = 1780.0
    mttr_h: float = 5.9
    start: str = "stationary"
    vm_mtbf_h: float | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("failures", "model", self.model, FAILURE_MODELS)
        need_choice("failures", "start", self.start, START_AGES)
        for key, shape in (("up_shape", self.up_shape), ("down_shape", self.down_shape)):
            fits = _LOWEST_SHAPE <= shape < math.inf
            need(fits, f"failures.{key}={shape}: must be a finite number, at least {_LOWEST_SHAPE}")
        _need_times(
            "failures",
            up_scale_h=self.up_scale_h,
            down_scale_h=self.down_scale_h,
            mtbf_h=self.mtbf_h,
            mttr_h=self.mttr_h,
        )
        if self.vm_mtbf_h is not None:
            _need_times("failures", vm_mtbf_h=self.vm_mtbf_h)

    def up(self) -> tuple[float, float]:
        """Shape and scale (h) of up times."""
        return (1.0, self.mtbf_h) if self.model == "exponential" else (self.up_shape, self.up_scale_h)

    def down(self) -> tuple[float, float]:
        """Shape and scale (h) of down times."""
        return (1.0, self.mttr_h) if self.model == "exponential" else (self.down_shape, self.down_scale_h)


class Outages(NamedTuple):
    """Spans in which hosts are down, sorted by host and time; of one host they neither overlap nor touch."""

    host: I4  # (N,)
    down_s: F8  # (N,) s
    up_s: F8  # (N,) s, may lie beyond the horizon
    cause: I1  # (N,) index into CAUSES: what struck first


def _outages(host: Any, down_s: Any, up_s: Any, cause: int) -> Outages:
    return Outages(
        np.asarray(host, dtype=np.int32),
        np.asarray(down_s, dtype=np.float64),
        np.asarray(up_s, dtype=np.float64),
        np.full(len(host), cause, dtype=np.int8),
    )


def _alternate(
    key: str,
    seeds: np.random.SeedSequence,
    n: int,
    horizon_s: float,
    up: tuple[float, float],
    down: tuple[float, float],
    stationary: bool,
) -> tuple[I4, F8, F8]:
    """Alternating renewal processes: item, begin and end of every down time that begins in time.

    Raises:
        ConfigError: If they are too many, naming ``key``.
    """
    _need_few(key, n, horizon_s, up, down)
    now, items, begins, ends = np.zeros(n), [], [], []
    first = True
    while n > 0 and now.min() < horizon_s:
        # One child per round and kind, drawn for all items: item i is the i-th draw, always.
        rngs = [np.random.default_rng(child) for child in seeds.spawn(3)]
        if first and stationary:
            biased = rngs[2].gamma(1.0 + 1.0 / up[0], size=n) ** (1.0 / up[0])
            span = rngs[0].random(n) * biased
        else:
            span = rngs[0].weibull(up[0], size=n)
        first = False
        begin = now + span * (up[1] * S_PER_H)
        end = begin + rngs[1].weibull(down[0], size=n) * (down[1] * S_PER_H)
        struck = np.flatnonzero(begin < horizon_s)
        items.append(struck)
        begins.append(begin[struck])
        ends.append(end[struck])
        now = np.where(begin < horizon_s, end, np.inf)
    if not items:
        return np.empty(0, dtype=np.int32), np.empty(0), np.empty(0)
    return np.concatenate(items).astype(np.int32), np.concatenate(begins), np.concatenate(ends)


def sample_host_outages(
    config: FailureConfig, n_hosts: int, horizon_s: float, seeds: np.random.SeedSequence
) -> Outages:
    """Sample the hosts' own failures.

    Args:
        config: Parameters.
        n_hosts: H.
        horizon_s: Failures that begin before it are returned, s.
        seeds: Source of randomness, used up.

    Returns:
        Outages, cause ``host``.
    """
    if config.model == "none":
        return _outages([], [], [], HOST)
    stationary = config.start == "stationary"
    key = "failures.mtbf_h" if config.model == "exponential" else "failures.up_scale_h"
    key = f"{key}={config.up()[1]:g}"
    host, down, up = _alternate(key, seeds, n_hosts, horizon_s, config.up(), config.down(), stationary)
    return merge_outages(_outages(host, down, up, HOST))


def sample_domain_outages(
    domains: Sequence[FailureDomain], n_hosts: int, horizon_s: float, seeds: np.random.SeedSequence
) -> Outages:
    """Sample failures of whole domains: every host of a domain is down while the domain is.

    Args:
        domains: The domains; a host may be in several (its rack, its power feed).
        n_hosts: H.
        horizon_s: Failures that begin before it are returned, s.
        seeds: Source of randomness, used up.

    Returns:
        Outages, cause ``domain``.

    Raises:
        ConfigError: If a domain names a host that does not exist.
    """
    parts = []
    for domain, child in zip(domains, seeds.spawn(len(domains))):
        top = max(domain.hosts)
        need(top < n_hosts, f"failures.domain {domain.name}.hosts={top}: must be below {n_hosts}")
        key = f"failures.domain {domain.name}.mtbf_h={domain.mtbf_h:g}"
        times = (1.0, domain.mtbf_h), (1.0, domain.mttr_h)
        _, down, up = _alternate(key, child, 1, horizon_s, *times, False)
        hosts = np.asarray(domain.hosts)
        count = len(down)
        parts.append(
            _outages(np.repeat(hosts, count), np.tile(down, len(hosts)), np.tile(up, len(hosts)), DOMAIN)
        )
    return merge_outages(concat_outages(parts))


def sample_incidents(
    incidents: Sequence[Incident], n_hosts: int, horizon_s: float, seeds: np.random.SeedSequence
) -> Outages:
    """Replay incidents: each strikes its share of the hosts, rounded to whole hosts, chosen at random.

    Args:
        incidents: From a trace.
        n_hosts: H.
        horizon_s: Incidents that begin before it are returned, s.
        seeds: Source of randomness, used up.

    Returns:
        Outages, cause ``incident``.

    Raises:
        ConfigError: If an incident's intensity is not in 0...1, or a time is negative.
    """
    rng = np.random.default_rng(seeds)
    parts = []
    for incident in incidents:
        need(0 <= incident.intensity <= 1, f"failures.incident: intensity {incident.intensity} not in 0..1")
        need_not_negative("failures.incident", start_s=incident.start_s, duration_s=incident.duration_s)
        order = rng.permutation(n_hosts)
        if incident.start_s < horizon_s and incident.duration_s > 0:
            hosts = order[: round(incident.intensity * n_hosts)]
            down = np.full(len(hosts), incident.start_s)
            parts.append(_outages(hosts, down, down + incident.duration_s, INCIDENT))
    return merge_outages(concat_outages(parts))


def replay_outages(host: I4, down_s: F8, up_s: F8, n_hosts: int) -> Outages:
    """Take the outages of hosts from a record of them.

    Args:
        host: Host of every outage, shape (N,).
        down_s: When it begins, s, shape (N,).
        up_s: When it ends, s, shape (N,); inf = never repaired.
        n_hosts: H.

    Returns:
        Outages, cause ``replayed``; those of a host that overlap are joined.

    Raises:
        ConfigError: Naming the first outage of no such host, that begins before 0, or ends before it begins.
    """
    bad = np.flatnonzero(
        (host < 0) | (host >= n_hosts) | ~((down_s >= 0) & (down_s < np.inf) & (up_s >= down_s))
    )
    for i in bad[:1]:
        need(
            False,
            f"failures.outage {i}: host {host[i]} from {down_s[i]} to {up_s[i]} s: the host must be below "
            f"{n_hosts}, the times at least 0 and in order",
        )
    return merge_outages(_outages(host, down_s, up_s, REPLAYED))


def concat_outages(parts: Sequence[Outages]) -> Outages:
    """Put lists of outages behind one another, unsorted."""
    if not parts:
        return _outages([], [], [], HOST)
    return Outages(*(np.concatenate(columns) for columns in zip(*parts)))


def merge_outages(outages: Outages) -> Outages:
    """Sort outages by host and time and join those of a host that overlap or touch.

    Args:
        outages: In any order.

    Returns:
        The union; the cause is that of the outage that began first.
    """
    order = np.lexsort((outages.cause, outages.down_s, outages.host))
    columns: tuple[Any, ...] = outages
    host, down, up, cause = (column[order] for column in columns)
    n = _merge_sorted(host, down, up, cause)
    return Outages(host[:n], down[:n], up[:n], cause[:n])


@kernel
def _merge_sorted(host: I4, down_s: F8, up_s: F8, cause: I1) -> int:
    n = 0
    for i in range(host.shape[0]):
        if n > 0 and host[n - 1] == host[i] and down_s[i] <= up_s[n - 1]:
            up_s[n - 1] = max(up_s[n - 1], up_s[i])
        else:
            host[n], down_s[n], up_s[n], cause[n] = host[i], down_s[i], up_s[i], cause[i]
            n += 1
    return n


def sample_outages(
    config: FailureConfig,
    n_hosts: int,
    horizon_s: float,
    seed: np.random.SeedSequence,
    domains: Sequence[FailureDomain] = (),
    incidents: Sequence[Incident] = (),
    replayed: Outages | None = None,
) -> Outages:
    """All outages of an episode: the hosts' own, their domains', incidents and replayed ones, joined.

    Args:
        config: Parameters.
        n_hosts: H.
        horizon_s: Failures that begin before it are returned, s.
        seed: Source of randomness; children are spawned from a copy, so the same seed gives the same again.
        domains: Hosts that fail together.
        incidents: Incidents to replay.
        replayed: Outages of single hosts to replay (with ``model="none"``: nothing else of their own).

    Returns:
        Outages. The engine makes two events of each, a failure and a repair.
    """
    fresh = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
    own, shared, struck = fresh.spawn(3)
    return merge_outages(
        concat_outages(
            [
                sample_host_outages(config, n_hosts, horizon_s, own),
                sample_domain_outages(domains, n_hosts, horizon_s, shared),
                sample_incidents(incidents, n_hosts, horizon_s, struck),
                *([] if replayed is None else [replayed]),
            ]
        )
    )


def sample_vm_crashes(
    config: FailureConfig, n_vms: int, horizon_s: float, seed: np.random.SeedSequence
) -> tuple[I4, F8]:
    """Sample crashes of single VMs: Poisson, with rate 1 / vm_mtbf_h for each.

    A crash that finds its VM not running has no effect; as the process has no memory, the crashes that are
    left are again Poisson over the time that the VM runs.

    Args:
        config: Parameters.
        n_vms: V.
        horizon_s: Crashes before it are returned, s.
        seed: Source of randomness; not used up.

    Returns:
        VM and time (s) of every crash, in order of time.
    """
    if config.vm_mtbf_h is None:
        return np.empty(0, dtype=np.int32), np.empty(0)
    _need_few(f"failures.vm_mtbf_h={config.vm_mtbf_h:g}", n_vms, horizon_s, (1.0, config.vm_mtbf_h))
    mean_s = config.vm_mtbf_h * S_PER_H
    fresh = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
    now, vms, times = np.zeros(n_vms), [], []
    while n_vms > 0 and now.min() < horizon_s:
        now = now + np.random.default_rng(fresh.spawn(1)[0]).exponential(mean_s, n_vms)
        struck = np.flatnonzero(now < horizon_s)
        vms.append(struck)
        times.append(now[struck])
    if not vms:
        return np.empty(0, dtype=np.int32), np.empty(0)
    vm, time = np.concatenate(vms).astype(np.int32), np.concatenate(times)
    order = np.lexsort((vm, time))
    return vm[order], time[order]
