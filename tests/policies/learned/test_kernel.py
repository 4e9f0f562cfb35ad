"""Networks as kernels: the documented function, and the same to the last bit wherever they play."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.env import PlacementTask
from virtgym.envs.placement.observations import OBSERVATIONS
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.kernel_net import BatchNet, make_kernel_net, net_action, net_scores
from virtgym.policies.ties import TIE, choose_first_best


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


def plain_scores(a: Architecture, weights: dict[str, F4], flat: F4) -> NDArray[np.float64]:
    """The formula of ``networks``, in float64."""
    w = {k: v.astype(np.float64) for k, v in weights.items()}
    act = np.tanh if a.activation == "tanh" else lambda x: np.maximum(x, 0.0)
    split = flat.shape[1] - a.n_request - a.n_globals
    x, u = flat[:, :split].reshape(len(flat), -1, a.n_node).astype(np.float64), flat[:, split:]

    def paired(x: Any) -> Any:
        order = np.arange(x.shape[1]) ^ 1
        return np.concatenate((x, x[:, order]), axis=2)

    first = act(paired(x) @ w["node.weight"].T + (u @ w["shared.weight"].T)[:, None] + w["node.bias"])
    e = act(first @ w["hidden.weight"].T + w["hidden.bias"])
    c = np.concatenate((e.mean(axis=1), e.max(axis=1)), axis=1)
    pair = act(paired(e) @ w["pair.weight"].T + (c @ w["context.weight"].T)[:, None] + w["pair.bias"])
    scores = (pair @ w["score.weight"].T + w["score.bias"])[:, :, 0]
    if a.n_extra:
        both = np.concatenate((c, u), axis=1) @ w["extra_hidden.weight"].T + w["extra_hidden.bias"]
        scores = np.concatenate((scores, act(both) @ w["extra.weight"].T + w["extra.bias"]), axis=1)
    return np.asarray(scores)


@pytest.mark.parametrize("fields", [{}, {"activation": "tanh"}, {"n_extra": 2}])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize(("n_hosts", "width"), [(1, 64), (2, 16), (5, 64), (9, 7)])
def test_scores_are_the_formula_and_the_same_alone_and_in_a_batch(
    observation: str, n_hosts: int, width: int, fields: dict[str, Any]
) -> None:
    """On random numbers of either sign and on observations of games; to the last bit between both ways."""
    architecture, weights = make(observation, width, n_hosts, **fields)
    net = make_kernel_net(architecture, weights, 2 * n_hosts)
    batch = BatchNet(architecture, weights)
    task = PlacementTask(PlacementSettings(config={"n_hosts": n_hosts}, observation=observation), 20)
    rng = np.random.default_rng(1)
    for i in range(20):
        task.begin(i, rng)
    seen = task.observer.buffers.flat
    for flat in (seen, rng.normal(size=seen.shape).astype(np.float32)):
        want = plain_scores(architecture, weights, flat)
        got = batch.scores(flat)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        assert np.ptp(want) > 1e-2  # the scores do differ
        inside = np.empty_like(got)
        all_scores(net, flat, inside)
        np.testing.assert_array_equal(inside, got)
        np.testing.assert_array_equal(np.concatenate([batch.scores(flat[b : b + 1]) for b in range(20)]), got)


def test_nodes_that_are_alike_tie_exactly() -> None:
    architecture, weights = make("basic", 64)
    rng = np.random.default_rng(4)
    f, hosts = architecture.n_node, 5
    host = rng.normal(size=(30, 1, 2 * f)).astype(np.float32)
    rest = rng.normal(size=(30, architecture.n_request + architecture.n_globals)).astype(np.float32)
    flat = np.concatenate((np.repeat(host, hosts, axis=1).reshape(30, -1), rest), axis=1)
    scores = BatchNet(architecture, weights).scores(flat).reshape(30, hosts, 2)
    np.testing.assert_array_equal(scores, np.repeat(scores[:, :1], hosts, axis=1))


def test_the_best_legal_node_is_chosen_and_the_lowest_of_equals() -> None:
    architecture, weights = make("basic")
    rng = np.random.default_rng(2)
    width = 6 * architecture.n_node + architecture.n_request + architecture.n_globals
    flat, mask = rng.random((50, width), dtype=np.float32), rng.random((50, 6)) < 0.4
    mask[7] = False
    got = np.empty(50, dtype=np.int64)
    all_actions(make_kernel_net(architecture, weights, 6), flat, mask, got)
    assert got[7] == -1
    got[~mask.any(axis=1)] = 0
    scores = np.where(mask, BatchNet(architecture, weights).scores(flat), -np.inf)
    np.testing.assert_array_equal(got, choose_first_best(scores, mask))
    some = mask.any(axis=1)
    best = scores.max(axis=1)
    assert (scores[some, got[some]] >= best[some] - TIE * np.maximum(1.0, np.abs(best[some]))).all()


@pytest.mark.parametrize("scale", [1.0, -1.0, 1000.0])
def test_rounding_does_not_decide_between_equals(scale: float) -> None:
    """Whatever rounding does to equal scores, the lowest legal index wins; what differs is told apart."""
    rng = np.random.default_rng(3)
    true = scale * rng.choice([1.0, 1.5, 2.0], (500, 8))
    mask = rng.random((500, 8)) < 0.7
    mask[:, 5] = True
    want = np.where(mask, true, -np.inf).argmax(axis=1)
    rounded = (true * (1.0 + rng.uniform(-3e-7, 3e-7, true.shape))).astype(np.float32)
    np.testing.assert_array_equal(choose_first_best(rounded, mask), want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_still_give_a_legal_action(bad: float) -> None:
    scores, mask = np.full((1, 4), bad, np.float32), np.array([[False, True, False, True]])
    assert choose_first_best(scores, mask)[0] == 1
    assert choose_first_best(scores, ~mask & False)[0] == 0


@functools.cache
def digest() -> str:
    """Of scores and actions of every kind of network, by themselves and as an ensemble."""
    from virtgym.policies.learned.agent import LearnedPolicy
    from virtgym.policies.learned.storage import Agent, Member

    layout = Layout.current("basic")
    rng = np.random.default_rng(5)
    whole, members = hashlib.sha256(), []
    for kind in ("equivariant", "mlp"):
        for activation in ("relu", "tanh"):
            for extra in (0, 1):
                a = Architecture(kind, *layout.sizes, 10 if kind == "mlp" else 0, extra, (48, 48), activation)
                weights = {k: rng.normal(0, 0.2, s).astype(np.float32) for k, s in a.shapes().items()}
                members.append(Member(a, layout, weights))
    n_node, n_request, n_globals = layout.sizes
    sizes = {"nodes": 10 * n_node, "request": n_request, "globals": n_globals}
    for group in ([m] for m in members), (members[0::2], members[1::2]):
        for part in group:
            policy = LearnedPolicy(Agent(tuple(part)))
            extra = part[0].architecture.n_extra
            for b in (1, 3, 64):
                seen = {k: rng.normal(size=(b, n)).astype(np.float32) for k, n in sizes.items()}
                mask = rng.random((b, 10 + extra)) < 0.6
                whole.update(policy.scores([*seen.values()], mask).tobytes())
                whole.update(policy.predict(seen, action_masks=mask)[0].tobytes())
    return whole.hexdigest()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names kernels and CPUs of x86-64")
@pytest.mark.parametrize(
    ("blas", "compiler"), [("Haswell", None), ("Prescott", None), (None, "nehalem"), (None, "haswell")]
)
def test_scores_are_the_same_on_every_cpu(blas: str | None, compiler: str | None) -> None:
    """To the last bit, in a process that takes its BLAS or its compiler's instructions from another CPU."""
    code = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('kernels', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.digest())"
    )
    env = {**os.environ}
    env |= (
        {"OPENBLAS_CORETYPE": blas} if blas else {"NUMBA_CPU_NAME": str(compiler), "NUMBA_CPU_FEATURES": ""}
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if compiler == "haswell" and done.returncode < 0:
        pytest.skip("this CPU lacks Haswell's instructions")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest()


def test_other_networks_are_refused() -> None:
    architecture = Architecture("mlp", *Layout.current().sizes, n_nodes=4)
    with pytest.raises(ConfigError, match="equivariant networks"):
        make_kernel_net(architecture, {}, 4)
