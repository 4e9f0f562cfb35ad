"""Scorers of candidates: the documented function, the same in kernels and alone, and agents of clusters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.errors import ConfigError
from virtgym.policies.learned.agent import LearnedPolicy, load_policy
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.fallback import Fallback
from virtgym.policies.learned.kernel_net import BatchNet
from virtgym.policies.learned.safety import NEVER
from virtgym.policies.learned.storage import Agent, Member, load_agent, save_agent

LAYOUT = Layout.current("candidates")
N_ROW, _, N_GLOBALS = LAYOUT.sizes
PROTOCOL = {"actions": "candidates"}


def make(seed: int = 0, width: int = 16, network: str = "scorer", **fields: Any) -> Member:
    architecture = Architecture(network, *LAYOUT.sizes, hidden=(width, width), **fields)
    rng = np.random.default_rng(seed)
    weights = {k: rng.normal(0, 0.3, s).astype(np.float32) for k, s in architecture.shapes().items()}
    return Member(architecture, LAYOUT, weights)


def sets(n: int, b: int = 40, seed: int = 1, share: float = 0.4) -> tuple[F4, F4, NDArray[np.bool_]]:
    """Candidates (B, n, columns), globals, and which of them are no padding; the last set is all padding."""
    rng = np.random.default_rng(seed)
    offered = rng.random((b, n)) < share
    offered[:, 0] = True
    offered[-1] = False
    rows = rng.normal(size=(b, n, N_ROW)).astype(np.float32) * offered[:, :, None]
    rows[:, :, LAYOUT.rows.index("offered")] = offered
    return rows, rng.normal(size=(b, N_GLOBALS)).astype(np.float32), offered


def flat(rows: F4, rest: F4) -> F4:
    return np.concatenate((rows.reshape(len(rows), -1), rest), axis=1)


def plain(member: Member, rows: F4, rest: F4, offered: NDArray[np.bool_]) -> tuple[Any, Any]:
    """The formula of ``networks``, in float64, set by set and candidate by candidate."""
    w = {k: v.astype(np.float64) for k, v in member.weights.items()}
    act = np.tanh if member.architecture.activation == "tanh" else lambda x: np.maximum(x, 0.0)
    scores, values = np.zeros(offered.shape), np.zeros(len(rows))
    width = member.architecture.hidden[0]
    for b in range(len(rows)):
        e: dict[int, Any] = {}
        for k in np.flatnonzero(offered[b]).tolist():
            first = act(w["node.weight"] @ rows[b, k] + w["shared.weight"] @ rest[b] + w["node.bias"])
            e[k] = act(w["hidden.weight"] @ first + w["hidden.bias"])
        c = np.zeros(2 * width)
        if e:
            every = np.stack([*e.values()])
            c = np.concatenate((every.mean(axis=0), every.max(axis=0)))
        for k, own in e.items():
            mixed = act(w["pair.weight"] @ own + w["context.weight"] @ c + w["pair.bias"])
            scores[b, k] = w["score.weight"][0] @ mixed + w["score.bias"][0]
        top = np.concatenate((c, e.get(0, np.zeros(width))))
        hidden = act(w["value_hidden.weight"] @ top + w["value_hidden.bias"])
        values[b] = w["value.weight"][0] @ hidden + w["value.bias"][0]
    return scores, values


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("n", "width"), [(1, 8), (7, 64), (33, 16), (64, 7)])
def test_scores_are_the_formula_alone_and_in_a_batch(n: int, width: int, activation: str) -> None:
    member = make(n, width, activation=activation)
    rows, rest, offered = sets(n)
    net = BatchNet(member.architecture, member.weights)
    got = net.scores(flat(rows, rest))
    np.testing.assert_allclose(got, plain(member, rows, rest, offered)[0], rtol=2e-5, atol=2e-5)
    one_by_one = [net.scores(flat(rows, rest)[b : b + 1]) for b in range(len(rows))]
    np.testing.assert_array_equal(np.concatenate(one_by_one), got)
    assert np.ptp(got[:-1][offered[:-1]]) > 1e-2
    assert (got[~offered] == 0.0).all()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_torch_gives_the_same_and_its_value_is_the_formula(activation: str) -> None:
    torch = pytest.importorskip("torch")
    from virtgym.policies.learned.networks import build_network

    member = make(3, 24, activation=activation)
    net = build_network(member.architecture)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in member.weights.items()})
    rows, rest, offered = sets(20)
    scores, values = net(torch.from_numpy(flat(rows, rest)))
    np.testing.assert_allclose(
        scores.detach(), BatchNet(member.architecture, member.weights).scores(flat(rows, rest)), atol=2e-5
    )
    np.testing.assert_allclose(values.detach(), plain(member, rows, rest, offered)[1], atol=2e-5)
    same = torch.from_numpy(flat(rows, rest))
    np.testing.assert_array_equal(net.scores(same).detach(), scores.detach())
    np.testing.assert_array_equal(net.values(same).detach(), values.detach())
    (scores.sum() + values.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_scores_move_with_the_candidates_and_padding_counts_for_nothing() -> None:
    torch = pytest.importorskip("torch")
    from virtgym.policies.learned.networks import build_network

    member = make(2)
    net = BatchNet(member.architecture, member.weights)
    rows, rest, _ = sets(12)
    order = np.random.default_rng(3).permutation(12)
    scores = net.scores(flat(rows, rest))
    np.testing.assert_allclose(net.scores(flat(rows[:, order], rest)), scores[:, order], atol=1e-5)
    wider = np.concatenate((rows, np.zeros((len(rows), 5, N_ROW), np.float32)), axis=1)
    np.testing.assert_array_equal(net.scores(flat(wider, rest))[:, :12], scores)  # to the bit
    built = build_network(member.architecture)
    built.load_state_dict({k: torch.from_numpy(v) for k, v in member.weights.items()})
    order = np.concatenate(([0], 1 + np.random.default_rng(3).permutation(11)))  # nothing stays the first
    a, b = (built.values(torch.from_numpy(flat(x, rest))) for x in (rows, rows[:, order]))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def observation(rows: F4, rest: F4) -> dict[str, F4]:
    return {"candidates": rows.reshape(len(rows), -1), "globals": rest}


def test_a_folder_is_a_policy_of_clusters(tmp_path: Path) -> None:
    protocol = {**PROTOCOL, "max_decisions_per_interval": 2, "candidates": {"on": 1}, "reward": {"x": 1}}
    agent = Agent((make(),), "cluster", protocol)
    folder = save_agent(tmp_path / "a", agent)
    policy = load_policy(folder)
    loaded = load_agent(folder)
    assert (policy.task, policy.observation) == ("cluster", "candidates")
    assert policy.env_options == {k: v for k, v in protocol.items() if k != "reward"}
    assert loaded.members[0].layout == LAYOUT
    for name, array in agent.members[0].weights.items():
        np.testing.assert_array_equal(loaded.members[0].weights[name], array)
    for n in (3, 20, 50):  # any number of candidates
        rows, rest, offered = sets(n)
        rows, rest, offered = rows[:-1], rest[:-1], offered[:-1]
        policy.reset(None, np.random.default_rng(0))
        for deterministic in (True, False):
            actions, _ = policy.predict(observation(rows, rest), None, None, deterministic, offered)
            assert offered[np.arange(len(rows)), actions].all()
        actions, _ = policy.predict(observation(rows, rest))  # the mask is in the observation, too
        np.testing.assert_array_equal(
            actions, policy.predict(observation(rows, rest), action_masks=offered)[0]
        )
        one, _ = policy.predict({"candidates": rows[4], "globals": rest[4]})  # a table, of one cluster
        assert one == actions[4]


def test_an_mlp_plays_as_many_candidates_as_it_was_trained_on() -> None:
    policy = LearnedPolicy(Agent((make(network="mlp", n_nodes=9),), "cluster", PROTOCOL))
    for n in (9, 10):
        rows, rest, offered = sets(n)
        if n == 9:
            assert policy.predict(observation(rows, rest), action_masks=offered)[0].shape == (40,)
            continue
        with pytest.raises(ConfigError, match="an mlp for 9 candidates cannot choose from 10"):
            policy.predict(observation(rows, rest), action_masks=offered)


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        ({}, "protocol.actions=None"),
        ({"actions": "knobs", "knobs_policy": "os.system"}, "protocol.actions=knobs"),
        ({**PROTOCOL, "candidates": {"plans": ["drs", "os.system"]}}, "'os.system' is a path"),
        ({**PROTOCOL, "candidates": {"own": ["evil:Kind"]}}, "'evil:Kind' is a path"),
        ({**PROTOCOL, "candidates": {"plans": ["drs(forecaster=a.B)"]}}, "is a path"),
        ({**PROTOCOL, "candidates": {"plans": ["/tmp/agent"]}}, "is a path"),
        ({**PROTOCOL, "arrival": "my_pkg.rules:Rule"}, "is a path"),
        ({**PROTOCOL, "candidates": {"os.path": 1}}, "is a path"),
    ],
)
def test_an_agent_names_no_code(protocol: dict[str, Any], text: str, tmp_path: Path) -> None:
    """What a stranger's folder says of the environment must not make anything be imported."""
    folder = save_agent(tmp_path / "a", Agent((make(),), "cluster", protocol))
    with pytest.raises(ConfigError, match=text.replace("(", r"\(").replace(")", r"\)")):
        load_policy(folder)


def test_plans_with_numbers_are_names() -> None:
    protocol = {**PROTOCOL, "candidates": {"plans": ["dpm(memory_overcommit=1.15)", "drs(level=4)"]}}
    assert LearnedPolicy(Agent((make(),), "cluster", protocol)).env_options == protocol


def test_columns_of_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="columns are those of an agent for cluster"):
        Agent((make(),))
    folder = save_agent(tmp_path / "a", Agent((make(),), "cluster", PROTOCOL))
    meta = json.loads((folder / "agent.json").read_text())
    meta["task"] = "placement"
    (folder / "agent.json").write_text(json.dumps(meta))
    with pytest.raises(ConfigError, match="columns are those of an agent for cluster"):
        load_policy(folder)
    layout = Layout.current("basic")
    architecture = Architecture("scorer", *layout.sizes, hidden=(4, 4))
    weights = {k: np.zeros(s, np.float32) for k, s in architecture.shapes().items()}
    with pytest.raises(ConfigError, match="nodes, request, globals are not what network=scorer reads"):
        Member(architecture, layout, weights)
    with pytest.raises(ConfigError, match="n_extra=1: a scorer has no actions"):
        Architecture("scorer", 4, 0, 3, n_extra=1)


@pytest.mark.parametrize("scores", ["logits", "values"])
def test_an_agent_says_by_what_it_chose(scores: str) -> None:
    member = replace(make(), scores=scores)
    policy = LearnedPolicy(Agent((member,), protocol=PROTOCOL, task="cluster"))
    with pytest.raises(ConfigError, match="there was none"):
        policy.explain()
    rows, rest, offered = sets(9)
    rows, rest, offered = rows[:-1], rest[:-1], offered[:-1]
    actions, _ = policy.predict({"candidates": rows, "globals": rest})
    measure, values = policy.explain()
    assert measure == ("probability" if scores == "logits" else "value")
    assert values.shape == offered.shape
    np.testing.assert_array_equal(values.argmax(axis=1), actions)
    if scores == "logits":
        np.testing.assert_allclose(values.sum(axis=1), 1.0, rtol=1e-5)
        assert (values[~offered] == 0.0).all()
    else:
        assert np.isneginf(values[~offered]).all()


def test_an_agent_under_a_rule_alone_tells_no_values_of_its_network() -> None:
    agent = Agent((make(),), "cluster", PROTOCOL, fallbacks=(Fallback((), "dpm", NEVER),))
    policy = LearnedPolicy(agent)
    rows, rest, _ = (part[:-1] for part in sets(64))  # places enough for the plan of the rule
    actions, _ = policy.predict({"candidates": rows, "globals": rest})
    measure, values = policy.explain()
    assert measure == "rule"
    np.testing.assert_array_equal(values.argmax(axis=1), actions)
    assert (np.isfinite(values).sum(axis=1) == 1).all()
