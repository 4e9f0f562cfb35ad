"""The generator of requests: seeded, and near the statistics of the rows that it is calibrated to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import TraceError
from virtgym.envs.traces.formats.synthetic_requests import FLAVOURS, generate_requests
from virtgym.envs.traces.requests import read_requests


def statistics(seed: int) -> dict[str, float]:
    """The statistics of the generator's docstring."""
    trace = generate_requests(np.random.default_rng(seed), 50_000)
    cores, memory = trace.cores, trace.memory_gib
    step = np.diff(trace.arrival_s)
    starts = np.flatnonzero(np.concatenate(([True], step > 0)))
    burst, gap = np.diff(np.append(starts, trace.n_requests)), np.diff(trace.arrival_s[starts])
    small = np.log(trace.lifetime_s[(cores == 1) & (memory == 2)])
    hourly = np.bincount((trace.arrival_s // 3600).astype(int))
    return {
        "1x2": float(np.mean((cores == 1) & (memory == 2))),
        "1x1": float(np.mean((cores == 1) & (memory == 1))),
        "2x4": float(np.mean((cores == 2) & (memory == 4))),
        "double": float(np.mean(memory > 10)),
        "cores": float(cores.mean()),
        "memory": float(memory.mean()),
        "together": float(np.mean(step == 0)),
        "burst": float(burst.mean()),
        "burst p99": float(np.quantile(burst, 0.99)),
        "gap p50": float(np.median(gap)),
        "gap": float(gap.mean()),
        "gap p99": float(np.quantile(gap, 0.99)),
        "fano": float(hourly.var() / hourly.mean()),
        "same": float(np.mean((cores[1:] == cores[:-1]) & (memory[1:] == memory[:-1]))),
        "life p10": float(np.quantile(trace.lifetime_s, 0.1)),
        "life p50": float(np.median(trace.lifetime_s)),
        "life p90": float(np.quantile(trace.lifetime_s, 0.9)),
        "life p99": float(np.quantile(trace.lifetime_s, 0.99)),
        "life": float(trace.lifetime_s.mean()),
        "life, next": float(np.corrcoef(small[1:], small[:-1])[0, 1]),
        "life, 50th": float(np.corrcoef(small[50:], small[:-50])[0, 1]),
    }


RANGES = {  # about the value of rows 0 to 49,999
    "1x2": (0.57, 0.70),
    "1x1": (0.11, 0.17),
    "2x4": (0.085, 0.14),
    "double": (0.02, 0.055),
    "cores": (1.35, 2.0),
    "memory": (2.7, 4.2),
    "together": (0.51, 0.58),
    "burst": (2.05, 2.35),
    "burst p99": (13, 20),
    "gap p50": (15, 25),
    "gap": (38, 56),
    "gap p99": (280, 460),
    "fano": (55, 150),
    "same": (0.72, 0.8),
    "life p10": (80, 200),
    "life p50": (4000, 5800),
    "life p90": (28_000, 40_000),
    "life p99": (430_000, 650_000),
    "life": (19_000, 30_000),
    "life, next": (0.5, 0.8),
    "life, 50th": (0.08, 0.35),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_statistics_are_those_of_the_genuine_rows(seed: int) -> None:
    found = statistics(seed)
    outside = {key: found[key] for key, (low, high) in RANGES.items() if not low <= found[key] <= high}
    assert outside == {}


def test_the_seed_decides() -> None:
    one, same, other = (generate_requests(np.random.default_rng(seed), 500) for seed in (1, 1, 2))
    for key in ("cores", "memory_gib", "arrival_s", "lifetime_s", "vm_ids"):
        assert np.array_equal(getattr(one, key), getattr(same, key))
    assert not np.array_equal(one.lifetime_s, other.lifetime_s)
    again = read_requests(format="synthetic", seed=1, n=500)
    assert np.array_equal(one.lifetime_s, again.lifetime_s)
    assert read_requests().n_requests == 20_000


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 400),
    intensity=st.floats(1e-3, 1e3),
    scale=st.floats(1e-6, 9),
)
def test_whatever_the_arguments_the_trace_is_sound(seed: int, n: int, intensity: float, scale: float) -> None:
    trace = generate_requests(np.random.default_rng(seed), n, intensity=intensity, lifetime_scale=scale)
    assert trace.n_requests == n
    assert trace.arrival_s[0] == 0
    assert trace.lifetime_s.min() >= 1
    assert set(zip(trace.cores, trace.memory_gib)) <= {(cores, memory) for cores, memory, _ in FLAVOURS}
    assert not (trace.arrival_s % 1).any()


def test_load_follows_intensity_and_lifetimes() -> None:
    plain = generate_requests(np.random.default_rng(5), 20_000)
    fast = generate_requests(np.random.default_rng(5), 20_000, intensity=0.25, lifetime_scale=3.0)
    assert fast.span_s == pytest.approx(plain.span_s * 4, rel=0.02)
    assert fast.lifetime_s.mean() == pytest.approx(plain.lifetime_s.mean() * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n": 0}, "n must be at least 1 request, is 0"),
        ({"intensity": 0.0}, "intensity must be positive"),
        ({"lifetime_scale": float("nan")}, "lifetime_scale must be positive"),
        ({"seed": -1}, "seed must be at least 0, is -1"),
        ({"n": 1.5}, "n must be int, is 1.5"),
        ({"rate": 2}, "no option 'rate'"),
    ],
)
def test_errors(options: dict[str, float], expected: str) -> None:
    with pytest.raises(TraceError, match=f"^synthetic_requests: {expected}"):
        read_requests(None, "synthetic_requests", **options)
