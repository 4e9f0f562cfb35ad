"""I/O of VMs (docs §5): what it costs the CPU, how long it takes, what the NIC lets through.

CPU. A device hands over ``rate`` packets or requests a second, coalesced into batches. Exits and interrupts
cost something per batch; moving the data costs something per packet, which no batching saves:

    cpu_io_mhz = 1e-6 * ((rate / batch) * (n_exit * c_exit + c_handler) + rate * c_packet)
    batch      = max(1, rate * t_coalesce)

Emulated devices batch nothing (batch = 1) and exit 4 times per packet; passthrough with posted interrupts
does not exit at all. Beyond one packet per t_coalesce the cost is linear in the rate: 7.8 million small
packets a second through virtio take 12 GHz. The exits, cycles and latencies are configurable priors of the
right order, not measurements. For comparison: SR-IOV reaches line rate at +1.76 % CPU per VM up to 60 VMs
(verified: Dong et al., HPCA 2010); exit-less interrupts reach 97 to 100 % of bare metal (verified: ELI,
ASPLOS 2012).

Class 4 of §1 counts the same operations another way, from the VM's instructions and not from its traffic.
Where both sub-models are on, the larger of the two costs is charged, here: switching one of them on never
makes the same operations cheaper, and a VM without traffic keeps what class 4 says.

Latency. Three parts:

    latency = l_mode + (batch - 1) / (2 rate) + f^2 slice / (2 (1 - f))

- l_mode, the path through the hypervisor (table).
- Coalescing: the packets of a batch come 1 / rate apart and are all delivered with the last one, so a packet
  waits (batch - 1) / (2 rate) in the mean, which is 0 when nothing is batched. (Derived from the batch.)
- Ready time: an interrupt is delivered only while a vCPU runs. A vCPU that is ready, but not scheduled, for a
  share f of the time it wants to run, runs one time slice and then waits W = slice f / (1 - f). An interrupt
  finds it waiting with probability f and then waits W / 2. (Derived for slices in turn; slice 30 ms,
  verified: Xen wiki.) Never reported as more than one interval.

Bandwidth. Sending and receiving VMs, migrations and logging traffic share the full-duplex NICs max-min fairly
(``fair_share.py``, ``network.py``).

Passthrough functions. A host has a finite number of them, each given to one passthrough VM: it may be placed
where used + its own <= all (``suits.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...arrays import F8
from ...checks import need_count, need_not_negative, need_positive
from ...jit.kernels import kernel

EMULATED, VIRTIO, PASSTHROUGH = 0, 1, 2
"""I/O modes, the values of ``vm_mode``."""

IO_MODES = ("emulated", "virtio", "passthrough")
"""Their names in configurations."""


@dataclass(frozen=True)
class IoMode:
    """What one way to do I/O costs.

    Attributes:
        exits: VM exits per batch.
        exit_cycles: Cycles per exit.
        handler_cycles: Cycles of the handler per batch.
        packet_cycles: Cycles per packet or request, however many come together.
        latency_us: Latency it adds, µs.
        batched: Whether interrupts are coalesced.
        migratable: Whether a VM that uses it can migrate live.
    """

    exits: float
    exit_cycles: float
    handler_cycles: float
    latency_us: float
    packet_cycles: float
    batched: bool = True
    migratable: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_not_negative(
            "io mode",
            exits=self.exits,
            exit_cycles=self.exit_cycles,
            handler_cycles=self.handler_cycles,
            latency_us=self.latency_us,
            packet_cycles=self.packet_cycles,
        )


def _emulated() -> IoMode:
    return IoMode(4, 2000, 25000, 50, 12_000, batched=False)


def _virtio() -> IoMode:
    return IoMode(2, 1500, 6000, 15, 1500)


def _passthrough() -> IoMode:
    return IoMode(1, 1500, 2000, 3, 200, migratable=False)


@dataclass(frozen=True)
class IoConfig:
    """The I/O sub-model.

    Attributes:
        emulated: Device model in software.
        virtio: Front end and back end.
        passthrough: SR-IOV or direct assignment. ``migratable=True`` for devices that support it.
        posted_interrupts: Whether passthrough interrupts reach the guest without an exit.
        coalesce_us: Time over which a device gathers interrupts, µs (assumed: of the order of usual NIC
            throttling rates of 8,000 to 20,000 interrupts a second).
        slice_ms: Time slice of the vCPU scheduler, ms (verified: Xen wiki, 30).
        functions_per_host: Passthrough functions of a host (assumed: of the order of the virtual functions
            of one 10 GbE port).
    """

    emulated: IoMode = field(default_factory=_emulated)
    virtio: IoMode = field(default_factory=_virtio)
    passthrough: IoMode = field(default_factory=_passthrough)
    posted_interrupts: bool = False
    coalesce_us: float = 50.0
    slice_ms: float = 30.0
    functions_per_host: int = 64

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_not_negative("io", coalesce_us=self.coalesce_us)
        need_positive("io", slice_ms=self.slice_ms)
        need_count("io", low=0, functions_per_host=self.functions_per_host)

    def modes(self) -> tuple[IoMode, IoMode, IoMode]:
        """The three modes in the order of their codes."""
        return self.emulated, self.virtio, self.passthrough


def mode_table(config: IoConfig) -> F8:
    """Flatten the modes for the kernel.

    Returns:
        Shape (3, 4): per mode the cycles per batch and per packet, the latency (s), the coalescing time (s).
    """
    rows = []
    for code, mode in enumerate(config.modes()):
        exits = 0.0 if code == PASSTHROUGH and config.posted_interrupts else mode.exits
        cycles = exits * mode.exit_cycles + mode.handler_cycles
        coalesce_us = config.coalesce_us if mode.batched else 0.0
        rows.append((cycles, mode.packet_cycles, 1e-6 * mode.latency_us, 1e-6 * coalesce_us))
    return np.array(rows)


@kernel
def io_cost(mode: int, rate: float, waiting: float, table: F8, slice_s: float, interval_s: float) -> Any:
    """CPU that one VM's I/O costs and the latency it has.

    Args:
        mode: EMULATED, VIRTIO or PASSTHROUGH.
        rate: Packets or requests, 1/s.
        waiting: Share f of the time that the VM wants to run in which it is ready, but not scheduled:
            1 - granted / asked, 0 where nothing is asked.
        table: From ``mode_table``.
        slice_s: Time slice of the vCPU scheduler, s.
        interval_s: Longest wait reported, s.

    Returns:
        CPU cost, MHz, and mean latency of a packet, s; 0 and 0 for a VM without I/O.
    """
    if rate <= 0.0:
        return 0.0, 0.0
    cycles, packet_cycles, path_s, coalesce_s = table[mode]
    batch = max(1.0, rate * coalesce_s)
    f = min(1.0, max(0.0, waiting))
    wait = interval_s
    if f < 1.0:
        wait = min(interval_s, 0.5 * f * f * slice_s / (1.0 - f))
    return 1e-6 * rate * (cycles / batch + packet_cycles), path_s + 0.5 * (batch - 1.0) / rate + wait
