"""What candidates are worth: each is tried in a fork of what a view shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.cluster.candidates.offer import take_candidate
from virtgym.envs.cluster.rewards import RewardFunction
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.simulator import ClusterView

from .kernels import TrialMemory, keep, put_back, try_candidates


class Trials:
    """Tries candidates of a cluster; nothing of it changes.

    Args:
        reward: Weights of the reward's terms laid over the default, minus the cost.
        horizon: Intervals for which a candidate is tried.
        discount: Weight of an interval in that of the one before.
    """

    def __init__(self, reward: Mapping[str, float] | None, horizon: int, discount: float) -> None:
        self.reward, self.horizon, self.discount = reward, horizon, discount

    def bind(self, view: ClusterView) -> None:
        """Begin an episode of a cluster.

        Raises:
            ConfigError: If the reward has a term that no kernel works out.
        """
        rewards = RewardFunction(self.reward, view.params)
        if own := [name for name in rewards.own if rewards.weights[name]]:
            raise ConfigError(f"reward.{own[0]}: a term of one's own cannot be weighed in a search")
        self._rewards = rewards

    def begin(self, view: ClusterView, demand: ArrayLike) -> None:
        """Take what a view shows now as the state from which candidates are tried.

        Args:
            view: The cluster.
            demand: Demand of every VM from now on, of ``ClusterView.fork``.
        """
        self.sim = view.fork(demand)
        blocks = self.sim.__getstate__()["blocks"]
        words = [blocks.structure.view(np.int64), blocks.signals.view(np.int64)]
        self._memory = TrialMemory(*words, *(block.copy() for block in words))

    def values(self, c: Any, which: I8, values: F8) -> None:
        """Try candidates that are offered in the state.

        Args:
            c: Handle of their buffers.
            which: Slots to try, (n,).
            values: Sum of rewards, (K,); written where it is tried, -inf where nothing is offered.
        """
        sim = self.sim
        try_candidates(
            *(sim.kernel_params, sim.kernel_state, c, self._rewards.handle, self._memory, which),
            *(self.horizon, self.discount, sim.horizon_s, values),
        )

    def take(self, c: Any, k: int) -> None:
        """Go on from the state in which candidate k has been carried out."""
        put_back(self._memory)
        sim = self.sim
        take_candidate(sim.kernel_params, sim.kernel_state, sim.kernel_state, c, k)
        keep(self._memory)


def check_trials(horizon: int, discount: float) -> None:
    """Refuse impossible settings.

    Raises:
        ConfigError: Naming the parameter and what is allowed.
    """
    need(horizon >= 1, f"policy.horizon={horizon}: must be at least 1")
    need(0.0 < discount <= 1.0, f"policy.discount={discount}: must be above 0 and at most 1")
