"""The load on a cluster: VM sizes, lifetimes and CPU demand over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .guests import GUEST_PROFILES, GuestProfile
from .models.cost import VM_CLASSES


@dataclass(frozen=True)
class Workload:
    """VMs with sizes, lifetimes and a demand signal, as arrays.

    Attributes:
        name: Label in result rows.
        sample_s: Sampling period of ``util``, s.
        util: CPU demand, shape (S, V), time-major, fraction of ``vm_cpu_mhz``; sample k holds during
            ``[k, k + 1) * sample_s``, the last one for ever.
        vm_cpu_mhz: Nominal CPU, MHz, shape (V,).
        vm_vcpus: Virtual CPUs, shape (V,), int32.
        vm_mem_mib: Configured memory, MiB, shape (V,).
        vm_arrival_s: Arrival, s, shape (V,).
        vm_departure_s: Departure, s, shape (V,); inf = never.
        vm_names: Labels; may be empty.
        signals: Further (S, V) matrices by name, for sub-models that use them (``state.build.SIGNALS``).
        profiles: Kinds of guests; at least one.
        vm_profile: Index into ``profiles`` per VM, shape (V,), int32; empty = the first for all.
        vm_class: Service class per VM, index into ``cost.VM_CLASSES``, shape (V,), int8; -1, or empty for
            all: the one of its profile.
        vm_home: Host that each VM of time 0 is on, whatever rule places arrivals, shape (V,), int32; -1, or
            empty for all: the rule's choice.
    """

    name: str
    sample_s: float
    util: NDArray[np.float64]
    vm_cpu_mhz: NDArray[np.float64]
    vm_vcpus: NDArray[np.int32]
    vm_mem_mib: NDArray[np.float64]
    vm_arrival_s: NDArray[np.float64]
    vm_departure_s: NDArray[np.float64]
    vm_names: tuple[str, ...] = ()
    signals: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    profiles: tuple[GuestProfile, ...] = (GUEST_PROFILES["default"],)
    vm_profile: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    vm_class: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, dtype=np.int8))
    vm_home: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def __post_init__(self) -> None:
        """Check shapes and ranges.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        if self.util.ndim != 2 or 0 in self.util.shape:
            raise ConfigError(f"workload {self.name}: util must have shape (S, V), is {self.util.shape}")
        if not 0 < self.sample_s < math.inf:
            raise ConfigError(f"workload {self.name}: sample_s={self.sample_s} must be positive and finite")
        for key in ("vm_cpu_mhz", "vm_vcpus", "vm_mem_mib", "vm_arrival_s", "vm_departure_s"):
            column = getattr(self, key)
            if column.shape != (self.n_vms,):
                raise ConfigError(
                    f"workload {self.name}: {key} has shape {column.shape}, expected ({self.n_vms},)"
                )
            if bool(np.isnan(column).any()):
                raise ConfigError(f"workload {self.name}: {key} holds NaN")
        for key in ("vm_cpu_mhz", "vm_vcpus", "vm_mem_mib"):
            column = getattr(self, key)
            if not (float(column.min()) > 0 and bool(np.isfinite(column).all())):
                raise ConfigError(f"workload {self.name}: {key} must be positive and finite")
        if not np.isfinite(self.util).all() or float(self.util.min()) < 0:
            raise ConfigError(f"workload {self.name}: util must be finite and at least 0")
        if not (float(self.vm_arrival_s.min()) >= 0 and bool(np.isfinite(self.vm_arrival_s).all())):
            raise ConfigError(f"workload {self.name}: vm_arrival_s must be finite and at least 0")
        if not bool((self.vm_departure_s > self.vm_arrival_s).all()):
            raise ConfigError(f"workload {self.name}: every departure must come after its arrival")
        if self.vm_home.size not in (0, self.n_vms):
            raise ConfigError(
                f"workload {self.name}: vm_home has shape {self.vm_home.shape}, expected ({self.n_vms},)"
            )
        self._check_profiles()

    def _check_profiles(self) -> None:
        if not self.profiles:
            raise ConfigError(f"workload {self.name}: profiles: needs at least one")
        kinds = np.asarray(self.vm_profile)
        if kinds.size == 0:
            kinds = np.zeros(self.n_vms, dtype=np.int32)
        if kinds.shape != (self.n_vms,) or kinds.dtype.kind not in "iu":
            raise ConfigError(
                f"workload {self.name}: vm_profile must be integers of shape ({self.n_vms},), "
                f"is {kinds.dtype} of shape {kinds.shape}"
            )
        if int(kinds.min()) < 0 or int(kinds.max()) >= len(self.profiles):
            raise ConfigError(
                f"workload {self.name}: vm_profile must lie in 0..{len(self.profiles) - 1}, the profiles"
            )
        object.__setattr__(self, "vm_profile", np.ascontiguousarray(kinds, dtype=np.int32))
        given = np.asarray(self.vm_class)
        if given.size == 0:
            given = np.full(self.n_vms, -1, dtype=np.int8)
        known = given.shape == (self.n_vms,) and given.dtype.kind in "iu"
        if not known or int(given.min()) < -1 or int(given.max()) >= len(VM_CLASSES):
            raise ConfigError(
                f"workload {self.name}: vm_class must be integers in -1..{len(VM_CLASSES) - 1} "
                f"of shape ({self.n_vms},)"
            )
        own = np.array([VM_CLASSES.index(kind.service_class) for kind in self.profiles])[self.vm_profile]
        object.__setattr__(self, "vm_class", np.where(given < 0, own, given).astype(np.int8))

    @property
    def n_vms(self) -> int:
        """Number of VMs."""
        return int(self.util.shape[1])

    @property
    def span_s(self) -> float:
        """Length of the demand signal, s."""
        return int(self.util.shape[0]) * self.sample_s
