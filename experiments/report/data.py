"""Reads run folders and sorts what is in them into groups that may be compared with each other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.files import read_parquet
from virtgym.envs.sim.errors import VirtgymError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Group", "HeatFile", "RunFolder", "group_runs", "is_learned", "read_run", "short_trace"]

KEY_COLUMNS = ("scenario", "trace", "policy", "seed")
LEARNED_WORDS = ("agent", "ppo", "dqn", "a2c", "sac", "td3", "trpo", "reinforce")


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
    """

    path: Path
    rows: pd.DataFrame
    steps: pd.DataFrame | None
    heats: tuple[HeatFile, ...]
    info: dict[str, Any]
    config: str
    memory: str
    n_unfinished: int


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

    def number(self, column: str) -> float:
        """Mean of a column that need not exist (NaN then)."""
        if column not in self.rows:
            return math.nan
        values = np.asarray(self.rows[column], dtype=np.float64)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan


def is_learned(policy: str) -> bool:
    """Whether a policy's name says that it was trained: a folder, or an algorithm's name."""
    parts = policy.lower().replace("\\", "/").replace("-", "/").replace("_", "/").split("/")
    return "/" in policy or "\\" in policy or any(word in parts for word in LEARNED_WORDS)


def short_trace(trace: str) -> str:
    """Last part of a trace's path."""
    return trace.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or trace


def read_run(folder: Path) -> RunFolder:
    """Read a run folder; only ``results.parquet`` must be there.

    Raises:
        VirtgymError: If there are no result rows or they cannot be read.
    """
    rows, n_unfinished = _finished(_read_results(folder), folder)
    config = _text(folder / "config.yaml")
    info = _read_info(folder / "run.json")
    return RunFolder(
        path=folder,
        rows=rows,
        steps=_read_steps(folder / "steps.parquet"),
        heats=_find_heats(folder / "heat", rows),
        info=info,
        config=config,
        memory=_memory_rule(rows, config),
        n_unfinished=n_unfinished,
    )


def _read_results(folder: Path) -> pd.DataFrame:

    if not folder.is_dir():
        raise VirtgymError(f"report {folder}: no such folder; give folders written by virtgym benchmark")
    path = folder / "results.parquet"
    if not path.is_file():
        raise VirtgymError(f"report {folder}: no results.parquet in it; give folders with stored results")
    try:
        rows = read_parquet(path).to_pandas(use_threads=False)
    except Exception as error:  # pyarrow raises many kinds; whatever it is, the file is what is wrong
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise VirtgymError(f"report {path}: cannot be read: {first}") from None
    missing = [name for name in KEY_COLUMNS if name not in rows]
    if missing:
        raise VirtgymError(f"report {path}: lacks the columns {', '.join(missing)}; not a result table")
    for name in ("scenario", "trace", "policy"):
        rows[name] = rows[name].astype("object").where(rows[name].notna(), "").map(str)
    return rows


def _finished(rows: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, int]:
    keep = rows
    if "finished" in rows:
        keep = rows[rows["finished"].fillna(False).astype(bool)]
    if keep.empty:
        raise VirtgymError(
            f"report {folder}: results.parquet has no finished rows; finish the benchmark first"
        )
    return keep.reset_index(drop=True), len(rows) - len(keep)


def _read_steps(path: Path) -> pd.DataFrame | None:

    if not path.is_file():
        return None
    try:
        steps = read_parquet(path).to_pandas(use_threads=False)
    except Exception:  # an optional file: the report does without it and says so
        return None
    return None if steps.empty or not {"policy", "seed", "time_s"} <= set(steps.columns) else steps


def _read_info(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(_text(path) or "{}")
    except json.JSONDecodeError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _memory_rule(rows: pd.DataFrame, config: str) -> str:
    if "memory" in rows and bool(rows["memory"].notna().any()):
        return " + ".join(sorted(str(m) for m in rows["memory"].dropna().unique()))
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.select(OmegaConf.create(config or "{}"), "scenario.memory")
    except (OmegaConfBaseException, AttributeError, ValueError):
        return ""
    except Exception:  # a YAML error of the parser below: the config is shown as text all the same
        return ""
    return "" if found is None else str(found)


def _comparable(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _find_heats(folder: Path, rows: pd.DataFrame) -> tuple[HeatFile, ...]:
    """Match ``POLICY__SEED.npz``, whatever the writer replaced in policies that are paths."""
    known = {_comparable(str(p)): str(p) for p in rows["policy"].unique()}
    found = []
    for path in sorted(folder.glob("*.npz")):
        name, _, seed = path.stem.rpartition("__")
        policy = known.get(_comparable(name))
        if policy is not None and seed.lstrip("-").isdigit():
            found.append(HeatFile(policy, int(seed), path))
    return tuple(found)


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
