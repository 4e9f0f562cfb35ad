"""The Gymnasium side of virtgym: importing it registers the environments.

    import gymnasium as gym, virtgym.envs
    env = gym.make("virtgym/Cluster-v0", scenario="small")

Nothing heavy is loaded before an environment is made: the entry points are strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium.envs import registration

from .lazy import lazy

if TYPE_CHECKING:
    from .cluster.env import ClusterEnv
    from .placement.env import PlacementEnv
    from .rescheduling.env import ReschedulingEnv
    from .wrappers import FlatObservation, MaskedObservation, RecordVideo, make_vec

__all__ = [
    "ClusterEnv",
    "FlatObservation",
    "MaskedObservation",
    "PlacementEnv",
    "RecordVideo",
    "ReschedulingEnv",
    "make_vec",
]


def register_envs() -> None:
    """Register the environments that are not registered; the entry point ``gymnasium.envs`` names it."""
    for name in ("Cluster", "Placement", "Rescheduling"):
        if f"virtgym/{name}-v0" not in registration.registry:
            registration.register(
                id=f"virtgym/{name}-v0",
                entry_point=f"virtgym.envs.{name.lower()}.env:{name}Env",
                vector_entry_point=f"virtgym.envs.vector:{name}VectorEnv",
            )


register_envs()

_find = lazy(
    __name__,
    {
        "ClusterEnv": "cluster.env",
        "FlatObservation": "wrappers",
        "MaskedObservation": "wrappers",
        "PlacementEnv": "placement.env",
        "RecordVideo": "wrappers",
        "ReschedulingEnv": "rescheduling.env",
        "make_vec": "wrappers",
    },
)


def __getattr__(name: str) -> Any:
    if name != "__version__":  # of the whole; ``virtgym`` is a namespace, which can have none
        return _find(name)
    from importlib import metadata

    return metadata.version("virtgym")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
