"""How good an agent is on the validation windows, and how it compares with the rules."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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


def compare_with_rules(scenario: PlacementScenario, agent: Path, seed: int) -> pd.DataFrame:
    """Result rows of an agent and of every rule on the validation windows.

    Args:
        scenario: The scenario.
        agent: The agent's folder.
        seed: Seed of random rules.
    """
    specs = [PolicySpec(str(agent)), *(PolicySpec(name) for name in DEFAULT_POLICIES["placement"])]
    cells = [run_cell(make_cell(scenario, spec), seed) for spec in specs]
    return rows_frame([row for cell in cells for row in cell.rows])


def scenario_fingerprint(scenario: PlacementScenario) -> str:
    """Fingerprint of the requests and of the windows for training and validation."""
    whole = hashlib.blake2b(trace_digest(scenario).encode(), digest_size=8)
    whole.update(scenario.windows.astype(np.int64).tobytes() + repr(scenario.train_rows).encode())
    return whole.hexdigest()
