"""Memory multiplexing (docs §4): closed forms, properties, the kernels against a plain twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.models.memory import (
    MEMORY_STATES,
    MemoryConfig,
    MemoryCosts,
    MemoryInputs,
    MemoryOutputs,
    MemoryProfile,
    memory_inputs,
    memory_outputs,
    min_free_mib,
    touch_rates,
)
from virtgym.envs.sim.models.memory_tiers import memory_scratch, reclaim_host

SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=150)
CONFIG = MemoryConfig()
GIB = 1024.0
AMOUNTS = ("vm_shared_mib", "vm_ballooned_mib", "vm_compressed_mib", "vm_swapped_mib", "vm_blocked_mib")
Case = tuple[MemoryInputs, float, float, MemoryConfig]


def inputs(touched: Any, **columns: Any) -> MemoryInputs:
    """VMs that have touched all they have, a quarter of it active; no reservations, nothing to share."""
    n = len(touched)
    t = np.asarray(touched, dtype=np.float64)
    values = {
        "vm_mem_mib": t,
        "vm_touched_mib": t,
        "vm_active_mib": t / 4,
        "vm_mem_reservation_mib": 0.0,
        "vm_mem_shares": 1000.0,
        "vm_zero_share": 0.0,
        "vm_dup_share": 0.0,
        "vm_domain": -1,
        "vm_balloon_driver": 1,
        "vm_touch_rate": 0.0,
    } | columns
    kinds = {"vm_domain": np.int32, "vm_balloon_driver": np.int8}
    arrays = {
        key: np.broadcast_to(np.asarray(value, kinds.get(key, np.float64)), n).copy()
        for key, value in values.items()
    }
    return MemoryInputs(**arrays)


def handles(p: MemoryInputs, s: MemoryOutputs) -> tuple[Any, Any]:
    return make_handle("memory inputs", p, readonly=True), make_handle("memory outputs", s)


def run(
    p: MemoryInputs, memory: float, other: float = 0.0, config: MemoryConfig = CONFIG
) -> tuple[MemoryOutputs, float, str]:
    """One host that holds all VMs: amounts, free memory, state; through handles, as the engine calls it."""
    n = p.vm_mem_mib.shape[0]
    s, vms = memory_outputs(1, n), np.arange(n, dtype=np.int32)
    free, state = reclaim_host(vms, memory, other, config.costs, *handles(p, s), memory_scratch(n))
    return s, float(free), MEMORY_STATES[state]


def random_case(seed: int) -> Case:
    """VMs of every kind on a host from ample to hopeless."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    mem = rng.uniform(256, 16_384, n)
    touched = mem * rng.uniform(0, 1, n) * (rng.random(n) < 0.95)
    zero = rng.uniform(0, 0.3, n)
    p = inputs(
        touched,
        vm_mem_mib=mem,
        vm_active_mib=touched * rng.choice([0.0, 0.1, 0.5, 1.0], n),
        vm_mem_reservation_mib=np.where(rng.random(n) < 0.6, 0.0, rng.uniform(0, 1, n) * mem),
        vm_mem_shares=rng.choice([500.0, 1000.0, 2000.0], n) * np.ceil(mem / 1024),
        vm_zero_share=zero,
        vm_dup_share=rng.uniform(0, 0.4, n),
        vm_domain=rng.integers(-1, 3, n),
        vm_balloon_driver=rng.random(n) < 0.8,
        vm_touch_rate=rng.uniform(0, 5000, n),
    )
    config = MemoryConfig(
        sharing=bool(rng.random() < 0.8),
        ballooning=bool(rng.random() < 0.8),
        compression=bool(rng.random() < 0.8),
        idle_tax=float(rng.choice([0.0, 0.5, 0.75])),
        swap_device="disk" if rng.random() < 0.3 else "ssd",
    )
    other = float(rng.choice([0.0, 300.0]))
    memory = float(touched.sum() * rng.uniform(0.3, 1.3)) + other + 64.0
    return p, memory, other, config


def plain_take(
    held: list[float], floor: list[float], active: list[float], shares: list[float], k: float, need: float
) -> list[float]:
    """Lower all to one price, found by bisection; what each has left."""
    if sum(held) - sum(floor) <= need:
        return list(floor)

    def left(level: float) -> list[float]:
        answer = []
        for h, f, a, w in zip(held, floor, active, shares):
            x = level * w
            x = a + (x - a) / k if x > a else x
            answer.append(min(max(x, f), h))
        return answer

    low, high = 0.0, max((a + k * max(0.0, h - a)) / w for h, a, w in zip(held, active, shares)) + 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sum(left(middle)) < sum(held) - need else (low, middle)
    return left(high)


def plain_share(p: MemoryInputs, need: float) -> list[float]:
    """Zero pages and duplicates by domain, with dictionaries."""
    copies: dict[int, list[float]] = {}
    for t, dup, domain in zip(p.vm_touched_mib, p.vm_dup_share, p.vm_domain):
        copies.setdefault(int(domain), []).append(float(t * dup))
    can = []
    for i, domain in enumerate(p.vm_domain.tolist()):
        group = copies[domain]
        gain = 1 - max(group) / sum(group) if domain >= 0 and sum(group) > 0 else 0.0
        touched = float(p.vm_touched_mib[i])
        saved = p.vm_zero_share[i] * touched + p.vm_dup_share[i] * touched * gain
        can.append(min(float(saved), touched - min(touched, float(p.vm_mem_reservation_mib[i]))))
    return [x * min(1.0, need / sum(can)) if sum(can) > 0 else 0.0 for x in can]


def plain_reclaim(case: Case) -> dict[str, list[float]]:
    """The twin: tier after tier on lists."""
    p, memory, other, config = case
    touched, mem = p.vm_touched_mib.tolist(), p.vm_mem_mib.tolist()
    reserved = [min(r, t) for r, t in zip(p.vm_mem_reservation_mib.tolist(), touched)]
    shares, k, m = p.vm_mem_shares.tolist(), 1 / (1 - config.idle_tax), min_free_mib(memory)
    n = len(touched)
    out: dict[str, list[float]] = {name: [0.0] * n for name in AMOUNTS}
    free = memory - other - sum(touched)
    if free < m and config.sharing:
        out["vm_shared_mib"] = plain_share(p, m - free)
        free += sum(out["vm_shared_mib"])
    held = [t - x for t, x in zip(touched, out["vm_shared_mib"])]
    limits: dict[str, Callable[[int], float]] = {
        "vm_ballooned_mib": lambda i: 0.65 * mem[i] * p.vm_balloon_driver[i] if config.ballooning else 0.0,
        "vm_compressed_mib": lambda i: min(0.1 * mem[i], held[i] / 2) if config.compression else 0.0,
        "vm_swapped_mib": lambda i: math.inf,
    }
    for name, limit in limits.items():
        goal = (0.64 if name == "vm_ballooned_mib" else 0.32) * m
        if free >= goal - 1e-9:
            break
        floor = [min(held[i], max(reserved[i], held[i] - limit(i))) for i in range(n)]
        active = [min(a, h) for a, h in zip(p.vm_active_mib.tolist(), held)]
        left = plain_take(held, floor, active, shares, k, goal - free)
        out[name] = [a - b for a, b in zip(held, left)]
        free += sum(out[name])
        held = left
    if free < 0 and sum(held) > 0:
        out["vm_blocked_mib"] = [h * min(1.0, -free / sum(held)) for h in held]
    return out


def plain_slowdown(p: MemoryInputs, i: int, x: dict[str, float], c: MemoryCosts) -> float:
    t, a = float(p.vm_touched_mib[i]), float(p.vm_active_mib[i])
    if t == 0:
        return 1.0
    own = t - x["vm_shared_mib"]
    given = own - x["vm_ballooned_mib"]
    seconds = x["vm_shared_mib"] / t * c.memory_share_s + x["vm_blocked_mib"] / t * c.memory_swap_s
    tax = 0.0
    if x["vm_ballooned_mib"] > 1e-9:
        share = x["vm_ballooned_mib"] / p.vm_mem_mib[i]
        tax = 0.112 * share if share < 0.125 else 0.014 + 0.08 * (share - 0.125)
        a = min(a, own)
        seconds += max(0.0, a - given) / a * c.memory_swap_s if a > 0 else 0.0
    if given > 0:
        pages = min(2 * x["vm_compressed_mib"], given - x["vm_swapped_mib"])
        seconds += pages / given * c.memory_decompress_s + x["vm_swapped_mib"] / given * c.memory_swap_s
    return float(1 + p.vm_touch_rate[i] * seconds + tax)


def test_min_free() -> None:
    assert min_free_mib(28 * GIB) == pytest.approx(899.0, rel=1e-14)
    assert min_free_mib(100 * GIB) == pytest.approx(899 + 0.01 * 72 * GIB, rel=1e-14)
    assert min_free_mib(4 * GIB) == pytest.approx(0.06 * 4 * GIB * 899 / 901.12, rel=1e-12)
    assert min_free_mib(0.0) == 0.0


def test_states_by_free_memory() -> None:
    m = min_free_mib(32 * GIB)
    none = MemoryConfig(sharing=False, ballooning=False, compression=False)
    for factor, state in ((1.0, "high"), (0.99, "clear"), (0.64, "clear"), (0.63, "soft"), (0.32, "soft")):
        s, free, got = run(inputs([32 * GIB - factor * m]), 32 * GIB, config=none)
        assert (got, s.vm_mem_slowdown[0]) == (state, 1.0)
        assert free == pytest.approx(factor * m)
    s, free, got = run(inputs([32 * GIB - 0.31 * m]), 32 * GIB, config=none)
    assert got == "hard"
    assert s.vm_swapped_mib[0] == pytest.approx(0.01 * m)
    _, free, got = run(inputs([32 * GIB - 0.1 * m], vm_mem_reservation_mib=32 * GIB), 32 * GIB)
    assert got == "low"
    assert free == pytest.approx(0.1 * m)


def test_each_tier_takes_what_the_one_before_could_not() -> None:
    """40 GiB of VMs on 32 GiB, one tier after the other worked by hand."""
    m = min_free_mib(32 * GIB)
    p = inputs([20 * GIB, 20 * GIB], vm_zero_share=0.1, vm_balloon_driver=[1, 0])
    s, free, state = run(p, 32 * GIB)
    assert state == "soft"
    assert s.vm_shared_mib.tolist() == pytest.approx([2 * GIB, 2 * GIB])
    assert s.vm_ballooned_mib.tolist() == pytest.approx([4 * GIB + 0.64 * m, 0.0])
    assert free == pytest.approx(0.64 * m)
    # without drivers: 2 GiB each from compression (10 % of 20), the rest of 4 GiB + 0.32 m is swapped
    s, free, state = run(p._replace(vm_balloon_driver=np.zeros(2, np.int8)), 32 * GIB)
    assert state == "hard"
    assert s.vm_compressed_mib.tolist() == pytest.approx([2 * GIB, 2 * GIB])
    assert s.vm_swapped_mib.tolist() == pytest.approx([0.16 * m, 0.16 * m])
    assert free == pytest.approx(0.32 * m)


def test_duplicates_are_shared_inside_their_domain() -> None:
    # domain 0 holds 3, 2 and 1 GiB of duplicates: one copy of 3 stays, each saves half of its own
    p = inputs(
        [12 * GIB, 8 * GIB, 4 * GIB, 7.5 * GIB],
        vm_dup_share=0.25,
        vm_domain=[0, 0, 0, 1],
        vm_balloon_driver=0,
    )
    s, _, _ = run(p, 29 * GIB)
    assert s.vm_shared_mib.tolist() == pytest.approx([1.5 * GIB, 1 * GIB, 0.5 * GIB, 0.0])


def test_idle_memory_pays_first() -> None:
    # equal shares: A = 4, all active; B = 4, all idle, taxed four times: B pays until 4 (P - 0) = 4, P = 1
    m = min_free_mib(6 * GIB)
    p = inputs([4 * GIB, 4 * GIB], vm_active_mib=[4 * GIB, 0.0])
    s, _, _ = run(p, 6 * GIB)
    assert s.vm_ballooned_mib.tolist() == pytest.approx([0.0, 2 * GIB + 0.64 * m])
    # both idle, shares 1 : 2: prices 4 * P / S meet where P is 1 : 2
    p = inputs([4 * GIB, 4 * GIB], vm_active_mib=0.0, vm_mem_shares=[1.0, 2.0])
    s, _, _ = run(p, 5.5 * GIB)
    left = 4 * GIB - s.vm_ballooned_mib
    assert left[1] == pytest.approx(2 * left[0])


def test_the_price_is_waldspurgers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = inputs(rng.uniform(1000, 9000, 6), vm_active_mib=rng.uniform(0, 1000, 6))
        p = p._replace(vm_mem_shares=rng.uniform(100, 5000, 6))
        s, _, _ = run(p, float(p.vm_touched_mib.sum()) * 0.9)
        left = p.vm_touched_mib - s.vm_ballooned_mib
        f = np.minimum(1.0, p.vm_active_mib / left)
        value = p.vm_mem_shares / (left * (f + 4 * (1 - f)))  # shares per page
        free_to_pay = (s.vm_ballooned_mib > 1e-6) & (s.vm_ballooned_mib < 0.65 * p.vm_mem_mib - 1e-6)
        if free_to_pay.any():
            common = value[free_to_pay]
            assert common == pytest.approx(common[0], rel=1e-9)
            assert (value[s.vm_ballooned_mib <= 1e-6] >= common[0] * (1 - 1e-9)).all()


def test_slowdown_by_hand() -> None:
    # a quarter of 16 GiB active, touched once a minute: 2**20 / 60 pages a second
    rate = touch_rates(np.array([4 * GIB]), CONFIG.active_window_s)
    assert rate[0] == pytest.approx(2**20 / 60)
    p = inputs([16 * GIB], vm_touch_rate=rate, vm_balloon_driver=0)
    m = min_free_mib(14 * GIB)
    swapped = 2 * GIB + 0.32 * m - 1.6 * GIB
    for device, cost in (("ssd", 100e-6), ("disk", 7.5e-3)):
        s, _, _ = run(p, 14 * GIB, config=MemoryConfig(swap_device=device))
        assert s.vm_swapped_mib[0] == pytest.approx(swapped)
        want = 1 + rate[0] * (3.2 / 16 * 20e-6 + swapped / (16 * GIB) * cost)
        assert s.vm_mem_slowdown[0] == pytest.approx(want, rel=1e-12)
    p = inputs([16 * GIB], vm_active_mib=[12 * GIB], vm_touch_rate=rate)
    s, _, _ = run(p, 10 * GIB)  # the balloon takes active pages: the guest pages
    balloon = 6 * GIB + 0.64 * min_free_mib(10 * GIB)
    guest = (12 * GIB - (16 * GIB - balloon)) / (12 * GIB)
    tax = 0.014 + 0.030 * (balloon / (16 * GIB) - 0.125) / 0.375
    assert s.vm_mem_slowdown[0] == pytest.approx(1 + rate[0] * guest * 100e-6 + tax, rel=1e-12)


def test_profiles_become_columns() -> None:
    kinds = [
        MemoryProfile(reservation_mib=512.0, shares="high", domain="debian"),
        MemoryProfile(0.5, 0.1, 0.02, 0.2, domain="alpine", balloon_driver=False, shares=3.0),
        MemoryProfile(),
    ]
    mem = np.array([2048.0, 1000.0, 1024.0, 1024.0])
    p = memory_inputs(kinds, np.array([0, 1, 2, 0], np.int32), mem, CONFIG)
    assert p.vm_touched_mib.tolist() == [2048.0, 500.0, 1024.0, 1024.0]
    assert p.vm_active_mib.tolist() == [512.0, 100.0, 256.0, 256.0]
    assert p.vm_mem_reservation_mib.tolist() == [512.0, 0.0, 0.0, 512.0]
    assert p.vm_mem_shares.tolist() == [40_960.0, 3000.0, 10_240.0, 20_480.0]
    assert p.vm_domain.tolist() == [1, 0, -1, 1]
    assert p.vm_balloon_driver.tolist() == [1, 0, 1, 1]
    assert p.vm_touch_rate.tolist() == pytest.approx([512 * 256 / 60, 100 * 256 / 60] + [256 * 256 / 60] * 2)
    with pytest.raises(ConfigError, match="reservation_mib=512"):
        memory_inputs(kinds, np.zeros(1, np.int32), np.array([256.0]), CONFIG)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"active_share": 0.6, "touched_share": 0.5}, "active_share"),
        ({"zero_share": 0.6, "dup_share": 0.5}, "zero_share"),
        ({"touched_share": 1.2}, "touched_share"),
        ({"shares": "top"}, "low, normal, high"),
        ({"shares": 0.0}, "shares"),
        ({"reservation_mib": -1.0}, "reservation_mib"),
    ],
)
def test_impossible_profiles_name_the_key(options: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        MemoryProfile(**options)


def test_reservations_beyond_the_host_block_memory() -> None:
    s, free, state = run(inputs([20 * GIB, 20 * GIB], vm_mem_reservation_mib=20 * GIB), 32 * GIB)
    assert state == "low"
    assert free == pytest.approx(0.0, abs=1e-6)
    assert s.vm_blocked_mib.tolist() == pytest.approx([4 * GIB, 4 * GIB])
    assert s.vm_resident_mib.sum() == pytest.approx(32 * GIB)


def test_an_empty_host() -> None:
    outputs, scratch = memory_outputs(1, 0), memory_scratch(0)
    none = np.empty(0, np.int32)
    for other, state in ((0.0, "high"), (31.5 * GIB, "soft"), (32 * GIB, "low")):
        free, code = reclaim_host(none, 32 * GIB, other, CONFIG.costs, inputs([]), outputs, scratch)
        assert (free, MEMORY_STATES[code]) == (32 * GIB - other, state)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"soft": 0.2}, "soft"),
        ({"low": -0.1}, "low"),
        ({"idle_tax": 1.0}, "idle_tax"),
        ({"balloon_limit": 1.1}, "balloon_limit"),
        ({"compression_ratio": 1.0}, "compression_ratio"),
        ({"swap_device": "tape"}, "ssd, disk"),
        ({"balloon_cpu_max": 0.01}, "balloon_cpu_max"),
        ({"decompress_us": -1.0}, "decompress_us"),
        ({"active_window_s": 0.0}, "active_window_s"),
    ],
)
def test_impossible_values_name_the_key(options: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        MemoryConfig(**options)


def test_the_kernels_equal_the_twin() -> None:
    seen = dict.fromkeys((*MEMORY_STATES, *AMOUNTS), 0)
    for seed in range(1500):
        p, memory, other, config = case = random_case(seed)
        s, _, state = run(p, memory, other, config)
        want = plain_reclaim(case)
        seen[state] += 1
        tiny = 1e-9 * memory
        for name in AMOUNTS:
            assert np.abs(getattr(s, name) - want[name]).max() <= tiny, (seed, name)
            seen[name] += max(want[name]) > 1.0
        for i in range(len(want[AMOUNTS[0]])):
            amounts = {name: float(getattr(s, name)[i]) for name in AMOUNTS}
            slow = plain_slowdown(p, i, amounts, config.costs)
            assert s.vm_mem_slowdown[i] == pytest.approx(slow, rel=1e-9), seed
    assert min(seen.values()) > 40, seen  # every state and every tier was meant


@given(seed=SEEDS)
@MANY
def test_a_host_looks_at_its_own_vms_only(seed: int) -> None:
    """Those of other hosts neither change anything nor are changed."""
    p, memory, other, config = random_case(seed)
    n = p.vm_mem_mib.shape[0]
    vms = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.5).astype(np.int32)
    among, alone = memory_outputs(1, n), memory_outputs(1, len(vms))
    scratch = memory_scratch(n)
    first = reclaim_host(vms, memory, other, config.costs, *handles(p, among), scratch)
    own = MemoryInputs(**{name: column[vms] for name, column in p._asdict().items()})
    every = np.arange(len(vms), dtype=np.int32)
    assert first == reclaim_host(every, memory, other, config.costs, *handles(own, alone), scratch)
    rest = np.setdiff1d(np.arange(n), vms)
    for name in MemoryOutputs._fields[:7]:
        assert getattr(among, name)[vms].tolist() == getattr(alone, name).tolist(), name
        assert (getattr(among, name)[rest] == float(name == "vm_mem_slowdown")).all()


@given(seed=SEEDS)
@MANY
def test_conservation_reservations_and_limits(seed: int) -> None:
    p, memory, other, config = random_case(seed)
    s, free, state = run(p, memory, other, config)
    tiny = 1e-9 * memory
    parts = s.vm_resident_mib + sum(getattr(s, name) for name in AMOUNTS)
    assert np.abs(parts - p.vm_touched_mib).max() <= tiny
    assert all((getattr(s, name) >= 0).all() for name in AMOUNTS)
    # physical = resident + others + free
    assert s.vm_resident_mib.sum() + other + free == pytest.approx(memory, rel=1e-9)
    assert free >= -tiny
    # nothing is reclaimed below a reservation
    kept = s.vm_resident_mib + s.vm_blocked_mib
    assert (kept >= np.minimum(p.vm_mem_reservation_mib, p.vm_touched_mib) - tiny).all()
    if np.minimum(p.vm_mem_reservation_mib, p.vm_touched_mib).sum() <= memory - other:
        assert s.vm_blocked_mib.max() <= tiny
    assert (s.vm_ballooned_mib <= 0.65 * p.vm_mem_mib * p.vm_balloon_driver + tiny).all()
    assert (s.vm_compressed_mib <= 0.10 * p.vm_mem_mib + tiny).all()
    assert (s.vm_mem_slowdown >= 1).all()
    # no pressure, no cost
    if memory - other - p.vm_touched_mib.sum() >= min_free_mib(memory):
        assert state == "high"
        assert (s.vm_mem_slowdown == 1.0).all()
        assert (s.vm_resident_mib == p.vm_touched_mib).all()


@given(seed=SEEDS)
@MANY
def test_tiers_act_in_order(seed: int) -> None:
    """A tier acts only where the one before has given all it can."""
    p, memory, other, config = random_case(seed)
    s, free, state = run(p, memory, other, config)
    tiny, m = 1e-6 * memory, min_free_mib(memory)
    reserved = np.minimum(p.vm_mem_reservation_mib, p.vm_touched_mib)
    if s.vm_swapped_mib.max() > tiny and config.compression:
        before = s.vm_resident_mib + s.vm_blocked_mib + s.vm_swapped_mib + s.vm_compressed_mib
        most = np.minimum(np.minimum(0.1 * p.vm_mem_mib, before / 2), before - np.minimum(reserved, before))
        assert s.vm_compressed_mib == pytest.approx(most, abs=tiny)
    if max(s.vm_swapped_mib.max(), s.vm_compressed_mib.max()) > tiny and config.ballooning:
        own = p.vm_touched_mib - s.vm_shared_mib
        most = np.minimum(0.65 * p.vm_mem_mib * p.vm_balloon_driver, own - np.minimum(reserved, own))
        assert s.vm_ballooned_mib == pytest.approx(most, abs=tiny)
    if s.vm_ballooned_mib.max() > tiny and config.sharing:
        assert s.vm_shared_mib == pytest.approx(np.array(plain_share(p, math.inf)), abs=tiny)
    if state == "hard":
        assert free == pytest.approx(0.32 * m, abs=tiny) or 0.16 * m - tiny <= free <= 0.32 * m + tiny
    if state == "low":
        assert free < 0.16 * m


@given(seed=SEEDS, more=st.floats(1.0, 1.5))
@MANY
def test_more_memory_never_means_more_reclaimed(seed: int, more: float) -> None:
    p, memory, other, config = random_case(seed)
    small, _, _ = run(p, memory, other, config)
    large, _, _ = run(p, memory * more, other, config)
    taken = p.vm_touched_mib.sum() - small.vm_resident_mib.sum()
    assert p.vm_touched_mib.sum() - large.vm_resident_mib.sum() <= taken + 1e-6 * memory


@given(seed=SEEDS)
@MANY
def test_amounts_are_continuous_in_the_load(seed: int) -> None:
    p, memory, other, config = random_case(seed)
    near, _, _ = run(p, memory + 1e-4, other, config)
    here, _, _ = run(p, memory, other, config)
    for name in AMOUNTS:
        assert np.abs(getattr(near, name) - getattr(here, name)).max() <= 1e-3, name


@given(seed=SEEDS, factor=st.floats(1.1, 20.0))
@MANY
def test_more_shares_never_mean_paying_more(seed: int, factor: float) -> None:
    p, memory, other, config = random_case(seed)
    v = seed % p.vm_mem_shares.shape[0]
    shares = p.vm_mem_shares.copy()
    shares[v] *= factor
    before, _, _ = run(p, memory, other, config)
    after, _, _ = run(p._replace(vm_mem_shares=shares), memory, other, config)
    assert after.vm_ballooned_mib[v] <= before.vm_ballooned_mib[v] + 1e-6 * memory
