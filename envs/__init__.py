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
    from .cluster import ClusterEnv
    from .wrappers import FlatObservation, make_vec

__all__ = ["ClusterEnv", "FlatObservation", "make_vec"]

_HOMES = {"ClusterEnv": ".cluster", "FlatObservation": ".wrappers", "make_vec": ".wrappers"}

gym.register(id="virtgym/Cluster-v0", entry_point="virtgym.envs.cluster:ClusterEnv")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
