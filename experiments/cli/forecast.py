"""``virtgym forecast trace=T``: read the settings, compare, write ``forecast.csv`` and print the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.envs.traces import Trace, read_trace

from ..analysis.forecast_skill import LEVELS, SkillSettings, cells, forecast_skill, unseasoned
from ..config.overrides import parse_policy, parse_value, split_list, split_override, unquote
from ..config.yamlio import dump_yaml, load_stored
from ..run.folder import claim_folder, default_out, write_text
from ..run.rows import virtgym_version
from .progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_OPTIONS = "trace.options."
_KINDS: dict[str, type[Any]] = {
    f.name: type(f.default) for f in fields(SkillSettings) if f.name not in ("forecasters", "horizons")
}
_KEYS = ("trace", "trace.format", f"{_OPTIONS}KEY", "forecasters", "horizons", *_KINDS, "out")
_WORDS = {int: "an integer", bool: "true or false", float: "a number"}
_SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class ForecastRun:
    """A checked command.

    Attributes:
        traces: Paths, or names of fetched traces; ``synthetic`` is the generator.
        format: Format of the traces, or ``auto``.
        options: Options of their reader.
        settings: How forecasters are compared.
        out: Folder of ``forecast.csv``.
    """

    traces: tuple[str, ...]
    out: Path
    format: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    settings: SkillSettings = field(default_factory=SkillSettings)

    def config(self) -> dict[str, Any]:
        """What decides the table, as plain data."""
        plain = asdict(self.settings)
        plain["forecasters"] = [spec.label for spec in self.settings.forecasters]
        plain["horizons"] = list(self.settings.horizons)
        trace = {"path": list(self.traces), "format": self.format, "options": dict(self.options)}
        return {"trace": trace, **plain, "virtgym_version": virtgym_version()}


def compose_forecast(arguments: Sequence[str]) -> ForecastRun:
    """Read the settings of ``virtgym forecast``.

    Args:
        arguments: ``key=value`` as typed; the last one of a key wins.

    Returns:
        The run.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    given: dict[str, str] = {}
    options: dict[str, Any] = {}
    for key, value in map(split_override, arguments):
        if key.startswith(_OPTIONS) and key[len(_OPTIONS) :] not in ("", "path", "format"):
            options[key[len(_OPTIONS) :]] = parse_value(key, value)
        elif key in _KEYS:
            given[key] = value
        else:
            raise ConfigError(f"{key}: no such key{hint(key, _KEYS)}; allowed: {', '.join(_KEYS)}")
    traces = _traces(given.get("trace", ""))
    settings: dict[str, Any] = {key: _typed(key, value) for key, value in given.items() if key in _KINDS}
    if "forecasters" in given:
        settings["forecasters"] = tuple(parse_policy(text) for text in split_list(given["forecasters"]))
    if "horizons" in given:
        settings["horizons"] = _whole_numbers("horizons", given["horizons"])
    out = Path(unquote(given["out"])) if given.get("out") else default_out("forecast")
    return ForecastRun(traces, out, given.get("trace.format", "auto"), options, SkillSettings(**settings))


def _traces(value: str) -> tuple[str, ...]:
    """One path, which may hold anything, or ``[PATH,…]``."""
    is_list = value.startswith("[") and value.endswith("]") and not Path(value).exists()
    traces = tuple(split_list(value)) if is_list else (unquote(value),) if value else ()
    if not traces:
        raise ConfigError("trace=: name a file or folder, a fetched trace, several as [A,B], or synthetic")
    return traces


def _typed(key: str, value: str) -> Any:
    found, kind = parse_value(key, value), _KINDS[key]
    if kind is float and type(found) is int:
        found = float(found)
    if type(found) is not kind:
        raise ConfigError(f"{key}={value}: must be {_WORDS[kind]}")
    return found


def _whole_numbers(key: str, value: str) -> tuple[int, ...]:
    found = parse_value(key, value)
    numbers = found if isinstance(found, list) else [found]
    if any(type(number) is not int for number in numbers):
        raise ConfigError(f"{key}={value}: must be integers, like {key}=[1,6]")
    return tuple(numbers)


def main(arguments: Sequence[str]) -> int:
    """Run ``virtgym forecast ARGUMENTS``.

    Args:
        arguments: Arguments after ``forecast``.

    Returns:
        0.

    Raises:
        VirtgymError: For a user's error.
    """
    import pandas as pd

    run = compose_forecast(arguments)
    traces = _read(run)
    _check_out(run)
    with Progress(len(traces) * cells(run.settings)) as progress:
        frames = [forecast_skill(trace, run.settings, progress.tick) for trace in traces]
    rows = pd.concat(frames, ignore_index=True)
    _write(run, rows)
    print_skill(rows)
    for trace in traces:
        for label in unseasoned(run.settings.forecasters, trace):
            print(f"{trace.name}: {label}: the trace has no whole season, so this is exponential smoothing")
    print(f"forecast: {run.out / 'forecast.csv'}")
    return 0


def _check_out(run: ForecastRun) -> None:
    """Refuse a folder with another table: rows are never overwritten in silence.

    Raises:
        ConfigError: Naming the folder.
    """
    claim_folder(run.out, "forecast")
    if not (run.out / "forecast.csv").exists():
        return
    before = load_stored(run.out / "config.yaml")
    if before != run.config():
        raise ConfigError(f"out={run.out}: holds forecast.csv of other settings; choose another out=")


def _read(run: ForecastRun) -> list[Trace]:
    traces: list[Trace] = []
    for path in run.traces:
        generated = path == _SYNTHETIC and not Path(path).exists()
        trace = read_trace(None if generated else path, run.format, **run.options)
        if any(trace.name == other.name for other in traces):
            raise ConfigError(f"trace={path}: a trace called {trace.name} is named twice")
        traces.append(trace)
    return traces


def _write(run: ForecastRun, rows: pd.DataFrame) -> None:
    write_text(run.out / "config.yaml", dump_yaml(run.config()))
    write_atomically(run.out / "forecast.csv", lambda draft: rows.to_csv(draft, index=False))


def print_skill(rows: pd.DataFrame) -> None:
    """Print rows of ``forecast_skill`` as tables."""
    from rich.console import Console

    probe = Console()
    console = probe if probe.is_terminal else Console(width=150)
    for table in skill_tables(rows):
        console.print(table)


def skill_tables(rows: pd.DataFrame) -> list[Table]:
    """A table per trace and level: a line per horizon and forecaster, least error first.

    Args:
        rows: Rows of ``forecast_skill``.
    """
    tables = []
    for name in dict.fromkeys(rows["trace"]):
        for level in LEVELS:
            found = rows[(rows["trace"] == name) & (rows["level"] == level)]
            if len(found):
                tables.append(_table(f"{name}: {found['series'].iloc[0]:,} {_MANY[level]}", found))
    return tables


_MANY = {"vm": "VMs", "host": "hosts"}
_CAPTION = (
    "% of nominal CPU; skill = 1 - MAE / MAE of the reference; ± half of the 95 % interval over series; "
    "pinball: loss of the upper quantiles; last column: share not above that of 95 %"
)


def _table(title: str, rows: pd.DataFrame) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), caption=_CAPTION, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column("steps", justify="right")
    table.add_column("forecaster", overflow="fold")
    for head in ("MAE", "bias", "RMSE", "skill on persistence", "skill on mean", "pinball", "below"):
        table.add_column(head, justify="right")
    last = None
    for _, row in rows.sort_values(["steps", "mae"], kind="stable").iterrows():
        if last not in (None, row["steps"]):
            table.add_section()
        last = row["steps"]
        table.add_row(
            str(row["steps"]),
            escape(str(row["forecaster"])),
            _spread(row, "mae", ".3f"),
            f"{100 * row['bias']:.3f}",
            f"{100 * row['rmse']:.3f}",
            _spread(row, "skill_persistence", ".1f"),
            _spread(row, "skill_mean", ".1f"),
            f"{100 * row['pinball']:.3f}",
            f"{100 * row['coverage_95']:.1f}",
        )
    return table


def _spread(row: pd.Series[Any], name: str, spec: str) -> str:
    """An estimate and half of its interval, in %."""
    if math.isnan(row[name]):
        return "–"
    text = format(100 * row[name], spec)
    half = 50 * (row[f"{name}_high"] - row[f"{name}_low"])
    return f"{text} ±{format(half, spec)}" if half > 0 else text
