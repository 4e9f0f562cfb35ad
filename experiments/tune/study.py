"""A study: trials asked of Optuna, played in processes, told to it; then the best one judged.

    study.journal  trials.csv  best.yaml  config.yaml  validation/  trials/ (of agents)  report.html

What is told to the storage is there at once, so that a study that was killed goes on: finished trials are
never run again, those that were running are. Each trial is drawn by a generator of its own, seeded by the
study's seed and the trial's number: with one worker the same seed gives the same trials, interrupted or not.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.envs.sim.models.cost import GATE_OK
from virtgym.policies.registry import POLICIES
from virtgym.policies.schema import nested

from ..analysis.stats import Interval, mean_interval
from ..cli.benchmark import Failure, Interrupted, benchmark
from ..cli.progress import Progress
from ..config.compose import Run, compose_run
from ..config.overrides import quote
from ..config.yamlio import dump_yaml, flat_difference, load_stored
from ..run.cell import load_scenario, make_cell
from ..run.folder import claim_folder, hold_folder, write_text
from ..run.launchers.drive import results
from ..run.launchers.engine import LostError
from ..run.rows import worst_gate
from ..training.agents import AGENTS
from .plan import VALIDATION, Plan
from .space import Setting, draw, grid
from .trial import Played, Task, open_study, play

if TYPE_CHECKING:
    import optuna
    import pandas as pd


Judged = dict[str, tuple[float, float, Interval]]
"""By metric mean of the default setting, of the best, and their paired difference."""


@dataclass(frozen=True)
class Outcome:
    """What a study gave.

    Attributes:
        plan: What was asked for.
        table: Rows of ``trials.csv``.
        best: Number of the best trial.
        judged: The best setting against the default on what the study has not seen.
        unit: What the differences are taken over.
        folders: Run folders in which they were played.
        failures: Trials that failed for no fault of their settings.
    """

    plan: Plan
    table: pd.DataFrame
    best: int
    judged: Judged
    unit: str
    folders: tuple[Path, ...]
    failures: tuple[Failure, ...]


def tune(plan: Plan) -> Outcome:
    """Run a study, or what is left of it, and judge its best setting.

    Args:
        plan: What to search.

    Raises:
        ConfigError: If the folder holds something else or is in use, or every trial failed.
        Interrupted: After Ctrl-C.
    """
    with _claimed(plan), warnings.catch_warnings():
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        study = open_study(plan, create=True)
        failures: list[Failure] = []
        try:
            _run_trials(plan, study, failures)
            table = _write_trials(plan, study)
            best = _choose(plan, table, failures)
            _write_best(plan, table, best)
            return Outcome(plan, table, best, *_judge(plan, table, best), tuple(failures))
        except KeyboardInterrupt as stop:
            table = _write_trials(plan, study)
            kept = int((table["state"] != "running").sum()) if len(table) else 0
            raise Interrupted(
                f"interrupted: {kept} of {plan.config.n_trials} trials are kept in {plan.out}; the same "
                f"command with out={plan.out} runs the rest"
            ) from stop


@contextlib.contextmanager
def _claimed(plan: Plan) -> Iterator[None]:
    """Hold the study's folder, alone."""
    out = plan.out
    claimed = claim_folder(out, "tune", plan.identity)
    if claimed != plan.identity:
        stored = load_stored(out / "config.yaml")
        there = flat_difference(stored, plan.deciding()) if isinstance(stored, dict) else []
        why = "; ".join(there[:3]) or "the load has changed"
        raise ConfigError(
            f"out={out}: holds another study ({why}); choose another out=, or delete that folder"
        )
    with hold_folder(out):
        _mend_journal(out / "study.journal")
        write_text(out / "config.yaml", dump_yaml(plan.deciding()))
        yield


def _mend_journal(path: Path) -> None:
    """Take away what a process that was killed while it wrote has left: its lock, and half a line."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)


def _run_trials(plan: Plan, study: optuna.Study, failures: list[Failure]) -> None:
    from optuna.trial import TrialState

    done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    total = min(plan.config.n_trials, len(grid(plan.axes))) if plan.config.sampler == "grid" else None
    with Progress(max(0, (total or plan.config.n_trials) - done)) as progress:
        if done:
            progress.note(f"{done} finished trials in {plan.out}")
        tasks = _ask(plan, study, total or plan.config.n_trials)
        for task, played in results(tasks, play, plan.launcher, lambda played: bool(played.trace)):
            if isinstance(played, LostError):
                played = Played(error=str(played), trace=f"the process ended without a result: {played}")
            assert task.number is not None
            if played.trace:  # stays as it is: the same command runs it again
                failures.append(Failure(task.name, played.error, played.trace))
            elif played.error:
                trial = study.trials[task.number]
                study._storage.set_trial_user_attr(trial._trial_id, "error", played.error)
                study.tell(task.number, state=TrialState.FAIL)
            elif played.values is None:
                study.tell(task.number, state=TrialState.PRUNED)
            else:
                study.tell(task.number, list(played.values))
            _write_trials(plan, study)
            progress.tick(task.name, _words(plan, task, played))


def _ask(plan: Plan, study: optuna.Study, total: int) -> Iterator[Task]:
    """Trials to run: those that a process had begun and did not end, then new ones."""
    import optuna
    from optuna.trial import TrialState

    mine = str(plan.out.resolve())
    for begun in study.get_trials(states=(TrialState.RUNNING,)):
        if plan.config.storage is None or begun.user_attrs.get("out") == mine:
            study.sampler = _sampler(plan, begun.number)
            trial = optuna.Trial(study, begun._trial_id)
            yield Task(plan, begun.number, begun._trial_id, draw(trial, plan.axes), os.getpid())
    points = grid(plan.axes) if plan.config.sampler == "grid" else []
    while True:
        trials = study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if len(trials) - waiting >= total:
            return
        study.sampler = _sampler(plan, len(trials) - waiting)
        if points and not waiting:
            study.enqueue_trial(points[len(trials)])
        trial = study.ask()
        trial.set_user_attr("out", mine)
        yield Task(plan, trial.number, trial._trial_id, draw(trial, plan.axes), os.getpid())


def _sampler(plan: Plan, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial."""
    from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([plan.config.seed, number]).generate_state(1)[0])
    if plan.config.sampler == "tpe":
        return TPESampler(seed=seed)
    if plan.config.sampler == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)


def _words(plan: Plan, task: Task, played: Played) -> str:
    if played.error:
        return f"failed: {played.error}"
    told = [f"{name} {value:.6g}" for name, value in zip(plan.objectives, played.values or ())]
    return ", ".join([*(told or ["pruned"]), *(f"{key}={text}" for key, text in task.setting.items())])


def _write_trials(plan: Plan, study: optuna.Study) -> pd.DataFrame:
    """Write ``trials.csv``, a row per trial."""
    import pandas as pd

    front = {trial.number for trial in study.best_trials} if len(plan.objectives) > 1 else set()
    rows = []
    for trial in study.get_trials(deepcopy=False):
        values: Sequence[float | None] = trial.values if trial.state.name == "COMPLETE" else ()
        runs = [run for key, run in trial.user_attrs.items() if key.startswith("run ")]
        drawn = {key: axis.write(trial.params[key]) for key, axis in plan.axes.items() if key in trial.params}
        rows.append(
            {
                "number": trial.number,
                "state": {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
                **{name: next(iter(values[i : i + 1]), math.nan) for i, name in enumerate(plan.objectives)},
                **{key: drawn.get(key) for key in plan.axes},
                "gate": worst_gate(run[-1] for run in runs) if runs else "",
                **({"pareto": trial.number in front} if len(plan.objectives) > 1 else {}),
                "steps": max(len(runs), *trial.intermediate_values, 0, 0),
                "seconds": round(trial.user_attrs.get("seconds", math.nan), 3),
                "error": trial.user_attrs.get("error", ""),
            }
        )
    table = pd.DataFrame(rows)
    write_atomically(plan.out / "trials.csv", lambda draft: table.to_csv(draft, index=False))
    return table


def _choose(plan: Plan, table: pd.DataFrame, failures: Sequence[Failure]) -> int:
    """The best trial by the first objective, of those that pass the gate if any does."""
    done = table[table["state"] == "complete"]
    if done.empty:
        for failure in failures:
            print("\n".join(failure.trace.splitlines()[-7:]), file=sys.stderr)
        reasons = [text for text in (*table["error"], *(f.message for f in failures)) if text]
        raise ConfigError(f"no trial was completed: {reasons[0] if reasons else 'all are at work elsewhere'}")
    if not (passed := done[done["gate"] == GATE_OK]).empty:
        done = passed
    return int(done.sort_values([plan.objectives[0], "number"])["number"].iloc[0])


def setting_of(plan: Plan, table: pd.DataFrame, number: int) -> Setting:
    """The values of a trial."""
    row = table[table["number"] == number].iloc[0]
    return {key: str(row[key]) for key in plan.axes}


def _write_best(plan: Plan, table: pd.DataFrame, best: int) -> None:
    typed = [text.partition("=") for text in plan.fixed if text.startswith("agent.")]
    setting = {**{key: value for key, _, value in typed}, **setting_of(plan, table, best)}
    # By the name that it changes: all else stays the default, also where that depends on the scenario.
    named = plan.name in POLICIES or plan.name in AGENTS
    found = {"defaults": [plan.name]} if named else {"name": plan.name}
    text = f"# Trial {best} of virtgym tune; use it as {plan.config.what}=FILE.\n"
    write_text(plan.out / "best.yaml", text + dump_yaml({**found, **nested(plan.policy(setting).params)}))


def _judge(plan: Plan, table: pd.DataFrame, best: int) -> tuple[Judged, str, tuple[Path, ...]]:
    """Play the best setting and the default on what the study has not seen."""
    setting = setting_of(plan, table, best)
    seeds = plan.config.validation_seeds or []
    if plan.config.what == "policy":
        specs = [plan.policy({}), plan.policy(setting)]
        scenario = load_scenario(plan.scenario, 0)
        hashes = {make_cell(scenario, spec).config_hash for spec in specs}
        sides = [[spec.label] for spec in specs[-len(hashes) :]]  # the best may be the default
    else:
        default = Task(plan, None, 0, {}, os.getpid())
        ((_, trained),) = results([default], play, plan.launcher)
        if isinstance(trained, LostError) or trained.error:
            why = trained if isinstance(trained, LostError) else trained.error
            raise ConfigError(f"training with the default setting: {why}")
        homes = (default.folder, replace(default, number=best).folder)
        sides = [[str(home / f"seed-{seed}" / "agent") for seed in plan.config.seeds or []] for home in homes]
    names = ["cost" if name == VALIDATION else name for name in plan.objectives]
    found, folders = [], []
    for i, trace in enumerate(plan.config.validation_traces or plan.config.traces or (None,)):
        outcome = benchmark(
            _validation_run(plan, sides, trace, plan.out / "validation" / f"{best}-{i}"), "validation"
        )
        for failure in outcome.failures:
            raise ConfigError(f"validation: {failure.name}: {failure.message}")
        folders.append(outcome.out)
        means = outcome.rows.groupby(["policy", "seed"], sort=False)[names].mean()
        # (sides, learners, seeds, metrics): the benchmark's rows come in the order of what was asked for
        policies = outcome.rows["policy"].unique()
        values = np.array([[means.loc[(policy, seed)] for seed in seeds] for policy in policies])
        values = values.reshape(len(sides), -1, len(seeds), len(names))
        found.append(np.broadcast_to(values, (2, *values.shape[1:])))
    every = np.concatenate(found, axis=2)
    learners = every.shape[1] > 1
    every = every.mean(axis=2) if learners else every[:, 0]
    judged: Judged = {}
    for k, name in enumerate(names):
        default_mean, best_mean = every[..., k].mean(axis=1)
        judged[name] = float(default_mean), float(best_mean), mean_interval(every[1, :, k] - every[0, :, k])
    n = every.shape[1]
    unit = f"{n} seeds of learning" if learners else f"{n} run{'s' * (n > 1)}"
    loads = plan.config.traces or ((plan.scenario.get("trace") or {}).get("path"),)
    if {*loads} & {*(plan.config.validation_traces or loads)} - {None}:
        unit += " on loads that were searched on"
    return judged, unit, tuple(folders)


def _validation_run(plan: Plan, sides: Sequence[Sequence[str]], trace: str | None, out: Path) -> Run:
    labels = ",".join(quote(name) for side in sides for name in side)
    seeds = ",".join(map(str, plan.config.validation_seeds or []))
    typed = (f"policies=[{labels}]", f"seeds=[{seeds}]", f"out={out}")
    run, scenario = compose_run("benchmark", typed), dict(plan.scenario)
    if trace:
        scenario["trace"] = {**scenario["trace"], "path": trace}
    where = {"launcher": vars(plan.launcher.config), "workers": plan.launcher.workers}
    return replace(run, scenario=scenario, config={**run.config, **where, "scenario": scenario})
