"""What training asks of a learner, and what it gives it: the task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.policies.learned.storage import Member

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TrainTask:
    """What is to be learned.

    Attributes:
        scenario: Requests, protocol, rows for training windows, and the validation windows (which a learner
            must not play).
        num_envs: Environments that step together.
        reward: One of ``virtgym.envs.placement.rewards.REWARDS``; None = the protocol's.
        wait_scale_s: Scale of rewards, s.
        seed: Seed of everything random.
        total_timesteps: Decisions to train for.
    """

    scenario: PlacementScenario
    num_envs: int = 256
    reward: str | None = "delay"
    wait_scale_s: float = 3600.0
    seed: int = 0
    total_timesteps: int = 1_000_000

    @property
    def protocol(self) -> dict[str, Any]:
        """The fields of the scenario's ``PlacementConfig``."""
        return asdict(self.scenario.placement)

    @property
    def n_extra(self) -> int:
        """Actions besides the nodes."""
        config = self.scenario.placement
        return config.n_actions - 2 * config.n_hosts

    def seeds(self, n: int) -> list[int]:
        """Independent seeds, the same whenever it is asked."""
        return [int(s) for s in np.random.SeedSequence(self.seed).generate_state(n)]

    def vec_env(self, *, flat: bool = True, observation: str = "basic") -> Any:
        """The environments, on windows that begin in the scenario's rows for training.

        Args:
            flat: Whether observations are vectors, or a Dict.
            observation: One of ``virtgym.envs.placement.observations.OBSERVATIONS``.

        Returns:
            A ``virtgym.envs.sb3.PlacementVecEnv``, seeded.
        """
        from virtgym.envs.sb3 import PlacementVecEnv

        reward = self.reward if self.scenario.placement.protocol == "huawei_placement" else None
        envs = PlacementVecEnv(
            self.num_envs,
            self.scenario.trace,
            self.scenario.placement,
            rows=self.scenario.train_rows,
            reward=reward,
            wait_scale_s=self.wait_scale_s,
            observation=observation,
            flat=flat,
        )
        envs.seed(self.seeds(3)[2])
        return envs


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
