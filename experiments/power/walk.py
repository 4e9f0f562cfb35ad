"""Walk-forward: every form fitted on the readings before a time and judged on those after it, block by block.

The metered time is cut into equal blocks. A form is fitted on blocks 1 to k and judged on block k + 1: no
figure is of readings that the fit has seen; the lag of the meter is found from the same past. Intervals
resample blocks of the judged time (``stats.independent_blocks``), within which errors hang together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.errors import ConfigError

from ..analysis.stats import Interval, independent_blocks, percentile_interval, resampled_means
from .forms import Fit, Hosts, fit, resampled_fits, told
from .loads import GRID

AS_GIVEN, CONSTANT, PERSISTENCE = "as given", "constant", "persistence"
"""What stands beside the forms: the scenario's own curve, the mean of the past, the reading before."""
MOST_LAG = 10
"""Steps by which a meter may lag, at most."""
LEAST = 20
"""Readings that a block must have."""
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Metered:
    """Simulated hosts beside their meter, in groups that have meters of their own.

    Attributes:
        step_s: Length of a step, s.
        groups: Hosts of each group, S steps.
        watts: What each drew, W, NaN where there is no reading, (S, groups).
        given_w: What the scenario's own curves draw, W, (S, groups).
    """

    step_s: float
    groups: tuple[Hosts, ...]
    watts: F8
    given_w: F8


@dataclass(frozen=True)
class Row:
    """A form fitted until a time and judged from there to the next.

    Attributes:
        form: The form, or what stands beside the forms.
        mape: Mean absolute relative error, %.
        bias: Mean relative error, %, above 0 where the model draws too much.
        train_until: End of the past, s; NaN if nothing was fitted.
        until: End of what it was judged on, s.
        samples: Readings judged.
    """

    form: str
    mape: float
    bias: float
    train_until: float
    until: float
    samples: int


@dataclass(frozen=True)
class Judged:
    """Everything that was judged.

    Attributes:
        rows: A row for each form and block.
        steps: Steps judged, in order, (N,).
        watts: Readings of the sum over the groups, W, (N,).
        drawn: What each form says they draw, W, (N,) by form.
        blocks: Block of each step for resampling, (N,).
        overall: MAPE and bias of each form over all of it, %.
        lags: Lag of the meter that each block's past has, steps.
    """

    rows: list[Row]
    steps: I8
    watts: F8
    drawn: dict[str, F8]
    blocks: I8
    overall: dict[str, tuple[Interval, Interval]]
    lags: list[int]

    @property
    def best(self) -> str:
        """The fitted form of least MAPE."""
        fitted = [name for name in self.drawn if name not in (AS_GIVEN, CONSTANT, PERSISTENCE)]
        return min(fitted, key=lambda name: self.overall[name][0].estimate)


@dataclass(frozen=True)
class Calibration:
    """A form fitted on all of the past.

    Attributes:
        fits: A fit for each group.
        intervals: Parameters with block-bootstrap intervals, for each group.
        lag: Lag of the meter, steps.
    """

    fits: tuple[Fit, ...]
    intervals: tuple[dict[str, Interval], ...]
    lag: int


def shifted(values: F8, lag: int) -> F8:
    """Values some steps later, NaN where there are none."""
    moved = np.full_like(values, np.nan)
    n = len(values)
    if lag >= 0:
        moved[lag:] = values[: n - lag]
    else:
        moved[:lag] = values[-lag:]
    return moved


def find_lag(data: Metered, known: I8) -> int:
    """Steps by which the meter lags behind the simulation: least squares of a line in load and busy hosts.

    Args:
        data: Hosts and their meter.
        known: Steps of the past that have readings.
    """
    columns = [part for g in data.groups for part in (g.at.sum(axis=1), g.at @ GRID, g.busy)]
    line, total = np.stack(columns, axis=1), data.watts.sum(axis=1)
    most = min(MOST_LAG, len(known) // 4)
    errors = []
    inner = known[(known >= most) & (known < known[-1] - 1)]
    lags = range(-1, most + 1)
    for lag in lags:
        side = line[inner - lag] / total[inner, None]
        rest = side @ np.linalg.lstsq(side, np.ones(len(inner)), rcond=None)[0] - 1.0
        errors.append(float(rest @ rest))
    return lags[int(np.argmin(errors))]


def _played(data: Metered, known: I8, lag: int) -> I8:
    """Steps with readings whose cause was played, too."""
    return known[(known - lag >= 0) & (known - lag < len(data.watts))]


def _fit_groups(
    data: Metered, form: str, known: I8, lag: int, scale: bool
) -> tuple[list[Fit], list[tuple[F8, F8]]]:
    kept = _played(data, known, lag)
    found = [
        fit(form, hosts.take(kept - lag), data.watts[kept, g], scale) for g, hosts in enumerate(data.groups)
    ]
    return [each[0] for each in found], [each[1:] for each in found]


def _drawn(data: Metered, fits: Sequence[Fit], lag: int) -> F8:
    """What fitted groups draw together, on the meter's clock, W, (S,)."""
    total = sum((f.watts(hosts) for f, hosts in zip(fits, data.groups)), start=np.zeros(len(data.watts)))
    return shifted(np.asarray(total), lag)


def edges_of(known: I8, blocks: int) -> I8:
    """First steps of equal blocks of the metered time, and the end, (blocks + 1,).

    Raises:
        ConfigError: If a block has too few readings.
    """
    edges = np.rint(np.linspace(known[0], known[-1] + 1, blocks + 1)).astype(np.int64)
    counts = np.histogram(known, edges)[0]
    if counts.min() < LEAST:
        raise ConfigError(
            f"blocks={blocks}: a block of the metered time has {counts.min()} readings, at least {LEAST} are "
            "needed; meter for longer, or choose fewer blocks"
        )
    return edges


def walk_forward(
    data: Metered,
    forms: Sequence[str],
    *,
    blocks: int,
    lag: int | None,
    scale: bool,
    seed: int = 0,
    tick: Callable[[], None] | None = None,
) -> Judged:
    """Fit on the past, judge on what follows, for every form and block.

    Args:
        data: Hosts and their meter.
        forms: Forms to fit.
        blocks: Blocks of the metered time, at least 2.
        lag: Lag of the meter, steps; None = as the past has it.
        scale: Whether the MSE forms' scale of load is fitted, too.
        seed: Of the resamples.
        tick: Called after every fit.

    Raises:
        ConfigError: If there are too few readings.
    """
    total = data.watts.sum(axis=1)
    known = np.flatnonzero(np.isfinite(total))
    edges = edges_of(known, blocks)
    names = (AS_GIVEN, CONSTANT, PERSISTENCE, *forms)
    drawn = {name: np.full(len(total), np.nan) for name in names}
    before = shifted(total, 1)
    lags, rows, judged = [], [], np.zeros(len(total), dtype=bool)
    for k in range(1, blocks):
        past = known[known < edges[k]]
        here = known[(known >= edges[k]) & (known < edges[k + 1])]
        lags.append(find_lag(data, past) if lag is None else lag)
        said = {AS_GIVEN: shifted(data.given_w.sum(axis=1), lags[-1]), PERSISTENCE: before}
        said[CONSTANT] = np.full(len(total), float(total[past].mean()))
        for form in forms:
            said[form] = _drawn(data, _fit_groups(data, form, past, lags[-1], scale)[0], lags[-1])
            if tick is not None:
                tick()
        here = here[np.all([np.isfinite(said[name][here]) for name in names], axis=0)]
        judged[here] = True
        until, end = (float(edges[i]) * data.step_s for i in (k, k + 1))
        for name in names:
            drawn[name][here] = said[name][here]
            error = said[name][here] / total[here] - 1.0
            row = Row(name, *_percent(error), np.nan if name == AS_GIVEN else until, end, len(here))
            rows.append(row)
    steps = np.flatnonzero(judged)
    drawn = {name: values[steps] for name, values in drawn.items()}
    errors = np.stack([values / total[steps] - 1.0 for values in drawn.values()])
    labels, intervals = _intervals(steps, errors, data.step_s, seed)
    return Judged(rows, steps, total[steps], drawn, labels, dict(zip(names, intervals)), lags)


def _percent(error: F8) -> tuple[float, float]:
    return 100.0 * float(np.abs(error).mean()), 100.0 * float(error.mean())


def _intervals(steps: I8, errors: F8, step_s: float, seed: int) -> tuple[I8, list[tuple[Interval, Interval]]]:
    """Blocks of the judged steps, and of every form MAPE and bias with intervals."""
    hour = np.full(len(steps), max(1, round(3600.0 / step_s)))
    labels = independent_blocks(steps, hour, np.abs(errors))
    both = np.concatenate([np.abs(errors), errors, np.ones((1, len(steps)))])
    sums = np.stack([np.bincount(labels, row) for row in both], axis=1).astype(np.float64)
    means = resampled_means(sums, np.random.default_rng(seed), n_resamples=N_RESAMPLES)
    means = 100.0 * means[:, :-1] / means[:, -1:]
    n_blocks = len(sums)
    found = []
    for i, error in enumerate(errors):
        mape, bias = _percent(error)
        found.append(
            (
                percentile_interval(mape, means[:, i], n_blocks),
                percentile_interval(bias, means[:, len(errors) + i], n_blocks),
            )
        )
    return labels, found


def calibrate(data: Metered, form: str, *, lag: int | None, scale: bool, seed: int = 0) -> Calibration:
    """Fit a form on all readings, with intervals of its parameters."""
    known = np.flatnonzero(np.isfinite(data.watts.sum(axis=1)))
    late = find_lag(data, known) if lag is None else lag
    fits, details = _fit_groups(data, form, known, late, scale)
    kept = _played(data, known, late)
    hour = np.full(len(kept), max(1, round(3600.0 / data.step_s)))
    rng = np.random.default_rng(seed)
    intervals = []
    for found, (slopes, errors) in zip(fits, details):
        labels = independent_blocks(kept, hour, errors[None])
        samples = resampled_fits(found, slopes, errors, labels, rng, N_RESAMPLES, scale)
        names, values = told(form, found.names, found.values)
        _, drawn = told(form, found.names, samples)
        n = int(labels.max()) + 1
        intervals.append(
            {name: percentile_interval(float(values[i]), drawn[:, i], n) for i, name in enumerate(names)}
        )
    return Calibration(tuple(fits), tuple(intervals), late)
