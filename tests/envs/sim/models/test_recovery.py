"""Recovery in the engine: times by hand, restarts against plain first fit, identities that are never lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import HostType
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.failures import FailureConfig, replay_outages
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.models.recovery import RecoveryConfig, restart_order
from virtgym.envs.sim.simulator import Simulator

Make = Callable[..., Any]

PENDING, RUNNING, STARTING = 1, 2, 4
FAILED = 7
PRIORITIES = tuple(GuestProfile(restart_priority=k) for k in range(3))


def outages(n_hosts: int, *spans: tuple[int, float, float]) -> dict[str, Any]:
    """Hosts that are down from one time to another, and nothing else that fails."""
    host, down, up = (np.array(column) for column in zip(*spans))
    replayed = replay_outages(host.astype(np.int32), down.astype(float), up.astype(float), n_hosts)
    return {"failures": FailureConfig(model="none"), "replayed": replayed}


def begin(sim: Simulator) -> Simulator:
    sim.reset(np.random.default_rng(0))
    return sim


def test_who_crashes_alone_boots_again_where_it_is(make_sim: Make) -> None:
    crashes = FailureConfig(model="none", vm_mtbf_h=3.0)
    times = RecoveryConfig(vm_detect_s=30.0, placement_s=7.0, boot_s=60.0)
    sim = begin(make_sim([0.5] * 4, failures=crashes, recovery=times, horizon_s=36_000.0))
    host = sim.state.vm_host.copy()
    sim.run()
    n = sim.state.totals.vm_crashes
    assert n > 5
    assert sim.state.vm_down_s.sum() == pytest.approx(n * 90.0)
    assert sim.state.totals.restarts == 0
    assert np.array_equal(sim.state.vm_host, host)


def test_order_is_priority_then_age_then_index() -> None:
    priority = np.array([1, 3, 3, 2, 3], dtype=np.int32)
    since = np.array([0.0, 9.0, 5.0, 0.0, 5.0])
    vms = np.array([4, 0, 1, 3, 2], dtype=np.int32)
    assert restart_order(vms, priority, since).tolist() == [2, 4, 1, 3, 0]


def test_who_fits_nowhere_does_not_block_the_others(make_sim: Make) -> None:
    # Host 0 fails with 2,500, 512 and 1,024 MiB; 2,048 and 1,024 MiB are left on hosts 1 and 2.
    load = {"mem_mib": [2500.0, 512.0, 1024.0, 2048.0, 3072.0], "cpu_mhz": 300.0}
    load |= {"profiles": PRIORITIES, "profile": [2, 0, 1, 0, 0]}
    sim = begin(make_sim([0.5] * 5, n_hosts=3, load=load, auto_boot=False, **outages(3, (0, 1000, 3000))))
    assert sim.state.vm_host.tolist() == [0, 0, 0, 1, 2]
    sim.advance(1016.0)
    assert sim.state.vm_host.tolist() == [-1, 1, 1, 1, 2]
    assert sim.state.vm_state.tolist() == [PENDING, STARTING, STARTING, RUNNING, RUNNING]


def random_cluster(rng: np.random.Generator, make_cluster: Make, make_workload: Make) -> Simulator:
    """Hosts of any size, half of which fail, some a little later; some are back at 1,100 s."""
    n, m = int(rng.integers(2, 8)), int(rng.integers(1, 16))
    kinds = tuple(
        HostType(
            *(f"kind {i}", int(rng.integers(1, 4)), 1000.0, 1024.0 * int(rng.integers(1, 5)), (1.0, 2.0)),
            boot_time_s=0.0,
        )
        for i in range(3)
    )
    failed = np.flatnonzero(rng.random(n) < 0.5)
    failed = failed if len(failed) else np.array([0])
    spans = [(int(h), float(rng.choice([1000, 1007])), float(rng.choice([1100, 9000]))) for h in failed]
    kind_of = rng.integers(0, 3, n).astype(np.int32)
    config = make_cluster(
        n, host_types=kinds, host_type_of=kind_of, auto_boot=False, arrival="worst_fit", **outages(n, *spans)
    )
    workload = make_workload(
        rng.random(m),
        cpu_mhz=100.0 * rng.integers(1, 10, m),
        mem_mib=256.0 * rng.integers(1, 5, m),
        profiles=PRIORITIES,
        profile=rng.integers(0, 3, m),
    )
    return begin(Simulator(config, workload, horizon_s=3600.0))


def test_restarts_equal_plain_first_fit(make_cluster: Make, make_workload: Make) -> None:
    """Noticed after 15 s, those of 1,000 s and of 1,007 s; who finds no host is tried again at 1,200 s."""
    rng = np.random.default_rng(31)
    overtaken = retried = 0
    for _ in range(150):
        sim = random_cluster(rng, make_cluster, make_workload)
        p, s = sim.params, sim.state
        sim.advance(1010.0)
        where, down = s.vm_host.copy(), s.vm_restart > 0
        cpu, mem = s.host_nominal_mhz.copy(), s.host_mem_mib.copy()
        for since, until in ((1000.0, 1015.5), (1007.0, 1022.5), (1007.0, 1200.5)):
            if until > 1200.0:
                sim.advance(1150.0 - sim.time_s)  # some hosts are back, and nobody has looked yet
            usable = s.host_power_state != FAILED
            waits = np.flatnonzero(down & (where < 0) & (s.vm_down_since_s <= since)).astype(np.int32)
            stuck, before = False, np.count_nonzero(where >= 0)
            for v in restart_order(waits, p.vm_priority, s.vm_down_since_s):
                fits = usable & (mem + p.vm_mem_mib[v] <= p.host_mem_mib)
                fits &= cpu + p.vm_cpu_mhz[v] <= p.host_cpu_mhz
                if fits.any():
                    where[v] = np.flatnonzero(fits)[0]
                    cpu[where[v]] += p.vm_cpu_mhz[v]
                    mem[where[v]] += p.vm_mem_mib[v]
                    overtaken += stuck
                stuck |= not fits.any()
            sim.advance(until - sim.time_s)
            assert np.array_equal(s.vm_host[down], where[down])
        retried += int(np.count_nonzero(where >= 0) - before)
        assert s.totals.restarts == np.count_nonzero(down & (where >= 0))
    assert min(overtaken, retried) > 20


def test_a_profile_needs_a_compatible_spare(make_sim: Make, host_type: HostType) -> None:
    kinds = (host_type, replace(host_type, name="other"))
    of = np.array([0, 0, 1, 0], dtype=np.int32)
    hosts = {"host_types": kinds, "host_type_of": of, "spares": (2, 3), "auto_boot": False}
    plan = outages(4, (0, 900, 3000), (1, 900, 5000), (3, 6000, 9000))
    sim = begin(make_sim([0.1], n_hosts=4, horizon_s=8000.0, **hosts, **plan))
    sim.advance(1600.0)  # both failed at once; host 2 is a spare of another type
    assert sim.state.host_profile.tolist() == [-1, 1, -1, 0]
    assert sim.state.host_power_state.tolist() == [FAILED, FAILED, 0, 2]
    sim.advance(5000.0)  # mended, host 0 is the spare that host 3's identity moves to; host 1 kept its own
    assert sim.state.host_profile.tolist() == [-2, 1, -1, -1]
    sim.run()
    assert sim.state.host_profile.tolist() == [0, 1, -1, -1]
    assert sim.state.host_power_state.tolist() == [2, 2, 0, FAILED]
    assert sim.state.totals.profile_moves == 2


@pytest.mark.parametrize("mended", [9000.0, 1520.0])
def test_an_identity_goes_on_when_its_spare_fails_on_the_way(
    make_sim: Make, host_type: HostType, mended: float
) -> None:
    plan = outages(4, (0, 900, 8000), (2, 1200, mended))
    sim = begin(make_sim([0.1], n_hosts=4, horizon_s=8000.0, spares=(2, 3), auto_boot=False, **plan))
    sim.advance(1516.0)  # noticed at 915, associated at 1515 with a spare that has failed
    assert sim.state.host_profile.tolist() == [-1, 1, 0, -1]
    sim.advance(20.0)  # noticed 15 s later, unless it is mended before
    assert sim.state.host_profile.tolist() == [-1, 1, 0, -1] if mended < 1530 else [-1, 1, -1, -2]
    sim.advance(600.0)
    assert sim.state.host_profile.tolist() == [-1, 1, 0, -1] if mended < 1530 else [-1, 1, -1, 0]
    assert sim.state.host_power_state[2 if mended < 1530 else 3] == ON
    assert sim.state.totals.profile_moves == (1 if mended < 1530 else 2)


def test_no_identity_is_lost_or_doubled(make_sim: Make, host_type: HostType) -> None:
    rng = np.random.default_rng(7)
    kinds = (host_type, replace(host_type, name="other"))
    moves = 0
    for seed in range(12):
        n = int(rng.integers(4, 12))
        spares = tuple(int(h) for h in rng.permutation(np.arange(1, n))[: int(rng.integers(1, n - 1))])
        sim = make_sim(
            [0.2] * 3,
            n_hosts=n,
            horizon_s=200_000.0,
            host_types=kinds,
            host_type_of=np.append(0, rng.integers(0, 2, n - 1)).astype(np.int32),
            spares=spares,
            failures=FailureConfig(up_shape=1.0, up_scale_h=4.0, down_shape=1.0, down_scale_h=1.0),
        )
        sim.reset(np.random.default_rng(seed))
        s = sim.state
        type_of = sim.params.host_type
        before = s.host_profile.copy()
        while not sim.done:
            sim.advance()
            owner = np.where(s.host_profile < -1, -2 - s.host_profile, s.host_profile)
            held = np.flatnonzero(owner >= 0)
            assert sorted(owner[held].tolist()) == sorted(set(range(n)) - set(spares))
            assert np.array_equal(type_of[owner[held]], type_of[held])
            lost = (before >= 0) & (s.host_profile < 0)
            assert np.all(~lost | (s.host_power_state == FAILED) | (s.host_power_state == 0))
            before = s.host_profile.copy()
        moves += int(s.totals.profile_moves)
    assert moves > 100


def test_bad_values_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"recovery.boot_s=-1: must be 0 or more"):
        RecoveryConfig(boot_s=-1)
