"""What a network is, as plain data: its kind, its sizes and the columns that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.buffers import WINDOW_COLUMNS
from virtgym.envs.placement.observations import OBSERVATIONS, observation_columns

NETWORKS: tuple[str, ...] = ("equivariant", "mlp")
"""Kinds of network."""

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
    """The columns of a placement observation, in the order in which they stand.

    Attributes:
        nodes: Columns of a node.
        request: Columns of the pending request.
        globals: Columns of the cluster; with a queue window, followed by its rows as ``window.ROW.COLUMN``.
    """

    nodes: tuple[str, ...]
    request: tuple[str, ...]
    globals: tuple[str, ...]

    @classmethod
    def current(cls, observation: str = "basic", queue_window: int = 1) -> Layout:
        """The columns that this version of the environment writes.

        Args:
            observation: One of ``OBSERVATIONS``, the environment's argument of this name.
            queue_window: ``PlacementConfig.queue_window``.

        Raises:
            ConfigError: If there is no such observation.
        """
        if queue_window > LONGEST_WINDOW:
            raise ConfigError(f"queue_window={queue_window}: networks read at most {LONGEST_WINDOW} requests")
        columns = observation_columns(observation).values()
        nodes, request, rest = (tuple(column.name for column in part) for part in columns)
        for row in range(queue_window if queue_window > 1 else 0):
            rest += tuple(f"window.{row}.{column.name}" for column in WINDOW_COLUMNS)
        return cls(nodes, request, rest)

    @classmethod
    def of_width(cls, n_globals: int) -> Layout:
        """The columns of an observation, told by how many values its cluster part has.

        Args:
            n_globals: Values of ``globals``, and of ``window`` where there is one.

        Raises:
            ConfigError: If this version's environment writes no such observation.
        """
        for observation in OBSERVATIONS:
            n_rows, rest = divmod(n_globals - len(cls.current(observation).globals), len(WINDOW_COLUMNS))
            if rest == 0 and n_rows >= 0 and n_rows != 1:
                return cls.current(observation, n_rows)
        raise ConfigError(
            f"observation with {n_globals} values of the cluster: none of this version has that"
        )

    def observation(self) -> str:
        """The least of ``OBSERVATIONS`` that has all these columns.

        Raises:
            ConfigError: If none has.
        """
        missing = ""
        for observation in OBSERVATIONS:
            there = Layout.current(observation, self._window_rows)
            missing = next(iter(there.lacks(self)), "")
            if not missing:
                return observation
        raise ConfigError(
            f"agent: reads the column {missing}, which this version's environment does not have"
        )

    def lacks(self, other: Layout) -> list[str]:
        """Columns of another layout that this one does not have, ``PART.NAME``."""
        return [
            f"{field.name}.{name}"
            for field in fields(self)
            for name in getattr(other, field.name)
            if name not in getattr(self, field.name)
        ]

    @property
    def _window_rows(self) -> int:
        return len({name.split(".")[1] for name in self.globals if name.startswith("window.")})

    @classmethod
    def from_dict(cls, data: Any) -> Layout:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: If it is something else.
        """
        parts = []
        for field in fields(cls):
            names = data.get(field.name) if isinstance(data, Mapping) else None
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
                raise ConfigError(f"columns.{field.name}: must be a list of column names")
            if len(set(names)) < len(names):
                raise ConfigError(f"columns.{field.name}: a column is named twice")
            parts.append(tuple(names))
        return cls(*parts)

    def to_dict(self) -> dict[str, list[str]]:
        """Plain data."""
        return {name: list(names) for name, names in asdict(self).items()}

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of columns of a node, of the request and of the cluster."""
        return len(self.nodes), len(self.request), len(self.globals)

    def n_nodes(self, width: int) -> int:
        """Number of nodes in a flat observation.

        Args:
            width: Length of the observation.

        Raises:
            ConfigError: If no number of hosts has observations of this length.
        """
        n_node, n_request, n_globals = self.sizes
        n, rest = divmod(width - n_request - n_globals, n_node)
        if rest or n < 2 or n % 2:
            raise ConfigError(
                f"observation of {width} values: must be {n_node} for each of 2N nodes, "
                f"{n_request} and {n_globals}"
            )
        return n


@dataclass(frozen=True)
class Architecture:
    """A network's kind and sizes; with weights it is a network.

    Attributes:
        network: One of ``NETWORKS``.
        n_node: Columns of a node.
        n_request: Columns of the pending request.
        n_globals: Columns of the cluster.
        n_nodes: Nodes of the cluster: fixed for ``mlp``, 0 = any for ``equivariant``.
        n_extra: Actions besides the nodes, like rejection.
        hidden: Widths of hidden layers. ``equivariant`` has two of the same width.
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
        for key, allowed in (("network", NETWORKS), ("activation", ACTIVATIONS)):
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
        if self.network == "equivariant" and (len(self.hidden) != 2 or len(set(self.hidden)) != 1):
            raise ConfigError(
                f"hidden={list(self.hidden)}: an equivariant network has two layers of the same width"
            )
        if self.network == "mlp" and self.n_nodes < 2:
            raise ConfigError("n_nodes: an mlp needs the number of nodes")
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
        return self._equivariant_shapes() if self.network == "equivariant" else self._mlp_shapes()

    def _mlp_shapes(self) -> dict[str, Shape]:
        width = self.n_nodes * self.n_node + self.n_request + self.n_globals
        found: dict[str, Shape] = {}
        for tower, n_out in (("policy", self.n_actions(self.n_nodes)), ("value", 1)):
            sizes = (width, *self.hidden, n_out)
            for i, (n_in, out) in enumerate(pairwise(sizes)):
                found[f"{tower}.{i}.weight"] = (out, n_in)
                found[f"{tower}.{i}.bias"] = (out,)
        return found

    def _equivariant_shapes(self) -> dict[str, Shape]:
        w, rest = self.hidden[0], self.n_request + self.n_globals
        layers = {
            "node": (w, 2 * self.n_node),
            "shared": (w, rest),
            "hidden": (w, w),
            "pair": (w, 2 * w),
            "context": (w, 2 * w),
            "score": (1, w),
            "value_hidden": (w, 2 * w + rest),
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
