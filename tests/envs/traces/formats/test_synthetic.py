"""The synthetic generator: its published targets over several seeds, determinism, lives."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import read_trace
from virtgym.envs.traces.formats.synthetic import generate

# Ranges over the four training days, from the docstring of the generator.
TARGETS = {
    "mean": (9.3, 12.3),
    "sd": (12.8, 17.1),
    "sd of VM means": (10.1, 14.8),
    "mean of VM SDs": (6.2, 7.4),
    "p90": (23, 36),
    "p99": (65, 79),
    "zeros": (0.15, 0.19),
    "VMs with zeros": (0.71, 0.88),
    "pooled lag 1": (0.69, 0.78),
    "median lag 1": (0.04, 0.08),
    "lag 1 of the 90th percentile": (0.24, 0.35),
    "median lag 12": (0.03, 0.07),
    "SD of the fleet's mean": (0.57, 1.45),
}


def statistics(percent: NDArray[np.float64]) -> dict[str, float]:
    """Compute the target statistics of percentages, shape (S, V)."""
    centred = percent - percent.mean(axis=0)
    variance = (centred**2).mean(axis=0)
    keep = variance > 0

    def lag(k: int) -> NDArray[np.float64]:
        return np.asarray((centred[k:] * centred[:-k]).mean(axis=0)[keep] / variance[keep])

    return {
        "mean": percent.mean(),
        "sd": percent.std(),
        "sd of VM means": percent.mean(axis=0).std(),
        "mean of VM SDs": percent.std(axis=0).mean(),
        "p90": float(np.percentile(percent, 90)),
        "p99": float(np.percentile(percent, 99)),
        "zeros": float(np.mean(percent == 0)),
        "VMs with zeros": float(np.mean((percent == 0).any(axis=0))),
        "pooled lag 1": float(np.corrcoef(percent[1:].ravel(), percent[:-1].ravel())[0, 1]),
        "median lag 1": float(np.median(lag(1))),
        "lag 1 of the 90th percentile": float(np.percentile(lag(1), 90)),
        "median lag 12": float(np.median(lag(12))),
        "SD of the fleet's mean": percent.mean(axis=1).std(),
    }


@pytest.mark.parametrize("seed", range(6))
def test_statistics_of_a_day(seed: int) -> None:
    found = statistics(generate(np.random.default_rng(seed)).util * 100)
    outside = {key: found[key] for key, (low, high) in TARGETS.items() if not low <= found[key] <= high}
    assert not outside


@pytest.mark.parametrize("seed", range(4))
def test_small_fleets_have_the_right_load(seed: int) -> None:
    percent = generate(np.random.default_rng(seed), n_vms=50).util * 100
    assert 9 <= percent.mean() <= 13
    assert 12 <= percent.std() <= 19


def test_values_are_whole_percentages() -> None:
    util = generate(np.random.default_rng(0), n_vms=300).util
    assert np.array_equal(util, np.rint(util * 100) / 100.0)
    assert util.min() == 0
    assert util.max() <= 1


def test_deterministic_and_seeded() -> None:
    one, two, other = (generate(np.random.default_rng(seed), n_vms=20, churn=0.5) for seed in (3, 3, 4))
    assert np.array_equal(one.util, two.util)
    assert np.array_equal(one.departure_s, two.departure_s)
    assert not np.array_equal(one.util, other.util)
    assert not np.array_equal(one.departure_s, other.departure_s)
    rng = np.random.default_rng(3)
    assert np.array_equal(generate(rng, n_vms=20).util, one.util)
    assert not np.array_equal(generate(rng, n_vms=20).util, one.util)  # the generator has moved on
    assert np.array_equal(read_trace(seed=3, n_vms=20).util, one.util)


def test_global_random_state_is_not_touched() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    generate(np.random.default_rng(0), n_vms=5)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_shape_and_default_lives() -> None:
    trace = generate(np.random.default_rng(0), n_vms=7, n_samples=12, sample_s=60.0)
    assert trace.util.shape == (12, 7)
    assert trace.span_s == 720.0
    assert not trace.arrival_s.any()
    assert np.isinf(trace.departure_s).all()
    assert len(set(trace.vm_names)) == 7


def test_load_daily_and_noise_leave_the_trace_as_it_was_unless_given() -> None:
    plain = generate(np.random.default_rng(7), 40, 50, churn=0.4)
    digest = hashlib.sha256(plain.util.tobytes() + plain.arrival_s.tobytes() + plain.departure_s.tobytes())
    assert digest.hexdigest()[:16] == "9cf42967cc8d0819"  # before there were these options
    same = generate(np.random.default_rng(7), 40, 50, churn=0.4, load=0.0, daily=0.12, noise=1.0)
    assert np.array_equal(plain.util, same.util)


def test_load_raises_the_mean_and_idles_as_often() -> None:
    plain, *loaded = (generate(np.random.default_rng(3), load=load).util for load in (0.0, 0.5, 1.0, 2.0))
    means = [plain.mean(), *(util.mean() for util in loaded)]
    assert means == sorted(means)
    assert means[2] == pytest.approx(0.22, abs=0.02)
    assert all(np.array_equal(util == 0, plain == 0) for util in loaded)
    assert generate(np.random.default_rng(3), load=-1.0).util.mean() < means[0]


def test_daily_is_the_amplitude_of_a_wave_and_noise_of_the_rest() -> None:
    calm, wave = (generate(np.random.default_rng(3), 200, noise=0, daily=daily).util for daily in (0, 1))
    busy = calm > 0  # idle samples are drawn as ever
    for v in range(calm.shape[1]):
        assert len(set(calm[busy[:, v], v])) <= 1
    mean = np.ma.masked_array(wave, ~busy).mean(axis=1)
    assert mean.max() > 1.5 * mean.min()
    spread = [generate(np.random.default_rng(3), 200, noise=k).util.std(axis=0).mean() for k in (1, 2)]
    assert spread[1] > 1.2 * spread[0]


def test_churn() -> None:
    still = generate(np.random.default_rng(0), n_vms=400)
    trace = generate(np.random.default_rng(0), n_vms=400, churn=0.5, mean_lifetime_s=3600.0)
    assert np.array_equal(still.util, trace.util)  # churn changes lives alone
    leaves = np.isfinite(trace.departure_s)
    assert 150 <= np.count_nonzero(leaves) <= 200
    assert np.count_nonzero(trace.arrival_s > 0) <= 200
    life = (trace.departure_s - trace.arrival_s)[leaves]
    assert life.min() >= trace.sample_s
    assert 2700 <= life.mean() <= 4500
    assert not np.any(trace.arrival_s % trace.sample_s)
    assert not np.any(trace.departure_s[leaves] % trace.sample_s)
    assert trace.departure_s[leaves].max() < trace.span_s
    loose = generate(np.random.default_rng(0), n_vms=400, churn=0.5, align=False)
    assert np.any(loose.arrival_s % loose.sample_s)


@pytest.mark.parametrize(
    "options",
    [
        {"n_vms": 0},
        {"n_samples": 0},
        {"sample_s": 0},
        {"sample_s": float("nan")},
        {"churn": 1.1},
        {"churn": -0.1},
        {"mean_lifetime_s": 0},
        *({key: value} for key in ("load", "daily", "noise") for value in (10.1, float("nan"), "much")),
        {"load": -10.1},
        {"daily": -0.1},
        {"noise": -0.1},
        {"n_vm": 3},
        {"n_vms": "many"},
        {"seed": "x"},
        {"seed": -1},
        {"align": 1},
        {"n_vms": True},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(TraceError, match="synthetic: ") as caught:
        read_trace(None, "synthetic", **options)
    assert "\n" not in str(caught.value)


def test_one_vm_one_sample() -> None:
    assert generate(np.random.default_rng(0), n_vms=1, n_samples=1).util.shape == (1, 1)
