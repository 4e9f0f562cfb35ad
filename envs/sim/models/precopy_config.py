"""Live migration: its parameters, its limits per host, its energy (model.md §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ...checks import need, need_choice, need_count, need_not_negative, need_positive, need_share

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]

DivergenceRule = Literal["stop", "auto_converge", "post_copy"]
DIVERGENCE_RULES: tuple[str, ...] = get_args(DivergenceRule)

MBIT_PER_MIB = 8.388608
"""1 MiB = 2**20 * 8 / 1e6 Mbit."""

TEN_GIGABIT_MBPS = 10_000.0


@dataclass(frozen=True)
class PrecopyConfig:
    """Pre-copy migration.

    Attributes:
        on_divergence: What to do when the copy does not converge. ``stop``: go on to the limits below, then
            copy the rest while the VM is stopped; ``auto_converge``: slow the VM down, more every round;
            ``post_copy``: run the VM on the destination and fetch the rest.
        threshold_mib: Stop and copy once a round is this small, MiB (Xen: 50 pages of 4 KiB, from memory).
        max_rounds: Index of the last round (Xen: 29, from memory).
        max_sent: Stop once more than this multiple of the VM's memory was sent (Xen: 3, from memory). It does
            not bind under ``auto_converge``, which it would end before the throttle can act.
        init_s: Preparation before the first round, s (assumed).
        resume_s: From the last byte to the VM running again, s (assumed; Clark et al., NSDI 2005, saw
            downtimes from 60 ms).
        throttle_start: First throttle of the vCPUs.
        throttle_step: What is added every further round.
        throttle_max: Its upper bound (QEMU: 99 %, from memory).
        cpu_state_mib: State that post-copy hands over while the VM is stopped, MiB (assumed).
        postcopy_loss: Share of its CPU that a VM loses to page faults while pages are fetched (assumed).
        cpu_loss: Share of its CPU that a VM loses while it is copied (verified: Beloglazov & Buyya 2012).
        dest_cpu_share: Share of the VM's CPU that the copy costs on the destination (assumed).
        max_mbps: Bound of one migration's rate, Mbit/s; None = whatever the NICs leave.
        slots_1g: Concurrent migrations of a host below 10 GbE (verified: vMotion limits).
        slots_10g: The same from 10 GbE on (verified: vMotion limits).
        energy_j_per_mb: Energy per MB (1e6 bytes) sent, J (Liu et al. 2011, from memory).
        energy_j: Energy per migration, J (Liu et al. 2011, from memory).
    """

    on_divergence: DivergenceRule = "stop"
    threshold_mib: float = 50 * 4 / 1024
    max_rounds: int = 29
    max_sent: float = 3.0
    init_s: float = 1.0
    resume_s: float = 0.05
    throttle_start: float = 0.20
    throttle_step: float = 0.10
    throttle_max: float = 0.99
    cpu_state_mib: float = 1.0
    postcopy_loss: float = 0.20
    cpu_loss: float = 0.10
    dest_cpu_share: float = 0.10
    max_mbps: float | None = None
    slots_1g: int = 4
    slots_10g: int = 8
    energy_j_per_mb: float = 0.512
    energy_j: float = 20.2

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("migration", "on_divergence", self.on_divergence, DIVERGENCE_RULES)
        need_count("migration", low=0, max_rounds=self.max_rounds)
        need_count("migration", slots_1g=self.slots_1g, slots_10g=self.slots_10g)
        need_positive("migration", max_sent=self.max_sent)
        if self.max_mbps is not None:
            need_positive("migration", max_mbps=self.max_mbps)
        need_not_negative(
            "migration",
            threshold_mib=self.threshold_mib,
            init_s=self.init_s,
            resume_s=self.resume_s,
            cpu_state_mib=self.cpu_state_mib,
            energy_j_per_mb=self.energy_j_per_mb,
            energy_j=self.energy_j,
        )
        need_share(
            "migration",
            throttle_start=self.throttle_start,
            throttle_step=self.throttle_step,
            throttle_max=self.throttle_max,
            postcopy_loss=self.postcopy_loss,
            cpu_loss=self.cpu_loss,
            dest_cpu_share=self.dest_cpu_share,
        )
        need(
            self.throttle_start <= self.throttle_max,
            f"migration.throttle_start={self.throttle_start}: must not exceed throttle_max",
        )


class PrecopyParams(NamedTuple):
    """What the kernels read: ``PrecopyConfig`` in numbers."""

    copy_rule: int  # index into DIVERGENCE_RULES
    copy_threshold_mib: float
    copy_max_rounds: int
    copy_max_sent: float  # inf under auto_converge
    copy_init_s: float
    copy_resume_s: float
    copy_throttle_start: float
    copy_throttle_step: float
    copy_throttle_max: float
    copy_cpu_state_mib: float
    copy_postcopy_loss: float
    copy_cpu_loss: float


def precopy_params(config: PrecopyConfig) -> PrecopyParams:
    """Flatten a configuration for the kernels."""
    throttles = config.on_divergence == "auto_converge"
    return PrecopyParams(
        copy_rule=DIVERGENCE_RULES.index(config.on_divergence),
        copy_threshold_mib=float(config.threshold_mib),
        copy_max_rounds=int(config.max_rounds),
        copy_max_sent=float("inf") if throttles else float(config.max_sent),
        copy_init_s=float(config.init_s),
        copy_resume_s=float(config.resume_s),
        copy_throttle_start=float(config.throttle_start),
        copy_throttle_step=float(config.throttle_step),
        copy_throttle_max=float(config.throttle_max),
        copy_cpu_state_mib=float(config.cpu_state_mib),
        copy_postcopy_loss=float(config.postcopy_loss),
        copy_cpu_loss=float(config.cpu_loss),
    )


def migration_slots(config: PrecopyConfig, host_nic_mbps: F8) -> I4:
    """Concurrent migrations that each host allows, in and out together.

    Args:
        config: Parameters.
        host_nic_mbps: Line rate, Mbit/s, shape (H,).

    Returns:
        Shape (H,).
    """
    fast = host_nic_mbps >= TEN_GIGABIT_MBPS
    return np.where(fast, config.slots_10g, config.slots_1g).astype(np.int32)


def migration_energy_j(config: PrecopyConfig, data_mib: F8) -> F8:
    """Energy of finished migrations: E = 0.512 J/MB * data + 20.2 J (Liu et al. 2011, from memory).

    It is an estimate of the work on both ends and the network together. Where host power already follows the
    CPU that a migration uses, report it beside the hosts' energy, do not add it.

    Args:
        config: Parameters.
        data_mib: Data sent by each, MiB.

    Returns:
        J, of the same shape.
    """
    return config.energy_j_per_mb * (np.asarray(data_mib) * 2**20 / 1e6) + config.energy_j
