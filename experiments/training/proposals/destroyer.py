"""Learning which hosts a large-neighbourhood search should free, from searches that the operator leads.

At its end a search knows a good plan. So of all states on the way it can be said which hosts have other VMs
in that plan: these had to be freed. The network of ``policies.rescheduling.learned_destroy`` learns the
chance of that by likelihood from the latest searches; some neighbourhoods are drawn at random, so that plans
are good even before it has learned anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from virtgym.envs.arrays import F4, I4, I8
from virtgym.policies.rescheduling.destroy import Scene, destroy_random
from virtgym.policies.rescheduling.learned_destroy import LAYOUT, LearnedDestroy, features
from virtgym.policies.rescheduling.ortools import OrtoolsReschedulingPolicy

from ..learners import Arrays
from ..settings.own import DestroyerConfig
from .odds import OddsLearner
from .task import DestroyTrainTask


class Watched:
    """An operator that remembers the states in which it was asked.

    Args:
        operator: The operator.
        noise: Share of neighbourhoods that are drawn at random.
    """

    def __init__(self, operator: LearnedDestroy, noise: float) -> None:
        self._operator, self._noise = operator, noise
        self._seen: list[tuple[F4, I4]] = []
        self._scene: Scene | None = None

    def __call__(self, scene: Scene, n_hosts: int, rng: np.random.Generator) -> I8:
        self._scene = scene
        self._seen.append((features(scene, n_hosts), scene.games.state.vm_node[0].copy()))
        draw = destroy_random if rng.random() < self._noise else self._operator
        return draw(scene, n_hosts, rng)

    def lesson(self) -> tuple[F4, F4]:
        """Features of all hosts in all states, (n, features), and whether they are to change, (n,)."""
        inputs, change = [np.zeros((0, sum(LAYOUT.sizes)), np.float32)], [np.zeros(0, np.float32)]
        for seen, where in self._seen:
            assert self._scene is not None
            end, n = self._scene.games.state.vm_node[0], self._scene.games.params.per_host
            moved = np.flatnonzero(end != where)
            changed = np.zeros(len(seen), np.float32)
            changed[np.concatenate([where[moved], end[moved]]) // n] = 1.0
            inputs.append(seen)
            change.append(changed)
        return np.concatenate(inputs), np.concatenate(change)


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
        self.inputs, self.change = np.zeros((0, sum(LAYOUT.sizes)), np.float32), np.zeros(0, np.float32)

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """One search, then some steps on what the latest ones have taught."""
        games, before, config = self.games, self.begin(), self.config
        policy = OrtoolsReschedulingPolicy(iterations=config.iterations, begin=config.begin)
        watched = Watched(LearnedDestroy(self.snapshot()), config.noise)
        policy.follow(watched)
        plan = policy.plan_moves(games.fork(), self.rng, np.inf)
        gained = float(games.play(plan.moves).gains.sum())
        inputs, change = watched.lesson()
        self.inputs = np.concatenate([self.inputs, inputs])[-config.buffer_size :]
        self.change = np.concatenate([self.change, change])[-config.buffer_size :]
        share = float(change.mean()) if len(change) else float("nan")
        return {"loss": self._learn(), "change": share, "objective_start": before, "gained": gained}

    def _learn(self) -> float:
        n = len(self.change)
        if n == 0:
            return float("nan")
        inputs, change = torch.from_numpy(self.inputs), torch.from_numpy(self.change)
        return self.learn([(inputs, change, torch.full((n,), 1.0 / n))])

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """As ``OddsLearner``, with what was taught."""
        found, state = super().arrays()
        return {**found, "inputs": self.inputs, "change": self.change}, state

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        super().restore(arrays, state)
        self.inputs, self.change = arrays["inputs"].copy(), arrays["change"].copy()
