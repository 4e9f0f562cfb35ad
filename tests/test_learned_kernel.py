"""The network as a kernel gives the scores of the one in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from virtgym.envs.placement import PlacementTask
from virtgym.envs.placement_observations import OBSERVATIONS
from virtgym.envs.sim.errors import ConfigError
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.kernel_net import make_kernel_net, net_action, net_scores
from virtgym.policies.learned.numpy_net import NumpyNet

F4 = NDArray[np.float32]


def make(observation: str, width: int = 32, seed: int = 0, **fields: Any) -> tuple[Architecture, Any]:
    architecture = Architecture(
        "equivariant", *Layout.current(observation).sizes, hidden=(width, width), **fields
    )
    rng = np.random.default_rng(seed)
    weights = {
        k: rng.normal(0.0, 0.3 / np.sqrt(s[-1] / 16), s).astype(np.float32)
        for k, s in architecture.shapes().items()
    }
    return architecture, weights


@njit
def all_scores(net: Any, flat: F4, out: F4) -> None:
    for b in range(len(flat)):
        net_scores(net, flat[b])
        out[b] = net.out


@njit
def all_actions(net: Any, flat: F4, mask: NDArray[np.bool_], out: NDArray[np.int64]) -> None:
    for b in range(len(flat)):
        out[b] = net_action(net, flat[b], mask[b])


def split(flat: F4, layout: Layout) -> tuple[F4, F4, F4]:
    _, n_request, n_globals = layout.sizes
    nodes, request, rest = np.split(flat, [-n_request - n_globals, -n_globals], axis=1)
    return nodes, request, rest


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize(("n_hosts", "width"), [(1, 64), (2, 16), (5, 64), (9, 7)])
def test_scores_are_those_of_numpy(observation: str, n_hosts: int, width: int) -> None:
    """On random numbers of either sign, and on observations of games."""
    layout = Layout.current(observation)
    architecture, weights = make(observation, width, n_hosts)
    net = make_kernel_net(architecture, weights, 2 * n_hosts)
    task = PlacementTask(config={"n_hosts": n_hosts}, n_games=20, observation=observation)
    rng = np.random.default_rng(1)
    for i in range(20):
        task.begin(i, rng)
    seen = task.observer.buffers.flat
    for flat in (seen, rng.normal(size=seen.shape).astype(np.float32)):
        want = NumpyNet(architecture, weights).scores(*split(flat, layout))
        got = np.empty_like(want)
        all_scores(net, flat, got)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        assert np.ptp(want) > 1e-2  # the scores do differ


def test_the_best_legal_node_is_chosen_and_the_lowest_of_equals() -> None:
    architecture, weights = make("basic")
    rng = np.random.default_rng(2)
    n_node, n_request, n_globals = architecture.n_node, architecture.n_request, architecture.n_globals
    flat = rng.random((50, 6 * n_node + n_request + n_globals), dtype=np.float32)
    mask = rng.random((50, 6)) < 0.4
    mask[7] = False
    got = np.empty(50, dtype=np.int64)
    net = make_kernel_net(architecture, weights, 6)
    all_actions(net, flat, mask, got)
    scores = NumpyNet(architecture, weights).scores(*split(flat, Layout.current()))
    want = np.where(mask, scores, -np.inf).argmax(axis=1)
    assert got[7] == -1
    some = mask.any(axis=1)
    rows = np.flatnonzero(some)
    np.testing.assert_allclose(scores[rows, got[rows]], scores[rows, want[rows]], atol=1e-5)
    assert mask[rows, got[rows]].all()
    alike = np.tile(flat[:1, : 2 * n_node].reshape(2, n_node)[:1].repeat(6, axis=0).reshape(1, -1), (1, 1))
    alike = np.concatenate((alike, flat[:1, 6 * n_node :]), axis=1)
    all_actions(net, alike, np.array([[False, False, True, True, False, True]]), got[:1])
    assert got[0] == 2


def test_other_networks_are_refused() -> None:
    for fields in ({"activation": "tanh"}, {"n_extra": 1}):
        architecture, weights = make("basic", **fields)
        with pytest.raises(ConfigError, match="equivariant networks with relu and no extra actions"):
            make_kernel_net(architecture, weights, 4)
