"""Compile every kernel that is used often, once, into Numba's cache (`python -m ...bench.warm`).

The suite's workers and a benchmark's processes then load them instead of compiling each for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def warm_simulator() -> None:
    """Compile the simulator and the baselines."""
    from virtgym.envs.scenarios.scenario import build_scenario
    from virtgym.policies import make_policy

    scenario = build_scenario("small", overrides={"horizon_s": 3600.0})
    import numpy as np

    for name in (
        "static",
        "thr-mmt",
        "mad-mc",
        "iqr-mu",
        "loess_robust-rs",
        "ols-mmt",
        "loess-mmt",
        "drs",
        "dpm",
        "dpm_ortools",
        "platform",
    ):
        policy: Any = make_policy(name)
        simulator = scenario.simulator(arrival=getattr(policy, "arrival", None))
        policy.reset(simulator.view, np.random.default_rng(0))
        while not simulator.done:
            simulator.step(policy.plan(simulator.view))
    simulator.fork().run()


def warm_full_model() -> None:
    """Compile the full model, its faults and its migrations, and the managers that work on it."""
    import numpy as np

    from virtgym.envs.scenarios.scenario import build_scenario
    from virtgym.envs.sim.decisions import Decisions
    from virtgym.policies import make_policy

    from .measure import EVERYTHING

    scenario = build_scenario("small", overrides={**EVERYTHING, "horizon_s": 3600.0})
    policy: Any = make_policy("ols-mmt")
    simulator = scenario.simulator(arrival=policy.arrival)
    simulator.reset(np.random.default_rng(0))
    policy.reset(simulator.view, np.random.default_rng(0))
    simulator.step(policy.plan(simulator.view))
    simulator.step(Decisions(suspend=np.array([0], dtype=np.int32)))
    simulator.fork().run()
    policy = make_policy("platform")
    simulator = scenario.simulator(arrival="policy")
    policy.reset(simulator.reset(np.random.default_rng(0)), np.random.default_rng(0))
    for _ in range(2):
        simulator.step(policy.plan(simulator.view))


def warm_environment() -> None:
    """Compile the encoders and masks."""
    import gymnasium as gym

    import virtgym.envs  # noqa: F401  (registers the environments)

    env = gym.make("virtgym/Cluster-v0", scenario="small")
    env.reset(seed=0)
    masks = env.unwrapped.action_masks()  # type: ignore[attr-defined]
    env.step(int(masks.nonzero()[0][-1]))  # an order, not only `stop`, so that its kernel is compiled too
    env.step(0)


def warm_batches() -> None:
    """Compile batches of clusters in the forms of actions that agents learn in, and search."""
    from virtgym.envs import make_vec
    from virtgym.envs.scenarios.scenario import build_scenario
    from virtgym.policies import make_policy

    from ..run.rollout import make_env, rollout
    from .measure import EVERYTHING

    for overrides in ({}, EVERYTHING):
        scenario = build_scenario("small", overrides={**overrides, "horizon_s": 3600.0})
        for form in ("unrolled", "candidates"):
            batch = make_vec("virtgym/Cluster-v0", num_envs=2, scenario=scenario, actions=form)
            _, info = batch.reset(seed=0)
            batch.step(info["action_mask"].argmax(axis=1))
        policy = make_policy("rollout_search")
        rollout(make_env(scenario, policy), policy, 0, heat=False, max_intervals=2)


def warm_snapshots() -> None:
    """Compile rescheduling and machine reassignment: games, annealing, bounds."""
    from ..config.overrides import PolicySpec
    from ..run.cell import load_scenario, make_cell, run_cell

    for name, policies in (
        ("rescheduling", ("greedy_rescheduling", "annealing", "ortools_rescheduling", "random")),
        ("reassignment", ("annealing",)),
    ):
        scenario = load_scenario(name)
        for policy in policies:
            few = {} if policy in ("greedy_rescheduling", "random") else {"iterations": 2}
            run_cell(make_cell(scenario, PolicySpec(policy, few)), 0)


def warm_placement() -> None:
    """Compile the placement game, alone and in a batch, and its rules."""
    import numpy as np

    from virtgym.envs.placement.env import PlacementEnv
    from virtgym.envs.vector import PlacementVectorEnv
    from virtgym.policies.placement.rules import run_windows

    env = PlacementEnv()
    env.reset(seed=0)
    env.step(int(env.action_masks().argmax()))
    batch = PlacementVectorEnv(2)
    batch.reset(seed=0)
    batch.step(np.zeros(2, dtype=np.int64))
    run_windows(env.games, [0], "first_fit")


def warm_players() -> None:
    """Compile what plays placement windows: rules, the solver's search, and the agent that ships."""
    from virtgym.envs.scenarios.placement import build_placement_scenario

    from ..config.overrides import PolicySpec
    from ..run.cell import make_cell, run_cell

    scenario = build_placement_scenario("demo_placement", overrides={"n_windows": 1})
    for name in ("first_fit", "ortools_placement", "demo_agent"):
        run_cell(make_cell(scenario, PolicySpec(name)), 0)


def warm_comparisons() -> None:
    """Compile the comparisons of actions, which rollout policy iteration learns from, with its network."""
    import numpy as np

    from virtgym.envs.placement.observations import PlacementObserver
    from virtgym.envs.scenarios.placement import build_placement_scenario
    from virtgym.policies.learned.comparisons import (
        NETWORK,
        allocate_comparisons,
        collect_comparisons,
        play_windows,
    )
    from virtgym.policies.learned.kernel_net import make_kernel_net
    from virtgym.policies.learned.safety import make_safety_table
    from virtgym.policies.learned.shipped_agents import shipped_folder
    from virtgym.policies.learned.storage import load_agent
    from virtgym.policies.placement.packing import make_keys

    games = build_placement_scenario("demo_placement", overrides={"n_windows": 1}).games(2)
    (member,) = load_agent(shipped_folder("demo")).members
    observer = PlacementObserver(games, member.layout.observation())
    net = make_kernel_net(member.architecture, member.weights, games.params.n_nodes)
    firsts = np.zeros(1, np.int64)
    ends = firsts + 20
    handles = games.kernel_params, games.kernel_state, observer.handle
    collect_comparisons(
        *handles, net, firsts, ends, np.zeros(2), np.array([NETWORK]), NETWORK,
        5, 1.0, 0.0, make_keys(1, 0), allocate_comparisons(4, observer),
    )  # fmt: skip
    table = make_safety_table(member.safety, games.config)
    play_windows(*handles, net, table, firsts, ends, np.empty(1))


def warm_replica() -> None:
    """Compile the replica of CloudSim."""
    import numpy as np

    from ..replication import run_replica

    run_replica(np.random.default_rng(0).integers(0, 60, (20, 288)), "lr-mmt")


def warm_forecasters() -> None:
    """Compile the forecasters."""
    import numpy as np

    from virtgym.policies.forecast.forecasters import FORECASTERS, make_forecaster

    for name in FORECASTERS:
        make_forecaster(name).predict(np.zeros((5, 2)))


GROUPS: tuple[tuple[Callable[[], None], ...], ...] = (
    (warm_full_model, warm_forecasters, warm_batches),
    (
        *(warm_simulator, warm_environment, warm_placement, warm_players, warm_comparisons, warm_replica),
        warm_snapshots,
    ),
)
"""What one process compiles after the other: little of it is in both groups, and they take equally long."""


def _run(group: int) -> None:
    for step in GROUPS[group]:
        step()


def main() -> int:
    """Compile in two processes, and say how long it took."""
    start = time.perf_counter()
    with ProcessPoolExecutor(len(GROUPS), mp_context=get_context("spawn")) as pool:
        list(pool.map(_run, range(len(GROUPS))))
    print(f"kernels ready after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
