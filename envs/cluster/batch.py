"""B clusters of one shape that step together: what Gymnasium's and SB3's batches have in common.

Each lane is a single environment, which is reset and asked in Python; its steps are one kernel call for all.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..arrays import B1, I8
from ..checks import need
from ..entry import need_actions, need_begun
from ..errors import ConfigError
from ..jit.handle import make_handle
from ..sim.state.cluster_state import Blocks
from ..threads import Threads
from .actions import ACTION_REASONS
from .candidates.form import CandidateForm
from .env import ClusterEnv
from .lanes import FINISH, LOOK, STEP, WAITING, LaneBooks, make_books, play_with

FAULTS = ("fail_time_s", "fail_item", "fail_kind")
"""Parameters that every reset draws."""

PICKLE = "pickle"
"""Name of the one array of a checkpoint that cannot be plain arrays."""

EVERY = slice(None)
"""All lanes."""

RESULTS = ("reward", "duration", "code", "refused", "phase", "forced", "moved")
"""What the books say of the last step alone."""


class ClusterBatch:
    """B environments ``virtgym/Cluster-v0`` of one scenario.

    One kernel call steps all lanes. Python steps them one after the other where each needs Python at every
    step: with ``actions="knobs"`` (its policy is Python), with pictures of episodes
    (``render_mode="rgb_array"``), and with terms of the reward of one's own. Python also makes the candidates
    that are plugged in (plans of policies, kinds of one's own), and lets those intervals pass in which a
    lane's operator has work to do (events).

    Args:
        num_envs: B.
        scenario: As for ``ClusterEnv``.
        threads: Threads among which the lanes are divided; results are the same.
        **settings: The other arguments of ``ClusterEnv``.
    """

    def __init__(self, num_envs: int, scenario: Any = "small", *, threads: int = 1, **settings: Any) -> None:
        need(num_envs >= 1, f"num_envs={num_envs}: must be at least 1")
        first = ClusterEnv(scenario, **settings)
        same = {key: value for key, value in settings.items() if key != "scenario_overrides"}
        more = (ClusterEnv(first.scenario, **same) for _ in range(num_envs - 1))
        self.lanes = [first, *more]
        self.num_envs = num_envs
        self._threads = Threads(threads, num_envs)
        self.books = make_books(num_envs, first.max_decisions_per_interval, first.observes)
        self._memory = {
            name: np.stack([env.observer.rows[name] for env in self.lanes]) for name in first.observer.rows
        }
        self.begun = False
        self.infos: list[dict[str, Any]] = [{} for _ in self.lanes]
        self._bind()

    def _bind(self) -> None:
        self._books: Any = make_handle("lane books", self.books)
        first = self.lanes[0]
        self.by_kernel = not (
            first.knobs is not None
            or first.render_mode == "rgb_array"
            or first.reward.own
            or (self.plugged and not first.observes)
        )
        for i in range(self.num_envs):
            self._bind_lane(i, fresh=False)
        sim, observer = first.sim, first.observer
        candidates = isinstance(observer, CandidateForm)
        self._play: Any = play_with(observer.observe, candidates, bool(sim.params.full))
        self._kinds: tuple[Any, ...] = (
            *(sim.kernel_params, sim.kernel_state, sim.shown[2], first.view.kernel_state),
            *(*observer.handles, first.reward.handle),
        )

    @property
    def plugged(self) -> bool:
        """Whether candidates are plugged in, which Python makes."""
        observer = self.lanes[0].observer
        return isinstance(observer, CandidateForm) and len(observer.plugins) > 0

    def _bind_lane(self, i: int, fresh: bool) -> None:
        """Note where a lane's memory is, after some of it was made anew; ``fresh``: the observer, too."""
        env, books = self.lanes[i], self.books
        sim, view = env.sim, env.view
        rows = {name: memory[i] for name, memory in self._memory.items()}
        if env.observer.flat.ctypes.data != rows["flat"].ctypes.data:
            for name, mine in env.observer.rows.items() if fresh else ():
                rows[name][:] = mine
            env.observer.move_to(**rows)
        handles = (
            *(sim.kernel_params, sim.kernel_state, *sim.shown, view.kernel_state),
            *(*env.observer.handles, env.reward.handle),
        )
        books.address[i] = [handle.address for handle in handles]
        books.horizon_s[i] = sim.horizon_s
        books.event_s[i] = sim.agenda.next_s

    @property
    def task(self) -> ClusterEnv:
        """The first lane, which says what all have in common."""
        return self.lanes[0]

    @property
    def masks(self) -> B1:
        """Which actions are legal in each lane, (B, A), as a view."""
        if not self.books.observe:
            self._look()
        return self._memory["mask"]

    @property
    def flat_space(self) -> spaces.Box:
        """The space of a flat observation."""
        parts = [self.task.observation_space[name] for name in self.task.observer.parts]
        low, high = (np.concatenate([getattr(box, end).ravel() for box in parts]) for end in ("low", "high"))
        return spaces.Box(low, high)

    def _shown(self, memory: NDArray[Any], copy: bool) -> NDArray[Any]:
        if not self.books.observe:  # masks need the memory
            return np.zeros_like(memory)
        return memory.copy() if copy else memory

    def flat_observations(self, copy: bool = True) -> NDArray[np.float32]:
        """What all lanes show, as ``FlatObservation`` does, (B, F)."""
        return self._shown(self._memory["flat"], copy)

    def observations(self, copy: bool = True) -> dict[str, NDArray[Any]]:
        """What all lanes show, (B, ...)."""
        shown = (self._shown(memory, copy) for name, memory in self._memory.items() if name != "mask")
        found: dict[str, NDArray[Any]] = self.task.observer.split(*shown)
        return found

    def observation_of(self, i: int, flat: bool) -> Any:
        """A copy of what one lane shows, in one vector or not."""
        shown = [self._shown(memory[i], True) for name, memory in self._memory.items() if name != "mask"]
        return shown[0] if flat else self.task.observer.split(*shown)

    def reset_lane(self, i: int, seed: int | None = None) -> dict[str, Any]:
        """Begin an episode in a lane; what ``ClusterEnv.reset`` tells of it."""
        env, books = self.lanes[i], self.books
        _, info = env.reset(seed=seed)
        self._bind_lane(i, fresh=True)
        env.reward.buffers.before[:] = env.sim.state.totals
        for name in RESULTS:
            getattr(books, name)[i] = 0
        books.chosen[i], books.decisions[i], books.illegal[i], books.length[i] = -1, 0, 0, 0
        books.total[i] = books.time_s[i] = 0.0
        books.over[i] = False
        self.begun = True
        return info

    def play(self, actions: ArrayLike) -> I8:
        """Carry out an action in every lane whose episode is not over.

        Args:
            actions: (B,); of ``knobs`` (B, K).

        Returns:
            The lanes whose episodes ended.

        Raises:
            ResetNeeded: Before any episode has begun.
            ConfigError: If these are not B actions.
        """
        need_begun(self.begun)
        before = self.books.over.copy()
        if self.by_kernel:
            self._call(STEP, need_actions(actions, self.num_envs))
            waiting = np.flatnonzero(self.books.phase == WAITING)
            if len(waiting):
                self._pass_in_python(waiting.tolist())
            if self.plugged:
                self._lay_plugins(np.flatnonzero(self.books.moved).tolist())
        else:
            self._step_in_python(actions)
        ended: I8 = np.flatnonzero(self.books.over & ~before)
        return ended

    def _call(self, task: int, actions: I8 | None = None) -> None:
        chosen = self.books.chosen if actions is None else actions

        def run(first: int, last: int) -> None:
            self._play(self._books, *self._kinds, chosen, task, first, last)

        self._threads.run(run)

    def _look(self) -> None:
        """Write observations and masks of all lanes anew."""
        self._call(LOOK)
        self._lay_plugins(range(self.num_envs) if self.plugged else ())

    def _lay_plugins(self, which: Iterable[int]) -> None:
        for i in which:
            observer = self.lanes[i].observer
            assert isinstance(observer, CandidateForm)
            observer.lay_plugins()

    def _pass_in_python(self, which: list[int]) -> None:
        """Let an interval pass in lanes whose operator has work to do in it."""
        for i in which:
            sim = self.lanes[i].sim
            sim.advance()
            self.books.event_s[i] = sim.agenda.next_s
        self._call(FINISH)

    def _step_in_python(self, actions: Any) -> None:
        books = self.books
        for name in RESULTS:
            getattr(books, name)[:] = 0
        if self.task.knobs is None:
            actions = need_actions(actions, self.num_envs).tolist()
        elif np.ndim(actions) == 0 or len(actions) != self.num_envs:
            raise ConfigError(f"actions of shape {np.shape(actions)}: must be {self.num_envs} rows of knobs")
        for i, env in enumerate(self.lanes):
            self.infos[i] = {}
            if books.over[i]:
                continue
            _, books.reward[i], _, books.over[i], info = env.step(actions[i])
            self.infos[i] = info
            books.duration[i] = "time_s" in info
            books.time_s[i] = env.sim.time_s
            books.chosen[i], books.decisions[i], books.illegal[i] = env.place
            books.total[i] += books.reward[i]
            books.length[i] += 1

    def info(self, i: int, whole: bool) -> dict[str, Any]:
        """What ``ClusterEnv.step`` tells of a lane's last step, but for its duration.

        Args:
            i: The lane.
            whole: Whether ``reward_terms`` and ``step_metrics`` are wanted, which take time to work out.
        """
        if not self.by_kernel:
            return self.infos[i]
        books, env = self.books, self.lanes[i]
        told: dict[str, Any] = {}
        if books.code[i]:
            told["illegal_action"] = ACTION_REASONS[int(books.code[i])]
            if whole:
                told["reward_terms"] = {"illegal": float(books.refused[i])}
        if books.forced[i]:
            told["forced_stop"] = True
        if books.duration[i]:
            told["time_s"] = float(books.time_s[i])
            if whole or books.over[i]:
                told |= env.sum_up()
            if books.over[i]:
                told["metrics"] = env.sim.metrics()
                told["illegal_actions"] = int(books.illegal[i])
        return told

    def lane(self, i: int) -> ClusterEnv:
        """A lane as a single environment, to look at."""
        env, books = self.lanes[i], self.books
        if self.by_kernel:
            chosen, decisions, illegal = (books.chosen[i], books.decisions[i], books.illegal[i])
            env.take_up(int(chosen), int(decisions), int(illegal), bool(books.over[i]))
            if env.render_mode is not None and books.time_s[i] > 0.0:
                env.sum_up()
        return env

    def _changing(self, lanes: slice) -> Iterator[tuple[str, NDArray[Any]]]:
        """Views of every array that these lanes share and that changes, by name."""
        for name, array in self.books._asdict().items():
            if name not in ("address", "limit", "observe"):
                yield f"books.{name}", array[lanes]
        for name, array in self._memory.items():
            yield f"seen.{name}", array[lanes]

    def _of_lane(self, i: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every array of one lane that changes, but for its simulator's memory."""
        env = self.lanes[i]
        reward = env.reward.buffers
        yield from ((f"observer.{name}", array) for name, array in env.observer.kept.items())
        for name in ("before", "delta", "terms"):
            yield f"reward.{name}", getattr(reward, name)

    def export_state(self, lanes: slice = EVERY) -> dict[str, NDArray[Any]]:
        """Where lanes and their generators stand, as plain arrays: a checkpoint.

        Policies in lanes (``knobs``, plans among candidates) have memories of their own: with them it is one
        array, the bytes of a pickle of all lanes, which is to be imported from one's own files only.

        Args:
            lanes: Which, with both ends.
        """
        if self.plugged or self.task.knobs is not None:
            return {PICKLE: np.frombuffer(pickle.dumps(self), dtype=np.uint8).copy()}
        found = {name: array.copy() for name, array in self._changing(lanes)}
        sims = [env.sim.__getstate__() for env in self.lanes[lanes]]
        for k, name in enumerate(Blocks._fields):
            found[f"sim.{name}"] = np.stack([sim["blocks"][k] for sim in sims])
        rows = [dict(self._of_lane(i)) for i in range(self.num_envs)[lanes]]
        found |= {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        for name in FAULTS:
            found[f"sim.{name}"] = np.concatenate([getattr(sim["params"], name) for sim in sims])
        found["sim.n_faults"] = np.array([len(sim["params"].fail_time_s) for sim in sims])
        told = [
            [env.np_random.bit_generator.state, env.scenario.seed, sim["agenda"].mark()]
            for env, sim in zip(self.lanes[lanes], sims)
        ]
        found["lanes"] = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8).copy()
        return found

    def import_state(self, arrays: Mapping[str, NDArray[Any]], lanes: slice = EVERY) -> None:
        """Take up what ``export_state`` of as many lanes of the same configuration gave.

        Args:
            arrays: What it gave.
            lanes: Those that take it up.

        Raises:
            ConfigError: If it comes from another one.
        """
        if (PICKLE in arrays) != (self.plugged or self.task.knobs is not None):
            raise ConfigError("checkpoint: does not fit these environments")
        if PICKLE in arrays:
            twin = pickle.loads(arrays[PICKLE].tobytes())
            need(twin.num_envs == self.num_envs, f"checkpoint: is of {twin.num_envs} environments")
            self.__setstate__(twin.__getstate__())
            return
        which = range(self.num_envs)[lanes]
        mine = dict(self._changing(lanes))
        lane = dict(self._of_lane(0)) | {
            f"sim.{name}": block for name, block in self.task.sim.__getstate__()["blocks"]._asdict().items()
        }
        shapes = {name: array.shape for name, array in mine.items()}
        shapes |= {name: (len(which), *array.shape) for name, array in lane.items()}
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape:
                raise ConfigError(f"checkpoint: {name} does not fit {len(which)} of these environments")
        for name, array in mine.items():
            array[...] = arrays[name]
        ends = np.cumsum(arrays["sim.n_faults"])
        faults = {name: np.split(arrays[f"sim.{name}"], ends[:-1]) for name in FAULTS}
        told = json.loads(arrays["lanes"].tobytes())
        for k, (i, (rng, seed, mark)) in enumerate(zip(which, told, strict=True)):
            env = self.lanes[i]
            env.np_random.bit_generator.state = rng
            if env.scenario.seed != seed:
                env.draw_trace(seed)
            saved = env.sim.__getstate__()
            saved["agenda"].go_to(mark)
            saved["blocks"] = Blocks(*(arrays[f"sim.{name}"][k].copy() for name in Blocks._fields))
            saved["params"] = saved["params"]._replace(**{name: faults[name][k].copy() for name in FAULTS})
            env.sim.__setstate__(saved)
            for name, array in self._of_lane(i):
                array[...] = arrays[name][k]
            self._bind_lane(i, fresh=False)
        self.begun = bool((~self.books.over | (self.books.length > 0)).any())
        # Sums that observations are made of.
        self._play(self._books, *self._kinds, self.books.chosen, LOOK, which.start, which.stop)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle lanes and books, never addresses."""
        gone = ("_books", "_play", "_kinds", "books")
        kept = {name: value for name, value in self.__dict__.items() if name not in gone}
        return kept | {"books": tuple(self.books)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handles."""
        self.__dict__.update(saved)
        self.books = LaneBooks(*saved["books"])
        self._bind()
