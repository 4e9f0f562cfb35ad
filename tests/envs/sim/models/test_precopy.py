"""Live migration: the worked case, the geometric sum, each way out of divergence, the machine of events."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.precopy import (
    CRASHED,
    DIVERGENCE_RULES,
    DONE,
    IDLE,
    MBIT_PER_MIB,
    MOVED,
    PAUSED,
    PULL,
    ROUND,
    STAYS,
    STOP,
    PrecopyConfig,
    PrecopyState,
    abort_copy,
    advance_copy,
    begin_copy,
    cpu_factor,
    finish_phase,
    migration_energy_j,
    migration_slots,
    next_event,
    plan_precopy,
    precopy_params,
)

Make = Callable[..., Any]
MANY = settings(max_examples=200)


def idle_state() -> PrecopyState:
    """One VM without a migration."""
    small = (np.zeros(1, dtype=np.int8), np.zeros(1, dtype=np.int8), np.zeros(1, dtype=np.int32))
    return PrecopyState(*small, *(np.zeros(1) for _ in range(8)))


def plan(config: PrecopyConfig, memory: float, working: float, rate: float, dirty: float) -> dict[str, Any]:
    total_s, down_s, data_mib = (np.empty(1) for _ in range(3))
    rounds, diverged = np.empty(1, dtype=np.int32), np.empty(1, dtype=np.int8)
    m, w, r, d = (np.array([float(x)]) for x in (memory, working, rate, dirty))
    plan_precopy(precopy_params(config), m, w, r, d, total_s, down_s, data_mib, rounds, diverged)
    total, down, data = (float(x[0]) for x in (total_s, down_s, data_mib))
    return {
        "total": total,
        "down": down,
        "data": data,
        "rounds": int(rounds[0]),
        "diverged": int(diverged[0]),
    }


def slow_plan(c: PrecopyConfig, memory: float, working: float, rate: float, dirty: float) -> dict[str, Any]:
    """The documented rules, written down again."""
    volumes, throttle, diverged = [memory], 0.0, False
    while True:
        i, volume = len(volumes) - 1, volumes[-1]
        limit = i == c.max_rounds
        if c.on_divergence != "auto_converge":
            limit |= math.fsum(volumes[:-1]) > c.max_sent * memory
        grows = i > 0 and volume >= volumes[-2] * (1 - 1e-12)
        if volume <= c.threshold_mib:
            break
        diverged |= grows
        if limit or (grows and c.on_divergence == "post_copy"):
            break
        if diverged and c.on_divergence == "auto_converge":
            throttle = min(c.throttle_max, throttle + c.throttle_step) if throttle else c.throttle_start
        volumes.append(min(dirty * (1 - throttle) * volume / rate, working, memory))
    data, down = math.fsum(volumes), volumes[-1]
    if c.on_divergence == "post_copy" and volumes[-1] > c.threshold_mib:
        data, down = data + c.cpu_state_mib, c.cpu_state_mib
    return {
        "total": c.init_s + data / rate + c.resume_s,
        "down": down / rate + c.resume_s,
        "data": data,
        "rounds": len(volumes) - 1,
        "diverged": int(diverged),
    }


def play(
    config: PrecopyConfig, memory: float, working: float, rate: Any, dirty: Any, cut_s: float = math.inf
) -> dict[str, Any]:
    """Run the machine; ``rate`` and ``dirty`` are functions of time, constant between multiples of cut_s."""
    p, s = precopy_params(config), idle_state()
    begin_copy(p, s, 0)
    now, down_from, events = 0.0, math.inf, []
    for _ in range(100_000):
        r, d = float(rate(now)), float(dirty(now))
        wait = float(next_event(s, 0, r))
        edge = (math.floor(now / cut_s + 1e-9) + 1) * cut_s if cut_s < math.inf else math.inf
        dt = min(wait, edge - now)
        advance_copy(s, 0, r, d, dt)
        now += dt
        if wait > dt:
            continue
        code = finish_phase(p, s, 0, memory, working)
        if code:
            events.append(code)
        if code == PAUSED:
            down_from = now
        if code == DONE:
            break
    assert down_from < math.inf
    return {
        "total": now,
        "down": float(s.copy_down_s[0]),
        "data": float(s.copy_sent_mib[0]),
        "rounds": int(s.copy_round[0]),
        "diverged": int(s.copy_diverged[0]),
        "events": events,
    }


def random_case(rng: np.random.Generator) -> tuple[PrecopyConfig, float, float, float, float]:
    config = PrecopyConfig(
        on_divergence=DIVERGENCE_RULES[int(rng.integers(3))],
        max_rounds=int(rng.choice([0, 1, 5, 29])),
        max_sent=float(rng.choice([0.5, 3.0, 10.0])),
    )
    memory = float(rng.choice([0.1, 64, 1024, 51200]))
    working = float(rng.choice([np.inf, 0.0, memory / 3, memory * 2]))
    rate = float(rng.uniform(1, 200))
    return config, memory, working, rate, float(rate * rng.choice([0, 0.1, 0.5, 0.97, 1.0, 1.4, 3.0]))


def test_the_worked_case() -> None:
    # 50 GiB, dirtied at 200 Mbit/s, copied at 800 Mbit/s: lambda = 1/4 (docs §6).
    memory, rate, dirty = 50 * 1024.0, 800 / MBIT_PER_MIB, 200 / MBIT_PER_MIB
    result = plan(PrecopyConfig(init_s=2.0, resume_s=0.1, threshold_mib=0.2), memory, np.inf, rate, dirty)
    n = 9  # 51,200 / 4^9 = 0.195 MiB, 50 pages
    data = memory * (1 - 0.25 ** (n + 1)) / (1 - 0.25)
    assert result["rounds"] == n
    assert result["diverged"] == 0
    assert result["data"] == pytest.approx(data, rel=1e-12)
    assert result["down"] == pytest.approx(memory * 0.25**n / rate + 0.1, rel=1e-12)
    assert result["total"] == pytest.approx(2.0 + data / rate + 0.1, rel=1e-12)
    assert result["total"] == pytest.approx(717.927, abs=0.001)


def test_the_working_set_caps_every_round() -> None:
    result = plan(PrecopyConfig(threshold_mib=10), 1000, 100, 50, 40)
    # 1000, min(800, 100) = 100, 80, 64, ... 0.8^k * 100 <= 10 at k = 11
    assert result["rounds"] == 12
    assert result["data"] == pytest.approx(1000 + 100 * (1 - 0.8**12) / 0.2, rel=1e-12)


def test_the_limits_stop_what_does_not_converge() -> None:
    result = plan(PrecopyConfig(), 1000, np.inf, 100, 200)
    # Rounds of 1,000 until more than 3,000 are sent: four, and the fifth while stopped.
    assert result == pytest.approx(
        {"total": 51.05, "down": 10.05, "data": 5000, "rounds": 4, "diverged": 1}, rel=1e-12
    )
    # Slowly dirtied but for a small working set: the 29 rounds bind.
    result = plan(PrecopyConfig(), 1000, 10, 100, 200)
    assert (result["rounds"], result["down"]) == (29, pytest.approx(0.15, rel=1e-12))


def test_auto_converge_throttles_until_it_converges() -> None:
    stop = plan(PrecopyConfig(), 1000, np.inf, 100, 150)
    slower = plan(PrecopyConfig(on_divergence="auto_converge"), 1000, np.inf, 100, 150)
    # 1000 | 1500 -> 1000, throttle .2: 1200 -> 1000, .3: 1050 -> 1000, .4: 900, .5: 675, .6: 405, .7: 182.25,
    # .8: 54.675, .9: 8.20, .99: .123
    assert slower["rounds"] == 10
    assert slower["down"] == pytest.approx(0.05 + 8.20125 * 1.5 * 0.01 / 100, rel=1e-9)
    assert slower["down"] < 0.01 * stop["down"]


def test_post_copy_is_stopped_for_its_cpu_state_only() -> None:
    config = PrecopyConfig(on_divergence="post_copy")
    result = plan(config, 1000, np.inf, 100, 200)
    assert result["down"] == pytest.approx(1 / 100 + 0.05, rel=1e-12)
    assert result["data"] == pytest.approx(1000 + 1 + 1000, rel=1e-12)
    run = play(config, 1000, np.inf, lambda _: 100, lambda _: 200)
    assert run["events"] == [PAUSED, MOVED, DONE]


def test_the_closed_form_equals_its_twin() -> None:
    rng = np.random.default_rng(3)
    for _ in range(1500):
        case = random_case(rng)
        assert plan(*case) == pytest.approx(slow_plan(*case), rel=1e-9), case


def test_the_machine_equals_the_closed_form() -> None:
    rng = np.random.default_rng(4)
    for _ in range(400):
        config, memory, working, rate, dirty = random_case(rng)
        want = plan(config, memory, working, rate, dirty)
        got = play(config, memory, working, lambda _, r=rate: r, lambda _, d=dirty: d)
        del got["events"]
        assert got == pytest.approx(want, rel=1e-9), (config, memory, working, rate, dirty)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_how_often_one_looks_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates, dirts = rng.uniform(5, 100, 50), rng.uniform(0, 60, 50)

    def at(values: Any) -> Any:
        return lambda t: values[min(49, int(t / 8 + 1e-9))]

    config = PrecopyConfig(on_divergence=DIVERGENCE_RULES[seed % 3])
    once = play(config, 1024, 300, at(rates), at(dirts), 8.0)
    often = play(config, 1024, 300, at(rates), at(dirts), 1.0)
    assert once.pop("events") == often.pop("events")
    assert once == pytest.approx(often, rel=1e-9)


@given(st.floats(1, 1e5), st.floats(1, 2000), st.floats(0, 0.95), st.floats(1.0, 2.0))
@MANY
def test_more_bandwidth_never_hurts_and_data_is_bounded(
    memory: float, rate: float, share: float, factor: float
) -> None:
    config = PrecopyConfig()
    slow_link = plan(config, memory, np.inf, rate, rate * share)
    fast_link = plan(config, memory, np.inf, rate * factor, rate * share)
    assert fast_link["total"] <= slow_link["total"] * (1 + 1e-9)
    assert memory <= slow_link["data"] <= (config.max_sent + 2) * memory * (1 + 1e-12)
    assert slow_link["down"] >= config.resume_s


def test_cpu_and_abort_in_every_phase() -> None:
    config = PrecopyConfig(on_divergence="post_copy", cpu_loss=0.1, postcopy_loss=0.25)
    p, s = precopy_params(config), idle_state()
    assert cpu_factor(p, s, 0) == 1.0
    factors = []
    begin_copy(p, s, 0)
    while s.copy_phase[0] != IDLE:
        factors.append((int(s.copy_phase[0]), float(cpu_factor(p, s, 0))))
        s.copy_dirty_mib[0] = 1e9
        finish_phase(p, s, 0, 1000.0, np.inf)
    assert [f for _, f in factors] == [0.9, 0.9, 0.0, 0.0, 0.75]
    for steps, phase, source, want in (
        (1, ROUND, False, STAYS),
        (1, ROUND, True, CRASHED),
        (2, STOP, False, STAYS),
        (4, PULL, False, CRASHED),
    ):
        begin_copy(p, s, 0)
        for _ in range(steps):
            s.copy_dirty_mib[0] = 1e9
            finish_phase(p, s, 0, 1000.0, np.inf)
        assert s.copy_phase[0] == phase
        assert abort_copy(s, 0, source) == want
        assert all(not np.any(array) for array in s)


def test_a_copy_without_bandwidth_waits() -> None:
    config = PrecopyConfig()
    assert plan(config, 100, np.inf, 0.0, 1.0)["total"] == np.inf
    p, s = precopy_params(config), idle_state()
    begin_copy(p, s, 0)
    finish_phase(p, s, 0, 100.0, np.inf)
    assert next_event(s, 0, 0.0) == np.inf


def test_two_migrations_share_a_nic_until_one_is_done(make_sim: Make, host_type: HostType) -> None:
    """500 and 1,000 MiB leave one host at 100 MiB/s: 50 each for 10 s, then 60, as its end allows."""
    kinds = tuple(
        replace(host_type, name=f"{rate}", cores=4, nic_mbps=rate * MBIT_PER_MIB)
        for rate in (100.0, 1000.0, 60.0)
    )
    sim = make_sim(
        [0.1, 0.1],
        n_hosts=3,
        load={"mem_mib": [500.0, 1000.0], "profiles": (GuestProfile(dirty_mib_s=(0.0, 0.0)),)},
        host_types=kinds,
        host_type_of=np.arange(3, dtype=np.int32),
        migration=PrecopyConfig(init_s=0.0, resume_s=0.0),
    )
    vms = np.arange(2, dtype=np.int32)
    assert not sim.apply(Decisions(move_vm=vms, move_host=vms + 1))
    sim.advance(1.0)
    assert sim.state.vm_mig_end_s == pytest.approx([10.0, 20.0], rel=1e-12)
    sim.advance(9.0 + 1e-6)
    assert sim.state.vm_host.tolist() == [1, 0]
    # Alone the second is bound by its destination's 60 MiB/s: 500 / 60 s more.
    assert sim.state.vm_mig_end_s[1] == pytest.approx(10.0 + 500 / 60, rel=1e-12)
    sim.advance(500 / 60)
    assert sim.state.vm_host.tolist() == [1, 2]
    assert sim.state.totals.mig_mib == pytest.approx(1500.0, rel=1e-12)


def test_slots_by_hand() -> None:
    nics = np.array([100.0, 9999.0, 10_000.0, 25_000.0])
    assert migration_slots(PrecopyConfig(), nics).tolist() == [4, 4, 8, 8]
    assert migration_slots(PrecopyConfig(slots_1g=1, slots_10g=3), nics).tolist() == [1, 1, 3, 3]


def test_energy_by_hand() -> None:
    assert migration_energy_j(PrecopyConfig(), np.array([0.0, 1e6 / 2**20])) == pytest.approx([20.2, 20.712])


def test_bad_values_name_their_key() -> None:
    for change, text in (
        ({"on_divergence": "pray"}, "migration.on_divergence=pray: must be one of stop, auto_converge"),
        ({"max_rounds": -1}, "migration.max_rounds=-1"),
        ({"cpu_loss": 1.5}, "migration.cpu_loss=1.5: must lie in 0..1"),
        ({"throttle_start": 1.0}, "migration.throttle_start=1.0: must not exceed"),
        ({"max_mbps": 0.0}, "migration.max_mbps=0.0"),
    ):
        with pytest.raises(ConfigError, match=text):
            PrecopyConfig(**change)
