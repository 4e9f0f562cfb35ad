"""Train an agent: learn, evaluate on what training does not play, keep the best, survive being killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.kinds import GameScenario
from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.envs.scenarios.rescheduling import ReschedulingScenario
from virtgym.envs.scenarios.scenario import Scenario

from ..run.cell import load_scenario
from ..run.folder import default_out
from .cluster_task import ClusterTrainTask
from .compose import TrainRun
from .folder import TrainFolder
from .forecasts.task import ForecastTrainTask
from .learners import TrainTask
from .loop import Training, Watch, make_groups
from .mixture import MixedTrainTask, mixture_of
from .placement_task import PlacementTrainTask
from .proposals.task import DestroyTrainTask, ProposalTrainTask
from .rescheduling_task import ReschedulingTrainTask
from .settings.base import AgentConfig
from .settings.own import DestroyerConfig, ForecasterConfig, ProposerConfig

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainOutcome:
    """What a training gave.

    Attributes:
        out: Its folder.
        objective: The best agent's objective on validation; small is good.
        rows: Result rows of the agent and of the rules.
        before: Whether it had been finished before, so that nothing was run.
    """

    out: Path
    objective: float
    rows: pd.DataFrame
    before: bool


def train(run: TrainRun, watch: Watch | None = None) -> TrainOutcome:
    """Train an agent, or go on with a training that was interrupted.

    Args:
        run: The checked training.
        watch: Looks at every validation.

    Returns:
        The outcome; a training that is finished is not run again.

    Raises:
        ConfigError: If a setting, or what is in ``out``, does not fit.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written; its text says how to go on.
    """
    if run.config["seeds"] is not None:
        raise ConfigError("seeds: here one at a time, seed=N; with -m seed=0,1 or seed=range(10)")
    return train_seeds([run], watch)[0]


def train_seeds(runs: Sequence[TrainRun], watch: Watch | None = None) -> list[TrainOutcome]:
    """Train agents of one configuration that differ in seed and folder: in a batch where that can be.

    Args:
        runs: The checked trainings.
        watch: Looks at every validation.

    Returns:
        The outcomes; all else as of ``train``.
    """
    import pandas as pd

    task = _load_task(runs[0])
    identity = task.fingerprint()
    found: dict[int, TrainOutcome] = {}
    begun: list[Training] = []
    for i, run in enumerate(runs):
        out = run.config["out"] or default_out(f"{run.agent.name}-{task.scenario.name}")
        folder = TrainFolder(Path(out))
        info = folder.check(run.config, identity)
        if info.get("finished"):
            rows = pd.read_csv(folder.path / "validation.csv")
            found[i] = TrainOutcome(folder.path, float(info["objective"]), rows, True)
            continue
        if isinstance(task, MixedTrainTask) and not task.measured:
            task = task.with_measured(folder.measured(), run.config["fallback"])
        begun.append(Training(i, run, folder, replace(task, seed=run.config["seed"]), watch))
    rules: pd.DataFrame | None = None
    for group in make_groups(begun):
        group.run()
        for one in group.trainings:
            rows = one.task.compare_with_rules(one.folder.agent, rules is None)
            if rules is None:  # they play the same for all seeds
                name = "forecaster" if "forecaster" in rows else "policy"
                rules = rows[rows[name] != str(one.folder.agent)]
            else:
                rows = pd.concat([rows, rules], ignore_index=True)
            found[one.number] = TrainOutcome(one.folder.path, one.finish(rows), rows, False)
    return [found[i] for i in range(len(runs))]


def _load_task(run: TrainRun) -> TrainTask:
    # The seed is the learner's: agents of all seeds learn and are judged on the same requests.
    task = make_task(load_scenario(run.scenario, 0), run.config, run.agent)
    if run.others or run.config["fallback"]:
        assert isinstance(task, ClusterTrainTask)
        return mixture_of(task, [load_scenario(one, 0) for one in run.others], run.config["margins"])
    return task


def make_task(scenario: Scenario | GameScenario, config: Mapping[str, Any], agent: AgentConfig) -> TrainTask:
    """What is to be learned on a scenario.

    Args:
        scenario: The scenario.
        config: A checked configuration of a training.
        agent: Its learner's settings.
    """
    from .torch_state import find_device

    shared = {key: config[key] for key in ("num_envs", "seed", "total_timesteps")}
    shared["device"] = find_device(config["device"]) if config["device"] != "cpu" else "cpu"
    if isinstance(scenario, PlacementScenario):
        own = {key: config[key] for key in ("reward", "wait_scale_s")}
        return PlacementTrainTask(scenario, **shared, **own)
    if isinstance(scenario, ReschedulingScenario):
        if isinstance(agent, DestroyerConfig):
            return DestroyTrainTask(scenario, **shared, agent=agent)
        guided = isinstance(agent, ProposerConfig)
        return (ProposalTrainTask if guided else ReschedulingTrainTask)(scenario, **shared)
    assert isinstance(scenario, Scenario)
    if isinstance(agent, ForecasterConfig):
        return ForecastTrainTask(scenario, **shared, agent=agent)
    return ClusterTrainTask(scenario, **shared, env=config["env"])
