"""Recovery: times by hand, restart order, first fit against plain Python, profiles that are never lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.recovery import (
    RecoveryConfig,
    first_attempt_s,
    move_profiles,
    place_restarts,
    profile_up_s,
    restart_order,
    vm_up_s,
)

MANY = settings(max_examples=200, deadline=None, derandomize=True)


def test_outages_by_hand() -> None:
    config = RecoveryConfig()
    down = 1000.0
    assert vm_up_s(config, first_attempt_s(config, down, True)) - down == 15 + 60
    assert vm_up_s(config, first_attempt_s(config, down, False)) - down == 30 + 60
    assert profile_up_s(config, down, 240.0) - down == 15 + 600 + 240
    slow = RecoveryConfig(detect_s=20, placement_s=5, boot_s=100)
    assert vm_up_s(slow, first_attempt_s(slow, down, True)) - down == 125


def test_order_is_priority_then_age_then_index() -> None:
    priority = np.array([1, 3, 3, 2, 3], dtype=np.int32)
    since = np.array([0.0, 9.0, 5.0, 0.0, 5.0])
    vms = np.array([4, 0, 1, 3, 2], dtype=np.int32)
    assert restart_order(vms, priority, since).tolist() == [2, 4, 1, 3, 0]


def test_who_fits_nowhere_does_not_block_the_others() -> None:
    used_cpu, used_mem, to_host = np.zeros(2), np.array([0.0, 100.0]), np.empty(3, dtype=np.int32)
    placed = place_restarts(
        np.array([2, 0, 1], dtype=np.int32),
        np.array([500.0, 600.0, 100.0]),
        np.array([100.0, 50.0, 900.0]),
        np.array([True, True]),
        np.full(2, 1000.0),
        np.full(2, 200.0),
        used_cpu,
        used_mem,
        to_host,
    )
    assert placed == 2
    assert to_host.tolist() == [-1, 0, 1]
    assert used_cpu.tolist() == [500.0, 600.0]
    assert used_mem.tolist() == [100.0, 150.0]


def test_first_fit_equals_plain_python() -> None:
    rng = np.random.default_rng(31)
    for _ in range(1000):
        n, m = int(rng.integers(1, 8)), int(rng.integers(0, 12))
        cpu, mem = rng.integers(1, 9, m).astype(float), rng.integers(1, 9, m).astype(float)
        size = rng.integers(5, 20, (2, n)).astype(float)
        used, usable = rng.integers(0, 10, (2, n)).astype(float), rng.random(n) < 0.8
        order, to_host = rng.permutation(m).astype(np.int32), np.empty(m, dtype=np.int32)
        got_cpu, got_mem = used[0].copy(), used[1].copy()
        placed = place_restarts(order, cpu, mem, usable, size[0], size[1], got_cpu, got_mem, to_host)
        want_cpu, want_mem, want = used[0].tolist(), used[1].tolist(), []
        for v in order:
            fits = [
                h
                for h in range(n)
                if usable[h] and want_cpu[h] + cpu[v] <= size[0, h] and want_mem[h] + mem[v] <= size[1, h]
            ]
            want.append(fits[0] if fits else -1)
            if fits:
                want_cpu[fits[0]] += cpu[v]
                want_mem[fits[0]] += mem[v]
        assert to_host.tolist() == want
        assert placed == sum(h >= 0 for h in want)
        assert got_cpu.tolist() == want_cpu
        assert got_mem.tolist() == want_mem


def test_a_profile_needs_a_compatible_spare() -> None:
    profile = np.array([10, 11, -1, -1], dtype=np.int32)
    hardware = np.array([0, 0, 1, 0], dtype=np.int32)
    fits, to_spare = np.eye(2, dtype=bool), np.empty(2, dtype=np.int32)
    failed = np.array([0, 1], dtype=np.int32)
    ready = np.array([False, False, True, True])
    assert move_profiles(failed, profile, hardware, ready, fits, to_spare) == 1
    assert to_spare.tolist() == [3, -1]
    assert profile.tolist() == [-1, 11, -1, 10]
    # Repaired, host 0 is a spare: host 1's profile goes there.
    ready[0] = True
    assert move_profiles(failed[1:], profile, hardware, ready, fits, to_spare) == 1
    assert profile.tolist() == [11, -1, -1, 10]


@given(st.integers(0, 2**32 - 1))
@MANY
def test_no_identity_is_lost_or_doubled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    profile = np.where(rng.random(n) < 0.7, np.arange(n), -1).astype(np.int32)
    hardware, fits = rng.integers(0, 3, n).astype(np.int32), rng.random((3, 3)) < 0.6
    for _ in range(4):
        failed = np.flatnonzero(rng.random(n) < 0.4).astype(np.int32)
        ready = rng.random(n) < 0.7
        ready[failed] = False
        before, to_spare = profile.copy(), np.empty(len(failed), dtype=np.int32)
        moved = move_profiles(failed, profile, hardware, ready, fits, to_spare)
        assert sorted(profile.tolist()) == sorted(before.tolist())
        assert moved == np.count_nonzero(to_spare >= 0)
        for a, b in zip(failed, to_spare):
            if b >= 0:
                assert profile[b] == before[a] >= 0
                assert before[b] < 0
                assert ready[b]
                assert fits[hardware[a], hardware[b]]


def test_bad_values_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"recovery.boot_s=-1: must be 0 or more"):
        RecoveryConfig(boot_s=-1)
