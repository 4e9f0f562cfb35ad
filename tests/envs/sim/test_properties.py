"""What must hold of every episode: random clusters, loads and orders, from seeds that hypothesis chooses."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError, IllegalDecision
from virtgym.envs.sim.audit.checker import Auditor
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import Simulator

SEEDS = st.integers(0, 2**32 - 1)
INTEGRALS = (
    "host_energy_j",
    "host_sat_s",
    "host_active_s",
    "vm_requested",
    "vm_missed",
    "vm_mig_lost",
    "vm_down_s",
)
MANY = settings(max_examples=150)
SOME = settings(max_examples=25)


def start(episode: Any, **options: Any) -> Simulator:
    return Simulator(episode.config, episode.workload, horizon_s=episode.horizon_s, **options)


def play(episode: Any, sim: Simulator, steps: int = 10**6) -> list[Decisions]:
    """Operate at random; returns the orders."""
    given_orders: list[Decisions] = []
    while not sim.done and len(given_orders) < steps:
        given_orders.append(episode.orders(sim))
        sim.step(given_orders[-1])
    return given_orders


def replay(sim: Simulator, orders: list[Decisions]) -> None:
    for decisions in orders:
        sim.step(decisions)


@given(seed=SEEDS)
@MANY
def test_the_auditor_finds_nothing(random_episode: Any, seed: int) -> None:
    episode = random_episode(seed)
    sim = start(episode)
    auditor = Auditor(sim)
    while not sim.done:
        sim.apply(episode.orders(sim))
        auditor.observe()
        sim.advance()
        auditor.observe()
    assert auditor.violations == []


@given(seed=SEEDS, parts=st.integers(2, 5))
@MANY
def test_how_often_one_looks_changes_nothing(random_episode: Any, seed: int, parts: int) -> None:
    episode = random_episode(seed)
    once, often = start(episode), start(episode)
    while not once.done:
        orders = episode.orders(once)
        once.step(orders)
        often.apply(orders)
        for _ in range(parts):
            often.advance(episode.config.interval_s / parts)
    a, b = once.state, often.state
    assert a.vm_host.tolist() == b.vm_host.tolist()
    scale = {"vm_missed": a.vm_requested.max(), "vm_mig_lost": a.vm_requested.max()}
    for name in INTEGRALS:
        got, want = getattr(b, name), getattr(a, name)
        assert np.abs(got - want).max() <= 1e-9 * max(np.abs(want).max(), scale.get(name, 0.0), 1e-3), name


@given(seed=SEEDS)
@SOME
def test_one_long_run_equals_steps_to_the_last_bit(random_episode: Any, seed: int) -> None:
    episode = random_episode(seed)
    run, steps = start(episode), start(episode)
    run.run()
    while not steps.done:
        steps.step()
    assert run.digest() == steps.digest()


@given(seed=SEEDS, when=st.integers(0, 8))
@SOME
def test_a_fork_goes_its_own_way(random_episode: Any, seed: int, when: int) -> None:
    episode = random_episode(seed)
    sim = start(episode)
    play(episode, sim, when)
    fork = sim.fork()
    before = sim.digest()
    assert fork.digest() == before
    orders = play(episode, fork)
    assert sim.digest() == before  # what happened to the fork is not seen here
    changed = fork.digest()
    replay(sim, orders)
    assert sim.digest() == changed
    assert fork.digest() == changed
    assert sim.metrics() == pytest.approx(fork.metrics(), nan_ok=True, rel=0, abs=0)


@given(seed=SEEDS)
@SOME
def test_reset_and_repetition(random_episode: Any, seed: int) -> None:
    episode = random_episode(seed)
    sim = start(episode)
    fresh, view = sim.digest(), sim.view
    orders = play(episode, sim)
    end = sim.digest()
    assert sim.reset() is view
    assert sim.digest() == fresh == start(episode).digest()
    replay(sim, orders)
    assert sim.digest() == end
    assert view.state.clock.now_s == sim.time_s


@given(seed=SEEDS, when=st.integers(0, 8))
@SOME
def test_pickle_in_the_middle(random_episode: Any, seed: int, when: int) -> None:
    episode = random_episode(seed)
    sim = start(episode)
    play(episode, sim, when)
    copy = pickle.loads(pickle.dumps(sim))
    assert copy.digest() == sim.digest()
    replay(copy, play(episode, sim))
    assert copy.digest() == sim.digest()


def each_order(orders: Decisions) -> list[Decisions]:
    """The same orders one by one."""
    single = [Decisions(maintenance=np.array([h], np.int32)) for h in orders.maintenance]
    single += [Decisions(end_maintenance=np.array([h], np.int32)) for h in orders.end_maintenance]
    single += [Decisions(power_on=np.array([h], np.int32)) for h in orders.power_on]
    single += [Decisions(full_power=np.array([h], np.int32)) for h in orders.full_power]
    for v, h in zip(orders.place_vm, orders.place_host):
        single.append(Decisions(place_vm=np.array([v], np.int32), place_host=np.array([h], np.int32)))
    for v, h in zip(orders.move_vm, orders.move_host):
        single.append(Decisions(move_vm=np.array([v], np.int32), move_host=np.array([h], np.int32)))
    return single + [Decisions(power_off=np.array([h], np.int32)) for h in orders.power_off]


@given(seed=SEEDS)
@SOME
def test_refused_orders_change_nothing_but_their_count(random_episode: Any, seed: int) -> None:
    episode = random_episode(seed)
    sim = start(episode)
    strict = start(episode, strict=True)
    refused = 0
    while not sim.done:
        for order in each_order(episode.orders(sim)):
            before = sim.digest()
            refusals = sim.apply(order)
            assert refusals == sim.refusals
            if refusals:
                refused += 1
                assert str(refusals[0]).strip()
                sim.state.totals.illegal -= 1
                assert sim.digest() == before
                sim.state.totals.illegal += 1
                with pytest.raises(IllegalDecision, match="host"):
                    strict.apply(order)
            else:
                assert strict.apply(order) == []
            assert strict.digest() == sim.digest()
        sim.advance()
        strict.advance()
    assert sim.state.totals.illegal == refused


def test_orders_one_by_one_or_together_are_the_same(random_episode: Any) -> None:
    for seed in range(20):
        episode = random_episode(seed)
        together, single = start(episode), start(episode)
        while not together.done:
            orders = episode.orders(together)
            for order in each_order(orders):
                single.apply(order)
            together.step(orders)
            single.advance()
            assert together.digest() == single.digest()


def test_another_seed_is_another_episode(random_episode: Any) -> None:
    ends = set()
    for seed in range(10):
        episode = random_episode(seed)
        sim = start(episode)
        play(episode, sim)
        ends.add(sim.digest())
    assert len(ends) == 10


def test_policies_cannot_write(make_sim: Any) -> None:
    sim = make_sim([[0.5]])
    for name in sim.view.state._fields:
        with pytest.raises(ValueError, match="read-only"):
            getattr(sim.view.state, name)[0] = 1
    for value in sim.view.params:
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 1


def test_malformed_decisions(make_sim: Any) -> None:
    sim = make_sim([[0.5]])
    with pytest.raises(ConfigError, match="one host"):
        sim.apply(Decisions(move_vm=np.array([0], np.int32)))
    with pytest.raises(ConfigError, match="integers"):
        sim.apply(Decisions(power_off=np.array([0.5])))
    wide = Decisions(power_off=np.array([2**32, 1], dtype=np.int64))
    assert [r.code for r in sim.apply(wide)] == [1]  # not host 0
    assert sim.state.host_power_state.tolist() == [2, 0]
    sim.step()
    assert sim.refusals == []


def test_time_does_not_stand_still_nor_run_for_ever(make_sim: Any) -> None:
    sim = make_sim([[0.5]], horizon_s=1000.0)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="duration_s"):
            sim.advance(bad)
    for horizon in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="horizon_s"):
            make_sim([[0.5]], horizon_s=horizon)
    sim.run()
    assert sim.done
    assert sim.time_s == 1000.0
    before = sim.digest()
    sim.step()
    assert sim.digest() == before


@pytest.mark.parametrize("interval", [0.1, 0.7, 33.3, 299.99999])
def test_odd_intervals_do_not_lose_time(make_sim: Any, interval: float) -> None:
    demand = np.linspace(0.0, 1.0, 4)[:, None]
    sim = make_sim(demand, 1, horizon_s=60.0, interval_s=interval, load={"sample_s": 0.3})
    run = sim.fork()
    run.run()
    while not sim.done:
        sim.step()
        count = sim.time_s / interval
        assert sim.done or sim.time_s == round(count) * interval
    assert sim.digest() == run.digest()
    # 100 W + 50 W * (1/3, 2/3, 1) for one sample each, then the last one for ever
    want = 100.0 * 60 + 50.0 * (0.3 * (0 + 1 / 3 + 2 / 3) + 59.1)
    assert sim.state.host_energy_j[0] == pytest.approx(want, rel=1e-9)
