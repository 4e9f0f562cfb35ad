"""Play a suite: every task is a benchmark in a folder of its own, resumable; then scores and one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.envs.scenarios.choices import STORED
from virtgym.envs.scenarios.scenario import Scenario

from ..cli.benchmark import Failure, Grid, play_grids
from ..cli.benchmark import Outcome as Played
from ..config.compose import SCHEMAS, Composed, Run, check_numbers, compose_command, compose_run
from ..config.launchers import Launcher, make_launcher
from ..config.overrides import parse_policy, quote
from ..run.cell import load_scenario
from ..run.folder import claim_folder, default_out, hold_folder
from ..run.rows import worst_gate
from .bound import cost_bound
from .scores import COLUMNS, Standing, score, standings
from .tasks import SIZES, SPLITS, Kind, Suite, Task, load_suite, sized

if TYPE_CHECKING:
    import pandas as pd

FILE = "suite.csv"


@dataclass
class SuiteConfig:
    """Every key of ``virtgym benchmark suite=``.

    Attributes:
        suite: The suite (group ``conf/suite``), its size and split; of its tasks, those to play, by name.
        policies: Who plays; None = those of the suite.
        seeds: Seeds; None = those of the split.
        launcher: What runs the cells (group ``conf/launcher``).
        workers: Cells that run at once; None = the launcher's own.
        out: Folder; None = ``runs/<suite>-<date>-<time>-<suffix>``.
        report: Whether to write ``report.html``.
    """

    suite: dict[str, Any] = field(default_factory=dict)
    policies: list[str] | None = None
    seeds: list[int] | None = None
    launcher: Any = None
    workers: int | None = None
    out: str | None = None
    report: bool = True


def store_schema() -> None:
    """Tell Hydra the types of every key."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="suite_schema", node=SuiteConfig)


SCHEMAS["suite"] = store_schema


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        suite: The suite, with the tasks that are played.
        size: One of ``SIZES``.
        policies: Who plays, by kind of task.
        seeds: Seeds.
        launcher: What runs the cells.
        out: Folder.
        report: Whether to write the page.
    """

    suite: Suite
    size: str
    policies: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    launcher: Launcher
    out: Path
    report: bool

    @property
    def tasks(self) -> list[Task]:
        """Tasks that somebody plays."""
        return [task for task in self.suite.tasks if self.policies[task.kind]]


@dataclass(frozen=True)
class Outcome:
    """What playing a suite gave.

    Attributes:
        out: Folder.
        table: Lines of ``suite.csv``.
        standings: Policies, best first.
        failures: Cells that failed.
    """

    out: Path
    table: pd.DataFrame
    standings: list[Standing]
    failures: tuple[Failure, ...]


def compose_suite(arguments: Sequence[str]) -> Plan:
    """Compose and check ``virtgym benchmark suite=``.

    Args:
        arguments: Overrides as typed.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    return make_plan(compose_command("suite", arguments))


def make_plan(composed: Composed) -> Plan:
    """Check what was composed.

    Args:
        composed: What Hydra made of the command.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    config, choice = composed.config, str(composed.choices["suite"])
    suite = load_suite(STORED.get(choice, choice))
    size, split = str(config["suite"]["size"]), str(config["suite"]["split"])
    for key, value, known in (("size", size, tuple(SIZES)), ("split", split, SPLITS)):
        if value not in known:
            raise ConfigError(f"suite.{key}={value}: must be one of {', '.join(known)}")
    if composed.names("suite.tasks"):
        suite = _chosen(suite, config["suite"]["tasks"])
    seeds = getattr(suite, split).seeds if config["seeds"] is None else config["seeds"]
    check_numbers(seeds, config["workers"])
    out = Path(config["out"]) if config["out"] else default_out(suite.name)
    launcher, policies = make_launcher(config, out), _by_kind(suite, config["policies"])
    return Plan(suite, size, policies, tuple(seeds), launcher, out, config["report"])


def _chosen(suite: Suite, names: Any) -> Suite:
    """The suite with some of its tasks."""
    tasks = {task.name: task for task in suite.tasks}
    names = [names] if isinstance(names, str) else names or []
    for name in map(str, names):
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
    with hold_folder(plan.out):
        runs = suite_runs(plan)
        grids = [Grid(run, what, place) for place, (what, run) in enumerate(runs.items())]
        outcomes = dict(play_grids(grids, plan.launcher))
        return finish_suite(plan, runs, [outcomes[place] for place in range(len(grids))])


def suite_runs(plan: Plan) -> dict[str, Run]:
    """The benchmark of every task that somebody plays, by its name; the suite's folder is claimed.

    Args:
        plan: What to play.
    """
    claim_folder(plan.out, "suite", known=(FILE, "job.json"))
    return {task.name: _run(plan, task) for task in plan.tasks}


def finish_suite(plan: Plan, runs: Mapping[str, Run], outcomes: Sequence[Played]) -> Outcome:
    """Write the tables, and the page.

    Args:
        plan: What was played.
        runs: The benchmark of every task.
        outcomes: What each task's benchmark gave.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for task, outcome in zip(plan.tasks, outcomes):
        lines += _lines(plan.suite.of(task), task, runs[task.name], outcome.rows)
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    text = table.to_csv(index=False)
    write_atomically(plan.out / FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    ranks = standings(plan.suite, table)
    if plan.report and len(table):
        from ..report.suite import write_suite_report

        write_suite_report(plan.suite, table, ranks, [outcome.out for outcome in outcomes], plan.out)
    return Outcome(plan.out, table, ranks, tuple(f for outcome in outcomes for f in outcome.failures))


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
