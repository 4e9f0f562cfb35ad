"""Sizes and restarts against brute force on tiny clusters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from virtgym.policies.solvers.model import PlacementRules
from virtgym.policies.solvers.restarts import Restarts, Standing
from virtgym.policies.solvers.sizing import fewest_hosts


def brute_hosts(cpu: np.ndarray, mem: np.ndarray, room: tuple[float, float], rules: PlacementRules) -> int:
    """Least number of bins over all assignments."""
    n = len(cpu)
    for hosts in range(1, n + 1):
        for place in itertools.product(range(hosts), repeat=n):
            at = np.array(place)
            used = [np.bincount(at, size, minlength=hosts).max() for size in (cpu, mem)]
            apart = all(len({place[v] for v in group}) == len(group) for group in rules.anti_affinity)
            together = all(len({place[v] for v in group}) == 1 for group in rules.affinity)
            if used[0] <= room[0] and used[1] <= room[1] and apart and together:
                return hosts
    raise AssertionError("a VM is larger than a host")


@pytest.mark.parametrize("seed", range(8))
def test_fewest_hosts_is_what_brute_force_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cpu, mem = rng.integers(1, 8, 7).astype(float), rng.integers(1, 8, 7).astype(float)
    rules = PlacementRules()
    if seed % 2:
        rules = PlacementRules(affinity=((0, 1),), anti_affinity=((2, 3, 4),))
        cpu[:2] = mem[:2] = 3.0
    least = brute_hosts(cpu, mem, (10.0, 10.0), rules)
    found = fewest_hosts(cpu, mem, 10.0, 10.0, rules, rounds=200)
    assert found.hosts == least
    assert found.bound <= least
    assert len(set(found.vm_host.tolist())) == least


def test_the_bound_is_that_of_apart_and_of_volume() -> None:
    ones = np.ones(6)
    apart = fewest_hosts(ones, ones, 100.0, 100.0, PlacementRules(anti_affinity=((0, 1, 2, 3),)), rounds=10)
    assert (apart.hosts, apart.bound) == (4, 4)
    volume = fewest_hosts(ones, ones, 2.0, 100.0, rounds=10)
    assert (volume.hosts, volume.bound) == (3, 3)


def standing(rng: np.random.Generator, n_vms: int, n_hosts: int, room: float) -> Standing:
    return Standing(
        vm_mem_mib=rng.integers(1, 6, n_vms).astype(float),
        vm_cpu_mhz=rng.integers(0, 3, n_vms).astype(float),
        vm_host=rng.integers(0, n_hosts, n_vms),
        host_mem_mib=np.full(n_hosts, room),
        host_cpu_mhz=np.full(n_hosts, 6.0),
        closed=np.zeros(n_hosts, dtype=bool),
        rules=PlacementRules(anti_affinity=((0, 1), (2, 3)), must=(((4,), (0, 1)),)),
    )


def brute_left(s: Standing, failed: tuple[int, ...]) -> int:
    """Least number of VMs that do not restart, over all assignments."""
    n = len(s.host_mem_mib)
    vms = [v for v in range(len(s.vm_host)) if s.vm_host[v] in failed]
    best = len(vms)
    for place in itertools.product([-1, *(h for h in range(n) if h not in failed)], repeat=len(vms)):
        left = place.count(-1)
        if left >= best:
            continue
        at = s.vm_host.copy()
        at[vms] = place
        on = at >= 0
        fits = True
        for h in {h for h in place if h >= 0}:
            for size, room in ((s.vm_mem_mib, s.host_mem_mib), (s.vm_cpu_mhz, s.host_cpu_mhz)):
                fits &= float(size[on & (at == h)].sum()) <= room[h]
        for group in s.rules.anti_affinity:
            where = [int(at[v]) for v in group if at[v] >= 0]
            moved = [v for v in group if v in vms and at[v] >= 0]
            fits &= not moved or len(set(where)) == len(where)
        for some, hosts in s.rules.must:
            fits &= all(at[v] in (-1, *hosts) for v in some if v in vms)
        best = left if fits else best
    return best


@pytest.mark.parametrize("seed", range(10))
def test_as_many_restart_as_brute_force_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = standing(rng, 9, 3, 12.0 + seed % 3)
    restarts = Restarts(s)
    for failed in ((0,), (1,), (2,), (0, 1)):
        if sum(int(h) in failed for h in s.vm_host) > 6:
            continue
        found = restarts.after(failed)
        assert found.proven
        assert len(found.left) == brute_left(s, failed), (seed, failed)


def test_a_cluster_without_room_names_the_vm() -> None:
    s = Standing(
        vm_mem_mib=np.array([6.0, 5.0, 5.0]), vm_cpu_mhz=np.zeros(3), vm_host=np.array([0, 1, 2]),
        host_mem_mib=np.full(3, 10.0), host_cpu_mhz=np.ones(3), closed=np.zeros(3, dtype=bool),
    )  # fmt: skip
    found = Restarts(s).after((0,))
    assert (found.left, found.proven) == ((0,), True)  # 6 fits beside no 5
    assert Restarts(s).after((1,)).left == ()  # 5 beside the other 5
    assert Restarts(s).after((0, 1)).host == (-1, 2)
