"""What an agent sees of a placement game, and its rewards, written by one kernel call for one game or many.

The columns are named and documented in ``NODE_COLUMNS``, ``REQUEST_COLUMNS`` and ``GLOBAL_COLUMNS``:
everything that an online scheduler knows, so neither a VM's lifetime nor requests that have not arrived.
Values are float32 in ``[low, high]``, clipped where they could leave, and relative to a node or to the whole
cluster: a network that treats nodes alike runs on any number of hosts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..arrays import F4
from ..checks import need_choice
from ..entry import as_action_mask
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from ..jit.records import name_places
from ..observation_columns import Column, blank, box
from .buffers import (
    CONSTANT_BUFFERS,
    GLOBAL_COLUMNS,
    NODE_COLUMNS,
    REQUEST_COLUMNS,
    WINDOW_COLUMNS,
    GlobalRow,
    NodeRow,
    PlacementBuffers,
    RequestRow,
    WindowRow,
    wait_log,
)
from .game import step_game, write_extra_mask
from .games import PlacementConfig, PlacementGames
from .rewards import forfeit, reward_of
from .slots import SLOT_GLOBAL_COLUMNS, SLOT_NODE_COLUMNS, ShapeRow, SlotRow, slot_table, write_slots
from .state import HUAWEI, PLAYING, STUCK, PlacementParams, PlacementState, fits

DAY_S = 86_400.0
TIME_SCALE = 1.0 / float(np.log1p(30 * DAY_S))
HALF_COUNT, HALF_AGE_S = 16.0, 3600.0
COUNT_SCALE = 1.0 / float(np.log1p(128.0))
COUNTS = np.log1p(np.arange(1024.0)) * COUNT_SCALE
SHARES = np.arange(1024.0) / (np.arange(1024.0) + HALF_COUNT)
"""The scaled logarithms of counts, and n / (n + 16), looked up."""

OBSERVATIONS: tuple[str, ...] = ("basic", "slots")
"""What is observed: the columns of ``buffers``, or with those of ``slots`` after them."""

N_WINDOW = len(WINDOW_COLUMNS)
N_NODE, N_REQUEST, N_GLOBAL = len(NODE_COLUMNS), len(REQUEST_COLUMNS), len(GLOBAL_COLUMNS)


@kernel
def _clip(x: float, high: float) -> Any:
    return min(max(x, 0.0), high)


@kernel
def _time(seconds: float, high: float) -> Any:
    if seconds <= 0.0:  # the rule, not the exception, and cheaper than a logarithm
        return 0.0
    return min(np.log1p(seconds) * TIME_SCALE, high)


@kernel
def _count(n: int, high: float) -> Any:
    return min(COUNTS[n] if n < len(COUNTS) else np.log1p(float(n)) * COUNT_SCALE, high)


@kernel
def _share(n: int) -> Any:
    return SHARES[n] if n < len(SHARES) else n / (n + HALF_COUNT)


@kernel
def _write_gaps(p: PlacementParams, gap: F4) -> None:
    for row in range(1, p.n_requests):
        gap[row] = _time(p.arrival[row] - p.arrival[row - 1], 1.0)


@kernel
def _write_fits(p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int) -> None:
    """Write the mask. What fits where cannot be foreseen, so there is no branch on it."""
    mask, row = o.mask[b], s.cursor[b]
    if s.status[b] != PLAYING:
        mask[:] = False
        return
    cores, memory = p.cores[row], p.memory[row]
    for a in range(p.n_nodes):
        mask[a] = (s.free_cores[b, a] >= cores) & (s.free_memory[b, a] >= memory)
    if p.double[row]:
        for a in range(0, p.n_nodes, 2):
            mask[a] = mask[a + 1] = mask[a] & mask[a + 1]
    if p.n_actions > p.n_nodes:
        write_extra_mask(p, s, b, mask)


@kernel
def _write_nodes(p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int) -> None:
    """Write the columns of nodes, and what the cluster uses."""
    flat, mask = o.flat[b], o.mask[b]
    row = s.cursor[b]
    since = s.clock[b] - p.arrival[s.first[b]]
    cores, memory = (p.cores[row], p.memory[row]) if s.status[b] == PLAYING else (0.0, 0.0)
    inv_cores, inv_memory = 1.0 / p.node_cores, 1.0 / p.node_memory
    free_cores, free_memory = 0.0, 0.0
    for a in range(p.n_nodes):
        node = name_places(flat[a * o.width : a * o.width + N_NODE], o.node)
        here_cores, here_memory = s.free_cores[b, a], s.free_memory[b, a]
        free_cores += here_cores
        free_memory += here_memory
        fit = 1.0 if mask[a] else 0.0
        node.free_cores = here_cores * inv_cores
        node.free_memory = here_memory * inv_memory
        node.fits = fit
        node.room = min(node.free_cores, node.free_memory)
        after = min((here_cores - cores) * inv_cores, (here_memory - memory) * inv_memory)
        node.room_after = max(after, 0.0) * fit
        n = s.n_vms[b, a]
        age = max(since * n - s.start_sum[b, a], 0.0) if n > 0 else 0.0  # of all of them together
        node.n_vms = _share(n)
        node.age = age / (age + HALF_AGE_S * max(n, 1))
    i = p.n_nodes * o.width + N_REQUEST
    cluster = name_places(flat[i : i + N_GLOBAL], o.cluster)
    cluster.cores_used = _clip(1.0 - free_cores * inv_cores / p.n_nodes, 1.0)
    cluster.memory_used = _clip(1.0 - free_memory * inv_memory / p.n_nodes, 1.0)


@kernel
def observe_game(p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int) -> None:
    """Write observation and mask of a game.

    Args:
        s: State; it is read.
        o: Buffers; row b is written.
        b: The game.
    """
    _write_fits(p, s, o, b)
    _write_nodes(p, s, o, b)
    flat = o.flat[b]
    row, first = s.cursor[b], s.first[b]
    i = p.n_nodes * o.width
    j = i + N_REQUEST
    request = name_places(flat[i:j], o.request)
    cluster = name_places(flat[j : j + N_GLOBAL], o.cluster)
    cluster.queue = _count(s.queued[b] - first - s.n_placed[b] - s.n_rejected[b], 2.0)
    cluster.queue_cores = _clip(s.queue_cores[b] / (p.n_nodes * p.node_cores), 4.0)
    cluster.queue_memory = _clip(s.queue_memory[b] / (p.n_nodes * p.node_memory), 4.0)
    if o.accrued[b] != s.accrued[b]:
        cluster.total_wait = _time(s.accrued[b], 2.0)
        o.accrued[b] = s.accrued[b]
    cluster.last_wait = min(wait_log(o, b, s.last_wait[b]) * TIME_SCALE, 2.0)
    cluster.placed = _count(s.n_placed[b], 3.0)
    if s.status[b] == PLAYING:
        request.cores = p.cores[row] / p.node_cores
        request.memory = p.memory[row] / p.node_memory
        request.double = 1.0 if p.double[row] else 0.0
        request.waited = min(wait_log(o, b, s.clock[b] - p.arrival[row]) * TIME_SCALE, 2.0)
        cluster.gap = o.gap[row] if row > first else 0.0
    else:
        flat[i:j] = 0.0
        cluster.gap = 0.0
    if o.clock[b] != s.clock[b]:
        phase = 2.0 * np.pi * s.clock[b] / DAY_S
        cluster.day_sin = np.sin(phase)
        cluster.day_cos = np.cos(phase)
        o.clock[b] = s.clock[b]
    if len(o.slots) > 0:
        write_slots(p, s, o, b, N_NODE, j + N_GLOBAL)
    if p.window > 1:
        _write_window(p, s, o, b)


@kernel
def _write_window(p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int) -> None:
    flat = o.flat[b, p.n_nodes * o.width + N_REQUEST + o.n_globals :]
    flat[:] = 0.0
    if s.status[b] != PLAYING:
        return
    for k in range(s.window_size[b]):
        row = s.window_rows[b, k]
        if p.arrival[row] > s.clock[b]:
            return
        waiting = name_places(flat[k * N_WINDOW : (k + 1) * N_WINDOW], o.waiting)
        waiting.cores = p.cores[row] / p.node_cores
        waiting.memory = p.memory[row] / p.node_memory
        waiting.double = 1.0 if p.double[row] else 0.0
        waiting.waited = _time(s.clock[b] - p.arrival[row], 2.0)
        n = 0
        for a in range(p.n_nodes):
            n += fits(p, s, b, row, a)
        waiting.fits = n / p.n_nodes
        waiting.pending = 1.0 if k == s.window_slot[b] else 0.0


@kernel
def play_one(
    p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int, a: int, kind: int, scale: float
) -> Any:
    """Carry out an action, write its reward, and observe.

    Args:
        o: Buffers; row b is written.
        b: The game, which must be playing.
        a: The action.
        kind: Place of the reward in ``REWARDS``.
        scale: T, s.

    Returns:
        The code of ``step_game``; if that refused the action, the state is unchanged and the reward 0.
    """
    before = s.accrued[b]
    code = step_game(p, s, b, a)
    o.code[b] = code
    o.reward[b] = 0.0
    if code <= 0:
        o.reward[b] = reward_of(p, s, o, b, code, before, kind, scale)
        if s.status[b] == STUCK and p.protocol == HUAWEI:  # the end of a survival game, but not of a queue
            o.reward[b] += forfeit(p, s, b, kind, scale)
        observe_game(p, s, o, b)
    return code


def observation_columns(observation: str = "basic") -> dict[str, tuple[Column, ...]]:
    """The columns of a node, of the pending request and of the cluster: ``nodes``, ``request``, ``globals``.

    Args:
        observation: One of ``OBSERVATIONS``.

    Raises:
        ConfigError: If there is no such observation.
    """
    need_choice("env", "observation", observation, OBSERVATIONS)
    slots = observation == "slots"
    return {
        "nodes": NODE_COLUMNS + SLOT_NODE_COLUMNS * slots,
        "request": REQUEST_COLUMNS,
        "globals": GLOBAL_COLUMNS + SLOT_GLOBAL_COLUMNS * slots,
    }


def _parts(config: PlacementConfig, observation: str) -> dict[str, list[Column]]:
    """The columns of each part of an observation, in the order of ``PlacementBuffers.flat``."""
    parts = {name: list(columns) for name, columns in observation_columns(observation).items()}
    parts["nodes"] *= 2 * config.n_hosts
    if config.queue_window > 1:
        parts["window"] = list(WINDOW_COLUMNS) * config.queue_window
    return parts


class PlacementObserver:
    """Observations, masks and rewards of B games, in memory of its own.

    Args:
        games: The games; their state is read.
        observation: One of ``OBSERVATIONS``.
    """

    constant = CONSTANT_BUFFERS

    def __init__(self, games: PlacementGames, observation: str = "basic") -> None:
        self.games = games
        self.observation = observation
        n, ends, parts = games.n_games, 0, {}
        columns_of = observation_columns(observation)
        for name, columns in _parts(games.config, observation).items():
            parts[name] = slice(ends, ends + len(columns))
            ends += len(columns)
        self._one: list[tuple[str, Any]] = list(parts.items())
        self._all: list[tuple[str, Any]] = [(name, (slice(None), part)) for name, part in parts.items()]
        self.buffers = PlacementBuffers(
            flat=np.zeros((n, ends), np.float32),
            mask=np.zeros((n, games.params.n_actions), np.bool_),
            reward=np.zeros(n),
            code=np.zeros(n, np.int64),
            clock=np.full(n, np.nan),
            accrued=np.full(n, np.nan),
            wait=np.full(n, np.nan),
            wait_log=np.zeros(n),
            gap=np.zeros(games.params.n_requests, np.float32),
            slots=slot_table(games.config) if observation == "slots" else np.zeros((0, 3)),
            width=len(columns_of["nodes"]),
            n_globals=len(columns_of["globals"]),
            node=blank(NodeRow),
            request=blank(RequestRow),
            cluster=blank(GlobalRow),
            waiting=blank(WindowRow),
            slot=blank(SlotRow),
            shape=blank(ShapeRow),
        )
        _write_gaps(games.kernel_params, self.buffers.gap)
        self.handle: Any = make_handle("placement buffers", self.buffers)
        self.action_masks = as_action_mask(self.buffers.mask)  # (B, actions)

    @staticmethod
    def space(config: PlacementConfig, observation: str = "basic") -> spaces.Dict:
        """The observation space of one game: a vector per part, ``nodes`` and ``window`` row after row."""
        return spaces.Dict({name: box(columns) for name, columns in _parts(config, observation).items()})

    @staticmethod
    def flat_space(config: PlacementConfig, observation: str = "basic") -> spaces.Box:
        """The same in one vector: nodes, request, globals, window."""
        return box([column for columns in _parts(config, observation).values() for column in columns])

    def observe(self, game: int) -> None:
        """Bring the observation and the mask of a game up to date."""
        observe_game(self.games.kernel_params, self.games.kernel_state, self.handle, game)

    @property
    def flat(self) -> F4:
        """All observations in one vector each, (B, columns), as memory that the next step overwrites."""
        return self.buffers.flat

    def copy_one(self, game: int = 0) -> dict[str, NDArray[Any]]:
        """The observation of a game in fresh memory: one copy, and views of that copy."""
        return self.split(self.buffers.flat[game].copy())

    def split(self, flat: F4) -> dict[str, NDArray[Any]]:
        """An observation in one vector, (columns,), as views of its parts."""
        return {name: flat[part] for name, part in self._one}

    def copy_all(self, copy: bool = True) -> dict[str, NDArray[Any]]:
        """The observations of all games, (B, ...) each, in fresh memory or as views of the buffers."""
        flat = self.buffers.flat.copy() if copy else self.buffers.flat
        return {name: flat[part] for name, part in self._all}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        return {"games": self.games, "observation": self.observation, "buffers": tuple(self.buffers)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handle."""
        self.__init__(saved["games"], saved["observation"])  # type: ignore[misc]
        mine: Any
        for mine, theirs in zip(self.buffers, saved["buffers"]):
            if isinstance(mine, np.ndarray):  # the others follow from the observation's name
                mine[:] = theirs
