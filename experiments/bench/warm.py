"""Compile every kernel that is used often, once, into Numba's cache (`python -m ...bench.warm`).

The suite's workers and a benchmark's processes then load them instead of compiling each for itself.
"""

from __future__ import annotations

import time
from typing import Any

__all__ = ["main"]


def warm_simulator() -> None:
    """Compile the simulator and the baselines."""
    from virtgym.envs.scenarios import build_scenario
    from virtgym.policies import make_policy

    scenario = build_scenario("small", overrides={"horizon_s": 3600.0})
    import numpy as np

    for name in ("static", "thr-mmt", "mad-mc", "iqr-mu", "loess_robust-rs", "ols-mmt", "loess-mmt"):
        policy: Any = make_policy(name)
        simulator = scenario.simulator(arrival=getattr(policy, "arrival", None))
        policy.reset(simulator.view, np.random.default_rng(0))
        while not simulator.done:
            simulator.step(policy.plan(simulator.view))
    simulator.fork().run()


def warm_environment() -> None:
    """Compile the encoders and masks."""
    import gymnasium as gym

    import virtgym.envs  # noqa: F401  (registers the environments)

    env = gym.make("virtgym/Cluster-v0", scenario="small")
    env.reset(seed=0)
    masks = env.unwrapped.action_masks()  # type: ignore[attr-defined]
    env.step(int(masks.nonzero()[0][-1]))  # an order, not only `stop`, so that its kernel is compiled too
    env.step(0)


def warm_placement() -> None:
    """Compile the placement game, alone and in a batch, and its rules."""
    import numpy as np

    from virtgym.envs.placement import PlacementEnv
    from virtgym.envs.vector import PlacementVectorEnv
    from virtgym.policies.placement import run_windows

    env = PlacementEnv()
    env.reset(seed=0)
    env.step(int(env.action_masks().argmax()))
    batch = PlacementVectorEnv(2)
    batch.reset(seed=0)
    batch.step(np.zeros(2, dtype=np.int64))
    run_windows(env.games, [0], "first_fit")


def warm_replica() -> None:
    """Compile the replica of CloudSim."""
    import numpy as np

    from virtgym.experiments.replication import run_replica

    run_replica(np.random.default_rng(0).integers(0, 60, (20, 288)), "lr-mmt")


def main() -> int:
    """Compile, and say how long it took."""
    start = time.perf_counter()
    for step in (warm_simulator, warm_environment, warm_placement, warm_replica):
        step()
    print(f"kernels ready after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
