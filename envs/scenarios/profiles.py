"""Guest profiles of a scenario: names, what they start from, and who has which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..checks import hint, need_choice
from ..errors import ConfigError
from ..sim.guests import GUEST_PROFILES, GuestProfile
from ..sim.models.overhead import InstructionProfile
from .nodes import made, only, schema_of
from .schema import unknown_key


@dataclass(frozen=True)
class ProfileGroup(GuestProfile):
    """A profile of one's own; ``instructions`` is a name, or a mapping of its rates.

    Attributes:
        base: Profile of ``sim.guests.GUEST_PROFILES`` that the other keys change; None = the one of the same
            name, else ``default``.
    """

    base: str | None = None


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
    base = str(values.get("base") or (name if name in GUEST_PROFILES else "default"))
    need_choice(where, "base", base, tuple(GUEST_PROFILES))
    schema = schema_of(ProfileGroup, "name")
    shipped = {key: value for key, value in asdict(GUEST_PROFILES[base]).items() if key != "name"}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), shipped, OmegaConf.create(dict(values)))
        plain = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise unknown_key(error, schema, where) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}.{error.full_key}: {str(error).splitlines()[0]}") from None
    plain["instructions"] = _instructions(where, plain["instructions"])
    return only(GuestProfile, made(ProfileGroup, {**plain, "name": name}, where))


def _instructions(where: str, value: Any) -> str | InstructionProfile:
    """A name, or rates per class; ``where`` is the profile's key."""
    if not isinstance(value, Mapping):
        return str(value)
    allowed = [f.name for f in fields(InstructionProfile)]
    if set(value) != set(allowed):
        raise ConfigError(f"{where}: instructions: must be a name, or have the keys {', '.join(allowed)}")
    rates: dict[str, Any] = {}
    for key in allowed:
        numbers = value[key]
        fine = isinstance(numbers, list) and all(isinstance(x, int | float) for x in numbers)
        if not fine:
            raise ConfigError(
                f"{where}: instructions.{key}={numbers}: must be a list of 4 numbers, one per class"
            )
        rates[key] = tuple(float(x) for x in numbers)
    return made(InstructionProfile, rates, where)


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
