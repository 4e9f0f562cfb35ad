"""What a network is, as plain data: its kind, its sizes and the columns that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from virtgym.envs.cluster.candidates.columns import CANDIDATE_COLUMNS
from virtgym.envs.cluster.candidates.globals import global_columns
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.buffers import WINDOW_COLUMNS
from virtgym.envs.placement.observations import OBSERVATIONS, observation_columns
from virtgym.envs.rescheduling.action_rows import ACTION_COLUMNS, ACTION_GLOBALS

PARTS: dict[str, tuple[str, ...]] = {
    "placement": ("nodes", "request", "globals"),
    "cluster": ("candidates", "globals"),
    "rescheduling": ("actions", "globals"),
    "proposals": ("proposal", "search"),
    "destroy": ("host", "search"),
    "forecast": ("samples", "series"),
}
"""Parts of an observation by task: the rows that a network scores one by one, then what they share; of a
forecaster, which scores nothing, the newest samples and the rest that it reads of a series; of a guide of
annealing features of a proposal and of the search, of a destroy operator those of a host instead."""

LEGAL: dict[str, str] = {"placement": "fits", "cluster": "offered", "rescheduling": "offered"}
"""The column of the rows that says whether a row may be chosen."""

NETWORKS: dict[str, tuple[str, ...]] = {
    "placement": ("equivariant", "mlp"),
    "cluster": ("scorer", "mlp"),
    "rescheduling": ("scorer",),
    "proposals": ("odds",),
    "destroy": ("host_odds",),
    "forecast": ("quantiles",),
}
"""Kinds of network by task."""

TOWERS: dict[str, tuple[str, ...]] = {"odds": ("vm", "place"), "host_odds": ("host",)}
"""Of networks that give chances, what each of their parts gives one of."""

CANDIDATES = "candidates"
"""What an agent of a cluster observes, beside placement's ``OBSERVATIONS``."""

ACTIONS = "actions"
"""What an agent of rescheduling observes."""

PROPOSAL = "proposal"
"""What a guide of annealing reads, see ``rescheduling.guide``."""

HOST = "host"
"""What a learned destroy operator reads, see ``rescheduling.learned_destroy``."""

_SEARCH_COLUMNS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    PROPOSAL: ("proposals", (("cpu", "double", "fragment", "other_fragment"), ("progress",))),
    HOST: (
        "destroy",
        (
            (
                *("load", "load_rank", "memory", "least_fragment", "most_fragment", "free_sizes", "n_vms"),
                *("n_vms_rank", "movable", "up_to_quarter", "up_to_half", "up_to_whole", "larger"),
                *("leaving", "come", "gone", "tried", "gained"),
            ),
            ("moves_left", "step", "share"),
        ),
    ),
}
"""What the networks of searches read, with their tasks."""

SEEN: dict[str, tuple[str, ...]] = {
    "placement": OBSERVATIONS,
    "cluster": (CANDIDATES,),
    "rescheduling": (ACTIONS,),
    "proposals": (PROPOSAL,),
    "destroy": (HOST,),
}
"""What agents may observe, by task."""

ENV_OPTIONS: tuple[str, ...] = (
    *("actions", "candidates", "max_decisions_per_interval", "arrival", "restart"),
)
"""Arguments of ``Cluster-v0`` that an agent is trained with and must be played with."""

ACTIVATIONS: tuple[str, ...] = ("relu", "tanh")
"""Functions between layers."""

Shape = tuple[int, ...]


MOST_WEIGHTS = 1 << 24
"""Most numbers of a network, and of all members of an agent; those that train here have some ten thousand."""

MOST_LAYERS = 64
"""Most hidden layers."""

LONGEST_WINDOW = 1000
"""Most requests of a queue window that a network reads."""


@dataclass(frozen=True)
class Layout:
    """The columns of an observation, in the order in which they stand.

    Attributes:
        task: Kind of environment that is observed.
        columns: Columns of each part of ``PARTS[task]``. The last part describes the cluster; with a queue
            window of requests it is followed by the window's rows as ``window.ROW.COLUMN``.
    """

    task: str
    columns: tuple[tuple[str, ...], ...]

    @classmethod
    def current(cls, observation: str = "basic", queue_window: int = 1) -> Layout:
        """The columns that this version of the environment writes.

        Args:
            observation: One of ``SEEN``.
            queue_window: ``PlacementConfig.queue_window``.

        Raises:
            ConfigError: If there is no such observation.
        """
        if observation in _SEARCH_COLUMNS:
            return cls(*_SEARCH_COLUMNS[observation])
        sets = {
            CANDIDATES: ("cluster", CANDIDATE_COLUMNS, global_columns(True)),
            ACTIONS: ("rescheduling", ACTION_COLUMNS, ACTION_GLOBALS),
        }
        if observation in sets:
            task, *parts = sets[observation]
            return cls(task, tuple(tuple(column.name for column in part) for part in parts))
        if queue_window > LONGEST_WINDOW:
            raise ConfigError(f"queue_window={queue_window}: networks read at most {LONGEST_WINDOW} requests")
        columns = observation_columns(observation).values()
        nodes, request, rest = (tuple(column.name for column in part) for part in columns)
        for row in range(queue_window if queue_window > 1 else 0):
            rest += tuple(f"window.{row}.{column.name}" for column in WINDOW_COLUMNS)
        return cls("placement", (nodes, request, rest))

    @classmethod
    def of_width(cls, n_globals: int) -> Layout:
        """The columns of a placement observation, told by how many values its cluster part has.

        Args:
            n_globals: Values of ``globals``, and of ``window`` where there is one.

        Raises:
            ConfigError: If this version's environment writes no such observation.
        """
        for observation in OBSERVATIONS:
            n_rows, rest = divmod(n_globals - cls.current(observation).sizes[2], len(WINDOW_COLUMNS))
            if rest == 0 and n_rows >= 0 and n_rows != 1:
                return cls.current(observation, n_rows)
        raise ConfigError(
            f"observation with {n_globals} values of the cluster: none of this version has that"
        )

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Columns by part."""
        return dict(zip(PARTS[self.task], self.columns))

    @property
    def rows(self) -> tuple[str, ...]:
        """Columns of what is scored: of a node, or of a candidate."""
        return self.columns[0]

    def observation(self) -> str:
        """The least observation that has all these columns, as ``current`` takes it.

        Raises:
            ConfigError: If none has.
        """
        missing = ""
        for observation in SEEN.get(self.task, ()):
            there = Layout.current(observation, self._window_rows)
            missing = next(iter(there.lacks(self)), "")
            if not missing:
                return observation
        raise ConfigError(
            f"agent: reads the column {missing}, which this version's environment does not have"
        )

    def lacks(self, other: Layout) -> list[str]:
        """Columns of another layout of the same task that this one does not have, ``PART.NAME``."""
        mine = self.parts
        return [f"{part}.{name}" for part in mine for name in other.parts[part] if name not in mine[part]]

    @property
    def _window_rows(self) -> int:
        return len({name.split(".")[1] for name in self.columns[-1] if name.startswith("window.")})

    @classmethod
    def from_dict(cls, data: Any) -> Layout:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: If it is something else.
        """
        given = data if isinstance(data, Mapping) else {}
        task = next((task for task, parts in PARTS.items() if parts[0] in given), "placement")
        columns = []
        for part in PARTS[task]:
            names = data.get(part) if isinstance(data, Mapping) else None
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
                raise ConfigError(f"columns.{part}: must be a list of column names")
            if len(set(names)) < len(names):
                raise ConfigError(f"columns.{part}: a column is named twice")
            columns.append(tuple(names))
        return cls(task, tuple(columns))

    def to_dict(self) -> dict[str, list[str]]:
        """Plain data."""
        return {part: list(names) for part, names in self.parts.items()}

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of columns of a row, of the request (0 without one) and of the cluster."""
        request = self.columns[1] if len(self.columns) > 2 else ()
        return len(self.rows), len(request), len(self.columns[-1])

    def n_rows(self, width: int) -> int:
        """Number of rows in a flat observation: nodes, or candidates.

        Args:
            width: Length of the observation.

        Raises:
            ConfigError: If no number of hosts, or of candidates, has observations of this length.
        """
        n_row, n_request, n_globals = self.sizes
        n, rest = divmod(width - n_request - n_globals, n_row)
        hosts = self.task == "placement"
        if rest or n < 1 + hosts or (hosts and n % 2):
            what = f"each of 2N nodes, {n_request}" if hosts else "each candidate"
            raise ConfigError(f"observation of {width} values: must be {n_row} for {what} and {n_globals}")
        return n


@dataclass(frozen=True)
class Architecture:
    """A network's kind and sizes; with weights it is a network.

    Attributes:
        network: One of those in ``NETWORKS``.
        n_node: Columns of a row that is scored: of a node, or of a candidate.
        n_request: Columns of the pending request.
        n_globals: Columns of the cluster.
        n_nodes: Rows: fixed for ``mlp``, 0 = any for the others.
        n_extra: Actions besides the rows, like rejection; of ``quantiles`` the numbers that it gives.
        hidden: Widths of hidden layers; two of the same width but for ``mlp``.
        activation: One of ``ACTIVATIONS``.
    """

    network: str
    n_node: int
    n_request: int
    n_globals: int
    n_nodes: int = 0
    n_extra: int = 0
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        networks = tuple(dict.fromkeys(name for names in NETWORKS.values() for name in names))
        for key, allowed in (("network", networks), ("activation", ACTIVATIONS)):
            if getattr(self, key) not in allowed:
                raise ConfigError(f"{key}={getattr(self, key)}: must be one of {', '.join(allowed)}")
        whole = all(isinstance(width, int) and 1 <= width <= MOST_WEIGHTS for width in self.hidden)
        if not whole or not 1 <= len(self.hidden) <= MOST_LAYERS:
            shown = list(self.hidden[:MOST_LAYERS])
            raise ConfigError(f"hidden={shown}: must be 1 to {MOST_LAYERS} widths, each 1 to {MOST_WEIGHTS}")
        for key in ("n_node", "n_request", "n_globals", "n_nodes", "n_extra"):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_WEIGHTS:
                raise ConfigError(f"{key}={value}: must be an integer from 0 to {MOST_WEIGHTS}")
        if self.network not in ("mlp", *TOWERS) and (len(self.hidden) != 2 or len(set(self.hidden)) != 1):
            raise ConfigError(
                f"hidden={list(self.hidden)}: network={self.network} has two layers of the same width"
            )
        if self.network == "scorer" and self.n_extra:
            raise ConfigError(f"n_extra={self.n_extra}: a scorer has no actions besides the candidates")
        if self.network in ("quantiles", *TOWERS) and self.activation != "relu":
            raise ConfigError(f"activation={self.activation}: network={self.network} has relu")
        if self.network == "mlp" and self.n_nodes < 2:
            raise ConfigError("n_nodes: an mlp needs the number of nodes or candidates")
        if self.n_weights > MOST_WEIGHTS:
            sizes = f"hidden={list(self.hidden)}, n_nodes={self.n_nodes}, n_extra={self.n_extra}"
            raise ConfigError(
                f"{sizes}: a network of {self.n_weights:.3g} numbers; at most {MOST_WEIGHTS:,} are possible"
            )

    @classmethod
    def from_dict(cls, data: Any) -> Architecture:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: If a key or a value is impossible.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or not {"network", "n_node", "n_request", "n_globals"} <= set(data):
            raise ConfigError("architecture: must be a mapping with network, n_node, n_request and n_globals")
        for key in data:
            if key not in known:
                raise ConfigError(
                    f"architecture.{key}: there is no such key, only {', '.join(sorted(known))}"
                )
        if not isinstance(data.get("hidden", []), list):
            raise ConfigError("architecture.hidden: must be a list of widths")
        return cls(**{**data, "hidden": tuple(data.get("hidden", (64, 64)))})

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @property
    def n_weights(self) -> int:
        """Number of its parameters."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def n_actions(self, n_nodes: int) -> int:
        """Number of actions on a cluster of so many nodes."""
        return n_nodes + self.n_extra

    def shapes(self) -> dict[str, Shape]:
        """The shape of every parameter, by name; weights are (out, in), as in PyTorch."""
        if self.network == "quantiles":
            n_inputs = self.n_node + self.n_globals
            return {"prior": (1,), **self._dense_shapes(n_inputs, {"quantile": self.n_extra})}
        if self.network in TOWERS:
            return self._dense_shapes(self.n_node + self.n_globals, dict.fromkeys(TOWERS[self.network], 1))
        if self.network == "mlp":
            width = self.n_nodes * self.n_node + self.n_request + self.n_globals
            return self._dense_shapes(width, {"policy": self.n_actions(self.n_nodes), "value": 1})
        return self._set_shapes()

    def _dense_shapes(self, width: int, towers: Mapping[str, int]) -> dict[str, Shape]:
        found: dict[str, Shape] = {}
        for tower, n_out in towers.items():
            sizes = (width, *self.hidden, n_out)
            for i, (n_in, out) in enumerate(pairwise(sizes)):
                found[f"{tower}.{i}.weight"] = (out, n_in)
                found[f"{tower}.{i}.bias"] = (out,)
        return found

    def _set_shapes(self) -> dict[str, Shape]:
        """Those of networks on a set of rows: a node is read with its sibling, a candidate by itself."""
        w, rest = self.hidden[0], self.n_request + self.n_globals
        read = 2 if self.network == "equivariant" else 1
        layers = {
            "node": (w, read * self.n_node),
            "shared": (w, rest),
            "hidden": (w, w),
            "pair": (w, read * w),
            "context": (w, 2 * w),
            "score": (1, w),
            "value_hidden": (w, 2 * w + rest if self.network == "equivariant" else 3 * w),
            "value": (1, w),
        }
        if self.n_extra:
            layers |= {"extra_hidden": (w, 2 * w + rest), "extra": (self.n_extra, w)}
        found: dict[str, Shape] = {}
        for name, shape in layers.items():
            found[f"{name}.weight"] = shape
            if name not in ("shared", "context"):  # added to a layer that has one
                found[f"{name}.bias"] = shape[:1]
        return found
