"""What a study says: a table on the terminal, and the part of the page that stands before the validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.sim.models.cost import GATE_OK

from ..report import write_report
from ..report.learned.search import parallel_plot, point_plot
from ..report.learned.trainings import LEARNED
from ..report.page import Lead
from ..report.parts import render
from .study import Outcome, setting_of

if TYPE_CHECKING:
    import pandas as pd

N_SHOWN = 10
"""Trials of the terminal's table, best first."""


def sentences(outcome: Outcome) -> list[str]:
    """What came out, a sentence each."""
    plan, table = outcome.plan, outcome.table
    setting = ", ".join(f"{key}={text}" for key, text in setting_of(plan, table, outcome.best).items())
    states = table["state"].value_counts()
    done = ", ".join(f"{states[name]} {name}" for name in ("complete", "pruned", "failed") if name in states)
    row = table[table["number"] == outcome.best].iloc[0]
    values = ", ".join(f"{name} {row[name]:.6g}" for name in plan.objectives)
    gate = "" if row["gate"] == GATE_OK else f"; it does not pass the gate ({row['gate']})"
    found = [f"Best of {len(table)} trials ({done}): {setting}, with {values}{gate}."]
    if plan.config.pruning != "none":
        found.append(saved_by_pruning(table))
    for name, (default, best, difference) in outcome.judged.items():
        text = f"Validation, {outcome.unit}: {name} {best:.6g} against {default:.6g} of the default, "
        text += f"difference {difference.estimate:+.4g}"
        if difference.known:
            text += f" [{difference.low:+.4g}, {difference.high:+.4g}] (95 %, paired)"
        found.append(f"{text}.")
    return found


def saved_by_pruning(table: pd.DataFrame) -> str:
    """What the pruned trials did not play, and about how long that would have taken."""
    full = table[table["state"] == "complete"]
    pruned = table[table["state"] == "pruned"]
    steps = float(full["steps"].max())
    left_out = float((steps - pruned["steps"]).sum())
    all_steps = steps * (len(full) + len(pruned))
    saved = float((pruned["seconds"] / pruned["steps"].clip(lower=1) * (steps - pruned["steps"])).sum())
    spent = float(table["seconds"].sum())
    share = f"{100.0 * left_out / all_steps:.0f} %" if all_steps else "none"
    return (
        f"Pruning left out {share} of the steps: about {saved:.0f} s beside {spent:.0f} s that trials took."
    )


def print_study(outcome: Outcome) -> None:
    """Print the best trials, then what came out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    plan = outcome.plan
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    table = Table(title=f"{plan.name}, {plan.scenario['name']}", box=box.SIMPLE_HEAD, title_justify="left")
    names = ["number", *plan.objectives, *plan.axes, "gate"]
    for name in names:
        table.add_column(name, justify="left" if name in ("gate", *plan.axes) else "right")
    done = outcome.table[outcome.table["state"] == "complete"].sort_values([plan.objectives[0], "number"])
    for _, row in done.head(N_SHOWN).iterrows():
        table.add_row(*(f"{row[n]:.6g}" if n in plan.objectives else str(row[n]) for n in names))
    console.print(table)
    for text in sentences(outcome):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def write_study_report(outcome: Outcome) -> Path:
    """Write ``report.html`` and ``report.md``: the search, then the benchmark of validation.

    Returns:
        The page.
    """
    plan, table = outcome.plan, outcome.table
    figures: dict[str, Any] = {}
    said = sentences(outcome)
    title = f"Tuning {plan.name}"
    done = table[table["state"] == "complete"]
    done = done.assign(label=[f"trial {n}" for n in done["number"]])
    name = plan.objectives[0]
    least = done.assign(best=done[name].where(done["gate"] == GATE_OK).cummin().ffill())
    pictures = [point_plot(figures, "history", "History", "number", name, done, least[["number", "best"]])]
    if len(plan.objectives) > 1:
        second = plan.objectives[1]
        front = done[done["pareto"]].sort_values(name)[[name, second]]
        pictures.append(point_plot(figures, "pareto-front", "Pareto front", name, second, done, front))
    pictures.append(parallel_plot(figures, "parallel", list(plan.axes), name, done))
    pictures += [point_plot(figures, f"slice-{key}", key, key, name, done) for key in plan.axes]
    html = render(LEARNED, title=title, said=said, settings=None, pictures=pictures, curves=None)
    markdown = [f"## {title}", "", *(f"- {text}" for text in said), ""]
    lead = Lead(title, html, figures, markdown)
    return write_report(outcome.folders, plan.out, [lead])
