"""Ask for memory before it is needed: what the rates of a host are worked out from, of all of its VMs.

Of every VM some sixty numbers are read or written, each in an array of its own: more streams than a
processor follows by itself. On a cluster that outgrows the cache it would wait for each of them in turn.
If it asks while another host is worked on, they come in time. Nothing is computed here.
"""

# numba and llvmlite describe their extension points with few or no types
# mypy: disable-error-code="no-untyped-call, untyped-decorator, misc, import-untyped, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...jit.by_model import only_full
from ...jit.handle import WORDS
from ...jit.kernels import kernel
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams

STATE = (
    *("vm_state", "vm_mig", "vm_demand_mhz", "vm_claim_mhz", "vm_ask_mhz", "vm_overhead_mhz", "vm_io_mhz"),
    *("vm_alloc_mhz", "vm_ready_mhz", "vm_ready_share", "vm_limited_mhz", "vm_capped_mhz", "vm_co_stop_mhz"),
    *("vm_granted_mhz", "vm_miss_mhz", "vm_mig_loss_mhz"),
    *("vm_nodes", "vm_pages_end_s", "vm_remote_share", "vm_numa_slowdown"),
    *("vm_touched_mib", "vm_active_mib", "vm_touch_rate", "vm_resident_mib", "vm_shared_mib"),
    *("vm_ballooned_mib", "vm_compressed_mib", "vm_swapped_mib", "vm_blocked_mib", "vm_mem_slowdown"),
    *("vm_net_out_ask", "vm_net_in_ask", "vm_net_out_mbps", "vm_net_in_mbps", "vm_disk_mb_s"),
    *("vm_io_rate", "vm_io_latency_s", "copy_phase", "vm_secondary"),
)
PARAMS = (
    *("vm_vcpus", "vm_mem_mib", "vm_instructions", "vm_virt_type", "vm_limit_mhz", "vm_reservation_mhz"),
    *("vm_shares", "vm_stall_share", "vm_mem_reservation_mib", "vm_mem_shares", "vm_zero_share"),
    *("vm_dup_share", "vm_domain", "vm_balloon_driver", "vm_io_mode", "vm_packet_mbit", "vm_request_mb"),
)

LINE = 8
"""Numbers of 8 bytes in a line of the cache."""

IN_CACHE = 256
"""Up to so many VMs all that is asked for fits into the cache nearest to a core but one (some 120 kB)."""


def _fetcher(names: tuple[str, ...]) -> Any:
    """Make a kernel ``(handle, item)`` that asks for one item of some arrays.

    Of an empty array it asks for something that is not there, which does no harm.
    """

    @intrinsic
    def fetch(_context: Any, handle: Any, item: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word, number, byte = ir.IntType(64), ir.IntType(32), cgutils.voidptr_t
            kind = signature.args[0]
            shape = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            hint = builder.module.declare_intrinsic("llvm.prefetch", [byte], shape)
            table = builder.bitcast(args[0], word.as_pointer())
            for name in names:
                row = kind.index[name]
                start = builder.load(builder.gep(table, [ir.Constant(word, row * WORDS)]))
                start.set_metadata("invariant.load", builder.module.add_metadata([]))
                size = ir.Constant(word, np.dtype(kind.layout[row][1]).itemsize)
                at = builder.inttoptr(builder.add(start, builder.mul(args[1], size)), byte)
                builder.call(hint, [at, *(ir.Constant(number, k) for k in (0, 3, 1))])  # read, keep, data
            return context.get_dummy_value()

        return types.void(handle, types.int64), generate

    return fetch


_fetch_state, _fetch_params = _fetcher(STATE), _fetcher(PARAMS)


@only_full
@kernel
def fetch_host(p: ClusterParams, s: ClusterState, h: int) -> None:
    """Ask for what the rates of a host's VMs are worked out from, on a cluster that is large."""
    if s.vm_next.shape[0] <= IN_CACHE:
        return
    line = -1
    v = s.host_head[h]
    while v >= 0:
        if v // LINE != line:
            line = v // LINE
            _fetch_state(s, v)
            _fetch_params(p, v)
        v = s.vm_next[v]
