"""Rescheduling with CP-SAT: the best of all plans, plans that replay, solvers that fail, what is freed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from ortools.math_opt.python import mathopt  # type: ignore[import-untyped]
from ortools.sat.python import cp_model

from oracles.plain_rescheduling import random_snapshot
from oracles.rescheduling_bruteforce import brute_force
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.generate import generate_snapshot
from virtgym.envs.rescheduling.objective import ObjectiveConfig
from virtgym.envs.rescheduling.snapshot import check_snapshot
from virtgym.policies import make_policy
from virtgym.policies.rescheduling import Scene, ortools
from virtgym.policies.rescheduling.base import Plan
from virtgym.policies.rescheduling.destroy import chosen_hosts, find_destroy
from virtgym.policies.rescheduling.neighbourhoods import Neighbourhoods
from virtgym.policies.rescheduling.ordering import order_moves
from virtgym.policies.solvers.snapshots.bound import bound_gain
from virtgym.policies.solvers.snapshots.exchanges import exchange, exchangeable

OBJECTIVES = [
    None, ObjectiveConfig(1.0, 0.5, 0.2, 0.3, 0.1), ObjectiveConfig(0.0, 1.0), ObjectiveConfig(0.0, 0.0, 1.0),
    ObjectiveConfig(0.0, 0.0, 0.0, 1.0, 0.5),
]  # fmt: skip


def begun(seed: int, objective: int = 0, limit: int = 3, **size: int) -> ReschedulingGames:
    games = ReschedulingGames([random_snapshot(seed, **size)], OBJECTIVES[objective], limit)
    games.begin()
    return games


def plan_of(name: str, games: ReschedulingGames, seed: int = 0, **params: Any) -> Plan:
    policy: Any = make_policy(name, **params)
    plan: Plan = policy.plan_moves(games.fork(), np.random.default_rng(seed), math.inf)
    return plan


@pytest.mark.parametrize("objective", range(len(OBJECTIVES)))
def test_the_exact_model_equals_brute_force(objective: int) -> None:
    tried = 0
    for seed in range(200):
        games = begun(seed, objective, 2, n_hosts=2 + seed % 2)
        if games.params.n_vms > 8:
            continue
        best = brute_force(games, 2)
        plan = plan_of("ortools_rescheduling", games)
        assert games.play(plan.moves).n == len(plan.moves)
        assert games.state.objective[0] == pytest.approx(best, abs=1e-6)
        assert plan.metrics == {"solver_fallbacks": 0.0, "plan_bound": pytest.approx(best, abs=1e-6)}
        tried += 1
        if tried == 4:
            break


@pytest.mark.parametrize("name", ["ortools_rescheduling", "pop"])
@pytest.mark.parametrize("objective", [0, 1])
def test_plans_replay_without_a_refusal(monkeypatch: pytest.MonkeyPatch, name: str, objective: int) -> None:
    monkeypatch.setattr(ortools, "SMALL", 0)  # in neighbourhoods, which have groups and pinned VMs, too
    monkeypatch.setattr(ortools, "PROPOSALS", 20)
    gained = 0
    for seed in range(5):
        games = begun(seed, objective, 4)
        plan = plan_of(name, games, seed, iterations=4)
        played = games.play(plan.moves)
        assert played.n == len(plan.moves), played.reason
        assert games.state.objective[0] <= games.starts.objective[0] + 1e-9
        assert plan.metrics["solver_fallbacks"] == 0.0
        gained += games.state.objective[0] < games.starts.objective[0] - 1e-9
    assert gained > 0


def test_a_large_snapshot_is_searched_the_same_every_time() -> None:
    games = ReschedulingGames([generate_snapshot(7, groups=40)], limit=20)
    games.begin()
    for name in ("ortools_rescheduling", "pop"):
        one, two = (plan_of(name, games, 3, iterations=3) for _ in range(2))
        np.testing.assert_array_equal(one.moves, two.moves)
        twin = games.fork()
        assert twin.play(one.moves).n == len(one.moves) > 0
        assert twin.state.objective[0] == pytest.approx(min(best for _, best in one.curve))
        timed: Any = make_policy(name, time_limit_s=0.02)
        moves = timed.plan_moves(games.fork(), np.random.default_rng(0), 0.0).moves
        assert games.fork().play(moves).n == len(moves)


@pytest.mark.parametrize("ending", ["exception", "infeasible", "unknown"])
def test_without_the_solvers_annealing_plans(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        if ending == "exception":
            raise RuntimeError("the solver has given up")
        return cp_model.INFEASIBLE if ending == "infeasible" else cp_model.UNKNOWN

    monkeypatch.setattr(cp_model.CpSolver, "solve", fail)
    monkeypatch.setattr(mathopt, "solve", fail)
    for small, failed in ((ortools.SMALL, 2.0), (0, 3.0)):
        monkeypatch.setattr(ortools, "SMALL", small)
        games = begun(4)
        plan = plan_of("ortools_rescheduling", games, iterations=2)
        assert plan.metrics["solver_fallbacks"] == failed
        assert games.play(plan.moves).n == len(plan.moves) > 0
        assert games.state.objective[0] < games.starts.objective[0]
    games = begun(4)
    plan = plan_of("pop", games, iterations=2)
    assert len(plan.moves) == 0
    assert plan.metrics["solver_fallbacks"] == 4.0


def test_exchanges_keep_every_rule_and_gain() -> None:
    gained = 0
    for seed in range(40):
        games = begun(seed, limit=4)
        search = Neighbourhoods(games.fork())
        hosts = np.arange(games.params.n_hosts)[seed % 2 :]
        found = exchange(games, search.kind, hosts, 3)
        assert found is not None
        target = found.target
        moved = np.flatnonzero(target != games.state.vm_node[0])
        ends = np.concatenate([target[moved], games.state.vm_node[0, moved]]) // games.params.per_host
        assert np.isin(ends, hosts).all()
        assert len(moved) <= 3
        assert (search.kind[moved] >= 0).all()
        snapshot = dataclasses.replace(games.snapshot_of(), vm_node=target)
        check_snapshot(snapshot)
        search.take(target)
        assert search.objective <= games.state.objective[0]
        gained += search.objective < games.state.objective[0]
    assert gained > 15


def test_no_plan_gains_more_than_the_bound() -> None:
    tight, tried = 0, 0
    for seed in range(100):
        games = begun(seed, limit=2, n_hosts=2 + seed % 2)
        if games.params.n_vms > 8:
            continue
        search = Neighbourhoods(games.fork())
        found = exchange(games, search.kind, np.arange(games.params.n_hosts), 2)
        assert found is not None
        prices = found.prices()
        assert prices is not None
        start, spare, size = games.state.fragment[0], games.state.spare[0], games.params.size
        bound = (start - size * math.floor(bound_gain(games, *prices, 2, -1) + 1e-6)) / spare if spare else 0
        best = brute_force(games, 2)
        assert bound <= best + 1e-9
        tight += bound >= best - 1e-9
        tried += 1
        if tried == 12:
            break
    assert tight > 6


def test_an_exchange_of_a_large_snapshot_is_better_than_annealing() -> None:
    games = ReschedulingGames([generate_snapshot(3)])
    games.begin()
    search = Neighbourhoods(games.fork())
    found = exchange(games, search.kind, np.arange(games.params.n_hosts), 50)
    assert found is not None
    search.take(found.target)
    annealed = games.fork()
    annealed.play(plan_of("annealing", games, iterations=300_000).moves)
    assert search.objective < annealed.state.objective[0]
    plan = plan_of("ortools_rescheduling", games, iterations=1)
    assert plan.metrics["plan_bound"] == pytest.approx(search.objective)  # no plan is better
    moves, left = order_moves(games.fork(), search.target)
    assert left == 0
    assert games.play(moves).n == len(moves) <= 50
    assert games.state.objective[0] == search.objective


def test_exchanges_of_some_hosts_keep_what_was_gained_and_end_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ortools, "EXCHANGED", 2)
    gained = 0
    for seed in range(20):
        games, asked = begun(seed, limit=4, n_hosts=6), [0]
        search = Neighbourhoods(games.fork())
        if not exchangeable(games, search.kind):
            continue

        def last_ones(scene: Scene, n_hosts: int, rng: np.random.Generator, asked: Any = asked) -> Any:
            asked.append(n_hosts)
            return np.arange(6)[-n_hosts:]

        policy: Any = make_policy("ortools_rescheduling", iterations=9, begin="exchanges")
        policy.follow(last_ones)
        run = ortools._Run(games.fork(), np.random.default_rng(seed), math.inf)
        policy._exchange_some(run, search)
        assert asked[1] == 2
        assert asked[-1] == 6  # nothing is gained any more: more are freed, at last all
        assert asked == sorted(asked)
        assert len(search.scene.away) <= 4
        assert search.objective <= min(objective for _, objective in run.curve) + 1e-12
        gained += search.objective < games.state.objective[0]
    assert gained > 8


def test_no_more_vms_are_away_than_must_be() -> None:
    for seed in range(30):
        games = begun(seed)
        search = Neighbourhoods(games.fork(), everything=True)
        p, kind, rng = games.params, search.kind, np.random.default_rng(seed)
        target = games.state.vm_node[0].copy()
        for k in np.unique(kind[kind >= 0]).tolist():  # VMs of a kind change places: nothing has changed
            target[kind == k] = rng.permutation(target[kind == k])
        search.take(target)
        assert len(search.scene.away) == 0
        assert search.objective == games.state.objective[0]
        assert p.n_vms == len(search.target)


def first_ones(scene: Scene, n_hosts: int, rng: np.random.Generator) -> Any:
    assert scene.moves_left >= 0
    assert len(scene.fragments()) == len(scene.tried) == scene.games.params.n_hosts
    return np.arange(n_hosts)


def no_hosts(scene: Scene, n_hosts: int, rng: np.random.Generator) -> Any:
    return np.array([-1])


def test_destroy_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ortools, "SMALL", 0)
    games = begun(1, n_hosts=5)
    scene = Neighbourhoods(games.fork()).scene
    for name in ("fragments", "random"):
        for n in (1, 3, 5):
            hosts = chosen_hosts(find_destroy(name), scene, n, np.random.default_rng(n))
            assert len(hosts) == n
            assert (np.diff(hosts) > 0).all()
    for begin in ("home", "annealing", "exchanges"):
        params: dict[str, Any] = {"destroy": f"{__name__}:first_ones", "begin": begin}
        moves = plan_of("ortools_rescheduling", games, iterations=2, **params).moves
        assert games.fork().play(moves).n == len(moves)
    with pytest.raises(ConfigError, match=r"policy\.begin"):
        make_policy("ortools_rescheduling", begin="nothing")
    with pytest.raises(ConfigError, match=r"policy\.destroy: must choose hosts of 0 to 4"):
        plan_of("ortools_rescheduling", games, destroy=f"{__name__}:no_hosts")
    with pytest.raises(ConfigError, match=r"policy\.destroy=fragment: .*did you mean fragments"):
        make_policy("ortools_rescheduling", destroy="fragment")
    with pytest.raises(ConfigError, match=r"policy\.parts"):
        make_policy("pop", parts=0)
