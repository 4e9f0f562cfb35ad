"""Imitation of several seeds in a batch: each plays by itself, and one update moves the networks of all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from virtgym.envs.arrays import F4, I8

from ..cluster_task import ClusterTrainTask
from ..imitation import ImitationLearner, make_imitation_learner
from ..settings.base import AgentConfig
from .networks import Batch, Offers, StackedScorer, make_batch


def make_stacked_imitation(tasks: Sequence[ClusterTrainTask], config: AgentConfig) -> StackedImitation:
    """Make the learners of several seeds, which learn together.

    Args:
        tasks: What each is to learn: the same but for the seed.
        config: Settings of all.
    """
    return StackedImitation([make_imitation_learner(task, config) for task in tasks])


class StackedImitation:
    """Learners of imitation that learn together.

    Args:
        learners: The learners.

    Attributes:
        learners: They may be looked at, saved and, before learning, restored like any others.
    """

    def __init__(self, learners: Sequence[ImitationLearner]) -> None:
        self.learners = list(learners)
        self.config = learners[0].config
        nets: Any = [one.net for one in learners]
        self.stack = StackedScorer(nets, [one.optimizer for one in learners], self.config.max_grad_norm)

    def restored(self, i: int) -> None:
        """A learner was restored: what it knows becomes part of the batch again."""
        self.stack.adopt(i)

    def learn_chunk(self, timesteps: Sequence[int]) -> list[dict[str, float]]:
        """As ``Learner.learn_chunk``: a round of each that has not learned enough."""
        rounds = [one.collect() if wanted else None for one, wanted in zip(self.learners, timesteps)]
        start = time.perf_counter()
        told = self._learn([one is not None for one in rounds])
        spent = (time.perf_counter() - start) / max(1, sum(one is not None for one in rounds))
        return [
            {} if played is None else one.measured(played, *values, spent)
            for one, played, values in zip(self.learners, rounds, told)
        ]

    def _learn(self, going: Sequence[bool]) -> list[tuple[float, float]]:
        """Passes over the states of those that go on; mean loss and agreement over the last."""
        c, every = self.config, self.learners
        lengths = np.array([len(one.states) if go else 0 for one, go in zip(every, going)])
        told: list[list[tuple[float, float]]] = [[] for _ in every]
        if lengths.any():
            states = [one.states for one, n in zip(every, lengths) if n]
            rows = np.concatenate([x for s in states for x in s.rows])
            rest = np.stack([x for s in states for x in s.globals])
            targets = np.concatenate([x for s in states for x in s.targets])
            counts = np.array([len(x) for s in states for x in s.slots])
            offers = Offers(rows, counts, rest)
            starts = np.concatenate(([0], counts.cumsum()[:-1]))
            firsts = np.concatenate(([0], lengths.cumsum()[:-1])).clip(max=len(counts) - 1)
            rates = [one.rate() for one in every]
        for _ in range(c.n_epochs if lengths.any() else 0):
            orders = [one.rng.permutation(n) for one, n in zip(every, lengths) if n]
            told = [[] for _ in every]
            for at in range(0, int(lengths.max()), c.batch_size):
                which, weight = _rectangle(orders, lengths, at, c.batch_size)
                batch = make_batch(offers, starts, which + firsts[:, None], self.stack.device)
                target = _of_rows(targets, offers, starts, which + firsts[:, None], batch)
                loss, agreement = self._loss(batch, target, torch.from_numpy(weight).to(self.stack.device))
                active = torch.from_numpy(lengths > at)
                self.stack.step(loss.sum(), rates, active)
                for i in active.nonzero()[:, 0].tolist():
                    told[i].append((loss[i].item(), agreement[i].item()))
        nothing = [(float("nan"), float("nan"))]
        return [tuple(np.mean(one or nothing, axis=0).tolist()) for one in told]

    def _loss(self, batch: Batch, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and agreement of each seed, (S,); ``weight`` (S, B) is 0 for observations that pad."""
        log_odds, _ = self.stack.read(batch)
        s, b = weight.shape
        flat, owner = log_odds.reshape(-1), batch.owner
        total = weight.sum(dim=1).clamp(min=1.0)

        def of_seeds(values: Tensor) -> Tensor:
            return (values.view(s, b + 1)[:, :-1] * weight).sum(dim=1) / total

        loss = of_seeds(flat.new_zeros(s * (b + 1)).index_add(0, owner, -target * flat))
        with torch.no_grad():
            best = flat.new_full((s * (b + 1),), -torch.inf).scatter_reduce(0, owner, flat, "amax")
            most = flat.new_zeros(s * (b + 1)).scatter_reduce(0, owner, target, "amax")
            chosen = torch.where(flat == best[owner], target, -1.0)
            found = flat.new_full((s * (b + 1),), -1.0).scatter_reduce(0, owner, chosen, "amax")
        return loss, of_seeds((found >= 0.5 * most).float())


def _rectangle(orders: Sequence[I8], lengths: I8, at: int, size: int) -> tuple[I8, F4]:
    """The minibatch of each seed (S, B), padded with state 0, and what counts of it."""
    width = int(min(size, lengths.max() - at))
    which = np.zeros((len(lengths), width), np.int64)
    weight = np.zeros((len(lengths), width), np.float32)
    given = iter(orders)
    for i, n in enumerate(lengths):
        part: Any = next(given)[at : at + size] if n else []
        which[i, : len(part)], weight[i, : len(part)] = part, 1.0
    return which, weight


def _of_rows(values: F4, offers: Offers, starts: I8, which: I8, batch: Batch) -> Tensor:
    """What all rows have, of the rows of a batch; 0 for its padding, (S * M,)."""
    laid = make_batch(Offers(values[:, None], offers.counts, offers.rest), starts, which, batch.rows.device)
    real = batch.owner % (which.shape[1] + 1) != which.shape[1]
    return torch.where(real, laid.rows.reshape(-1), 0.0)
