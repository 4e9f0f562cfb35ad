"""I/O: closed forms per mode, coalescing, ready time, functions, and the NIC shared with migrations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.io_path import (
    EMULATED,
    PASSTHROUGH,
    VIRTIO,
    IoConfig,
    IoMode,
    count_functions,
    io_costs,
    mode_table,
    share_nics,
)

F8 = NDArray[np.float64]
MANY = settings(max_examples=200, deadline=None, derandomize=True)


def costs(mode: Any, rate: Any, waiting: Any = 0.0, config: IoConfig | None = None) -> tuple[F8, F8]:
    config = config or IoConfig()
    modes, rates, waits = np.broadcast_arrays(np.atleast_1d(mode), rate, waiting)
    cpu, latency = np.empty(len(modes)), np.empty(len(modes))
    io_costs(
        np.ascontiguousarray(modes, dtype=np.int8),
        np.ascontiguousarray(rates, dtype=float),
        np.ascontiguousarray(waits, dtype=float),
        mode_table(config),
        1e-3 * config.slice_ms,
        300.0,
        cpu,
        latency,
    )
    return cpu, latency


def test_one_packet_at_a_time_by_hand() -> None:
    cpu, latency = costs([EMULATED, VIRTIO, PASSTHROUGH], 1000.0)
    # 1,000/s times 4*2000+25000 = 33,000; 2*1500+6000 = 9,000; 1*1500+2000 = 3,500 cycles
    assert cpu == pytest.approx([33.0, 9.0, 3.5], rel=1e-12)
    assert latency == pytest.approx([50e-6, 15e-6, 3e-6], rel=1e-12)


def test_coalescing_bounds_the_interrupts_and_costs_latency() -> None:
    rate = 200_000.0  # ten packets in 50 µs
    cpu, latency = costs([EMULATED, VIRTIO, PASSTHROUGH], rate)
    assert cpu == pytest.approx([0.033 * rate, 9e-3 * 20_000, 3.5e-3 * 20_000], rel=1e-12)
    assert latency[1] - 15e-6 == pytest.approx(np.mean(np.arange(10)) / rate, rel=1e-9)
    assert costs(VIRTIO, 1e9)[0] == pytest.approx(costs(VIRTIO, 1e6)[0], rel=1e-12)


def test_posted_interrupts_spare_the_exit() -> None:
    posted = IoConfig(posted_interrupts=True)
    assert costs(PASSTHROUGH, 1000.0, config=posted)[0] == pytest.approx([2.0], rel=1e-12)
    assert costs(VIRTIO, 1000.0, config=posted)[0] == pytest.approx([9.0], rel=1e-12)


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
    assert little[0] > little[1] > little[2]
    assert np.all(late >= costs([0, 1, 2], rate)[1])


def test_functions_are_counted_where_they_are_used() -> None:
    host = np.array([0, 0, 1, -1, 2], dtype=np.int32)
    mode = np.array([2, 1, 2, 2, 2], dtype=np.int8)
    assert count_functions(host, mode, np.array([1, 5, 2, 9, 1], dtype=np.int32), 4).tolist() == [1, 2, 1, 0]


def test_a_migration_and_vms_share_the_nic() -> None:
    nic = np.array([1000.0, 1000.0])
    send, receive, moved = share_nics(
        nic,
        np.array([0, 0, 1, -1], dtype=np.int32),
        np.array([200.0, 600.0, 0.0, 50.0]),
        np.array([100.0, 0.0, 700.0, 50.0]),
        np.array([0], dtype=np.int32),
        np.array([1], dtype=np.int32),
        np.array([np.inf]),
    )
    # Host 0 sends 200 + two that want all of it: 400 each. Host 1 receives 700 wanted + 400.
    assert send.tolist() == [200.0, 400.0, 0.0, 0.0]
    assert moved.tolist() == [400.0]
    assert receive.tolist() == [100.0, 0.0, 600.0, 0.0]


@given(st.integers(0, 2**32 - 1))
@MANY
def test_no_nic_carries_more_than_it_can(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_hosts, n_vms, n_pairs = int(rng.integers(2, 6)), int(rng.integers(0, 12)), int(rng.integers(0, 5))
    nic = rng.choice([1000.0, 10000.0], n_hosts)
    host = rng.integers(-1, n_hosts, n_vms).astype(np.int32)
    want = rng.uniform(0, 900, (2, n_vms)) * (rng.random((2, n_vms)) < 0.7)
    source = rng.integers(0, n_hosts, n_pairs).astype(np.int32)
    dest = ((source + rng.integers(1, n_hosts, n_pairs)) % n_hosts).astype(np.int32)
    send, receive, pair = share_nics(nic, host, want[0], want[1], source, dest, np.full(n_pairs, np.inf))
    for h in range(n_hosts):
        assert send[host == h].sum() + pair[source == h].sum() <= nic[h] * (1 + 1e-12)
        assert receive[host == h].sum() + pair[dest == h].sum() <= nic[h] * (1 + 1e-12)
    assert np.all(send <= want[0])
    assert np.all(receive <= want[1])
    assert np.all(pair > 0)


def test_bad_values_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"io.slice_ms=0"):
        IoConfig(slice_ms=0)
    with pytest.raises(ConfigError, match=r"io mode.exits=-1"):
        IoMode(-1, 1, 1, 1)
    with pytest.raises(ConfigError, match=r"functions_per_host=1.5"):
        IoConfig(functions_per_host=1.5)  # type: ignore[arg-type]
    one = np.array([0], dtype=np.int32)
    with pytest.raises(ConfigError, match=r"two different hosts"):
        share_nics(np.ones(1), one, np.zeros(1), np.zeros(1), one, one, np.ones(1))
