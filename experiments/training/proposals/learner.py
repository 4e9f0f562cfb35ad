"""Learning which proposals annealing accepts, from searches that the guide itself leads.

A search counts, for every shape of VM, bin of fragments and stretch of the search, proposals to move a VM
from home and the odds that they are accepted. The networks of ``policies.rescheduling.guide`` learn these by
likelihood from all counts so far, the more of a kind there were the more it weighs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from virtgym.envs.arrays import F4, F8
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.policies.rescheduling.annealing import AnnealingPolicy, Search
from virtgym.policies.rescheduling.guide import LAYOUT, STRETCHES, Guide, features

from ..learners import Arrays
from ..settings.own import ProposerConfig
from .odds import OddsLearner
from .task import PROPOSALS, ProposalTrainTask


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


def make_proposal_learner(task: ProposalTrainTask, config: ProposerConfig) -> ProposalLearner:
    """Make the learner."""
    return ProposalLearner(task, config)


class ProposalLearner(OddsLearner):
    """Learns what proposals are worth.

    Args:
        task: What is to be learned.
        config: Settings.
    """

    def __init__(self, task: ProposalTrainTask, config: ProposerConfig) -> None:
        super().__init__(task, config, "odds", LAYOUT)
        self.counts: dict[bytes, F8] = {}  # by tower and features: proposals, and the sum of their odds

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """One search, then some steps on all counts."""
        games, before = self.games, self.begin()
        policy = WatchedAnnealing(iterations=PROPOSALS)
        policy.follow(Guide(self.snapshot()))
        plan = policy.plan_moves(games.fork(), self.rng, np.inf)
        gained = float(games.play(plan.moves).gains.sum())
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
        known = []
        for tower in range(len(self.towers)):
            inputs, counts = self._table(tower)
            weight = np.sqrt(counts[:, 0])  # rare kinds are wanted, too
            parts = inputs, counts[:, 1] / counts[:, 0], weight / weight.sum()
            x, chance, share = (torch.from_numpy(part.astype(np.float32)) for part in parts)
            known.append((x, chance, share))
        return self.learn(known)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """As ``OddsLearner``, with the counts."""
        found, state = super().arrays()
        if self.counts:
            found["keys"] = np.frombuffer(b"".join(self.counts), np.uint8).reshape(len(self.counts), -1)
            found["counts"] = np.stack(list(self.counts.values()))
        return found, state

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        super().restore(arrays, state)
        if "counts" in arrays:
            keys = (row.tobytes() for row in arrays["keys"])
            self.counts = dict(zip(keys, arrays["counts"].copy()))
