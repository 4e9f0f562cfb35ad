"""The one interface of rules, solvers and agents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.checks import need_indices
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView

from .planning.arrivals import Keeper, is_guarded
from .planning.limits import MoveLimits, check_limits
from .planning.plans import merge_plans


@runtime_checkable
class Policy(Protocol):
    """What the rollout loop asks of every policy (Stable-Baselines3's ``predict`` signature)."""

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        """Start an episode; what is bound stays valid and current until the next reset.

        Args:
            view: The ``ClusterView`` of a cluster; for a policy whose class says ``task = "placement"`` the
                ``PlacementGames``.
            rng: Generator of whatever the policy draws.
        """

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Choose an action, or a ``Decisions`` for the whole interval; (B,) actions for B games."""


def placers_in(policy: Any, cluster: ClusterConfig) -> dict[str, str | None]:
    """Who places VMs that arrive, and those that restart, under a policy in a cluster.

    Args:
        policy: A policy; its ``arrival_in`` (or ``arrival``) and ``restart_in`` (``restart``) say so.
        cluster: The cluster.

    Returns:
        The rules as arguments of ``Cluster-v0``; None = the scenario's.
    """
    found = {}
    for what in ("arrival", "restart"):
        choose = getattr(policy, f"{what}_in", None)
        found[what] = getattr(policy, what, None) if choose is None else choose(cluster)
    return found


@dataclass
class PlanningPolicy:
    """Base of rules and solvers that plan a whole interval at once.

    Subclasses implement ``plan``. ``arrival`` names the rule that places arriving VMs (and the initial
    placement) under this policy; None leaves the scenario's. ``restart`` names the rule that places VMs that
    restart after a failure: that of the engine (cold standby), unless the policy says that it does so itself
    (None: as the scenario has it).

    Where the cluster has placement rules or promises to survive failures, these rules place among the hosts
    that are allowed, and orders that break something are left out (``planning.arrivals``): a policy with an
    ``arrival`` need not know of either.
    """

    arrival: ClassVar[str | None] = None
    restart: ClassVar[str | None] = "first_fit"

    def arrival_in(self, cluster: ClusterConfig) -> str | None:
        """Rule for arriving VMs under this policy in a cluster, None = the scenario's.

        Args:
            cluster: The cluster as the scenario has it.
        """
        return "policy" if self.arrival is not None and is_guarded(cluster) else self.arrival

    def restart_in(self, cluster: ClusterConfig) -> str | None:
        """Rule for VMs that restart, None = the scenario's.

        Args:
            cluster: The cluster as the scenario has it.
        """
        return "policy" if self.restart is not None and self.arrival and cluster.rules else self.restart

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view of the cluster and the generator of this episode."""
        self.view = view
        self.rng = rng
        self._keeper: Keeper | None = None
        if self.arrival is not None and self.restart is not None and is_guarded(view.config):
            self._keeper = Keeper(view, self.arrival)

    def hosts_named(self, hosts: Iterable[int]) -> NDArray[np.int32]:
        """Hosts that a caller names, checked, (n,).

        Raises:
            ConfigError: If there is no such host, or no cluster is bound yet.
        """
        owner = f"policy {type(self).__name__}"
        if not hasattr(self, "view"):
            raise ConfigError(f"{owner}: hosts can be named once an episode has begun (call reset first)")
        return need_indices(owner, "host", hosts, self.view.n_hosts)

    def plan(self, view: ClusterView) -> Decisions:
        """Decide this interval's migrations and power actions.

        Args:
            view: Read-only state at the start of the interval; ``view.state.vm_demand_mhz`` is the demand
                measured now.

        Returns:
            The orders; an empty ``Decisions`` does nothing.
        """
        raise TypeError(f"{type(self).__name__} does not define plan()")

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Plan from the bound view; the observation is not read."""
        return self.plan_kept(), state

    def plan_kept(self) -> Decisions:
        """The plan for the bound cluster, with rules and guarantee kept where there are any."""
        keeper: Keeper | None = getattr(self, "_keeper", None)
        if keeper is None:
            return self.plan(self.view)
        placed, view = keeper.place(self.view)
        return merge_plans([placed, keeper.keep(view, self.plan(view))])


@dataclass
class MovingPolicy(PlanningPolicy):
    """Base of policies that migrate: what an operator may forbid all of them.

    Attributes:
        exclude: What is left alone: ``vms``, numbers of VMs that are never moved; ``hosts``, numbers of hosts
            that give and take no VM and are not switched.
        cooldown_s: Time that a VM rests after a migration has begun, whoever ordered it, s.
        max_concurrent: Most migrations under way at a time; None = no limit.
    """

    exclude: dict[str, Any] = field(default_factory=dict, kw_only=True)
    cooldown_s: float = field(default=0.0, kw_only=True)
    max_concurrent: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        check_limits(self.exclude, self.cooldown_s, self.max_concurrent)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view of the cluster and the generator of this episode."""
        super().reset(view, rng)
        self.limits = MoveLimits(view, self.exclude, self.cooldown_s, self.max_concurrent)
