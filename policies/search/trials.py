"""What candidates are worth: each is tried in a fork of what a view shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.cluster.buffers import MEMORY
from virtgym.envs.cluster.candidates.form import CandidateForm
from virtgym.envs.cluster.candidates.offer import take_candidate
from virtgym.envs.cluster.rewards import RewardFunction, check_weights
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.generated import make_kernel
from virtgym.envs.sim.simulator import ClusterView

from ..learned.kernel_net import make_kernel_net
from ..learned.storage import Member
from .kernels import NETWORK, NOTHING, UPKEEP, TrialMemory, keep, put_back, try_with


@functools.cache
def _copy_memory() -> Any:
    """The kernel that copies what an observer remembers."""
    lines = [f"    e.{name}[:] = b.{name}" for name in MEMORY]
    return make_kernel("\n".join(["def copy_memory(b, e):", *lines]), {})


UNASKED: dict[str, Any] = {
    **dict.fromkeys(("empty_least", "empty_power", "trade", "standby", "on", "keep", "balance"), 0),
    **{"plans": (), "own": ()},
}
"""Settings without the kinds of candidates that ``upkeep`` does not choose."""


class Trials:
    """Tries candidates of a cluster; nothing of it changes.

    Args:
        reward: Weights of the reward's terms laid over the default, minus the cost.
        weights: Of the intervals for which a candidate is tried, (horizon,).
        base: What plays on in the fork: ``nothing``, ``upkeep``, or a network, a ``scorer``.

    Raises:
        ConfigError: If the network is of another kind.
    """

    def __init__(self, reward: Mapping[str, float] | None, weights: F8, base: str | Member = NOTHING) -> None:
        if isinstance(base, Member):
            need(base.architecture.network == "scorer", "policy.base: needs an agent with network=scorer")
        self.reward = check_weights(reward)
        self.weights, self.base = weights, base

    def bind(self, view: ClusterView, form: CandidateForm) -> None:
        """Begin an episode of a cluster.

        Args:
            view: The cluster.
            form: What offers the candidates that are tried.

        Raises:
            ConfigError: If the reward has a term that no kernel works out.
        """
        rewards = RewardFunction(self.reward, view.params)
        if own := [name for name in rewards.own if rewards.weights[name]]:
            raise ConfigError(f"policy.reward.{own[0]}: a term of one's own cannot be weighed in a search")
        self._rewards = rewards
        self._form = form
        self._more: tuple[Any, ...] = ()
        if self.base == NOTHING:
            self._try = try_with(NOTHING)
            return
        settings = form.settings if isinstance(self.base, Member) else replace(form.settings, **UNASKED)
        inner = CandidateForm(view.fork(), settings, [], form.limit)
        b, d = inner.handles
        if isinstance(self.base, Member):
            net = make_kernel_net(self.base.architecture, self.base.weights, form.settings.n)
            self._try = try_with(NETWORK, inner.observe, _copy_memory())
            self._more = (d, form.handles[0], b, inner.flat, net)
        else:
            self._try = try_with(UPKEEP)
            self._more = (d,)
        self._inner = inner  # handles point into its memory

    def begin(self, view: ClusterView, demand: ArrayLike, **future: Any) -> None:
        """Take what a view shows now as the state from which candidates are tried.

        Args:
            view: The cluster.
            demand: Demand of every VM from now on, of ``ClusterView.fork``.
            **future: Parameters that are others in the forks, by name.
        """
        self.sim = view.fork(demand)
        self.sim.state.counters.fault = 0  # of those that are still to come
        blocks = self.sim.__getstate__()["blocks"]
        words = [blocks.structure.view(np.int64), blocks.signals.view(np.int64)]
        self._memory = TrialMemory(*words, *(block.copy() for block in words))
        self.params: Any = self.sim.kernel_params.replaced(**future) if future else self.sim.kernel_params

    def values(self, which: I8, values: F8, **future: Any) -> None:
        """Try candidates that are offered in the state.

        Args:
            which: Slots to try, (n,).
            values: Sum of rewards, (K,); written where it is tried, -inf where nothing is offered.
            **future: Parameters that are others in this future, by name.
        """
        sim = self.sim
        params = self.params.replaced(**future) if future else self.params
        self._try(
            *(params, sim.kernel_state, sim.view.kernel_params, sim.view.kernel_state),
            *(self._form.handles[1], self._rewards.handle, self._memory),
            *(which, self.weights, sim.horizon_s, values, *self._more),
        )

    def take(self, k: int) -> None:
        """Go on from the state in which candidate k has been carried out."""
        put_back(self._memory)
        sim = self.sim
        take_candidate(sim.kernel_params, sim.kernel_state, sim.kernel_state, self._form.handles[1], k)
        keep(self._memory)
