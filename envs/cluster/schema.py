"""Typed schemas of the environments' configuration (group ``conf/env``): a misspelt key is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any

from .rewards import default_weights

RewardConfig = make_dataclass(
    "RewardConfig", [(name, float, field(default=weight)) for name, weight in default_weights().items()]
)
"""Weight of every term of ``rewards.TERMS`` that is registered when this is imported."""


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
    reward: Any = field(default_factory=RewardConfig)
    render_mode: str | None = None
    max_decisions_per_interval: int | None = None
    arrival: str | None = None
    restart: str | None = None
    tables: bool = False
    observe: bool = True
    knobs_policy: str = "virtgym.policies.literature.ConsolidationPolicy"
    candidates: Any = None
    metrics: Any = ()
    oracle: bool = False
