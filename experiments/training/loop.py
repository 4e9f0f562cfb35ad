"""The course of a training: learn, evaluate on what training does not play, keep the best, note all of it.

Trainings of one configuration that differ in their seed learn in a batch where their agent can (``stacked``);
each has its folder and its checkpoints, as if it had learned alone.
"""

from __future__ import annotations

import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.fallback import Fallback
from virtgym.policies.learned.safety import Safety
from virtgym.policies.learned.storage import Agent, Member, load_agent, save_agent

from ..run.rows import virtgym_version
from .agents import agent_kind
from .compose import TrainRun
from .folder import Checkpoint, TrainFolder
from .learners import Learner, TrainTask, Validate
from .mixture import MixedTrainTask
from .progress import TrainProgress
from .trackers import Trackers

if TYPE_CHECKING:
    import pandas as pd

    from .stacked.stack import Stack

log = logging.getLogger(__name__)

Watch = Callable[[list[dict[str, Any]]], None]
"""Is shown the rows of ``progress.csv`` after each validation; what it raises ends the training."""


class Training:
    """A training under way.

    Args:
        number: Its place among those of this call.
        run: The checked training.
        folder: Its folder.
        task: What is to be learned.
        watch: Looks at every validation.
    """

    learner: Learner
    validation: Validate

    def __init__(
        self, number: int, run: TrainRun, folder: TrainFolder, task: TrainTask, watch: Watch | None
    ) -> None:
        self.number, self.run, self.folder, self.task, self.watch = number, run, folder, task, watch
        self.agent = run.agent
        self.name = f"{self.agent.name} seed {task.seed}"
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.members: tuple[Member, ...] = ()
        self.wall_s = 0.0
        self._since = (0, 0.0)  # decisions when learning went on last, and seconds of learning since
        self._stops = (0, 0)  # decisions at which it is evaluated next, and a checkpoint written
        self._trackers = Trackers([])

    @property
    def over(self) -> bool:
        """Whether it has learned all that it was to learn."""
        return self.learner.timesteps >= self.task.total_timesteps

    def begin(self, learner: Learner, validation: Validate) -> None:
        """Take up the checkpoint, or begin; what is refused here leaves no folder."""
        self.learner, self.validation = learner, validation
        found = self.folder.read_checkpoint()
        if found is None:
            self._take_over()
        else:
            self._resume(found)
        trackers = Trackers.of(self.run.config, self.folder, learner.timesteps)
        self.folder.begin(self.run.config, validation.unit)
        if isinstance(self.task, MixedTrainTask):
            self.folder.write_measured([asdict(one) for one in self.task.measured])
        self._trackers = trackers
        trackers.open(self.name)

    def _resume(self, found: Checkpoint) -> None:
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
        config = self.run.config
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

    def set_out(self) -> None:
        """Evaluate what has learned nothing, and say where to stop first."""
        if self.history:
            now, total = self.learner.timesteps, self.task.total_timesteps
            log.info("%s: goes on from %s of %s timesteps", self.name, f"{now:,}", f"{total:,}")
        else:
            self._evaluate({}, 0, 0.0)
        self._go_on()

    def _go_on(self) -> None:
        config, here = self.run.config, self.learner.timesteps
        every = config["eval_every"], config["checkpoint_every"] or config["eval_every"]
        evaluation, checkpoint = ((here // n + 1) * n for n in every)
        self._stops = evaluation, checkpoint
        self._since = here, 0.0

    @property
    def left(self) -> int:
        """Decisions until it stops."""
        return min(*self._stops, self.task.total_timesteps) - self.learner.timesteps

    def learned(self, measured: dict[str, float], frames: int, spent: float, stopped: bool) -> None:
        """Note what was learned, and do what is due.

        Args:
            measured: Measurements by name.
            frames: Decisions learned from.
            spent: Seconds that this took; of a batch this training's share.
            stopped: Whether the user has asked to stop.
        """
        now = self.learner.timesteps
        self.wall_s += spent
        self._since = self._since[0], self._since[1] + spent
        self._trackers.write(now, {**measured, "frames_per_s": frames / max(spent, 1e-9)})
        if not stopped and self.left > 0:
            return
        if now >= self._stops[0] or self.over:
            self._evaluate(measured, now - self._since[0], self._since[1])
        if stopped or now >= min(self._stops):
            self._write_checkpoint()
        self._go_on()

    def _evaluate(self, measured: dict[str, float], frames: int, seconds: float) -> None:
        members = self.learner.snapshot()
        objective, now = self.validation(members), self.learner.timesteps
        if not self.best or objective < self.best["objective"] or self._best_is_blank():
            self.best = {"objective": objective, "timesteps": now}
            self.members = members
            self._save_best()
        row = {
            "timesteps": now,
            "wall_s": round(self.wall_s, 3),
            "frames_per_s": round(frames / max(seconds, 1e-9), 1) if frames else 0.0,
            "objective": objective,
            "best": self.best["objective"],
        }
        self.history.append({**row, **measured})
        self.folder.write_progress(self.history)
        self._trackers.write(now, {"objective": objective, "best": self.best["objective"]}, "validation")
        self._tell(row)
        if self.watch is not None:
            self.watch(self.history)

    def _tell(self, row: dict[str, Any]) -> None:
        share = 100.0 * min(1.0, row["timesteps"] / max(1, self.task.total_timesteps))
        speed = f"  {row['frames_per_s']:,.0f} frames/s" if row["frames_per_s"] else ""
        mark = " *" if row["objective"] == row["best"] else ""
        log.info(
            f"{self.name} {row['timesteps']:>11,} ({share:3.0f} %)  validation {_shown(row['objective'])} "
            f"{self.validation.unit}, best {_shown(row['best'])}{mark}{speed}"
        )

    def _best_is_blank(self) -> bool:
        """Whether the best so far is the rule of a safety alone: what was learned then replaces it."""
        begun = self.run.config["initial"] is None and self.best["timesteps"] == 0
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
        known["timesteps"] = self.learner.timesteps
        self.folder.write_checkpoint(Checkpoint(every, {**known, "members": members}))

    def finish(self, rows: pd.DataFrame) -> float:
        """Note the result.

        Args:
            rows: Of the agent and of rules on validation.

        Returns:
            The objective.
        """
        write_atomically(self.folder.path / "validation.csv", lambda draft: rows.to_csv(draft, index=False))
        best = {"objective": self.best["objective"], "best_timesteps": self.best["timesteps"]}
        return float(self.folder.finish(**best)["objective"])

    def close(self, over: bool) -> None:
        """End what was opened, and of one that is over choose the margins."""
        if over and self.task.fallbacks():
            self._save_best(self.task.choose_margins(self.members))
        self._trackers.close(over)


@dataclass
class Group:
    """Trainings that go together, one or a batch.

    Attributes:
        trainings: The trainings.
        learn: Learns the decisions wanted of each; measurements of each.
    """

    trainings: list[Training]
    learn: Callable[[Sequence[int]], list[dict[str, float]]]

    def run(self) -> None:
        """Learn to the end."""
        every = self.trainings
        total = sum(one.task.total_timesteps for one in every)
        done = sum(one.learner.timesteps for one in every)
        seeds = ", ".join(str(one.task.seed) for one in every)
        over = False
        try:
            name = f"{every[0].agent.name} seed {seeds}"
            with TrainProgress(name, total, done) as progress, _stoppable() as stop:
                for one in every:
                    one.set_out()
                while not all(one.over for one in every):
                    self._chunk(progress, stop)
            over = True
        finally:
            for one in every:
                one.close(over)

    def _chunk(self, progress: TrainProgress, stop: threading.Event) -> None:
        every = self.trainings
        going = [one for one in every if not one.over]
        before, start = [one.learner.timesteps for one in every], time.perf_counter()
        measured = self.learn([0 if one.over else one.left for one in every])
        spent = time.perf_counter() - start
        now = [one.learner.timesteps for one in every]
        progress.advance(sum(now), (sum(now) - sum(before)) / max(spent, 1e-9))
        stopped = stop.is_set()
        for one, told, frames in zip(every, measured, (n - b for n, b in zip(now, before))):
            if one in going:
                one.learned(told, frames, spent / len(going), stopped)
        if stopped:
            first = going[0]
            folder = first.folder.path if len(every) == 1 else first.folder.path.parent
            raise KeyboardInterrupt(
                f"stopped at {first.learner.timesteps:,} of {first.task.total_timesteps:,} timesteps; "
                f"the same command with out={folder} goes on from there"
            )


def make_groups(trainings: Sequence[Training]) -> Iterator[Group]:
    """Begin trainings of one configuration, those together that can learn in a batch.

    Args:
        trainings: The trainings, none of them begun.

    Yields:
        Them, each when the one before is over; learners that do not learn together are made one by one.
    """
    if not trainings:
        return
    first = trainings[0]
    kind = agent_kind(first.agent.name)
    judge = functools.cache(first.task.validation)  # it plays the same for all seeds
    why = "" if kind.stack else "this agent learns alone"
    if len(trainings) > 1 and kind.stack:
        from .stacked.stack import cannot_stack

        why = cannot_stack(first.task, first.agent)
    if len(trainings) > 1 and why:
        with TrainProgress("", 1, 0):
            log.info("%s: seeds are trained one after the other: %s", first.agent.name, why)
    if len(trainings) == 1 or why:
        for one in trainings:
            learner: Learner = kind.make_learner(one.task, one.agent)
            one.begin(learner, judge())
            yield Group([one], lambda wanted, learner=learner: [learner.learn_chunk(wanted[0])])  # type: ignore[misc]
        return
    # Those that were killed at another place go on by themselves: a batch steps together.
    places: dict[int, list[Training]] = {}
    for one in trainings:
        places.setdefault(one.folder.checkpoint_timesteps() if kind.in_step else 0, []).append(one)
    for group in places.values():
        stack: Stack = kind.make_stack([one.task for one in group], first.agent)
        for i, one in enumerate(group):
            one.begin(stack.learners[i], judge())
            stack.restored(i)
        yield Group(group, stack.learn_chunk)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event: the update is finished, and a checkpoint written."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt("stopped at once; the same command goes on from the last checkpoint")
        stop.set()
        log.info("stopping after this update (again: at once)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(objective: float) -> str:
    return f"{objective:,.1f}" if abs(objective) >= 10.0 else f"{objective:.4g}"


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
