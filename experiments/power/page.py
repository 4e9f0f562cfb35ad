"""What was found: tables on the terminal, ``validation.csv`` and its like, and a page of the residuals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import I8
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.traces.formats.meter import PowerMeter

from ..analysis.stats import Interval
from ..operations.page import Answer, Table, answer_html, print_answer, write_tables
from ..report.figures import MAX_POINTS, axis, new_figure
from ..report.learned.search import Picture
from ..report.page import Lead, render_page
from ..report.parts import add_figure
from ..run.folder import write_text
from .loads import Loads
from .walk import AS_GIVEN, CONSTANT, PERSISTENCE, Calibration, Judged, Metered

if TYPE_CHECKING:
    import pandas as pd

N_LOADS = 10
"""Classes of load, with as many readings each."""
_TOLD = {
    AS_GIVEN: "the scenario's own curve",
    CONSTANT: "the mean of the past",
    PERSISTENCE: "the reading before, which no model has",
}


def deliver(
    folder: Path,
    scenario: Scenario,
    meter: PowerMeter,
    data: Metered,
    loads: Loads,
    judged: Judged,
    fitted: Calibration | None,
    clock_s: float | None,
) -> None:
    """Print what was found and write it.

    Args:
        folder: Where to.
        scenario: What was played.
        meter: The meter.
        data: Hosts and meter, step by step.
        loads: What hosts did.
        judged: Every form on what followed its past.
        fitted: What ``calibrate`` fitted on all readings.
        clock_s: Time of the day at which the trace begins, s; None = not known.
    """
    rows, forms = _rows(judged), _forms(judged)
    shown = judged.best if fitted is None else fitted.fits[0].form
    left = _residuals(data, loads, judged, shown, clock_s)
    tables = [("forms, judged after the past that each was fitted on", "forms.csv", forms)]
    if fitted is not None:
        title = f"{shown}, fitted on all readings"
        tables.append((title, "parameters.csv", _parameters(fitted, meter)))
    tables.append((f"errors of {shown}, by load and by hour", "residuals.csv", left))
    mape, bias = judged.overall[shown]
    given = judged.overall[AS_GIVEN][0]
    verdict = (
        f"{shown}: MAPE {_spread(mape)} %, bias {_spread(bias)} %, fitted on the past of each of "
        f"{len(judged.lags)} blocks; {_TOLD[AS_GIVEN]}: {given.estimate:.2f} %."
    )
    judged_h = len(judged.steps) * data.step_s / 3600
    said = [
        f"{len(judged.steps):,} steps of {data.step_s:g} s ({judged_h:.4g} h) judged, "
        f"{scenario.cluster.n_hosts:,} hosts, {scenario.workload.n_vms:,} VMs played by the engine",
        f"the meter is taken to lag by {', '.join(f'{lag * data.step_s:g}' for lag in judged.lags)} s",
        f"MAPE of {_TOLD[CONSTANT]} {judged.overall[CONSTANT][0].estimate:.2f} %, of {_TOLD[PERSISTENCE]} "
        f"{judged.overall[PERSISTENCE][0].estimate:.2f} %",
        "intervals of 95 %: bootstrap of "
        f"{int(judged.blocks.max()) + 1} blocks of the judged time; the best form is one of {_count(judged)}",
    ]
    answer = Answer(
        f"power of {scenario.name}", verdict, said,
        [(title, name, Table.of(found)) for title, name, found in tables],
        [*meter.notes, *scenario.trace.notes], [("validation.csv", Table.of(rows))],
    )  # fmt: skip
    print_answer(answer)
    write_tables(answer, folder)
    write_text(folder / "report.html", render_page([], [_lead(answer, data, judged, shown, left)]))
    if fitted is not None:
        print(f"calibrated: {folder / 'calibrated.yaml'}")
    print(f"validation: {folder / 'validation.csv'}")
    print(f"report: {(folder / 'report.html').resolve()}")


def _count(judged: Judged) -> int:
    return len(judged.drawn) - len(_TOLD)


def _spread(found: Interval) -> str:
    return f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})"


def _rows(judged: Judged) -> pd.DataFrame:
    import pandas as pd

    columns = ["form", "mape", "bias", "train_until", "until", "samples"]
    return pd.DataFrame([[getattr(row, name) for name in columns] for row in judged.rows], columns=columns)


def _forms(judged: Judged) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for name, (mape, bias) in judged.overall.items():
        each = [row.mape for row in judged.rows if row.form == name]
        rows.append(
            (
                name,
                mape.estimate,
                mape.low,
                mape.high,
                bias.estimate,
                bias.low,
                bias.high,
                min(each),
                max(each),
            )
        )
    names = ["mape", "mape_low", "mape_high", "bias", "bias_low", "bias_high", "best_block", "worst_block"]
    return pd.DataFrame(rows, columns=["form", *names]).sort_values("mape", kind="stable")


def _parameters(fitted: Calibration, meter: PowerMeter) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (owner or "all", name, found.estimate, found.low, found.high)
        for owner, each in zip(meter.owners if len(fitted.fits) > 1 else ("",), fitted.intervals)
        for name, found in each.items()
    ]
    return pd.DataFrame(rows, columns=["hosts", "parameter", "value", "low", "high"])


def _residuals(data: Metered, loads: Loads, judged: Judged, form: str, clock_s: float | None) -> pd.DataFrame:
    """Errors by load, in classes of as many steps, and by hour of the day, or of the trace."""
    import pandas as pd

    error = judged.drawn[form] / judged.watts - 1.0
    load = loads.load[judged.steps]
    edges = np.unique(np.quantile(load, np.linspace(0.0, 1.0, N_LOADS + 1)))
    by_load = np.clip(np.searchsorted(edges, load, side="right") - 1, 0, max(0, len(edges) - 2))
    hour = ((judged.steps + 0.5) * data.step_s + (clock_s or 0.0)) // 3600 % 24
    rows = []
    for what, labels in (("load", by_load), ("hour" if clock_s is not None else "hour of trace", hour)):
        for value in np.unique(labels):
            here = error[labels == value]
            middle = float(load[labels == value].mean()) if what == "load" else float(value)
            low, high = (100.0 * float(q) for q in np.quantile(here, (0.05, 0.95)))
            rows.append(
                (
                    what,
                    middle,
                    len(here),
                    100.0 * float(np.abs(here).mean()),
                    100.0 * float(here.mean()),
                    low,
                    high,
                )
            )
    return pd.DataFrame(rows, columns=["by", "value", "samples", "mape", "bias", "p5", "p95"])


def _lead(answer: Answer, data: Metered, judged: Judged, form: str, left: pd.DataFrame) -> Lead:
    """The page's part: verdict, figures, tables."""
    figures: dict[str, Any] = {}
    add_figure(figures, "watts", _watts_figure(data, judged, form))
    pictures = [Picture("Metered and simulated power", "watts", "Power over time", height=320)]
    for key, what, title in (("load", "load", "mean load of the hosts"), ("hour", "hour", "hour")):
        rows = left[left["by"].str.startswith(what)]
        add_figure(figures, key, _residual_figure(rows, title))
        label = f"Errors of {form} by {what}"
        lead = "Mean, and 5 % to 95 % of the readings"
        pictures.append(Picture(label, key, label, height=300, lead=lead))
    return Lead(answer.title, answer_html(answer, pictures), figures, [])


def _watts_figure(data: Metered, judged: Judged, form: str) -> Any:
    figure = new_figure(
        xaxis=axis("time since the trace began", ticksuffix=" h"), yaxis=axis("power, kW"), showlegend=True,
        legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    groups = np.array_split(np.arange(len(judged.steps)), min(MAX_POINTS, len(judged.steps)))
    hours = _means((judged.steps + 0.5) * data.step_s / 3600.0, groups)
    lines = (
        ("metered", judged.watts, "muted"),
        (form, judged.drawn[form], "p0"),
        (AS_GIVEN, judged.drawn[AS_GIVEN], "p1"),
    )
    for name, values, ink in lines:
        figure.add_scatter(
            x=hours, y=_means(values / 1000.0, groups), mode="lines", name=name, line={"width": 1.5},
            hovertemplate=f"{name}<br>%{{x:.1f}} h, %{{y:.2f}} kW<extra></extra>",
            meta={"ink": ink, "priority": 0},
        )  # fmt: skip
    return figure


def _means(values: NDArray[Any], groups: list[I8]) -> list[float]:
    return [float(values[group].mean()) for group in groups]


def _residual_figure(rows: pd.DataFrame, title: str) -> Any:
    figure = new_figure(xaxis=axis(title), yaxis=axis("simulated over metered − 1", ticksuffix=" %"))
    bias = rows["bias"]
    figure.add_scatter(
        x=list(rows["value"]), y=list(bias), mode="markers", marker={"size": 8},
        error_y={
            "type": "data", "array": list(rows["p95"] - bias), "arrayminus": list(bias - rows["p5"]),
            "thickness": 1, "width": 3,
        },
        hovertemplate="%{x:.3g}: %{y:.2f} %<extra></extra>", meta={"ink": "p0", "priority": 0},
    )  # fmt: skip
    return figure
