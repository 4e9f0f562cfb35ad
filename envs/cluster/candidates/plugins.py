"""Candidates from outside: kinds of one's own, and the plans of policies.

Nothing here imports ``virtgym.policies``: a policy is found by its name when an environment is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ...arrays import I4
from ...checks import need
from ...errors import ConfigError
from ...registry import Registry
from ...sim.decisions import ORDERS, Decisions
from ...sim.simulator import ClusterView
from ..knobs import Frozen
from .settings import CandidateSettings

POLICIES = "virtgym.policies.registry"


class CandidateMaker(Protocol):
    """A kind of one's own: an object to call, or a function."""

    def __call__(self, view: ClusterView) -> Decisions | None:
        """The orders of one candidate, by what a view shows; None or no orders = it is not offered.

        It may have ``reset(view, rng)``, which is called at the start of every episode.
        """


def _makes(thing: object) -> bool:
    """Whether it can be called with a view, or its instances can."""
    if not isinstance(thing, type):
        return callable(thing)
    return any("__call__" in vars(base) for base in thing.__mro__)


CANDIDATES = Registry(
    "candidate", _makes, "a class whose instances are called with a view, or a function of a view"
)
"""Kinds of candidates of one's own, by name; those that ship are in ``settings.KINDS``."""


def register_candidate(
    name: str, description: str, maker: str | type[CandidateMaker] | Callable[[ClusterView], Decisions | None]
) -> None:
    """Give a kind of candidate a name, for the setting ``own``.

    Args:
        name: The name.
        description: One line for lists.
        maker: A class without arguments, or a function, of ``CandidateMaker``; or ``"module:name"`` of it.

    Raises:
        ConfigError: If the name is that of something that ships.
    """
    CANDIDATES.register(name, description, maker)


class PlanMaker:
    """The plan of a policy, made once an interval: asked again, it is the same.

    Args:
        name: Name of a policy, dotted path, or folder of an agent.
    """

    def __init__(self, name: str) -> None:
        self.policy = importlib.import_module(POLICIES).make_policy(name)
        need(hasattr(self.policy, "plan"), f"env.candidates.plans={name}: does not plan whole intervals")
        self._made: tuple[float, Decisions] | None = None

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Start an episode."""
        self.policy.reset(view, rng)
        self._made = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the policy in the middle of its episode, which its own pickling may leave out."""
        return {"policy": Frozen(self.policy), "made": self._made}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Restore the policy as it was."""
        self.policy, self._made = saved["policy"].thaw(), saved["made"]

    def __call__(self, view: ClusterView) -> Decisions:
        """The plan of this interval."""
        if self._made is None or self._made[0] != view.time_s:
            kept: Callable[[], Decisions] | None = getattr(self.policy, "plan_kept", None)
            self._made = view.time_s, self.policy.plan(view) if kept is None else kept()
        return self._made[1]


def make_plugins(settings: CandidateSettings) -> list[Any]:
    """Make what fills the last slots: plans, then kinds of one's own, in the order of the settings.

    Raises:
        ConfigError: If there is no such policy or kind.
    """
    made: list[Any] = [PlanMaker(name) for name in settings.plans]
    for name in settings.own:
        maker = CANDIDATES.find(name, "env.candidates.own").factory
        made.append(maker() if isinstance(maker, type) else maker)
    return made


def flatten(decisions: Decisions) -> tuple[I4, I4, I4]:
    """Kinds, VMs and hosts of orders, in the order in which they are carried out, each (n,).

    Raises:
        ConfigError: If VM and host lists differ in length.
    """
    kinds, vms, hosts = [], [], []
    for kind, names in enumerate(ORDERS.values()):
        parts = [np.asarray(getattr(decisions, name), dtype=np.int32) for name in names]
        if len({len(part) for part in parts}) > 1:
            raise ConfigError("decisions: every VM to move or place needs one host")
        n = len(parts[0])
        kinds.append(np.full(n, kind, dtype=np.int32))
        vms.append(parts[0] if len(parts) == 2 else np.full(n, -1, dtype=np.int32))
        hosts.append(parts[-1])
    return np.concatenate(kinds), np.concatenate(vms), np.concatenate(hosts)
