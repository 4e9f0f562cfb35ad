"""What was run: facts of a group for its head line and for the section at the end of the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from virtgym.envs.sim.metrics import METRICS

from ..analysis.run_data import Group, RunFolder, short_trace
from .leaderboard import Leaderboard

_LONGEST = 4000
"""Characters of a fact."""


def _count(value: float, noun: str) -> str:
    return f"{value:,.0f} {noun}{'' if round(value) == 1 else 's'}"


def short_facts(group: Group, board: Leaderboard) -> list[str]:
    """Facts for the head line: cluster, memory rule, policies, seeds, length."""
    facts = []
    if group.pooled:
        facts.append(f"{len(group.traces)} traces")
    elif group.traces[0]:
        facts.append(f"trace {short_trace(group.traces[0])}")
    for column, noun in (("n_hosts", "host"), ("n_vms", "VM")):
        value = group.number(column)
        if math.isfinite(value):
            facts.append(_count(value, noun))
    if group.memory:
        facts.append(f"memory {group.memory}")
    if group.information:
        facts.append(f"information {group.information}")
    hours = group.number("sim_hours")
    if math.isfinite(hours):
        facts.append(f"{hours:,.4g} h simulated")
    facts.append("1 policy" if len(board.lines) == 1 else f"{len(board.lines)} policies")
    facts.append(_seed_text(group))
    return facts


def question_of(group: Group) -> str:
    """What the scenario asks of a policy; empty where its runs do not say."""
    for run in group.runs:
        scenario = run.settings.get("scenario")
        if isinstance(scenario, dict) and isinstance(found := scenario.get("question"), str):
            return found[:_LONGEST]
    return ""


def _seed_text(group: Group) -> str:
    seeds = group.seeds
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)} seeds ({seeds[0]}–{seeds[-1]})"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds[:8]))}{', …' if len(seeds) > 8 else ''})"


def interval_note(group: Group, board: Leaderboard) -> str:
    """How the intervals of the table came about."""
    if not board.method:
        return "One run per policy: means of one, so no intervals are given."
    constant = [x.policy for x in board.lines if x.cells[board.primary.key].constant]
    note = f"± is half a 95 % interval over {board.n_units} {board.units} ({board.method})."
    if len(constant) == len(board.lines):
        note += " Every run of a policy gave the same number, so there is nothing to give an interval for."
    elif constant:
        what = "policies" if len(constant) > 1 else "policy"
        note += f" {len(constant)} {what} gave the same number in every run: no ±."
    return note


def missing_metrics(group: Group) -> list[str]:
    """Metrics without a number in this group."""
    return [name for name in METRICS if not math.isfinite(group.number(name))]


def dropped_note(group: Group) -> list[str]:
    """What was left out of the load, if anything was."""
    dropped = group.number("vms_dropped")
    return [f"{dropped:,.0f} VMs of the trace fit on no host and are left out."] if dropped > 0 else []


def notes(group: Group, board: Leaderboard) -> list[str]:
    """What a reader must know to not read too much into the numbers."""
    found = [interval_note(group, board)]
    if board.column("cost") is None:
        found.append(
            f"These rows were written before there was a cost: ordered by {board.primary.label}; below the "
            "line is who left more than the default objective of all demand unserved."
        )
    rules = {
        "ignored": "Memory is ignored after arrival, as in the literature: hosts may hold more memory than "
        "they have, and consolidation looks better than it can be.",
        "binding": "Memory binds: no host ever holds more configured memory than it has.",
    }
    if group.memory in rules:
        found.append(rules[group.memory])
    if any(x.cells[board.primary.key].constant for x in board.lines):
        found.append("Runs that agree exactly say nothing about other days or other clusters.")
    missing = missing_metrics(group)
    if missing:
        found.append(
            f"No number (NaN, not 0) in these runs: {', '.join(missing)}. Most belong to sub-models that are "
            "off; docs/simulator.md says what each metric needs."
        )
    found += dropped_note(group)
    unfinished = sum(run.n_unfinished for run in group.runs)
    if unfinished:
        found.append(f"{unfinished} unfinished row{'s' if unfinished > 1 else ''} left out.")
    return found


def _first(info: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if info.get(name) not in (None, "", [], {}):
            return info[name]
    return None


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)


def run_facts(run: RunFolder) -> list[tuple[str, str]]:
    """Name and value of what is known about a run folder."""
    info, rows = run.info, run.rows
    command = _first(info, "command", "command_line", "argv", "cmd")
    if isinstance(command, list):
        command = shlex.join(map(str, command))
    facts = [
        ("Command", command),
        ("Started", _first(info, "start", "started", "start_time")),
        ("Ended", _first(info, "end", "ended", "end_time")),
        ("Commit", _first(info, "commit", "git_commit", "git")),
        ("Versions", _first(info, "versions", "version")),
        ("Platform", _first(info, "platform")),
        ("Cores", _first(info, "cores")),
        ("Seeds", ", ".join(str(int(s)) for s in sorted(rows["seed"].unique()))),
        ("Memory rule", run.memory or None),
        ("Rows", f"{len(rows)} finished" + (f", {run.n_unfinished} not" if run.n_unfinished else "")),
    ]
    if "virtgym_version" in rows:
        facts.insert(0, ("virtgym", ", ".join(sorted(map(str, rows["virtgym_version"].dropna().unique())))))
    if "config_hash" in rows:
        hashes = sorted(map(str, rows["config_hash"].dropna().unique()))
        shown = ", ".join(hashes[:6]) + (f" and {len(hashes) - 6} more" if len(hashes) > 6 else "")
        facts.append(("Configuration hash", shown))
    if "wall_s" in rows:
        total, median = float(rows["wall_s"].sum()), float(rows["wall_s"].median())
        facts.append(("Wall time", f"{total:,.1f} s for all episodes, {median:,.3g} s at the median"))
    if "vm_intervals_per_s" in rows and bool(rows["vm_intervals_per_s"].notna().any()):
        facts.append(
            ("Speed", f"{float(rows['vm_intervals_per_s'].median()):,.0f} VM-intervals/s at the median")
        )
    facts += [("Left out", text) for text in run.left_out]
    return [(name, _plain(value)[:_LONGEST]) for name, value in facts if value not in (None, "")]


def run_folders(group: Group) -> list[dict[str, Any]]:
    """Name, facts and configuration of each folder that contributed to a group."""
    return [
        {"name": run.path.name or str(run.path), "facts": run_facts(run), "config": run.config}
        for run in group.runs
    ]
