"""Guest profiles of a scenario: names, what they start from, and who has which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..checks import hint
from ..errors import ConfigError
from ..sim.guests import GUEST_PROFILES, GuestProfile, IoProfile
from ..sim.models.memory import MemoryProfile
from ..sim.models.overhead import GuestVirtualization, InstructionProfile
from ..sim.models.scheduling import CpuControl
from .groups import to_room


@dataclass
class VirtualizationGroup:
    """The fields of ``sim.overhead.GuestVirtualization``."""

    type: str = "hardware_assisted"
    kernel: str = "linux"
    modifiable: bool = True


@dataclass
class ControlGroup:
    """The fields of ``sim.scheduling.CpuControl``."""

    reservation_mhz: float = 0.0
    limit_mhz: float = float("inf")
    shares: Any = "normal"


@dataclass
class MemoryGroup:
    """The fields of ``sim.memory.MemoryProfile``."""

    touched_share: float = 1.0
    active_share: float = 0.25
    zero_share: float = 0.05
    dup_share: float = 0.10
    domain: str = ""
    reservation_mib: float = 0.0
    shares: Any = "normal"
    balloon_driver: bool = True


@dataclass
class IoProfileGroup:
    """The fields of ``sim.guests.IoProfile``."""

    mode: str = "virtio"
    net_out_mbps: list[float] = field(default_factory=lambda: [0.1, 20.0])
    net_in_mbps: list[float] = field(default_factory=lambda: [0.1, 10.0])
    disk_read_mb_s: list[float] = field(default_factory=lambda: [0.0, 2.0])
    disk_write_mb_s: list[float] = field(default_factory=lambda: [0.05, 1.0])
    packet_bytes: float = 1000.0
    request_kib: float = 32.0
    functions: int = 1


@dataclass
class ProfileGroup:
    """The fields of ``sim.guests.GuestProfile``; ``instructions`` is a name, or a mapping of its rates.

    Attributes:
        base: Profile of ``sim.guests.GUEST_PROFILES`` that the other keys change; None = the one of the same
            name, else ``default``.
    """

    base: str | None = None
    instructions: Any = "general"
    virtualization: VirtualizationGroup = field(default_factory=VirtualizationGroup)
    cpu: ControlGroup = field(default_factory=ControlGroup)
    memory: MemoryGroup = field(default_factory=MemoryGroup)
    stall_share: float | None = None
    io: IoProfileGroup = field(default_factory=IoProfileGroup)
    dirty_mib_s: list[float] = field(default_factory=lambda: [0.5, 20.0])
    working_share: float = 0.10
    restart_priority: int = 0
    restart_after: list[str] = field(default_factory=list)
    protected: bool = False


def build_profiles(given: Mapping[str, Any]) -> dict[str, GuestProfile]:
    """All profiles that a scenario may name: those that come with the package, and its own.

    Args:
        given: Own profiles by name, mappings with the keys of ``ProfileGroup``.

    Returns:
        Profiles by name.

    Raises:
        ConfigError: For a key or value that is not allowed, naming it and its neighbours.
    """
    known = dict(GUEST_PROFILES)
    for name, values in given.items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"scenario.profiles.{name}={values}: must be a mapping with the keys of a profile"
            )
        known[str(name)] = _build(str(name), values)
    for profile in known.values():
        for before in profile.restart_after:
            profile_index(known, f"profiles.{profile.name}.restart_after", before)
    return known


def _build(name: str, values: Mapping[str, Any]) -> GuestProfile:
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    where = f"scenario.profiles.{name}"
    base = values.get("base") or (name if name in GUEST_PROFILES else "default")
    if base not in GUEST_PROFILES:
        raise ConfigError(f"{where}.base={base}: must be one of {', '.join(GUEST_PROFILES)}")
    start = OmegaConf.structured(ProfileGroup)
    try:
        start = OmegaConf.merge(start, _plain(GUEST_PROFILES[str(base)]))
        group = OmegaConf.to_object(OmegaConf.merge(start, OmegaConf.create(dict(values))))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(_no_key(where, str(error.full_key or error.key))) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}.{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(group, ProfileGroup)
    try:
        return GuestProfile(
            name=name,
            instructions=_instructions(group.instructions),
            virtualization=to_room(group.virtualization, GuestVirtualization),
            cpu=to_room(group.cpu, CpuControl),
            memory=to_room(group.memory, MemoryProfile),
            stall_share=group.stall_share,
            io=to_room(group.io, IoProfile),
            dirty_mib_s=(group.dirty_mib_s[0], group.dirty_mib_s[1])
            if len(group.dirty_mib_s) == 2
            else tuple(group.dirty_mib_s),  # type: ignore[arg-type]  # refused there
            working_share=group.working_share,
            restart_priority=group.restart_priority,
            restart_after=tuple(group.restart_after),
            protected=group.protected,
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _plain(profile: GuestProfile) -> dict[str, Any]:
    values = {key: value for key, value in asdict(profile).items() if key != "name"}
    values["dirty_mib_s"] = list(profile.dirty_mib_s)
    values["restart_after"] = list(profile.restart_after)
    values["io"] = {k: list(v) if isinstance(v, tuple) else v for k, v in values["io"].items()}
    return values


def _no_key(where: str, full: str) -> str:
    owner: Any = ProfileGroup
    parts = full.split(".")
    for part in parts[:-1]:
        inner = get_type_hints(owner).get(part)
        owner = inner if is_dataclass(inner) else owner
    allowed = [f.name for f in fields(owner)]
    return f"{where}.{full}: no such key{hint(parts[-1], allowed)}; allowed are: {', '.join(allowed)}"


def _instructions(value: Any) -> str | InstructionProfile:
    """A name, or rates per class."""
    if not isinstance(value, Mapping):
        return str(value)
    allowed = [f.name for f in fields(InstructionProfile)]
    if set(value) != set(allowed):
        raise ConfigError(f"instructions: must be a name, or have the keys {', '.join(allowed)}")
    rates: dict[str, Any] = {}
    for key in allowed:
        numbers = value[key]
        fine = isinstance(numbers, list) and all(isinstance(x, int | float) for x in numbers)
        if not fine:
            raise ConfigError(f"instructions.{key}={numbers}: must be a list of 4 numbers, one per class")
        rates[key] = tuple(float(x) for x in numbers)
    return InstructionProfile(**rates)


def profile_index(known: Mapping[str, GuestProfile], key: str, name: str) -> int:
    """Index of a profile among those that are known.

    Raises:
        ConfigError: If there is no such profile; names close ones and all.
    """
    names = list(known)
    if name not in known:
        raise ConfigError(
            f"scenario.{key}={name}: no such profile{hint(name, names)}; there are: {', '.join(names)}"
        )
    return names.index(name)


def draw_profiles(
    known: Mapping[str, GuestProfile], weights: Mapping[str, float], n_vms: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Give every VM a profile at random.

    Args:
        known: From ``build_profiles``.
        weights: Weight by name of profile.
        n_vms: V.
        rng: Source of randomness.

    Returns:
        Index into ``known`` per VM, shape (V,).

    Raises:
        ConfigError: For a profile that does not exist, or weights that are negative or all 0.
    """
    at = np.array([profile_index(known, "profile_assignment", name) for name in weights], dtype=np.int32)
    shares = np.array(list(weights.values()), dtype=np.float64)
    if not (np.isfinite(shares).all() and float(shares.min()) >= 0 and float(shares.sum()) > 0):
        raise ConfigError("scenario.profile_assignment: weights must be 0 or more and not all 0")
    return at[rng.choice(len(at), size=n_vms, p=shares / shares.sum())]
