"""Hot standby: protected VMs with a mirrored image on another host (docs §9).

Checkpoint (the form verified: Remus, NSDI 2008). Every epoch tau the VM stops, what it dirtied is copied to a
buffer at the memory's rate, and it goes on while the buffer is sent:

    t_pause = t_fix + D tau / R_mem,   slowdown = t_pause / (tau + t_pause)
    logging = D tau / (tau + t_pause)

with dirty rate D. Lock-step (Scales et al. 2010, from memory): about 10 % slower, and the log carries the
inputs, 1.2 (8 disk reads[MB/s] + network in[Mbit/s]) Mbit/s (VMware's rule, from memory).

If the network gives the log less than it needs, the next checkpoint waits for it: the VM does the share
granted / needed of the rest of its work (derived: both are proportional to the work done).

A secondary reserves memory and CPU again, on another host that shares no failure domain with the primary's.
At most 4 protected VMs and 8 protected vCPUs per host, primaries and secondaries alike (verified: vSphere).

When the primary's host fails, the secondary takes over: an outage of at most 1 s, no restart, nothing lost.
When the secondary's host fails, the VM runs on, unprotected until a host fits. When both fail at once the VM
needs a cold restart.

Where secondaries are and start is ``mirrors``, who takes over ``outages``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...checks import need_choice, need_count, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel, of_records
from .precopy import MBIT_PER_MIB

STANDBY_MODES = ("checkpoint", "lockstep")


@dataclass(frozen=True)
class StandbyConfig:
    """Hot standby.

    Attributes:
        mode: ``checkpoint`` or ``lockstep``.
        epoch_s: Checkpoint epoch, s.
        fixed_pause_s: Pause per checkpoint whatever was dirtied, s (assumed).
        copy_mib_s: Rate at which dirtied memory is copied to the buffer, MiB/s (assumed: a few GiB/s).
        lockstep_loss: Slowdown in lock-step (Scales 2010, from memory).
        takeover_s: VM outage when the secondary takes over, s (at most 1).
        max_vms: Protected VMs per host (verified: vSphere).
        max_vcpus: Protected vCPUs per host (verified: vSphere).
    """

    mode: str = "checkpoint"
    epoch_s: float = 0.025
    fixed_pause_s: float = 0.002
    copy_mib_s: float = 2048.0
    lockstep_loss: float = 0.10
    takeover_s: float = 1.0
    max_vms: int = 4
    max_vcpus: int = 8

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("standby", "mode", self.mode, STANDBY_MODES)
        need_positive("standby", epoch_s=self.epoch_s, copy_mib_s=self.copy_mib_s)
        need_not_negative("standby", fixed_pause_s=self.fixed_pause_s, takeover_s=self.takeover_s)
        need_share("standby", lockstep_loss=self.lockstep_loss)
        need_count("standby", max_vms=self.max_vms, max_vcpus=self.max_vcpus)


class MirrorParams(NamedTuple):
    """``StandbyConfig`` as numbers."""

    mirror_mode: int  # index into STANDBY_MODES
    mirror_epoch_s: float
    mirror_fixed_pause_s: float
    mirror_copy_mib_s: float
    mirror_lockstep_loss: float
    mirror_takeover_s: float
    mirror_max_vms: float
    mirror_max_vcpus: float


def standby_params(config: StandbyConfig) -> MirrorParams:
    """Flatten a configuration for the kernels."""
    return MirrorParams(
        STANDBY_MODES.index(config.mode),
        float(config.epoch_s),
        float(config.fixed_pause_s),
        float(config.copy_mib_s),
        float(config.lockstep_loss),
        float(config.takeover_s),
        float(config.max_vms),
        float(config.max_vcpus),
    )


@kernel
def _pause_s(p: MirrorParams, dirty_mib_s: float) -> float:
    """Pause per checkpoint: t_fix + D tau / R_mem."""
    return float(p.mirror_fixed_pause_s + dirty_mib_s * p.mirror_epoch_s / p.mirror_copy_mib_s)


@of_records
@kernel
def mirror_loss(p: MirrorParams, dirty_mib_s: float) -> float:
    """Share of its work that one protected VM loses, 0...1: t_pause / (tau + t_pause), or that of lock-step.

    Args:
        p: Parameters, from ``standby_params``.
        dirty_mib_s: Dirty rate D while the VM runs, MiB/s; read under ``checkpoint``.
    """
    if p.mirror_mode != 0:
        return float(p.mirror_lockstep_loss)
    pause = _pause_s(p, dirty_mib_s)
    return float(pause / (p.mirror_epoch_s + pause))


@of_records
@kernel
def mirror_need_mbps(
    p: MirrorParams, dirty_mib_s: float, disk_read_mb_s: float, network_in_mbps: float
) -> float:
    """Logging traffic that one protected VM needs, from primary to secondary, Mbit/s.

    D tau / (tau + t_pause) under ``checkpoint``, 1.2 (8 disk reads + network in) in lock-step.

    Args:
        p: Parameters, from ``standby_params``.
        dirty_mib_s: Dirty rate D while the VM runs, MiB/s; read under ``checkpoint``.
        disk_read_mb_s: Disk reads, MB/s; read under ``lockstep``.
        network_in_mbps: Network traffic received, Mbit/s; read under ``lockstep``.
    """
    if p.mirror_mode != 0:
        return 1.2 * (8.0 * disk_read_mb_s + network_in_mbps)
    pause = _pause_s(p, dirty_mib_s)
    return float(dirty_mib_s * p.mirror_epoch_s * MBIT_PER_MIB / (p.mirror_epoch_s + pause))
