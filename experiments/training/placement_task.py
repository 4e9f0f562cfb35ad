"""Training on placement: windows to learn on, windows to validate on, and the rules to compare with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.comparisons import STUCK_S
from virtgym.policies.learned.storage import Agent, Member

from ..analysis.stats import trimmed_mean
from ..config.overrides import PolicySpec
from ..config.schema import DEFAULT_POLICIES
from ..run.cell import make_cell, run_cell
from ..run.fingerprint import trace_digest
from ..run.placement_rollout import play_windows
from ..run.rows import rows_frame
from .learners import TrainTask

if TYPE_CHECKING:
    import pandas as pd


class Validation:
    """Plays agents on the validation windows of a scenario.

    The objective, which is to be small, is the trimmed mean (10 % at each end) over windows of the total
    wait, s; a rejected request counts as ``reject_penalty`` x ``wait_scale_s``, a window with requests
    that stay behind as ``STUCK_S``. In survival games it is minus
    the trimmed mean of the requests placed.

    Args:
        scenario: The scenario.
        wait_scale_s: What a reward of 1 stands for, s.
    """

    def __init__(self, scenario: PlacementScenario, wait_scale_s: float) -> None:
        self.scenario = scenario
        self._batches: dict[str, PlacementBatch] = {}
        self.penalty_s = scenario.placement.reject_penalty * wait_scale_s

    @property
    def unit(self) -> str:
        """What an objective is, for people."""
        return "s waited" if self.scenario.placement.protocol == "huawei_placement" else "placed (negative)"

    def _batch(self, observation: str) -> PlacementBatch:
        """The windows as members see them."""
        s = self.scenario
        if observation not in self._batches:
            self._batches[observation] = PlacementBatch(
                len(s.windows), PlacementSettings(s.trace, s.placement, observation=observation)
            )
        return self._batches[observation]

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of an agent."""
        s = self.scenario
        policy = LearnedPolicy(Agent(tuple(members)))
        batch = self._batch(policy.observation)
        played = play_windows(policy, batch, s.windows, rng=np.random.default_rng(0))
        if s.placement.protocol != "huawei_placement":
            return -trimmed_mean(played.n_placed)
        # Where requests stay behind nothing waits any more, which must not look better than waiting.
        games = batch.task.games.state
        behind = played.n_placed + played.n_rejected < games.end - games.first
        waits = played.total_wait_s + np.where(behind, STUCK_S, 0.0)
        return trimmed_mean(waits + self.penalty_s * played.n_rejected)


@dataclass(frozen=True)
class PlacementTrainTask(TrainTask):
    """A placement game to be learned: windows of the rows for training; those for validation stay unseen.

    Attributes:
        reward: One of ``virtgym.envs.placement.rewards.REWARDS``; None = the protocol's.
        wait_scale_s: Scale of rewards, s.
    """

    kind: ClassVar[str] = "placement"
    scenario: PlacementScenario
    reward: str | None = "delay"
    wait_scale_s: float = 3600.0

    @property
    def protocol(self) -> dict[str, Any]:
        """The fields of the scenario's ``PlacementConfig``."""
        return asdict(self.scenario.placement)

    @property
    def n_extra(self) -> int:
        """Actions besides the nodes."""
        config = self.scenario.placement
        return config.n_actions - 2 * config.n_hosts

    @property
    def queue_window(self) -> int:
        """Requests of the queue that are observed."""
        return self.scenario.placement.queue_window

    def vec_env(self, *, flat: bool = True, observation: str = "basic") -> Any:
        """A ``PlacementVecEnv`` on windows that begin in the scenario's rows for training.

        Args:
            flat: Whether observations are vectors, or a Dict.
            observation: One of ``virtgym.envs.placement.observations.OBSERVATIONS``.
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
        envs.seed(self.env_seed)
        return envs

    def described(self) -> dict[str, Any]:
        """With the rows, the reward and the number of windows."""
        s = self.scenario
        own = {"train_rows": list(s.train_rows), "reward": self.reward, "validation_windows": len(s.windows)}
        return {**super().described(), **own}

    def validation(self) -> Validation:
        """Plays the validation windows."""
        return Validation(self.scenario, self.wait_scale_s)

    def compare_with_rules(self, agent: Path, rules: bool = True) -> pd.DataFrame:
        """As ``TrainTask``, with every rule."""
        names = (str(agent), *(DEFAULT_POLICIES["placement"] if rules else ()))
        specs = [PolicySpec(name) for name in names]
        cells = [run_cell(make_cell(self.scenario, spec), 0) for spec in specs]
        return rows_frame([row for cell in cells for row in cell.rows])

    def fingerprint(self) -> str:
        """Fingerprint of the requests and of the windows for training and validation."""
        s = self.scenario
        whole = hashlib.blake2b(trace_digest(s).encode(), digest_size=8)
        whole.update(s.windows.astype(np.int64).tobytes() + repr(s.train_rows).encode())
        return whole.hexdigest()
