"""A cell of a rescheduling scenario: one policy on one snapshot, one result row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.scenarios.rescheduling import ReschedulingScenario
from virtgym.envs.sim.models.cost import GATE_OK

from .rollout import policy_rng

if TYPE_CHECKING:
    import pandas as pd

_WARM: set[Any] = set()

MOVE, SEARCH = "move", "search"
"""What a row of the table of steps is: a move, or a better objective that the search has found."""


def run_rescheduling_cell(
    scenario: ReschedulingScenario, policy: Any, seed: int, keys: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], pd.DataFrame, dict[str, Any]]:
    """Play a snapshot.

    Args:
        scenario: The scenario.
        policy: A policy for rescheduling.
        seed: Seed of the policy.
        keys: First columns of the table.

    Returns:
        Values of the result row; a table with a row per move (``event`` = ``move``: ``step``, ``vm``,
        ``from``, ``to``, ``gain``, ``seconds`` of its migration, ``fragment_rate`` and ``objective`` after
        it, ``time_s``: processor time of the policy until then) and per improvement of the search
        (``search``); and where VMs were before and after, for the map of nodes.
    """
    seen = getattr(policy, "observation", "tables")
    env = ReschedulingEnv(scenario, snapshots=[scenario.trace], copy=False, observation=seen)
    if type(policy) not in _WARM:  # loading compiled kernels is not the policy's fault
        _play(env, _warm(policy), seed, most=2)
        _WARM.add(type(policy))
    played = _play(env, policy, seed)
    table = _table(scenario, env, played, policy, keys)
    snapshot = scenario.trace
    heat = {
        "node_cpu": snapshot.node_cpu,
        "before": snapshot.free()[0],
        "after": env.games.state.free_cpu[0].copy(),
        "nodes_per_host": np.int64(snapshot.nodes_per_host),
        "fragment_size": np.int64(env.games.params.size),
    }
    values = {
        **played["metrics"],
        "finished": True,
        "steps": played["decisions"],
        "wall_s": played["wall_s"],
        "cpu_s": played["cpu_s"],
        "n_hosts": snapshot.n_hosts,
        "n_vms": snapshot.n_vms,
        "memory": "binding",
        "cost": played["metrics"]["objective"],
        "gate": GATE_OK if not played["illegal"] else f"{played['illegal']} refused actions",
        "episode_return": played["return"],
        "illegal_actions": float(played["illegal"]),
        "decision_ms_p50": float(np.percentile(played["decision_ms"], 50)),
        "decision_ms_p99": float(np.percentile(played["decision_ms"], 99)),
        **(policy.plan_metrics() if hasattr(policy, "plan_metrics") else {}),
    }
    return [values], table, heat


def _warm(policy: Any) -> Any:
    """The policy with a short plan: what it compiles is what it needs."""
    from dataclasses import fields, is_dataclass, replace

    known = {f.name for f in fields(policy)} if is_dataclass(policy) else set()
    return (
        replace(policy, iterations=1, time_limit_s=None)
        if {"iterations", "time_limit_s"} <= known
        else policy
    )


def _play(env: ReschedulingEnv, policy: Any, seed: int, most: int | None = None) -> dict[str, Any]:
    """One episode: what was done, and how long the policy took."""
    observation, _ = env.reset(seed=seed, options={"snapshot": 0})
    start, cpu = time.perf_counter(), time.process_time()
    policy.reset(env.games, policy_rng(seed))
    state, over, total, illegal = None, False, 0.0, 0
    begins, spent = np.ones(1, dtype=np.bool_), 0.0
    spent_ms: list[float] = []
    moves: list[tuple[float, ...]] = []
    games = env.games.state
    while not over and (most is None or len(spent_ms) < most):
        before, begun = time.perf_counter(), time.process_time()
        action, state = policy.predict(observation, state, begins, True, env.action_masks())
        spent_ms.append(1e3 * (time.perf_counter() - before))
        spent += time.process_time() - begun
        begins[0] = False
        made, objective = int(games.moves[0]), float(games.objective[0])
        observation, reward, terminated, truncated, info = env.step(int(np.asarray(action).reshape(())[()]))
        over, total, illegal = terminated or truncated, total + reward, illegal + ("illegal_action" in info)
        if games.moves[0] > made:
            v = int(games.last_vm[0])
            moves.append(
                (
                    *(v, int(games.last_from[0]), int(games.vm_node[0, v])),
                    *(objective - float(games.objective[0]), float(games.terms[0, 0])),
                    *(float(games.objective[0]), spent),
                )
            )
    return {
        "metrics": env.task.metrics(0), "decisions": len(spent_ms), "moves": moves, "return": total,
        "illegal": illegal, "decision_ms": spent_ms, "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
    }  # fmt: skip


def _table(
    scenario: ReschedulingScenario,
    env: ReschedulingEnv,
    played: dict[str, Any],
    policy: Any,
    keys: Mapping[str, Any],
) -> pd.DataFrame:
    import pandas as pd

    snapshot, ms = scenario.trace, env.games.params.vm_ms[0]

    def place(a: int, v: int) -> str:
        node = (
            "" if snapshot.vm_double[v] or snapshot.nodes_per_host == 1 else f"/{a % snapshot.nodes_per_host}"
        )
        return f"{snapshot.host_name(a // snapshot.nodes_per_host)}{node}"

    rows: list[dict[str, Any]] = [
        {
            "event": MOVE, "step": i + 1, "vm": snapshot.vm_name(v), "from": place(source, v),
            "to": place(target, v), "gain": gain, "seconds": ms[v] / 1e3, "fragment_rate": rate,
            "objective": objective, "time_s": spent,
        }
        for i, (v, source, target, gain, rate, objective, spent) in enumerate(played["moves"])
    ]  # fmt: skip
    plans = getattr(policy, "plans", None)
    curve = plans[0].curve if plans and plans[0] is not None else ()
    only = env.games.params.weights
    scale = float(only[0]) if not only[1:].any() else float("nan")  # the objective is the fragment rate then
    rows += [
        {"event": SEARCH, "step": 0, "time_s": at, "objective": best, "fragment_rate": best / scale}
        for at, best in curve
    ]
    columns = [
        *("event", "step", "time_s", "vm", "from", "to", "gain", "seconds"),
        "fragment_rate",
        "objective",
    ]
    table = pd.DataFrame(rows, columns=columns)
    text = ("event", "vm", "from", "to")
    table = table.astype({c: "str" if c in text else "int64" if c == "step" else "float64" for c in columns})
    # Of no moves, too, the columns have their types: tables of many cells are put together.
    first = pd.DataFrame(
        {k: np.full(len(table), v, dtype=object if isinstance(v, str) else None) for k, v in keys.items()}
    )
    table.loc[table["event"] != MOVE, ["vm", "from", "to"]] = ""
    return pd.concat([first, table], axis=1)
