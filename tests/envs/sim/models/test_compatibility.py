"""CPU levels, kernels and pinned devices: where a VM may go, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import HostType
from virtgym.envs.sim.decisions import (
    MOVE_REFUSED_DEVICE,
    MOVE_REFUSED_FEATURES,
    MOVE_REFUSED_KERNEL,
    Decisions,
)
from virtgym.envs.sim.engine.orders import vm_can_follow
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.models.compatibility import (
    CPU_LEVELS,
    CpuLevels,
    baselines_at_power_on,
)
from virtgym.envs.sim.models.io_path import IoConfig
from virtgym.envs.sim.models.overhead import GuestVirtualization, HostVirtualization, OverheadConfig

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


def follow(
    make_sim: Callable[..., Any],
    levels: Sequence[str],
    profile: GuestProfile | None = None,
    kernels: Sequence[str] = (),
    at: int = 0,
    evc_level: str | None = None,
) -> list[int]:
    """Codes against live migrations of a VM that was started on one host, to every host."""
    n = len(levels)
    kinds = tuple(
        HostType(
            *(f"{i}", 2, 1000.0, 4096.0, (100.0, 200.0)),
            cpu_level=level,
            virtualization=HostVirtualization(kernel=kernel),
        )
        for i, (level, kernel) in enumerate(zip(levels, kernels or ["k"] * n))
    )
    sim = make_sim(
        [0.1],
        n_hosts=n,
        load={"profiles": (profile or GuestProfile(),)},
        host_types=kinds,
        host_type_of=np.arange(n, dtype=np.int32),
        arrival="policy",
        evc_level=evc_level,
        overhead=OverheadConfig(),
        io=IoConfig(),
    )
    place = Decisions(place_vm=np.array([0], dtype=np.int32), place_host=np.array([at], dtype=np.int32))
    assert not sim.apply(place)
    return [int(vm_can_follow(sim.kernel_params, sim.kernel_state, 0, h)) for h in range(n)]


def shares_kernel(kernel: str) -> GuestProfile:
    return GuestProfile(virtualization=GuestVirtualization("os_level", kernel=kernel))


PINNED = GuestProfile(io=IoProfile(mode="passthrough"))


def test_a_vm_moves_up_but_not_below_its_baseline(make_sim: Callable[..., Any]) -> None:
    levels = ["haswell", "ice_lake"]
    assert follow(make_sim, levels) == [0, 0]  # and back: it kept its level
    assert follow(make_sim, levels, at=1) == [MOVE_REFUSED_FEATURES, 0]
    # With the cluster held at haswell, VMs from the new host move to the old one.
    assert follow(make_sim, levels, at=1, evc_level="haswell") == [0, 0]
    old, new = (BITS[LEVELS.code(name)] for name in levels)
    assert [LEVELS.names[b] for b in baselines_at_power_on(np.array([old, new]), BITS)] == levels
    assert LEVELS.names[baselines_at_power_on(np.array([new]), BITS, allowed=old)[0]] == "haswell"


def test_vendors_do_not_mix(make_sim: Callable[..., Any]) -> None:
    assert follow(make_sim, ["merom", "zen4"]) == [0, MOVE_REFUSED_FEATURES]


def test_a_host_below_every_level_has_none() -> None:
    assert baselines_at_power_on(np.array([0], dtype=np.uint64), BITS).tolist() == [-1]


def test_kernels_and_devices(make_sim: Callable[..., Any]) -> None:
    levels, kernels = ["merom"] * 3, ["k5", "k6", "k5"]
    assert follow(make_sim, levels, shares_kernel("k5"), kernels) == [0, MOVE_REFUSED_KERNEL, 0]
    assert follow(make_sim, levels, None, kernels) == [0, 0, 0]
    assert follow(make_sim, levels, PINNED, kernels) == [MOVE_REFUSED_DEVICE] * 3


def test_the_engine_equals_sets_on_random_clusters(make_sim: Callable[..., Any]) -> None:
    rng = np.random.default_rng(8)
    n = 10
    for _ in range(60):
        levels = rng.choice(LEVELS.names, n).tolist()
        kernels, at = rng.choice(["k5", "k6"], n).tolist(), int(rng.integers(n))
        shares, pinned = bool(rng.integers(2)), bool(rng.random() < 0.2)
        profile = shares_kernel(kernels[at]) if shares else None
        if pinned:
            profile = replace(profile or GuestProfile(), io=PINNED.io)
        codes = follow(make_sim, levels, profile, kernels, at)
        sees = feature_set(LEVELS.code(levels[at]))
        for h in range(n):
            want = 0 if sees <= feature_set(LEVELS.code(levels[h])) else MOVE_REFUSED_FEATURES
            want = MOVE_REFUSED_KERNEL if shares and kernels[h] != kernels[at] else want
            assert codes[h] == (MOVE_REFUSED_DEVICE if pinned else want)


def test_baselines_equal_sets_on_random_hosts() -> None:
    rng = np.random.default_rng(9)
    extra = rng.integers(0, 2**63, 2000, dtype=np.uint64)
    hosts = np.where(rng.random(2000) < 0.7, BITS[rng.integers(0, len(BITS), 2000)], extra)
    for word, level in zip(hosts, baselines_at_power_on(hosts, BITS)):
        fits = [i for i in range(len(BITS)) if int(BITS[i]) & ~int(word) == 0]
        assert level == (fits[-1] if fits else -1)


def test_bad_levels_are_named() -> None:
    with pytest.raises(ConfigError, match=r"cpu_level=pentium: no such level"):
        LEVELS.code("pentium")
    with pytest.raises(ConfigError, match=r"named twice"):
        CpuLevels({"a": (("x", "f"),), "b": (("x", "g"),)})
    with pytest.raises(ConfigError, match=r"at most 64"):
        CpuLevels({"a": (("x", " ".join(f"f{i}" for i in range(64))),)})
