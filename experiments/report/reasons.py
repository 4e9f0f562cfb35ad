"""Forecasts against what came, and what candidates were chosen and why: of one episode of each policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8
from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import read_arrays

from ..analysis.run_data import Group, HeatFile
from .columns import write_number
from .figures import MAX_POINTS, N_COLOURS, axis, new_figure, plain_text, time_axis
from .heat import MOST_BYTES, interval_of, one_each
from .leaderboard import Leaderboard
from .parts import add_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_POLICIES = 6
"""Policies that are shown."""

BAND = 1.2816
"""Standard deviations to either side between which 80 % of a normal distribution lie."""

NOTHING = "nothing"
"""The candidate that closes the interval: in most of them, so that it would hide the others."""

N_HOURS = 72
"""Bars of a figure, at most."""


@dataclass(frozen=True)
class Forecast:
    """What a policy expected of the demand of the cluster, and what came, GHz.

    Attributes:
        by: Forecaster.
        steps: Decisions from a forecast to its time.
        interval_h: Between decisions.
        now: Demand as the policy measured it at each decision, (n,); NaN = not at all, as for the others.
        ahead: What it expected of ``steps`` decisions later, (n,).
        spread: Standard deviation of that, (n,).
    """

    by: str
    steps: int
    interval_h: float
    now: F8
    ahead: F8
    spread: F8

    def row(self, policy: str) -> list[str]:
        """How good it was, as texts of ``HEADS``."""
        came, n = self.now[self.steps :], len(self.now) - self.steps
        scale = max(float(np.nanmean(came)), 1e-12) / 100.0
        error = self.ahead[:n] - came
        miss, stay = float(np.nanmean(np.abs(error))), float(np.nanmean(np.abs(self.now[:n] - came)))
        known = np.isfinite(error + self.spread[:n])
        held = np.abs(error[known]) <= BAND * self.spread[:n][known]
        numbers = (miss / scale, float(np.nanmean(error)) / scale, stay / scale)
        texts = [write_number(x).replace("-", "−") for x in numbers]
        share = f"{100.0 * float(held.mean()):.0f}" if held.size else "–"
        return [policy, self.by, f"{60.0 * self.interval_h * self.steps:g} min", *texts, share]


HEADS = (
    "Policy",
    "forecaster",
    "ahead",
    "error, % of demand",
    "bias, %",
    "error if nothing changed, %",
    "within its 80 % band, %",
)


@dataclass(frozen=True)
class Choices:
    """Between what a policy chose.

    Attributes:
        rows: Interval, slot that was chosen, number offered, slot that was rated highest, (N, 4).
        values: Of what was chosen, and the highest of the others, (N, 2); not finite = not rated.
        slots: What stands in every slot.
        offered: How often each slot was offered, (K,).
        mean: Its mean value when it was rated, (K,).
        measure: What values are.
        interval_h: Between decisions.
    """

    rows: NDArray[np.int64]
    values: F8
    slots: list[str]
    offered: NDArray[np.int64]
    mean: F8
    measure: str
    interval_h: float

    @property
    def kinds(self) -> list[str]:
        """Kinds of candidates that were chosen, the most frequent first, *nothing* last."""
        chosen = [self.slots[k] for k in self.rows[:, 1]]
        found = sorted(set(chosen), key=lambda kind: (kind == NOTHING, -chosen.count(kind), kind))
        return found

    def of_kind(self, kind: str) -> NDArray[np.bool_]:
        """Which choices were of a kind, (N,)."""
        return np.isin(self.rows[:, 1], [k for k, name in enumerate(self.slots) if name == kind])

    def table(self) -> list[list[str]]:
        """A row of ``CHOICE_HEADS`` per kind that was offered, those chosen first."""
        rows = []
        for kind in dict.fromkeys([*self.kinds, *self.slots]):
            places = [k for k, name in enumerate(self.slots) if name == kind]
            offered, mine = int(self.offered[places].sum()), self.of_kind(kind)
            if not offered:
                continue
            lead = self.values[mine, 0] - self.values[mine, 1]
            numbers = [_mean(self.values[mine, 0]), _mean(self.mean[places]), _mean(lead)]
            texts = [write_number(x).replace("-", "−") for x in numbers]
            rows.append([kind, f"{offered:,}", f"{int(mine.sum()):,}", *texts])
        return rows

    def told(self, seed: int) -> str:
        """What is said above the figures."""
        n = len(self.rows)
        acted = int((~self.of_kind(NOTHING)).sum())
        other = int((self.rows[:, 1] != self.rows[:, 3]).sum())
        text = f"Seed {seed}: {n:,} choices, {acted:,} of them to act"
        if other:
            text += (
                f"; {other:,} were not the candidate rated highest (a rule or a margin of the policy decided)"
            )
        if self.measure == RULE:
            return f"{text}. A rule or a search makes every choice; the network of the agent rates nothing."
        return f"{text}. Values are {WORDS.get(self.measure, 'what the policy makes of a candidate')}."


RULE = "rule"
"""Measure of an agent in which a rule alone plays."""

CHOICE_HEADS = (
    "Candidate",
    "offered",
    "chosen",
    "value when chosen",
    "value when rated",
    "lead over the next best",
)
WORDS = {
    "probability": "probabilities that the agent gives",
    "value": "returns that the policy expects (higher is better)",
}


def _mean(values: F8) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def reasons_of(group: Group, board: Leaderboard, figures: dict[str, Any]) -> dict[str, Any]:
    """Forecasts and choices of the best policies that told any; their figures are added to ``figures``."""
    rows: list[list[str]] = []
    forecasts: list[dict[str, Any]] = []
    choices: list[dict[str, Any]] = []
    for file in one_each(group.heats, [line.policy for line in board.lines]):
        forecast, chosen = read_reasons(file)
        if forecast is not None:
            rows.append(forecast.row(file.policy))
            if len(forecasts) < N_POLICIES:
                forecasts.append(_choice("forecast", len(forecasts), file))
                add_figure(figures, forecasts[-1]["key"], _forecast_figure(forecast))
        if chosen is not None and len(choices) < N_POLICIES:
            one = _choice("choices", len(choices), file)
            one |= {"text": chosen.told(file.seed), "rows": chosen.table(), "values": f"{one['key']}-values"}
            one["rated"] = chosen.measure != RULE
            figure, key = _kinds_figure(chosen)
            add_figure(figures, one["key"], figure)
            if one["rated"]:
                add_figure(figures, one["values"], _values_figure(chosen))
            choices.append({**one, "legend": key})
    return {"rows": rows, "heads": HEADS, "forecasts": forecasts, "choices": choices, "columns": CHOICE_HEADS}


def _choice(what: str, number: int, file: HeatFile) -> dict[str, Any]:
    key = f"{what}-{number}"
    return {"key": key, "name": file.policy, "choice": (key, file.policy)}


def read_reasons(file: HeatFile) -> tuple[Forecast | None, Choices | None]:
    """What a policy told in an episode; None of what there is not, or what cannot be read."""
    try:
        stored = read_arrays(file.path, limit=MOST_BYTES, refusal=VirtgymError)
        interval_h = interval_of(stored, file.path) / 3600.0
    except VirtgymError:  # told where the heat map would be
        return None, None
    found: list[Any] = []
    for read in (_read_forecast, _read_choices):
        try:
            found.append(read(stored, interval_h))
        except (KeyError, ValueError, TypeError, IndexError):  # a file of anyone's making
            found.append(None)
    return found[0], found[1]


def _read_forecast(stored: dict[str, NDArray[Any]], interval_h: float) -> Forecast | None:
    table = stored["forecast"].astype(np.float64) / 1000.0
    steps = int(stored["forecast_steps"])
    n = len(table)
    if table.shape != (n, 3) or not 1 <= steps < n or bool((table > 1e12).any()) or bool((table < 0).any()):
        return None
    if not np.isfinite(table[steps:, 0] + table[:-steps, 0] + table[:-steps, 1]).any():
        return None
    return Forecast(str(stored["forecaster"])[:60], steps, interval_h, *table.T)


def _read_choices(stored: dict[str, NDArray[Any]], interval_h: float) -> Choices | None:
    rows, slots = stored["choices"].astype(np.int64), [str(name)[:60] for name in stored["choice_slots"]]
    values, offered = stored["choice_values"].astype(np.float64), stored["choice_offered"].astype(np.int64)
    mean, n, k = stored["choice_mean"].astype(np.float64), len(rows), len(slots)
    fits = rows.shape == (n, 4) and values.shape == (n, 2) and offered.shape == mean.shape == (k,)
    if not fits or n == 0 or not bool(((rows >= 0) & (rows < [10**6, k, 10**6, k])).all()):
        return None
    return Choices(rows, values, slots, offered, mean, str(stored["choice_measure"])[:60], interval_h)


def _binned(values: F8, most: int = MAX_POINTS) -> F8:
    """Means of neighbours, so that no more than so many are left."""
    step = -(-len(values) // most)
    return np.array([values[i : i + step].mean() for i in range(0, len(values), step)])


def _add_line(figure: go.Figure, name: str, points: tuple[Any, Any], value: str, ink: str, dash: str) -> None:
    """A line over hours; ``value`` is what is told of a point."""
    figure.add_scatter(
        x=points[0],
        y=points[1],
        name=name,
        mode="lines",
        line={"width": 2, "dash": dash},
        hovertemplate=f"%{{x:.1f}} h: {name} {value}<extra></extra>",
        meta={"ink": ink},
    )


def _forecast_figure(found: Forecast) -> go.Figure:
    n = len(found.now) - found.steps
    hours = _binned(np.arange(found.steps, n + found.steps, dtype=np.float64) * found.interval_h)
    came, ahead = _binned(found.now[found.steps :]), _binned(found.ahead[:n])
    spread = BAND * _binned(found.spread[:n])
    figure = new_figure(xaxis=time_axis(float(hours[-1])), yaxis=axis("demand, GHz", rangemode="tozero"))
    known = np.isfinite(ahead + spread)
    if known.any():
        x, low, high = hours[known], np.maximum(ahead - spread, 0.0)[known], (ahead + spread)[known]
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]).round(4).tolist(),
            y=np.concatenate([high, low[::-1]]).round(4).tolist(),
            mode="lines",
            line={"width": 0},
            fill="toself",
            hoverinfo="skip",
            meta={"ink": "p0"},
        )
    for name, y, ink, dash in (("came", came, "p1", "solid"), ("foretold", ahead, "p0", "dash")):
        shown = [round(v, 4) if math.isfinite(v) else None for v in y.tolist()]
        _add_line(figure, name, (hours.round(4).tolist(), shown), "%{y:,.1f} GHz", ink, dash)
    return figure


def _hours(found: Choices) -> tuple[NDArray[np.int64], float, int]:
    """The bar that every choice belongs to, (N,), its width, h, and how many there are."""
    hours = found.rows[:, 0] * found.interval_h
    width = float(max(1, math.ceil((float(hours.max()) + found.interval_h) / N_HOURS)))
    bar = np.floor(hours / width + 1e-9).astype(np.int64)
    return bar, width, int(bar.max()) + 1


def _kinds_figure(found: Choices) -> tuple[go.Figure, list[tuple[str, str]]]:
    """How often each kind was chosen in every hour, stacked, and its legend."""
    bar, width, n = _hours(found)
    kinds = [kind for kind in found.kinds if kind != NOTHING]
    most = np.bincount(bar[~found.of_kind(NOTHING)], minlength=n).max()
    ticks = {"dtick": 1} if most <= 5 else {}
    figure = new_figure(
        xaxis=time_axis(n * width), yaxis=axis("choices", **ticks), barmode="stack", bargap=0.08
    )
    parts: list[tuple[str, tuple[str, ...]]] = [(kind, (kind,)) for kind in kinds[: N_COLOURS - 1]]
    if len(kinds) >= N_COLOURS:
        parts.append(("others", tuple(kinds[N_COLOURS - 1 :])))
    for number, (name, members) in enumerate(parts):
        mine = np.any([found.of_kind(kind) for kind in members], axis=0)
        figure.add_bar(
            x=(width * (np.arange(n) + 0.5)).tolist(),
            y=np.bincount(bar[mine], minlength=n).tolist(),
            name=name,
            hovertemplate=f"%{{x:.1f}} h: %{{y}} × {plain_text(name)}<extra></extra>",
            meta={"ink": f"p{number}"},
        )
    return figure, [(name, f"p{number}") for number, (name, _) in enumerate(parts)]


def _values_figure(found: Choices) -> go.Figure:
    """Mean value of what was chosen in every hour, and of the best of the others."""
    bar, width, n = _hours(found)
    figure = new_figure(xaxis=time_axis(n * width), yaxis=axis(found.measure))
    for column, (name, ink, dash) in enumerate((("chosen", "p0", "solid"), ("next best", "p1", "dash"))):
        values = found.values[:, column]
        known = np.isfinite(values)
        count = np.bincount(bar[known], minlength=n)
        mean = np.bincount(bar[known], values[known], minlength=n) / np.maximum(count, 1)
        shown = [float(f"{y:.5g}") if c else None for y, c in zip(mean, count)]
        _add_line(figure, name, ((width * (np.arange(n) + 0.5)).tolist(), shown), "%{y:.4g}", ink, dash)
    return figure
