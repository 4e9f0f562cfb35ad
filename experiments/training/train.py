"""Train an agent: learn, evaluate on what training does not play, keep the best, survive being killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.envs.scenarios.kinds import GameScenario
from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.fallback import Fallback
from virtgym.policies.learned.safety import Safety
from virtgym.policies.learned.storage import Agent, Member, load_agent, save_agent

from ..run.cell import load_scenario
from ..run.rows import virtgym_version
from .agents import agent_kind
from .cluster_task import ClusterTrainTask
from .compose import TrainRun
from .folder import Checkpoint, TrainFolder
from .forecasts.task import ForecastTrainTask
from .learners import Learner, TrainTask
from .mixture import MixedTrainTask, mixture_of
from .placement_task import PlacementTrainTask
from .progress import Board, TrainProgress
from .settings.base import AgentConfig
from .settings.own import ForecasterConfig

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


Watch = Callable[[list[dict[str, Any]]], None]
"""Is shown the rows of ``progress.csv`` after each validation; what it raises ends the training."""


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
    import pandas as pd

    # The seed is the learner's: agents of all seeds learn and are judged on the same requests.
    task = make_task(load_scenario(run.scenario, 0), run.config, run.agent)
    if run.others or run.config["fallback"]:
        assert isinstance(task, ClusterTrainTask)
        task = mixture_of(task, [load_scenario(one, 0) for one in run.others], run.config["margins"])
    config = run.config
    name = f"{run.agent.name}-{task.scenario.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = TrainFolder(Path(config["out"] or Path("runs") / name))
    info = folder.check(config, task.fingerprint())
    table = folder.path / "validation.csv"
    if info.get("finished"):
        return TrainOutcome(folder.path, float(info["objective"]), pd.read_csv(table), True)
    if isinstance(task, MixedTrainTask):
        task = task.with_measured(folder.measured(), config["fallback"])
    training = _Training(run, folder, task, watch)  # what it refuses leaves no folder
    folder.begin(config)
    if isinstance(task, MixedTrainTask):
        folder.write_measured([asdict(one) for one in task.measured])
    training.run()
    rows = task.compare_with_rules(folder.agent)
    write_atomically(table, lambda draft: rows.to_csv(draft, index=False))
    info = folder.finish(objective=training.best["objective"], best_timesteps=training.best["timesteps"])
    return TrainOutcome(folder.path, float(info["objective"]), rows, False)


def make_task(scenario: Scenario | GameScenario, config: Mapping[str, Any], agent: AgentConfig) -> TrainTask:
    """What is to be learned on a scenario.

    Args:
        scenario: The scenario.
        config: A checked configuration of a training.
        agent: Its learner's settings.
    """
    shared = {key: config[key] for key in ("num_envs", "seed", "total_timesteps")}
    if isinstance(scenario, PlacementScenario):
        own = {key: config[key] for key in ("reward", "wait_scale_s")}
        return PlacementTrainTask(scenario, **shared, **own)
    if isinstance(agent, ForecasterConfig):
        return ForecastTrainTask(scenario, **shared, agent=agent)
    assert isinstance(scenario, Scenario)
    return ClusterTrainTask(scenario, **shared, env=config["env"])


class _Training:
    """A training under way.

    Args:
        run: The checked training.
        folder: Its folder.
        task: What is to be learned.
        watch: Looks at every validation.
    """

    def __init__(self, run: TrainRun, folder: TrainFolder, task: TrainTask, watch: Watch | None) -> None:
        self.run_config, self.folder, self.task, self.watch = run, folder, task, watch
        self.agent = run.agent
        self.learner: Learner = agent_kind(run.agent.name).make_learner(task, run.agent)
        self.validation = task.validation()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.members: tuple[Member, ...] = ()
        self.wall_s = 0.0
        self._measured: dict[str, float] = {}
        self._begun = (0, 0.0)  # decisions and time when learning went on last
        self.checkpoint_every = run.config["checkpoint_every"] or run.config["eval_every"]
        self._resume_or_begin()

    def _resume_or_begin(self) -> None:
        found = self.folder.read_checkpoint()
        if found is None:
            self._take_over()
            return
        self.learner.restore(found.part("learner"), found.state["learner"])
        self.history, self.best = found.state["history"], found.state["best"]
        self.wall_s = float(found.state["wall_s"])
        self.members = tuple(
            Member(
                Architecture.from_dict(a),
                Layout.from_dict(c),
                found.part(f"best/{i}"),
                scores,
                Safety.from_dict(safety),
            )
            for i, (a, c, scores, safety) in enumerate(found.state["members"])
        )
        self._save_best()  # the process may have been killed while it did

    def _take_over(self) -> None:
        """Begin with the weights of another agent, if one is named."""
        config = self.run_config.config
        if config["initial"] is None and config["import_zip"] is None:
            return
        load = getattr(self.learner, "load_member", None)
        if load is None:
            raise ConfigError(f"initial: agent={self.agent.name} cannot begin with the weights of another")
        if config["import_zip"] is not None:
            from virtgym.policies.learned.sb3_zip import load_zip

            from .sb3 import algorithm_of

            try:
                load(load_zip(config["import_zip"], algorithm_of(self.agent)))
            except ConfigError as error:
                raise ConfigError(f"import={error}") from None
            return
        members = load_agent(config["initial"]).members
        if len(members) > 1:
            raise ConfigError(f"initial={config['initial']}: is an ensemble; name one agent")
        load(members[0])

    def run(self) -> None:
        """Learn to the end."""
        total, every = self.task.total_timesteps, self.run_config.config["eval_every"]
        begun = self.learner.timesteps
        board = Board(self.folder.path / "tensorboard", self.run_config.config["tensorboard"], begun)
        name = f"{self.agent.name} seed {self.task.seed}"
        try:
            with TrainProgress(name, total, begun) as progress, _stoppable(progress) as stop:
                if self.history:
                    progress.say(f"{name}: goes on from {begun:,} of {total:,} timesteps")
                else:
                    self._evaluate(progress, board, {}, 0, 0.0)
                while self.learner.timesteps < total:
                    here = self.learner.timesteps
                    stops = [(here // n + 1) * n for n in (every, self.checkpoint_every)]
                    self._learn_until(min(*stops, total), progress, board, stop)
                    now = self.learner.timesteps
                    if now >= stops[0] or now >= total:
                        self._evaluate(progress, board, self._measured, *self._speed())
                    if stop.is_set() or now >= min(stops):
                        self._write_checkpoint()
                    if stop.is_set():
                        raise KeyboardInterrupt(
                            f"stopped at {now:,} of {total:,} timesteps; the same command with "
                            f"out={self.folder.path} goes on from there"
                        )
        finally:
            board.close()
        if self.task.fallbacks():
            self._save_best(self.task.choose_margins(self.members))

    def _learn_until(
        self, timesteps: int, progress: TrainProgress, board: Board, stop: threading.Event
    ) -> None:
        self._begun = self.learner.timesteps, time.perf_counter()
        self._measured = {}
        while self.learner.timesteps < timesteps and not stop.is_set():
            here, start = self.learner.timesteps, time.perf_counter()
            self._measured = self.learner.learn_chunk(timesteps - here)
            spent, now = time.perf_counter() - start, self.learner.timesteps
            self.wall_s += spent
            speed = (now - here) / max(spent, 1e-9)
            progress.advance(now, speed)
            board.write(now, {**self._measured, "frames_per_s": speed})

    def _speed(self) -> tuple[int, float]:
        """Decisions since learning went on last, and seconds."""
        return self.learner.timesteps - self._begun[0], time.perf_counter() - self._begun[1]

    def _evaluate(
        self, progress: TrainProgress, board: Board, measured: dict[str, float], frames: int, seconds: float
    ) -> None:
        members = self.learner.snapshot()
        objective, now = self.validation(members), self.learner.timesteps
        if not self.best or objective < self.best["objective"] or self._best_is_blank():
            self.best = {"objective": objective, "timesteps": now}
            self.members = members
            self._save_best()
        row = {
            "timesteps": now,
            "wall_s": round(self.wall_s, 3),
            "frames_per_s": round(frames / seconds, 1) if frames else 0.0,
            "objective": objective,
            "best": self.best["objective"],
        }
        self.history.append({**row, **measured})
        self.folder.write_progress(self.history)
        board.write(now, {"objective": objective, "best": self.best["objective"]}, "validation")
        progress.evaluated(row, self.validation.unit)
        if self.watch is not None:
            self.watch(self.history)

    def _best_is_blank(self) -> bool:
        """Whether the best so far is the rule of a safety alone: what was learned then replaces it."""
        begun = self.run_config.config["initial"] is None and self.best["timesteps"] == 0
        return begun and any(m.safety for m in self.members)

    def _save_best(self, fallbacks: tuple[Fallback, ...] | None = None) -> None:
        training = {"agent": asdict(self.agent), **self.task.described(), **self.best}
        fallbacks = self.task.fallbacks() if fallbacks is None else fallbacks
        agent = Agent(self.members, self.task.kind, self.task.protocol, training, _versions(), fallbacks)
        save_agent(self.folder.agent, agent)

    def _write_checkpoint(self) -> None:
        arrays, state = self.learner.arrays()
        every = {f"learner/{name}": array for name, array in arrays.items()}
        for i, m in enumerate(self.members):
            every |= {f"best/{i}/{name}": array for name, array in m.weights.items()}
        members = [
            (m.architecture.to_dict(), m.layout.to_dict(), m.scores, m.safety and m.safety.to_dict())
            for m in self.members
        ]
        known = {"learner": state, "history": self.history, "best": self.best, "wall_s": self.wall_s}
        self.folder.write_checkpoint(Checkpoint(every, {**known, "members": members}))


@contextmanager
def _stoppable(progress: TrainProgress) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event: the update is finished, and a checkpoint written."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt("stopped at once; the same command goes on from the last checkpoint")
        stop.set()
        progress.say("stopping after this update (again: at once)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    found = {"virtgym": virtgym_version(), "python": platform.python_version()}
    for name in ("numpy", "torch", "stable-baselines3", "sb3-contrib"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
