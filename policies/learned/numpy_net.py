"""The networks of ``networks`` in NumPy: the same function, without PyTorch, fast on a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.errors import ConfigError

from .architecture import Architecture

__all__ = ["NumpyNet", "check_weights"]

F4 = NDArray[np.float32]

BLOCK = 1 << 16
"""Numbers of a layer that are worked on at once, 256 kB: memory of this size is used again; larger arrays
may be fetched anew from the system each time, which costs as much as all the rest."""


def check_weights(architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> dict[str, F4]:
    """Check that weights are those of an architecture.

    Args:
        architecture: Kind and sizes.
        weights: Arrays by name.

    Returns:
        The weights as contiguous float32.

    Raises:
        ConfigError: If one is missing, too much, of another shape or not finite.
    """
    shapes = architecture.shapes()
    if odd := sorted(set(weights) ^ set(shapes)):
        what = "missing" if odd[0] in shapes else "not of this architecture"
        raise ConfigError(f"weights: {odd[0]} is {what}")
    found = {}
    for name, shape in shapes.items():
        array = np.asarray(weights[name])
        if array.shape != shape or array.dtype.kind != "f":
            raise ConfigError(
                f"weights: {name} is {array.dtype}{list(array.shape)}, must be float32{list(shape)}"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"weights: {name} holds values that are not finite")
        found[name] = np.ascontiguousarray(array, dtype=np.float32)
    return found


class NumpyNet:
    """A network that only plays.

    Args:
        architecture: Kind and sizes.
        weights: Its parameters by name.

    Raises:
        ConfigError: If the weights are not those of the architecture.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> None:
        self.architecture = architecture
        self.weights = check_weights(architecture, weights)
        # Transposed once: BLAS then runs over contiguous memory.
        self._t = {name: np.ascontiguousarray(w.T) for name, w in self.weights.items() if w.ndim == 2}

    def _activate(self, x: F4) -> F4:
        if self.architecture.activation == "relu":
            return np.maximum(x, 0.0, out=x)
        return np.tanh(x, out=x)

    def _layer(self, name: str, x: F4) -> F4:
        y: F4 = x @ self._t[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias")
        if bias is not None:
            y += bias
        return y

    def scores(self, nodes: F4, request: F4, globals_: F4) -> F4:
        """One score per action, (B, 2N + extra).

        Args:
            nodes: Columns of the nodes, row after row, (B, 2N · columns).
            request: Columns of the pending request, (B, …).
            globals_: Columns of the cluster, (B, …).
        """
        if self.architecture.network == "mlp":
            return self._climb("policy", nodes, request, globals_)
        a = self.architecture
        n = max(1, BLOCK * a.n_node // (nodes.shape[1] * a.hidden[0]))
        parts = [
            self._score(*self._encode(nodes[i : i + n], request[i : i + n], globals_[i : i + n]))
            for i in range(0, max(1, len(nodes)), n)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def values(self, nodes: F4, request: F4, globals_: F4) -> F4:
        """One value per observation, (B,); arguments as for ``scores``."""
        if self.architecture.network == "mlp":
            return self._climb("value", nodes, request, globals_)[:, 0]
        _, context, rest = self._encode(nodes, request, globals_)
        both = np.concatenate((context, rest), axis=1)
        return self._layer("value", self._activate(self._layer("value_hidden", both)))[:, 0]

    def _climb(self, tower: str, nodes: F4, request: F4, globals_: F4) -> F4:
        x: F4 = np.concatenate((nodes, request, globals_), axis=1)
        n = len(self.architecture.hidden)
        for i in range(n):
            x = self._activate(self._layer(f"{tower}.{i}", x))
        return self._layer(f"{tower}.{n}", x)

    def _encode(self, nodes: F4, request: F4, globals_: F4) -> tuple[F4, F4, F4]:
        b, f, w = len(nodes), self.architecture.n_node, self.architecture.hidden[0]
        rest: F4 = np.concatenate((request, globals_), axis=1)
        x = np.ascontiguousarray(nodes).reshape(-1, f)
        m = len(x) // max(1, b)
        first = self._paired("node", x, b, m)
        first += self._layer("shared", rest)[:, None, :]
        embedded = self._activate(self._layer("hidden", self._activate(first).reshape(b * m, w)))
        embedded = embedded.reshape(b, m, w)
        context: F4 = np.concatenate((embedded.mean(axis=1), embedded.max(axis=1)), axis=1)
        return embedded, context, rest

    def _paired(self, name: str, x: F4, b: int, m: int) -> F4:
        """A layer on [x_a, x_sibling(a)] of (B · 2N, F), as two products: no row is copied; (B, 2N, w)."""
        weight = self._t[f"{name}.weight"]
        own, other = x @ weight[: x.shape[1]], x @ weight[x.shape[1] :]
        shape = (b, m // 2, 2, own.shape[1])
        y: F4 = own.reshape(shape)
        y += other.reshape(shape)[:, :, ::-1]
        y += self.weights[f"{name}.bias"]
        return y.reshape(b, m, -1)

    def _score(self, embedded: F4, context: F4, rest: F4) -> F4:
        b, m, w = embedded.shape
        pair = self._paired("pair", embedded.reshape(b * m, w), b, m)
        pair += self._layer("context", context)[:, None, :]
        scores = self._layer("score", self._activate(pair).reshape(b * m, w)).reshape(b, m)
        if self.architecture.n_extra:
            hidden = self._activate(self._layer("extra_hidden", np.concatenate((context, rest), axis=1)))
            scores = np.concatenate((scores, self._layer("extra", hidden)), axis=1)
        return scores
