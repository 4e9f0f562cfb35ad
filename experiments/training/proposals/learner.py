"""Learning which proposals annealing accepts, from searches that the guide itself leads.

A search counts, for every shape of VM, bin of fragments and stretch of the search, proposals to move a VM
from home and the odds that they are accepted. The networks of ``policies.rescheduling.guide`` learn these by
likelihood from all counts so far, the more of a kind there were the more it weighs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from virtgym.envs.arrays import F4, F8
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.policies.learned.storage import Member
from virtgym.policies.rescheduling.annealing import AnnealingPolicy, Search
from virtgym.policies.rescheduling.guide import LAYOUT, STRETCHES, Guide, features, guide_architecture

from ..learners import Arrays, need_same
from ..rescheduling_task import TRAINING, seeds_of
from ..settings.own import ProposerConfig
from ..torch_state import as_numpy, by_prefix, optimizer_arrays, restore_optimizer
from .task import PROPOSALS, ProposalTrainTask

TOWERS = ("vm", "place")


class WatchedAnnealing(AnnealingPolicy):
    """Annealing that counts its proposals.

    Attributes:
        seen: Counts of every stretch, (2 K, 2 * bins * bins) each.
    """

    seen: list[F8]

    def _guidance(self, games: ReschedulingGames, fragments: bool) -> Any:
        bins, vm, place, _ = super()._guidance(games, fragments)
        watched = np.zeros((2 * len(vm), 2 * vm.shape[1]))
        self.seen = [watched.copy() for _ in range(STRETCHES)]
        return bins, vm, place, watched

    def _turn(self, games: ReschedulingGames, memory: Search, stretch: int) -> None:
        super()._turn(games, memory, stretch)
        if stretch > 0:
            self.seen[stretch - 1][:] = memory.watched
        memory.watched[:] = 0.0


class OddsNet(nn.Module):
    """The networks of ``policies.rescheduling.guide``, to be trained."""

    def __init__(self, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (sum(LAYOUT.sizes), *hidden, 1)
        self.vm, self.place = (
            nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes)) for _ in TOWERS
        )

    def logits(self, tower: str, x: torch.Tensor) -> torch.Tensor:
        """Of acceptance, (n,)."""
        layers = list(getattr(self, tower))
        for layer in layers[:-1]:
            x = torch.relu(layer(x))
        found: torch.Tensor = layers[-1](x)
        return found.squeeze(1)


def make_proposal_learner(task: ProposalTrainTask, config: ProposerConfig) -> ProposalLearner:
    """Make the learner."""
    return ProposalLearner(task, config)


class ProposalLearner:
    """Learns what proposals are worth.

    Args:
        task: What is to be learned.
        config: Settings.
    """

    def __init__(self, task: ProposalTrainTask, config: ProposerConfig) -> None:
        torch.set_num_threads(1)
        self.task, self.config = task, config
        self.games = task.env(seeds_of(task.scenario, TRAINING)).games
        seeds = task.seeds(2)
        torch.manual_seed(seeds[0])
        self.architecture = guide_architecture(tuple(config.hidden))
        self.net = OddsNet(self.architecture.hidden)
        self.optimizer = torch.optim.Adam(self.net.parameters(), config.learning_rate)
        self.rng = np.random.default_rng(seeds[1])
        self.counts: dict[bytes, F8] = {}  # by tower and features: proposals, and the sum of their odds
        self.timesteps = 0

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """One search, then some steps on all counts."""
        games = self.games
        games.begin(snapshot=int(self.rng.integers(len(games.snapshots))))
        before = float(games.state.objective[0])
        policy = WatchedAnnealing(iterations=PROPOSALS)
        policy.follow(Guide(self.snapshot()))
        plan = policy.plan_moves(games.fork(), self.rng, np.inf)
        gained = float(games.play(plan.moves).gains.sum())
        self.timesteps += 2 * games.limit
        watched = self._count(policy.seen)
        return {"loss": self._learn(), "accepted": watched, "objective_start": before, "gained": gained}

    def _count(self, seen: list[F8]) -> float:
        """Add counts of a search; the share of proposals that it accepted."""
        p, k = self.games.params, int(self.games.state.snapshot[0])
        total = np.zeros(2)
        for stretch, counts in enumerate(seen if seen[0].size else []):
            inputs = features(p, k, (stretch + 0.5) / STRETCHES)
            table = counts.reshape(2, *inputs.shape[:2], 2)  # by tower, shape and bins
            for tower, shape, at in np.argwhere(table[..., 0] > 0.0).tolist():
                key = bytes([tower]) + inputs[shape, at].tobytes()
                self.counts[key] = self.counts.get(key, np.zeros(2)) + table[tower, shape, at]
            total += table[0].sum(axis=(0, 1))
        return float(total[1] / max(total[0], 1.0))

    def _table(self, tower: int) -> tuple[F4, F8]:
        rows = [(key[1:], value) for key, value in self.counts.items() if key[0] == tower]
        inputs = np.stack([np.frombuffer(key, np.float32) for key, _ in rows])
        return inputs, np.stack([value for _, value in rows])

    def _learn(self) -> float:
        """Steps on all counts; the loss of the last."""
        if not self.counts:
            return float("nan")
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate
        known = []
        for tower in range(len(TOWERS)):
            inputs, counts = self._table(tower)
            weight = np.sqrt(counts[:, 0])  # rare kinds are wanted, too
            parts = inputs, counts[:, 1] / counts[:, 0], weight / weight.sum()
            known.append([torch.from_numpy(part.astype(np.float32)) for part in parts])
        loss = torch.zeros(())
        for _ in range(self.config.n_epochs):
            loss = torch.zeros(())
            for name, (x, share, shares) in zip(TOWERS, known):
                logits = self.net.logits(name, x)
                error = nn.functional.binary_cross_entropy_with_logits(logits, share, reduction="none")
                loss = loss + (shares * error).sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return loss.item()

    def snapshot(self) -> tuple[Member, ...]:
        """The networks as they are now."""
        weights = {name: as_numpy(value) for name, value in self.net.state_dict().items()}
        return (Member(self.architecture, LAYOUT, weights, "logits"),)

    def load_member(self, member: Member) -> None:
        """Begin with the weights of a guide.

        Raises:
            ConfigError: If it is of another architecture, or reads other features.
        """
        need_same(member, self.architecture, LAYOUT)
        self.net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in member.weights.items()})

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Networks, optimiser, counts and generator."""
        found: Arrays = {f"net/{k}": as_numpy(v) for k, v in self.net.state_dict().items()}
        found |= {f"optimizer/{k}": v for k, v in optimizer_arrays(self.optimizer).items()}
        if self.counts:
            found["keys"] = np.frombuffer(b"".join(self.counts), np.uint8).reshape(len(self.counts), -1)
            found["counts"] = np.stack(list(self.counts.values()))
        return found, {"timesteps": self.timesteps, "rng": self.rng.bit_generator.state}

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        parts = by_prefix(arrays)
        self.net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in parts["net"].items()})
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        if "counts" in arrays:
            keys = (row.tobytes() for row in arrays["keys"])
            self.counts = dict(zip(keys, arrays["counts"].copy()))
        self.timesteps = int(state["timesteps"])
        self.rng.bit_generator.state = state["rng"]
