"""Reads run folders and sorts what is in them into groups that may be compared with each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import open_regular, read_parquet

from ..config.yamlio import load_stored, read_stored
from ..run.folder import cell_name
from ..run.rows import COLUMNS, STEP_TEXTS, TEXTS, kinds_of

if TYPE_CHECKING:
    import pandas as pd

KEY_COLUMNS = ("scenario", "trace", "policy", "seed")
WINDOW_COLUMNS = ("n_vms", "failed_placements", "total_wait_s", "wall_s", "steps")
"""Columns that rows of placement windows have."""

_NUMBERS = ("is_floating", "is_integer", "is_boolean", "is_null")

MOST_VALUES = 40_000_000
"""Values of a table that is read."""
MOST_POLICIES = 1000
MOST_TEXT = 1_000_000
"""Characters of a configuration that are shown."""
LARGEST = 1e30
"""Largest number that is no damage."""


@dataclass(frozen=True)
class HeatFile:
    """Where the host × time table of one episode is.

    Attributes:
        policy: Policy.
        seed: Seed.
        path: ``.npz`` file.
    """

    policy: str
    seed: int
    path: Path


@dataclass(frozen=True)
class RunFolder:
    """What a run folder holds.

    Attributes:
        path: The folder.
        rows: Result rows that are finished.
        steps: Per-interval rows; None = the folder has none.
        heats: Host × time tables.
        info: ``run.json``; empty = there is none.
        config: ``config.yaml`` as text; empty = there is none.
        memory: Memory rule; empty = not known.
        n_unfinished: Rows left out because they are not finished.
        settings: ``config.yaml`` as plain data, never resolved; empty = there is none, or it is damaged.
        left_out: What was left out because it is damaged, and why, one text each.
    """

    path: Path
    rows: pd.DataFrame
    steps: pd.DataFrame | None
    heats: tuple[HeatFile, ...]
    info: dict[str, Any]
    config: str
    memory: str
    n_unfinished: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


@dataclass
class Group:
    """Runs of one scenario on one trace under one memory rule, or of several traces pooled.

    Attributes:
        title: Heading.
        scenario: Scenario.
        traces: Traces; more than one = pooled.
        memory: Memory rule; empty = not known.
        rows: Result rows, one per (trace, policy, seed[, window]).
        steps: Per-interval rows; None = there are none.
        heats: Host × time tables.
        runs: Folders that contributed.
    """

    title: str
    scenario: str
    traces: list[str]
    memory: str
    rows: pd.DataFrame
    steps: pd.DataFrame | None = None
    heats: list[HeatFile] = field(default_factory=list)
    runs: list[RunFolder] = field(default_factory=list)

    @property
    def pooled(self) -> bool:
        """Whether several traces are taken together."""
        return len(self.traces) > 1

    @property
    def seeds(self) -> list[int]:
        """Seeds, sorted."""
        return sorted(int(s) for s in self.rows["seed"].unique())

    @property
    def policies(self) -> list[str]:
        """Policies in the order of the rows."""
        return [str(p) for p in self.rows["policy"].unique()]

    @property
    def learned(self) -> set[str]:
        """Policies that were trained."""
        return {policy for policy, kind in kinds_of(self.rows).items() if kind == "agent"}

    @property
    def information(self) -> str:
        """What the policies were shown; empty for rows that do not say."""
        shown = {*self.rows["information"].map(str)} if "information" in self.rows else set[str]()
        return " + ".join(sorted(shown - {"", "nan"}))

    def number(self, column: str) -> float:
        """Mean of a column that need not exist (NaN then)."""
        if column not in self.rows:
            return math.nan
        values = np.asarray(self.rows[column], dtype=np.float64)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan


def short_trace(trace: str) -> str:
    """Last part of a trace's path."""
    return trace.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or trace


def read_run(folder: Path) -> RunFolder:
    """Read a run folder; only ``results.parquet`` must be there.

    Raises:
        VirtgymError: If there are no result rows or they cannot be read.
    """
    rows, n_unfinished = _finished(_read_results(folder), folder)
    left_out: list[str] = []
    steps = None
    if (folder / "steps.parquet").exists():
        try:
            steps = _read_steps(folder / "steps.parquet")
        except VirtgymError as error:
            left_out.append(str(error))
    found: dict[str, dict[str, Any]] = {}
    for name in ("run.json", "config.yaml"):
        data = load_stored(folder / name)
        found[name] = data if isinstance(data, dict) else {}
        if not isinstance(data, dict) and (folder / name).exists():
            left_out.append(f"{folder / name}: cannot be read")
    config = read_stored(folder / "config.yaml") or ""
    if len(config) > MOST_TEXT:
        left_out.append(f"{folder / 'config.yaml'}: too long to be shown")
        config = ""
    settings = found["config.yaml"]
    return RunFolder(
        path=folder,
        rows=rows,
        steps=steps,
        heats=_find_heats(folder / "heat", rows),
        info=found["run.json"],
        config=config,
        memory=_memory_rule(rows, settings),
        n_unfinished=n_unfinished,
        settings=settings,
        left_out=tuple(left_out),
    )


def _read_table(path: Path, known: Collection[str] | None = None) -> pd.DataFrame:
    """Read a Parquet table of numbers and texts.

    Args:
        path: The file.
        known: Columns to read beside those of numbers and those that name a row.

    Raises:
        VirtgymError: Naming the file: if it cannot be read, lacks the columns that name a row, is too large,
            or a column has another type than it should.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_right(name: str, kind: pa.DataType) -> bool:
        text = name in TEXTS or (known is None and name in STEP_TEXTS)
        wanted = ("is_string", "is_large_string") if text else _NUMBERS
        return any(getattr(pa.types, is_kind)(kind) for is_kind in wanted)

    def choose(schema: pa.Schema) -> list[str]:
        missing = [name for name in KEY_COLUMNS if name not in schema.names]
        if missing:
            raise VirtgymError(f"{path}: lacks the columns {', '.join(missing)}; not a table of results")
        wrong = [name for name in schema.names if not is_right(name, schema.field(name).type)]
        extra = {*wrong, *TEXTS} - {*KEY_COLUMNS}
        names = [name for name in schema.names if name not in extra or name in (known or ())]
        for name in wrong:
            if name in names or name in KEY_COLUMNS:
                raise VirtgymError(f"{path}: column {name} has the type {str(schema.field(name).type)[:60]}")
        with open_regular(path, refusal=VirtgymError) as file:
            rows = pq.read_metadata(file).num_rows
        if rows * len(names) > MOST_VALUES:
            raise VirtgymError(f"{path}: {rows:,} rows of {len(names)} columns are too many for a report")
        return names

    table = read_parquet(path, choose, refusal=VirtgymError)
    return _in_range(table.to_pandas(use_threads=False, ignore_metadata=True), path)


def _in_range(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Numbers that can be counted with: an infinite or huge one is none, a minute one 0, a seed is whole.

    Raises:
        VirtgymError: For seeds that are none, and for more policies than a report can show.
    """
    import pandas as pd

    columns: dict[Any, Any] = {}
    for name, column in table.items():
        if name in TEXTS or name in STEP_TEXTS:
            columns[name] = column.astype("object").where(column.notna(), "").map(str)
        elif name in ("finished", "seed"):
            columns[name] = column
        else:
            numbers = column.astype("float64").to_numpy()
            size = np.abs(numbers)
            columns[name] = np.where(size <= LARGEST, np.where(size < 1.0 / LARGEST, 0.0, numbers), np.nan)
    seeds = columns["seed"].astype("float64")
    if not bool((seeds.abs() < 2**53).all()) or bool((seeds % 1 != 0).any()):
        raise VirtgymError(f"{path}: column seed has a value that is no whole number")
    columns["seed"] = seeds.astype("int64")
    if columns["policy"].nunique() > MOST_POLICIES:
        raise VirtgymError(f"{path}: more than {MOST_POLICIES} policies are too many for a report")
    return pd.DataFrame(columns)


def _read_results(folder: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise VirtgymError(f"report {folder}: no such folder; give folders written by virtgym benchmark")
    path = folder / "results.parquet"
    if not path.exists():
        raise VirtgymError(f"report {folder}: no results.parquet in it; give folders with stored results")
    try:
        rows = _read_table(path, COLUMNS)
    except VirtgymError as error:
        raise VirtgymError(f"report {error}") from None
    if "window" in rows and bool(rows["window"].notna().any()):
        missing = [name for name in WINDOW_COLUMNS if name not in rows]
        if missing or not bool(rows["window"].between(0, 2**53).all()) or not bool((rows["n_vms"] > 0).all()):
            raise VirtgymError(
                f"report {path}: {', '.join(missing) or 'window or n_vms'} missing in its rows"
            )
    return rows


def _finished(rows: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, int]:
    keep = rows
    if "finished" in rows:
        keep = rows[rows["finished"].astype("float64").fillna(0.0) != 0.0]
    if keep.empty:
        raise VirtgymError(
            f"report {folder}: results.parquet has no finished rows; finish the benchmark first"
        )
    return keep.reset_index(drop=True), len(rows) - len(keep)


def _read_steps(path: Path) -> pd.DataFrame | None:
    """Per-interval rows; None for a table without any.

    Raises:
        VirtgymError: Naming the file.
    """
    steps = _read_table(path)
    if "time_s" not in steps:
        raise VirtgymError(f"{path}: lacks the column time_s")
    steps = steps[steps["time_s"].between(0.0, 1e12)].reset_index(drop=True)
    return None if steps.empty else steps


def _memory_rule(rows: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    if "memory" in rows and any(rows["memory"]):
        return " + ".join(sorted({str(m) for m in rows["memory"]} - {""}))
    scenario = settings.get("scenario")
    found = scenario.get("memory") if isinstance(scenario, dict) else None
    return found if isinstance(found, str) else ""


def _find_heats(folder: Path, rows: pd.DataFrame) -> tuple[HeatFile, ...]:
    """Heat files of the rows' cells."""
    cells = dict.fromkeys(zip(rows["policy"].map(str), rows["seed"].astype(int).tolist()))
    files = [HeatFile(policy, seed, folder / f"{cell_name(policy, seed)}.npz") for policy, seed in cells]
    return tuple(file for file in files if file.path.exists())


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Sort runs into groups, and add a pooled group for every scenario with several traces."""
    groups: dict[tuple[str, str, str, str], Group] = {}
    for run in runs:
        for (scenario, trace), rows in run.rows.groupby(["scenario", "trace"], sort=False):
            key = (str(scenario), str(trace), run.memory)
            _add(groups, key, run, rows.reset_index(drop=True))
    singles = list(groups.values())
    _name(singles)
    return _pooled(singles) + singles


def _add(
    groups: dict[tuple[str, str, str, str], Group],
    key: tuple[str, str, str],
    run: RunFolder,
    rows: pd.DataFrame,
) -> None:
    """Put rows into their group; the same cell under another configuration opens a group of its own."""
    import pandas as pd

    scenario, trace, memory = key
    variant = ""
    group = groups.get((*key, variant))
    if group is not None and (_clash(group.rows, rows) or _other_windows(group, run)):
        variant = run.path.name or str(run.path)
        group = groups.get((*key, variant))
    if group is None:
        group = groups[(*key, variant)] = Group(variant, scenario, [trace], memory, rows)
    else:
        cells = [c for c in ("policy", "seed", "window") if c in rows]
        # A list of windows may name one twice: only the same copy of it is the same result.
        parts = [
            part.assign(_copy=part.groupby(cells, dropna=False).cumcount()) for part in (group.rows, rows)
        ]
        both = pd.concat(parts, ignore_index=True).drop_duplicates([*cells, "_copy"], keep="last")
        group.rows = both.drop(columns="_copy").reset_index(drop=True)
    group.runs.append(run)
    steps = _steps_of(run, scenario, trace)
    if steps is not None:
        old = group.steps
        group.steps = steps if old is None else pd.concat([old, steps], ignore_index=True)
    if run.rows.groupby(["scenario", "trace"]).ngroups == 1:  # file names do not tell the trace
        group.heats.extend(run.heats)


def _clash(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    if "config_hash" not in a or "config_hash" not in b:
        return False
    cells = ["policy", "seed", *(["window"] if "window" in a and "window" in b else [])]
    both = a[[*cells, "config_hash"]].merge(b[[*cells, "config_hash"]], on=cells)
    return bool((both["config_hash_x"] != both["config_hash_y"]).any())


def _other_windows(group: Group, run: RunFolder) -> bool:
    """Whether a run has placement windows of another scenario of the same name: another list, other hosts."""
    if "window" not in run.rows or not bool(run.rows["window"].notna().any()):
        return False
    there, here = group.runs[0].info.get("scenario_hash"), run.info.get("scenario_hash")
    return None not in (there, here) and there != here


def _steps_of(run: RunFolder, scenario: str, trace: str) -> pd.DataFrame | None:
    if run.steps is None:
        return None
    steps = run.steps
    for column, value in (("scenario", scenario), ("trace", trace)):
        if column in steps:
            steps = steps[steps[column].astype(str) == value]
    return None if steps.empty else steps


def _name(groups: list[Group]) -> None:
    """Headings that tell the groups apart and say no more than needed."""
    rules = {g.memory for g in groups}
    sizes: dict[tuple[str, str], set[float]] = {}
    for group in groups:
        sizes.setdefault((group.scenario, group.traces[0]), set()).add(_hosts(group))
    alike: dict[str, list[tuple[Group, str]]] = {}
    for group in groups:
        variant = group.title
        trace = short_trace(group.traces[0])
        parts = [group.scenario]
        if trace and trace != group.scenario:
            parts.append(trace)
        if len(rules) > 1 and group.memory:
            parts.append(f"memory {group.memory}")
        if len(sizes[group.scenario, group.traces[0]]) > 1:
            parts.append(f"{_hosts(group):g} hosts")
        group.title = " · ".join(parts)
        alike.setdefault(group.title, []).append((group, variant))
    for same in alike.values():
        for group, variant in same if len(same) > 1 else ():
            group.title += f" · {variant}" if variant else ""


def _hosts(group: Group) -> float:
    """Number of hosts where windows are placed on them, else 0: clusters are told apart by their folders."""
    hosts = group.number("n_hosts") if math.isfinite(group.number("window")) else 0.0
    return hosts if math.isfinite(hosts) else 0.0


def _pooled(groups: list[Group]) -> list[Group]:
    """One group per scenario and memory rule that has several traces; policies that ran on all of them."""
    import pandas as pd

    found = []
    for key in dict.fromkeys((g.scenario, g.memory) for g in groups):
        members = [g for g in groups if (g.scenario, g.memory) == key]
        traces = list(dict.fromkeys(g.traces[0] for g in members))
        if len(traces) < 2 or len(traces) < len(members):
            continue
        common = set.intersection(*(set(g.policies) for g in members))
        if not common:
            continue
        rows = pd.concat([g.rows for g in members], ignore_index=True)
        rows = rows[rows["policy"].isin(common)].reset_index(drop=True)
        rule = f" · memory {key[1]}" if len({g.memory for g in groups}) > 1 and key[1] else ""
        runs = list({id(r): r for g in members for r in g.runs}.values())
        title = f"{key[0]} · all {len(traces)} traces{rule}"
        found.append(Group(title, key[0], traces, key[1], rows, runs=runs))
    return found
