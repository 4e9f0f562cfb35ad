"""What no policy can go below: the fluid bound of a scenario (``policies.solvers.fluid_bound``)."""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.sim.config import HostType
from virtgym.envs.sim.models.carbon import J_PER_KWH, intensity_integral
from virtgym.envs.sim.models.cost import MHZ_S_PER_GHZ_H, class_values
from virtgym.policies.solvers.fluid_bound import FluidProblem, fluid_bound


def cost_bound(scenario: Scenario) -> float:
    """The least that an episode of a scenario can cost, in the unit of its prices.

    Work that no host can do (beyond the fastest core, beyond a VM's limit) counts in full.

    Args:
        scenario: A scenario of kind cluster.
    """
    cluster, load = scenario.cluster, scenario.workload
    edges = np.minimum(load.sample_s * np.arange(len(load.util) + 1), scenario.horizon_s)
    edges = np.append(edges, scenario.horizon_s) if edges[-1] < scenario.horizon_s else edges
    seconds = np.diff(edges)
    rows = np.minimum(np.arange(len(seconds)), len(load.util) - 1)
    seconds, rows, start = seconds[seconds > 0], rows[seconds > 0], edges[:-1][seconds > 0]
    stay = np.minimum(load.vm_departure_s, (start + seconds)[:, None])
    there = np.clip(stay - np.maximum(load.vm_arrival_s, start[:, None]), 0.0, None) / seconds[:, None]
    asked = load.util[rows] * load.vm_cpu_mhz
    most = load.vm_vcpus * max(kind.core_mhz for kind in cluster.host_types)
    if cluster.cpu is not None:
        limits = np.array([profile.cpu.limit_mhz for profile in load.profiles])
        most = np.minimum(most, limits[load.vm_profile])
    weight = class_values(cluster.cost.weights, load.vm_class)
    price = cluster.cost.unserved / MHZ_S_PER_GHZ_H
    hopeless = float(seconds @ (there * np.maximum(asked - most, 0.0)) @ weight) * price
    weights, kind_of = np.unique(weight, return_inverse=True)
    doable = there * np.minimum(asked, most)
    demand = np.stack([doable[:, kind_of == c].sum(axis=1) for c in range(len(weights))], axis=1)
    found = fluid_bound(
        FluidProblem(
            seconds=seconds,
            demand_mhz=demand,
            memory_mib=_memory(scenario, there),
            energy_price=_energy_price(scenario, start, seconds),
            unserved_price=weights * price,
            hosts=np.bincount(cluster.host_type_of, minlength=len(cluster.host_types)),
            cpu_mhz=np.array([kind.cpu_mhz for kind in cluster.host_types]),
            host_memory_mib=np.array([kind.memory_mib for kind in cluster.host_types]),
            power_w=tuple(_power(kind) for kind in cluster.host_types),
        )
    )
    return found.cost + hopeless


def _memory(scenario: Scenario, there: F8) -> F8:
    """Memory that hosts that are on must hold in each stretch, MiB."""
    cluster = scenario.cluster
    if cluster.memory == "ignored":
        return np.zeros(len(there))
    spare = cluster.memory_overcommit if cluster.memory == "multiplexed" else 1.0
    return np.asarray(there @ scenario.workload.vm_mem_mib / spare, dtype=np.float64)


def _energy_price(scenario: Scenario, start: F8, seconds: F8) -> F8:
    """Price of a joule in each stretch, carbon included."""
    cluster = scenario.cluster
    price = np.full(len(start), cluster.cost.energy)
    series = cluster.carbon
    if series is not None:
        grams = [
            intensity_integral(series.g_per_kwh, series.step_s, series.offset_s, a, a + n)
            for a, n in zip(start.tolist(), seconds.tolist())
        ]
        price = price + cluster.cost.carbon * np.array(grams) / seconds / 1000.0
    return price * cluster.power.pue / J_PER_KWH


def _power(kind: HostType) -> F8:
    """Power at equally spaced loads, W; of a curve, lines below it: Fan's is concave, its chord is lowest."""
    watts, curve = np.array(kind.table_w, dtype=np.float64), kind.curve
    if curve.kind == "fan":
        u = min(1.0, curve.scale)
        watts[-1] = watts[0] + (watts[-1] - watts[0]) * (2.0 * u - u**curve.exponent)
    watts[1:] += curve.busy_w
    return watts
