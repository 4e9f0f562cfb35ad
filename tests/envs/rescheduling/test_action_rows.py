"""Rows of actions, as agents read them: exact masks, gains that come true, no order of hosts and VMs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracles.plain_rescheduling import random_snapshot
from virtgym.envs.rescheduling.action_rows import ACTION_COLUMNS, N_ACTION
from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.rescheduling.snapshot import Snapshot

SOME = [random_snapshot(seed, n_hosts=4, per_host=2) for seed in range(12)]
AT = {column.name: i for i, column in enumerate(ACTION_COLUMNS)}


def rows_of(env: ReschedulingEnv, seen: Any) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = seen["actions"].reshape(-1, N_ACTION)
    assert env.observation_space.contains(seen)
    np.testing.assert_array_equal(rows[:, AT["offered"]] > 0, env.action_masks())
    assert not rows[~env.action_masks()].any()
    return rows


def test_what_a_row_says_a_move_gains_it_gains() -> None:
    """Of a node exactly; of a VM no less than any of its moves."""
    env = ReschedulingEnv(snapshots=SOME, limit=6, observation="actions")
    rng, n_moves = np.random.default_rng(0), 0
    for k in range(len(SOME)):
        seen, _ = env.reset(seed=k, options={"snapshot": k})
        size, over, best = env.games.params.size, False, 0.0
        while not over:
            rows = rows_of(env, seen)
            action = int(rng.choice(np.flatnonzero(env.action_masks())))
            gain, spare = 2.0 * rows[action, AT["gain"]], max(int(env.games.state.spare[0]), 1)
            placing = rows[action, AT["is_node"]] > 0
            if rows[action, AT["is_vm"]]:
                best = gain
            if placing:
                a = action - env.games.params.n_vms
                rest = int(env.games.state.free_cpu[0, a]) % size
                assert abs(rows[action, AT["fragment"]] * size - rest) < 1e-3 * size
                assert gain <= best + 1e-6
            seen, reward, terminated, truncated, _ = env.step(action)
            if placing:
                n_moves += 1
                assert abs(reward - gain * size / spare) < 1e-6
                rest = int(env.games.state.free_cpu[0, a]) % size
                assert abs(rows[action, AT["after"]] * size - rest) < 1e-3 * size
            over = terminated or truncated
    assert n_moves > 30


def shuffled(
    snapshot: Snapshot, rng: np.random.Generator
) -> tuple[Snapshot, NDArray[np.int64], NDArray[np.int64]]:
    """The same snapshot with hosts and VMs in another order; where the old ones are."""
    from dataclasses import replace

    n = snapshot.nodes_per_host
    hosts, vms = rng.permutation(snapshot.n_hosts), rng.permutation(snapshot.n_vms)
    nodes = (n * hosts[:, None] + np.arange(n)).ravel()
    at = np.argsort(nodes)  # where an old node is
    fields = {
        name: getattr(snapshot, name)[vms]
        for name in ("vm_cpu", "vm_mem", "vm_double", "vm_fixed", "vm_group")
    }
    made = replace(
        snapshot, node_cpu=snapshot.node_cpu[nodes], node_mem=snapshot.node_mem[nodes],
        host_power=snapshot.host_power[hosts], vm_node=at[snapshot.vm_node[vms]].astype(np.int32),
        host_names=(), vm_names=(), **fields,
    )  # fmt: skip
    return made, np.argsort(vms), at


def test_order_of_hosts_and_vms_means_nothing() -> None:
    rng = np.random.default_rng(1)
    for snapshot in SOME[:4]:
        twin, vm_at, node_at = shuffled(snapshot, rng)
        where = np.concatenate([vm_at, snapshot.n_vms + node_at, [snapshot.n_vms + snapshot.n_nodes]])
        one, two = (ReschedulingEnv(snapshots=[s], limit=3, observation="actions") for s in (snapshot, twin))
        seen, other = one.reset(seed=0)[0], two.reset(seed=0)[0]
        over = False
        while not over:
            np.testing.assert_allclose(rows_of(one, seen), rows_of(two, other)[where], atol=1e-6)
            np.testing.assert_allclose(seen["globals"], other["globals"], rtol=1e-5, atol=1e-6)
            action = int(rng.choice(np.flatnonzero(one.action_masks())))
            seen, _, over, _, _ = one.step(action)
            other, _, _, _, _ = two.step(int(where[action]))
