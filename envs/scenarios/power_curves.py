"""Power of a host over its load, by name: the tables that ship, and those of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..registry import Registry
from ..sim.models.power import SPEC_POWER_W

POINTS = 101
"""Equally spaced loads at which a function is asked."""


@dataclass(frozen=True)
class HostPower:
    """Power of a running host.

    Attributes:
        watts: Power at equally spaced loads from 0 to 100 %, W, two points or more; or a function of the
            load, 0...1, which is asked at ``POINTS`` loads.
    """

    watts: tuple[float, ...] | Callable[[float], float]

    @property
    def table(self) -> tuple[float, ...]:
        """Power at equally spaced loads, W."""
        if callable(self.watts):
            return tuple(float(self.watts(load)) for load in np.linspace(0.0, 1.0, POINTS).tolist())
        return tuple(float(w) for w in self.watts)

    @property
    def schema(self) -> dict[str, float]:
        """What a list shows of it; nothing of it can be set."""
        return {"idle_w": self.table[0], "peak_w": self.table[-1]}


POWER_CURVES = Registry(
    "power curve", lambda thing: isinstance(thing, HostPower), f"a HostPower of {__name__}"
)
"""Every curve by name."""
for _name, _table in SPEC_POWER_W.items():
    POWER_CURVES.register(_name, "result of SPECpower_ssj2008", HostPower(_table))


def with_table(host: Any, where: str) -> Any:
    """A host as a scenario has it, with the watts of a curve of one's own in place of its name.

    Args:
        host: Plain data.
        where: Its key, for messages.

    Raises:
        ConfigError: If there is no such curve.
    """
    name = host.get("power_w") if isinstance(host, Mapping) else None
    if not isinstance(name, str) or name in SPEC_POWER_W or name == "???":
        return host
    curve: HostPower = POWER_CURVES.find(name, f"{where}.power_w").factory
    return {**host, "power_w": list(curve.table)}
