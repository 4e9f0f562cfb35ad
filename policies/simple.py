"""Policies without a plan: the yardsticks static, npa and dvfs, and random moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.checks import need
from virtgym.envs.placement.games import PlacementGames
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import OFF, ON
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import MIG_NONE, PENDING, RUNNING

from .base import PlanningPolicy
from .placement.policies import RulePlayer, is_single
from .planning.plans import legal_part


@dataclass
class StaticPolicy(PlanningPolicy):
    """Place VMs first fit and do nothing more: every host stays on, power follows load.

    In rescheduling it stops at once.
    """

    arrival: ClassVar[str | None] = "first_fit"
    also: ClassVar[tuple[str, ...]] = ("rescheduling",)

    def reset(self, view: ClusterView | ReschedulingGames, rng: np.random.Generator) -> None:
        """Bind a cluster or rescheduling games."""
        self._stop = view.n_actions - 1 if isinstance(view, ReschedulingGames) else -1
        if not isinstance(view, ReschedulingGames):
            super().reset(view, rng)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Order nothing; stop."""
        if self._stop < 0:
            return self.plan_kept(), state
        return self._stop if np.ndim(action_masks) == 1 else np.full(len(action_masks), self._stop), state

    def plan(self, view: ClusterView) -> Decisions:
        """Order nothing."""
        return Decisions()


@dataclass
class NpaPolicy(PlanningPolicy):
    """Non-power-aware: every host on, at full power for ever (the literature's upper bound)."""

    arrival: ClassVar[str | None] = "first_fit"

    def plan(self, view: ClusterView) -> Decisions:
        """Switch on what is off, and power management off."""
        managed = np.flatnonzero(view.state.host_full_power == 0)
        if managed.size == 0:
            return Decisions()
        off = np.flatnonzero(view.state.host_power_state == OFF)
        return Decisions(power_on=off.astype(np.int32), full_power=managed.astype(np.int32))


@dataclass
class DvfsPolicy(PlanningPolicy):
    """Place VMs first fit, switch empty hosts off, never migrate: power follows load."""

    arrival: ClassVar[str | None] = "first_fit"

    def plan(self, view: ClusterView) -> Decisions:
        """Switch off the hosts that hold nothing, unless a VM waits for room."""
        s = view.state
        idle = (s.host_power_state == ON) & (s.host_n_vms == 0) & (s.host_n_in == 0) & (s.host_drain == 0)
        if not idle.any() or bool(((s.vm_state == PENDING) & (s.vm_dest < 0)).any()):
            return Decisions()
        return Decisions(power_off=np.flatnonzero(idle).astype(np.int32))


@dataclass
class RandomPolicy(PlanningPolicy):
    """Random legal migrations, or random legal actions: the floor that anything learned must beat.

    The one policy that serves clusters and games; in placement games it is the rule ``random``.

    Attributes:
        moves: Migrations tried per interval.
    """

    moves: int = 1

    arrival: ClassVar[str | None] = "first_fit"
    also: ClassVar[tuple[str, ...]] = ("placement", "rescheduling")
    rule: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        """Check the parameter.

        Raises:
            ConfigError: For a negative number of moves.
        """
        need(self.moves >= 0, f"policy.moves={self.moves}: must be 0 or more")
        self._player: RulePlayer | None = None

    def reset(self, view: ClusterView | PlacementGames | ReschedulingGames, rng: np.random.Generator) -> None:
        """Bind a cluster or games."""
        self._player = None
        if isinstance(view, PlacementGames):
            self._player = RulePlayer(view, self.rule, rng)
        elif isinstance(view, ReschedulingGames):
            self.rng = rng
        else:
            super().reset(view, rng)

    def plan(self, view: ClusterView) -> Decisions:
        """Draw VMs that can move and, for each, a running host; pairs that are not legal are left out."""
        movable = np.flatnonzero((view.state.vm_state == RUNNING) & (view.state.vm_mig == MIG_NONE))
        hosts = np.flatnonzero(view.state.host_power_state == ON)
        if movable.size == 0 or hosts.size == 0 or self.moves == 0:
            return Decisions()
        vms = self.rng.choice(movable, size=min(self.moves, movable.size), replace=False)
        targets = self.rng.choice(hosts, size=vms.size)
        return legal_part(view, Decisions(move_vm=vms.astype(np.int32), move_host=targets.astype(np.int32)))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Draw a node in placement games, a legal action where masks are given, else plan an interval."""
        if self._player is not None:
            nodes = self._player.choose()
            return (int(nodes[0]) if is_single(observation, action_masks) else nodes), state
        if action_masks is None:
            return self.plan_kept(), state
        legal = np.asarray(action_masks, dtype=bool)
        if legal.ndim == 1:
            return int(self.rng.choice(np.flatnonzero(legal))), state
        return np.array([self.rng.choice(np.flatnonzero(row)) for row in legal]), state
