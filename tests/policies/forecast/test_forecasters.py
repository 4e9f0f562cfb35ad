"""Forecasters against closed forms and an independent local regression; the history that feeds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError
from virtgym.envs.traces import read_trace
from virtgym.policies.forecast.forecasters import (
    FORECASTERS,
    Forecaster,
    make_forecaster,
)
from virtgym.policies.forecast.history import History


def tricube(u: float) -> float:
    """T(u) of the seed formulae."""
    return (1 - abs(u) ** 3) ** 3 if abs(u) < 1 else 0.0


def bisquare(u: float) -> float:
    """B(u) of Cleveland 1979."""
    return (1 - u * u) ** 2 if abs(u) < 1 else 0.0


def loess_weights(x: F8) -> F8:
    """w_i(x) at the newest x: distances over that of the q-th nearest of q samples."""
    distance = np.abs(x - x[-1])
    return np.array([tricube(d / np.sort(distance)[-1]) for d in distance])


def solve(x: F8, y: F8, w: F8, degree: int) -> F8:
    """Weighted least squares by QR of the design whose rows are scaled by the root of their weight."""
    root = np.sqrt(w)
    q, r = np.linalg.qr(np.vander(x, degree + 1, increasing=True) * root[:, None])
    return np.asarray(np.linalg.solve(r, q.T @ (y * root)))


def solve_normal(x: F8, y: F8, w: F8, degree: int) -> F8:
    """The same by the normal equations X'WX b = X'Wy."""
    design = np.vander(x, degree + 1, increasing=True)
    return np.asarray(np.linalg.solve(design.T @ (w[:, None] * design), design.T @ (w * y)))


def twin(y: F8, steps: int, degree: int, rounds: int, fit: Callable[..., F8] = solve) -> float:
    """Local regression of one series, x = 0..q-1, and its value at the newest x + steps."""
    x = np.arange(len(y), dtype=np.float64)
    tri = loess_weights(x)
    b = fit(x, y, tri, degree)
    for _ in range(rounds):
        r = y - np.vander(x, degree + 1, increasing=True) @ b
        scale = 6 * np.median(np.abs(r))
        b = fit(x, y, tri * [bisquare(e / scale) for e in r], degree)
    return float((np.vander([x[-1] + steps], degree + 1, increasing=True) @ b)[0])


@pytest.fixture(scope="module")
def series() -> F8:
    """Sixty samples of 40 series with trends, steps and spikes, (60, 40)."""
    rng = np.random.default_rng(3)
    trend = rng.normal(0, 0.01, 40) * np.arange(60)[:, None]
    spikes = (rng.random((60, 40)) < 0.05) * rng.normal(0, 2, (60, 40))
    return np.asarray(rng.random(40) + trend + rng.normal(0, 0.1, (60, 40)) + spikes)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("window", [4, 10, 30, 60, 200])
@pytest.mark.parametrize("degree", [0, 1])
def test_loess_is_an_independent_loess(series: F8, window: int, degree: int, steps: int) -> None:
    got = make_forecaster("loess", window=window, degree=degree).predict(series, steps)
    for fit in (solve, solve_normal):
        expected = [twin(y[-window:], steps, degree, 0, fit) for y in series.T]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("window", [8, 30, 60])
@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("degree", [0, 1])
def test_robust_loess_is_an_independent_one(
    series: F8, degree: int, rounds: int, window: int, steps: int
) -> None:
    forecaster = make_forecaster("loess_robust", window=window, degree=degree, rounds=rounds)
    expected = [twin(y[-window:], steps, degree, rounds) for y in series.T]
    np.testing.assert_allclose(forecaster.predict(series, steps), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("window", [3, 10, 60])
def test_ols_is_an_unweighted_line(series: F8, window: int, steps: int) -> None:
    got = make_forecaster("ols", window=window).predict(series, steps)
    for v, y in enumerate(series.T):
        line = np.polynomial.Polynomial.fit(np.arange(window), y[-window:], 1)
        assert got[v] == pytest.approx(line(window - 1 + steps), abs=1e-9)


def test_loess_weighs_and_ols_does_not() -> None:
    spike = np.zeros((10, 1))
    spike[-1] = 1.0  # its forecast is the tap of the newest sample
    ols, loess = (float(make_forecaster(n, window=10).predict(spike)[0]) for n in ("ols", "loess"))
    assert ols == pytest.approx(0.4)  # 1/10 + 5.5 * 4.5 / 82.5, the textbook filter
    assert loess > 0.5


@pytest.mark.parametrize("name", ["ols", "loess", "loess_robust"])
def test_a_line_continues_a_line(name: str) -> None:
    line = 3.0 + 0.5 * np.arange(40.0)[:, None]
    got = make_forecaster(name, window=12).predict(np.hstack([line, -line]), 6)
    np.testing.assert_allclose(got, [3 + 0.5 * 45, -(3 + 0.5 * 45)], atol=1e-9)


def test_robust_loess_does_not_follow_an_outlier() -> None:
    y = 1.0 + 0.01 * np.arange(20.0)
    y[:] += 0.001 * np.random.default_rng(0).normal(size=20)
    y[-3] = 9.0
    plain, robust = (
        float(make_forecaster(n, window=20).predict(y[:, None])[0]) for n in ("loess", "loess_robust")
    )
    assert abs(robust - 1.2) < 0.01
    assert abs(plain - 1.2) > 1.0


def test_averages_are_worked_by_hand() -> None:
    y = np.array([[8.0], [0.0], [4.0], [2.0]])
    for steps in (1, 6):
        assert make_forecaster("persistence").predict(y, steps) == [2.0]
        assert make_forecaster("mean").predict(y, steps) == [3.5]
        assert make_forecaster("moving_average", window=3).predict(y, steps) == [2.0]
        # 8 -> 4 -> 4 -> 3
        assert make_forecaster("ewma", alpha=0.5).predict(y, steps) == [3.0]
        # tricube of 4: 0, (1-(2/3)^3)^3, (1-(1/3)^3)^3, 1
        w = [0, (1 - 8 / 27) ** 3, (26 / 27) ** 3, 1]
        got = make_forecaster("loess0", window=4).predict(y, steps)
        assert got[0] == pytest.approx((w[2] * 4 + w[3] * 2) / sum(w))


def test_ewma_of_alpha_one_is_persistence(series: F8) -> None:
    got = make_forecaster("ewma", alpha=1.0).predict(series)
    np.testing.assert_allclose(got, series[-1], atol=1e-12)


def test_seasonal_repeats_a_season_and_averages_several() -> None:
    season = np.arange(12.0)
    y = np.concatenate([season, season + 10, season + 20])[:, None]
    for steps in (1, 6, 12, 13, 30):
        place = (steps - 1) % 12
        naive = make_forecaster("seasonal", period=12, seasons=1).predict(y, steps)
        assert naive == [season[place] + 20]
        three = make_forecaster("seasonal", period=12, seasons=3).predict(y, steps)
        assert three == [season[place] + 10]


def test_seasonal_without_a_season_is_ewma(series: F8) -> None:
    counts = np.full(40, 60)
    counts[::2] = 20
    got = make_forecaster("seasonal", period=36, seasons=2, alpha=0.2).predict(series, 1, counts)
    smooth = make_forecaster("ewma", alpha=0.2).predict(series, 1, counts)
    np.testing.assert_array_equal(got[::2], smooth[::2])
    np.testing.assert_array_equal(got[1::2], series[60 - 36, 1::2])


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_series_is_forecast_alone(series: F8, name: str) -> None:
    """Ragged histories: counts mean what cutting the history means, and nothing before is read."""
    counts = np.random.default_rng(1).integers(0, 61, 40)
    counts[:4] = 0, 1, 2, 3
    dirty = series.copy()
    for v, c in enumerate(counts):
        dirty[: 60 - c, v] = np.nan
    small = {"period": 12} if name == "seasonal" else {}
    forecaster = make_forecaster(name, **small)
    for steps in (1, 6):
        got = forecaster.predict(dirty, steps, counts)
        alone = [
            float(forecaster.predict(series[60 - c :, v : v + 1], steps)[0]) for v, c in enumerate(counts)
        ]
        np.testing.assert_allclose(got, alone, rtol=0, atol=1e-12)
        assert got[0] == 0.0
        assert got[1] == series[-1, 1]


@pytest.mark.parametrize("name", FORECASTERS)
def test_only_the_newest_samples_count(series: F8, name: str) -> None:
    long = np.vstack([np.random.default_rng(0).random((400, 40)), series])
    forecaster = make_forecaster(name, **({"period": 12} if name == "seasonal" else {}))
    enough = forecaster.samples
    if enough is None:
        pytest.skip("looks at the whole history")
    got = forecaster.predict(long[-enough:], 6)
    np.testing.assert_allclose(got, forecaster.predict(long, 6), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", FORECASTERS)
def test_empty_histories_are_harmless(name: str) -> None:
    forecaster = make_forecaster(name)
    assert forecaster.predict(np.zeros((0, 3))).tolist() == [0.0, 0.0, 0.0]
    assert forecaster.predict(np.zeros((5, 0))).shape == (0,)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(FORECASTERS)),
    st.integers(1, 50),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 100.0),
    st.floats(-50.0, 50.0),
)
def test_forecasts_move_with_the_data(
    name: str, n: int, steps: int, seed: int, scale: float, shift: float
) -> None:
    """Finite, and equivariant: scaling and shifting the samples scales and shifts the forecast."""
    rng = np.random.default_rng(seed)
    y = rng.choice([0.0, 1.0], (n, 3)) * rng.random((n, 3))
    forecaster = make_forecaster(name, **({"period": 5} if name == "seasonal" else {}))
    got = forecaster.predict(y, steps)
    assert np.isfinite(got).all()
    if name == "loess_robust":  # rounding decides whether a median that is nearly 0 counts as 0
        return
    np.testing.assert_allclose(forecaster.predict(scale * y + shift, steps), scale * got + shift, atol=1e-7)


def test_read_only_and_other_layouts_are_taken(series: F8) -> None:
    forecaster = make_forecaster("loess")
    expected = forecaster.predict(series)
    fixed = series.copy()
    fixed.flags.writeable = False
    for form in (fixed, np.asfortranarray(series), series.tolist()):
        np.testing.assert_array_equal(forecaster.predict(form), expected)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("loes", {}, "forecaster=loes: did you mean loess"),
        ("loess", {"windw": 3}, "forecaster.windw: loess has no such parameter; did you mean window"),
        ("loess", {"window": 3}, "forecaster.window=3: must be from 4 to 2000"),
        ("loess", {"window": 2.5}, "forecaster.window=2.5: must be an integer"),
        ("loess", {"degree": 2}, "forecaster.degree=2: must be from 0 to 1"),
        ("loess_robust", {"rounds": 0}, "forecaster.rounds=0: must be at least 1"),
        ("ols", {"window": 2}, "forecaster.window=2: must be from 3 to 2000"),
        ("ewma", {"alpha": 0.0}, "forecaster.alpha=0.0: must be above 0 and at most 1"),
        ("ewma", {"alpha": math.nan}, "forecaster.alpha=nan: must be a number"),
        ("moving_average", {"window": 0}, "forecaster.window=0: must be at least 1"),
        ("seasonal", {"period": 0}, "forecaster.period=0: must be at least 1"),
        ("persistence", {"window": 1}, "forecaster.window: persistence has no parameters"),
    ],
)
def test_bad_settings_say_what_is_allowed(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_forecaster(name, **params)
    assert message in str(caught.value)


def test_bad_histories_are_refused() -> None:
    forecaster: Forecaster = make_forecaster("mean")
    with pytest.raises(ConfigError, match=r"history: must have shape \(n, V\)"):
        forecaster.predict(np.zeros(3))
    with pytest.raises(ConfigError, match="steps=0: must be at least 1"):
        forecaster.predict(np.zeros((3, 1)), 0)
    with pytest.raises(ConfigError, match=r"counts: must have shape \(2,\)"):
        forecaster.predict(np.zeros((3, 2)), 1, [1])


def test_defaults_make_the_forecaster() -> None:
    for name in FORECASTERS:
        assert make_forecaster(name) == make_forecaster(name, **FORECASTERS.find(name).defaults)
    assert FORECASTERS.find("loess0").defaults["degree"] == 0
    assert FORECASTERS.find("loess").defaults["degree"] == 1


def test_history_holds_the_newest_samples_in_one_piece() -> None:
    rng = np.random.default_rng(0)
    history, seen, ages = History(5, 7), np.zeros((0, 5)), np.zeros(5, dtype=int)
    ring = history.values.base
    for _ in range(40):
        sample, active = rng.random(5), rng.random(5) < 0.9
        history.push(np.where(active, sample, np.nan), active)
        seen = np.vstack([seen, sample])
        ages = np.where(active, ages + 1, 0)
        np.testing.assert_array_equal(history.counts, np.minimum(ages, 7))
        for v, count in enumerate(history.counts):
            np.testing.assert_array_equal(history.values[7 - count :, v], seen[len(seen) - count :, v])
        assert history.values.flags["C_CONTIGUOUS"]
        assert history.values.base is ring  # nothing was allocated anew


def test_history_forgets_and_copies() -> None:
    history = History(3, 2)
    history.push([1.0, 2.0, 3.0])
    twin_history = history.copy()
    history.forget([1])
    assert history.counts.tolist() == [1, 0, 1]
    history.push([4.0, 5.0, 6.0])
    assert twin_history.counts.tolist() == [1, 1, 1]
    assert twin_history.values[-1].tolist() == [1.0, 2.0, 3.0]
    history.forget()
    assert history.counts.tolist() == [0, 0, 0]


def test_history_refuses_what_is_no_sample() -> None:
    history = History(2, 3)
    history.push([1.0, 2.0])
    with pytest.raises(ConfigError, match="the sample of series 1 is nan; must be finite"):
        history.push([1.0, math.nan])
    with pytest.raises(ConfigError, match=r"a sample must have shape \(2,\)"):
        history.push([1.0])
    assert history.counts.tolist() == [1, 1]
    for arguments in ((-1, 3), (2, 0)):
        with pytest.raises(ConfigError, match="history: "):
            History(*arguments)


def test_detectors_and_forecasters_mean_the_same() -> None:
    from virtgym.policies.literature.parts import DETECTORS

    y = np.random.default_rng(0).random((10, 6))
    for name in ("ols", "loess"):
        taps = DETECTORS.find(name).factory.taps(10, 1)
        np.testing.assert_allclose(make_forecaster(name, window=10).predict(y), taps @ y, atol=1e-12)


def test_loess_on_real_series(traces_dir: Any) -> None:
    folder = traces_dir / "planetlab" / "20110303"
    if not folder.is_dir():
        pytest.skip(f"no trace at {folder}")
    util = read_trace(folder).util[:100, ::20]
    for steps in (1, 6):
        got = make_forecaster("loess", window=20).predict(util, steps)
        expected = [twin(y[-20:], steps, 1, 0) for y in util.T]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
