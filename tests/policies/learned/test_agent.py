"""An agent's folder: what is saved is what is loaded, nothing foreign is run or played."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import virtgym.policies.learned.architecture as architecture_module
from virtgym.envs.errors import ConfigError
from virtgym.envs.observation_columns import Column
from virtgym.envs.placement.env import PlacementTask
from virtgym.envs.placement.observations import OBSERVATIONS, observation_columns
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.policies import make_policy
from virtgym.policies.base import Policy
from virtgym.policies.learned import merge_agents
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.architecture import PARTS, Architecture, Layout
from virtgym.policies.learned.storage import Agent, Member, load_agent, save_agent


def member(
    seed: int = 0,
    network: str = "equivariant",
    scores: str = "logits",
    observation: str = "basic",
    **fields: Any,
) -> Member:
    """A network with random weights; no PyTorch is needed for one."""
    fields = {"n_nodes": 10 if network == "mlp" else 0, **fields}
    layout = Layout.current(observation)
    architecture = Architecture(network, *layout.sizes, hidden=(8, 8), **fields)
    rng = np.random.default_rng(seed)
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in architecture.shapes().items()}
    return Member(architecture, layout, weights, scores)


def scores_of(policy: LearnedPolicy, seen: dict[str, Any], mask: Any) -> Any:
    return policy.scores([seen[part] for part in PARTS["placement"]], mask)


def assert_same_odds(got: Any, want: Any, mask: Any) -> None:
    """Scores that say the same: equal but for a number that all actions of a game share."""
    for g, w, legal in zip(got, want, mask):
        np.testing.assert_allclose(g[legal] - g[legal].mean(), w[legal] - w[legal].mean(), atol=2e-5)


def observe(
    n_hosts: int = 5, n_games: int = 6, observation: str = "basic"
) -> tuple[PlacementTask, dict[str, Any], Any]:
    task = PlacementTask(PlacementSettings(config={"n_hosts": n_hosts}, observation=observation), n_games)
    for i in range(n_games):
        task.begin(i, np.random.default_rng(i))
    return task, task.observer.copy_all(), task.observer.buffers.mask.copy()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    agent = Agent((member(),), protocol={"n_hosts": 5}, training={"seed": 3}, versions={"virtgym": "1"})
    loaded = load_agent(save_agent(tmp_path / "a", agent))
    assert loaded.members[0].architecture == agent.members[0].architecture
    assert loaded.members[0].layout == Layout.current()
    for name, array in agent.members[0].weights.items():
        np.testing.assert_array_equal(loaded.members[0].weights[name], array)
    assert (loaded.protocol, loaded.training, loaded.versions) == (
        agent.protocol,
        agent.training,
        agent.versions,
    )
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["agent.json", "weights.npz"]


def test_a_folder_is_a_policy_and_plays_legally(tmp_path: Path) -> None:
    save_agent(tmp_path / "a", Agent((member(),)))
    policy = make_policy(str(tmp_path / "a"))
    assert isinstance(policy, LearnedPolicy)
    assert isinstance(policy, Policy)
    assert policy.task == "placement"
    task, observation, mask = observe()
    policy.reset(task.games, np.random.default_rng(0))
    for deterministic in (True, False):
        actions, _ = policy.predict(observation, deterministic=deterministic, action_masks=mask)
        assert actions.shape == (6,)
        assert mask[np.arange(6), actions].all()
    by_itself, _ = policy.predict(observation)  # the mask is in the observation, too
    np.testing.assert_array_equal(by_itself, policy.predict(observation, action_masks=mask)[0])
    one, _ = policy.predict({key: value[2] for key, value in observation.items()})
    assert one == by_itself[2]


def test_loading_an_agent_needs_no_torch(tmp_path: Path) -> None:
    save_agent(tmp_path / "a", Agent((member(),)))
    code = (
        "import sys; from virtgym.policies import make_policy\n"
        f"make_policy({str(tmp_path / 'a')!r})\n"
        "assert not {'torch', 'stable_baselines3', 'sb3_contrib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawn_actions_follow_the_probabilities() -> None:
    """Frequencies of a stochastic policy against its softmax, over 4,000 copies of one state."""
    policy = LearnedPolicy(Agent((member(4),)))
    _, observation, mask = observe(n_games=1)
    n = 4000
    many = {key: np.repeat(value, n, axis=0) for key, value in observation.items()}
    policy.reset(None, np.random.default_rng(5))
    actions, _ = policy.predict(many, deterministic=False, action_masks=np.repeat(mask, n, axis=0))
    scores = scores_of(policy, observation, mask)[0]
    odds = np.exp(scores - scores.max())
    want = odds / odds.sum()
    got = np.bincount(actions, minlength=10) / n
    assert np.abs(got - want).max() < 4.0 * np.sqrt(0.25 / n)
    assert got[~mask[0]].sum() == 0.0


def test_an_equivariant_agent_plays_on_any_cluster_and_an_mlp_says_why_not() -> None:
    policy = LearnedPolicy(Agent((member(),)))
    for n_hosts in (2, 9):
        _, observation, mask = observe(n_hosts)
        actions, _ = policy.predict(observation, action_masks=mask)
        assert mask[np.arange(6), actions].all()
    _, observation, mask = observe(4)
    with pytest.raises(ConfigError, match="an mlp for 5 hosts cannot play on 4"):
        LearnedPolicy(Agent((member(network="mlp"),))).predict(observation, action_masks=mask)


def test_columns_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent saved before columns were added, or moved, sees the same as before."""
    old = member()
    _, observation, mask = observe()
    before = scores_of(LearnedPolicy(Agent((old,))), observation, mask)

    def wider_columns(kind: str = "basic") -> dict[str, Any]:
        columns = observation_columns(kind)
        return {**columns, "nodes": (Column("new", 1, "added later"), *columns["nodes"])}

    def fewer_columns(kind: str = "basic") -> dict[str, Any]:
        columns = observation_columns(kind)
        return {**columns, "nodes": columns["nodes"][1:]}

    monkeypatch.setattr(architecture_module, "observation_columns", wider_columns)
    nodes = observation["nodes"].reshape(6, 10, -1)
    wider = np.concatenate((np.full((6, 10, 1), 9.0, np.float32), nodes), axis=2).reshape(6, -1)
    after = scores_of(LearnedPolicy(Agent((old,))), {**observation, "nodes": wider}, mask)
    np.testing.assert_array_equal(before, after)
    monkeypatch.setattr(architecture_module, "observation_columns", fewer_columns)
    with pytest.raises(ConfigError, match=r"reads the column nodes\.free_cores"):
        LearnedPolicy(Agent((old,)))


def test_an_agent_says_what_it_observes_and_picks_it_out_of_more() -> None:
    """A basic agent sees the same in either observation; one that reads slots cannot do without."""
    basic, slots = LearnedPolicy(Agent((member(),))), LearnedPolicy(Agent((member(observation="slots"),)))
    assert (basic.observation, slots.observation) == OBSERVATIONS
    seen = [observe(observation=policy.observation) for policy in (basic, slots)]
    np.testing.assert_array_equal(*(scores_of(basic, *one[1:]) for one in seen))
    np.testing.assert_array_equal(basic.predict(seen[0][1])[0], basic.predict(seen[1][1])[0])
    assert np.isfinite(scores_of(slots, *seen[1][1:])[seen[1][2]]).all()
    hint = "reads the column nodes.empty, which was not observed; make the environment with observation=slots"
    with pytest.raises(ConfigError, match=hint):
        slots.predict(seen[0][1])


def test_members_with_different_columns_make_an_ensemble(tmp_path: Path) -> None:
    members = (member(0), member(1, observation="slots"))
    for i, one in enumerate(members):
        save_agent(tmp_path / str(i), Agent((one,)))
    both = LearnedPolicy(merge_agents([tmp_path / "0", tmp_path / "1"], tmp_path / "both"))
    assert both.observation == "slots"
    assert make_policy(str(tmp_path / "both")).observation == "slots"  # type: ignore[attr-defined]
    _, observation, mask = observe(observation="slots")
    logs = []
    for one in members:
        raw = scores_of(LearnedPolicy(Agent((one,))), observation, mask).astype(np.float64)
        logs.append(raw - np.log(np.exp(raw).sum(axis=1, keepdims=True)))
    assert_same_odds(scores_of(both, observation, mask), sum(logs) / 2, mask)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_layout_is_told_by_the_width_of_the_cluster(kind: str) -> None:
    for rows in (1, 2, 3, 4, 7):
        layout = Layout.current(kind, rows)
        assert Layout.of_width(layout.sizes[2]) == layout
        assert layout.observation() == kind
    with pytest.raises(ConfigError, match="12 values of the cluster"):
        Layout.of_width(12)


def test_an_ensemble_averages_log_probabilities(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_agent(tmp_path / str(seed), Agent((member(seed),), training={"seed": seed}))
    merged = merge_agents([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    assert [t["seed"] for t in load_agent(tmp_path / "both").training["ensemble_of"]] == [0, 1]
    _, observation, mask = observe()
    logs = []
    for seed in (0, 1):
        raw = scores_of(LearnedPolicy(load_agent(tmp_path / str(seed))), observation, mask).astype(np.float64)
        logs.append(raw - np.log(np.exp(raw).sum(axis=1, keepdims=True)))
    got = scores_of(LearnedPolicy(merged), observation, mask)
    assert_same_odds(got, sum(logs) / 2, mask)
    assert np.isneginf(got[~mask]).all()


def test_what_makes_no_ensemble_is_refused() -> None:
    with pytest.raises(ConfigError, match="scores must be the same"):
        Agent((member(), member(scores="values")))
    with pytest.raises(ConfigError, match="n_extra must be the same"):
        Agent((member(), member(n_extra=1)))
    with pytest.raises(ConfigError, match="at least one"):
        Agent(())


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder, mark = save_agent(tmp_path / "a", Agent((member(),))), tmp_path / "mark"
    meta = json.loads((folder / "agent.json").read_text())
    inside = io.BytesIO()
    evil: dict[str, Any] = {"0/node.bias": np.array([Bomb(mark)], dtype=object)}
    np.savez(inside, **evil)
    for data in (pickle.dumps(Bomb(mark)), inside.getvalue()):
        pickle.loads(pickle.dumps(Bomb(mark)))  # the bomb does work
        mark.unlink()
        (folder / "weights.npz").write_bytes(data)
        # the attacker gets the checksum right
        meta["weights_sha256"] = hashlib.sha256(data).hexdigest()
        (folder / "agent.json").write_text(json.dumps(meta))
        with pytest.raises(ConfigError, match="not an archive of plain arrays"):
            load_agent(folder)
        assert not mark.exists()


def break_json(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps({**meta, **changes}))


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda f: (f / "agent.json").unlink(), "agent.json: no such file"),
        (lambda f: (f / "weights.npz").unlink(), "weights.npz: no such file, but agent.json"),
        (lambda f: (f / "agent.json").write_text("{"), "agent.json: not JSON"),
        (lambda f: (f / "agent.json").write_text("[]"), "not an agent of virtgym"),
        (lambda f: (f / "agent.json").write_bytes(b"\xff\xfe"), "agent.json: not JSON"),
        (lambda f: (f / "weights.npz").write_bytes(b"PK"), "weights.npz: damaged"),
        (lambda f: break_json(f, format_version=99), "format_version 99"),
        (lambda f: break_json(f, members=[]), "members: an agent needs at least one"),
        (lambda f: break_json(f, members=3), "members: must be a list"),
        (lambda f: break_json(f, members=[{}]), "architecture: must be a mapping"),
        (lambda f: break_json(f, protocol=[]), "protocol: must be a mapping"),
    ],
)
def test_damaged_folders_are_one_clear_line(tmp_path: Path, harm: Any, text: str) -> None:
    folder = save_agent(tmp_path / "a", Agent((member(),)))
    harm(folder)
    with pytest.raises(ConfigError, match=text) as caught:
        make_policy(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_agent_of_another_task_is_refused(tmp_path: Path) -> None:
    folder = save_agent(tmp_path / "a", Agent((member(),)))
    break_json(folder, task="chess")
    with pytest.raises(ConfigError, match="task chess"):
        make_policy(str(folder))
