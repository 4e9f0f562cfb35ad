"""What an agent sees of a placement game, and its rewards, written by one kernel call for one game or many.

The columns are named and documented in ``NODE_COLUMNS``, ``REQUEST_COLUMNS`` and ``GLOBAL_COLUMNS``:
everything that an online scheduler knows, so neither a VM's lifetime nor requests that have not arrived.
Values are float32 in ``[low, high]``, clipped where they could leave, and relative to a node or to the whole
cluster: a network that treats nodes alike runs on any number of hosts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..arrays import F4, F8
from ..checks import need_choice
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from ..observation_columns import Column
from .game import step_game, write_extra_mask
from .games import PlacementConfig, PlacementGames
from .slots import SLOT_GLOBAL_COLUMNS, SLOT_NODE_COLUMNS, slot_table, write_slots
from .state import HUAWEI, PLACED, PLAYING, REJECTED, SKIPPED, STUCK, PlacementParams, PlacementState, fits

DAY_S = 86_400.0
TIME_SCALE = 1.0 / float(np.log1p(30 * DAY_S))
HALF_COUNT, HALF_AGE_S = 16.0, 3600.0
COUNT_SCALE = 1.0 / float(np.log1p(128.0))
COUNTS = np.log1p(np.arange(1024.0)) * COUNT_SCALE
SHARES = np.arange(1024.0) / (np.arange(1024.0) + HALF_COUNT)
"""The scaled logarithms of counts, and n / (n + 16), looked up."""

NODE_COLUMNS: tuple[Column, ...] = (
    Column("free_cores", 1, "free cores / cores of a node"),
    Column("free_memory", 1, "free memory / memory of a node"),
    Column("fits", 1, "1: the pending request fits here (a double one: on this host)"),
    Column("room", 1, "r = min(free_cores, free_memory)"),
    Column("room_after", 1, "r once the pending request is placed here, 0 if it does not fit"),
    Column("n_vms", 1, "n / (n + 16) for n VMs on the node"),
    Column("age", 1, "t / (t + 1 h) for the mean time t since these VMs were placed"),
)
"""Row a of ``nodes`` is node a % 2 of host a // 2, and what action a places on."""

REQUEST_COLUMNS: tuple[Column, ...] = (
    Column("cores", 1, "cores asked of a node / cores of a node"),
    Column("memory", 1, "memory asked of a node / memory of a node"),
    Column("double", 1, "1: the request asks this of both nodes of a host"),
    Column("waited", 2, "log(1 + time since its arrival, s) / log(1 + 30 days)"),
)
"""The pending request; zeros when the game is over."""

GLOBAL_COLUMNS: tuple[Column, ...] = (
    Column("cores_used", 1, "used cores / cores of the cluster"),
    Column("memory_used", 1, "used memory / memory of the cluster"),
    Column("queue", 2, "log(1 + requests that have arrived and wait, the pending one included) / log(129)"),
    Column("queue_cores", 4, "cores that these ask for / cores of the cluster"),
    Column("queue_memory", 4, "memory that these ask for / memory of the cluster"),
    Column("total_wait", 2, "log(1 + waiting so far, placed requests and queue, s) / log(1 + 30 days)"),
    Column("last_wait", 2, "log(1 + wait of the last placed request, s) / log(1 + 30 days)"),
    Column("placed", 3, "log(1 + requests placed) / log(129)"),
    Column("gap", 1, "log(1 + time between the last two arrivals, s) / log(1 + 30 days), 0 at first"),
    Column("day_sin", 1, "sine of the time of day", -1),
    Column("day_cos", 1, "cosine of the time of day", -1),
)

WINDOW_COLUMNS: tuple[Column, ...] = (
    Column("cores", 1, "cores asked of a node / cores of a node"),
    Column("memory", 1, "memory asked of a node / memory of a node"),
    Column("double", 1, "1: the request asks this of both nodes of a host"),
    Column("waited", 2, "log(1 + time since its arrival, s) / log(1 + 30 days)"),
    Column("fits", 1, "share of the nodes on which it fits"),
    Column("pending", 1, "1: it is the one that the action is about"),
)
"""Row i of ``window``, with ``queue_window`` k > 1 only: the i-th of the first k requests that wait; zeros if
there are fewer."""

OBSERVATIONS: tuple[str, ...] = ("basic", "slots")
"""What is observed: the columns above, or with those of ``placement_slots`` after them."""

N_WINDOW = len(WINDOW_COLUMNS)
N_NODE, N_REQUEST, N_GLOBAL = len(NODE_COLUMNS), len(REQUEST_COLUMNS), len(GLOBAL_COLUMNS)

REWARDS: tuple[str, ...] = ("spane", "wait", "delay", "placed")
"""Reward of a placement. With w the wait of the request just placed, s, and a scale T:

- ``spane``: -ln(1 + w), as in SPANE. It is fixed before the action it is paid for.
- ``wait``: -w / T, likewise; the sum over a window is - total wait / T.
- ``delay``: -(what all requests that have arrived wait until the next decision) / T. It has the same sum as
  ``wait``, but each part is paid for the placement after which the waiting happens.
- ``placed``: 1, for the survival games.

A rejected request pays the same for its wait (``placed``: 0), minus ``reject_penalty``; a skip pays 0. An
episode that ends with requests undecided, cut off or stuck for ever, pays for all of them: see ``forfeit``.
"""

SPANE, WAIT, DELAY = 0, 1, 2


class PlacementBuffers(NamedTuple):
    """What the kernels write for B games."""

    flat: F4  # (B, 2N · node columns + request columns + global columns + k · window columns) observation
    mask: NDArray[np.bool_]  # (B, actions) legal actions
    reward: F8  # (B,) of the last step
    code: NDArray[np.int64]  # (B,) what the last step has done (``step_game``)
    clock: F8  # (B,) time that the phase of the day was written for, s
    accrued: F8  # (B,) waiting that `total_wait` was written for, s
    wait: F8  # (B,) wait whose logarithm is in wait_log: the pending request's is soon the last one's, s
    wait_log: F8  # (B,) log(1 + wait)
    gap: F4  # (R,) the column `gap` of each request
    slots: F8  # (K, 3) shapes of the slot columns; K = 0 without
    width: int  # columns of a node
    n_globals: int  # columns of the cluster


CONSTANT_BUFFERS = ("gap", "slots", "width", "n_globals")
"""Fields of ``PlacementBuffers`` that play does not change."""


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
def _wait_log(o: PlacementBuffers, b: int, seconds: float) -> Any:
    """log(1 + a wait), worked out once although it is shown as waited, paid for, and shown as last wait."""
    if seconds <= 0.0:
        return 0.0
    if seconds != o.wait[b]:
        o.wait[b] = seconds
        o.wait_log[b] = np.log1p(seconds)
    return o.wait_log[b]


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
        i = a * o.width
        here_cores, here_memory = s.free_cores[b, a], s.free_memory[b, a]
        free_cores += here_cores
        free_memory += here_memory
        fit = 1.0 if mask[a] else 0.0
        flat[i] = here_cores * inv_cores
        flat[i + 1] = here_memory * inv_memory
        flat[i + 2] = fit
        flat[i + 3] = min(flat[i], flat[i + 1])
        after = min((here_cores - cores) * inv_cores, (here_memory - memory) * inv_memory)
        flat[i + 4] = max(after, 0.0) * fit
        n = s.n_vms[b, a]
        age = max(since * n - s.start_sum[b, a], 0.0) if n > 0 else 0.0  # of all of them together
        flat[i + 5] = _share(n)
        flat[i + 6] = age / (age + HALF_AGE_S * max(n, 1))
    i = p.n_nodes * o.width + N_REQUEST
    flat[i] = _clip(1.0 - free_cores * inv_cores / p.n_nodes, 1.0)
    flat[i + 1] = _clip(1.0 - free_memory * inv_memory / p.n_nodes, 1.0)


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
    flat[j + 2] = _count(s.queued[b] - first - s.n_placed[b] - s.n_rejected[b], 2.0)
    flat[j + 3] = _clip(s.queue_cores[b] / (p.n_nodes * p.node_cores), 4.0)
    flat[j + 4] = _clip(s.queue_memory[b] / (p.n_nodes * p.node_memory), 4.0)
    if o.accrued[b] != s.accrued[b]:
        flat[j + 5] = _time(s.accrued[b], 2.0)
        o.accrued[b] = s.accrued[b]
    flat[j + 6] = min(_wait_log(o, b, s.last_wait[b]) * TIME_SCALE, 2.0)
    flat[j + 7] = _count(s.n_placed[b], 3.0)
    if s.status[b] == PLAYING:
        flat[i] = p.cores[row] / p.node_cores
        flat[i + 1] = p.memory[row] / p.node_memory
        flat[i + 2] = 1.0 if p.double[row] else 0.0
        flat[i + 3] = min(_wait_log(o, b, s.clock[b] - p.arrival[row]) * TIME_SCALE, 2.0)
        flat[j + 8] = o.gap[row] if row > first else 0.0
    else:
        flat[i : i + N_REQUEST] = 0.0
        flat[j + 8] = 0.0
    if o.clock[b] != s.clock[b]:
        phase = 2.0 * np.pi * s.clock[b] / DAY_S
        flat[j + 9] = np.sin(phase)
        flat[j + 10] = np.cos(phase)
        o.clock[b] = s.clock[b]
    if len(o.slots) > 0:
        write_slots(p, s, b, o.slots, o.width, N_NODE, flat, j + N_GLOBAL)
    if p.window > 1:
        _write_window(p, s, o, b)


@kernel
def _write_window(p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int) -> None:
    flat = o.flat[b, p.n_nodes * o.width + N_REQUEST + o.n_globals :]
    flat[:] = 0.0
    if s.status[b] != PLAYING:
        return
    for k in range(s.window_size[b]):
        row, i = s.window_rows[b, k], k * N_WINDOW
        if p.arrival[row] > s.clock[b]:
            return
        flat[i] = p.cores[row] / p.node_cores
        flat[i + 1] = p.memory[row] / p.node_memory
        flat[i + 2] = 1.0 if p.double[row] else 0.0
        flat[i + 3] = _time(s.clock[b] - p.arrival[row], 2.0)
        n = 0
        for a in range(p.n_nodes):
            n += fits(p, s, b, row, a)
        flat[i + 4] = n / p.n_nodes
        flat[i + 5] = 1.0 if k == s.window_slot[b] else 0.0


@kernel
def _reward(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    b: int,
    code: int,
    accrued: float,
    kind: int,
    scale: float,
) -> Any:
    """What the action that a code tells of pays; ``accrued`` is the waiting up to it."""
    if code == SKIPPED:
        return 0.0
    if kind == SPANE:
        reward = -_wait_log(o, b, s.last_wait[b])
    elif kind == WAIT:
        reward = -s.last_wait[b] / scale
    elif kind == DELAY:
        reward = -(s.accrued[b] - accrued) / scale
    else:
        reward = 1.0 if code == PLACED else 0.0
    return reward - p.reject_penalty if code == REJECTED else reward


@kernel
def forfeit(p: PlacementParams, s: PlacementState, b: int, kind: int, scale: float) -> Any:
    """What an episode pays, at the least, that ends before all requests of its window are decided.

    With it no such episode earns more than any that is played to its end with legal actions, whatever it has
    earned until then: every request pays as if it had waited until all VMs of the window had run one after
    the other from the last arrival on, which none can exceed (a request waits only while a VM runs that has
    an end, or until the next arrival); with ``placed``, all that could have been earned is lost. Where
    requests may be rejected, the penalty of all of them comes on top.

    Args:
        b: The game.
        kind: Place of the reward in ``REWARDS``.
        scale: T, s.

    Returns:
        A reward of at most 0.
    """
    first, end = s.first[b], s.end[b]
    last_s = p.arrival[end - 1]
    for row in range(first, end):
        if p.lifetime[row] < np.inf:
            last_s += p.lifetime[row]
    lost = 0.0
    for row in range(first, end):
        wait = last_s - p.arrival[row] if p.protocol == HUAWEI else 0.0
        if kind == SPANE:
            lost += np.log1p(wait)
        elif kind in (WAIT, DELAY):
            lost += wait / scale
        else:
            lost += 1.0
        if p.reject_action >= 0:
            lost += p.reject_penalty
    return -lost


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
        o.reward[b] = _reward(p, s, o, b, code, before, kind, scale)
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


def _box(columns: list[Column]) -> spaces.Box:
    low = np.array([column.low for column in columns], dtype=np.float32)
    high = np.array([column.high for column in columns], dtype=np.float32)
    return spaces.Box(low, high)


class PlacementObserver:
    """Observations, masks and rewards of B games, in memory of its own.

    Args:
        games: The games; their state is read.
        observation: One of ``OBSERVATIONS``.
    """

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
        )
        _write_gaps(games.kernel_params, self.buffers.gap)
        self.handle: Any = make_handle("placement buffers", self.buffers)

    @staticmethod
    def space(config: PlacementConfig, observation: str = "basic") -> spaces.Dict:
        """The observation space of one game: a vector per part, ``nodes`` and ``window`` row after row."""
        return spaces.Dict({name: _box(columns) for name, columns in _parts(config, observation).items()})

    @staticmethod
    def flat_space(config: PlacementConfig, observation: str = "basic") -> spaces.Box:
        """The same in one vector: nodes, request, globals, window."""
        return _box([column for columns in _parts(config, observation).values() for column in columns])

    def observe(self, game: int) -> None:
        """Bring the observation and the mask of a game up to date."""
        observe_game(self.games.kernel_params, self.games.kernel_state, self.handle, game)

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
