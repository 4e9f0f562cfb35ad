"""The network of the learned forecaster as kernels: what it reads of a series, and the forward pass.

A series is described by numbers without a unit: its newest samples and some statistics of a longer window,
each less an anchor (the mean of the newest samples) and over a scale (the standard deviation of the window,
drawn towards what is usual of series of this level while there are few samples). What the network says is in
this scale, so that the forecast of a multiple is the multiple of the forecast. Sums have the order that is
written here, so that a series is forecast to the same bits alone and among others, on every CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F4, F8, I8
from virtgym.envs.jit.kernels import kernel

from ..learned.kernel_net import LINEAR, RELU, dense_layer, turned
from .inputs import ANCHOR, DEVIATION, INPUTS, LOWEST, MEAN, NEAREST, RECENT, WINDOW

PRIOR_SAMPLES = 2.0
"""Samples that the usual spread counts for beside what is seen of a series."""
FLOOR = 0.01
"""Least scale, as a share of the level."""
MOST = 8.0
"""Where inputs are cut off."""
FADING = 0.9
"""Weight of a sample, relative to the next newer one, in the smoothed mean."""
SOON = 6.0
"""Steps ahead that lie in the middle of the input that tells them."""


class QuantileNet(NamedTuple):
    """Weights, input first; w is the width."""

    prior: float  # usual standard deviation of series, as a share of their level
    first: F4  # (inputs, w)
    first_bias: F4  # (w,)
    second: F4  # (w, w)
    second_bias: F4  # (w,)
    last: F4  # (w, outputs)
    last_bias: F4  # (outputs,)


def make_quantile_net(weights: Mapping[str, Any]) -> QuantileNet:
    """Bring weights into the form of the kernels.

    Args:
        weights: Parameters by name, as of ``learned.storage.Member``.
    """
    layers = [(turned(weights, f"quantile.{i}"), np.array(weights[f"quantile.{i}.bias"])) for i in range(3)]
    return QuantileNet(float(weights["prior"][0]), *(array for layer in layers for array in layer))


@kernel
def _means(history: F8, end: int, c: int, v: int) -> Any:
    """Mean of the c newest samples, of the anchor's and of the nearest ones, and the smoothed mean."""
    total, near, nearest, smoothed, weight, share = 0.0, 0.0, 0.0, 0.0, 0.0, 1.0
    for k in range(c):
        y = history[end - 1 - k, v]
        total += y
        smoothed += share * y
        weight += share
        share *= FADING
        if k < ANCHOR:
            near += y
        if k < NEAREST:
            nearest += y
    return total / c, near / min(c, ANCHOR), nearest / min(c, NEAREST), smoothed / weight


@kernel
def _moments(history: F8, end: int, c: int, v: int, mean: float, anchor: float) -> Any:
    """Squares around the mean, products of neighbours, squares of the newest around the anchor; level."""
    squares, products, recent, level, newer = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(c):
        y = history[end - 1 - k, v]
        away = y - mean
        squares += away * away
        level += abs(y)
        if k > 0:
            products += away * newer
        if k < RECENT:
            recent += (y - anchor) * (y - anchor)
        newer = away
    return squares, products, recent, level / c


@kernel
def describe(history: F8, end: int, count: int, v: int, steps: int, prior: float, row: F4) -> Any:
    """Write what the network reads of a series.

    Args:
        history: Samples, time-major, (n, V).
        end: Samples up to which the past goes, 1..n.
        count: How many of them the series has, at least 1.
        v: The series.
        steps: Steps ahead.
        prior: Usual standard deviation, as a share of the level.
        row: Takes the inputs, (inputs,).

    Returns:
        Anchor and scale, in the unit of the history; a scale of 0 for a series that is 0.
    """
    c = min(count, end, WINDOW)
    mean, anchor, nearest, smoothed = _means(history, end, c, v)
    squares, products, recent, level = _moments(history, end, c, v, mean, anchor)
    usual = prior * level
    scale = np.sqrt((squares + PRIOR_SAMPLES * usual * usual) / (c - 1 + PRIOR_SAMPLES))
    scale = max(scale, FLOOR * level)
    if scale <= 0.0:
        row[:] = 0.0
        return anchor, 0.0
    least, most, idle = history[end - 1, v], history[end - 1, v], 0
    for k in range(c):
        y = history[end - 1 - k, v]
        least, most = min(least, y), max(most, y)
        idle += y == 0.0
        if k < RECENT:
            row[k] = _cut((y - anchor) / scale)
    row[c:RECENT] = 0.0
    i = RECENT
    row[i] = _cut((nearest - anchor) / scale)
    row[i + 1] = _cut((smoothed - anchor) / scale)
    row[i + 2] = _cut((mean - anchor) / scale)
    row[i + 3] = _cut((least - anchor) / scale)
    row[i + 4] = _cut((most - anchor) / scale)
    row[i + 5] = _cut(np.sqrt(recent / min(c, RECENT)) / scale)
    row[i + 6] = _cut(np.sqrt(squares / c) / scale)
    row[i + 7] = level / (level + scale)
    row[i + 8] = products / squares if squares > 0.0 else 0.0
    row[i + 9] = idle / c
    row[i + 10] = min(c, RECENT) / RECENT
    row[i + 11] = c / WINDOW
    row[i + 12] = 1.0 / c
    row[i + 13] = steps / (steps + SOON)
    row[i + 14] = 1.0 / steps
    return anchor, scale


@kernel
def _cut(x: float) -> Any:
    return min(max(x, -MOST), MOST)


@kernel
def describe_many(
    history: F8, ends: I8, counts: I8, series: I8, steps: I8, prior: float, rows: F4, place: F8
) -> None:
    """``describe`` for many pasts, (B,) each; anchor and scale go into ``place``, (B, 2)."""
    for b in range(len(ends)):
        anchor, scale = describe(history, ends[b], counts[b], series[b], steps[b], prior, rows[b])
        place[b, 0] = anchor
        place[b, 1] = scale


@kernel
def _rise(x: float) -> Any:
    """A smooth positive function of any number, of exact operations only (*squareplus*, Barron 2021)."""
    return 0.5 * (x + np.sqrt(x * x + 1.0))


@kernel
def forecast_quantiles(history: F8, counts: I8, steps: int, net: QuantileNet, out: F8) -> None:
    """Add mean, deviation and quantiles of every series to ``out``; nothing for a series without a sample.

    The network gives the mean, the least quantile, and, made positive by ``_rise``, the deviation and the
    steps from one quantile to the next.

    Args:
        history: Shape (n, V), n at least 1.
        counts: Shape (V,), 0..n.
        steps: Steps ahead.
        net: Weights.
        out: Mean, standard deviation and rising quantiles, shape (outputs, V).
    """
    row = np.zeros(len(INPUTS), np.float32)
    one = np.zeros(len(net.first_bias), np.float32)
    two = np.zeros(len(net.second_bias), np.float32)
    said = np.zeros(len(net.last_bias), np.float32)
    for v in range(history.shape[1]):
        if counts[v] < 1:
            continue
        anchor, scale = describe(history, len(history), counts[v], v, steps, net.prior, row)
        dense_layer(one, row, net.first, net.first_bias, RELU)
        dense_layer(two, one, net.second, net.second_bias, RELU)
        dense_layer(said, two, net.last, net.last_bias, LINEAR)
        out[MEAN, v] += anchor + scale * said[MEAN]
        out[DEVIATION, v] += scale * _rise(float(said[DEVIATION]))
        at = float(said[LOWEST])
        out[LOWEST, v] += anchor + scale * at
        for q in range(LOWEST + 1, len(said)):
            at += _rise(float(said[q]))
            out[q, v] += anchor + scale * at
