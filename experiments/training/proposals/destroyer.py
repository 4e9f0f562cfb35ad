"""Learning which hosts a large-neighbourhood search should free, from searches that the operator leads.

Every neighbourhood that is solved says of each host that it freed whether a VM left it or came to it, and the
plan became better. The network of ``policies.rescheduling.learned_destroy`` learns the chance of that by
likelihood from the latest neighbourhoods; some are drawn at random, so that it hears of all hosts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from virtgym.envs.arrays import F4, I8
from virtgym.policies.rescheduling.destroy import Scene, destroy_random
from virtgym.policies.rescheduling.learned_destroy import LAYOUT, LearnedDestroy, features
from virtgym.policies.rescheduling.ortools import OrtoolsReschedulingPolicy

from ..learners import Arrays
from ..settings.own import DestroyerConfig
from .odds import OddsLearner
from .task import DestroyTrainTask


class _Watched:
    """An operator that remembers what it freed, and what came of it.

    Args:
        operator: The operator.
        noise: Share of neighbourhoods that are drawn at random.

    Attributes:
        inputs: Features of the hosts of each neighbourhood, (n, features).
        useful: Whether they took part in a gain, (n,).
    """

    def __init__(self, operator: LearnedDestroy, noise: float) -> None:
        self._operator, self._noise = operator, noise
        self.inputs: list[F4] = []
        self.useful: list[F4] = []
        self._last: tuple[Scene, I8, I8] | None = None

    def __call__(self, scene: Scene, n_hosts: int, rng: np.random.Generator) -> I8:
        self.look()
        draw = destroy_random if rng.random() < self._noise else self._operator
        hosts = draw(scene, n_hosts, rng)
        self.inputs.append(features(scene, n_hosts)[hosts])
        self._last = scene, hosts, scene.gained[hosts].copy()
        return hosts

    def look(self) -> None:
        """Note what came of the last neighbourhood."""
        if self._last is not None:
            scene, hosts, before = self._last
            self.useful.append((scene.gained[hosts] > before).astype(np.float32))
        self._last = None


def make_destroy_learner(task: DestroyTrainTask, config: DestroyerConfig) -> DestroyLearner:
    """Make the learner."""
    return DestroyLearner(task, config)


class DestroyLearner(OddsLearner):
    """Learns which hosts to free.

    Args:
        task: What is to be learned.
        config: Settings.
    """

    config: DestroyerConfig

    def __init__(self, task: DestroyTrainTask, config: DestroyerConfig) -> None:
        super().__init__(task, config, "host_odds", LAYOUT)
        self.inputs, self.useful = np.zeros((0, sum(LAYOUT.sizes)), np.float32), np.zeros(0, np.float32)

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """One search, then some steps on the latest neighbourhoods."""
        games, before, config = self.games, self.begin(), self.config
        policy = OrtoolsReschedulingPolicy(iterations=config.iterations, begin=config.begin)
        watched = _Watched(LearnedDestroy(self.snapshot()), config.noise)
        policy.follow(watched)
        plan = policy.plan_moves(games.fork(), self.rng, np.inf)
        watched.look()
        gained = float(games.play(plan.moves).gains.sum())
        new = np.concatenate([self.useful[:0], *watched.useful])
        self.inputs = np.concatenate([self.inputs, *watched.inputs])[-config.buffer_size :]
        self.useful = np.concatenate([self.useful, new])[-config.buffer_size :]
        useful = float(new.mean()) if len(new) else float("nan")
        return {"loss": self._learn(), "useful": useful, "objective_start": before, "gained": gained}

    def _learn(self) -> float:
        n = len(self.useful)
        if n == 0:
            return float("nan")
        inputs, useful = torch.from_numpy(self.inputs), torch.from_numpy(self.useful)
        return self.learn([(inputs, useful, torch.full((n,), 1.0 / n))])

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """As ``OddsLearner``, with the neighbourhoods."""
        found, state = super().arrays()
        return {**found, "inputs": self.inputs, "useful": self.useful}, state

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        super().restore(arrays, state)
        self.inputs, self.useful = arrays["inputs"].copy(), arrays["useful"].copy()
