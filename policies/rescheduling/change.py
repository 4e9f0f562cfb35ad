"""What a move would do to the objective, without making it."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.jit.kernels import kernel
from virtgym.envs.rescheduling.game import LOAD_BITS, LOAD_ONE, host_of
from virtgym.envs.rescheduling.state import ReschedulingParams, ReschedulingState
from virtgym.envs.sim.models.power import power_at


@kernel
def fragment_change(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> Any:
    """Change of the sum of fragments if a VM moved to another place where it fits."""
    k = s.snapshot[b]
    home, cpu = s.vm_node[b, v], p.vm_cpu[k, v]
    change = np.int64(0)
    for i in range(1 + p.vm_double[k, v]):
        source, target = s.free_cpu[b, home + i], s.free_cpu[b, a + i]
        change += (source + cpu) % p.size - source % p.size + (target - cpu) % p.size - target % p.size
    return change


@kernel
def _host_change(p: ReschedulingParams, s: ReschedulingState, b: int, h: int, cpu: int, n_vms: int) -> Any:
    """Change of load, its square, hosts used and power with so much more CPU free, and VMs more."""
    k = s.snapshot[b]
    free, total = np.int64(0), np.int64(0)
    for a in range(h * p.per_host, (h + 1) * p.per_host):
        free += s.free_cpu[b, a]
        total += p.node_cpu[k, a]
    if total == 0:
        return np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    old, new = ((total - free) << LOAD_BITS) // total, ((total - free - cpu) << LOAD_BITS) // total
    used, use = s.host_vms[b, h] > 0, s.host_vms[b, h] + n_vms > 0
    table = p.power_w[p.host_power[k, h]]
    power = np.int64(0)
    if use:
        power += np.int64(np.rint(1000.0 * power_at(table, new / LOAD_ONE)))
    if used:
        power -= np.int64(np.rint(1000.0 * power_at(table, old / LOAD_ONE)))
    return new - old, new * new - old * old, np.int64(use) - np.int64(used), power


@kernel
def change_of(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> Any:
    """Change of the objective if a VM moved to another place where it fits."""
    k = s.snapshot[b]
    change = 0.0
    if p.weights[0] > 0.0 and s.spare[b] > 0:
        change += p.weights[0] * fragment_change(p, s, b, v, a) / s.spare[b]
    if p.weights[4] > 0.0:
        change += p.weights[4] * p.vm_ms[k, v] / 3.6e6
    source, target = host_of(p, s.vm_node[b, v]), host_of(p, a)
    if source != target and (p.weights[1] > 0.0 or p.weights[2] > 0.0 or p.weights[3] > 0.0):
        cpu = p.vm_cpu[k, v] * (1 + p.vm_double[k, v])
        load0, square0, used0, power0 = _host_change(p, s, b, source, cpu, -1)
        load1, square1, used1, power1 = _host_change(p, s, b, target, -cpu, 1)
        change += p.weights[1] * (used0 + used1) / p.n_hosts
        change += p.weights[3] * (power0 + power1) / (1000.0 * p.peak_w[k])
        if p.weights[2] > 0.0:
            mean = (s.load[b] + load0 + load1) / p.n_hosts
            square = (s.load_sq[b] + square0 + square1) / p.n_hosts
            change += p.weights[2] * (np.sqrt(max(0.0, square - mean * mean)) / LOAD_ONE - s.terms[b, 2])
    return change
