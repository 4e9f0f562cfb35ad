"""Play a suite: every task is a benchmark in a folder of its own, resumable; then scores and one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.envs.scenarios.scenario import Scenario

from ..config.compose import Run, check_numbers, compose_run, take_search_path
from ..config.overrides import last_value, parse_policy, parse_value, quote, split_list, split_override
from ..run.cell import load_scenario
from ..run.folder import claim_folder, default_out
from ..run.rows import worst_gate
from .bound import cost_bound
from .scores import COLUMNS, Standing, score, standings
from .tasks import SIZES, SPLITS, Kind, Suite, Task, load_suite, sized

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("suite", "suite.size", "suite.split", "suite.tasks", "policies", "seeds", "workers", "out", "report")
"""Keys of ``virtgym benchmark suite=``."""

FILE = "suite.csv"


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        suite: The suite, with the tasks that are played.
        size: One of ``SIZES``.
        policies: Who plays, by kind of task.
        seeds: Seeds.
        workers: Processes.
        out: Folder.
        report: Whether to write the page.
    """

    suite: Suite
    size: str
    policies: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    workers: int
    out: Path
    report: bool


@dataclass(frozen=True)
class Outcome:
    """What playing a suite gave.

    Attributes:
        out: Folder.
        table: Lines of ``suite.csv``.
        standings: Policies, best first.
        failures: Cells that failed, as ``cli.benchmark.Failure``.
    """

    out: Path
    table: pd.DataFrame
    standings: list[Standing]
    failures: tuple[Any, ...]


def compose_suite(arguments: Sequence[str]) -> Plan:
    """Check the overrides of ``virtgym benchmark suite=``.

    Args:
        arguments: Overrides as typed.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    pairs = [split_override(text) for text in take_search_path(arguments)]
    for key, value in pairs:
        if key not in KEYS:
            raise ConfigError(
                f"{key}={value}: a suite has no such key{hint(key, KEYS)}; allowed are: {', '.join(KEYS)}"
            )
    given = {key: last_value(pairs, key) for key in KEYS}
    suite = load_suite(str(given["suite"]))
    size, split = given["suite.size"] or "small", given["suite.split"] or "test"
    for key, value, known in (("size", size, tuple(SIZES)), ("split", split, SPLITS)):
        if value not in known:
            raise ConfigError(f"suite.{key}={value}: must be one of {', '.join(known)}")
    suite = _chosen(suite, given["suite.tasks"])
    seeds = getattr(suite, split).seeds
    if given["seeds"] is not None:
        seeds = parse_value("seeds", given["seeds"])
    workers = parse_value("workers", given["workers"] or "1")
    report = parse_value("report", given["report"] or "true")
    check_numbers(seeds, workers, report)
    named = None if given["policies"] is None else split_list(given["policies"])
    out = Path(given["out"]) if given["out"] else default_out(suite.name)
    return Plan(suite, size, _by_kind(suite, named), tuple(seeds), workers, out, report)


def _chosen(suite: Suite, text: str | None) -> Suite:
    """The suite with some of its tasks."""
    if text is None:
        return suite
    tasks = {task.name: task for task in suite.tasks}
    names = split_list(text)
    for name in names:
        if name not in tasks:
            raise ConfigError(
                f"suite.tasks: {name}: no such task{hint(name, tasks)}; there are: {', '.join(tasks)}"
            )
    if not names:
        raise ConfigError(f"suite.tasks=[]: name at least one of {', '.join(tasks)}")
    return replace(suite, tasks=tuple(tasks[name] for name in tasks if name in names))


def _by_kind(suite: Suite, named: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Who plays tasks of each kind: the suite's own policies, or those named that can."""
    from virtgym.policies.registry import make_policy, serves

    if named is None:
        return {"cluster": suite.cluster.policies, "placement": suite.placement.policies}
    if not named:
        raise ConfigError("policies=[]: name at least one, like policies=[static,dpm]")
    found: dict[str, tuple[str, ...]] = {"cluster": (), "placement": ()}
    for text in named:
        spec = parse_policy(text)
        policy = make_policy(spec.name, **spec.params)
        for kind in found:
            if serves(policy, kind):
                found[kind] += (text,)
    return found


def play(plan: Plan) -> Outcome:
    """Play a suite; cells that its folder holds already are not run again.

    Args:
        plan: What to play.
    """
    import pandas as pd

    from ..cli.benchmark import benchmark

    claim_folder(plan.out, "suite", known=(FILE,))
    lines: list[dict[str, Any]] = []
    failures: list[Any] = []
    folders = []
    for task in plan.suite.tasks:
        if not plan.policies[task.kind]:
            continue
        run = _run(plan, task)
        outcome = benchmark(run, task.name)
        failures += outcome.failures
        folders.append(outcome.out)
        lines += _lines(plan.suite.of(task), task, run, outcome.rows)
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    text = table.to_csv(index=False)
    write_atomically(plan.out / FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    ranks = standings(plan.suite, table)
    if plan.report and len(table):
        from ..report.suite import write_suite_report

        write_suite_report(plan.suite, table, ranks, folders, plan.out)
    return Outcome(plan.out, table, ranks, tuple(failures))


def _run(plan: Plan, task: Task) -> Run:
    """The benchmark of a task, with the policies that give its scale."""
    kind = plan.suite.of(task)
    scale = [kind.reference, *([kind.bound] if kind.bound else [])]
    policies = list(dict.fromkeys([*plan.policies[task.kind], *scale]))
    return compose_run(
        "benchmark",
        [
            f"scenario={task.scenario}",
            *sized(task.scenario, plan.size),
            f"policies=[{','.join(quote(text) for text in policies)}]",
            f"seeds=[{','.join(map(str, plan.seeds))}]",
            f"workers={plan.workers}",
            f"out={plan.out / task.name}",
            "report=false",
        ],
    )


def _lines(kind: Kind, task: Task, run: Run, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines of ``suite.csv`` of a task: a placement seed's cost is the mean over its windows."""
    if not len(rows):
        return []
    cells = (
        rows.groupby(["policy", "seed"], sort=False).agg({"cost": "mean", "gate": worst_gate}).reset_index()
    )
    costs = {(str(p), int(s)): float(c) for p, s, c in zip(cells["policy"], cells["seed"], cells["cost"])}
    lines = []
    bounds: dict[int, float] = {}
    for policy, seed, gate in zip(cells["policy"].map(str), cells["seed"].map(int), cells["gate"]):
        if seed not in bounds:
            known = costs.get((kind.bound or "", seed), math.nan)
            bounds[seed] = known if kind.bound else _fluid_bound(run, seed)
        if policy == kind.bound:
            continue
        cost, static = costs[policy, seed], costs.get((kind.reference, seed), math.nan)
        values = (
            task.name,
            policy,
            seed,
            cost,
            static,
            bounds[seed],
            score(cost, static, bounds[seed]),
            gate,
        )
        lines.append(dict(zip(COLUMNS, values)))
    return lines


def _fluid_bound(run: Run, seed: int) -> float:
    scenario = load_scenario(run.scenario, seed)
    assert isinstance(scenario, Scenario)
    return cost_bound(scenario)
