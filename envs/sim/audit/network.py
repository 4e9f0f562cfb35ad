"""The network of the full model, checked by the condition of max-min fairness, and logs of mirrored VMs.

A division of links among flows is max-min fair exactly if every flow has what it asks for, or crosses a link
that is full and on which nobody has more than it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report
from .occupancy import PULL, ROUND, STOP, stopped_vms

MBIT_PER_MIB = 2**20 * 8 / 1e6
ROUNDING = 1e-7
"""Relative tolerance of rates: what is left of a link is a difference of sums."""

Flow = tuple[str, int, float, float, tuple[int, ...]]
"""Kind, VM, what it asks for and has (Mbit/s), and its links: 2 h = sent by host h, 2 h + 1 = received."""


def mirror_parts(p: ClusterParams, dirty: F8, disk_read: F8, net_in: F8) -> tuple[F8, F8]:
    """Share of its work that mirroring costs a VM, and its log, Mbit/s, shape (V,) each (section 9)."""
    if p.mirror_mode:
        return np.full(len(dirty), p.mirror_lockstep_loss), 1.2 * (8.0 * disk_read + net_in)
    epoch_s = p.mirror_epoch_s
    pause = p.mirror_fixed_pause_s + dirty * epoch_s / p.mirror_copy_mib_s
    return pause / (epoch_s + pause), dirty * epoch_s * MBIT_PER_MIB / (epoch_s + pause)


def _flows(p: ClusterParams, s: ClusterState) -> list[Flow]:
    """Everything that uses the network now."""
    flows: list[Flow] = []
    runs = (s.vm_host >= 0) & ~stopped_vms(p, s)
    for v in np.flatnonzero(s.vm_host >= 0):
        h, i = int(s.vm_host[v]), int(v)
        if p.has_io and runs[v]:
            flows.append(("sent", i, float(s.vm_net_out_ask[v]), float(s.vm_net_out_mbps[v]), (2 * h,)))
            flows.append(("received", i, float(s.vm_net_in_ask[v]), float(s.vm_net_in_mbps[v]), (2 * h + 1,)))
        if p.has_precopy and s.copy_phase[v] in (ROUND, STOP, PULL):
            source, dest = h, int(s.vm_dest[v])
            if s.copy_phase[v] == PULL:
                source, dest = dest, source
            rate = float(s.copy_rate_mib_s[v]) * MBIT_PER_MIB
            flows.append(("copied", i, float(p.copy_max_mbps), rate, (2 * source, 2 * dest + 1)))
        if p.has_standby and runs[v] and s.vm_secondary[v] >= 0:
            need, given = float(s.vm_mirror_need_mbps[v]), float(s.vm_mirror_mbps[v])
            flows.append(("logged", i, need, given, (2 * h, 2 * int(s.vm_secondary[v]) + 1)))
    return flows


def check_network(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Check the rates of all flows.

    Args:
        s: State whose places have been checked.
        report: Where violations go.
    """
    flows = _flows(p, s)
    used = np.zeros(2 * len(p.host_type))
    most = np.zeros(len(used))
    for _, _, _, rate, links in flows:
        used[list(links)] += rate
        most[list(links)] = np.maximum(most[list(links)], rate)
    room = np.repeat(p.host_nic_mbps, 2)
    report.none(
        used > room * (1 + ROUNDING), "links over their line rate (2 h: host h sends, 2 h + 1: receives)"
    )
    full = used >= room * (1 - ROUNDING)
    for kind, v, ask, rate, links in flows:
        if rate < 0 or rate > ask * (1 + TOLERANCE) + TOLERANCE:
            report.lines.append(f"vm {v}: {kind} {rate:g} Mbit/s of {ask:g} that it asks for")
        elif rate < ask * (1 - ROUNDING) - TOLERANCE:
            held = any(full[link] and rate >= most[link] * (1 - ROUNDING) for link in links)
            if not held:
                report.lines.append(f"vm {v}: {kind} {rate:g} Mbit/s of {ask:g}, and no link holds it back")
    _check_silent(p, s, report)


def _check_silent(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Who is not there, or stopped, uses nothing."""
    silent: Any = (s.vm_host < 0) | stopped_vms(p, s)
    if p.has_io:
        report.none(silent & (s.vm_net_out_mbps + s.vm_net_in_mbps != 0), "VMs with traffic that do not run")
    if p.has_standby:
        report.none((s.vm_secondary < 0) & (s.vm_mirror_mbps != 0), "VMs that log without a secondary")
