"""Guides of annealing, and searches heated again: legal plans, the same every time; odds are followed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oracles.plain_rescheduling import random_snapshot
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.objective import ObjectiveConfig
from virtgym.policies.learned.storage import Member
from virtgym.policies.rescheduling.annealing import AnnealingPolicy
from virtgym.policies.rescheduling.guide import BINS, LAYOUT, LEAST, Guide, features
from virtgym.policies.rescheduling.odds import odds_architecture


def some_member(seed: int) -> Member:
    rng, architecture = np.random.default_rng(seed), odds_architecture(LAYOUT, "odds", (8, 8))
    shapes = architecture.shapes().items()
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}
    return Member(architecture, LAYOUT, weights)


def begun(seed: int, objective: ObjectiveConfig | None = None) -> ReschedulingGames:
    games = ReschedulingGames([random_snapshot(seed)], objective, limit=4)
    games.begin()
    return games


def test_guided_and_reheated_plans_are_legal_and_the_same_every_time() -> None:
    for seed in range(12):
        games, ends = begun(seed), []
        for _ in range(2):
            policy = AnnealingPolicy(iterations=1000, reheat_every=200)
            policy.follow(Guide((some_member(seed),)))
            plan = policy.plan_moves(games.fork(), np.random.default_rng(1), math.inf)
            twin = games.fork()
            assert twin.play(plan.moves).n == len(plan.moves) <= games.limit
            ends.append(plan.moves.tolist())
        assert ends[0] == ends[1]


def test_odds_are_the_networks() -> None:
    games, (one, two) = begun(3), (some_member(1), some_member(2))
    inputs = features(games.params, 0, 0.3)
    vm, place = Guide((one, two)).odds(inputs)
    for odds, tower, axes in ((vm, "vm", None), (place, "place", 1)):
        logits = []
        for w in (one.weights, two.weights):
            x = inputs.astype(np.float64)
            for i in range(3):
                x = x @ w[f"{tower}.{i}.weight"].T.astype(np.float64) + w[f"{tower}.{i}.bias"]
                x = np.maximum(x, 0.0) if i < 2 else x
            logits.append(x[..., 0])
        chance = 1.0 / (1.0 + np.exp(-np.mean(logits, axis=0)))
        best = chance.max() if axes is None else chance.max(axis=axes, keepdims=True)
        np.testing.assert_allclose(odds, np.maximum(chance / best, LEAST), rtol=1e-3)
    single = ~games.params.class_double[0]
    by_bins = vm[single].reshape(-1, BINS, BINS)
    assert (by_bins == by_bins[:, :, :1]).all()  # the other node counts for double VMs alone


def test_what_cannot_be_is_refused() -> None:
    policy = AnnealingPolicy(iterations=100)
    policy.follow(Guide((some_member(0),)))
    games = begun(1, ObjectiveConfig(imbalance=1.0))
    with pytest.raises(ConfigError, match="objective is fragments alone"):
        policy.plan_moves(games.fork(), np.random.default_rng(0), math.inf)
    with pytest.raises(ConfigError, match=r"policy\.reheat_every"):
        AnnealingPolicy(reheat_every=-1)
    with pytest.raises(ConfigError, match=r"policy\.reheat"):
        AnnealingPolicy(reheat=0.0)
