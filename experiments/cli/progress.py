"""What a person sees: a bar on a terminal, plain lines in a log, a table at the end."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from ..suite.scores import Part, Standing
    from ..suite.tasks import Suite

_WIDTH = 150
"""Width of tables where there is no terminal to ask."""

_TABLE: tuple[tuple[str, str, float, str], ...] = (
    ("cost", "cost", 1.0, ".2f"),
    ("energy_kwh", "energy kWh", 1.0, ".2f"),
    ("unserved_weighted", "unserved %", 100.0, ".3f"),
    ("migrations", "migrations", 1.0, ",.0f"),
    ("slatah", "SLATAH %", 100.0, ".3f"),
    ("pdm", "PDM %", 100.0, ".3f"),
    ("slav", "SLAV", 0.0, ".2f"),
    ("esv", "ESV", 0.0, ".2f"),
    ("active_hosts", "hosts on", 1.0, ".1f"),
    ("decision_ms_p99", "p99 ms", 1.0, ".3f"),
    ("wall_s", "wall s", 1.0, ".3f"),
)
"""Metric, head, factor (0 = the power of ten that suits the numbers, said in the head) and format."""

_MOVES: tuple[tuple[str, str, float, str], ...] = (
    ("objective_start", "objective at first", 1.0, ".4f"),
    ("objective", "objective", 1.0, ".4f"),
    ("fragment_rate", "fragment rate", 1.0, ".4f"),
    ("moves", "moves", 1.0, ".1f"),
    ("cpu_s", "processor s", 1.0, ".3f"),
)
"""The same for snapshots."""

_DROPPED = ("wall_s", "slav", "decision_ms_p99", "pdm", "slatah", "active_hosts", "esv", "migrations")
_TIMES = ("decision_ms_p99", "wall_s", "cpu_s")
"""Columns shown without an interval: they measure the machine."""


class Progress:
    """Progress of a grid of cells: a bar on a terminal, one line per cell elsewhere.

    Args:
        total: Number of cells to run.
    """

    def __init__(self, total: int) -> None:
        from rich.console import Console

        self._total = total
        self._done = 0
        self._console = Console(stderr=True)
        self._bar: Any = None

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._console.file.isatty() and self._total:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("running", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Say something beside the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self, name: str, rows: Sequence[Mapping[str, Any]] | None, error: str | None = None) -> None:
        """A cell has ended.

        Args:
            name: Policy and seed.
            rows: Its result rows, if it finished.
            error: What went wrong, if it did not.
        """
        if self._bar is not None and error is not None:
            self.note(f"{name}: failed: {error}")
        self.tick(name, f"failed: {error}" if rows is None else _numbers(rows))

    def reach(self, name: str, share: float) -> None:
        """Show how far what runs now has come, 0 to 1."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + share, description=name)

    def tick(self, name: str, text: str) -> None:
        """Something has ended.

        Args:
            name: What it was.
            text: What it gave, said where there is no bar.
        """
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=name)
        else:
            self.note(f"[{self._done}/{self._total}] {name}: {text}")


def _numbers(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a cell gave, in a few words."""
    first = rows[0]
    if not math.isnan(first["window"]):
        from ..report.placement.terminal_table import progress_text

        return progress_text(rows)
    if not math.isnan(first["moves"]):
        reached = f"objective {first['objective_start']:.6g} to {first['objective']:.6g}"
        return f"{reached}, {first['moves']:.0f} moves, {first['wall_s']:.2f} s"
    done = f"{first['energy_kwh']:.2f} kWh, {first['migrations']:.0f} migrations"
    return f"cost {first['cost']:.2f}, {done}, {first['wall_s']:.2f} s"


def _console() -> Console:
    from rich.console import Console

    probe = Console()
    return probe if probe.is_terminal else Console(width=_WIDTH)


def print_results(rows: pd.DataFrame) -> None:
    """Print result rows to stdout: every metric of a single row, else a line per policy.

    Placement windows have a table of their own.

    Args:
        rows: Result rows.
    """
    from ..analysis.placement_summary import has_windows

    console = _console()
    if has_windows(rows):
        _print_windows(rows, console)
    elif len(rows) == 1:
        console.print(metrics_table(dict(zip(rows.columns, rows.iloc[0]))))
    else:
        _print_fitting(console, lambda left_out: results_table(rows, left_out), _DROPPED)


def _print_windows(rows: pd.DataFrame, console: Console) -> None:
    from ..analysis.placement_summary import compare_windows
    from ..report.placement.terminal_table import DROPPED, notes, placement_table

    found = compare_windows(rows)
    title = _title(rows)
    _print_fitting(console, lambda left_out: placement_table(found, title, left_out), DROPPED)
    for line in notes(found):
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _print_fitting(
    console: Console,
    make: Callable[[Collection[str]], Table],
    dropped: Sequence[str],
    file: str = "results.csv",
) -> None:
    """Print a table; a narrow terminal loses whole columns, the least telling first, never digits."""
    from rich.console import Console

    unlimited = Console(width=1000)
    for count in range(len(dropped) + 1):
        table = make(dropped[:count])
        if unlimited.measure(table).maximum <= console.width:
            break
    console.print(table)
    if count:
        console.print(f"too narrow for {', '.join(dropped[:count])}: see {file}", style="dim")


def _title(rows: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(f"{s} / {t}" for s, t in zip(rows["scenario"], rows["trace"])))


def results_table(rows: pd.DataFrame, left_out: Collection[str] = ()) -> Table:
    """The final table: a line per policy, mean over seeds ± half of its 95 % interval, least cost first.

    Policies that are not ranked stand below a line, with the reason.

    Args:
        rows: Result rows.
        left_out: Metrics that get no column.
    """
    from rich import box
    from rich.table import Table

    from virtgym.envs.sim.models.cost import GATE_OK

    from ..run.rows import gates_of

    columns = _MOVES if rows["moves"].notna().any() else _TABLE
    shown = [_scaled(column, rows) for column in columns if column[0] not in left_out]
    names = _title(rows)
    seeds = rows["seed"].nunique()
    caption = f"mean ± 95 % interval over {seeds} seeds" if seeds > 1 else None
    table = Table(title=_escape(names), caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column("policy", overflow="fold")
    for _, head, _, _ in shown:
        table.add_column(head, justify="right", no_wrap=True)
    groups = [(str(policy), group) for policy, group in rows.groupby("policy", sort=False)]
    gates = gates_of(rows)
    groups.sort(key=lambda pair: (gates[pair[0]] != GATE_OK, float(pair[1]["cost"].mean())))
    for i, (policy, group) in enumerate(groups):
        below = gates[policy] != GATE_OK
        if below and (i == 0 or gates[groups[i - 1][0]] == GATE_OK):
            table.add_section()
        table.add_row(
            _escape(f"{policy} ({gates[policy]})" if below else policy),
            *(_cell(group[name] * factor, spec, name not in _TIMES) for name, _, factor, spec in shown),
        )
    return table


def _scaled(column: tuple[str, str, float, str], rows: pd.DataFrame) -> tuple[str, str, float, str]:
    """Give a column without a factor the power of ten of its largest mean."""
    name, head, factor, spec = column
    if factor:
        return column
    largest = float(rows.groupby("policy")[name].mean().max())
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return (name, f"{head} 1e{exponent}" if exponent else head, 10.0**-exponent, spec)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _cell(values: pd.Series[Any], spec: str, with_interval: bool) -> str:
    from ..analysis.stats import mean_interval

    interval = mean_interval(values.to_numpy())
    if math.isnan(interval.estimate):
        return "–"
    text = format(interval.estimate, spec)
    half = interval.high - interval.estimate
    return f"{text} ±{format(half, spec)}" if with_interval and interval.known and half > 0 else text


def metrics_table(row: Mapping[str, Any]) -> Table:
    """Every metric of one row, with what it means; metrics without a value are left out.

    Args:
        row: A result row.
    """
    from rich import box
    from rich.table import Table

    from virtgym.envs.sim.metrics import METRICS

    from ..run.rows import EXTRAS, PLANS, REASSIGNMENT, RESCHEDULING

    title = f"{row['scenario']} / {row['trace']} / {row['policy']} / seed {row['seed']}"
    table = Table(title=_escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for name in ("steps", "sim_hours", "wall_s", "vm_intervals_per_s"):
        table.add_row(name, f"{row[name]:,.6g}", "")
    table.add_row("gate", _escape(str(row["gate"])), "ok, or why the row is not ranked")
    for name, meaning in {**METRICS, **EXTRAS, **PLANS, **RESCHEDULING, **REASSIGNMENT}.items():
        value = float(row[name])
        if not math.isnan(value):
            text = f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.6g}"
            table.add_row(name, text, meaning)
    return table


def print_standings(suite: Suite, lines: pd.DataFrame, found: Sequence[Standing]) -> None:
    """Print a suite's tables: a line per task of a kind, a column per policy, best first.

    Args:
        suite: The suite.
        lines: Lines of ``suite.csv``.
        found: Policies, best first.
    """
    from ..suite.scores import parts

    console = _console()
    for part in parts(suite, lines, found):
        worst = [one.policy for one in reversed(part.standings)][:-1]
        title = f"{suite.name}, {part.kind} tasks: 0 = reference, 100 = bound"
        _print_fitting(console, functools.partial(_standings_table, part, title), worst, "suite.csv")


def _standings_table(part: Part, title: str, left_out: Collection[str]) -> Table:
    from rich import box
    from rich.table import Table

    shown = [one for one in part.standings if one.policy not in left_out]
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    table.min_width = len(title) + 1
    table.add_column("task", no_wrap=True)
    for one in shown:
        table.add_column(_escape(_folded(one.policy)), justify="right", no_wrap=True)
    for task in part.tasks:
        cells = (one.tasks.get(task.name, math.nan) for one in shown)
        table.add_row(task.name, *("–" if math.isnan(value) else f"{value:.0f}" for value in cells))
    table.add_section()
    table.add_row("score", *(f"{one.score.estimate:.1f}" for one in shown))
    if any(one.score.known for one in shown):
        ranges = (f"{one.score.low:.1f}, {one.score.high:.1f}" if one.score.known else "–" for one in shown)
        table.add_row("95 % interval", *ranges)
    table.add_row("runs that pass the gate", *(f"{one.passed} of {one.runs}" for one in shown))
    return table


def _folded(name: str, width: int = 13) -> str:
    """A name on lines of about ``width`` characters, broken behind its underscores."""
    lines = [""]
    for piece in name.replace("_", "_\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
