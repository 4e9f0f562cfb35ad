"""I/O: closed forms per mode, coalescing, ready time; functions and the NIC in the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.models.io_path import (
    EMULATED,
    PASSTHROUGH,
    VIRTIO,
    IoConfig,
    IoMode,
    io_cost,
    mode_table,
)
from virtgym.envs.sim.models.precopy import MBIT_PER_MIB, PrecopyConfig

Make = Callable[..., Any]
MANY = settings(max_examples=200)


def costs(mode: Any, rate: Any, waiting: Any = 0.0, config: IoConfig | None = None) -> tuple[F8, F8]:
    config = config or IoConfig()
    modes, rates, waits = np.broadcast_arrays(np.atleast_1d(mode), rate, waiting)
    table, slice_s = mode_table(config), 1e-3 * config.slice_ms
    both = [
        io_cost(int(m), float(r), float(w), table, slice_s, 300.0) for m, r, w in zip(modes, rates, waits)
    ]
    cpu, latency = np.array(both).T
    return cpu, latency


def indices(*items: int) -> Any:
    return np.array(items, dtype=np.int32)


def test_one_packet_at_a_time_by_hand() -> None:
    cpu, latency = costs([EMULATED, VIRTIO, PASSTHROUGH], 1000.0)
    # 1,000/s times 4*2000+25000+12000 = 45,000; 2*1500+6000+1500 = 10,500; 1*1500+2000+200 = 3,700 cycles
    assert cpu == pytest.approx([45.0, 10.5, 3.7], rel=1e-12)
    assert latency == pytest.approx([50e-6, 15e-6, 3e-6], rel=1e-12)


def test_coalescing_bounds_the_interrupts_and_costs_latency() -> None:
    rate = 200_000.0  # ten packets in 50 µs
    cpu, latency = costs([EMULATED, VIRTIO, PASSTHROUGH], rate)
    packets = 1e-6 * np.array([12_000, 1500, 200]) * rate
    assert cpu - packets == pytest.approx([0.033 * rate, 9e-3 * 20_000, 3.5e-3 * 20_000], rel=1e-12)
    assert latency[1] - 15e-6 == pytest.approx(np.mean(np.arange(10)) / rate, rel=1e-9)


def test_beyond_the_knee_a_packet_has_its_price() -> None:
    """Interrupts are bounded, moving the packets is not: linear, in millions of packets a matter of GHz."""
    assert costs(VIRTIO, 7.8e6)[0] == pytest.approx([11_700 + 180], rel=1e-12)
    for mode, cycles in ((EMULATED, 45_000), (VIRTIO, 1500), (PASSTHROUGH, 200)):
        cpu = costs([mode] * 4, [2e6, 3e6, 4e6, 8e6])[0]
        assert np.diff(cpu) == pytest.approx(np.array([1, 1, 4]) * cycles, rel=1e-9)


def test_posted_interrupts_spare_the_exit() -> None:
    posted = IoConfig(posted_interrupts=True)
    assert costs(PASSTHROUGH, 1000.0, config=posted)[0] == pytest.approx([2.2], rel=1e-12)
    assert costs(VIRTIO, 1000.0, config=posted)[0] == pytest.approx([10.5], rel=1e-12)


def test_ready_time_delays_delivery() -> None:
    # Half the time ready: one slice on, one slice off; half the packets wait half a slice.
    assert costs(VIRTIO, 1.0, 0.5)[1] == pytest.approx([15e-6 + 0.5 * 0.015], rel=1e-12)
    assert costs(VIRTIO, 1.0, 1.0)[1] == pytest.approx([15e-6 + 300.0], rel=1e-12)
    # Against a direct simulation of the slices.
    f, slice_s = 0.3, 0.03
    wait = slice_s * f / (1 - f)
    arrivals = (np.arange(200_000) + 0.5) / 200_000 * (slice_s + wait)
    delays = np.where(arrivals < wait, wait - arrivals, 0.0)
    assert costs(VIRTIO, 1.0, f)[1] == pytest.approx([15e-6 + delays.mean()], rel=1e-6)


def test_no_io_costs_nothing() -> None:
    cpu, latency = costs([0, 1, 2], 0.0, 0.7)
    assert cpu.tolist() == [0.0] * 3
    assert latency.tolist() == [0.0] * 3


def test_the_kernel_equals_the_formula() -> None:
    rng = np.random.default_rng(5)
    n = 2000
    mode = rng.integers(0, 3, n)
    rate = np.where(rng.random(n) < 0.1, 0.0, 10 ** rng.uniform(-1, 7, n))
    waiting = rng.random(n)
    config = IoConfig(coalesce_us=80.0, slice_ms=12.0, posted_interrupts=True)
    cpu, latency = costs(mode, rate, waiting, config)
    for v in range(n):
        kind = config.modes()[mode[v]]
        if rate[v] == 0:
            assert (cpu[v], latency[v]) == (0.0, 0.0)
            continue
        batch = max(1.0, rate[v] * 80e-6) if kind.batched else 1.0
        exits = 0 if mode[v] == PASSTHROUGH else kind.exits
        want = 1e-6 * (rate[v] / batch) * (exits * kind.exit_cycles + kind.handler_cycles)
        want += 1e-6 * rate[v] * kind.packet_cycles
        assert cpu[v] == pytest.approx(want, rel=1e-12)
        off = 0.012 * waiting[v] / (1 - waiting[v])
        want = kind.latency_us * 1e-6 + (batch - 1) / (2 * rate[v]) + min(300.0, waiting[v] * off / 2)
        assert latency[v] == pytest.approx(want, rel=1e-12)


@given(st.floats(0.1, 1e7), st.floats(1.0, 3.0), st.floats(0.0, 0.99))
@MANY
def test_monotone_and_ordered(rate: float, factor: float, waiting: float) -> None:
    little, late = costs([0, 1, 2], rate, waiting)
    more, _ = costs([0, 1, 2], rate * factor, waiting)
    assert np.all(more >= little * (1 - 1e-12))
    assert np.all(more - little >= 1e-6 * rate * (factor - 1) * np.array([12_000, 1500, 200]) - 1e-9 * more)
    assert little[0] > little[1] > little[2]
    assert np.all(late >= costs([0, 1, 2], rate)[1])


def test_functions_are_counted_where_they_are_used(make_sim: Make) -> None:
    device, other = IoProfile(mode="passthrough", functions=2), IoProfile(mode="virtio", functions=5)
    load = {"profiles": tuple(GuestProfile(io=io) for io in (device, other)), "profile": [0, 1, 0, 0]}
    sim = make_sim([0.1] * 4, load=load, cores=4, io=IoConfig(functions_per_host=3))
    assert sim.state.vm_host.tolist() == [0, 0, 1, -1]
    assert sim.state.host_functions_used.tolist() == [2, 2]
    refused = sim.apply(Decisions(place_vm=indices(3), place_host=indices(1)))
    assert "function" in str(refused[0])


def test_a_migration_and_vms_share_the_nic(make_sim: Make) -> None:
    traffic = ((200.0, 100.0), (600.0, 0.0), (0.0, 700.0), (0.0, 0.0))
    profiles = tuple(
        GuestProfile(io=IoProfile(net_out_mbps=(out, 0.0), net_in_mbps=(into, 0.0)), dirty_mib_s=(0.0, 0.0))
        for out, into in traffic
    )
    load = {"profiles": profiles, "profile": [0, 1, 2, 3], "mem_mib": [1024.0, 1024.0, 3072.0, 1024.0]}
    sim = make_sim([0.1] * 4, load=load, cores=4, io=IoConfig(), migration=PrecopyConfig())
    assert sim.state.vm_host.tolist() == [0, 0, 1, 0]
    assert not sim.apply(Decisions(move_vm=indices(3), move_host=indices(1)))
    sim.advance(2.0)
    # Host 0 sends 200 + two that want all of it: 400 each. Host 1 receives 700 wanted + 400.
    assert sim.state.vm_net_out_mbps.tolist() == [200.0, 400.0, 0.0, 0.0]
    assert sim.state.copy_rate_mib_s[3] * MBIT_PER_MIB == pytest.approx(400.0, rel=1e-12)
    assert sim.state.vm_net_in_mbps.tolist() == [100.0, 0.0, 600.0, 0.0]


def test_bad_values_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"io.slice_ms=0"):
        IoConfig(slice_ms=0)
    with pytest.raises(ConfigError, match=r"io mode.exits=-1"):
        IoMode(-1, 1, 1, 1, 1)
    with pytest.raises(ConfigError, match=r"io mode.packet_cycles=-1"):
        IoMode(1, 1, 1, 1, -1)
    with pytest.raises(ConfigError, match=r"functions_per_host=1.5"):
        IoConfig(functions_per_host=1.5)  # type: ignore[arg-type]
