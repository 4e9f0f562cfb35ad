"""The equivariant network as a kernel: one observation at a time, inside other kernels.

``NumpyNet`` needs a batch to be fast. A policy that is played forward from many states, each to its own end,
has none. Here a decision needs no Python and takes 8 to 10 µs (5 hosts, width 64), where ``NumpyNet`` takes
32 µs for one observation, but 5 µs each in a batch of 64. It is the function of ``NumpyNet`` and of
``networks.EquivariantNet``, equal to 1e-5 but not to the last bit: sums are in another order, so nearly equal
scores may change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.handle import make_handle
from virtgym.envs.sim.kernels import kernel

from .architecture import Architecture

__all__ = ["KernelNet", "make_kernel_net", "net_action", "net_scores"]

F4 = NDArray[np.float32]


class KernelNet(NamedTuple):
    """Weights, input first and split by what they multiply, and room to work in; w is the width.

    The letters are those of ``networks``.
    """

    node: F4  # (columns of a node, w) W₁ on a node's own columns
    sibling: F4  # (columns of a node, w) W₁ on the other node's
    shared: F4  # (columns of request and cluster, w) V
    node_bias: F4  # (w,) b₁
    hidden: F4  # (w, w) W₂
    hidden_bias: F4  # (w,) b₂
    pair: F4  # (w, w) W₃ on a node's own embedding
    pair_sibling: F4  # (w, w) W₃ on the other's
    mean: F4  # (w, w) U on the mean over nodes
    top: F4  # (w, w) U on the maximum
    pair_bias: F4  # (w,) b₃
    score: F4  # (w,) the last layer
    score_bias: F4  # (1,) b₄
    own: F4  # (2N, w) work: sums of the first and third layer
    other: F4  # (2N, w) work: what goes to the sibling
    embedded: F4  # (2N, w) work: e
    rest: F4  # (w,) work: what all nodes share
    out: F4  # (2N,) scores


@kernel(fastmath=True)
def _add(y: F4, x: Any, w: F4) -> None:
    """y += x · w; zeros, which relu and flags make often, cost nothing."""
    if x != 0.0:
        for j in range(len(y)):
            y[j] += x * w[j]


@kernel(fastmath=True)
def _embed(net: KernelNet, flat: F4) -> None:
    """e of every node, from a flat observation."""
    n_nodes, width = len(net.out), len(net.node)
    split = n_nodes * width
    net.rest[:] = net.node_bias
    for f in range(len(net.shared)):
        _add(net.rest, flat[split + f], net.shared[f])
    for a in range(n_nodes):
        net.own[a] = net.rest
        net.other[a] = 0.0
        for f in range(width):
            _add(net.own[a], flat[a * width + f], net.node[f])
            _add(net.other[a], flat[a * width + f], net.sibling[f])
    for a in range(n_nodes):
        net.embedded[a] = net.hidden_bias
        for f in range(len(net.rest)):
            _add(net.embedded[a], max(net.own[a, f] + net.other[a ^ 1, f], np.float32(0.0)), net.hidden[f])
        for f in range(len(net.rest)):
            net.embedded[a, f] = max(net.embedded[a, f], np.float32(0.0))


@kernel(fastmath=True)
def net_scores(net: KernelNet, flat: F4) -> None:
    """Write the score of every node into ``net.out``.

    Args:
        net: The network.
        flat: Flat observation without extra actions and queue window.
    """
    _embed(net, flat)
    n_nodes, w = len(net.out), len(net.rest)
    net.rest[:] = net.pair_bias
    for f in range(w):
        total, top = np.float32(0.0), np.float32(0.0)
        for a in range(n_nodes):
            total += net.embedded[a, f]
            top = max(top, net.embedded[a, f])
        _add(net.rest, total / np.float32(n_nodes), net.mean[f])
        _add(net.rest, top, net.top[f])
    for a in range(n_nodes):
        net.own[a] = net.rest
        net.other[a] = 0.0
        for f in range(w):
            _add(net.own[a], net.embedded[a, f], net.pair[f])
            _add(net.other[a], net.embedded[a, f], net.pair_sibling[f])
    for a in range(n_nodes):
        score = net.score_bias[0]
        for j in range(w):
            score += max(net.own[a, j] + net.other[a ^ 1, j], np.float32(0.0)) * net.score[j]
        net.out[a] = score


@kernel
def net_action(net: KernelNet, flat: F4, mask: NDArray[np.bool_]) -> Any:
    """The legal node with the best score, the lowest of equals; -1 if none is legal."""
    net_scores(net, flat)
    best = -1
    for a in range(len(net.out)):
        if mask[a] and (best < 0 or net.out[a] > net.out[best]):
            best = a
    return best


def make_kernel_net(architecture: Architecture, weights: Mapping[str, NDArray[Any]], n_nodes: int) -> Any:
    """Bring weights into the form of the kernel.

    Args:
        architecture: Kind and sizes.
        weights: Parameters by name, as of ``storage.Member``.
        n_nodes: Nodes of the cluster, 2N.

    Returns:
        A handle of a ``KernelNet``, for kernels.

    Raises:
        ConfigError: If the network is not an equivariant one with relu and without extra actions.
    """
    if architecture.network != "equivariant" or architecture.activation != "relu" or architecture.n_extra:
        raise ConfigError("agent: the kernel knows equivariant networks with relu and no extra actions")
    w, f = architecture.hidden[0], architecture.n_node

    def turned(name: str, start: int = 0, stop: int | None = None) -> F4:
        return np.ascontiguousarray(weights[f"{name}.weight"].T[start:stop], dtype=np.float32)

    def plain(name: str) -> F4:
        return np.array(weights[f"{name}.bias"], dtype=np.float32)

    def work(*shape: int) -> F4:
        return np.zeros(shape, dtype=np.float32)

    net = KernelNet(
        node=turned("node", 0, f), sibling=turned("node", f), shared=turned("shared"),
        node_bias=plain("node"), hidden=turned("hidden"), hidden_bias=plain("hidden"),
        pair=turned("pair", 0, w), pair_sibling=turned("pair", w), mean=turned("context", 0, w),
        top=turned("context", w), pair_bias=plain("pair"), score=turned("score")[:, 0].copy(),
        score_bias=plain("score"), own=work(n_nodes, w), other=work(n_nodes, w), embedded=work(n_nodes, w),
        rest=work(w), out=work(n_nodes),
    )  # fmt: skip
    return make_handle("kernel net", net)
