"""Placement games on a stream of requests: configuration, checks of the input, and B games in arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import F8, I8
from ..checks import need, need_choice, need_index, need_indices, need_memory, whole_number
from ..errors import ConfigError, TraceError
from ..jit.handle import make_handle
from .game import begin_games, step_game, window_lengths, write_mask
from .state import FINISHED, PLAYING, PROTOCOLS, PlacementParams, PlacementState

GRID = 2.0**16
"""Sizes are rounded to 1 / GRID cores and GiB: sums of them are then exact, whatever their order."""


class RequestArrays(Protocol):
    """A stream of requests, one entry per VM in order of arrival; ``traces.requests`` reads such streams."""

    @property
    def cores(self) -> F8:
        """(R,) cores."""

    @property
    def memory_gib(self) -> F8:
        """(R,) memory, GiB."""

    @property
    def arrival_s(self) -> F8:
        """(R,) arrival, s, not decreasing."""

    @property
    def lifetime_s(self) -> F8:
        """(R,) lifetime from placement to end, s."""


@dataclass(frozen=True)
class PlacementConfig:
    """Cluster and protocol of a placement game; the defaults are those of SPANE.

    Attributes:
        protocol: One of ``PROTOCOLS``.
        n_hosts: Hosts N, all alike, with two NUMA nodes each.
        node_cores: Cores of a node.
        node_memory_gib: Memory of a node, GiB.
        double_above_gib: A VM with more memory takes half of itself on each node of one host, GiB.
        extra_requests: Requests of a window after those that first fit places without a stop
            (``huawei_placement``).
        max_requests: Longest survival game, 0 = to the end of the stream.
        cpu_overcommit: Virtual cores that a core is sold as, at least 1; a node has ``node_cores`` times as
            many to give.
        allow_reject: Whether the action 2N rejects the pending request. No game is stuck then: in survival
            games a request that fits nowhere must be rejected, and does not end the game.
        reject_penalty: Subtracted from the reward of a rejection.
        queue_window: How many requests at the head of the queue may be placed next (``huawei_placement``);
            1 = strict FIFO. With more, the last action skips to the next of them that fits.
    """

    protocol: str = "huawei_placement"
    n_hosts: int = 5
    node_cores: float = 40.0
    node_memory_gib: float = 90.0
    double_above_gib: float = 10.0
    extra_requests: int = 40
    max_requests: int = 0
    cpu_overcommit: float = 1.0
    allow_reject: bool = False
    reject_penalty: float = 1.0
    queue_window: int = 1

    def __post_init__(self) -> None:
        need_choice("placement", "protocol", self.protocol, PROTOCOLS)
        whole = (("n_hosts", 1), ("extra_requests", 0), ("max_requests", 0), ("queue_window", 1))
        for name, least in (*whole, ("cpu_overcommit", 1), ("reject_penalty", 0)):
            need(
                least <= getattr(self, name) < np.inf,
                f"placement.{name}={getattr(self, name)}: must be at least {least}",
            )
        for name in ("node_cores", "node_memory_gib"):
            need(
                0.0 < getattr(self, name) < np.inf,
                f"placement.{name}={getattr(self, name)}: must be positive",
            )
        need(
            self.double_above_gib >= 0.0,
            f"placement.double_above_gib={self.double_above_gib}: must be at least 0",
        )
        if self.queue_window > 1 and self.protocol != "huawei_placement":
            raise ConfigError(
                f"placement.queue_window={self.queue_window}: must be 1 with protocol={self.protocol}, "
                "where no request waits"
            )

    @property
    def cores_to_give(self) -> float:
        """Virtual cores of a node, rounded down to 1 / GRID where the ratio is not 1."""
        if self.cpu_overcommit == 1.0:
            return float(self.node_cores)
        return float(np.floor(self.node_cores * self.cpu_overcommit * GRID)) / GRID

    @property
    def n_actions(self) -> int:
        """Actions: 2N nodes, and those that the options add."""
        return 2 * self.n_hosts + int(self.allow_reject) + int(self.queue_window > 1)


def _make_params(requests: RequestArrays, config: PlacementConfig) -> PlacementParams:
    """Check the requests against the cluster and bring them into the form of the kernels."""
    columns = [
        np.array(getattr(requests, name), dtype=np.float64)
        for name in ("cores", "memory_gib", "arrival_s", "lifetime_s")
    ]
    cores, memory, arrival, lifetime = columns
    source = getattr(requests, "source", "requests")
    n = len(cores)
    if n == 0 or any(column.shape != (n,) for column in columns):
        raise TraceError("requests: need at least one request, and one value of each kind per request")
    bad = ~(np.isfinite([cores, memory, arrival]).all(0) & (cores > 0) & (memory >= 0) & (lifetime >= 0))
    bad[1:] |= np.diff(arrival) < 0
    if bad.any():
        raise TraceError(
            f"{source}: row {int(np.argmax(bad))}: cores must be positive, memory and lifetime at least 0, "
            "arrivals must not decrease"
        )
    double = memory > config.double_above_gib
    cores, memory = _on_node(cores, memory, config)
    fits = _fits_node(cores, memory, config)
    if not fits.all():
        row = int(np.argmin(fits))
        raise TraceError(
            f"{source}: row {row}: {columns[0][row]:g} cores and {columns[1][row]:g} GiB fit on no empty host"
        )
    n_nodes, n_actions = 2 * config.n_hosts, config.n_actions
    return PlacementParams(
        cores, memory, double, arrival, lifetime, n_nodes, n,
        config.cores_to_give, float(config.node_memory_gib), PROTOCOLS.index(config.protocol),
        n_actions, n_nodes if config.allow_reject else -1, n_actions - 1 if config.queue_window > 1 else -1,
        float(config.reject_penalty), int(config.queue_window),
    )  # fmt: skip


def _on_node(cores: F8, memory_gib: F8, config: PlacementConfig) -> tuple[F8, F8]:
    """What requests take of each node that they stand on, (R,) cores and GiB."""
    share = np.where(memory_gib > config.double_above_gib, 0.5, 1.0)
    cores, memory = (np.round(size * share * GRID) / GRID for size in (cores, memory_gib))
    return np.maximum(cores, 1.0 / GRID), memory


def _fits_node(cores: F8, memory_gib: F8, config: PlacementConfig) -> NDArray[np.bool_]:
    return (cores <= config.cores_to_give) & (memory_gib <= config.node_memory_gib)


def fits_empty_host(requests: RequestArrays, config: PlacementConfig) -> NDArray[np.bool_]:
    """Whether each request fits on a host that is empty, shape (R,)."""
    return _fits_node(*_on_node(requests.cores, requests.memory_gib, config), config)


def _make_state(p: PlacementParams, n_games: int) -> PlacementState:
    most = min(p.n_requests, p.n_nodes * int(p.node_cores / p.cores.min()))
    wide, deep = (n_games, p.n_nodes), (n_games, most)
    need_memory(f"placement: {n_games} games on {p.n_nodes // 2} hosts", n_games, 64 * p.n_nodes + 16 * most)
    shapes = {"free_cores": wide, "free_memory": wide, "n_vms": wide, "start_sum": wide}
    shapes |= {"heap_time": deep, "heap_item": deep, "window_rows": (n_games, p.window)}
    real = {"free_cores", "free_memory", "start_sum", "clock", "wait", "last_wait", "accrued"}
    real |= {"queue_cores", "queue_memory", "queue_arrival", "heap_time"}
    arrays: dict[str, Any] = {
        name: np.zeros(shapes.get(name, (n_games,)), np.float64 if name in real else np.int64)
        for name in PlacementState._fields
    }
    return PlacementState(**arrays)


class PlacementGames:
    """B placement games on one stream of requests.

    Args:
        requests: The stream, R requests.
        config: Cluster and protocol.
        n_games: B.

    Raises:
        TraceError: If the stream is malformed or a request fits on no empty host.
    """

    def __init__(
        self, requests: RequestArrays, config: PlacementConfig | None = None, n_games: int = 1
    ) -> None:
        if (whole_number(n_games) or 0) < 1:
            raise ConfigError(f"placement.n_games={n_games}: must be at least 1")
        self.config = PlacementConfig() if config is None else config
        self._bind(_make_params(requests, self.config), None, n_games)

    def _bind(self, params: PlacementParams, state: PlacementState | None, n_games: int) -> None:
        self.params = params
        self.state = _make_state(params, n_games) if state is None else state
        self.n_games = n_games
        self.kernel_params: Any = make_handle("placement params", params, readonly=True)
        self.kernel_state: Any = make_handle("placement state", self.state)
        if state is None:
            self.state.status[:] = FINISHED
        self.spare: Any = make_handle("placement state", _make_state(params, 1))

    def window_lengths(self, firsts: ArrayLike) -> I8:
        """Requests of the windows that begin at these rows, (n,), the same for every policy.

        In the survival games a window is ``max_requests`` long. No window leaves the stream.
        """
        rows = self.check_rows(firsts)
        out = np.empty(len(rows), dtype=np.int64)
        if self.config.protocol == "huawei_placement":
            window_lengths(self.kernel_params, self.spare, rows, self.config.extra_requests, out)
            return out
        out[:] = self.params.n_requests - rows
        return np.minimum(out, self.config.max_requests) if self.config.max_requests else out

    def check_rows(self, firsts: ArrayLike) -> I8:
        """Row numbers of windows as an array, (n,), or a ``ConfigError``."""
        given = np.atleast_1d(np.asarray(firsts))
        n = self.params.n_requests
        # Compared before they are converted: a float beyond int64, or NaN, would become some other number.
        known = given.ndim == 1 and (given.dtype.kind in "iuf" or given.size == 0)
        if known and bool(((given >= 0) & (given < n) & (given == np.floor(given))).all()):
            return np.ascontiguousarray(given, dtype=np.int64)
        raise ConfigError(f"placement.windows: must be whole row numbers from 0 to {n - 1}")

    def begin(self, games: ArrayLike, firsts: ArrayLike, lengths: ArrayLike | None = None) -> None:
        """Begin a window in each of some games.

        Args:
            games: Which games, (n,).
            firsts: Row of the first request of each, (n,).
            lengths: Requests of each window, (n,); None = by ``window_lengths``.
        """
        rows = self.check_rows(firsts)
        n_vm = self.window_lengths(rows) if lengths is None else np.asarray(lengths, dtype=np.int64)
        which = need_indices("placement", "game", np.atleast_1d(np.asarray(games)), self.n_games)
        ends = np.minimum(rows + n_vm, self.params.n_requests)
        if not len(which) == len(rows) == len(ends):
            raise ConfigError("placement.games: must be one per window")
        begin_games(self.kernel_params, self.kernel_state, which.astype(np.int64), rows, ends)

    def mask(self, game: int = 0) -> NDArray[np.bool_]:
        """Which actions are legal in a game, (actions,): which nodes can take the pending request."""
        need_index("placement", "game", game, self.n_games)
        mask = np.empty(self.params.n_actions, dtype=np.bool_)
        write_mask(self.kernel_params, self.kernel_state, game, mask)
        return mask

    def step(self, action: int, game: int = 0) -> int:
        """Carry out an action; returns 0, or the code of ``step_game`` for what else came of it."""
        need_index("placement", "game", game, self.n_games)
        if self.state.status[game] != PLAYING:
            raise ConfigError(f"placement game {game} is over (or has not begun)")
        return int(step_game(self.kernel_params, self.kernel_state, game, action))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        return {"config": self.config, "params": tuple(self.params), "state": tuple(self.state)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handles."""
        self.config = saved["config"]
        state = PlacementState(*saved["state"])
        self._bind(PlacementParams(*saved["params"]), state, len(state.clock))
