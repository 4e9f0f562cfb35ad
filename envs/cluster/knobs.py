"""The ``knobs`` form of actions: an agent sets the thresholds of a planning policy, interval by interval.

The policy is found by a dotted path when an environment is made: nothing here imports ``virtgym.policies``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from ..sim.config import ClusterConfig
from ..sim.decisions import Decisions
from ..sim.simulator import ClusterView

Knobs = Mapping[str, tuple[float, float, float]]
"""Lowest, highest and default value by name; the order is the order of an action's elements."""


class KnobPolicy(Protocol):
    """What a policy needs to be turned: these methods, and ``KNOBS`` on its class or in its module."""

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Start an episode."""

    def plan(self, view: ClusterView) -> Decisions:
        """Decide one interval."""

    def set_knobs(self, values: Mapping[str, float]) -> None:
        """Take new thresholds; every interval sets all of them before it asks for a plan."""


@dataclass(frozen=True)
class KnobCodec:
    """Knobs of a policy as numbers in -1...1.

    Attributes:
        knobs: The knobs.
    """

    knobs: Knobs

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If there is no knob, or a range is empty or does not hold its default.
        """
        if not self.knobs:
            raise ConfigError("env.knobs_policy: KNOBS is empty")
        for name, (low, high, default) in self.knobs.items():
            if not (low < high and low <= default <= high):
                raise ConfigError(f"env.knobs_policy: knob {name}: {default} must lie in {low}..{high}")

    def decode(self, action: ArrayLike) -> dict[str, float]:
        """Values of the knobs; elements outside -1...1 are clipped.

        Args:
            action: Shape (K,), -1 = lowest, 1 = highest value.

        Raises:
            ConfigError: If the shape is wrong or an element is not a number.
        """
        try:
            flat = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError):
            flat = np.empty(0)
        if flat.shape != (len(self.knobs),) or not bool(np.isfinite(flat).all()):
            names = ", ".join(self.knobs)
            raise ConfigError(f"action {action!r}: must be {len(self.knobs)} finite numbers ({names})")
        shares = (np.clip(flat, -1.0, 1.0) + 1.0) / 2.0
        return {
            name: low + share * (high - low)
            for share, (name, (low, high, _)) in zip(shares.tolist(), self.knobs.items())
        }

    def encode(self, values: Mapping[str, float] | None = None) -> NDArray[np.float32]:
        """The action that sets some knobs and leaves the others at their defaults.

        Args:
            values: Value by name; None = all defaults.

        Raises:
            ValueError: If there is no such knob.
        """
        values = values or {}
        unknown = [name for name in values if name not in self.knobs]
        if unknown:
            raise ValueError(f"no such knob: {', '.join(unknown)}; there are: {', '.join(self.knobs)}")
        shares = [
            (values.get(name, default) - low) / (high - low)
            for name, (low, high, default) in self.knobs.items()
        ]
        return np.array([2.0 * share - 1.0 for share in shares], dtype=np.float32)


class KnobDriver:
    """A planning policy with its knobs.

    Args:
        policy: Dotted path of its class, or something to call for an instance.
    """

    def __init__(self, policy: str | Callable[[], KnobPolicy]) -> None:
        self.policy = _make(policy)
        self.codec = KnobCodec(dict(_find_knobs(self.policy)))

    def rule_in(self, what: str, cluster: ClusterConfig) -> str | None:
        """Rule for ``arrival`` or ``restart`` that the policy asks for in a cluster; None = scenario's."""
        choose: Callable[[ClusterConfig], str | None] | None = getattr(self.policy, f"{what}_in", None)
        rule = getattr(self.policy, what, None) if choose is None else choose(cluster)
        return None if rule is None else str(rule)

    def plan(self, action: ArrayLike, view: ClusterView) -> Decisions:
        """Turn the knobs, then let the policy decide the interval."""
        self.policy.set_knobs(self.codec.decode(action))
        kept: Callable[[], Decisions] | None = getattr(self.policy, "plan_kept", None)
        return self.policy.plan(view) if kept is None else kept()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the policy in the middle of its episode, which its own pickling may leave out."""
        return {"codec": self.codec, "policy": Frozen(self.policy)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Restore the policy as it was."""
        self.codec = saved["codec"]
        self.policy = saved["policy"].thaw()


class Frozen:
    """A policy with everything that it knows, and with that of the policies it is made of."""

    def __init__(self, policy: Any) -> None:
        self.kind = type(policy)
        self.state = {k: Frozen(v) if hasattr(v, "plan") else v for k, v in vars(policy).items()}

    def thaw(self) -> Any:
        """The policy."""
        policy = object.__new__(self.kind)
        thawed = {k: v.thaw() if isinstance(v, Frozen) else v for k, v in self.state.items()}
        vars(policy).update(thawed)
        return policy


def _make(policy: str | Callable[[], KnobPolicy]) -> KnobPolicy:
    make: Any = policy
    if isinstance(policy, str):
        module, _, name = policy.rpartition(".")
        try:
            make = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"env.knobs_policy={policy}: cannot be imported ({error})") from None
    made = make()
    missing = [name for name in ("reset", "plan", "set_knobs") if not hasattr(made, name)]
    if missing:
        raise ConfigError(f"env.knobs_policy={policy}: has no {', '.join(missing)}")
    return made  # type: ignore[no-any-return]


def _find_knobs(policy: KnobPolicy) -> Knobs:
    home = sys.modules[type(policy).__module__]
    knobs: Knobs | None = getattr(policy, "KNOBS", getattr(home, "KNOBS", None))
    if knobs is None:
        raise ConfigError(f"env.knobs_policy: {type(policy).__name__} has no KNOBS")
    return knobs
