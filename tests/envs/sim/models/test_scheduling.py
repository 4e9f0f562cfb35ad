"""CPU scheduling (docs §2): closed forms, properties, and the kernel against a plain-Python twin."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.waterlevel import sort_breakpoints
from virtgym.envs.sim.models.scheduling import (
    CpuClaims,
    CpuControl,
    CpuGrants,
    SchedulingConfig,
    admits,
    cpu_claims,
    cpu_grants,
    schedule_host,
    scheduling_scratch,
)

SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=150)


def claims(
    demand: Any, reservation: Any = 0.0, limit: Any = math.inf, shares: Any = 1000.0, vcpus: Any = 1
) -> CpuClaims:
    n = len(demand)

    def column(x: Any) -> Any:
        return np.broadcast_to(np.asarray(x, dtype=np.float64), n).copy()

    cpus = np.broadcast_to(np.asarray(vcpus, np.int32), n).copy()
    return CpuClaims(column(demand), column(reservation), column(limit), column(shares), cpus)


def handles(p: CpuClaims, s: CpuGrants) -> tuple[Any, Any]:
    return make_handle("cpu claims", p, readonly=True), make_handle("cpu grants", s)


def run_one(p: CpuClaims, capacity: float, core: float = 1e9, co_stop: float = 0.0) -> CpuGrants:
    """One host that holds all VMs; through handles, as the engine calls it."""
    n = p.vm_claim_mhz.shape[0]
    s, vms = cpu_grants(1, n), np.arange(n, dtype=np.int32)
    s.host_alloc_mhz[0], s.host_wanted_mhz[0] = schedule_host(
        vms, capacity, core, co_stop, *handles(p, s), scheduling_scratch(n)
    )
    return s


def random_claims(seed: int, most: int = 40) -> tuple[CpuClaims, float, float]:
    """VMs of one host with every kind of control, and the capacity and core speed of the host."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, most))
    core = float(rng.integers(500, 3500))
    vcpus = rng.integers(1, 9, n)
    demand = np.where(rng.random(n) < 0.15, 0.0, rng.uniform(0.0, 1.3, n) * vcpus * core)
    limit = np.where(rng.random(n) < 0.6, math.inf, rng.uniform(1.0, vcpus * core))
    reservation = np.where(
        rng.random(n) < 0.5, 0.0, rng.uniform(0.0, 1.0, n) * np.minimum(limit, vcpus * core)
    )
    shares = rng.choice([500.0, 1000.0, 2000.0], n) * vcpus.astype(float)
    if rng.random() < 0.3:
        shares = rng.uniform(0.001, 1000.0, n)
    if rng.random() < 0.3:
        demand, reservation = np.round(demand, -2), np.round(reservation, -2)  # ties
    capacity = float(rng.uniform(0.0, 1.6)) * float(np.minimum(np.minimum(demand, limit), vcpus * core).sum())
    if rng.random() < 0.7:
        capacity = max(capacity, float(np.minimum(reservation, np.minimum(demand, vcpus * core)).sum()))
    return claims(demand, reservation, limit, shares, vcpus), capacity, core


def plain_shares(p: CpuClaims, capacity: float, core: float) -> list[float]:
    """The twin: bisection on the level, one VM at a time."""
    rows = list(zip(*(column.tolist() for column in p), strict=True))
    upper = [min(d, limit, n * core) for d, _, limit, _, n in rows]
    lower = [min(r, u) for (_, r, _, _, _), u in zip(rows, upper)]
    weight = [w for _, _, _, w, _ in rows]
    if sum(upper) <= capacity:
        return upper
    if sum(lower) >= capacity:
        return [low * capacity / sum(lower) if low > 0 else 0.0 for low in lower]

    def at(level: float) -> list[float]:
        return [min(max(level * w, low), up) for w, low, up in zip(weight, lower, upper)]

    below, above = 0.0, max(up / w for up, w in zip(upper, weight))
    for _ in range(200):
        middle = 0.5 * (below + above)
        if sum(at(middle)) < capacity:
            below = middle
        else:
            above = middle
    return at(above)


def test_a_worked_case() -> None:
    # 10 GHz; shares 1:1:2; the first is held up by its reservation, the second held down by its limit
    p = claims([8000.0] * 3, [4000.0, 0.0, 0.0], [math.inf, 1000.0, math.inf], [500.0, 500.0, 1000.0], 4)
    s = run_one(p, 10_000.0, 3000.0)
    assert s.vm_alloc_mhz.tolist() == pytest.approx([4000.0, 1000.0, 5000.0], rel=1e-14)
    assert s.vm_ready_mhz.tolist() == pytest.approx([1000.0, 0.0, 750.0], rel=1e-14)
    assert s.vm_limited_mhz.tolist() == [0.0, 7000.0, 0.0]
    assert s.vm_ready_share.tolist() == pytest.approx([1 / 3, 0.0, 0.25], rel=1e-14)
    assert s.host_alloc_mhz[0] == pytest.approx(10_000.0)
    assert s.host_wanted_mhz[0] == 17_000.0


def test_named_shares_divide_one_to_two_to_four() -> None:
    controls = [CpuControl(shares=name) for name in ("low", "normal", "high")]
    p = cpu_claims(controls, np.arange(3, dtype=np.int32), np.ones(3, np.int32))
    p.vm_claim_mhz[:] = 9000.0
    assert run_one(p, 7000.0).vm_alloc_mhz.tolist() == pytest.approx([1000.0, 2000.0, 4000.0], rel=1e-14)


def test_a_vcpu_never_gets_more_than_a_core() -> None:
    s = run_one(claims([5000.0, 5000.0], vcpus=[1, 2]), 10_000.0, 2000.0)
    assert s.vm_alloc_mhz.tolist() == [2000.0, 4000.0]
    assert s.vm_capped_mhz.tolist() == [3000.0, 1000.0]
    assert s.vm_ready_mhz.tolist() == [0.0, 0.0]


def test_co_stop_by_hand() -> None:
    # asked 16 GHz of 8: x = 0.5; with kappa 0.4 a sibling lags with probability 0.2
    p = claims([4000.0] * 4, vcpus=[1, 2, 4, 4])
    s = run_one(p, 8000.0, 4000.0, 0.4)
    share = s.vm_co_stop_mhz / s.vm_alloc_mhz
    assert share.tolist() == pytest.approx([0.0, 0.2, 1 - 0.8**3, 1 - 0.8**3], rel=1e-12)
    assert run_one(p, 16_000.0, 4000.0, 0.4).vm_co_stop_mhz.tolist() == [0.0] * 4


def test_lost_capacity_scales_reservations() -> None:
    s = run_one(claims([4000.0, 4000.0, 500.0], [3000.0, 1000.0, 0.0]), 2000.0)
    assert s.vm_alloc_mhz.tolist() == pytest.approx([1500.0, 500.0, 0.0], rel=1e-14)
    assert run_one(claims([4000.0, 1.0], [3000.0, 0.0]), 0.0).vm_alloc_mhz.tolist() == [0.0, 0.0]


def test_admission() -> None:
    assert admits(6000.0, 10_000.0, 4000.0)
    assert not admits(6000.0, 10_000.0, 4001.0)


def test_xen_weights_and_caps() -> None:
    control = CpuControl.from_xen(2000.0, 2, weight=512, cap_pct=50)
    assert (control.limit_mhz, control.shares_per_vcpu * 2) == (1000.0, 2000.0)
    assert CpuControl.from_xen(2000.0, 1) == CpuControl(shares=1000.0)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: CpuControl(reservation_mhz=-1.0), "reservation_mhz"),
        (lambda: CpuControl(reservation_mhz=math.nan), "reservation_mhz"),
        (lambda: CpuControl(limit_mhz=0.0), "limit_mhz"),
        (lambda: CpuControl(reservation_mhz=2.0, limit_mhz=1.0), "limit_mhz"),
        (lambda: CpuControl(shares="huge"), "low, normal, high"),
        (lambda: CpuControl(shares=0.0), "shares"),
        (lambda: CpuControl.from_xen(2000.0, 1, cap_pct=-1.0), "cap_pct"),
        (lambda: SchedulingConfig(co_stop=1.5), "co_stop"),
    ],
)
def test_impossible_values_name_the_key(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()


def test_the_kernel_equals_the_twin() -> None:
    short = scarce = 0
    for seed in range(1500):
        p, capacity, core = random_claims(seed)
        s = run_one(p, capacity, core)
        want = plain_shares(p, capacity, core)
        scale = max(capacity, max(want), 1.0)
        assert np.abs(s.vm_alloc_mhz - want).max() <= 1e-10 * scale, seed
        lower = np.minimum(p.vm_reservation_mhz, np.minimum(p.vm_claim_mhz, p.vm_vcpus * core)).sum()
        short += s.host_wanted_mhz[0] > capacity
        scarce += lower > capacity
    assert min(short, scarce, 1500 - short) > 50  # every branch was meant


def exact_shares(p: CpuClaims, capacity: float, core: float) -> list[Fraction]:
    """The same in rational numbers, where nothing is rounded: try every piece between two breakpoints."""
    demand, reservation, weight, vcpus = (
        [Fraction(x) for x in column.tolist()]
        for column in (p.vm_claim_mhz, p.vm_reservation_mhz, p.vm_shares, p.vm_vcpus)
    )
    upper = [min(d, n * Fraction(core)) for d, n in zip(demand, vcpus)]
    lower = [min(r, u) for r, u in zip(reservation, upper)]
    levels = sorted({b / w for low, up, w in zip(lower, upper, weight) for b in (low, up)} | {Fraction(0)})

    def at(level: Fraction) -> list[Fraction]:
        return [min(max(level * w, low), up) for w, low, up in zip(weight, lower, upper)]

    target = Fraction(capacity)
    for a, b in pairwise(levels):
        below, above = sum(at(a)), sum(at(b))
        if below <= target <= above and above > below:
            return at(a + (b - a) * (target - below) / (above - below))
    raise AssertionError("no level")


def test_the_level_is_exact() -> None:
    compared = 0
    for seed in range(150):
        p, capacity, core = random_claims(seed, 20)
        p = p._replace(vm_limit_mhz=np.full_like(p.vm_limit_mhz, np.inf))
        s = run_one(p, capacity, core)
        lower = np.minimum(p.vm_reservation_mhz, np.minimum(p.vm_claim_mhz, p.vm_vcpus * core)).sum()
        if not lower < capacity < s.host_wanted_mhz[0]:
            continue
        want = [float(x) for x in exact_shares(p, capacity, core)]
        assert np.abs(s.vm_alloc_mhz - want).max() <= 1e-13 * capacity, seed
        compared += 1
    assert compared > 40


@given(seed=SEEDS)
@MANY
def test_a_host_looks_at_its_own_vms_only(seed: int) -> None:
    """Those of other hosts neither change anything nor are changed."""
    p, capacity, core = random_claims(seed)
    n = p.vm_claim_mhz.shape[0]
    vms = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.5).astype(np.int32)
    own = CpuClaims(**{name: column[vms] for name, column in p._asdict().items()})
    among, alone = cpu_grants(1, n), run_one(own, capacity, core, 0.1)
    total = schedule_host(vms, capacity, core, 0.1, *handles(p, among), scheduling_scratch(n))
    assert total == (alone.host_alloc_mhz[0], alone.host_wanted_mhz[0])
    rest = np.setdiff1d(np.arange(n), vms)
    for name in CpuGrants._fields[:6]:
        assert getattr(among, name)[vms].tolist() == getattr(alone, name).tolist(), name
        assert not getattr(among, name)[rest].any()


@given(seed=SEEDS)
@MANY
def test_conservation_and_bounds(seed: int) -> None:
    p, capacity, core = random_claims(seed)
    s = run_one(p, capacity, core)
    a, ceiling = s.vm_alloc_mhz, p.vm_vcpus * core
    usable = np.minimum(np.minimum(p.vm_claim_mhz, p.vm_limit_mhz), ceiling)
    tiny = 1e-9 * max(1.0, usable.sum())
    # work-conserving: all that is wanted, or all there is
    assert s.host_alloc_mhz[0] == pytest.approx(min(capacity, usable.sum()), rel=1e-9, abs=1e-9)
    assert (a <= usable).all()
    assert (a >= 0).all()
    floor = np.minimum(p.vm_reservation_mhz, usable)
    if floor.sum() <= capacity:
        assert (a >= floor * (1 - 1e-12)).all()
    # every MHz of the claim is accounted for
    parts = a + s.vm_ready_mhz * p.vm_vcpus + s.vm_limited_mhz + s.vm_capped_mhz
    assert np.abs(parts - p.vm_claim_mhz).max() <= tiny
    assert (s.vm_ready_share >= 0).all()
    assert (s.vm_ready_share <= 1 + 1e-12).all()


@given(seed=SEEDS, factor=st.floats(1.01, 50.0))
@MANY
def test_more_shares_never_mean_less(seed: int, factor: float) -> None:
    p, capacity, core = random_claims(seed)
    v = seed % p.vm_shares.shape[0]
    shares = p.vm_shares.copy()
    shares[v] *= factor
    before, after = run_one(p, capacity, core), run_one(p._replace(vm_shares=shares), capacity, core)
    tiny = 1e-9 * max(1.0, capacity)
    change = after.vm_alloc_mhz - before.vm_alloc_mhz
    assert change[v] >= -tiny
    assert (np.delete(change, v) <= tiny).all()


@given(seed=SEEDS)
@MANY
def test_equal_shares_are_plain_max_min(seed: int) -> None:
    rng = np.random.default_rng(seed)
    demand = rng.uniform(0, 3000, int(rng.integers(1, 30)))
    capacity = float(rng.uniform(0.05, 1.2) * demand.sum())
    left, want = capacity, np.zeros(len(demand))
    for rank, v in enumerate(np.argsort(demand)):  # progressive filling, smallest demand first
        want[v] = min(demand[v], left / (len(demand) - rank))
        left -= want[v]
    assert run_one(claims(demand), capacity).vm_alloc_mhz == pytest.approx(want, rel=1e-10, abs=1e-9)


@given(seed=SEEDS)
@MANY
def test_shares_like_demands_give_everybody_the_same_fraction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    demand = rng.uniform(1, 3000, int(rng.integers(1, 30)))
    capacity = float(rng.uniform(0.05, 0.99) * demand.sum())
    s = run_one(claims(demand, shares=demand), capacity)  # the rule of cpu.py
    assert s.vm_alloc_mhz == pytest.approx(demand * capacity / demand.sum(), rel=1e-10)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
@MANY
def test_units_do_not_matter(seed: int, scale: float) -> None:
    p, capacity, core = random_claims(seed)
    base = run_one(p, capacity, core).vm_alloc_mhz
    bigger = CpuClaims(
        p.vm_claim_mhz * scale, p.vm_reservation_mhz * scale, p.vm_limit_mhz * scale, p.vm_shares, p.vm_vcpus
    )
    tiny = 1e-9 * max(capacity, base.max(), 1e-6)
    assert np.abs(run_one(bigger, capacity * scale, core * scale).vm_alloc_mhz / scale - base).max() <= tiny
    weighed = p._replace(vm_shares=p.vm_shares * scale)
    assert np.abs(run_one(weighed, capacity, core).vm_alloc_mhz - base).max() <= tiny


@given(keys=st.lists(st.floats(0, 1e6), max_size=90))
@MANY
def test_breakpoints_are_sorted_with_their_steps(keys: list[float]) -> None:
    key, step = np.array(keys, dtype=float), np.arange(len(keys), dtype=float)
    sort_breakpoints(key, step, len(keys))
    assert key.tolist() == sorted(keys)
    assert [keys[int(i)] for i in step] == key.tolist()
