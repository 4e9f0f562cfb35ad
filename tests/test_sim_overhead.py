"""Hypervisor overhead and support (model.md §1): closed forms, properties, and the kernel against a twin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.overhead import (
    INSTRUCTION_CLASSES,
    NO_EXTENSION,
    NO_TYPE,
    OTHER_KERNEL,
    PROFILES,
    SUPPORT_REASONS,
    SUPPORTED,
    VIRT_TYPES,
    GuestVirtualization,
    HostVirtualization,
    InstructionProfile,
    OverheadConfig,
    VirtCosts,
    add_overhead,
    guest_work,
    hosts_supporting,
    operation_rates,
    profile_tables,
    support_code,
    support_table,
)

SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=150, deadline=None, derandomize=True)
CONFIG = OverheadConfig()


def run(rates: Any, kind: Any, demand: Any, charge_io: bool = True, host: Any = 0) -> tuple[Any, Any]:
    """Overhead and claim, MHz, of every VM."""
    n = len(demand)
    overhead, claim = np.full(n, np.nan), np.full(n, np.nan)
    add_overhead(
        CONFIG.cost_cycles,
        CONFIG.steady_tax,
        charge_io,
        np.broadcast_to(np.asarray(host, np.int32), n).copy(),
        np.asarray(kind, np.int32),
        np.asarray(demand, float),
        np.asarray(rates, float),
        overhead,
        claim,
    )
    return overhead, claim


def test_the_table_of_the_model() -> None:
    assert CONFIG.cost_cycles.tolist() == [
        [1500, 2500, 3500, 10_000],
        [800, 1000, 1200, 3000],
        [1200, 1200, 300, 2000],
        [3000, 4000, 6000, 20_000],
        [0, 0, 0, 300],
    ]
    assert CONFIG.steady_tax.tolist() == [0.03, 0.01, 0.02, 0.10, 0.005]
    assert VIRT_TYPES[2] == "hardware_assisted"
    assert INSTRUCTION_CLASSES[3] == "io"


def test_a_worked_case() -> None:
    # 1,000 operations per second of each class, 1 GHz of demand
    overhead, claim = run(np.full((5, 4), 1000.0), range(5), [1000.0] * 5)
    assert overhead.tolist() == pytest.approx([17.5 + 30, 6.0 + 10, 4.7 + 20, 33.0 + 100, 0.3 + 5], rel=1e-14)
    assert claim.tolist() == pytest.approx((1000 + overhead).tolist())
    without, _ = run(np.full((5, 4), 1000.0), range(5), [1000.0] * 5, charge_io=False)
    assert (overhead - without).tolist() == pytest.approx([10.0, 3.0, 2.0, 20.0, 0.3], rel=1e-12)


def test_a_vm_without_a_host_claims_nothing() -> None:
    overhead, claim = run(np.full((2, 4), 1000.0), [0, 0], [1000.0, 1000.0], host=[-1, 0])
    assert overhead[0] == claim[0] == 0.0
    assert overhead[1] > 0.0


def test_rates_of_a_profile() -> None:
    profile = InstructionProfile((1.0, 100.0, 0.0, 2.0), (10.0, 0.0, 2000.0, 4.0))
    rates = np.full((3, 4), 7.0)
    which, vcpus = np.array([0, -1, 0], np.int32), np.array([4, 1, 1], np.int32)
    operation_rates(*profile_tables([profile]), which, vcpus, np.array([2500.0, 1.0, 0.0]), rates)
    assert rates.tolist() == [[29.0, 400.0, 5000.0, 18.0], [7.0] * 4, [1.0, 100.0, 0.0, 2.0]]


def test_profiles_are_of_the_right_order() -> None:
    """At 1 GHz on one vCPU no profile costs a hardware-assisted VM more than a tenth."""
    idle, busy = profile_tables(list(PROFILES.values()))
    rates = np.zeros((len(PROFILES), 4))
    which = np.arange(len(PROFILES), dtype=np.int32)
    operation_rates(
        idle, busy, which, np.ones(len(PROFILES), np.int32), np.full(len(PROFILES), 1000.0), rates
    )
    for kind, limit in ((2, 100.0), (0, 200.0), (4, 10.0)):
        overhead, _ = run(rates, [kind] * len(PROFILES), [1000.0] * len(PROFILES))
        assert (overhead < limit).all(), VIRT_TYPES[kind]


def test_the_guest_gets_its_share_of_what_is_allocated() -> None:
    demand, claim = np.array([900.0, 900.0, 0.0, 0.0]), np.array([1000.0, 1000.0, 0.0, 10.0])
    work = np.full(4, np.nan)
    guest_work(demand, claim, np.array([1000.0, 500.0, 0.0, 10.0]), work)
    assert work.tolist() == [900.0, 450.0, 0.0, 0.0]


def test_who_can_run_what() -> None:
    hosts = [
        HostVirtualization(kernel="6.1"),
        HostVirtualization(extension=False, kernel="5.4"),
        HostVirtualization(types=("hardware_assisted",), kernel="6.1"),
    ]
    guests = [GuestVirtualization(name, kernel="6.1") for name in VIRT_TYPES]
    guests.append(GuestVirtualization("os_level", kernel="none has it"))
    p = support_table(hosts, np.arange(3, dtype=np.int32), guests, np.arange(6, dtype=np.int32))
    codes = [[support_code(p, v, h) for h in range(3)] for v in range(6)]
    ok = SUPPORTED
    assert codes == [
        [ok, ok, NO_TYPE],
        [ok, ok, NO_TYPE],
        [ok, NO_EXTENSION, ok],
        [ok, ok, NO_TYPE],
        [ok, OTHER_KERNEL, NO_TYPE],
        [OTHER_KERNEL, OTHER_KERNEL, NO_TYPE],
    ]
    for v in range(6):
        assert hosts_supporting(p, v).tolist() == [code == ok for code in codes[v]]
    assert set(SUPPORT_REASONS) == {NO_TYPE, NO_EXTENSION, OTHER_KERNEL}


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: VirtCosts(-1.0, 0.0, 0.0, 0.0, 0.0), "state"),
        (lambda: VirtCosts(0.0, 0.0, 0.0, math.inf, 0.0), "io"),
        (lambda: VirtCosts(0.0, 0.0, 0.0, 0.0, 1.1), "steady_tax"),
        (lambda: InstructionProfile((1.0, 1.0), (1.0, 1.0, 1.0, 1.0)), "idle_per_s"),  # type: ignore[arg-type]
        (lambda: InstructionProfile((1.0,) * 4, (1.0, 1.0, 1.0, -1.0)), "busy_per_ghz_s"),
        (lambda: HostVirtualization(types=("xen",)), "full, para, hardware_assisted"),
        (lambda: HostVirtualization(types=()), "types"),
        (lambda: GuestVirtualization("kvm"), "os_level"),
        (lambda: GuestVirtualization("para", modifiable=False), "modifiable"),
    ],
)
def test_impossible_values_name_the_key(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()


def test_the_kernels_equal_the_twin() -> None:
    costs = [getattr(CONFIG, name) for name in VIRT_TYPES]
    profiles = list(PROFILES.values())
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 12))
        which, kind = rng.integers(-1, 4, n).astype(np.int32), rng.integers(0, 5, n).astype(np.int32)
        vcpus, host = rng.integers(1, 9, n).astype(np.int32), rng.integers(-1, 3, n).astype(np.int32)
        demand, rates = rng.uniform(0, 9000, n), rng.uniform(0, 9000, (n, 4))
        given_rates = rates.copy()
        charge_io = bool(rng.integers(2))
        operation_rates(*profile_tables(profiles), which, vcpus, demand, rates)
        overhead, claim = run(rates, kind, demand, charge_io, host)
        for v in range(n):
            want = 0.0
            if host[v] >= 0:
                row = costs[kind[v]]
                for k, name in enumerate(INSTRUCTION_CLASSES):
                    rate = given_rates[v, k]
                    if which[v] >= 0:
                        profile = profiles[which[v]]
                        rate = profile.idle_per_s[k] * vcpus[v] + profile.busy_per_ghz_s[k] * demand[v] / 1e3
                    if name != "io" or charge_io:
                        want += rate * getattr(row, name) / 1e6
                want += row.steady_tax * demand[v]
            assert overhead[v] == pytest.approx(want, rel=1e-12)
            assert claim[v] == pytest.approx(want + demand[v] if host[v] >= 0 else 0.0, rel=1e-12)


@given(seed=SEEDS, factor=st.floats(1.0, 100.0))
@MANY
def test_overhead_is_linear_and_grows(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 20))
    rates, kind, demand = rng.uniform(0, 1e4, (n, 4)), rng.integers(0, 5, n), rng.uniform(0, 1e4, n)
    base, claim = run(rates, kind, demand)
    assert (base >= 0).all()
    assert (claim >= demand).all()
    assert run(rates * factor, kind, demand * factor)[0] == pytest.approx(base * factor, rel=1e-12)
    hardware, translated = run(rates, np.full(n, 2), demand)[0], run(rates, np.full(n, 3), demand)[0]
    assert (translated >= hardware).all()  # every cost of partial is above that of hardware_assisted


@given(seed=SEEDS)
@MANY
def test_work_never_exceeds_demand_nor_allocation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 20))
    demand = rng.uniform(0, 1e4, n) * (rng.random(n) < 0.8)
    claim = demand + rng.uniform(0, 1e3, n) * (rng.random(n) < 0.8)
    work = np.empty(n)
    guest_work(demand, claim, claim, work)
    assert work.tolist() == demand.tolist()  # all of the claim: all of the demand, to the last bit
    alloc = claim * rng.random(n)
    guest_work(demand, claim, alloc, work)
    assert (work <= np.minimum(demand, alloc) * (1 + 1e-12)).all()
