"""Hot standby: slowdown and logging by hand; where the engine puts secondaries and who takes over, against
plain Python.
"""

from __future__ import annotations

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
from virtgym.envs.sim.engine import mirrors
from virtgym.envs.sim.engine.mirrors import check_mirror
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.models.failures import FailureConfig, FailureDomain, replay_outages
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig, mirror_loss, mirror_need_mbps, standby_params
from virtgym.envs.sim.simulator import Simulator

Make = Callable[..., Any]
MANY = settings(max_examples=200)

PENDING, RUNNING, STARTING = 1, 2, 4
ON, FAILED = 2, 7
MBIT_PER_MIB = 8.388608


def costs(config: StandbyConfig, dirty: float, read: float = 0.0, net_in: float = 0.0) -> tuple[float, float]:
    """Share of its work that a VM loses, and the log that it needs, Mbit/s."""
    params = standby_params(config)
    return float(mirror_loss(params, dirty)), float(mirror_need_mbps(params, dirty, read, net_in))


def test_checkpoints_by_hand() -> None:
    config = StandbyConfig(epoch_s=0.025, fixed_pause_s=0.002, copy_mib_s=1000.0)
    # 120 MiB/s for 25 ms = 3 MiB, 3 ms to copy: 5 ms of 30 ms; 3 MiB every 30 ms = 100 MiB/s.
    assert costs(config, 0.0) == pytest.approx((2 / 27, 0.0), rel=1e-12)
    assert costs(config, 120.0) == pytest.approx((5 / 30, 100 * MBIT_PER_MIB), rel=1e-12)


def test_lockstep_by_hand(make_sim: Make) -> None:
    assert costs(StandbyConfig("lockstep"), 99.0, 5.0, 60.0) == pytest.approx((0.1, 120.0))
    profile = GuestProfile(protected=True, io=IoProfile(disk_read_mb_s=(5.0, 0.0), net_in_mbps=(60.0, 0.0)))
    sim = make_sim([0.5], load={"profiles": (profile,)}, standby=StandbyConfig("lockstep"))
    sim.advance()
    assert sim.state.vm_mirror_need_mbps[0] == sim.state.vm_mirror_mbps[0] == pytest.approx(120.0)
    assert sim.state.vm_granted_mhz[0] == pytest.approx(0.9 * 500.0)


@pytest.mark.parametrize("nic_mbps", [50.0, 200.0, 700.0, 10_000.0])
def test_a_slow_log_slows_the_vm(make_sim: Make, nic_mbps: float) -> None:
    """It does the share granted / needed of the work that checkpoints leave it."""
    load = {"profiles": (GuestProfile(protected=True, dirty_mib_s=(100.0, 0.0)),)}
    sim = make_sim([0.5], load=load, nic_mbps=nic_mbps, standby=StandbyConfig())
    sim.advance()
    pause = 0.002 + 100.0 * 0.025 / 2048.0
    needed = 100.0 * 0.025 * MBIT_PER_MIB / (0.025 + pause)
    granted = min(needed, nic_mbps)
    assert sim.state.vm_mirror_mbps[0] == pytest.approx(granted, rel=1e-12)
    want = 500.0 * 0.025 / (0.025 + pause) * granted / needed
    assert sim.state.vm_granted_mhz[0] == pytest.approx(want, rel=1e-12)


@given(st.floats(0, 5000), st.floats(1.0, 4.0), st.floats(0.001, 1.0))
@MANY
def test_more_dirt_costs_more_and_longer_epochs_less(dirty: float, factor: float, epoch: float) -> None:
    def loss(config: StandbyConfig, rate: float) -> float:
        return costs(config, rate)[0]

    short, long = StandbyConfig(epoch_s=epoch), StandbyConfig(epoch_s=epoch * factor)
    assert 0 <= loss(short, dirty) <= loss(short, dirty * factor) * (1 + 1e-12) < 1 + 1e-12
    assert loss(long, dirty) <= loss(short, dirty) * (1 + 1e-12)


def test_every_reason_against_a_host(make_sim: Make) -> None:
    profile = GuestProfile(protected=True, cpu=CpuControl(100.0))
    load = {"profiles": (profile,), "vcpus": 2}
    models = {"standby": StandbyConfig(), "cpu": SchedulingConfig()}
    sim = make_sim([0.1], n_hosts=3, load=load, domains=(FailureDomain("rack", (0, 2), 1.0, 1.0),), **models)

    def check(h: int = 1, *changes: tuple[str, int, float]) -> int:
        other = sim.fork()
        for name, at, value in changes:
            getattr(other.state, name)[at] = value
        return int(check_mirror(other.kernel_params, other.kernel_state, 0, h))

    assert check() == 0
    assert check(1, ("host_power_state", 1, 0)) == mirrors.NOT_OPEN
    assert check(1, ("host_drain", 1, 1)) == check(1, ("host_maintenance", 1, 1)) == mirrors.NOT_OPEN
    assert check(0) == mirrors.OWN_HOST
    assert check(2) == mirrors.SAME_DOMAIN
    assert check(1, ("host_mirrors", 1, 4)) == mirrors.FULL_OF_VMS
    assert check(1, ("host_mirror_vcpus", 1, 7)) == mirrors.FULL_OF_VCPUS
    assert check(1, ("host_mirror_vcpus", 1, 6), ("host_mirror_vcpus", 0, 6)) == 0
    assert check(1, ("host_mem_mib", 1, 3073.0)) == mirrors.NO_MEMORY
    assert check(1, ("host_nominal_mhz", 1, 1001.0)) == mirrors.NO_CPU
    assert check(1, ("host_mem_mib", 1, 3072.0), ("host_nominal_mhz", 1, 1000.0)) == 0
    assert check(1, ("host_mirrors", 0, 4)) == check(1, ("host_mirror_vcpus", 0, 7)) == mirrors.SOURCE_FULL
    assert check(1, ("host_reserved_mhz", 1, 1901.0)) == mirrors.CANNOT_RUN


class Case:
    """A random cluster of protected VMs and others, whose hosts share racks and power feeds."""

    def __init__(self, rng: np.random.Generator, make_cluster: Make, make_workload: Make) -> None:
        n, m = int(rng.integers(2, 8)), int(rng.integers(1, 16))
        self.rng, self.n = rng, n
        kinds = tuple(
            HostType(
                f"kind {i}", int(rng.integers(1, 5)), 1000.0, 1024.0 * int(rng.integers(1, 7)), (1.0, 2.0)
            )
            for i in range(3)
        )
        self.domain = rng.integers(-1, 3, (2, n))
        groups = [np.flatnonzero(self.domain[k] == i) for k in range(2) for i in range(3)]
        self.groups = [group for group in groups if len(group)]
        self.limits = int(rng.integers(1, 5)), int(rng.integers(4, 9))
        self.config = make_cluster(
            n,
            host_types=kinds,
            host_type_of=rng.integers(0, 3, n).astype(np.int32),
            arrival="worst_fit",
            arrival_cpu_overcommit=2.0,
            domains=tuple(
                FailureDomain(f"domain {i}", tuple(group.tolist()), 1e12, 1.0)
                for i, group in enumerate(self.groups)
            ),
            standby=StandbyConfig(max_vms=self.limits[0], max_vcpus=self.limits[1]),
        )
        self.workload = make_workload(
            rng.random(m),
            cpu_mhz=100.0 * rng.integers(1, 10, m),
            vcpus=rng.integers(1, 5, m),
            mem_mib=256.0 * rng.integers(1, 5, m),
            profiles=(GuestProfile(), GuestProfile(protected=True)),
            profile=rng.random(m) < 0.8,
        )

    def start(self, failed: Any = ()) -> Simulator:
        """The simulator at time 0, some hosts in maintenance; some others fail at 500 s, all together."""
        config = self.config
        if len(failed):
            down = np.full(len(failed), 500.0)
            replayed = replay_outages(np.array(failed, dtype=np.int32), down, down + 900.0, self.n)
            config = replace(config, failures=FailureConfig(model="none"), replayed=replayed)
        sim = Simulator(config, self.workload, horizon_s=3600.0)
        sim.reset(np.random.default_rng(0))
        sim.apply(Decisions(maintenance=np.flatnonzero(self.rng.random(self.n) < 0.15).astype(np.int32)))
        return sim

    def secondaries(self, sim: Simulator) -> tuple[list[int], Any, Any]:
        """Hosts of the secondaries by first fit, VM by VM, and nominal CPU and memory of the hosts then."""
        p, s = sim.params, sim.state
        cpu, mem = s.host_nominal_mhz.copy(), s.host_mem_mib.copy()
        vms, vcpus = [0] * self.n, [0] * self.n
        second = [-1] * len(s.vm_host)
        for v in np.flatnonzero((p.vm_protected > 0) & (s.vm_host >= 0)):
            a, own = int(s.vm_host[v]), int(p.vm_vcpus[v])
            for h in range(self.n):
                apart = h != a and all(k[h] < 0 or k[h] != k[a] for k in self.domain)
                allowed = all(vms[e] < self.limits[0] and vcpus[e] + own <= self.limits[1] for e in (a, h))
                room = mem[h] + p.vm_mem_mib[v] <= p.host_mem_mib[h]
                room &= cpu[h] + p.vm_cpu_mhz[v] <= 2.0 * p.host_cpu_mhz[h]
                if apart and allowed and room and not s.host_maintenance[h]:
                    second[v] = h
                    cpu[h] += p.vm_cpu_mhz[v]
                    mem[h] += p.vm_mem_mib[v]
                    for e in (a, h):
                        vms[e] += 1
                        vcpus[e] += own
                    break
        return second, cpu, mem


def test_placement_equals_plain_python_and_keeps_the_books(make_cluster: Make, make_workload: Make) -> None:
    rng = np.random.default_rng(41)
    started = refused = 0
    for _ in range(200):
        case = Case(rng, make_cluster, make_workload)
        sim = case.start()
        second, cpu, mem = case.secondaries(sim)
        sim.advance(1.0)
        s, vcpus = sim.state, sim.params.vm_vcpus
        assert s.vm_secondary.tolist() == second
        assert np.array_equal(s.host_nominal_mhz, cpu)
        assert np.array_equal(s.host_mem_mib, mem)
        held = s.vm_secondary >= 0
        both = np.concatenate([s.vm_host[held], s.vm_secondary[held]])
        assert np.array_equal(s.host_mirrors, np.bincount(both, minlength=case.n))
        assert np.array_equal(
            s.host_mirror_vcpus, np.bincount(both, weights=np.tile(vcpus[held], 2), minlength=case.n)
        )
        started += int(held.sum())
        refused += int(((sim.params.vm_protected > 0) & ~held).sum())
    assert min(started, refused) > 200


def test_take_over_equals_plain_python(make_cluster: Make, make_workload: Make) -> None:
    """Whatever hosts fail at one instant; if they are a failure domain's, no pair of images is lost."""
    rng = np.random.default_rng(43)
    seen = {"promoted": 0, "alone": 0, "lost": 0, "saved by its domain": 0}
    for i in range(200):
        case = Case(rng, make_cluster, make_workload)
        failed = np.flatnonzero(rng.random(case.n) < 0.5)
        domain = i % 2 == 0 and len(case.groups) > 0
        if domain:
            failed = case.groups[int(rng.integers(len(case.groups)))]
        sim = case.start(failed)
        sim.advance(499.0)
        s = sim.state
        host, second = s.vm_host.copy(), s.vm_secondary.copy()
        sim.advance(1.5)
        takeovers = 0
        for v in np.flatnonzero(host >= 0):
            a, b = host[v] in failed, second[v] >= 0 and second[v] in failed
            if a and second[v] >= 0 and not b:
                want = (second[v], -1, STARTING)
                takeovers += 1
                seen["saved by its domain"] += domain
            elif a:
                want = (-1, -1, PENDING)
                seen["lost"] += bool(b)
                assert not (domain and b)
            else:
                want = (host[v], -1 if b else second[v], RUNNING)
                seen["alone"] += bool(b)
            assert (s.vm_host[v], s.vm_secondary[v], s.vm_state[v]) == want
        assert s.totals.takeovers == takeovers
        seen["promoted"] += takeovers
        sim.advance(1.0)  # the second of the outage is over
        assert s.vm_down_s[s.vm_state == RUNNING].sum() == pytest.approx(takeovers)
    assert min(seen.values()) > 10, seen


def test_bad_values_name_their_key() -> None:
    for change, text in (
        ({"mode": "raid"}, "standby.mode=raid: must be one of checkpoint, lockstep"),
        ({"epoch_s": 0}, "standby.epoch_s=0"),
        ({"max_vms": 0}, "standby.max_vms=0"),
        ({"lockstep_loss": 2}, "standby.lockstep_loss=2"),
    ):
        with pytest.raises(ConfigError, match=text):
            StandbyConfig(**change)
