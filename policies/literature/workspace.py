"""The consolidation kernel's memory: arrays, allocated when an episode starts.

H hosts, V VMs, T host types, P points of a power table, W samples of history. Candidates are the hosts that
may receive a VM; their arrays are compact, so that a search runs over nothing else.
"""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import F8, I1, I4, I8
from virtgym.envs.jit.records import Place, Record
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.memory import PlanMemory, allocate_memory
from ..planning.power import boot_energy_j, power_tables


class Options(Record):
    """Limits and choices of a round."""

    number = np.int64
    kind = Place("kind of detector")
    selector = Place("kind of selector")
    placer = Place("kind of placer")
    max_moves = Place("most migrations")
    evacuate = Place("1: underloaded hosts are emptied")
    saving = Place("1: only if that saves energy")
    min_samples = Place("samples that the detector needs")
    horizon = Place("samples ahead that it forecasts")
    mc_window = Place("samples of maximum correlation")
    window = Place("samples of the detector")
    mmt_ties = Place("what minimum migration time does with ties, an index of ``MMT_TIES``")


class Thresholds(Record):
    """Thresholds and factors of a round."""

    safety = Place("safety of the detector")
    fallback = Place("share of its CPU above which a host with a short history is overloaded")
    underload = Place("share below which it is emptied")
    amortise = Place("time over which a boot is spread, s")
    young_gain = Place("what the demand of a VM without enough history counts, in place of its signal")


class Tally(Record):
    """Outputs, sizes, and the state of the sample ring and of the random numbers."""

    number = np.int64
    moves = Place("migrations")
    on = Place("hosts to switch on")
    off = Place("hosts to switch off")
    candidates = Place("candidates")
    waiting = Place("VMs that wait for a host")
    samples_taken = Place("samples in the ring since the start")
    seed = Place("state of the random numbers")


MAX_CLASSES = 8
"""Most memory classes: distinct sizes, or groups of neighbouring sizes where there are more."""


class Workspace(PlanMemory):
    """Everything the kernel writes, and the rules it follows.

    What kernels hand to each other is int64, so that each of them is compiled once.
    """

    options: Options
    rules: Thresholds
    tally: Tally
    taps: F8  # (n,) filter of an additive detector, oldest sample first
    tricube: F8  # (n,) weights of the robust regression
    limit: F8  # (H,) additive signal above which a host is overloaded, MHz; inf for the other detectors
    load_scale: F8  # (H,) from MHz to intervals of the power table
    power_w: F8  # (T, P) power at equally spaced loads, W; see planning.power
    slope_w: F8  # (T, P) increase over each interval, W; last one 0
    boot_j: F8  # (H,) energy of a boot, J
    hist: F8  # (V, 2 W) demand, MHz: a ring written twice, so that every window is contiguous
    samples: I8  # (V,) samples of the VM, at most W
    signal: F8  # (V,) what the VM adds to its host's signal, MHz
    moved: I1  # (V,) 1: drained or moved in this round
    ask: F8  # (H,) sum of capped demand of the VMs at home, MHz
    sig: F8  # (H,) sum of their signals, MHz
    n_out: I4  # (H,) of these, VMs that leave in this round
    received: I4  # (H,) VMs that come in this round
    over: I1  # (H,) 1: overloaded at the start of the round
    h_samples: I8  # (H,) fewest samples of the VMs at home, at most the detector's window
    rows: F8  # (H, W) history of the host, MHz; (1, 1) for additive detectors
    first: I4  # (H + 1,) start of each host's VMs in ``vm_of``
    c_host: I8  # (H,) candidates: host
    c_ask: F8  # (H,) capped demand, MHz
    c_cap: F8  # (H,) capacity with slack, MHz; -1 = closed
    c_sig: F8  # (H,) signal, MHz
    c_lim: F8  # (H,) its limit, MHz
    c_mem: F8  # (H,) free memory, MiB; inf when memory does not bind
    c_core: F8  # (H,) speed of a core, MHz
    c_scale: F8  # (H,) as ``load_scale``
    c_x: F8  # (H,) load in intervals of the power table
    c_end: F8  # (H,) distance to the end of the interval
    c_slope: F8  # (H,) slope of the interval, W
    c_slope2: F8  # (H,) slope of the next one, W
    c_pow: F8  # (H,) power at the load, W
    c_of: I4  # (H,) candidate of a host, -1 = none
    open_host: I8  # (2 T,) lowest empty host of each type: running ones, then those off; -1 = none
    vm_class: I4  # (V,) memory class of each VM
    class_mem: F8  # (K,) least memory of a VM of each class, MiB, ascending
    b_sig: F8  # (K, 2) largest and second room for signal among candidates with that much memory, MHz
    b_cap: F8  # (K, 2) the same of room for CPU, MHz
    b_sig_host: I4  # (K,) host of the largest
    b_cap_host: I4  # (K,)
    j_cand: I8  # (V,) journal of an evacuation: candidate
    j_ask: F8  # (V,) its values before
    j_sig: F8  # (V,)
    j_mem: F8  # (V,)
    j_samples: I8  # (V,)
    j_rows: F8  # (V, W) or (1, 1)
    order: I4  # (max(H, V),) what is being sorted
    order2: I4  # (max(H, V),)
    order3: I4  # (max(H, V),) hosts to evacuate
    key: F8  # (max(H, V),) sort keys
    key2: F8  # (max(H, V),) keys of ties
    window: F8  # (W,) a history under test
    scratch: F8  # (2 W,)
    matrix: F8  # (W, W) of maximum correlation
    out_vm: I4  # (V,) moves: VM
    out_host: I4  # (V,) and host
    out_on: I4  # (H,) hosts to switch on
    out_off: I4  # (H,) hosts to switch off


def allocate_workspace(
    p: ClusterParams, state: ClusterState, taps: F8, tricube: F8, depth: int, with_rows: bool
) -> Workspace:
    """Make a workspace for a cluster.

    Args:
        state: Its state, for the shape of the room of hosts.
        taps: Filter of the detector, shape (n,).
        tricube: Weights of the robust regression, shape (m,).
        depth: W, samples of history that detector and selector need.
        with_rows: Whether the detector needs the history of every host.

    Returns:
        Zeroed arrays, with the power tables' slopes filled in.
    """
    n_hosts, n_vms = len(p.host_type), len(p.vm_vcpus)
    power_w = power_tables(p)
    n_types, points = power_w.shape
    rows = depth if with_rows else 1
    per_vm = "samples", "home", "signal", "moved", "vm_of", "out_vm", "out_host"
    shapes: dict[str, int | tuple[int, ...]] = {
        **dict.fromkeys(("j_cand", "j_ask", "j_sig", "j_mem", "j_samples"), n_vms),
        **dict.fromkeys(("order", "order2", "order3", "key", "key2"), max(n_hosts, n_vms)),
        **dict.fromkeys(("b_sig", "b_cap"), (MAX_CLASSES, 2)),
        **dict.fromkeys(("b_sig_host", "b_cap_host"), MAX_CLASSES),
        **{"window": depth, "scratch": 2 * depth, "matrix": (depth, depth), "hist": (n_vms, 2 * depth)},
        **{"rows": (n_hosts if with_rows else 1, rows), "j_rows": (n_vms if with_rows else 1, rows)},
        **{"first": n_hosts + 1, "open_host": 2 * n_types},
    }
    vm_class, class_mem = _memory_classes(p)
    known = {
        "taps": np.ascontiguousarray(taps, dtype=np.float64),
        "tricube": np.ascontiguousarray(tricube, dtype=np.float64),
        "load_scale": (points - 1) / p.host_cpu_mhz,
        "power_w": power_w,
        "slope_w": np.ascontiguousarray(np.diff(power_w, axis=1, append=power_w[:, -1:])),
        "boot_j": boot_energy_j(p),
        "vm_class": vm_class,
        "class_mem": class_mem,
    }
    return allocate_memory(Workspace, state, per_vm, shapes, known)


def _memory_classes(p: ClusterParams) -> tuple[I4, F8]:
    """Group VMs by configured memory; one class when memory does not bind.

    Returns:
        Class of each VM, shape (V,), and the least memory in each class, shape (K,).
    """
    if not p.memory_binding:
        return np.zeros(p.vm_mem_mib.shape[0], dtype=np.int32), np.zeros(1)
    sizes = np.unique(p.vm_mem_mib)
    starts = np.unique(np.linspace(0, sizes.size, MAX_CLASSES, endpoint=False).astype(np.int64))
    least = sizes[starts]
    return (np.searchsorted(least, p.vm_mem_mib, side="right") - 1).astype(np.int32), least
