"""What the full model adds to the begin and the end of a VM's run on a host; nothing on a simple cluster."""

from __future__ import annotations

import numpy as np

from ...jit.by_model import by_model
from ...jit.kernels import kernel
from ..state.cluster_state import STARTING, ClusterState
from ..state.parameters import ClusterParams
from .copies import start_waiting
from .cpu import set_vm_down
from .events import PAGES_END, RESTART_DUE, VM_UP, drop_event, push_event
from .hub import renew_hosts
from .mirrors import drop_secondary
from .power_cycle import switch_off_if_empty


@kernel
def _begin_simple(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """A placed VM runs."""


@kernel
def _begin_full(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    if p.host_baseline.shape[0] > 0:
        s.vm_baseline[v] = p.host_baseline[s.vm_host[v]]
    if p.has_failures and s.vm_restart[v]:
        s.vm_restart[v] = 0
        s.totals.restarts += 1.0
        start_vm(p, s, v, s.clock.event_s + p.vm_boot_s, elapsed_s)


@kernel
def start_vm(p: ClusterParams, s: ClusterState, v: int, at_s: float, elapsed_s: float) -> None:
    """Let a VM that is on its host be down until a time; the caller works out the host's rates."""
    s.vm_state[v] = STARTING
    s.vm_starts_s[v] = at_s
    push_event(s, at_s, VM_UP, v)
    set_vm_down(s, v, 1, elapsed_s)


begin_run = by_model(_begin_simple, _begin_full)
"""``begin_run(p, s, v, elapsed_s)``: a VM has got its host; after a failure it has to boot first."""


@kernel
def _end_simple(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """Nothing hangs on a VM that leaves."""


@kernel
def _end_full(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    if p.has_failures:
        if s.vm_state[v] == STARTING:
            drop_event(s, VM_UP, v)
            s.vm_starts_s[v] = 0.0
        if s.vm_restart[v] == 1:
            drop_event(s, RESTART_DUE, v)
        s.vm_restart[v] = 0
    if p.has_numa and s.vm_pages_end_s[v] > s.clock.event_s:
        drop_event(s, PAGES_END, v)
        s.vm_pages_end_s[v] = -np.inf
    if p.has_standby:
        h = drop_secondary(p, s, v)
        if h >= 0:
            renew_hosts(p, s, h, -1, elapsed_s)


end_run = by_model(_end_simple, _end_full)
"""``end_run(p, s, v, elapsed_s)``: forget what is planned for a VM that leaves its host for good."""


@kernel
def _forget_full(p: ClusterParams, s: ClusterState, v: int) -> None:
    for rate in (
        s.vm_claim_mhz,
        s.vm_overhead_mhz,
        s.vm_io_mhz,
        s.vm_alloc_mhz,
        s.vm_ready_mhz,
        s.vm_ready_share,
        s.vm_limited_mhz,
        s.vm_capped_mhz,
        s.vm_co_stop_mhz,
    ):
        rate[v] = 0.0
    if p.has_numa:
        s.vm_remote_share[v] = 0.0
        s.vm_numa_slowdown[v] = 1.0
    if p.has_tiers:
        for amount in (
            s.vm_resident_mib,
            s.vm_shared_mib,
            s.vm_ballooned_mib,
            s.vm_compressed_mib,
            s.vm_swapped_mib,
            s.vm_blocked_mib,
        ):
            amount[v] = 0.0
        s.vm_mem_slowdown[v] = 1.0
    if p.has_io:
        for rate in (s.vm_net_out_mbps, s.vm_net_in_mbps, s.vm_io_rate, s.vm_io_latency_s):
            rate[v] = 0.0


@kernel
def _forget_nothing(p: ClusterParams, s: ClusterState, v: int) -> None:
    """A simple cluster has no such rates."""


forget_rates = by_model(_forget_nothing, _forget_full)
"""``forget_rates(p, s, v)``: a VM without a host uses nothing and holds nothing."""


@kernel
def _move_full(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    if p.has_standby:
        h = drop_secondary(p, s, v)
        if h >= 0:
            renew_hosts(p, s, h, s.vm_host[v], elapsed_s)


before_move = by_model(_end_simple, _move_full)
"""``before_move(p, s, v, elapsed_s)``: a protected VM is not mirrored while it migrates; it gets a new
secondary at the next interval after it has arrived."""


@kernel
def _after_simple(
    p: ClusterParams, s: ClusterState, host: int, dest: int, now_s: float, elapsed_s: float
) -> None:
    """Nobody waits for a slot, and nobody's pages are behind."""


@kernel
def _after_full(
    p: ClusterParams, s: ClusterState, host: int, dest: int, now_s: float, elapsed_s: float
) -> None:
    if p.has_precopy:
        if host >= 0:
            start_waiting(p, s, host, now_s, elapsed_s)
        if dest >= 0:
            start_waiting(p, s, dest, now_s, elapsed_s)
    # The host that sends on after post-copy's handover is the VM's destination, and may be on its way out.
    if dest >= 0:
        switch_off_if_empty(p, s, dest, now_s, elapsed_s)
    if host >= 0:
        switch_off_if_empty(p, s, host, now_s, elapsed_s)


after_leaving = by_model(_after_simple, _after_full)
"""``after_leaving(p, s, host, dest, now_s, elapsed_s)``: let others use the slots that a VM gave back, and
switch off what was waiting for it to leave."""
