"""The virtualization model: NumPy and Numba, knows nothing of reinforcement learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .config import ClusterConfig, HostType
    from .decisions import Decisions, Refusal
    from .metrics import StepMetrics
    from .simulator import ClusterView, Simulator
    from .workload import Workload

__all__ = [
    "ClusterConfig",
    "ClusterView",
    "Decisions",
    "HostType",
    "Refusal",
    "Simulator",
    "StepMetrics",
    "Workload",
]

__getattr__ = lazy(
    __name__,
    {
        "ClusterConfig": "config",
        "HostType": "config",
        "Decisions": "decisions",
        "Refusal": "decisions",
        "StepMetrics": "metrics",
        "ClusterView": "simulator",
        "Simulator": "simulator",
        "Workload": "workload",
    },
)
