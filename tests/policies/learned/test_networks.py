"""Networks: equivariant as promised, the same in kernels as in PyTorch, right on a case worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.games import PlacementConfig
from virtgym.envs.placement.observations import PlacementObserver
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.kernel_net import BatchNet
from virtgym.policies.learned.storage import Member

torch = pytest.importorskip("torch")
from virtgym.policies.learned.networks import build_network, fits_mask  # noqa: E402

SIZES: dict[str, Any] = dict(zip(("n_node", "n_request", "n_globals"), Layout.current().sizes))


def make(network: str, n_hosts: int = 5, seed: int = 0, **fields: Any) -> tuple[Architecture, Any]:
    """A network with all its parameters random, so that no term is hidden by a zero."""
    n_nodes = 2 * n_hosts if network == "mlp" else 0
    architecture = Architecture(network, **SIZES, n_nodes=n_nodes, **fields)
    torch.manual_seed(seed)
    net = build_network(architecture)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 0.3)
    return architecture, net


def batch(n_hosts: int, b: int = 33, seed: int = 1) -> F4:
    width = 2 * n_hosts * SIZES["n_node"] + SIZES["n_request"] + SIZES["n_globals"]
    return np.random.default_rng(seed).random((b, width), dtype=np.float32)


def parts(x: F4) -> tuple[F4, F4, F4]:
    split = x.shape[1] - SIZES["n_request"] - SIZES["n_globals"]
    return x[:, :split], x[:, split : split + SIZES["n_request"]], x[:, split + SIZES["n_request"] :]


def weights(net: Any) -> dict[str, F4]:
    return {name: value.detach().numpy() for name, value in net.state_dict().items()}


def permuted(x: F4, order: NDArray[np.int64]) -> F4:
    nodes, request, rest = parts(x)
    moved = nodes.reshape(len(x), len(order), -1)[:, order].reshape(len(x), -1)
    return np.concatenate((moved, request, rest), axis=1)


@pytest.mark.parametrize("n_extra", [0, 2])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("n_hosts", [1, 2, 5, 9])
def test_scores_move_with_hosts_and_siblings_and_the_value_stays(
    n_hosts: int, activation: str, n_extra: int
) -> None:
    _, net = make("equivariant", activation=activation, n_extra=n_extra)
    x = batch(n_hosts)
    rng = np.random.default_rng(3)
    hosts = rng.permutation(n_hosts)
    siblings = rng.integers(0, 2, n_hosts)  # hosts whose nodes are swapped
    order = np.stack((2 * hosts + siblings, 2 * hosts + 1 - siblings), axis=1).ravel()
    scores, value = net(torch.from_numpy(x))
    moved, same = net(torch.from_numpy(permuted(x, order)))
    m = 2 * n_hosts
    assert scores.shape == (33, m + n_extra)
    torch.testing.assert_close(moved[:, :m], scores[:, order.copy()], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(moved[:, m:], scores[:, m:], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(same, value, atol=2e-5, rtol=1e-5)


def test_nodes_of_different_hosts_cannot_be_exchanged() -> None:
    """The anti-test: who is whose sibling matters."""
    _, net = make("equivariant")
    x = batch(3)
    order = np.array([2, 1, 0, 3, 4, 5])
    scores, _ = net(torch.from_numpy(x))
    moved, _ = net(torch.from_numpy(permuted(x, order)))
    assert float((moved - scores[:, order.copy()]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("n_extra", [0, 1])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("network", ["equivariant", "mlp"])
def test_kernels_equal_torch(network: str, activation: str, n_extra: int) -> None:
    hidden = (64, 64) if network == "equivariant" else (48, 32, 16)
    architecture, net = make(network, activation=activation, n_extra=n_extra, hidden=hidden)
    x = batch(5, b=257)
    got = BatchNet(architecture, weights(net)).scores(x)
    with torch.no_grad():
        scores, values = net(torch.from_numpy(x))
        np.testing.assert_array_equal(net.scores(torch.from_numpy(x)), scores)
        np.testing.assert_array_equal(net.values(torch.from_numpy(x)), values)
    np.testing.assert_allclose(got, scores, atol=1e-5, rtol=1e-5)
    assert got.dtype == np.float32


def test_the_scorer_is_the_formula_that_it_documents() -> None:
    """One observation of two hosts, node by node, straight from the formula."""
    _, net = make("equivariant", activation="tanh")
    x = batch(2, b=1)
    w = weights(net)
    nodes, request, rest = parts(x)
    rows, u = nodes.reshape(4, -1), np.concatenate((request, rest), axis=1)[0]

    def embed(a: int) -> F4:
        pair = np.concatenate((rows[a], rows[a ^ 1]))
        first = np.tanh(w["node.weight"] @ pair + w["shared.weight"] @ u + w["node.bias"])
        return np.asarray(np.tanh(w["hidden.weight"] @ first + w["hidden.bias"]), dtype=np.float32)

    e = np.stack([embed(a) for a in range(4)])
    c = np.concatenate((e.mean(axis=0), e.max(axis=0)))
    want = [
        w["score.weight"][0]
        @ np.tanh(
            w["pair.weight"] @ np.concatenate((e[a], e[a ^ 1])) + w["context.weight"] @ c + w["pair.bias"]
        )
        + w["score.bias"][0]
        for a in range(4)
    ]
    top = np.tanh(w["value_hidden.weight"] @ np.concatenate((c, u)) + w["value_hidden.bias"])
    scores, value = net(torch.from_numpy(x))
    np.testing.assert_allclose(scores.detach()[0], want, atol=1e-5)
    np.testing.assert_allclose(value.detach()[0], w["value.weight"][0] @ top + w["value.bias"][0], atol=1e-5)


def test_the_network_is_as_wide_as_the_observation_space() -> None:
    width = sum(
        int(np.prod(space.shape or (0,))) for space in PlacementObserver.space(PlacementConfig()).values()
    )
    assert batch(5).shape[1] == width
    assert Layout.current().n_rows(width) == 10
    with pytest.raises(ConfigError, match="for each of 2N nodes"):
        Layout.current().n_rows(width + 1)


def test_the_mask_is_read_off_the_observation() -> None:
    layout = Layout.current()
    x = np.zeros((2, batch(5).shape[1]), dtype=np.float32)
    x[0, layout.rows.index("fits") + 3 * SIZES["n_node"]] = 1.0
    want = np.zeros((2, 10), dtype=bool)
    want[0, 3] = True
    np.testing.assert_array_equal(fits_mask(torch.from_numpy(x), layout), want)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"network": "cnn"}, "network=cnn: must be one of equivariant, mlp"),
        ({"activation": "gelu"}, "activation=gelu"),
        ({"hidden": (64, 32)}, "two layers of the same width"),
        ({"hidden": ()}, "must be 1 to 64 widths"),
        ({"hidden": (4000, 4000)}, "numbers; at most 16,777,216"),
        ({"network": "mlp"}, "number of nodes"),
    ],
)
def test_impossible_architectures_are_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Architecture(**{"network": "equivariant", **SIZES, **fields})


def test_weights_of_another_shape_are_refused() -> None:
    architecture, net = make("equivariant")
    good = weights(net)
    for bad, text in (
        ({k: v for k, v in good.items() if k != "node.bias"}, "node.bias is missing"),
        ({**good, "odd": np.zeros(1, np.float32)}, "odd is not of this architecture"),
        ({**good, "score.weight": np.zeros((1, 3), np.float32)}, "score.weight is float32"),
        ({**good, "score.bias": np.full(1, np.nan, np.float32)}, "not finite"),
    ):
        with pytest.raises(ConfigError, match=text):
            Member(architecture, Layout.current(), bad)
