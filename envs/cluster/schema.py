"""Typed schemas of the environments' configuration (group ``conf/env``): a misspelt key is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .rewards import DEFAULT_WEIGHTS


@dataclass
class RewardConfig:
    """Weight of every term of ``rewards.TERMS``."""

    energy: float = DEFAULT_WEIGHTS["energy"]
    energy_kwh: float = DEFAULT_WEIGHTS["energy_kwh"]
    unserved: float = DEFAULT_WEIGHTS["unserved"]
    migrations: float = DEFAULT_WEIGHTS["migrations"]
    violations: float = DEFAULT_WEIGHTS["violations"]
    power_actions: float = DEFAULT_WEIGHTS["power_actions"]
    downtime: float = DEFAULT_WEIGHTS["downtime"]
    restarts: float = DEFAULT_WEIGHTS["restarts"]
    ready: float = DEFAULT_WEIGHTS["ready"]
    swap: float = DEFAULT_WEIGHTS["swap"]
    illegal: float = DEFAULT_WEIGHTS["illegal"]


@dataclass
class ClusterEnvConfig:
    """Keywords of ``gymnasium.make`` for ``virtgym/Cluster-v0``; see ``cluster.ClusterEnv``.

    ``scenario`` is missing on purpose: it is a group of its own and given when the environment is made.
    """

    _target_: str = "gymnasium.make"
    _convert_: str = "all"
    id: str = "virtgym.envs:virtgym/Cluster-v0"
    scenario_overrides: dict[str, Any] | None = None
    scenario_seed: int = 0
    resample_trace: bool = False
    actions: str = "unrolled"
    reward: RewardConfig = field(default_factory=RewardConfig)
    render_mode: str | None = None
    max_decisions_per_interval: int | None = None
    arrival: str | None = None
    tables: bool = False
    observe: bool = True
    knobs_policy: str = "virtgym.policies.literature.ConsolidationPolicy"
