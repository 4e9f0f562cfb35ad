"""``virtgym traces fetch|check|convert|list``: download, validate and convert traces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from virtgym.envs.errors import TraceError, VirtgymError
from virtgym.envs.files import file_stem, show_path

if TYPE_CHECKING:
    from rich.table import Table

    from virtgym.envs.traces.readers import TraceSummary
    from virtgym.envs.traces.requests import RequestSummary
    from virtgym.envs.traces.series import SeriesSummary

_EXAMPLES = """\
examples:
  virtgym traces list
  virtgym traces fetch planetlab/20110303 planetlab/20110306
  virtgym traces fetch 20110303 --to data --base-url http://mirror.example/traces
  virtgym traces check data/planetlab/20110303
  virtgym traces check my_usage.csv --option fill=previous
  virtgym traces check data/opendc/bitbrains-small --option over=clip
  virtgym traces check requests.csv DE_2021-2024.parquet
  virtgym traces convert data/planetlab/20110303 --out day.parquet
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as every error of the command line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise VirtgymError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str]) -> int:
    """Run ``virtgym traces ARGV``.

    Args:
        argv: Arguments after ``traces``.

    Returns:
        Exit code: 0, or 2 after a user's error, told in one line on stderr. ``--help`` itself exits with 0.
    """
    try:
        arguments = _build_parser().parse_args(list(argv))
        arguments.run(arguments)
    except VirtgymError as error:
        print(f"virtgym traces: {error}", file=sys.stderr)
        return 2
    return 0


def _build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="virtgym traces",
        description="Download, validate and convert traces: utilisation, and VM requests (no conversion).",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = commands.add_parser(
        "list", help="show formats and traces that can be fetched", epilog=_EXAMPLES, formatter_class=raw
    )
    listing.set_defaults(run=_run_list)

    fetch = commands.add_parser(
        "fetch", help="download traces by name", epilog=_EXAMPLES, formatter_class=raw
    )
    fetch.add_argument("names", nargs="+", metavar="NAME", help="name as virtgym traces list shows it")
    fetch.add_argument("--to", metavar="DIR", help="folder to put them below (default: the user's cache)")
    fetch.add_argument(
        "--base-url",
        metavar="URL",
        help="mirror with NAME.tar.gz (default: $VIRTGYM_TRACES_URL, else origin)",
    )
    fetch.add_argument("--force", action="store_true", help="replace a folder whose content differs")
    fetch.set_defaults(run=_run_fetch)

    check = commands.add_parser("check", help="validate traces", epilog=_EXAMPLES, formatter_class=raw)
    _add_reading(check)
    check.set_defaults(run=_run_check)

    convert = commands.add_parser(
        "convert", help="convert traces to Parquet", epilog=_EXAMPLES, formatter_class=raw
    )
    _add_reading(convert)
    convert.add_argument(
        "--out", default=".", metavar="OUT", help="a .parquet or .csv file, or a folder (default: here)"
    )
    convert.set_defaults(run=_run_convert)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="NAME", help="file, folder, or name of a fetched trace")
    parser.add_argument("--format", default="auto", help="its format (default: guessed)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the reader, e.g. expected=144, fill=previous, over=clip",
    )


def _run_list(arguments: argparse.Namespace) -> None:
    from virtgym.envs.traces import TRACE_FORMATS
    from virtgym.envs.traces.catalog import load_catalog
    from virtgym.envs.traces.readers import REQUEST_FORMATS, SERIES_FORMATS

    formats = _table("format", "what")
    for name, text in {**TRACE_FORMATS, **REQUEST_FORMATS, **SERIES_FORMATS}.items():
        formats.add_row(name, text)
    traces = _table("trace", "format", "files", "kB", "meant to")
    origins = {}
    for entry in load_catalog().values():
        size = f"{entry.bytes / 1e3:.0f}"
        traces.add_row(entry.name, entry.format, str(entry.files), size, entry.use)
        origins[entry.format] = f"{entry.format}: {entry.source}. Licence: {entry.licence}."
    _show(formats, traces)
    print(*origins.values(), sep="\n")


def _run_fetch(arguments: argparse.Namespace) -> None:
    from virtgym.envs.traces.catalog import fetch_traces, find_entry

    with _Progress() as progress:
        paths = fetch_traces(
            arguments.names,
            to=arguments.to,
            base_url=arguments.base_url,
            force=arguments.force,
            progressbar=progress if sys.stderr.isatty() else False,
        )
    table = _table("trace", "files", "sha256 (verified)", "path")
    for name, path in zip(arguments.names, paths):
        entry = find_entry(name)
        table.add_row(entry.name, str(entry.files), entry.sha256[:16] + "…", str(path))
    _show(table)


def _run_check(arguments: argparse.Namespace) -> None:
    from virtgym.envs.traces.readers import TraceSummary
    from virtgym.envs.traces.series import SeriesSummary

    options = _parse_options(arguments.option)
    summaries = [_check(path, arguments.format, options) for path in arguments.paths]
    usage = _table("trace", "format", "VMs", "samples", "every s", "mean %", "SD %", "max %", "zero %")
    requests = _table("trace", "format", "requests", "days", "cores", "GiB", "p50 s")
    series = _table("series", "format", "values", "days", "mean", "min", "max")
    notes: list[str] = []
    for summary in summaries:
        if isinstance(summary, TraceSummary):
            _add(usage, *_summary_cells(summary))
            found = _notes(summary)
        elif isinstance(summary, SeriesSummary):
            _add(series, *_series_cells(summary))
            found = [f"values are {summary.unit}; source: {summary.source}", *summary.notes]
        else:
            _add(requests, *_request_cells(summary))
            found = _request_notes(summary)
        notes += [_printable(f"{summary.name}: {note}") for note in found]
    _show(*(table for table in (usage, requests, series) if table.row_count))
    print(*notes, sep="\n")


def _check(path: str, format: str, options: dict[str, Any]) -> TraceSummary | RequestSummary | SeriesSummary:
    """Read and describe a trace of any kind; a generator has no path, so its name stands for it."""
    from virtgym.envs.traces import check_requests, check_trace
    from virtgym.envs.traces.readers import REQUEST_FORMATS, SERIES_FORMATS, guess_format
    from virtgym.envs.traces.series import check_series

    if path in ("synthetic", "synthetic_requests") and not Path(path).exists():
        name = path if format == "auto" else format
        return (check_requests if name in REQUEST_FORMATS else check_trace)(None, name, **options)
    name = guess_format(path) if format == "auto" else format
    if name in SERIES_FORMATS:
        return check_series(path, name, **options)
    return (check_requests if name in REQUEST_FORMATS else check_trace)(path, format, **options)


def _run_convert(arguments: argparse.Namespace) -> None:
    from virtgym.envs.traces import convert_trace, read_trace

    options = _parse_options(arguments.option)
    out = Path(arguments.out)
    to_file = out.suffix.lower() in (".parquet", ".pq", ".csv") and not out.is_dir()
    if to_file and len(arguments.paths) > 1:
        raise TraceError(f"{out}: several traces do not fit into one file; --out must be a folder")
    table = _table("trace", "VMs", "samples", "file", "kB")
    seen: set[str] = set()
    for path in _paths(arguments):
        trace = read_trace(path, arguments.format, **options)
        stem = file_stem(trace.name)
        if stem in seen:
            raise TraceError(f"{path}: a trace called {stem} was written already; give it another --out")
        seen.add(stem)
        # Anybody can write any name into a file's metadata: it names a file in OUT, wherever it points.
        written = convert_trace(trace, out if to_file else out / f"{stem}.parquet")
        size = f"{written.stat().st_size / 1e3:.0f}"
        _add(table, trace.name, str(trace.n_vms), str(trace.n_samples), str(written), size)
    _show(table)


def _paths(arguments: argparse.Namespace) -> list[str | None]:
    """Return the paths; ``synthetic`` has none, so its name stands for it."""
    return [None if path == "synthetic" and not Path(path).exists() else path for path in arguments.paths]


def _parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts into options; numbers, true/false and none become such."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise TraceError(f"--option {pair!r}: expected KEY=VALUE, such as fill=previous")
        options[key] = _parse_value(text)
    return options


def _parse_value(text: str) -> bool | int | float | str | None:
    if text in ("none", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _summary_cells(summary: TraceSummary) -> list[str]:
    return [
        summary.name,
        summary.format,
        str(summary.vms),
        str(summary.samples),
        f"{summary.sample_s:g}",
        f"{summary.mean * 100:.2f}",
        f"{summary.sd * 100:.2f}",
        f"{summary.maximum * 100:.0f}",
        f"{summary.zeros * 100:.1f}",
    ]


def _notes(summary: TraceSummary) -> list[str]:
    days = summary.span_s / 86_400
    notes = [f"{days:.4g} days; values are a {summary.unit}, shown in %", *summary.notes]
    if summary.columns:
        notes.append(f"columns {', '.join(summary.columns)}")
    if summary.arrivals or summary.departures:
        notes.append(
            f"{summary.arrivals} VMs arrive after the start, {summary.departures} leave before the end"
        )
    return notes


def _series_cells(summary: SeriesSummary) -> list[str]:
    return [
        summary.name,
        summary.format,
        str(summary.rows),
        f"{summary.span_s / 86_400:.1f}",
        *(f"{value:.4g}" for value in (summary.mean, summary.minimum, summary.maximum)),
    ]


def _request_cells(summary: RequestSummary) -> list[str]:
    return [
        summary.name,
        summary.format,
        str(summary.requests),
        f"{summary.span_s / 86_400:.2f}",
        f"{summary.mean_cores:.2f}",
        f"{summary.mean_memory_gib:.2f}",
        f"{summary.lifetimes_s[1]:.0f}",
    ]


def _request_notes(summary: RequestSummary) -> list[str]:
    cores, memory = summary.usual
    p10, p50, p90, p99 = (f"{lifetime:.0f}" for lifetime in summary.lifetimes_s)
    stay = f"; {summary.stay * 100:.1f} % never leave" if summary.stay else ""
    return [
        *summary.notes,
        f"{summary.flavours} sizes, most often {cores:g} cores and {memory:g} GiB "
        f"({summary.usual_share * 100:.1f} %), "
        f"at most {summary.max_cores:g} cores, {summary.max_memory_gib:g} GiB",
        f"{summary.double * 100:.2f} % have more than 10 GiB (two NUMA nodes in the placement protocol)",
        f"lifetimes: 10 % up to {p10} s, 50 % {p50} s, 90 % {p90} s, 99 % {p99} s{stay}",
        f"{summary.bursts} times of arrival, at most {summary.largest_burst} requests at one time",
    ]


def _table(*headings: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in headings:
        # Names and numbers must stay whole to be read and copied; only descriptions and paths may wrap.
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("what", "path", "file", "series"))
    return table


def _add(table: Table, *cells: str) -> None:
    """Add a row as it is: names of files and VMs are no markup, and must not move the cursor."""
    from rich.text import Text

    table.add_row(*(Text(_printable(cell)) for cell in cells))


def _printable(text: str) -> str:
    return text if text.isprintable() else show_path(text)


def _show(*tables: Table) -> None:
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


class _Progress:
    """A progress bar on stderr with the methods that pooch calls."""

    def __init__(self) -> None:
        """Prepare a bar that appears with the first byte."""
        self.total = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the bar, after an error, too."""
        self.close()

    def update(self, size: int) -> None:
        """Advance by ``size`` bytes."""
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("download")
            self._bar.start()
        self._bar.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Start from zero; pooch does so before it fills the bar for good."""
        if self._bar is not None:
            self._bar.reset(self._task)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
