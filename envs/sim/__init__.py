"""The virtualization model: NumPy and Numba, knows nothing of reinforcement learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .config import ClusterConfig, HostType
    from .decisions import Decisions
    from .simulator import ClusterView, Simulator
    from .workload import Workload

__all__ = ["ClusterConfig", "ClusterView", "Decisions", "HostType", "Simulator", "Workload"]

__getattr__ = lazy(
    __name__,
    {
        "ClusterConfig": "config",
        "HostType": "config",
        "Decisions": "decisions",
        "ClusterView": "simulator",
        "Simulator": "simulator",
        "Workload": "workload",
    },
)
