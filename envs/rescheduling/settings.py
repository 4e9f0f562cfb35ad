"""What is played in a rescheduling environment, and by which rules, alone or in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import need, need_choice, need_count, need_seed
from ..errors import ConfigError
from .objective import OBJECTIVE_KEYS, ObjectiveConfig
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..scenarios.rescheduling import ReschedulingScenario

OBSERVATIONS = ("tables", "actions")


@dataclass(frozen=True, eq=False)
class ReschedulingSettings:
    """The keywords that ``ReschedulingEnv`` and its batches share.

    Attributes:
        scenario: A rescheduling scenario: its name, a mapping, or one that was built.
        snapshots: How many snapshots of a generated scenario there are to play, seeds ``scenario_seed``,
            ``scenario_seed`` + 1, …; or the snapshots themselves, of one size.
        scenario_seed: Seed of the first.
        limit: Moves of an episode; None = the scenario's.
        objective: What is to become small, ``ObjectiveConfig`` or a mapping of its fields; None = the
            scenario's.
        reward_scale: Factor of the reward, which is what a move takes off the objective.
        illegal_penalty: Subtracted from the reward of an illegal action.
        max_illegal: Illegal actions in a row that truncate an episode.
        observation: One of ``OBSERVATIONS``: tables of nodes and VMs, or a row for each action (for agents).

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    scenario: str | Mapping[str, Any] | ReschedulingScenario = "rescheduling"
    snapshots: int | Sequence[Snapshot] = 1
    scenario_seed: int = 0
    limit: int | None = None
    objective: ObjectiveConfig | Mapping[str, Any] | None = None
    reward_scale: float = 1.0
    illegal_penalty: float = 0.0
    max_illegal: int = 100
    observation: str = "tables"

    def __post_init__(self) -> None:
        need_choice("env", "observation", self.observation, OBSERVATIONS)
        need_seed("env.scenario_seed", self.scenario_seed)
        need(0.0 < self.reward_scale < np.inf, f"env.reward_scale={self.reward_scale}: must be positive")
        need(
            0.0 <= self.illegal_penalty < np.inf,
            f"env.illegal_penalty={self.illegal_penalty}: must be 0 or more",
        )
        need_count("env", max_illegal=self.max_illegal)
        if not isinstance(self.snapshots, Sequence):
            need_count("env", snapshots=self.snapshots)

    def chosen_objective(self, own: ObjectiveConfig) -> ObjectiveConfig:
        """What is to become small; ``own`` is the scenario's."""
        given = self.objective
        if given is None or isinstance(given, ObjectiveConfig):
            return own if given is None else given
        for key in given:
            if key not in OBJECTIVE_KEYS:
                raise ConfigError(f"objective.{key}: no such key; allowed are: {', '.join(OBJECTIVE_KEYS)}")
        return ObjectiveConfig(**given)
