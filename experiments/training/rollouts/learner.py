"""Rollout policy iteration: an agent that learns from comparing all actions of a state under one future.

A round plays windows, compares the actions of some states (``policies.learned.comparisons``), and moves
the network a little towards the better ones: with A(s, a) the cost of an action minus the mean over the
actions of its state, in units of c + l · (cost of the whole game), it minimises

    E_s [ Σ_a π(a | s) A(s, a) + β Σ_a π(a | s) ln π(a | s) ],

the policy gradient over all actions, with an entropy bonus. In the first rounds rules play the windows, and
one of them plays on from each trial; then the network does both, which is policy iteration. Steps are few and
small on purpose: a comparison is true of the policy that plays on, and becomes less so the farther the
network moves. What is kept is a moving average of the weights.

Most comparisons say that the actions of a state come to nearly the same, yet what is then chosen, a thousand
times, decides how hosts fill and empty; a comparison of single actions cannot see that. So several networks
with different beginnings learn from the same comparisons, and whole windows of training rows decide which of
them is the policy, and how much better than a rule's a choice must look to be played (``safety``).

Literature: rollout algorithms (Bertsekas & Tsitsiklis, Neuro-Dynamic Programming, 1996, section 6.1), rollout
classification (Lagoudakis & Parr, ICML 2003), conservative steps (Kakade & Langford, ICML 2002), common
random numbers (Glasserman & Yao, Management Science 1992), averages of weights (Polyak & Juditsky, SIAM J.
Control 1992).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from virtgym.envs.arrays import F8, I8
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.observations import PlacementObserver
from virtgym.envs.traces.requests import RequestTrace
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.comparisons import (
    NETWORK,
    Comparisons,
    allocate_comparisons,
    check_comparable,
    collect_comparisons,
    play_windows,
)
from virtgym.policies.learned.kernel_net import make_kernel_net
from virtgym.policies.learned.networks import MASKED, Network, build_network
from virtgym.policies.learned.safety import NEVER, Safety, make_safety_table
from virtgym.policies.learned.storage import Member
from virtgym.policies.placement.packing import make_keys
from virtgym.policies.placement.rules import rule_number, run_windows

from ...analysis.stats import trimmed_mean
from ..learners import Arrays, need_same
from ..placement_task import PlacementTrainTask
from ..settings.base import AgentConfig
from ..settings.own import RolloutConfig
from ..torch_state import as_numpy, by_prefix, optimizer_arrays, restore_optimizer
from .resampling import large_shapes, resample_requests
from .selection import excess_bound

CLIP = 20.0
"""Advantages are clipped here, in their units: single games cost a hundred times the usual."""

N_DRAWS = 1 << 18
"""Uniform numbers that a round draws for its kernel."""


def make_rollout_learner(task: PlacementTrainTask, config: AgentConfig) -> RolloutLearner:
    """Make the learner.

    Args:
        task: What is to be learned.
        config: A ``RolloutConfig``.

    Raises:
        ConfigError: If the game is not one of waiting, in strict FIFO.
    """
    assert isinstance(config, RolloutConfig)
    return RolloutLearner(task, config)


class Windows:
    """A stream and the windows of it that may be played.

    Args:
        trace: The stream.
        rows: Rows [from, to) that hold whole windows.
        config: Cluster and protocol.
        observation: One of ``OBSERVATIONS``.

    Raises:
        ConfigError: If no whole window begins there.
    """

    def __init__(
        self, trace: RequestTrace, rows: tuple[int, int], config: PlacementConfig, observation: str
    ) -> None:
        self.games = PlacementGames(trace, config, 2)
        self.observer = PlacementObserver(self.games, observation)
        low, high = rows
        firsts = np.arange(low, min(high, trace.n_requests))
        lengths = self.games.window_lengths(firsts)
        whole = firsts + lengths <= high  # a window may not reach into rows that are for something else
        self.firsts, self.lengths = firsts[whole], lengths[whole]
        if not len(self.firsts):
            raise ConfigError(f"scenario.train_rows: no whole window begins in rows {low} to {high - 1}")

    @property
    def handles(self) -> tuple[Any, Any, Any]:
        """Parameters, state and buffers of two games, for kernels."""
        return self.games.kernel_params, self.games.kernel_state, self.observer.handle

    def draw(self, n: int, rng: np.random.Generator) -> tuple[I8, I8]:
        """First rows of n windows and their lengths."""
        picks = rng.integers(0, len(self.firsts), n)
        return self.firsts[picks], self.lengths[picks]


class RolloutLearner:
    """Rollout policy iteration.

    Args:
        task: What is to be learned.
        config: Settings.
    """

    def __init__(self, task: PlacementTrainTask, config: RolloutConfig) -> None:
        torch.set_num_threads(1)
        check_comparable(task.scenario.placement)
        self.task, self.config = task, config
        self.learned, self.selected = self._streams()
        self.layout = Layout.current(config.observation)
        self.architecture = Architecture(config.network, *self.layout.sizes, hidden=tuple(config.hidden))
        seeds = task.seeds(2)
        torch.manual_seed(seeds[0])
        self.nets = [build_network(self.architecture).to(task.device) for _ in range(config.population)]
        self.optimizer = torch.optim.Adam(
            [p for n in self.nets for p in n.parameters()], config.learning_rate
        )
        self.rng = np.random.default_rng(seeds[1])
        self.means = [_weights(net) for net in self.nets]
        self.best = 0
        self.timesteps = 0
        self.updates = 0
        self.blank = True  # nothing was learned yet

    def _streams(self) -> tuple[Windows, Windows]:
        """What is learned from, and what selects: the same, or with ``resampled`` another stream."""
        c, s = self.config, self.task.scenario
        low, high = s.train_rows
        learned = Windows(s.trace, (low, high), s.placement, c.observation)
        rows = (low, min(high, s.trace.n_requests))
        shapes = large_shapes(s.trace, np.arange(*rows), s.placement, c.least_share) if c.safety else ()
        self.safety = Safety(c.safety, 0.0, shapes) if c.safety else None
        if not c.resampled:
            return learned, learned
        seed = self.task.seeds(3)[2]
        trace = resample_requests(s.trace, rows, c.resampled, s.placement, c.large_share, seed)
        return learned, Windows(trace, (0, trace.n_requests), s.placement, c.observation)

    @property
    def by_rules(self) -> bool:
        """Whether rules play in the next round."""
        return self.timesteps < self.config.rule_share * self.task.total_timesteps

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """One round: collect comparisons and learn from them."""
        start = time.perf_counter()
        found, decisions = self._collect()
        collected = time.perf_counter()
        self.timesteps += decisions
        loss, entropy = self._learn(found)
        return {
            "loss": loss,
            "entropy": entropy,
            "states": float(len(found.flat)),
            "states_per_s": len(found.flat) / max(1e-9, collected - start),
            "update_s": time.perf_counter() - collected,
        }

    def _collect(self) -> tuple[Comparisons, int]:
        """Comparisons of a round, and decisions played for them, trials left aside."""
        c, rng = self.config, self.rng
        store = allocate_comparisons(c.states, self.learned.observer)
        n_windows = 1 + int(8 * c.states / (c.probability * float(self.learned.lengths.mean())))
        firsts, lengths = self.learned.draw(n_windows, rng)
        # The training ends within a window, whatever a round is.
        left = self.task.total_timesteps - self.timesteps
        n_windows = min(n_windows, 1 + int(np.searchsorted(lengths.cumsum(), left)))
        firsts, lengths = firsts[:n_windows], lengths[:n_windows]
        players, base = np.full(n_windows, NETWORK, dtype=np.int64), NETWORK
        if self.by_rules:
            base = rule_number(c.base)
            players[:] = rng.choice([rule_number(name) for name in c.rules], n_windows)
        net = self._kernel_net(self.best)
        n, n_decisions = collect_comparisons(
            *self.learned.handles, net, firsts, firsts + lengths, rng.random(N_DRAWS), players, base,
            c.horizon, c.probability, c.noise, make_keys(1, int(rng.integers(2**63))), store,
        )  # fmt: skip
        kept = Comparisons(store.flat[:n], store.mask[:n], store.cost[:n], store.level[:n])
        return kept, int(n_decisions)

    def _kernel_net(self, i: int) -> Any:
        return make_kernel_net(self.architecture, self.means[i], 2 * self.task.scenario.placement.n_hosts)

    def _play(self, i: int, firsts: I8, lengths: I8, safety: Safety | None) -> F8:
        """What windows of the selecting stream cost member i, s, (W,)."""
        costs = np.empty(len(firsts))
        table = make_safety_table(safety, self.task.scenario.placement)
        net = self._kernel_net(i)
        play_windows(*self.selected.handles, net, table, firsts, firsts + lengths, costs)
        return costs

    def _select(self) -> float:
        """Find the member, and with a safety its margin, that plays windows best.

        Returns its trimmed mean of total waits, s, or with a safety the bound of what it exceeds the rule's.

        With a safety, best is who is most certainly better than the rule; if nobody is, the rule plays. The
        windows are drawn anew each time, from a generator of their own: looking changes nothing.
        """
        c = self.config
        rng = np.random.default_rng([self.task.seeds(2)[1], self.timesteps])
        firsts, lengths = self.selected.draw(c.selection_windows, rng)
        if self.safety is None:
            costs = [trimmed_mean(self._play(i, firsts, lengths, None)) for i in range(len(self.means))]
            self.best = int(np.argmin(costs))
            return float(min(costs))
        if self.blank:
            self.safety = replace(self.safety, margin=NEVER)
            return 0.0
        rule, _ = run_windows(self.selected.games, firsts, self.safety.rule, lengths=lengths)

        def bound(i: int, margin: float) -> float:
            assert self.safety
            costs = self._play(i, firsts, lengths, replace(self.safety, margin=margin))
            return excess_bound(costs, rule, firsts, lengths, c.certainty)

        middle = c.margins[len(c.margins) // 2]
        self.best = int(np.argmin([bound(i, middle) for i in range(len(self.means))]))
        bounds = [bound(self.best, margin) for margin in c.margins]
        sure = min(bounds) < 0.0
        self.safety = replace(self.safety, margin=c.margins[int(np.argmin(bounds))] if sure else NEVER)
        return min(0.0, *bounds)

    def _advantages(self, found: Comparisons) -> Tensor:
        """A of every action, 0 where it was not tried, (S, 2N)."""
        c = self.config
        cost = np.minimum(found.cost, c.cost_cap_s)
        n_tried = found.mask.sum(axis=1, keepdims=True)
        mean = np.where(found.mask, cost, 0.0).sum(axis=1, keepdims=True) / n_tried
        unit = c.cost_scale_s + c.level_weight * np.minimum(found.level, c.cost_cap_s)[:, None]
        return torch.from_numpy(
            np.where(found.mask, np.clip((cost - mean) / unit, -CLIP, CLIP), 0.0).astype(np.float32)
        )

    def _learn(self, found: Comparisons) -> tuple[float, float]:
        """Move the network; returns loss and entropy, means over minibatches."""
        c, n = self.config, len(found.flat)
        if n == 0:
            return float("nan"), float("nan")
        device = self.task.device
        flat, mask = (torch.from_numpy(part).to(device) for part in (found.flat, found.mask))
        advantages = self._advantages(found).to(device)
        rate = c.learning_rate
        if c.schedule == "linear":
            rate *= max(0.01, 1.0 - self.timesteps / max(1, self.task.total_timesteps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, entropies = [], []
        for _ in range(c.n_epochs):
            order = self.rng.permutation(n)
            for begin in range(0, n, c.batch_size):
                part = torch.from_numpy(order[begin : begin + c.batch_size])
                loss, entropy = self._step(flat[part], mask[part], advantages[part])
                losses.append(loss)
                entropies.append(entropy)
        return float(np.mean(losses)), float(np.mean(entropies))

    def _step(self, flat: Tensor, mask: Tensor, advantages: Tensor) -> tuple[float, float]:
        """One minibatch, for every member; returns loss and entropy of the best."""
        self.optimizer.zero_grad()
        told = (0.0, 0.0)
        for i, net in enumerate(self.nets):
            log_p = net.scores(flat).masked_fill(~mask, MASKED).log_softmax(dim=1)
            p = log_p.exp()
            entropy = -(p * log_p.masked_fill(~mask, 0.0)).sum(dim=1).mean()
            loss = (p * advantages).sum(dim=1).mean() - self.config.ent_coef * entropy
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), self.config.max_grad_norm)
            if i == self.best:
                told = loss.item(), entropy.item()
        self.optimizer.step()
        self.updates += 1
        self.blank = False
        # A short memory at first, or the average would remember the random beginning.
        keep = min(self.config.average, self.updates / (self.updates + 10.0))
        for net, mean in zip(self.nets, self.means):
            for name, value in net.state_dict().items():
                mean[name] += np.float32(1.0 - keep) * (as_numpy(value) - mean[name])
        return told

    def snapshot(self) -> tuple[Member, ...]:
        """The averaged network of the member that plays training windows best."""
        self._select()
        weights = {name: value.copy() for name, value in self.means[self.best].items()}
        return (Member(self.architecture, self.layout, weights, "logits", self.safety),)

    def load_member(self, member: Member) -> None:
        """Begin with the weights of an agent, in the first member of the population.

        Raises:
            ConfigError: If it is of another architecture, or reads other columns.
        """
        need_same(member, self.architecture, self.layout)
        weights = {name: torch.from_numpy(w.copy()) for name, w in member.weights.items()}
        self.nets[0].load_state_dict(weights)
        self.means[0] = _weights(self.nets[0])
        self.blank = False

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Networks, averages, optimiser and generator."""
        found: Arrays = {}
        for i, (net, mean) in enumerate(zip(self.nets, self.means)):
            found |= {f"net/{i}/{k}": v for k, v in _weights(net).items()}
            found |= {f"mean/{i}/{k}": v.copy() for k, v in mean.items()}
        found |= {f"optimizer/{k}": v for k, v in optimizer_arrays(self.optimizer).items()}
        rng = self.rng.bit_generator.state
        names = ("timesteps", "updates", "best", "blank")
        counts = {name: getattr(self, name) for name in names}
        return found, {**counts, "rng": rng}

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        parts = by_prefix(arrays)
        for number, weights in by_prefix(parts["net"]).items():
            tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
            self.nets[int(number)].load_state_dict(tensors)
        for number, weights in by_prefix(parts["mean"]).items():
            self.means[int(number)] = {name: value.copy() for name, value in weights.items()}
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        self.timesteps, self.updates = int(state["timesteps"]), int(state["updates"])
        self.best, self.blank = int(state["best"]), bool(state["blank"])
        self.rng.bit_generator.state = state["rng"]


def _weights(net: Network) -> dict[str, Any]:
    return {name: as_numpy(value) for name, value in net.state_dict().items()}
