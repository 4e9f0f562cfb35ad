"""CPU levels, kernels and pinned devices: where a VM may go, and what it remembers."""

from __future__ import annotations

import numpy as np
import pytest

from virtgym.envs.sim.compatibility import (
    CPU_LEVELS,
    MOVE_REFUSED_DEVICE,
    MOVE_REFUSED_FEATURES,
    MOVE_REFUSED_KERNEL,
    CpuLevels,
    baselines_at_power_on,
    check_compatible,
    compatible_hosts,
)
from virtgym.envs.sim.errors import ConfigError

LEVELS = CpuLevels(CPU_LEVELS)
BITS = LEVELS.bits()


def feature_set(level: int) -> set[str]:
    word = int(BITS[level])
    return {name for i, name in enumerate(LEVELS.features) if word >> i & 1}


def test_levels_nest_within_a_vendor_and_never_across() -> None:
    names = LEVELS.names
    intel = len(CPU_LEVELS["intel"])
    for a in range(len(names)):
        for b in range(len(names)):
            same = (a < intel) == (b < intel)
            assert (feature_set(a) <= feature_set(b)) == (same and a <= b), (names[a], names[b])


def test_a_vm_moves_up_but_not_below_its_baseline() -> None:
    old, new = BITS[LEVELS.code("haswell")], BITS[LEVELS.code("ice_lake")]
    base_old, base_new = baselines_at_power_on(np.array([old, new]), BITS)
    assert LEVELS.names[base_old] == "haswell"
    assert LEVELS.names[base_new] == "ice_lake"
    assert check_compatible(BITS[base_old], 0, 0, 0, new, 0) == 0
    assert check_compatible(BITS[base_old], 0, 0, 0, old, 0) == 0  # and back: it kept its level
    assert check_compatible(BITS[base_new], 0, 0, 0, old, 0) == MOVE_REFUSED_FEATURES
    # With the cluster held at haswell, VMs from the new host move to the old one.
    held = baselines_at_power_on(np.array([new]), BITS, allowed=old)[0]
    assert LEVELS.names[held] == "haswell"
    assert check_compatible(BITS[held], 0, 0, 0, old, 0) == 0


def test_vendors_do_not_mix() -> None:
    intel, amd = BITS[LEVELS.code("merom")], BITS[LEVELS.code("zen4")]
    assert check_compatible(intel, 0, 0, 0, amd, 0) == MOVE_REFUSED_FEATURES


def test_a_host_below_every_level_has_none() -> None:
    assert baselines_at_power_on(np.array([0], dtype=np.uint64), BITS).tolist() == [-1]


def test_kernels_and_devices() -> None:
    word = BITS[0]
    assert check_compatible(word, 1, 0, 5, word, 6) == MOVE_REFUSED_KERNEL
    assert check_compatible(word, 1, 0, 5, word, 5) == 0
    assert check_compatible(word, 0, 0, 5, word, 6) == 0
    assert check_compatible(word, 0, 1, 5, word, 5) == MOVE_REFUSED_DEVICE


def test_the_kernels_equal_sets_on_random_states() -> None:
    rng = np.random.default_rng(8)
    n = 64
    for _ in range(30):  # 1,920 pairs
        level = int(rng.integers(len(BITS)))
        extra = rng.integers(0, 2**63, n, dtype=np.uint64)
        hosts = np.where(rng.random(n) < 0.7, BITS[rng.integers(0, len(BITS), n)], extra)
        kernels = rng.integers(0, 2, n).astype(np.int32)
        shares, pinned = int(rng.integers(2)), int(rng.random() < 0.2)
        codes = np.empty(n, dtype=np.int32)
        compatible_hosts(BITS[level], shares, pinned, 0, hosts, kernels, codes)
        for h in range(n):
            have = {name for i, name in enumerate(LEVELS.features) if int(hosts[h]) >> i & 1}
            want = 0 if feature_set(level) <= have else MOVE_REFUSED_FEATURES
            want = MOVE_REFUSED_KERNEL if shares and kernels[h] != 0 else want
            assert codes[h] == (MOVE_REFUSED_DEVICE if pinned else want)
        best = baselines_at_power_on(hosts, BITS)
        for h in range(n):
            fits = [i for i in range(len(BITS)) if int(BITS[i]) & ~int(hosts[h]) == 0]
            assert best[h] == (fits[-1] if fits else -1)


def test_bad_levels_are_named() -> None:
    with pytest.raises(ConfigError, match=r"cpu_level=pentium: no such level"):
        LEVELS.code("pentium")
    with pytest.raises(ConfigError, match=r"named twice"):
        CpuLevels({"a": (("x", "f"),), "b": (("x", "g"),)})
    with pytest.raises(ConfigError, match=r"at most 64"):
        CpuLevels({"a": (("x", " ".join(f"f{i}" for i in range(64))),)})
