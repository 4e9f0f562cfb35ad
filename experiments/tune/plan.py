"""From overrides to a checked study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from virtgym.envs.checks import hint, need, one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.metrics import METRICS
from virtgym.policies.registry import POLICIES, make_policy
from virtgym.policies.schema import check_parameters, is_folder, nested

from ..config.compose import check_numbers, compose_command, compose_run, tell_hydra_error
from ..config.launchers import Launcher, make_launcher
from ..config.overrides import PolicySpec, parse_value, split_override, unquote
from ..config.schema import COMMAND_KEYS
from ..run.cell import load_scenario, make_cell, scenario_hash
from ..suite.tasks import SUITE, load_suite
from .space import Axis, Setting, read_space, split_swept

SAMPLERS = ("tpe", "cmaes", "random", "grid")
PRUNING = ("none", "median", "asha")
VALIDATION = "objective"
"""Objective of agents: the least that validation during training has seen, the untrained network aside."""
N_SEEDS = {"policy": 5, "agent": 1}
"""Seeds of a trial outside the suite's tasks."""


@dataclass
class TuneConfig:
    """Keys of ``virtgym tune`` beside those of what it tunes.

    Attributes:
        what: ``policy`` or ``agent``.
        n_trials: Trials of the study in all, those of earlier commands counted.
        sampler: One of ``SAMPLERS``.
        pruning: One of ``PRUNING``; None = ``median``, and ``none`` of several objectives.
        objectives: Columns of result rows, to be small; None = ``cost``; of agents there is
            ``VALIDATION`` only.
        space: YAML file with more keys to search over.
        seeds: Repetitions in a trial; of agents, of learning.
        traces: Paths of traces that each seed plays; None = the scenario's.
        validation_seeds: Seeds that the best setting is judged on.
        validation_traces: Traces that it is judged on; None = ``traces``.
        workers: Trials at once; None = the launcher's own, of ``local`` 1.
        storage: URL of a database; None = ``study.journal`` in the folder.
        seed: Of the sampler.
        report: Whether to write ``report.html``.
        out: Folder.
    """

    what: str = "policy"
    n_trials: int = 50
    sampler: str = "tpe"
    pruning: str | None = None
    objectives: list[str] | None = None
    space: str | None = None
    seeds: list[int] | None = None
    traces: list[str] | None = None
    validation_seeds: list[int] | None = None
    validation_traces: list[str] | None = None
    workers: int | None = None
    storage: str | None = None
    seed: int = 0
    report: bool = True
    out: str | None = None


OWN = tuple(f.name for f in fields(TuneConfig))
_TEXTS = ("space", "storage", "out")
_FREE = ("n_trials", "workers", "storage", "report", "out", "space")
"""Keys that may differ when a study goes on."""


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Attributes:
        config: Values of ``TuneConfig``, with defaults filled in.
        fixed: Overrides that are the same in all trials.
        name: The policy or agent.
        params: Parameters of the policy that are the same in all trials.
        scenario: The scenario, as ``load_scenario`` takes it.
        axes: What is searched over.
        launcher: What runs the trials.
        identity: Fingerprint of all that decides what a trial gives.
    """

    config: TuneConfig
    fixed: tuple[str, ...]
    name: str
    params: dict[str, Any]
    scenario: dict[str, Any]
    axes: dict[str, Axis]
    launcher: Launcher
    identity: str = ""

    @property
    def out(self) -> Path:
        """The folder."""
        return Path(str(self.config.out))

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is to be small."""
        return tuple(self.config.objectives or ())

    @property
    def repetitions(self) -> list[tuple[str | None, int]]:
        """Trace and seed of the runs of a trial, in their order."""
        return [(trace, seed) for seed in self.config.seeds or () for trace in self.config.traces or (None,)]

    def policy(self, setting: Setting) -> PolicySpec:
        """The policy with a setting."""
        own = {key.partition(".")[2]: parse_value(key, text) for key, text in setting.items()}
        return PolicySpec(self.name, {**self.params, **own})

    def deciding(self) -> dict[str, Any]:
        """What decides what a trial gives, as plain data."""
        own = {key: value for key, value in vars(self.config).items() if key not in _FREE}
        axes = {key: axis.text for key, axis in self.axes.items()}
        return {"tune": own, "fixed": list(self.fixed), "search": axes}


def compose_tune(arguments: Sequence[str]) -> Plan:
    """Check a study.

    Args:
        arguments: Overrides as typed.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    _need_package("optuna")
    pairs = [(*split_override(text), text) for text in arguments]
    config = _own_config([(key, value) for key, value, _ in pairs if key in OWN])
    one_of("what", config.what, tuple(N_SEEDS))
    command = {"policy": "evaluate", "agent": "train"}[config.what]
    known = [*OWN, *(key for key in COMMAND_KEYS[command] if key not in OWN)]
    for key, value, _ in pairs:
        if key.partition(".")[0] not in known:
            other = "agent" if config.what == "policy" else "policy"
            advice = f" with what={config.what}" if key.partition(".")[0] == other else ""
            raise ConfigError(
                f"{key}={value}: tune has no key {key}{advice}{hint(key, known)}; "
                f"allowed are: {', '.join(known)}"
            )
    texts = [text for key, _, text in pairs if key not in OWN and key.partition(".")[0] != "launcher"]
    where = [text for key, _, text in pairs if key.partition(".")[0] == "launcher"]
    fixed, axes = split_swept([*(read_space(config.space) if config.space else []), *texts])
    for key in axes:
        if not key.startswith(f"{config.what}."):
            raise ConfigError(f"{key}={axes[key].text}: tune searches over keys of {config.what}. only")
    if not axes:
        raise ConfigError(
            f"nothing to search over: give a key of {config.what} several values, like "
            f"'{config.what}.KEY=interval(0.5,0.9)', or a file with space=FILE.yaml"
        )
    plan = _base(config, fixed, axes, where)
    _check_axes(plan)
    _fill_in(config, plan.scenario)
    _check_values(config, axes)
    data = json.dumps([plan.deciding(), _loads(plan)], sort_keys=True, default=str)
    launcher = replace(plan.launcher, workers=config.workers, home=plan.out)
    return replace(
        plan, launcher=launcher, identity=hashlib.blake2b(data.encode(), digest_size=8).hexdigest()
    )


def _need_package(name: str) -> None:
    try:
        import_module(name)
    except ImportError:
        raise ConfigError(f"needs {name}, which is not installed: pip install 'virtgym[tune]'") from None


def _own_config(pairs: Sequence[tuple[str, str]]) -> TuneConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    given = {key: unquote(value) if key in _TEXTS else parse_value(key, value) for key, value in pairs}
    for key in ("traces", "validation_traces", "objectives"):
        if isinstance(given.get(key), str):
            given[key] = [given[key]]
    try:
        filled: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TuneConfig), given))
    except OmegaConfBaseException as error:
        raise ConfigError(tell_hydra_error(error)) from None
    return cast(TuneConfig, filled)


def _base(config: TuneConfig, fixed: Sequence[str], axes: dict[str, Axis], where: Sequence[str]) -> Plan:
    """The study with what is the same in all trials composed, as the other commands do it."""
    if config.what == "policy":
        run = compose_run("evaluate", [*fixed, *where])
        spec, launcher = run.policies[0], make_launcher(run.config, "")
        return Plan(config, tuple(fixed), spec.name, spec.params, run.scenario, axes, launcher)
    from ..training.compose import make_run

    composed = compose_command("train", [*fixed, *where])
    training = make_run(composed.config, composed.typed_scenario, composed.own_scenario)
    launcher = make_launcher(composed.config, "")
    return Plan(config, tuple(fixed), training.agent.name, {}, training.scenario, axes, launcher)


def _check_axes(plan: Plan) -> None:
    """Refuse keys that the policy or agent does not have, and values of another type."""
    what = plan.config.what
    if what == "policy" and is_folder(plan.name, POLICIES):
        make_policy(plan.name, **dict.fromkeys(plan.axes))  # an agent, which says that it has no parameters
    if what == "policy":
        owner: Any = POLICIES.find(plan.name).factory
    else:
        from ..training.agents import agent_kind

        owner = agent_kind(plan.name).schema
    for key, axis in plan.axes.items():
        first = axis.values[0] if axis.values else getattr(axis.distribution, "low", None)
        value = parse_value(key, axis.write(first))
        check_parameters(plan.name, owner, nested({key.partition(".")[2]: value}), what)


def _fill_in(config: TuneConfig, scenario: Mapping[str, Any]) -> None:
    """Defaults that depend on what is tuned and where."""
    suite = load_suite(SUITE)
    of_policy = config.what == "policy"
    if config.objectives is None:
        config.objectives = ["cost"] if of_policy else [VALIDATION]
    if config.pruning is None:
        config.pruning = "median" if len(config.objectives) == 1 else "none"
    generated = (scenario.get("trace") or {}).get("path") is None and not config.traces
    if config.seeds is None and of_policy:
        in_suite = any(task.scenario == scenario["name"] for task in suite.tasks)
        all_seeds = suite.train.seeds if in_suite else suite.train.seeds[: N_SEEDS["policy"]]
        config.seeds = all_seeds if generated else all_seeds[:1]
    elif config.seeds is None:
        config.seeds = list(range(N_SEEDS["agent"]))
    if config.validation_seeds is None:
        # Agents are chosen on the split of this name while they learn: they are judged on days of another.
        split = suite.validation if of_policy else suite.train
        config.validation_seeds = split.seeds[:10] if generated else split.seeds[:1]
    if config.out is None:
        config.out = str(Path("runs") / f"tune-{scenario['name']}-{datetime.now():%Y%m%d-%H%M%S}")


def _check_values(config: TuneConfig, axes: Mapping[str, Axis]) -> None:
    one_of("sampler", config.sampler, SAMPLERS)
    one_of("pruning", str(config.pruning), PRUNING)
    for key in ("seeds", "validation_seeds"):
        try:
            check_numbers(getattr(config, key), config.workers)
        except ConfigError as error:
            raise ConfigError(str(error).replace("seeds", key, 1)) from None
    need(config.n_trials >= 1, f"n_trials={config.n_trials}: must be at least 1")
    need(config.seed >= 0, f"seed={config.seed}: must be at least 0")
    names = config.objectives or []
    known = list(METRICS) if config.what == "policy" else [VALIDATION]
    need(len(names) == len(set(names)) > 0, f"objectives={names}: name each once, at least one")
    for name in names:
        need(name in known, f"objectives: {name}: no such metric{hint(name, known)}")
    alone = len(names) == 1 or config.pruning == "none"
    need(alone, f"pruning={config.pruning}: goes by one objective; use pruning=none")
    advice = "traces: a training plays one scenario; use scenario.trace.path=PATH"
    need(config.what == "policy" or not config.traces, advice)
    use = "use sampler=tpe"
    for axis in axes.values():
        shown, choice = f"{axis.key}={axis.text}", isinstance(next(iter(axis.values), 0), str)
        if config.sampler == "cmaes":
            need(not choice, f"sampler=cmaes: takes numbers only, and {shown} is a choice; {use}")
        if config.sampler == "grid":
            need(len(axis.values) > 0, f"sampler=grid: {shown} has no end of values; use range or choice")
    if config.sampler == "cmaes":
        need(len(names) == 1, f"sampler=cmaes: takes one objective; {use}")
        need(len(axes) > 1, f"sampler=cmaes: needs two keys to search over; {use}")
        _need_package("cmaes")  # Optuna imports it at the second trial


def _loads(plan: Plan) -> list[str]:
    """Fingerprints of the scenario under every trace; what cannot be played at all is refused here."""
    found = []
    for trace in plan.config.traces or (None,):
        scenario = load_scenario(plan.scenario, 0, {"trace.path": trace} if trace else None)
        if plan.config.what == "policy":
            make_cell(scenario, plan.policy({}))
        found.append(scenario_hash(scenario))
    return found
