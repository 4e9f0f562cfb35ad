"""What views show (docs §12): signals and parameters without what the trace says of now and of later.

Structure (who is where, power states, room) is shown as it is. Signals are those that would follow from the
demand that was measured: a VM's own are means over the window, those of hosts are added up over the VMs that
are there now, so that they follow orders at once. Nothing here reads a signal of the true state.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np

from ...arrays import F8, I4
from ...jit.by_model import only_full
from ...jit.kernels import kernel
from ..engine.events import find_next_copy, put_copy
from ..engine.signals import DIRTY, DISK_READ, DISK_WRITE, NET_IN, NET_OUT, drive_all
from ..models.carbon import carbon_now
from ..models.overhead import guest_work
from ..models.precopy import advance_copy, next_event
from ..models.telemetry import HIDDEN, PAST
from ..state.cluster_state import (
    ABSENT,
    DEPARTED,
    STARTING,
    ClusterState,
)
from ..state.fields import Of
from ..state.parameters import ClusterParams
from .hosts import show_host, show_hosts, show_incoming, show_service


class Shown(NamedTuple):
    """The parameters that views have in place of the trace: one sample, and what has happened."""

    util: Annotated[F8, Of("1,V", "demand as a fraction of nominal CPU")]
    sig_active: Annotated[F8, Of("1,V", "as ``ClusterParams`` has it, where that has it")]
    sig_net_out: F8
    sig_net_in: F8
    sig_disk_read: F8
    sig_disk_write: F8
    sig_dirty: F8
    vm_arrival_s: Annotated[F8, Of("V", "s, inf = not yet")]
    vm_departure_s: Annotated[F8, Of("V", "s, inf = not yet")]
    arrival_order: Annotated[I4, Of("V", "VMs by arrival, then those to come by index")]
    departure_order: Annotated[I4, Of("V", "VMs by departure, then the others by index")]
    carbon_g_kwh: Annotated[F8, Of("1", "carbon intensity now, g/kWh")]


FUTURE = ("fail_time_s", "fail_item", "fail_kind")
"""Parameters that views have empty."""


def hide_future(p: ClusterParams) -> tuple[ClusterParams, Shown]:
    """Make the parameters that a view has, in memory of their own, and those of them that change.

    Args:
        p: Parameters with the trace.
    """
    made: dict[str, Any] = {}
    for name in Shown._fields:
        own = getattr(p, name)
        made[name] = np.zeros((min(1, len(own)), *own.shape[1:]) if own.ndim == 2 else own.shape, own.dtype)
    made["carbon_g_kwh"] = made["carbon_g_kwh"][:1].copy()
    shown = Shown(**made)
    forget(shown)
    frozen = {name: array.view() for name, array in made.items()}
    for name, own in p._asdict().items():
        if isinstance(own, np.ndarray) and name not in made:
            frozen[name] = own[:0].copy() if name in FUTURE else own.copy()
    for array in frozen.values():
        array.flags.writeable = False
    return p._replace(**frozen, telemetry=HIDDEN), shown


def forget(w: Shown) -> None:
    """Nobody has come, nobody has left."""
    w.vm_arrival_s[:] = np.inf
    w.vm_departure_s[:] = np.inf
    w.arrival_order[:] = np.arange(len(w.arrival_order))
    w.departure_order[:] = np.arange(len(w.departure_order))


def freeze_demand(p: ClusterParams, util: F8) -> ClusterParams:
    """Parameters of a view's fork, in memory of their own.

    Args:
        p: The parameters of the view.
        util: Demand as a fraction of nominal CPU, shape (S, V); other signals stay what they are.
    """
    made = {name: getattr(p, name).copy() for name in Shown._fields}
    made["util"] = np.ascontiguousarray(util)
    for name in SIGNALS:
        if len(made[name]):
            made[name] = np.repeat(made[name], len(util), axis=0)
    for array in made.values():
        array.flags.writeable = False
    return p._replace(**made)


SIGNALS = ("sig_active", "sig_net_out", "sig_net_in", "sig_disk_read", "sig_disk_write", "sig_dirty")
"""Signals of the trace besides demand."""


@kernel
def show(p: ClusterParams, s: ClusterState, q: ClusterParams, z: ClusterState, w: Shown) -> None:
    """Bring what views show up to now.

    Args:
        p: Parameters.
        s: State.
        q: The parameters that views have.
        z: The state that views have; its signals are rewritten.
        w: Those of ``q`` that change; rewritten.
    """
    now = s.clock.now_s
    if p.carbon_g_kwh.shape[0] > 0:
        w.carbon_g_kwh[0] = carbon_now(p, now)
    _show_lives(p, s, w)
    if p.telemetry != PAST:
        _show_sample(p, s.counters.sample, w)
        return
    _show_counters(s, z)
    capped = _show_vms(p, s, z, w)
    _show_full(p, s, q, z, w)
    show_hosts(q, z, capped)


@kernel
def _show_counters(s: ClusterState, z: ClusterState) -> None:
    z.clock[:] = s.clock
    z.counters[:] = s.counters
    z.clock.event_s = s.clock.now_s
    z.counters.sample = 0
    z.counters.fresh = 0
    z.counters.loss = 1


@kernel
def show_order(p: ClusterParams, s: ClusterState, z: ClusterState, a: int, b: int) -> None:
    """``show`` after a single order at the instant of the last, on a simple cluster.

    Args:
        p: Parameters; the tables of hosts and VMs are those that views have, too.
        s: State.
        z: The state that views have.
        a: Host that the order was about.
        b: The other one, -1 = none; nothing but the two and their VMs has changed.
    """
    if p.telemetry != PAST:
        return
    short = z.counters.short
    _show_counters(s, z)
    host, dest, copies = z.vm_host, z.vm_dest, z.counters.moving > 0
    b = -1 if b == a else b
    for h in (a, b):
        if h >= 0:
            short -= z.host_sat_now[h] > 0.0
            z.host_ask_mhz[h], z.host_demand_mhz[h] = 0.0, 0.0
    for v in range(host.shape[0]):  # in the order of all, for sums that are equal to the bit
        h = host[v]
        if h >= 0 and h in (a, b):
            z.vm_ask_mhz[v] = min(z.vm_demand_mhz[v], s.vm_cap_mhz[v])
            z.host_ask_mhz[h] += z.vm_ask_mhz[v]
            z.host_demand_mhz[h] += z.vm_demand_mhz[v]
            z.vm_mig_end_s[v] = s.vm_mig_end_s[v]
            show_service(z, v, 1.0)
    for v in range(host.shape[0] if copies else 0):
        h = dest[v]
        if h >= 0 and h in (a, b):
            show_incoming(p, z, v)
    for h in (a, b):
        if h >= 0:
            short += show_host(p, z, h)
    z.counters.short = short


@kernel
def _put_order(state: Any, wanted: Any, order: I4, known: I4, n: int) -> None:
    """The n VMs to which something has happened, in that order, then the others."""
    order[:n] = known[:n]
    for v in range(state.shape[0]):
        if not wanted[state[v]]:
            order[n] = v
            n += 1


@kernel
def _show_lives(p: ClusterParams, s: ClusterState, w: Shown) -> None:
    """Who has come, and who has left."""
    come = np.ones(STARTING + 1, dtype=np.bool_)
    come[ABSENT] = False
    if s.counters.arrived > 0 and w.vm_arrival_s[p.arrival_order[s.counters.arrived - 1]] == np.inf:
        for v in range(s.vm_state.shape[0]):
            w.vm_arrival_s[v] = p.vm_arrival_s[v] if s.vm_state[v] != ABSENT else np.inf
        _put_order(s.vm_state, come, w.arrival_order, p.arrival_order, s.counters.arrived)
    if s.counters.left > 0 and w.vm_departure_s[p.departure_order[s.counters.left - 1]] == np.inf:
        come[:] = False
        come[DEPARTED] = True
        for v in range(s.vm_state.shape[0]):
            w.vm_departure_s[v] = p.vm_departure_s[v] if s.vm_state[v] == DEPARTED else np.inf
        _put_order(s.vm_state, come, w.departure_order, p.departure_order, s.counters.left)


@kernel
def _show_sample(p: ClusterParams, k: int, w: Shown) -> None:
    """``instant``: the sample that holds now."""
    w.util[0] = p.util[k]
    for own, shown in (
        (p.sig_active, w.sig_active),
        (p.sig_net_out, w.sig_net_out),
        (p.sig_net_in, w.sig_net_in),
        (p.sig_disk_read, w.sig_disk_read),
        (p.sig_disk_write, w.sig_disk_write),
        (p.sig_dirty, w.sig_dirty),
    ):
        if own.shape[0] > 0:
            shown[0] = own[k]


@kernel
def _show_vms(p: ClusterParams, s: ClusterState, z: ClusterState, w: Shown) -> bool:
    """Demand as it was measured, or the prior; what follows from it on the host of now.

    Returns:
        Whether hosts are asked for other than the sum of demands.
    """
    prior, util, known = p.telemetry_prior, w.util[0], s.vm_known_mhz
    nominal, live, cap = p.vm_cpu_mhz, s.vm_live_mhz, s.vm_cap_mhz
    demand, ask, granted, miss = z.vm_demand_mhz, z.vm_ask_mhz, z.vm_granted_mhz, z.vm_miss_mhz
    capped = False
    for v in range(known.shape[0]):
        measured = known[v] / nominal[v]
        util[v] = measured if known[v] >= 0.0 else prior
    for v in range(known.shape[0]):
        demand[v] = util[v] * live[v]
        ask[v] = min(demand[v], cap[v])
    for v in range(known.shape[0] if p.full == 0 else 0):
        granted[v] = ask[v]
        miss[v] = demand[v] - ask[v]
        capped |= miss[v] > 0.0
    if p.has_precopy == 0:
        z.vm_mig_end_s[:] = s.vm_mig_end_s
    return capped or p.full != 0


@only_full
@kernel
def _show_full(p: ClusterParams, s: ClusterState, q: ClusterParams, z: ClusterState, w: Shown) -> None:
    for v in range(s.vm_host.shape[0]):
        _show_signals(p, s, z, w, v)
    drive_all(q, z)
    for v in range(s.vm_host.shape[0]):
        if s.vm_host[v] < 0:
            z.vm_shown[:DRIVEN_FROM, v] = 0.0
    _show_rates(p, s, z)
    if p.has_precopy:
        _show_copies(s, z)


DRIVEN_FROM = 9
"""Rows of gauges before this one are CPU, which a VM without a host does not use."""


@kernel
def _show_signals(p: ClusterParams, s: ClusterState, z: ClusterState, w: Shown, v: int) -> None:
    """The trace's own signals, where it has some: as measured, or as the VM's profile has them."""
    known = s.vm_known_mhz[v] >= 0.0
    u = w.util[0, v]
    if w.sig_active.shape[0] > 0:
        w.sig_active[0, v] = z.vm_active_mib[v] / p.vm_mem_mib[v] if known else p.vm_active_share[v]
    if w.sig_net_out.shape[0] > 0:
        measured = known and p.has_io
        w.sig_net_out[0, v] = z.vm_net_out_mbps[v] if measured else _driven(p, NET_OUT, v, u)
    if w.sig_net_in.shape[0] > 0:
        measured = known and p.has_io
        w.sig_net_in[0, v] = z.vm_net_in_mbps[v] if measured else _driven(p, NET_IN, v, u)
    if w.sig_disk_read.shape[0] > 0:
        measured = known and p.has_io
        w.sig_disk_read[0, v] = z.vm_disk_read_mb_s[v] if measured else _driven(p, DISK_READ, v, u)
    if w.sig_disk_write.shape[0] > 0:
        if known and p.has_io:
            w.sig_disk_write[0, v] = max(0.0, z.vm_disk_mb_s[v] - z.vm_disk_read_mb_s[v])
        else:
            w.sig_disk_write[0, v] = _driven(p, DISK_WRITE, v, u)
    if w.sig_dirty.shape[0] > 0:
        w.sig_dirty[0, v] = z.vm_dirty_mib_s[v] if known else _driven(p, DIRTY, v, u)


@kernel
def _driven(p: ClusterParams, k: int, v: int, utilisation: float) -> Any:
    return p.drive[v, 2 * k] + p.drive[v, 2 * k + 1] * utilisation


@kernel
def _show_rates(p: ClusterParams, s: ClusterState, z: ClusterState) -> None:
    """What follows from VMs' measured demand; what was measured of a VM that has just come is nothing."""
    host, known, demand, given = s.vm_host, s.vm_known_mhz, z.vm_demand_mhz, z.vm_alloc_mhz
    cap, vcpus, overhead, io = s.vm_cap_mhz, p.vm_vcpus, z.vm_overhead_mhz, z.vm_io_mhz
    claim, ask, ready, share = z.vm_claim_mhz, z.vm_ask_mhz, z.vm_ready_mhz, z.vm_ready_share
    has_cpu = p.has_cpu
    for v in range(host.shape[0]):
        there = host[v] >= 0
        claim[v] = demand[v] + overhead[v] + io[v] if there else 0.0
        ask[v] = min(claim[v], cap[v])
        if has_cpu:
            ask[v] = min(ask[v], p.vm_limit_mhz[v])
        if there and known[v] < 0.0:
            given[v] = ask[v]
        ready[v] = share[v] * cap[v] / vcpus[v]
    if p.has_tiers:
        _show_memory(s, z)
    if p.has_io:
        _show_io(s, z)
    _show_work(p, s, z)
    for v in p.protected_vms:
        if p.has_standby:
            z.vm_mirror_mbps[v] = z.vm_mirror_need_mbps[v] if s.vm_secondary[v] >= 0 else 0.0


@kernel
def _show_memory(s: ClusterState, z: ClusterState) -> None:
    host, known, resident, touched = s.vm_host, s.vm_known_mhz, z.vm_resident_mib, z.vm_touched_mib
    for v in range(host.shape[0]):
        if host[v] < 0:
            for amount in (
                resident,
                z.vm_shared_mib,
                z.vm_ballooned_mib,
                z.vm_compressed_mib,
                z.vm_swapped_mib,
                z.vm_blocked_mib,
            ):
                amount[v] = 0.0
        elif known[v] < 0.0:
            resident[v] = touched[v]


@kernel
def _show_io(s: ClusterState, z: ClusterState) -> None:
    for v in range(s.vm_host.shape[0]):
        if s.vm_host[v] < 0:
            for rate in (z.vm_net_out_mbps, z.vm_net_in_mbps, z.vm_io_rate, z.vm_io_latency_s):
                rate[v] = 0.0
        elif s.vm_known_mhz[v] < 0.0:
            z.vm_net_out_mbps[v] = z.vm_net_out_ask[v]
            z.vm_net_in_mbps[v] = z.vm_net_in_ask[v]


@kernel
def _show_work(p: ClusterParams, s: ClusterState, z: ClusterState) -> None:
    """What VMs get of their demand, and miss."""
    host, demand, claim, given = s.vm_host, z.vm_demand_mhz, z.vm_claim_mhz, z.vm_alloc_mhz
    stopped, granted, miss = z.vm_co_stop_mhz, z.vm_granted_mhz, z.vm_miss_mhz
    for v in range(host.shape[0]):
        granted[v] = 0.0
        if claim[v] > 0.0:
            granted[v] = min(demand[v], guest_work(demand[v], claim[v], given[v] - stopped[v]))
    if p.has_numa:
        _slow_down(host, z.vm_numa_slowdown, granted)
    if p.has_tiers:
        _slow_down(host, z.vm_mem_slowdown, granted)
    for v in range(host.shape[0]):
        granted[v] = max(0.0, granted[v])
        miss[v] = demand[v] - granted[v]


@kernel
def _slow_down(host: I4, slowdown: F8, work: F8) -> None:
    for v in range(host.shape[0]):
        slowdown[v] = max(1.0, slowdown[v]) if host[v] >= 0 else 1.0
        work[v] /= slowdown[v]


@kernel
def _show_copies(s: ClusterState, z: ClusterState) -> None:
    """Copies as they have come along by now, and when their phase would end at the rate of the last period.

    A copy's record is brought up to now only when its rate changes, so whether it is up to date would say
    what the rate is from now on. From ``copy_since_s`` up to now it has had one rate and one dirty rate.
    """
    now = s.clock.now_s
    for own, shown in (
        (s.copy_left_s, z.copy_left_s),
        (s.copy_left_mib, z.copy_left_mib),
        (s.copy_dirty_mib, z.copy_dirty_mib),
        (s.copy_sent_mib, z.copy_sent_mib),
        (s.copy_down_s, z.copy_down_s),
    ):
        shown[:] = own
    z.vm_mig_end_s[:] = np.inf
    z.copy_rate_mib_s[:] = 0.0
    z.copy_dirtying_mib_s[:] = 0.0
    z.copy_since_s[:] = 0.0
    z.copy_queue[:] = 0
    z.copy_place[:] = 0
    n = z.counters.moving
    for i in range(n):
        v = s.copy_list[i]
        age = now - s.copy_since_s[v]
        advance_copy(z, v, s.copy_rate_mib_s[v], s.copy_dirtying_mib_s[v], age)
        # What it has sent since it began tells its mean rate; of one that has just begun nothing is known.
        taken = now - s.vm_last_move_s[v]
        z.copy_rate_mib_s[v] = z.copy_sent_mib[v] / taken if taken > 0.0 else 0.0
        z.copy_dirtying_mib_s[v] = z.vm_dirty_mib_s[v]
        z.copy_since_s[v] = now
        z.counters.moving = i + 1
        put_copy(z, v, now + next_event(z, v, z.copy_rate_mib_s[v]))
    z.counters.moving = n
    find_next_copy(z)
