"""NUMA (docs §3): closed forms, properties, and the kernels against a plain-Python twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.numa import apply_numa_host, rebalance_host
from virtgym.envs.sim.models.numa_nodes import (
    NumaConfig,
    NumaParams,
    NumaState,
    add_to_nodes,
    choose_nodes,
    fragment_rate,
    nodes_fit,
    numa_params,
    numa_state,
)

SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=150)
ON = np.ones(1, np.int8)


def build(
    vcpus: Any, memory: Any, stall: Any = 0.6, nodes: int = 2, cores: int = 16, **options: Any
) -> tuple[NumaParams, NumaState]:
    """One host of 2 GHz cores with 4 GiB for each of them."""
    n = len(vcpus)
    p = numa_params(
        NumaConfig(**options),
        np.array([nodes], np.int32),
        np.array([float(cores)]),
        np.array([2000.0]),
        np.array([cores * 4096.0]),
        np.asarray(vcpus, np.int32),
        np.asarray(memory, float),
        np.broadcast_to(np.asarray(stall, float), n).copy(),
    )
    return p, numa_state(p)


def occupy(p: NumaParams, s: NumaState, v: int, mask: int) -> None:
    """Put a VM at home on the nodes of a mask of host 0."""
    add_to_nodes(p, s, v, 0, mask, 1.0)
    s.vm_nodes[v] = mask


def fill(p: NumaParams, s: NumaState) -> Any:
    """Place VMs in order where they fit; returns those placed."""
    placed = []
    for v in range(p.vm_vcpus.shape[0]):
        mask = choose_nodes(p, s, v, 0)
        if mask:
            occupy(p, s, v, mask)
            placed.append(v)
    return np.array(placed, np.int32)


def random_host(seed: int) -> tuple[NumaParams, NumaState, Any, Any]:
    """A host with placed VMs, some of whose pages are on the way, and what the VMs were allocated."""
    rng = np.random.default_rng(seed)
    nodes = int(rng.choice([1, 2, 2, 3, 4]))
    n = int(rng.integers(1, 20))
    p, s = build(
        rng.choice([1, 2, 3, 4, 8, 10, 12], n),
        rng.uniform(256.0, 20_000.0, n),
        rng.uniform(0, 1, n),
        nodes,
        int(rng.integers(nodes, 12) * nodes),
        scheduling="aware" if rng.random() < 0.8 else "blind",
        latency_ratio=float(rng.uniform(1, 3)),
        cpu_overcommit=float(rng.choice([1.0, 2.0, 4.0])),
        vnuma_min_vcpus=int(rng.choice([4, 9, 100])),
    )
    placed = fill(p, s)
    s.vm_pages_end_s[rng.random(n) < 0.2] = 50.0
    return p, s, placed, rng.uniform(0, 1, n) * p.vm_vcpus * 2000.0 * (rng.random(n) < 0.9)


def nodes_of(mask: int) -> list[int]:
    return [j for j in range(40) if mask >> j & 1]


def plain_remote_share(p: NumaParams, s: NumaState, placed: Any, alloc: Any, now: float) -> dict[int, float]:
    """The twin: one VM and one node at a time, with lists and sets."""
    n = int(p.host_nodes[0])
    homes = {int(v): nodes_of(int(s.vm_nodes[v])) for v in placed}
    load = [sum(alloc[v] / len(home) for v, home in homes.items() if j in home) for j in range(n)]
    answer = {}
    for v, home in homes.items():
        if not p.numa_aware:
            answer[v] = (n - 1) / n
            continue
        displaced = [max(0.0, 1 - p.node_cpu_mhz[0] / load[j]) if load[j] > 0 else 0.0 for j in home]
        if now < s.vm_pages_end_s[v] and n > 1:
            base = 0.5
        else:
            base = 0.0 if p.vm_vcpus[v] >= p.numa_vnuma_min else 1 - 1 / len(home)
        answer[v] = 0.0 if n == 1 else 1 - (1 - base) * (1 - sum(displaced) / len(home))
    return answer


def test_the_equation() -> None:
    # interleaved over two nodes, memory-bound: 1 + 0.6 * 1/2 * 1.05
    p, s = build([2], [1024.0], scheduling="blind")
    vms = fill(p, s)
    apply_numa_host(p, s, vms, np.array([100.0]), 0, 0.0)
    assert s.vm_remote_share[0] == 0.5
    assert s.vm_numa_slowdown[0] == pytest.approx(1.315, rel=1e-14)
    assert NumaConfig().latency_ratio == pytest.approx(242.5 / 118.4, rel=1e-3)


def test_a_vm_at_home_is_not_slowed() -> None:
    p, s = build([8, 8], [1024.0, 1024.0])
    vms = fill(p, s)
    assert s.vm_nodes.tolist() == [1, 2]  # the emptiest node first
    apply_numa_host(p, s, vms, np.array([16_000.0, 16_000.0]), 0, 0.0)
    assert s.vm_numa_slowdown.tolist() == [1.0, 1.0]


def test_wide_vms_take_the_fewest_nodes() -> None:
    p, s = build([9, 17, 33, 2, 8], [1024.0] * 4 + [40_000.0], nodes=4, cores=32, vnuma_min_vcpus=12)
    assert [choose_nodes(p, s, v, 0) for v in range(5)] == [0b11, 0b111, 0, 0b1, 0b11]
    occupy(p, s, 0, 0b11)
    assert s.node_vcpus[0].tolist() == [4.5, 4.5, 0.0, 0.0]
    assert s.node_used_mib[0].tolist() == [512.0, 512.0, 0.0, 0.0]
    apply_numa_host(p, s, np.array([0], np.int32), np.zeros(5), 0, 0.0)
    assert s.vm_remote_share[0] == 0.5  # half of its accesses; with virtual nodes none:
    p = p._replace(numa_vnuma_min=9)
    apply_numa_host(p, s, np.array([0], np.int32), np.zeros(5), 0, 0.0)
    assert s.vm_remote_share[0] == 0.0


def test_a_host_with_room_but_no_node_with_room_takes_no_narrow_vm() -> None:
    p, s = build([5, 5, 6], [1024.0] * 3)
    assert fill(p, s).tolist() == [0, 1]
    assert not any(nodes_fit(p, s, 2, 0, mask) for mask in (0, 1, 2, 4))
    assert nodes_fit(p, s, 2, 0, 3)  # though it would fit split


def test_work_beyond_a_node_is_remote() -> None:
    # 24 GHz of work at home on a node of 16 GHz: a third of it runs elsewhere
    p, s = build([6, 6, 6], [1024.0] * 3, stall=[0.3, 0.3, 0.0], cpu_overcommit=2.0)
    for v, mask in enumerate((1, 1, 2)):
        occupy(p, s, v, mask)
    alloc = np.array([12_000.0, 12_000.0, 8000.0])
    apply_numa_host(p, s, np.arange(3, dtype=np.int32), alloc, 0, 0.0)
    assert s.vm_remote_share.tolist() == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert s.vm_numa_slowdown[0] == pytest.approx(1 + 0.3 / 3 * 1.05)


def test_the_balancer_and_the_pages_that_follow() -> None:
    p, s = build([2, 2, 2, 2], [1024.0] * 4, cpu_overcommit=2.0, page_move_mib_s=512.0)
    vms = np.arange(4, dtype=np.int32)
    for v, mask in enumerate((1, 1, 1, 2)):
        occupy(p, s, v, mask)
    alloc = np.array([4000.0, 3000.0, 500.0, 500.0])  # 7.5 against 0.5 GHz: 3.5 too many
    assert rebalance_host(p, s, vms, alloc, 0, 100.0, 5) == 1
    assert s.vm_nodes.tolist() == [1, 2, 1, 2] or s.vm_nodes.tolist() == [2, 1, 1, 2]
    moved = int(np.flatnonzero(s.vm_pages_end_s > 0)[0])
    assert s.vm_pages_end_s[moved] == 102.0
    apply_numa_host(p, s, vms, alloc, 0, 100.0)
    assert s.vm_remote_share[moved] == 0.5
    apply_numa_host(p, s, vms, alloc, 0, 102.0)
    assert s.vm_remote_share.tolist() == [0.0] * 4
    assert rebalance_host(p, s, vms, alloc, 0, 102.0, 5) == 0  # nothing better is left
    # the mean that is held equals the integral of the linear decay
    t = np.linspace(0.0, 2.0, 20_001)
    assert np.trapezoid(1 - t / 2.0, t) == pytest.approx(0.5 * 2.0)


def test_migration_between_hosts_holds_room_on_both(make_sim: Callable[..., Any]) -> None:
    load = {"vcpus": [4, 2], "mem_mib": [2048.0, 1024.0]}
    sim = make_sim([0.1, 0.1], load=load, cores=8, memory_mib=8192.0, numa_nodes=2, numa=NumaConfig())
    s = sim.state
    assert s.node_vcpus.tolist() == [[4.0, 2.0], [0.0, 0.0]]
    place = np.array([0], np.int32), np.array([1], np.int32)
    assert not sim.apply(Decisions(move_vm=place[0], move_host=place[1]))
    assert s.node_vcpus.tolist() == [[4.0, 2.0], [4.0, 0.0]]
    assert s.node_used_mib.tolist() == [[2048.0, 1024.0], [2048.0, 0.0]]
    assert (s.vm_nodes.tolist(), s.vm_dest_nodes.tolist()) == ([1, 2], [1, 0])
    sim.advance()
    assert s.node_vcpus.tolist() == [[0.0, 2.0], [4.0, 0.0]]
    assert s.node_used_mib.tolist() == [[0.0, 1024.0], [2048.0, 0.0]]
    assert (s.vm_nodes.tolist(), s.vm_dest_nodes.tolist()) == ([1, 2], [0, 0])


def test_fragment_rate_by_hand() -> None:
    # 44 cores a node (VMR2L): free 44 - 20 = 24 -> 8 lost; 44 - 30 = 14 -> 14 lost; 22 of 38
    p, s = build([20, 30], [1024.0, 1024.0], cores=88)
    fill(p, s)
    assert fragment_rate(p, s, ON, 16.0) == pytest.approx(22 / 38)
    assert fragment_rate(p, s, np.zeros(1, np.int8), 16.0) == 0.0
    p, s = build([22, 22], [1024.0, 1024.0], cores=44)
    fill(p, s)
    assert fragment_rate(p, s, ON, 16.0) == 0.0  # nothing is free


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: NumaConfig(scheduling="both"), "aware, blind"),
        (lambda: NumaConfig(latency_ratio=0.9), "latency_ratio"),
        (lambda: NumaConfig(latency_ratio=math.inf), "latency_ratio"),
        (lambda: NumaConfig(cpu_overcommit=0.0), "cpu_overcommit"),
        (lambda: NumaConfig(vnuma_min_vcpus=0), "vnuma_min_vcpus"),
        (lambda: NumaConfig(rebalance_threshold=-0.1), "rebalance_threshold"),
        (lambda: NumaConfig(page_move_mib_s=0.0), "page_move_mib_s"),
        (lambda: build([1], [1.0], nodes=0), "numa_nodes"),
        (lambda: build([1], [1.0], nodes=17), "core"),
        (lambda: build([1], [1.0], stall=1.5), "stall_share"),
    ],
)
def test_impossible_values_name_the_key(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()


def test_moves_per_interval() -> None:
    assert NumaConfig().moves_in(300.0) == 150
    assert NumaConfig().moves_in(0.0) == 1
    assert NumaConfig(rebalance=False).moves_in(300.0) == 0


def test_the_kernel_equals_the_twin() -> None:
    over = moving = 0
    for seed in range(1200):
        p, s, placed, alloc = random_host(seed)
        now = 40.0 if seed % 2 else 60.0
        apply_numa_host(p, s, placed, alloc, 0, now)
        for v, rho in plain_remote_share(p, s, placed, alloc, now).items():
            assert s.vm_remote_share[v] == pytest.approx(rho, rel=1e-9, abs=1e-9), seed
            want = 1 + p.vm_stall_share[v] * rho * p.numa_extra_latency
            assert s.vm_numa_slowdown[v] == pytest.approx(want, rel=1e-9)
        over += bool((s.node_load_mhz[0] > p.node_cpu_mhz[0]).any())
        moving += now < 50.0
    assert min(over, moving) > 50


@given(seed=SEEDS)
@MANY
def test_no_node_is_ever_overfull(seed: int) -> None:
    p, s, placed, _ = random_host(seed)
    n = int(p.host_nodes[0])
    sums = np.zeros((2, n))
    for v in placed:
        home = nodes_of(int(s.vm_nodes[v]))
        for j in home:
            sums[:, j] += p.vm_vcpus[v] / len(home), p.vm_mem_mib[v] / len(home)
    assert sums[0] == pytest.approx(s.node_vcpus[0, :n])
    assert sums[1] == pytest.approx(s.node_used_mib[0, :n])
    assert (sums[0] <= p.node_cores[0] * p.numa_overcommit * (1 + 1e-8)).all()
    assert (sums[1] <= p.node_mem_mib[0] * (1 + 1e-8)).all()
    for v in range(p.vm_vcpus.shape[0]):
        mask = int(choose_nodes(p, s, v, 0))
        assert (mask == 0) or nodes_fit(p, s, v, 0, mask)


@given(seed=SEEDS)
@MANY
def test_slowdown_is_bounded_and_grows_with_the_stall_share(seed: int) -> None:
    p, s, placed, alloc = random_host(seed)
    apply_numa_host(p, s, placed, alloc, 0, 40.0)
    assert ((s.vm_remote_share >= 0) & (s.vm_remote_share < 1)).all()
    ceiling = 1 + p.vm_stall_share * p.numa_extra_latency
    assert ((s.vm_numa_slowdown >= 1) & (s.vm_numa_slowdown <= ceiling)).all()
    before = s.vm_numa_slowdown.copy()
    more = p._replace(vm_stall_share=np.minimum(1.0, p.vm_stall_share * 1.5))
    apply_numa_host(more, s, placed, alloc, 0, 40.0)
    assert (s.vm_numa_slowdown >= before).all()


@given(seed=SEEDS, most=st.integers(1, 30))
@MANY
def test_the_balancer_levels_and_respects_room(seed: int, most: int) -> None:
    p, s, placed, alloc = random_host(seed)
    n = int(p.host_nodes[0])
    apply_numa_host(p, s, placed, alloc, 0, 60.0)
    gap = np.ptp(s.node_load_mhz[0, :n])
    pages_before = s.vm_pages_end_s.copy()
    moves = rebalance_host(p, s, placed, alloc, 0, 60.0, most)
    assert moves <= most
    assert (s.vm_pages_end_s != pages_before).sum() == moves  # nobody moves twice
    got = (s.node_vcpus.copy(), s.node_used_mib.copy(), s.node_load_mhz.copy())
    s.node_vcpus[:], s.node_used_mib[:] = 0.0, 0.0
    for v in placed:
        add_to_nodes(p, s, v, 0, s.vm_nodes[v], 1.0)
    apply_numa_host(p, s, placed, alloc, 0, 60.0)
    for a, b in zip(got, (s.node_vcpus, s.node_used_mib, s.node_load_mhz)):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-6)
    assert np.ptp(s.node_load_mhz[0, :n]) <= gap * (1 + 1e-12) + 1e-6
    assert (s.node_used_mib[0] <= p.node_mem_mib[0] * (1 + 1e-8)).all()
    assert (s.node_vcpus[0] <= p.node_cores[0] * p.numa_overcommit * (1 + 1e-8)).all()


@given(seed=SEEDS)
@MANY
def test_aware_hosts_without_pressure_are_local(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    p, s = build(rng.integers(1, 5, n), rng.uniform(100, 3000, n))
    placed = fill(p, s)
    apply_numa_host(p, s, placed, p.vm_vcpus.astype(np.float64) * 2000.0, 0, 0.0)
    assert (s.vm_numa_slowdown == 1.0).all()


@given(seed=SEEDS, unit=st.integers(1, 20))
@MANY
def test_fragment_rate_counts_units(seed: int, unit: int) -> None:
    p, s, _, _ = random_host(seed)
    free = [float(p.node_cores[0] * p.numa_overcommit - s.node_vcpus[0, j]) for j in range(p.host_nodes[0])]
    lost = sum(max(0.0, x - unit * math.floor(x / unit + 1e-9)) for x in free if x > 1e-9)
    total = sum(x for x in free if x > 1e-9)
    rate = fragment_rate(p, s, ON, float(unit))
    assert 0 <= rate <= 1
    assert rate == pytest.approx(lost / total if total else 0.0, abs=1e-12)
