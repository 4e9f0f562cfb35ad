"""The chain of one interval (docs §0): overhead, scheduling, NUMA and memory one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.models.memory import MemoryConfig, MemoryProfile, memory_inputs, memory_outputs
from virtgym.envs.sim.models.memory_tiers import memory_scratch, reclaim_host
from virtgym.envs.sim.models.numa import apply_numa_host, rebalance_host
from virtgym.envs.sim.models.numa_nodes import NumaConfig, add_to_nodes, choose_nodes, numa_params, numa_state
from virtgym.envs.sim.models.overhead import (
    PROFILES,
    OverheadConfig,
    OverheadTable,
    guest_work,
    profile_tables,
    vm_overhead,
)
from virtgym.envs.sim.models.scheduling import (
    CpuControl,
    cpu_claims,
    cpu_grants,
    schedule_host,
    scheduling_scratch,
)

SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=80)
SUBMODELS = ("overhead", "cpu", "numa", "memory")
CORE = 2000.0


class Interval:
    """A random cluster and the work that its VMs get done, with some sub-models on."""

    def __init__(self, seed: int, load: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.hosts, n = int(rng.integers(1, 6)), int(rng.integers(1, 40))
        self.vcpus = rng.integers(1, 6, n).astype(np.int32)
        self.mem = rng.uniform(512.0, 8192.0, n)
        self.demand = rng.uniform(0, 1, n) * self.vcpus * CORE * load
        self.vm_host = rng.integers(-1, self.hosts, n).astype(np.int32)
        self.profile = rng.integers(0, len(PROFILES), n).astype(np.int32)
        self.kind = rng.integers(0, 5, n).astype(np.int32)
        self.stall = rng.uniform(0.1, 0.6, n)
        self.share = rng.integers(0, 3, n).astype(np.int32)
        self.cores = np.full(self.hosts, 16.0)
        self.host_mem = rng.uniform(16.0, 48.0, self.hosts) * 1024.0

    def run(self, on: Any) -> Any:
        """Delivered work of every VM, MHz."""
        n = len(self.demand)
        of_host = [np.flatnonzero(self.vm_host == h).astype(np.int32) for h in range(self.hosts)]
        controls = [CpuControl(shares=name) for name in ("low", "normal", "high")]
        claims, grants = cpu_claims(controls, self.share, self.vcpus), cpu_grants(self.hosts, n)
        claims.vm_claim_mhz[:] = self.demand * (self.vm_host >= 0)
        if "overhead" in on:
            config, tables = OverheadConfig(), profile_tables(list(PROFILES.values()))
            guests = (self.profile, self.kind, self.vcpus)
            p = OverheadTable(config.cost_cycles, config.steady_tax, *tables, *guests, has_io=0)
            overhead = np.array([vm_overhead(p, v, d) for v, d in enumerate(self.demand)])
            claims.vm_claim_mhz[:] = (self.demand + overhead) * (self.vm_host >= 0)
        capacity = self.cores * CORE if "cpu" in on else np.full(self.hosts, 1e12)
        both: tuple[Any, Any] = (
            make_handle("cpu claims", claims, readonly=True),
            make_handle("grants", grants),
        )
        for h, vms in enumerate(of_host):
            schedule_host(vms, capacity[h], CORE, 0.1, *both, scheduling_scratch(n))
        works = grants.vm_alloc_mhz - grants.vm_co_stop_mhz
        parts = zip(self.demand, claims.vm_claim_mhz, works)
        work = np.array([guest_work(d, c, a) if c > 0 else 0.0 for d, c, a in parts])
        if "numa" in on:
            work /= self.numa(of_host, grants.vm_alloc_mhz)
        if "memory" in on:
            tiers = MemoryConfig(swap_device="disk")
            inputs = memory_inputs([MemoryProfile()], np.zeros(n, np.int32), self.mem, tiers)
            outputs = memory_outputs(self.hosts, n)
            pair: tuple[Any, Any] = make_handle("inputs", inputs, readonly=True), make_handle("out", outputs)
            for h, vms in enumerate(of_host):
                reclaim_host(vms, self.host_mem[h], 0.0, tiers.costs, *pair, memory_scratch(n))
            work /= outputs.vm_mem_slowdown
        return work

    def numa(self, of_host: Any, alloc: Any) -> Any:
        nodes, core = np.full(self.hosts, 2, np.int32), np.full(self.hosts, CORE)
        config = NumaConfig(cpu_overcommit=16.0, rebalance_threshold=0.2)
        memory = np.full(self.hosts, 2.0**20)
        p = numa_params(config, nodes, self.cores, core, memory, self.vcpus, self.mem, self.stall)
        s = numa_state(p)
        pair: tuple[Any, Any] = make_handle("numa params", p, readonly=True), make_handle("numa state", s)
        for h, vms in enumerate(of_host):
            for v in vms.tolist():
                s.vm_nodes[v] = choose_nodes(*pair, v, h)
                add_to_nodes(*pair, v, h, s.vm_nodes[v], 1.0)
            rebalance_host(*pair, vms, alloc, h, 0.0, config.moves_in(300.0))
            apply_numa_host(*pair, vms, alloc, h, 0.0)
        return s.vm_numa_slowdown


@given(seed=SEEDS)
@MANY
def test_each_sub_model_only_ever_costs_work(seed: int) -> None:
    interval = Interval(seed)
    everything = interval.run(SUBMODELS)
    nothing = interval.run(())
    running = interval.vm_host >= 0
    want = np.where(running, np.minimum(interval.demand, interval.vcpus * CORE), 0.0)
    assert nothing == pytest.approx(want, rel=1e-14)
    assert (everything >= 0).all()
    assert (everything <= want * (1 + 1e-12)).all()
    for one in ("numa", "memory"):  # these two divide what each VM has got
        without = interval.run([name for name in SUBMODELS if name != one])
        assert (everything <= without * (1 + 1e-12)).all()
    for one in ("overhead", "cpu"):  # these change who gets what: the host as a whole never gains
        alone = interval.run([one])
        total = [x[interval.vm_host == h].sum() for h in range(interval.hosts) for x in (alone, want)]
        assert all(a <= b * (1 + 1e-12) for a, b in zip(total[::2], total[1::2]))


def test_a_quiet_host_does_all_its_work() -> None:
    for seed in range(20):
        interval = Interval(seed, load=0.01)
        interval.host_mem[:] = 2.0**20
        running = interval.vm_host >= 0
        assert interval.run(("cpu", "memory", "numa"))[running] == pytest.approx(interval.demand[running])
