"""Parts of the page about trainings (learning curves) and sweeps (what was searched, and the best of it)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...analysis.stats import Interval
from ...analysis.trainings import (
    SEED,
    Curve,
    SettingResult,
    TrainingData,
    curve,
    group_trainings,
    read_sweep,
    read_training,
    settings_of,
    swept_keys,
)
from ..columns import write_number
from ..figures import Style, axis, new_figure, plain_text, rank_styles
from ..markdown import escape_md
from ..page import Lead
from ..parts import Chips, add_figure, render
from .search import parallel_plot, point_plot

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

N_SHOWN = 6
"""Settings whose curves are shown at first, the best ones."""

N_ROWS = 10
"""Settings of a sweep in the table, best first."""

FEW = 30
"""Evaluations that are marked on a curve, at most."""

LEARNED = "report/templates/learned.html"
"""Template of what was learned or searched."""

_OTHER = ("timesteps", "objective", "best", "wall_s")
"""Columns of ``progress.csv`` that are no curve of what was learned."""


def training_lead(runs: Sequence[TrainingData]) -> Lead:
    """Learning curves of trainings, over seeds where settings have several.

    Args:
        runs: The trainings.
    """
    groups = _best_first(group_trainings(runs))
    title = f"Training {', '.join(sorted({f'{r.agent} on {r.scenario}' for r in runs})[:3])}"
    figures: dict[str, Any] = {}
    said = _sentences(groups, _unit(runs))
    heads = ("setting", "seed", "best validation", "at decision", "decisions", "frames/s", "finished")
    rows = [_row(name, run) for name, mine in groups.items() for run in mine]
    html = render(
        LEARNED,
        title=title,
        said=said,
        settings={"title": "Trainings", "lead": "", "heads": heads, "rows": rows},
        pictures=(),
        curves=_curves(figures, groups),
    )
    markdown = [f"## {escape_md(title)}", "", *(f"- {escape_md(text)}" for text in said), ""]
    return Lead(title, html, figures, [*markdown, *_markdown_table(heads, rows), ""])


def sweep_lead(folder: Path, runs: Sequence[TrainingData]) -> Lead:
    """What a sweep searched, and its best setting.

    Args:
        folder: Its folder.
        runs: Its trainings, if it is one of trainings.
    """
    table = read_sweep(folder)
    found = settings_of(table)
    keys = [key for key in swept_keys(table) if key != SEED]
    title = f"Sweep over {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" if keys else "Sweep"
    figures: dict[str, Any] = {}
    failed = int(table["error"].notna().sum()) if "error" in table else 0
    said = [
        *_verdicts(found),
        f"Objective, small is good: {_objective(table, runs)}.",
        f"{folder}: {len(table)} rows, {int(table['finished'].sum())} finished, {failed} failed.",
    ]
    heads = ("setting", "objective", "95 % over seeds", "runs")
    rows = [(*_shown(one), str(one.runs)) for one in found[:N_ROWS]]
    done = table[table["objective"].notna()]
    done = done.assign(label=[str(job) for job in done["job"]])
    pictures = []
    if len(done) and keys:
        pictures.append(parallel_plot(figures, "parallel", keys, "objective", done))
        pictures += [
            point_plot(figures, f"slice-{k}", k, k, "objective", done, _means(done, k), "linear")
            for k in keys
        ]
    lead = f"The first {len(rows)} of {len(found)}."
    html = render(
        LEARNED,
        title=title,
        said=said,
        settings={"title": "Best settings", "lead": lead, "heads": heads, "rows": rows},
        pictures=pictures,
        curves=_curves(figures, _best_first(group_trainings(runs))) if runs else None,
    )
    markdown = [f"## {escape_md(title)}", "", *(f"- {escape_md(text)}" for text in said), ""]
    return Lead(title, html, figures, [*markdown, *_markdown_table(heads, rows), ""])


def read_jobs(folder: Path) -> list[TrainingData]:
    """The trainings in a sweep's folder."""
    found = (read_training(path.parent) for path in sorted(folder.glob("*/train.json")))
    return [run for run in found if run is not None]


def _best_first(groups: Mapping[str, list[TrainingData]]) -> dict[str, list[TrainingData]]:
    def mean(runs: Sequence[TrainingData]) -> float:
        return sum(run.best for run in runs) / len(runs)

    return dict(sorted(groups.items(), key=lambda item: mean(item[1])))


def _interval(value: Interval) -> str:
    text = write_number(value.estimate, 4)
    if value.known and value.n > 1:
        return f"{text} [{write_number(value.low, 4)}, {write_number(value.high, 4)}] (95 %, {value.n} seeds)"
    return text


def _unit(runs: Sequence[TrainingData]) -> str:
    """Unit of the objective, if all trainings have one."""
    units = {run.unit for run in runs}
    return units.pop() if len(units) == 1 else ""


def _sentences(groups: Mapping[str, list[TrainingData]], unit: str) -> list[str]:
    from ...analysis.stats import mean_interval

    said = []
    for name, runs in list(groups.items())[:N_ROWS]:
        best = _interval(mean_interval([run.best for run in runs]))
        start = mean_interval([float(run.progress["objective"].iloc[0]) for run in runs]).estimate
        alone = " (one seed)" if len(runs) == 1 else ""
        said.append(
            f"{name}: best validation {best}{unit and ' ' + unit}{alone}, "
            f"{write_number(start, 4)} at the first evaluation."
        )
    if any(not run.finished for runs in groups.values() for run in runs):
        n = sum(not run.finished for runs in groups.values() for run in runs)
        said.append(f"{n} of the trainings have not finished.")
    said.append("Small is good in validation; the best of many evaluations looks better than on other days.")
    return said


def _curves(figures: dict[str, Any], groups: Mapping[str, list[TrainingData]]) -> dict[str, Any]:
    """Validation, then what was measured in training, a figure each."""
    styles = rank_styles([(name, False) for name in groups])
    columns = dict.fromkeys(
        str(c) for runs in groups.values() for r in runs for c in r.progress if c not in _OTHER
    )
    shown = list(groups)[:N_SHOWN]
    several = len(groups) > 1
    n = max(len(runs) for runs in groups.values())
    text = f"Means over {n} seeds, shaded: 95 % of the mean (Student's t)." if n > 1 else "One seed each."
    constant = {c: value for c in columns if (value := _constant(groups, c)) is not None}
    panels = [_curve(figures, groups, styles, c, shown) for c in columns if c not in constant]
    same = ", ".join(f"{name} {write_number(value)}" for name, value in constant.items())
    unit = _unit([run for runs in groups.values() for run in runs])
    return {
        "lead": text,
        "chips": Chips(styles, shown, N_SHOWN, "Settings shown") if several else None,
        "main": _curve(figures, groups, styles, "objective", shown, unit),
        "measured": f"Columns of progress.csv.{f' The same throughout: {same}.' if same else ''}",
        "kind": "lines" if several else "",  # plots of this class show what is ticked
        "panels": [panel for panel in panels if panel],
    }


def _constant(groups: Mapping[str, list[TrainingData]], column: str) -> float | None:
    """The one value of a column in several evaluations; None where it is no constant."""
    found = [float(v) for runs in groups.values() for r in runs for v in r.progress.get(column, ()) if v == v]
    return found[0] if len(found) > 1 and len(set(found)) == 1 else None


def _curve(
    figures: dict[str, Any],
    groups: Mapping[str, list[TrainingData]],
    styles: Mapping[str, Style],
    column: str,
    shown: Sequence[str],
    unit: str = "",
) -> dict[str, str] | None:
    known = {name: found for name, runs in groups.items() if (found := curve(runs, column))}
    if not known:
        return None
    figure = new_figure(xaxis=axis("decisions"), yaxis=axis(unit, exponentformat="power"))
    for name, line in known.items():
        _add_curve(figure, name, line, styles[name], name in shown)
    key = f"curve-{column}"
    add_figure(figures, key, figure)
    return {"title": column, "key": key, "label": f"{column} over decisions, a line per setting"}


def _add_curve(figure: go.Figure, name: str, line: Curve, style: Style, shown: bool) -> None:
    meta = {"ink": style.ink, "policy": name, "priority": 0}
    if line.n > 1:
        both = [*line.high.tolist(), *line.low[::-1].tolist()]
        figure.add_scatter(
            x=[*line.x.tolist(), *line.x[::-1].tolist()],
            y=both,
            mode="lines",
            line={"width": 0},
            fill="toself",
            hoverinfo="skip",
            visible=shown,
            meta=meta,
        )
    figure.add_scatter(
        x=line.x.tolist(),
        y=line.mean.tolist(),
        mode="lines+markers" if len(line.x) <= FEW else "lines",
        line={"width": 2.2, "dash": style.dash},
        name=plain_text(name),
        visible=shown,
        hovertemplate=f"{plain_text(name)}<br>%{{x}}: %{{y}}<extra></extra>",
        meta=meta,
    )


def _row(name: str, run: TrainingData) -> tuple[str, ...]:
    table = run.progress
    at = int(table["timesteps"].iloc[int(table["objective"].argmin())])
    speed = table["frames_per_s"].iloc[-1] if "frames_per_s" in table else float("nan")
    last = int(table["timesteps"].iloc[-1])
    finished = "yes" if run.finished else "no"
    numbers = (write_number(run.best, 4), f"{at:,}", f"{last:,}", write_number(float(speed)))
    return (name, str(run.seed), *numbers, finished)


def _objective(table: pd.DataFrame, runs: Sequence[TrainingData]) -> str:
    """What the objective of a sweep is, by the columns of its table."""
    if runs:
        return f"the best of validation{(unit := _unit(runs)) and f', {unit}'}"
    return "100 minus the score of the suite" if "score" in table else "mean cost of a job's runs"


def _verdicts(found: Sequence[SettingResult]) -> list[str]:
    """The best setting; where the problem was swept, too, that of each problem."""
    if not found:
        return ["No job has given an objective yet."]
    problem = [key for key in found[0].values if key.startswith(("scenario", "env.reward"))]
    groups: dict[tuple[str, ...], list[SettingResult]] = {}
    for one in found:
        groups.setdefault(tuple(f"{key}={one.values[key]}" for key in problem), []).append(one)
    if len(groups) < 2:
        text = _best_setting(found, ())
        return [f"{text[0].upper()}{text[1:]}"]
    said = [f"{', '.join(names)}: {_best_setting(mine, problem)}" for names, mine in groups.items()]
    more = [f"{len(said) - N_ROWS} more problems are in sweep.csv."] if len(said) > N_ROWS else []
    warning = f"{', '.join(problem)} changes the problem: objectives of different problems are no contest."
    return [*said[:N_ROWS], *more, warning]


def _best_setting(found: Sequence[SettingResult], without: Sequence[str]) -> str:
    """The best of some settings, told by all keys but some."""
    best = found[0]
    if len(found) == 1:
        return f"one setting, objective {_worth(best)}."
    text = f"best of {len(found)} settings: {_setting(best, without)}, objective {_worth(best)}"
    return f"{text}; the next is {_setting(found[1], without)} with {_worth(found[1])}."


def _worth(one: SettingResult) -> str:
    alone = f" ({'one run' if one.runs == 1 else f'{one.runs} runs'})" if one.objective.n == 1 else ""
    return f"{_interval(one.objective)}{alone}"


def _setting(one: SettingResult, without: Sequence[str] = ()) -> str:
    return ", ".join(f"{key}={value}" for key, value in one.values.items() if key not in without) or "all"


def _shown(one: SettingResult) -> tuple[str, str, str]:
    value = one.objective
    ends = f"[{write_number(value.low, 4)}, {write_number(value.high, 4)}]" if value.known else "–"
    return _setting(one), write_number(value.estimate, 4), ends


def _means(done: pd.DataFrame, key: str) -> pd.DataFrame | None:
    """The mean of the objective at each value of a key that is a number."""
    import pandas as pd

    if pd.to_numeric(done[key], errors="coerce").isna().any():
        return None
    means = done.groupby(key)["objective"].mean()
    return pd.DataFrame({key: means.index, "objective": means.to_numpy()})


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|:--|{'--:|' * (len(heads) - 1)}"]
    return lines + [f"| {' | '.join(map(escape_md, row))} |" for row in rows]
