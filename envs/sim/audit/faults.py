"""What the list of faults alone says: which hosts are down since when, and how much can have been lost.

Used by the checker of the full model; it replays the list in plain Python, without the code that steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ..state.parameters import ClusterParams

HOST_FAILS, HOST_REPAIRED, VM_CRASHES = 0, 1, 2


def failed_since(p: ClusterParams, now_s: float) -> F8:
    """Since when every host is down, s, shape (H,); inf for a host that is not.

    A fault of a host that is down already, and the repair of one that is not, change nothing.

    Args:
        p: Parameters with the faults of the episode.
        now_s: Now, s; what happens now has happened.
    """
    return _replay(p, now_s)[0]


def host_failures(p: ClusterParams, now_s: float) -> int:
    """How often hosts have gone down."""
    return _replay(p, now_s)[1]


def _replay(p: ClusterParams, now_s: float) -> tuple[F8, int]:
    since = np.full(len(p.host_type), np.inf)
    count = 0
    for i in range(int(np.searchsorted(p.fail_time_s, now_s, side="right"))):
        h, kind = int(p.fail_item[i]), int(p.fail_kind[i])
        if kind == HOST_FAILS and not np.isfinite(since[h]):
            since[h] = p.fail_time_s[i]
            count += 1
        elif kind == HOST_REPAIRED:
            since[h] = np.inf
    return since, count


def fault_window(p: ClusterParams, start_s: float, end_s: float) -> tuple[Any, Any, int]:
    """What is struck after one time and until another.

    Args:
        p: Parameters with the faults of the episode.
        start_s: Begin, s (excluded).
        end_s: End, s (included).

    Returns:
        Hosts that fail or are repaired, shape (H,) bool; VMs that may crash, shape (V,) bool; the number of
        instants at which hosts fail.
    """
    hosts, vms = np.zeros(len(p.host_type), dtype=bool), np.zeros(len(p.vm_vcpus), dtype=bool)
    first = 0 if start_s <= 0 else int(np.searchsorted(p.fail_time_s, start_s, side="right"))
    last = int(np.searchsorted(p.fail_time_s, end_s, side="right"))
    kinds, items = p.fail_kind[first:last], p.fail_item[first:last]
    hosts[items[kinds != VM_CRASHES]] = True
    vms[items[kinds == VM_CRASHES]] = True
    return hosts, vms, len(np.unique(p.fail_time_s[first:last][kinds == HOST_FAILS]))
