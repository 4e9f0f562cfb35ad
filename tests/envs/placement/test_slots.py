"""The observation ``slots``: recounted by putting VMs on copies of hosts until no more fits."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.buffers import GLOBAL_COLUMNS, NODE_COLUMNS
from virtgym.envs.placement.env import PlacementEnv, PlacementTask
from virtgym.envs.placement.observations import (
    OBSERVATIONS,
    PlacementObserver,
    observation_columns,
)
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.placement.slots import SLOT_GLOBAL_COLUMNS, SLOT_NODE_COLUMNS, SLOT_SHAPES
from virtgym.envs.placement.state import PLAYING

NODES = ((40, 90, 64), (40, 90, 8), (64, 128, 128), (200, 600, 32))
SCARCE = {"n_hosts": 2, "extra_requests": 20}


@st.composite
def games(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of small clusters of any protocol and option."""
    protocol = draw(st.sampled_from(("huawei_placement", "fading", "recovering")))
    config = {
        "protocol": protocol,
        "n_hosts": draw(st.integers(1, 4)),
        **dict(zip(("node_cores", "node_memory_gib", "double_above_gib"), draw(st.sampled_from(NODES)))),
        "cpu_overcommit": draw(st.sampled_from((1.0, 1.5, 4.0))),
        "allow_reject": draw(st.booleans()),
        "extra_requests": 5,
        "max_requests": 40,
    }
    if protocol == "huawei_placement":
        config["queue_window"] = draw(st.sampled_from((1, 3)))
    return config


def play(env: PlacementEnv, seed: int, steps: int = 60) -> Any:
    """Observations of an episode of random legal actions."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    yield observation
    for _ in range(steps):
        action = int(rng.choice(np.flatnonzero(env.action_masks())))
        observation, _, terminated, truncated, _ = env.step(action)
        yield observation
        if terminated or truncated:
            return


@settings(max_examples=25)
@given(config=games(), observation=st.sampled_from(OBSERVATIONS), seed=st.integers(0, 2**20))
def test_every_observation_lies_in_its_space(config: dict[str, Any], observation: str, seed: int) -> None:
    env = PlacementEnv(config=config, observation=observation)
    for seen in play(env, seed):
        assert env.observation_space.contains(seen)
        assert env.task.flat_space.contains(env.task.observer.buffers.flat[0])
        np.testing.assert_array_equal(np.concatenate(list(seen.values())), env.task.observer.buffers.flat[0])


Node = list[float]


def take(nodes: list[Node], a: int, cores: float, memory: float, double: bool) -> bool:
    """Put a VM on node a, half of it on each node of the host if it is double; False: it does not fit."""
    where = [a - a % 2, a - a % 2 + 1] if double else [a]
    part = (cores / len(where), memory / len(where))
    if any(nodes[i][0] < part[0] or nodes[i][1] < part[1] for i in where):
        return False
    for i in where:
        nodes[i][0] -= part[0]
        nodes[i][1] -= part[1]
    return True


def room_for(nodes: list[Node], a: int, shape: tuple[int, int], double: bool) -> int:
    """How many VMs of a shape node a takes, or its host if they are double."""
    copy, n = [list(node) for node in nodes], 0
    while take(copy, a, *shape, double):
        n += 1
    return n


def recount(env: PlacementEnv) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Slot columns of each node and of the cluster, in plain Python."""
    config, state, trace = env.games.config, env.games.state, env.games.params
    nodes = [[float(c), float(m)] for c, m in zip(state.free_cores[0], state.free_memory[0])]
    sizes = (config.node_cores * config.cpu_overcommit, config.node_memory_gib)
    row, playing = int(state.cursor[0]), state.status[0] == PLAYING
    rows = []
    for a in range(len(nodes)):
        after = [list(node) for node in nodes]
        fits = False
        if playing:
            parts = 2 if trace.double[row] else 1
            fits = take(after, a, parts * trace.cores[row], parts * trace.memory[row], parts == 2)
        column = {"empty": float(state.n_vms[0, a] == 0)}
        column["cores_after"], column["memory_after"] = (
            (after[a][0] / sizes[0], after[a][1] / sizes[1]) if fits else (0.0, 0.0)
        )
        for shape in SLOT_SHAPES:
            name, double = f"{shape[0]}x{shape[1]}", shape[1] > config.double_above_gib
            then, now = room_for(after, a, shape, double), room_for(nodes, a, shape, double)
            column[f"slots_{name}"] = min(4, then) / 4 if fits else 0.0
            column[f"lost_{name}"] = min(2, now - then) / 2 if fits else 0.0
        rows.append(column)
    cluster = {}
    for shape in SLOT_SHAPES:
        double = shape[1] > config.double_above_gib
        total = sum(room_for(nodes, a, shape, double) for a in range(0, len(nodes), 1 + double))
        cluster[f"slots_{shape[0]}x{shape[1]}"] = min(2.0, np.log1p(total) / 4)
    return rows, cluster


@settings(max_examples=15)
@given(config=games(), seed=st.integers(0, 2**20))
def test_slot_columns_are_what_counting_gives(config: dict[str, Any], seed: int) -> None:
    """On the way, and when the game is over, where nothing is pending."""
    config["cpu_overcommit"] = float(np.round(config["cpu_overcommit"]))  # whole cores: exact in plain Python
    env = PlacementEnv(config=config, observation="slots")
    n_nodes = 2 * env.games.config.n_hosts
    columns = observation_columns("slots")
    for k, seen in enumerate(play(env, seed, 400)):
        over = env.games.state.status[0] != PLAYING
        if k % 12 and not over:
            continue
        rows, cluster = recount(env)
        table = seen["nodes"].reshape(n_nodes, -1)
        for a in range(n_nodes):
            got = dict(zip((c.name for c in columns["nodes"]), table[a].tolist(), strict=True))
            assert {c.name: got[c.name] for c in SLOT_NODE_COLUMNS} == pytest.approx(rows[a], abs=1e-6)
        for column, value in zip(SLOT_GLOBAL_COLUMNS, seen["globals"][len(GLOBAL_COLUMNS) :], strict=True):
            assert value == pytest.approx(cluster[column.name], abs=1e-6)


def test_a_case_worked_by_hand() -> None:
    """One empty host of 2 x (40 cores, 90 GiB); the pending VM has 8 cores and 32 GiB."""
    rows = {"cores": [8.0], "memory_gib": [32.0], "arrival_s": [0.0], "lifetime_s": [9.0]}
    stream = type("Stream", (), {key: np.array(value) for key, value in rows.items()})()
    config = {"n_hosts": 1, "double_above_gib": 64}
    env = PlacementEnv(stream, config, windows=[0], observation="slots")
    seen, _ = env.reset()
    names = [c.name for c in observation_columns("slots")["nodes"]]
    node = dict(zip(names, seen["nodes"].tolist()))
    assert node["empty"] == 1
    assert node["cores_after"] == pytest.approx(32 / 40)
    assert node["memory_after"] == pytest.approx(58 / 90)
    assert (node["slots_8x32"], node["lost_8x32"]) == (1 / 4, 1 / 2)  # one of two is left
    assert (node["slots_16x32"], node["lost_16x32"]) == (1 / 4, 1 / 2)
    assert (node["slots_2x8"], node["lost_2x8"]) == (1, 1)  # 7 of 11 are left: clipped
    assert (node["slots_32x64"], node["lost_32x64"]) == (0, 1 / 2)
    assert (node["slots_64x128"], node["lost_64x128"]) == (0, 1 / 2)  # a double: 32 cores and 64 GiB each
    cluster = seen["globals"][len(GLOBAL_COLUMNS) :]
    assert cluster[-1] == pytest.approx(np.log(2) / 4)
    last, *_ = env.step(0)
    assert not last["nodes"].reshape(2, -1)[:, [names.index("slots_2x8"), names.index("lost_2x8")]].any()
    assert last["nodes"].reshape(2, -1)[:, names.index("empty")].tolist() == [0, 1]


def test_the_basic_columns_come_first_and_say_the_same() -> None:
    both = [PlacementEnv(config=SCARCE, observation=kind) for kind in OBSERVATIONS]
    for basic, slots in zip(play(both[0], 3, 300), play(both[1], 3, 300), strict=True):
        np.testing.assert_array_equal(
            basic["nodes"].reshape(4, -1), slots["nodes"].reshape(4, -1)[:, : len(NODE_COLUMNS)]
        )
        np.testing.assert_array_equal(basic["request"], slots["request"])
        np.testing.assert_array_equal(basic["globals"], slots["globals"][: len(GLOBAL_COLUMNS)])


def test_spaces_have_the_columns_of_their_observation() -> None:
    config = PlacementTask(PlacementSettings(config=SCARCE)).config
    for kind in OBSERVATIONS:
        columns = observation_columns(kind)
        space = PlacementObserver.space(config, kind)
        assert space["nodes"].shape == (4 * len(columns["nodes"]),)
        width = sum(int(np.prod(part.shape or ())) for part in space.values())
        assert PlacementObserver.flat_space(config, kind).shape == (width,)
        for part in columns.values():
            assert len({column.name for column in part}) == len(part)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_batch_goes_on_from_its_checkpoint(kind: str) -> None:
    """And one that observes something else refuses it."""

    def on(batch: PlacementBatch) -> list[Any]:
        seen = []
        for _ in range(40):
            batch.play(batch.task.observer.buffers.mask.argmax(axis=1).astype(np.int64))
            seen.append(batch.task.observer.copy_all())
        return seen

    batch, other = (PlacementBatch(3, PlacementSettings(config=SCARCE, observation=kind)) for _ in range(2))
    for one, first in ((batch, 40), (other, 900)):
        one.begin(np.arange(3), np.arange(first, first + 3))
    on(batch)
    saved = batch.export_state()
    want = on(batch)
    other.import_state(saved)
    np.testing.assert_equal(on(other), want)
    np.testing.assert_equal(on(pickle.loads(pickle.dumps(batch))), on(batch))
    different = next(name for name in OBSERVATIONS if name != kind)
    with pytest.raises(ConfigError, match="does not fit"):
        PlacementBatch(3, PlacementSettings(config=SCARCE, observation=different)).import_state(saved)
