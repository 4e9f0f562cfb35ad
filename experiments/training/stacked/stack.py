"""What training asks of learners that learn in a batch, and which can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..mixture import MixedTrainTask

if TYPE_CHECKING:
    from ..learners import Learner, TrainTask
    from ..settings.base import AgentConfig


class Stack(Protocol):
    """Learners of several seeds that learn together; each is looked at, saved and restored by itself."""

    learners: Sequence[Learner]

    def restored(self, i: int) -> None:
        """Learner i may have been restored, or given other weights: they become part of the batch."""

    def learn_chunk(self, timesteps: Sequence[int]) -> list[dict[str, float]]:
        """As ``Learner.learn_chunk`` of every learner; 0 = it has learned enough."""


def cannot_stack(task: TrainTask, config: AgentConfig) -> str:
    """Why trainings that differ in their seed do not learn in a batch; empty if they do."""
    if task.kind != "cluster":
        return f"in a batch learn those on clusters, not on scenarios of kind {task.kind}"
    if config.network != "scorer":
        return f"agent.network={config.network}: in a batch learn networks scorer"
    options: Any = task.protocol
    if config.name != "imitation" and isinstance(task, MixedTrainTask):
        return "mix and fallback: lanes of several scenarios do not step in one batch"
    if config.name != "imitation" and options["candidates"].get("plans"):
        return "env.candidates.plans: policies in the environments keep a memory of their own"
    return ""
