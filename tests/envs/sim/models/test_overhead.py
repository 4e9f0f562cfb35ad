"""Hypervisor overhead and support (docs §1): closed forms, properties, and the kernel against a twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import NO_VIRT_EXTENSION, NO_VIRT_TYPE, OTHER_KERNEL, Decisions
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.overhead import (
    INSTRUCTION_CLASSES,
    PROFILES,
    VIRT_TYPES,
    GuestVirtualization,
    HostVirtualization,
    InstructionProfile,
    OverheadConfig,
    OverheadTable,
    VirtCosts,
    guest_work,
    profile_tables,
    support_code,
    support_table,
    vm_overhead,
)

SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=150)
CONFIG = OverheadConfig()


def run(profiles: Any, kind: Any, demand: Any, vcpus: int = 1, has_io: bool = False) -> Any:
    """Overhead of VMs, one of each profile, MHz."""
    n = len(profiles)
    guests = (np.arange(n, dtype=np.int32), np.array(kind, np.int32), np.full(n, vcpus, np.int32))
    p = OverheadTable(CONFIG.cost_cycles, CONFIG.steady_tax, *profile_tables(profiles), *guests, int(has_io))
    return np.array([vm_overhead(p, v, float(d)) for v, d in enumerate(demand)])


def random_profiles(rng: np.random.Generator, n: int) -> list[InstructionProfile]:
    rows = rng.uniform(0, 9000, (n, 2, 4))
    return [InstructionProfile(*(tuple(part) for part in row)) for row in rows.tolist()]


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
    each = [InstructionProfile((1000.0,) * 4, (0.0,) * 4)] * 5
    overhead = run(each, range(5), [1000.0] * 5)
    assert overhead.tolist() == pytest.approx([17.5 + 30, 6.0 + 10, 4.7 + 20, 33.0 + 100, 0.3 + 5], rel=1e-14)
    without = run(each, range(5), [1000.0] * 5, has_io=True)
    assert (overhead - without).tolist() == pytest.approx([10.0, 3.0, 2.0, 20.0, 0.3], rel=1e-12)


def test_the_engine_charges_it(make_sim: Callable[..., Any]) -> None:
    """Only VMs on a host claim anything, and there demand and overhead."""
    busy = InstructionProfile((1000.0, 0.0, 0.0, 0.0), (0.0, 0.0, 2000.0, 0.0))
    load = {"profiles": (GuestProfile(instructions=busy),), "vcpus": 2, "mem_mib": [1024.0, 9999.0]}
    sim = make_sim([0.5, 0.5], load=load, overhead=OverheadConfig(), arrival="policy", memory_mib=9999.0)
    place = np.zeros(1, dtype=np.int32)
    sim.apply(Decisions(place_vm=place, place_host=place))
    sim.advance()
    # 2 vCPUs x 1,000/s x 1,200 cycles + 1,000/s x 300 cycles, and 2 % of 500 MHz
    assert sim.state.vm_overhead_mhz.tolist() == pytest.approx([2.4 + 0.3 + 10.0, 0.0], rel=1e-12)
    assert sim.state.vm_claim_mhz.tolist() == pytest.approx([512.7, 0.0], rel=1e-12)


def test_profiles_are_of_the_right_order() -> None:
    """At 1 GHz on one vCPU no profile costs a hardware-assisted VM more than a tenth."""
    profiles = list(PROFILES.values())
    for kind, limit in ((2, 100.0), (0, 200.0), (4, 10.0)):
        overhead = run(profiles, [kind] * len(profiles), [1000.0] * len(profiles))
        assert (overhead < limit).all(), VIRT_TYPES[kind]


def test_the_guest_gets_its_share_of_what_is_allocated() -> None:
    assert guest_work(900.0, 1000.0, 1000.0) == 900.0
    assert guest_work(900.0, 1000.0, 500.0) == 450.0
    assert guest_work(0.0, 10.0, 10.0) == 0.0


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
    ok = 0
    assert codes == [
        [ok, ok, NO_VIRT_TYPE],
        [ok, ok, NO_VIRT_TYPE],
        [ok, NO_VIRT_EXTENSION, ok],
        [ok, ok, NO_VIRT_TYPE],
        [ok, OTHER_KERNEL, NO_VIRT_TYPE],
        [OTHER_KERNEL, OTHER_KERNEL, NO_VIRT_TYPE],
    ]


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


def test_the_kernel_equals_the_twin() -> None:
    costs = [getattr(CONFIG, name) for name in VIRT_TYPES]
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n, vcpus, has_io = int(rng.integers(1, 12)), int(rng.integers(1, 9)), bool(rng.integers(2))
        profiles = random_profiles(rng, n)
        kind, demand = rng.integers(0, 5, n), rng.uniform(0, 9000, n)
        overhead = run(profiles, kind, demand, vcpus, has_io)
        for v, profile in enumerate(profiles):
            row = costs[kind[v]]
            want = row.steady_tax * demand[v]
            for k, name in enumerate(INSTRUCTION_CLASSES):
                rate = profile.idle_per_s[k] * vcpus + profile.busy_per_ghz_s[k] * demand[v] / 1e3
                if name != "io" or not has_io:
                    want += rate * getattr(row, name) / 1e6
            assert overhead[v] == pytest.approx(want, rel=1e-12)


@given(seed=SEEDS, factor=st.floats(1.0, 100.0))
@MANY
def test_overhead_is_linear_and_grows(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 20))
    profiles, kind, demand = random_profiles(rng, n), rng.integers(0, 5, n), rng.uniform(0, 1e4, n)
    base, idle = run(profiles, kind, demand), run(profiles, kind, np.zeros(n))
    assert (base >= idle).all()
    assert (idle >= 0).all()
    assert run(profiles, kind, demand * factor) - idle == pytest.approx((base - idle) * factor, rel=1e-9)
    assert run(profiles, kind, np.zeros(n), vcpus=3) == pytest.approx(3 * idle, rel=1e-12)
    hardware, translated = run(profiles, np.full(n, 2), demand), run(profiles, np.full(n, 3), demand)
    assert (translated >= hardware).all()  # every cost of partial is above that of hardware_assisted


@given(st.floats(0, 1e4), st.floats(0.1, 1e3), st.floats(0, 1))
@MANY
def test_work_never_exceeds_demand_nor_allocation(demand: float, more: float, share: float) -> None:
    claim = demand + more
    assert guest_work(demand, claim, claim) == demand  # all of the claim: all of the demand, to the last bit
    assert guest_work(demand, claim, claim * share) <= min(demand, claim * share) * (1 + 1e-12)
