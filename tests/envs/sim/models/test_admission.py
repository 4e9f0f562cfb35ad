"""Admission control: vSphere's worked case, each rule by hand, and brute force over all sets of failures."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.models import admission
from virtgym.envs.sim.models.admission import (
    AdmissionConfig,
    HostPool,
    Reservations,
    dedicated_hosts,
    failover_capacity,
    host_slots,
    slot_size,
    write_may_leave,
)

MANY = settings(max_examples=200)
GHZ, GIB = 1000.0, 1024.0


def pool(hosts: Any, usable: Any = True, vms: Any = 0) -> HostPool:
    sizes = np.asarray(hosts, dtype=float).reshape(-1, 2)
    n = len(sizes)
    return HostPool(
        sizes[:, 0].copy(),
        sizes[:, 1].copy(),
        np.broadcast_to(np.asarray(usable, dtype=bool), (n,)).copy(),
        np.broadcast_to(np.asarray(vms, dtype=np.int32), (n,)).copy(),
        np.zeros(n, dtype=np.int8),
        np.empty((n, 0), dtype=np.int32),
    )


def rule(kind: str = "slots", **changes: Any) -> AdmissionConfig:
    """A guarantee that counts reservations, without overhead."""
    plain: dict[str, Any] = {"counts": "reservations", "overhead_mib": 0.0}
    return AdmissionConfig(kind, **plain | changes)


def aware(config: AdmissionConfig, hosts: HostPool) -> HostPool:
    return hosts._replace(host_dedicated=dedicated_hosts(config, len(hosts.usable)))


def failover_state(config: AdmissionConfig, hosts: HostPool, vms: Reservations) -> admission.Failover:
    return admission.failover_state(config.numbers, aware(config, hosts), vms)


def admits(config: AdmissionConfig, hosts: HostPool, vms: Reservations, cpu: float, mem: float) -> bool:
    return bool(admission.admits(config.numbers, aware(config, hosts), vms, cpu, mem, 1))


def hosts_that_may_leave(config: AdmissionConfig, hosts: HostPool, vms: Reservations) -> Any:
    """Of the hosts that count."""
    may = np.empty(len(hosts.usable), dtype=np.bool_)
    write_may_leave(config.numbers, aware(config, hosts), vms, may)
    return may & hosts.usable


def reserve(vms: Any) -> Reservations:
    rows = np.asarray(vms, dtype=float).reshape(-1, 2)
    return Reservations(rows[:, 0].copy(), rows[:, 1].copy())


HOSTS = pool([(9 * GHZ, 9 * GIB), (9 * GHZ, 6 * GIB), (6 * GHZ, 6 * GIB)])
VMS = reserve(np.array([(2, 1), (2, 1), (1, 2), (1, 1), (1, 1)]) * [GHZ, GIB])
CASE = rule()


def test_the_worked_case() -> None:
    assert slot_size(CASE.numbers, VMS) == (2 * GHZ, 2 * GIB)
    assert host_slots(HOSTS, 2 * GHZ, 2 * GIB).tolist() == [4, 3, 3]
    state = failover_state(CASE, HOSTS, VMS)
    assert state.capacity == 1
    assert state.holds
    assert not failover_state(rule(host_failures=2), HOSTS, VMS).holds
    # A sixth VM has the last of the six slots left; a seventh none.
    assert admits(CASE, HOSTS, VMS, GHZ, GIB)
    six = Reservations(np.append(VMS.cpu_mhz, GHZ), np.append(VMS.mem_mib, GIB))
    assert not admits(CASE, HOSTS, six, GHZ, GIB)
    # One that needs larger slots: 3 GHz, so 3, 3, 2 slots, and 5 left for 6 VMs.
    assert not admits(CASE, HOSTS, VMS, 3 * GHZ, GIB)
    assert hosts_that_may_leave(CASE, HOSTS, VMS).tolist() == [False] * 3
    assert failover_state(CASE, HOSTS._replace(usable=np.array([True, True, False])), VMS).capacity == 0


def test_vms_without_reservations_are_counted_all_the_same() -> None:
    state = failover_state(rule(overhead_mib=100), HOSTS, reserve([(0, 0), (0, 0)]))
    assert (state.slot_cpu_mhz, state.slot_mem_mib) == (32.0, 100.0)
    assert state.cpu_free == pytest.approx(1 - 64 / 24_000)
    assert state.mem_free == pytest.approx(1 - 200 / (21 * 1024))
    nobody = failover_state(CASE, HOSTS, reserve([]))
    assert nobody.holds
    assert nobody.capacity == 3


def test_percentage_by_hand() -> None:
    config = rule("percentage", cpu_share=0.7, mem_share=0.6)
    state = failover_state(config, HOSTS, VMS)
    assert (state.cpu_free, state.mem_free) == pytest.approx((17 / 24, 15 / 21))
    assert state.holds
    assert admits(config, HOSTS, VMS, 0.2 * GHZ, GIB)
    assert not admits(config, HOSTS, VMS, 0.3 * GHZ, GIB)
    # Without 6 GHz: 11/18 < 0.7; at 0.55 also the 9 GHz hosts stay: 8/15 < 0.55 < 11/18.
    assert hosts_that_may_leave(config, HOSTS, VMS).tolist() == [False] * 3
    looser = rule("percentage", cpu_share=0.55, mem_share=0.5)
    assert hosts_that_may_leave(looser, HOSTS, VMS).tolist() == [False, False, True]


def test_dedicated_hosts_stay_empty() -> None:
    config = AdmissionConfig("dedicated", hosts=(1,))
    assert hosts_that_may_leave(config, HOSTS, VMS).tolist() == [True, False, True]
    assert failover_state(config, HOSTS, VMS).holds
    assert not failover_state(config, HOSTS._replace(vms=np.array([0, 2, 0], dtype=np.int32)), VMS).holds
    assert not failover_state(config, HOSTS._replace(usable=np.array([True, False, True])), VMS).holds
    with pytest.raises(ConfigError, match=r"admission.hosts=7: must be below 3"):
        dedicated_hosts(AdmissionConfig("dedicated", hosts=(7,)), 3)


def test_none_forbids_nothing() -> None:
    config = AdmissionConfig("none")
    assert admits(config, HOSTS, VMS, 1e9, 1e9)
    assert failover_state(config, HOSTS, VMS).holds
    assert hosts_that_may_leave(config, HOSTS, VMS).all()


def random_case(rng: np.random.Generator) -> tuple[HostPool, Reservations]:
    n, m = int(rng.integers(1, 7)), int(rng.integers(0, 12))
    hosts = pool(rng.integers(1, 12, (n, 2)) * [GHZ, GIB], rng.random(n) < 0.85, rng.integers(0, 3, n))
    return hosts, reserve(rng.integers(0, 4, (m, 2)) * [GHZ, GIB])


def test_capacity_equals_brute_force_over_all_failures() -> None:
    """k failures are survived if whichever k hosts fail, slots for all VMs remain."""
    rng = np.random.default_rng(21)
    for _ in range(1000):
        slots, needed = rng.integers(0, 6, int(rng.integers(1, 7))), int(rng.integers(0, 15))
        want = -1
        for k in range(len(slots) + 1):
            if all(slots.sum() - sum(gone) >= needed for gone in combinations(slots.tolist(), k)):
                want = k
            else:
                break
        assert failover_capacity(slots, needed) == want


def test_slots_equal_a_plain_count() -> None:
    rng = np.random.default_rng(23)
    for _ in range(1000):
        hosts, vms = random_case(rng)
        cpu, mem = slot_size(CASE.numbers, vms)
        got = host_slots(hosts, cpu, mem)
        for h in range(len(got)):
            count = 0
            while hosts.usable[h] and (count + 1) * cpu <= hosts.host_cpu_mhz[h] and count < 400:
                if (count + 1) * mem > hosts.host_mem_mib[h]:
                    break
                count += 1
            assert got[h] == count or count == 400


@given(st.integers(0, 2**32 - 1), st.sampled_from(["slots", "percentage", "dedicated"]))
@MANY
def test_a_host_may_leave_if_the_guarantee_holds_without_it(seed: int, kind: Any) -> None:
    rng = np.random.default_rng(seed)
    hosts, vms = random_case(rng)
    n = len(hosts.usable)
    config = rule(
        kind,
        host_failures=int(rng.integers(0, 3)),
        cpu_share=float(rng.uniform(0, 0.8)),
        mem_share=float(rng.uniform(0, 0.8)),
        hosts=(int(rng.integers(n)),),
        survive_domain=kind == "slots" and bool(rng.integers(2)),
    )
    if rng.random() < 0.7:
        hosts = hosts._replace(
            host_domains=rng.integers(-1, 3, (n, int(rng.integers(1, 3)))).astype(np.int32)
        )
    may = hosts_that_may_leave(config, hosts, vms)
    assert not np.any(may & ~hosts.usable)
    if kind == "dedicated":
        assert may.tolist() == [bool(hosts.usable[h]) and h not in config.hosts for h in range(n)]
        return
    for h in np.flatnonzero(hosts.usable):
        rest = hosts.usable.copy()
        rest[h] = False
        assert may[h] == failover_state(config, hosts._replace(usable=rest), vms).holds


@given(st.integers(0, 2**32 - 1), st.sampled_from(["slots", "percentage"]))
@MANY
def test_more_vms_never_make_a_cluster_safer(seed: int, kind: Any) -> None:
    hosts, vms = random_case(np.random.default_rng(seed))
    config = rule(kind)
    before = failover_state(config, hosts, vms)
    more = Reservations(np.append(vms.cpu_mhz, GHZ), np.append(vms.mem_mib, GIB))
    after = failover_state(config, hosts, more)
    assert after.capacity <= before.capacity
    assert before.holds or not after.holds
    assert after.holds == admits(config, hosts, vms, GHZ, GIB)


def test_bad_values_name_their_key() -> None:
    for change, text in (
        ({"rule": "luck"}, "admission.rule=luck: must be one of none, slots"),
        ({"host_failures": 1.5}, "admission.host_failures=1.5"),
        ({"cpu_share": 1.1}, "admission.cpu_share=1.1: must lie in 0..1"),
        ({"rule": "dedicated"}, "admission.hosts: needs at least one"),
        ({"overhead_mib": -1}, "admission.overhead_mib=-1"),
    ):
        with pytest.raises(ConfigError, match=text):
            AdmissionConfig(**change)
