"""What training asks of a learner, and what it gives it: the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.fallback import Fallback
from virtgym.policies.learned.storage import Member

from .settings.base import AgentConfig

if TYPE_CHECKING:
    import pandas as pd

Arrays = dict[str, NDArray[Any]]


class Validate(Protocol):
    """Says how good an agent is on what training must not play."""

    @property
    def unit(self) -> str:
        """What an objective is, for people."""

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of an agent; small is good."""


@dataclass(frozen=True)
class TrainTask:
    """What is to be learned, of any kind of scenario; a kind has a class of its own derived from this.

    Attributes:
        scenario: The scenario.
        num_envs: Environments that step together.
        seed: Seed of everything random.
        total_timesteps: Decisions to train for.
        device: Where networks learn, as PyTorch names it.
    """

    kind: ClassVar[str]
    scenario: Any
    num_envs: int = 256
    seed: int = 0
    total_timesteps: int = 1_000_000
    device: str = field(default="cpu", kw_only=True)

    def seeds(self, n: int) -> list[int]:
        """Independent seeds, the same whenever it is asked."""
        return [int(s) for s in np.random.SeedSequence(self.seed).generate_state(n)]

    @property
    def env_seed(self) -> int:
        """Seed of the first environment; the next ones follow."""
        return self.seeds(3)[2]

    @property
    def protocol(self) -> dict[str, Any]:
        """What an agent must know of the environment to play: ``Agent.protocol``."""
        raise NotImplementedError

    @property
    def n_extra(self) -> int:
        """Actions besides the rows of the observation."""
        return 0

    @property
    def queue_window(self) -> int:
        """Requests of a queue that are observed."""
        return 1

    def layout(self, config: AgentConfig) -> Layout:
        """The columns that an agent with these settings observes."""
        return Layout.current(config.observation, self.queue_window)

    def vec_env(self, *, flat: bool = True, observation: str = "basic") -> Any:
        """The environments to learn in, as Stable-Baselines3's ``VecEnv``, seeded.

        Args:
            flat: Whether observations are vectors, or a Dict.
            observation: The agent's setting of this name.
        """
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """What a trained agent says of its training, as plain data."""
        s = self.scenario
        own = {"seed": self.seed, "num_envs": self.num_envs, "total_timesteps": self.total_timesteps}
        return {"scenario": s.name, "trace": s.trace.name, **own}

    def validation(self) -> Validate:
        """Plays agents on what training does not play."""
        raise NotImplementedError

    def compare_with_rules(self, agent: Path, rules: bool = True) -> pd.DataFrame:
        """Result rows of an agent's folder, and of rules if they are wanted, where ``validation`` plays."""
        raise NotImplementedError

    def fallbacks(self) -> tuple[Fallback, ...]:
        """What agents of the training fall back on."""
        return ()

    def choose_margins(self, members: Sequence[Member]) -> tuple[Fallback, ...]:
        """The same with how sure the best agent must be, at the end of training."""
        return ()

    def fingerprint(self) -> str:
        """Fingerprint of what is read and of what is played."""
        raise NotImplementedError


class Learner(Protocol):
    """What training drives. Everything random in it comes from the task's seed.

    ``arrays`` and ``restore`` are a checkpoint: plain arrays and JSON, so that reading one runs no code. A
    learner restored from what ``arrays`` gave must go on as if nothing had happened.
    """

    @property
    def timesteps(self) -> int:
        """Decisions learned from so far."""

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """Learn for about so many decisions more (at least one update), seconds at most.

        Args:
            timesteps: Decisions wanted; a learner may stop earlier, at the end of an update.

        Returns:
            Measurements by name, for the log.
        """

    def snapshot(self) -> tuple[Member, ...]:
        """The policy as it is now: networks that play, several for an ensemble."""

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything that ``restore`` needs: arrays by name, and data that JSON can hold."""

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up the state that ``arrays`` gave."""


def need_same(member: Member, architecture: Architecture, layout: Layout) -> None:
    """Refuse to begin with the weights of another network.

    Raises:
        ConfigError: If it is of another architecture, or reads other columns.
    """
    if member.architecture != architecture or member.layout != layout:
        raise ConfigError(
            f"initial: the agent is {member.architecture.to_dict()}, "
            f"and {architecture.to_dict()} is to be trained"
        )
