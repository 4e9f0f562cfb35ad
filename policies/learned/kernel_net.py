"""The networks of ``networks`` as kernels: the one implementation that plays, without PyTorch.

A score is a sum in an order that is written here: not in the order of a BLAS, which depends on the CPU and on
the size of the batch. So a score is the same to the last bit alone, in a batch, inside another kernel, and on
every CPU, and nodes that are alike tie exactly. For this the kernels are compiled without ``fastmath`` and
call no function of a library: only additions, products, quotients and comparisons, which IEEE 754 fixes.

Loops over the outputs of a layer are what the compiler turns into vectors; each output keeps its own order.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel

from ..ties import first_best
from .architecture import ACTIVATIONS, Architecture

RELU, TANH = (ACTIVATIONS.index(name) for name in ("relu", "tanh"))
LINEAR = len(ACTIVATIONS)


class KernelNet(NamedTuple):
    """Weights, input first and split by what they multiply, and room to work in; w is the width.

    The letters are those of ``networks``.
    """

    node: F4  # (columns of a row, w) W₁ on the columns of a node itself, or of a candidate
    sibling: F4  # (columns of a node, w) W₁ on the other node's; (0, w) for candidates
    shared: F4  # (columns of request and cluster, w) V
    node_bias: F4  # (w,) b₁
    hidden: F4  # (w, w) W₂
    hidden_bias: F4  # (w,) b₂
    pair: F4  # (w, w) W₃ on the embedding of a node itself, or of a candidate
    pair_sibling: F4  # (w, w) W₃ on the other's; (0, w) for candidates
    context: F4  # (2w, w) U
    pair_bias: F4  # (w,) b₃
    score: F4  # (w,) the last layer
    score_bias: F4  # (1,) b₄
    extra_context: F4  # (2w, w) the layer before the extra actions, on c; (0, w) if there are none
    extra_shared: F4  # (columns of request and cluster, w) the same, on u; (0, w) if there are none
    extra_hidden_bias: F4  # (w,)
    extra: F4  # (w, extra actions)
    extra_bias: F4  # (extra actions,)
    own: F4  # (rows, w) work: sums of the first and third layer
    other: F4  # (rows, w) work: what goes to the sibling
    embedded: F4  # (rows, w) work: e
    rest: F4  # (w,) work: what all rows share
    c: F4  # (2w,) work: the mean over rows of e, and the maximum
    out: F4  # (rows + extra actions,) scores
    activation: int  # RELU or TANH


@kernel
def _add(y: F4, x: F4, w: F4) -> None:
    """y += x · w, row after row of w; rows of zeros in x, which relu and flags make often, cost nothing.

    Four rows at a time, in the same order as one at a time: y is read and written a quarter as often.
    """
    n, i, j, k = 0, 0, 0, 0
    for f in range(len(x)):
        if x[f] == 0.0:
            continue
        if n == 0:
            i = f
        elif n == 1:
            j = f
        elif n == 2:
            k = f
        else:
            p, q, r, s = x[i], x[j], x[k], x[f]
            for o in range(len(y)):
                y[o] = (((y[o] + p * w[i, o]) + q * w[j, o]) + r * w[k, o]) + s * w[f, o]
            n = -1
        n += 1
    for rest in range(n):
        row = i if rest == 0 else j if rest == 1 else k
        p = x[row]
        for o in range(len(y)):
            y[o] += p * w[row, o]


@kernel
def _activate(y: F4, activation: int) -> None:
    """Apply the function between layers.

    tanh is the quotient of polynomials of Eigen (``generic_fast_tanh_float``, within 1e-6): that of a
    system's library differs by CPU.
    """
    if activation == RELU:
        for o in range(len(y)):
            y[o] = y[o] if y[o] > np.float32(0.0) else np.float32(0.0)
    elif activation == TANH:
        for o in range(len(y)):
            x = min(max(float(y[o]), -7.9), 7.9)
            z = x * x
            top = -2.76076847742355e-16 * z + 2.00018790482477e-13
            top = top * z - 8.60467152213735e-11
            top = top * z + 5.12229709037114e-08
            top = top * z + 1.48572235717979e-05
            top = top * z + 6.37261928875436e-04
            top = top * z + 4.89352455891786e-03
            bottom = (1.19825839466702e-06 * z + 1.18534705686654e-04) * z + 2.26843463243900e-03
            y[o] = x * top / (bottom * z + 4.89352518554385e-03)


@kernel
def _pair_up(net: KernelNet, x: F4, own: F4, other: F4) -> None:
    """Sums of a layer on [x_a, x_sibling(a)] of every node and on what all share, into ``net.own``.

    Args:
        net: The network; ``rest`` holds the bias and what all nodes share.
        x: Rows of the nodes, (2N, F).
        own: Weights on a node's own row, (F, w).
        other: Weights on its sibling's, (F, w).
    """
    for a in range(len(x)):
        net.own[a] = net.rest
        net.other[a] = 0.0
        _add(net.own[a], x[a], own)
        _add(net.other[a], x[a], other)
    for a in range(len(x)):
        for o in range(len(net.rest)):
            net.own[a, o] += net.other[a ^ 1, o]
        _activate(net.own[a], net.activation)


@kernel
def net_scores(net: KernelNet, flat: F4) -> None:
    """Write the score of every action into ``net.out``.

    Args:
        net: The network.
        flat: Flat observation.
    """
    n_nodes, w, width = len(net.own), len(net.rest), len(net.node)
    nodes, shared = flat[: n_nodes * width].reshape(n_nodes, width), flat[n_nodes * width :]
    net.rest[:] = net.node_bias
    _add(net.rest, shared, net.shared)
    _pair_up(net, nodes, net.node, net.sibling)
    total, top = net.c[:w], net.c[w:]
    for a in range(n_nodes):
        net.embedded[a] = net.hidden_bias
        _add(net.embedded[a], net.own[a], net.hidden)
        _activate(net.embedded[a], net.activation)
        for o in range(w):
            total[o] = total[o] + net.embedded[a, o] if a else net.embedded[a, o]
            top[o] = net.embedded[a, o] if a == 0 or net.embedded[a, o] > top[o] else top[o]
    total /= np.float32(n_nodes)
    net.rest[:] = net.pair_bias
    _add(net.rest, net.c, net.context)
    _pair_up(net, net.embedded, net.pair, net.pair_sibling)
    net.out[:n_nodes] = net.score_bias[0]
    for o in range(w):
        for a in range(n_nodes):
            net.out[a] += net.own[a, o] * net.score[o]
    if len(net.out) > n_nodes:
        net.rest[:] = net.extra_hidden_bias
        _add(net.rest, net.c, net.extra_context)
        _add(net.rest, shared, net.extra_shared)
        _activate(net.rest, net.activation)
        net.out[n_nodes:] = net.extra_bias
        _add(net.out[n_nodes:], net.rest, net.extra)


@kernel
def set_scores(net: KernelNet, flat: F4) -> None:
    """Write the score of every candidate into ``net.out``, 0 for padding.

    Args:
        net: A scorer.
        flat: Flat observation.
    """
    n, w, width = len(net.own), len(net.rest), len(net.node)
    rows = flat[: n * width].reshape(n, width)
    net.rest[:] = net.node_bias
    _add(net.rest, flat[n * width :], net.shared)
    total, top = net.c[:w], net.c[w:]
    count = 0
    for k in range(n):
        if not _is_offered(rows[k]):
            continue
        net.own[k] = net.rest
        _add(net.own[k], rows[k], net.node)
        _activate(net.own[k], net.activation)
        net.embedded[k] = net.hidden_bias
        _add(net.embedded[k], net.own[k], net.hidden)
        _activate(net.embedded[k], net.activation)
        for o in range(w):
            total[o] = total[o] + net.embedded[k, o] if count else net.embedded[k, o]
            top[o] = net.embedded[k, o] if count == 0 or net.embedded[k, o] > top[o] else top[o]
        count += 1
    net.out[:] = 0.0
    if count == 0:
        return
    total /= np.float32(count)
    net.rest[:] = net.pair_bias
    _add(net.rest, net.c, net.context)
    for k in range(n):
        if not _is_offered(rows[k]):
            continue
        net.own[k] = net.rest
        _add(net.own[k], net.embedded[k], net.pair)
        _activate(net.own[k], net.activation)
        net.out[k] = net.score_bias[0]
        for o in range(w):
            net.out[k] += net.own[k, o] * net.score[o]


@kernel
def _is_offered(row: F4) -> bool:
    """Whether a row is a candidate: padding is all 0."""
    found = False
    for f in range(len(row)):
        found |= row[f] != 0.0
    return found


@kernel
def net_action(net: KernelNet, flat: F4, mask: NDArray[np.bool_]) -> Any:
    """The legal action with the best score, the lowest of equals; -1 if none is legal."""
    net_scores(net, flat)
    return first_best(net.out, mask)


@kernel
def _score_batch(net: KernelNet, flat: F4, scores: F4) -> None:
    for b in range(len(flat)):
        net_scores(net, flat[b])
        scores[b] = net.out


@kernel
def _score_sets(net: KernelNet, flat: F4, scores: F4) -> None:
    for b in range(len(flat)):
        set_scores(net, flat[b])
        scores[b] = net.out


@kernel
def dense_layer(y: F4, x: F4, w: F4, bias: F4, activation: int) -> None:
    """y = activation(x · w + bias), w with the input first."""
    y[:] = bias
    _add(y, x, w)
    _activate(y, activation)


@kernel
def dense(x: F4, w: F4, bias: F4, activation: int) -> Any:
    """A dense layer on a batch, (B, out)."""
    y = np.empty((len(x), len(bias)), np.float32)
    for b in range(len(x)):
        dense_layer(y[b], x[b], w, bias, activation)
    return y


def turned(weights: Mapping[str, NDArray[Any]], name: str, start: int = 0, stop: int | None = None) -> F4:
    """Weights of a layer with the input first, of some of its inputs."""
    return np.ascontiguousarray(weights[f"{name}.weight"].T[start:stop], dtype=np.float32)


def make_kernel_net(architecture: Architecture, weights: Mapping[str, NDArray[Any]], n_nodes: int) -> Any:
    """Bring the weights of a network on sets into the form of the kernels.

    Args:
        architecture: Kind and sizes.
        weights: Parameters by name, as of ``storage.Member``.
        n_nodes: Nodes of the cluster, 2N; for a ``scorer``, candidates.

    Returns:
        A handle of a ``KernelNet``, for ``net_scores`` and ``net_action``, or ``set_scores`` of a scorer.

    Raises:
        ConfigError: If the network is an mlp.
    """
    if architecture.network == "mlp":
        raise ConfigError("agent: the kernel knows equivariant networks and scorers")
    w, f, extra = architecture.hidden[0], architecture.n_node, architecture.n_extra

    def part(name: str, start: int = 0, stop: int | None = None) -> F4:
        return turned(weights, name, start, stop)

    def plain(name: str) -> F4:
        return np.array(weights[f"{name}.bias"], dtype=np.float32)

    def zeros(*shape: int) -> F4:
        return np.zeros(shape, dtype=np.float32)

    net = KernelNet(
        node=part("node", 0, f), sibling=part("node", f), shared=part("shared"),
        node_bias=plain("node"), hidden=part("hidden"), hidden_bias=plain("hidden"),
        pair=part("pair", 0, w), pair_sibling=part("pair", w), context=part("context"),
        pair_bias=plain("pair"), score=part("score")[:, 0].copy(), score_bias=plain("score"),
        extra_context=part("extra_hidden", 0, 2 * w) if extra else zeros(0, w),
        extra_shared=part("extra_hidden", 2 * w) if extra else zeros(0, w),
        extra_hidden_bias=plain("extra_hidden") if extra else zeros(w),
        extra=part("extra") if extra else zeros(w, 0), extra_bias=plain("extra") if extra else zeros(0),
        own=zeros(n_nodes, w), other=zeros(n_nodes, w), embedded=zeros(n_nodes, w), rest=zeros(w),
        c=zeros(2 * w), out=zeros(architecture.n_actions(n_nodes)),
        activation=ACTIVATIONS.index(architecture.activation),
    )  # fmt: skip
    return make_handle("kernel net", net)


class BatchNet:
    """A network of any kind that plays batches.

    Args:
        architecture: Kind and sizes.
        weights: Its parameters by name, as of ``storage.Member``.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> None:
        self.architecture = architecture
        self._weights = weights
        self._handles: dict[int, Any] = {}
        n = len(architecture.hidden)
        self._layers = [
            (turned(weights, f"policy.{i}"), weights[f"policy.{i}.bias"])
            for i in range(n + 1 if architecture.network == "mlp" else 0)
        ]

    def scores(self, flat: F4) -> F4:
        """One score per action, (B, rows + extra).

        Args:
            flat: Flat observations, (B, …).
        """
        a = self.architecture
        x = np.ascontiguousarray(flat, dtype=np.float32)
        if a.network == "mlp":
            kind = ACTIVATIONS.index(a.activation)
            for (w, bias), left in zip(self._layers, count(len(self._layers) - 1, -1)):
                x = dense(x, w, bias, kind if left else LINEAR)
            return x
        n_nodes = (x.shape[1] - a.n_request - a.n_globals) // a.n_node
        if n_nodes not in self._handles:
            self._handles[n_nodes] = make_kernel_net(a, self._weights, n_nodes)
        scores = np.empty((len(x), a.n_actions(n_nodes)), np.float32)
        play = _score_sets if a.network == "scorer" else _score_batch
        play(self._handles[n_nodes], x, scores)
        return scores
