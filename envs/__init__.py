"""The Gymnasium side of virtgym: importing it registers the environments.

    import gymnasium as gym, virtgym.envs
    env = gym.make("virtgym/Cluster-v0", scenario="small")

Nothing heavy is loaded before an environment is made: the entry points are strings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from .cluster.env import ClusterEnv
    from .placement.env import PlacementEnv
    from .wrappers import FlatObservation, make_vec

__all__ = ["ClusterEnv", "FlatObservation", "PlacementEnv", "make_vec"]

_HOMES = {
    "ClusterEnv": ".cluster",
    "FlatObservation": ".wrappers",
    "PlacementEnv": ".placement",
    "make_vec": ".wrappers",
}

gym.register(id="virtgym/Cluster-v0", entry_point="virtgym.envs.cluster:ClusterEnv")
gym.register(
    id="virtgym/Placement-v0",
    entry_point="virtgym.envs.placement:PlacementEnv",
    vector_entry_point="virtgym.envs.vector:PlacementVectorEnv",
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
