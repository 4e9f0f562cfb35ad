"""The kernels of DPM that empty hosts which are hardly used; see ``dpm_kernels``."""

from __future__ import annotations

from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.envs.sim.engine.orders import vm_movable
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.moves import move_energy_j
from ..planning.power import host_watts
from .kernels import collect, expected_peak, find_host, order_move
from .workspace import DpmWork


@kernel
def evacuate(p: ClusterParams, s: ClusterState, w: DpmWork) -> None:
    """Empty hosts whose expected load is under the low threshold, the least loaded first.

    All VMs of a host move to other hosts that hold VMs, or none does; and only where the power saved over the
    horizon is worth the migrations.
    """
    n = 0
    for h in range(w.n_home.shape[0]):
        settled = s.host_power_state[h] == ON and s.host_n_in[h] == 0 and s.host_n_vms[h] == w.n_home[h]
        settled = settled and w.accepts[h] and w.n_home[h] > 0 and w.n_out[h] == 0 and w.received[h] == 0
        if not settled or w.held[h] or s.clock.now_s - w.host_on_s[h] < w.rules.min_on_s:
            continue
        load = expected_peak(w, w.mean[h], w.var[h])
        if load < w.rules.low * p.host_cpu_mhz[h]:
            w.order[n] = h
            w.key[h] = load * p.host_inv_cpu[h]
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)
    for i in range(n):
        w.hosts[i] = w.order[i]
    collect(w)
    for i in range(n):
        h = w.hosts[i]
        if w.tally.evacuated >= w.rules.max_emptied:
            break  # another empty host could not go off
        if w.received[h] == 0 and w.tally.moves + w.n_home[h] <= w.rules.max_moves:
            _evacuate_host(p, s, w, h)


@kernel
def _evacuate_host(p: ClusterParams, s: ClusterState, w: DpmWork, h: int) -> None:
    n = w.n_home[h]
    for i in range(n):
        v = w.vm_of[w.first[h] + i]
        w.order[i] = v
        w.key[v] = -w.vm_mean[v]
    sort_ascending(w.order, w.key, n, w.order2)
    saved = host_watts(p, h, w.mean[h]) * w.rules.horizon_s
    w.accepts[h] = 0
    done = 0
    while done < n:
        v = w.order[done]
        c = find_host(p, s, w, v, h, w.rules.fill_share, w.rules.high) if vm_movable(s, v) == 0 else -1
        if c < 0:
            break
        more = host_watts(p, c, w.mean[c] + w.vm_mean[v]) - host_watts(p, c, w.mean[c])
        saved -= more * w.rules.horizon_s + w.rules.move_cost * move_energy_j(p, s, v, h, c)
        order_move(p, w, v, c)
        done += 1
    if done == n and saved > 0.0:
        w.tally.evacuated += 1
        return
    while done > 0:
        done -= 1
        order_move(p, w, w.order[done], h)
    w.accepts[h] = 1
