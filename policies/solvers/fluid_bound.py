"""A lower bound on the cost of a cluster's episode: what hosts would cost if load were a fluid.

In every stretch of time t the load of all VMs is one fluid per class c that any host of kind k may serve in
any part; hosts go on and off at once and in fractions; nothing is lost to migration, overhead or failure:

    minimise  sum_t seconds_t (price_t sum_k E_kt + sum_c weight_c (demand_tc - s_tc))
    s_tc <= demand_tc                          what is served of a class
    sum_c s_tc = sum_k L_kt                    is served by hosts of some kind
    L_kt <= cpu_k n_kt,  n_kt <= count_k       that are on
    sum_k memory_k n_kt >= memory_t            and hold the memory of who is there
    E_kt >= a n_kt + b L_kt / cpu_k            lines (a, b): lower hull of the power curve

Every policy's episode is a solution of this programme or dearer than one: means over a stretch do no better
than the stretch (the programme is convex), and whatever else costs (outages, migrations, latency) is 0 or
more. No policy reaches the bound; it says how much there is to gain at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8

from .bounds import power_hull
from .programme import Rows, solve_programme


class FluidProblem(NamedTuple):
    """A cluster and its load as fluids; T stretches of time, C classes, K kinds of hosts.

    Attributes:
        seconds: Length of each stretch, s, (T,).
        demand_mhz: Mean demand of each class that some host could serve, MHz, (T, C).
        memory_mib: Memory that hosts that are on must hold, MiB, (T,); 0 where it need not fit.
        energy_price: Price of energy, per J, (T,).
        unserved_price: Price of work that is not done, per MHz s, (C,).
        hosts: Hosts of each kind, (K,).
        cpu_mhz: CPU of one, MHz, (K,).
        host_memory_mib: Memory of one, MiB, (K,).
        power_w: Power at equally spaced loads of each kind, W.
    """

    seconds: F8
    demand_mhz: F8
    memory_mib: F8
    energy_price: F8
    unserved_price: F8
    hosts: I8
    cpu_mhz: F8
    host_memory_mib: F8
    power_w: tuple[F8, ...]


class FluidBound(NamedTuple):
    """The least cost of a ``FluidProblem``.

    Attributes:
        cost: Of all stretches.
        energy: The part of it that is energy.
        unserved: The part of it that is work not done.
    """

    cost: float
    energy: float
    unserved: float


def fluid_bound(problem: FluidProblem, seconds: float = 60.0) -> FluidBound:
    """Solve the programme.

    Args:
        problem: The cluster and its load.
        seconds: Wall time.

    Returns:
        The least cost. If the memory that is asked for fits on no hosts, it is not asked for.

    Raises:
        RuntimeError: If the solver finds nothing in that time.
    """
    n, n_classes = problem.demand_mhz.shape
    kinds = range(len(problem.hosts))
    step = np.arange(n)
    whole_memory = float(problem.hosts @ problem.host_memory_mib)
    memory = np.where(problem.memory_mib <= whole_memory * (1 + 1e-9), problem.memory_mib, 0.0)
    rows = Rows()
    price = problem.seconds * problem.energy_price
    lost = problem.seconds[:, None] * problem.unserved_price
    served = [rows.columns(n, -lost[:, c], problem.demand_mhz[:, c]) for c in range(n_classes)]
    on = [rows.columns(n, 0.0, float(problem.hosts[k])) for k in kinds]
    load = [rows.columns(n) for k in kinds]  # in hosts' worth
    power = [rows.columns(n, price) for k in kinds]
    rows.rows(
        n, 0.0, 0.0,
        *((step, served[c], 1.0) for c in range(n_classes)),
        *((step, load[k], -problem.cpu_mhz[k]) for k in kinds),
    )  # fmt: skip
    for k in kinds:
        rows.rows(n, 0.0, np.inf, (step, on[k], 1.0), (step, load[k], -1.0))
        for a, b in power_hull(problem.power_w[k], 1.0):
            rows.rows(n, 0.0, np.inf, (step, power[k], 1.0), (step, on[k], -a), (step, load[k], -b))
    needed = np.flatnonzero(memory > 0)
    if needed.size:
        scale = memory[needed]
        terms = [(np.arange(needed.size), on[k][needed], problem.host_memory_mib[k] / scale) for k in kinds]
        rows.rows(needed.size, 1.0, np.inf, *terms)
    programme = rows.programme()
    _, x, _ = solve_programme(programme, np.zeros(len(programme.objective), dtype=np.bool_), seconds)
    if x is None:
        raise RuntimeError("fluid bound: the solver found no solution")
    energy = float(sum(price @ x[power[k]] for k in kinds))
    unserved = float(sum(lost[:, c] @ (problem.demand_mhz[:, c] - x[served[c]]) for c in range(n_classes)))
    return FluidBound(energy + unserved, energy, unserved)
