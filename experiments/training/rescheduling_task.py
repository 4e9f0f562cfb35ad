"""Training on rescheduling: snapshots to learn on, others to validate on, and the rules to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from virtgym.envs.arrays import B1, F4
from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.rescheduling.snapshot import Snapshot
from virtgym.envs.scenarios.rescheduling import ReschedulingScenario
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.architecture import ACTIONS
from virtgym.policies.learned.storage import Agent, Member

from ..config.overrides import PolicySpec
from ..run.cell import load_scenario, make_cell, run_cell
from ..run.fingerprint import trace_digest
from ..run.rows import rows_frame
from .learners import TrainTask

if TYPE_CHECKING:
    import pandas as pd

VALIDATION = range(20_000, 20_010)
"""Seeds of the snapshots that agents are validated on. The test set is 10,000 to 10,199."""

TRAINING = range(30_000, 30_064)
"""Seeds of the snapshots that agents learn on."""

RULES = ("static", "greedy_rescheduling", "annealing")
"""Rules that a trained agent is compared with at the end."""


def seeds_of(scenario: ReschedulingScenario, seeds: range) -> range:
    """Of a snapshot that is read there is one: it is learned, and validated on."""
    return range(1) if any(scenario.config.snapshot.values()) else seeds


class ReschedulingValidation:
    """Plays agents on the snapshots of ``VALIDATION``; the objective is the mean of theirs at the end.

    Args:
        task: The task.
    """

    unit = "objective"

    def __init__(self, task: ReschedulingTrainTask) -> None:
        self.task = task

    @cached_property
    def _env(self) -> ReschedulingEnv:
        return self.task.env(seeds_of(self.task.scenario, VALIDATION))

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of an agent."""
        policy = LearnedPolicy(Agent(tuple(members), self.task.kind))
        env, found = self._env, []
        for k in range(len(env.games.snapshots)):
            observation, _ = env.reset(options={"snapshot": k})
            over = False
            while not over:
                action, _ = policy.predict(observation, action_masks=env.action_masks())
                observation, _, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
            found.append(float(env.games.state.objective[0]))
        return float(np.mean(found))


@dataclass(frozen=True)
class ReschedulingTrainTask(TrainTask):
    """Snapshots to be improved, one drawn for each episode; a move pays what it takes off the objective.

    Rewards are counted in hundredths: a whole VM more is about one.
    """

    kind: ClassVar[str] = "rescheduling"
    scenario: ReschedulingScenario

    def snapshots(self, seeds: range) -> list[Snapshot]:
        """The snapshots of some seeds."""
        config = asdict(self.scenario.config)
        if len(seeds) == 1:
            return [self.scenario.trace]
        made: list[Any] = [load_scenario(config, seed).trace for seed in seeds]
        return made

    def env(self, seeds: range) -> ReschedulingEnv:
        """A single environment on the snapshots of some seeds."""
        return ReschedulingEnv(
            self.scenario,
            snapshots=self.snapshots(seeds),
            observation=ACTIONS,
            reward_scale=100.0,
            copy=False,
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """Nothing: any rescheduling game has what is observed."""
        return {}

    @property
    def stages(self) -> tuple[ReschedulingTrainTask, ...]:
        """What is learned by turns."""
        return (self,)

    def make_env(self) -> ReschedulingEnv:
        """A single environment to learn in."""
        return self.env(seeds_of(self.scenario, TRAINING))

    @staticmethod
    def look(env: ReschedulingEnv) -> tuple[F4, B1]:
        """What an environment shows, in one vector, and what is legal."""
        env.task.observer.refresh()
        return env.task.observer.rows.flat[0], env.action_masks()  # type: ignore[attr-defined]

    def vec_env(self, *, flat: bool = True, observation: str = ACTIONS) -> Any:
        """A ``ReschedulingVecEnv`` on the snapshots of ``TRAINING``.

        Args:
            flat: Whether observations are vectors, or a Dict.
            observation: ``actions``.
        """
        from virtgym.envs.sb3 import ReschedulingVecEnv

        envs = ReschedulingVecEnv(
            self.num_envs, self.scenario, snapshots=self.snapshots(seeds_of(self.scenario, TRAINING)),
            observation=observation, reward_scale=100.0, flat=flat,
        )  # fmt: skip
        envs.seed(self.env_seed)
        return envs

    def described(self) -> dict[str, Any]:
        """With the limit and the seeds of the snapshots."""
        ends = {
            name: [seeds[0], seeds[-1]]
            for name, seeds in (("training_seeds", TRAINING), ("validation_seeds", VALIDATION))
        }
        return {**super().described(), "limit": self.scenario.config.limit, **ends}

    def validation(self) -> ReschedulingValidation:
        """Plays the snapshots of ``VALIDATION``."""
        return ReschedulingValidation(self)

    def compare_with_rules(self, agent: Path, rules: bool = True) -> pd.DataFrame:
        """As ``TrainTask``, with ``RULES``."""
        return self.compare([PolicySpec(name) for name in (str(agent), *(RULES if rules else ()))])

    def compare(self, policies: Sequence[PolicySpec]) -> pd.DataFrame:
        """Result rows of policies on the snapshots of ``VALIDATION``."""
        rows: list[dict[str, Any]] = []
        for seed in seeds_of(self.scenario, VALIDATION):
            snapshot = load_scenario(asdict(self.scenario.config), seed)
            for policy in policies:
                rows += run_cell(make_cell(snapshot, policy), seed).rows
        return rows_frame(rows)

    def fingerprint(self) -> str:
        """Fingerprint of the first snapshot: where it is read, no configuration tells it."""
        return trace_digest(self.scenario)
