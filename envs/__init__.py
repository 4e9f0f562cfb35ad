"""The Gymnasium side of virtgym: importing it registers the environments.

    import gymnasium as gym, virtgym.envs
    env = gym.make("virtgym/Cluster-v0", scenario="small")

Nothing heavy is loaded before an environment is made: the entry points are strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium as gym

from .lazy import lazy

if TYPE_CHECKING:
    from .cluster.env import ClusterEnv
    from .placement.env import PlacementEnv
    from .rescheduling.env import ReschedulingEnv
    from .wrappers import FlatObservation, make_vec

__all__ = ["ClusterEnv", "FlatObservation", "PlacementEnv", "ReschedulingEnv", "make_vec"]

gym.register(
    id="virtgym/Cluster-v0",
    entry_point="virtgym.envs.cluster:ClusterEnv",
    vector_entry_point="virtgym.envs.vector:ClusterVectorEnv",
)
gym.register(
    id="virtgym/Placement-v0",
    entry_point="virtgym.envs.placement:PlacementEnv",
    vector_entry_point="virtgym.envs.vector:PlacementVectorEnv",
)
gym.register(
    id="virtgym/Rescheduling-v0",
    entry_point="virtgym.envs.rescheduling:ReschedulingEnv",
    vector_entry_point="virtgym.envs.vector:ReschedulingVectorEnv",
)


__getattr__ = lazy(
    __name__,
    {
        "ClusterEnv": "cluster",
        "FlatObservation": "wrappers",
        "PlacementEnv": "placement",
        "ReschedulingEnv": "rescheduling",
        "make_vec": "wrappers",
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
