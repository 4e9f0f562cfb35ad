"""The game against a checker in plain Python, over random episodes; sums kept up against new ones."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from oracles.plain_rescheduling import check_game, plain_legal, random_snapshot
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.rescheduling.game import build_game
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.generate import generate_snapshot
from virtgym.envs.rescheduling.objective import ObjectiveConfig
from virtgym.envs.rescheduling.observations import N_VM, VmRow, observe_game
from virtgym.envs.rescheduling.snapshot import Snapshot

EVERYTHING = {"fragment": 1.0, "hosts_used": 0.5, "imbalance": 0.2, "energy": 0.3, "migration": 0.1}


def play_random(seed: int, rng: np.random.Generator, **settings: Any) -> int:
    """Play a random episode with illegal actions, every state checked; returns its moves."""
    snapshots = [random_snapshot(seed)]
    env = ReschedulingEnv(
        snapshots=snapshots, limit=int(rng.integers(1, 7)), objective=EVERYTHING, **settings
    )
    env.reset(seed=seed)
    state, over, moved_s = env.games.state, False, 0.0
    while not over:
        mask = env.action_masks()
        check_game(env.games, 0, mask, moved_s)
        legal = rng.random() < 0.9 or mask.all()
        action = int(rng.choice(np.flatnonzero(mask if legal else ~mask)))
        if legal and action == env.games.n_actions - 1 and rng.random() < 0.7:
            action = int(rng.choice(np.flatnonzero(mask)))
        before = pickle.dumps(tuple(state)), float(state.objective[0]), int(state.moves[0])
        seen, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(seen)
        if mask[action]:
            assert "illegal_action" not in info
            assert reward == pytest.approx(before[1] - state.objective[0], abs=1e-15)
        else:
            assert info["illegal_action"]
            assert reward == 0.0
            assert pickle.dumps(tuple(state)) == before[0]
        if state.moves[0] > before[2]:
            moved_s += env.games.params.vm_ms[0, state.last_vm[0]] / 1e3
        over = terminated or truncated
    check_game(env.games, 0, env.action_masks(), moved_s)
    assert not env.action_masks().any()
    kept, fresh = env.games.state, env.games.fork()
    for name, values in fresh.state._asdict().items():  # what was kept up is what a new count gives
        np.testing.assert_array_equal(values[0], getattr(kept, name)[0], name)
    return int(state.moves[0])


def test_random_episodes_pass_the_checker() -> None:
    rng = np.random.default_rng(15)
    assert sum(play_random(seed, rng) for seed in range(150)) > 200


def test_sums_kept_up_are_sums_worked_out_anew() -> None:
    snapshot = generate_snapshot(3, "medium", "middle", groups=50)
    env = ReschedulingEnv(snapshots=[snapshot], limit=400, objective=EVERYTHING)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(600):
        legal = np.flatnonzero(env.action_masks()[:-1])
        env.step(int(rng.choice(legal)))
    assert env.games.state.moves[0] == 300
    s, observer = env.games.state, env.task.observer
    where = s.vm_node[0].copy()
    moved = Snapshot(**{**snapshot.__dict__, "vm_node": where})
    fresh = ReschedulingGames([moved], ObjectiveConfig(**EVERYTHING), 400)
    for name in ("free_cpu", "places", "place_sum", "movable", "fragment", "load", "load_sq", "power_mw"):
        np.testing.assert_array_equal(getattr(s, name)[0], getattr(fresh.starts, name)[0], name)
    seen = observer.buffers.flat[0].copy()
    observe_game(env.games.kernel_params, env.games.kernel_state, observer.handle, 0)
    np.testing.assert_array_equal(seen, observer.buffers.flat[0])
    vms = observer.split(seen)["vms"].reshape(-1, N_VM)
    np.testing.assert_array_equal(np.rint(vms[:, VmRow.node] * snapshot.n_nodes), where)
    np.testing.assert_array_equal(vms[:, VmRow.away] == 1.0, where != snapshot.vm_node)
    build_game(env.games.kernel_params, env.games.kernel_state, 0, 0)
    np.testing.assert_array_equal(s.free_cpu[0], env.games.starts.free_cpu[0])


def toy() -> Snapshot:
    """Two hosts of one node with 20 cores: 12 + 4 on the first, 4 on the second."""

    def whole(*x: int) -> Any:
        return np.array(x, dtype=np.int32)

    return Snapshot(
        "toy", whole(20_000, 20_000), whole(100, 100), whole(12_000, 4_000, 4_000), whole(10, 10, 10),
        np.zeros(3, bool), whole(0, 0, 1), np.zeros(3, bool), whole(-1, -1, -1), 1, whole(0, 0),
        np.array([[50.0, 100.0]]),
    )  # fmt: skip


def test_a_snapshot_by_hand() -> None:
    env = ReschedulingEnv(snapshots=[toy()], limit=2, objective={"fragment": 1.0, "energy": 2.0})
    env.reset(seed=0)
    # 4 and 16 cores are free: 4 of 20 are fragments; loads are 0.8 and 0.2
    assert env.games.state.terms[0, :4].tolist() == pytest.approx([0.2, 1.0, 0.3, (90 + 60) / 200], abs=1e-6)
    assert np.flatnonzero(env.action_masks()).tolist() == [0, 1, 2, 5]
    env.step(1)
    assert np.flatnonzero(env.action_masks()).tolist() == [4]
    _, reward, *_ = env.step(4)  # 8 and 12 free: all of it fragments, loads 0.6 and 0.4
    assert reward == pytest.approx(0.2 - 1.0 + 2 * (150 / 200 - (80 + 70) / 200), abs=1e-6)
    env.step(2)
    env.step(3)
    assert env.games.state.terms[0, 0] == pytest.approx(0.2)
    with pytest.raises(Exception, match="call reset"):
        env.step(0)


def test_illegal_actions_have_reasons() -> None:
    snapshot = toy()
    env = ReschedulingEnv(snapshots=[snapshot], limit=2, max_illegal=20)
    env.reset(seed=0)
    told = [env.step(action)[4]["illegal_action"] for action in (-1, 99, 3)]
    env.step(0)
    told += [env.step(action)[4]["illegal_action"] for action in (1, 5, 3)]
    assert [text.split(" ")[0] for text in told] == ["there", "there", "no", "the", "the", "the"]
    assert "already" in told[-1]
    assert env.games.state.moves[0] == 0


def test_moves_that_are_named_are_played_until_one_is_refused() -> None:
    games = ReschedulingGames([toy()], limit=2)
    games.begin()
    played = games.play(np.array([[2, 0], [2, 0], [0, 1]]))
    assert played.n == 1
    assert "there already" in played.reason
    assert plain_legal(toy(), [0, 0, 0], 0) == [1]
    with pytest.raises(ConfigError, match="pairs of a VM and a node"):
        games.play(np.array([[3, 0]]))
    assert games.play(np.array([[0, 1], [1, 1]])).reason == "the limit of moves is reached"


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"limit": 0}, "scenario.limit"), ({"objective": {"fragments": 1}}, "objective.fragments"),
     ({"snapshots": 0}, "env.snapshots"), ({"objective": {"fragment": -1}}, "objective.fragment")],
)  # fmt: skip
def test_values_that_cannot_be(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ReschedulingEnv(**changes)


def test_snapshots_of_different_sizes_of_vms_play_together() -> None:
    snapshots = [random_snapshot(seed, n_hosts=3, per_host=2) for seed in range(6)]
    games = ReschedulingGames(snapshots, ObjectiveConfig(**EVERYTHING), 3, n_games=6)
    env = ReschedulingEnv(snapshots=snapshots, objective=EVERYTHING)
    for k in range(6):
        games.begin(k, k)
        env.reset(options={"snapshot": k})
        check_game(env.games, 0, env.action_masks(), 0.0)
        alone = ReschedulingGames([snapshots[k]], ObjectiveConfig(**EVERYTHING), 3)
        assert alone.starts.objective[0] == games.state.objective[k]
