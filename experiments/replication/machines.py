"""Hosts, VM types and demand of the PlanetLab experiment, as the arrays that the njit kernels read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8

Ints = NDArray[Any]

DAY_S = 86_400.0
ROUND_S = 300.0
OFFSET_S = 0.1  # the peer's minimal time between events, by which all its rounds are late
HOST_TOTAL_MHZ = (3720.0, 5320.0)  # HP ML110 G4 (even hosts), HP ML110 G5 (odd hosts), two cores each
HOST_CORE_MHZ = (1860.0, 2660.0)
HOST_RAM_MIB = 4096.0
HOST_WATTS = (
    (86.0, 89.4, 92.6, 96.0, 99.5, 102.0, 106.0, 108.0, 112.0, 114.0, 117.0),
    (93.7, 97.0, 101.0, 105.0, 110.0, 116.0, 121.0, 125.0, 129.0, 133.0, 135.0),
)
VM_MHZ = (2500.0, 2000.0, 1000.0, 500.0)
VM_RAM_MIB = (870.0, 1740.0, 1740.0, 613.0)
MIB_PER_S = 62.5  # half of a 1 Gbit/s link carries a migration
SEGMENTS = 12  # entries per host type in the flat power tables: 0, 10, ..., 100 %, and one never reached


class Site(NamedTuple):
    """What does not change during the day.

    Attributes:
        total: CPU of a host by type, MHz, (2,).
        core: CPU of one core by type, MHz, (2,).
        watts: Power at 0, 10, ..., 100 % by type, flat, (2 * SEGMENTS,).
        slope: A tenth of the power difference to the next point, W, flat, (2 * SEGMENTS,).
        least: The least ``slope`` from a segment up to 100 %, flat, (2 * SEGMENTS,).
        tenth: 0.0, 0.1, ..., 1.1, (SEGMENTS,).
        mhz: Nominal CPU per VM, MHz, (N,).
        ram: Nominal memory per VM, MiB, (N,).
        lane: Index into ``delays`` per VM, (N,): VMs of the same memory size migrate in the same time.
        delays: Migration times, s, ascending.
        key: Spread hash of the VM's identifier in the peer's hash tables, (N,).
        x: Samples as fractions, time-major, (S + 1, N), the last one doubled.
    """

    total: F8
    core: F8
    watts: F8
    slope: F8
    least: F8
    tenth: F8
    mhz: F8
    ram: F8
    lane: Ints
    delays: F8
    key: Ints
    x: F8


def vm_types(n_vms: int) -> Ints:
    """VM type by index: four blocks of ceil(N / 4) VMs.

    Args:
        n_vms: Number of VMs.

    Returns:
        Type 0...3 per VM.
    """
    block = -(-n_vms // 4)
    return np.arange(n_vms, dtype=np.int32) // np.int32(block)


@lru_cache(maxsize=4)
def _hash_keys(n_vms: int) -> Ints:
    """Java's hash of the identifiers ``2-<vm>``, spread as its HashMap does: it decides the order of sums."""
    keys = np.empty(n_vms, dtype=np.int64)
    for vm in range(n_vms):
        code = 0
        for char in f"2-{vm}":
            code = (31 * code + ord(char)) & 0xFFFFFFFF
        keys[vm] = code ^ (code >> 16)
    keys.flags.writeable = False  # shared by all runs
    return keys


def make_site(util_percent: NDArray[Any]) -> Site:
    """Arrange a day for the kernels.

    Args:
        util_percent: CPU utilisation, percent of the VM's nominal CPU, shape (N, S).

    Returns:
        The read-only arrays.
    """
    n_vms, samples = util_percent.shape
    x = np.empty((samples + 1, n_vms))
    np.divide(util_percent.T, 100.0, out=x[:samples])
    x[samples] = x[samples - 1]
    watts = np.zeros((2, SEGMENTS))
    watts[:, :11] = HOST_WATTS
    slope = np.zeros((2, SEGMENTS))
    slope[:, :10] = (watts[:, 1:11] - watts[:, :10]) / 10.0
    least = slope.copy()
    least[:, :10] = np.minimum.accumulate(slope[:, 9::-1], axis=1)[:, ::-1]
    kind = vm_types(n_vms)
    ram = np.array(VM_RAM_MIB)
    delays = np.unique(ram / MIB_PER_S)
    lane = np.searchsorted(delays, ram / MIB_PER_S).astype(np.int32)
    return Site(
        total=np.array(HOST_TOTAL_MHZ),
        core=np.array(HOST_CORE_MHZ),
        watts=watts.ravel(),
        slope=slope.ravel(),
        least=least.ravel(),
        tenth=np.arange(SEGMENTS) / 10.0,
        mhz=np.array(VM_MHZ)[kind],
        ram=ram[kind],
        lane=lane[kind],
        delays=delays,
        key=_hash_keys(n_vms),
        x=x,
    )
