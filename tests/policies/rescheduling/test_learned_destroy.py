"""A learned destroy operator: what it reads, what it draws, and what its training takes from a plan."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.plain_rescheduling import random_snapshot
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.policies.learned.storage import Member
from virtgym.policies.rescheduling.learned_destroy import LAYOUT, LearnedDestroy, features
from virtgym.policies.rescheduling.neighbourhoods import Neighbourhoods
from virtgym.policies.rescheduling.odds import odds_architecture


def some_member(seed: int, **fixed: float) -> Member:
    """Random weights; ``fixed``: a network that is this function of columns by their names, alone."""
    rng, architecture = np.random.default_rng(seed), odds_architecture(LAYOUT, "host_odds", (8, 8))
    shapes = architecture.shapes().items()
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}
    if fixed:
        weights = {name: np.zeros_like(value) for name, value in weights.items()}
        for i, (name, factor) in enumerate(fixed.items()):
            weights["host.0.weight"][i, LAYOUT.rows.index(name)] = 1.0
            weights["host.1.weight"][i, i] = 1.0
            weights["host.2.weight"][0, i] = factor
    return Member(architecture, LAYOUT, weights)


def begun(seed: int, n_hosts: int = 6) -> Neighbourhoods:
    games = ReschedulingGames([random_snapshot(seed, n_hosts=n_hosts)], limit=4)
    games.begin()
    return Neighbourhoods(games.fork())


def test_features_are_what_they_are_called() -> None:
    for seed in range(8):
        search = begun(seed)
        scene, p, s = search.scene, search.games.params, search.games.state
        x = dict(zip(LAYOUT.rows + LAYOUT.columns[1], features(scene, 2).T))
        assert all(column.min() >= 0.0 and column.max() <= 1.0 for column in x.values())
        vms = np.bincount(s.vm_node[0] // p.per_host, minlength=p.n_hosts)
        np.testing.assert_allclose(x["n_vms"], vms / (vms + 8), rtol=1e-6)
        sizes = [x[name] for name in ("up_to_quarter", "up_to_half", "up_to_whole", "larger")]
        np.testing.assert_allclose(sum(2 * y / (1 - y) for y in sizes), vms, atol=1e-4)
        rest = (s.free_cpu[0] % p.size / p.size).reshape(p.n_hosts, -1)
        np.testing.assert_allclose(x["most_fragment"], rest.max(axis=1), rtol=1e-6)
        for h in range(p.n_hosts):
            best = 0
            for v in np.flatnonzero(s.vm_node[0] // p.per_host == h).tolist():
                nodes = range(s.vm_node[0, v], s.vm_node[0, v] + 1 + p.vm_double[0, v])
                free, cpu = s.free_cpu[0], p.vm_cpu[0, v] % p.size
                best = max(best, sum((free[a] % p.size + cpu) // p.size for a in nodes))
            assert x["leaving"][h] == 0.5 * best
        assert x["tried"].sum() == x["gained"].sum() == x["come"].sum() == 0.0
        search.free(np.arange(3), 4, work=0.01)
        after = dict(zip(LAYOUT.rows, features(search.scene, 2).T))
        assert (after["come"] > 0).any() == (after["gone"] > 0).any() == (after["gained"] > 0).any()
        assert (after["gained"][3:] == 0).all()


def test_hosts_are_drawn_by_their_chances() -> None:
    scene, rng = begun(2).scene, np.random.default_rng(0)
    order = np.argsort(features(scene, 2)[:, LAYOUT.rows.index("load")])
    idle = LearnedDestroy((some_member(0, load=-10.0),))
    drawn = np.concatenate([idle(scene, 2, rng) for _ in range(200)])
    counts = np.bincount(drawn, minlength=len(order))
    assert len(drawn) == 400
    assert counts[order[0]] > 2 * counts[order[-1]] + 10
    one, two = LearnedDestroy((some_member(1), some_member(2))), LearnedDestroy((some_member(1),))
    for operator in (one, two):
        first, second = (operator(scene, 3, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert len(set(first.tolist())) == 3


def test_a_lesson_is_what_changes_until_the_end() -> None:
    pytest.importorskip("torch")
    from virtgym.experiments.training.proposals.destroyer import Watched

    search = begun(4)
    watched = Watched(LearnedDestroy((some_member(1),)), 0.5)
    assert watched.lesson()[0].shape == (0, sum(LAYOUT.sizes))
    rng, places = np.random.default_rng(0), []
    for _ in range(4):
        places.append(search.target)
        search.free(np.sort(watched(search.scene, 3, rng)), search.scene.moves_left, work=0.01)
    inputs, change = watched.lesson()
    assert inputs.shape == (24, sum(LAYOUT.sizes))
    for where, changed in zip(places, change.reshape(4, -1)):
        moved = np.flatnonzero(where != search.target)
        hosts = np.concatenate([where[moved], search.target[moved]]) // search.games.params.per_host
        assert np.flatnonzero(changed).tolist() == np.unique(hosts).tolist()
