"""Trained agents that come with virtgym, as policies with a name; weights are read when one first plays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from virtgym.envs.arrays import F4
from virtgym.envs.checks import need, one_of

if TYPE_CHECKING:
    from virtgym.envs.scenarios.scenario import Scenario

    from .agent import LearnedPolicy

_FOLDER = Path(__file__).parent / "shipped"

DEMO, SUITE = "demo", "suite"
"""The agents for placement and for clusters."""

SHIPPED: tuple[str, ...] = tuple(sorted(path.name for path in _FOLDER.iterdir()))
"""Every agent that ships."""


def shipped_folder(agent: str) -> Path:
    """Folder of an agent that ships.

    Args:
        agent: A name of ``SHIPPED``.

    Raises:
        ConfigError: If there is none of this name.
    """
    return _FOLDER / one_of("policy.agent", agent, SHIPPED)


@dataclass
class ShippedPolicy:
    """Plays an agent that ships, like ``policy=FOLDER`` plays one of yours.

    Attributes:
        agent: A name of ``SHIPPED``.
    """

    task: ClassVar[str] = "placement"
    kind: ClassVar[str] = "agent"
    stateless: ClassVar[bool] = True

    agent: str = DEMO

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigError: For an unknown agent.
        """
        self.folder = shipped_folder(self.agent)

    @cached_property
    def player(self) -> LearnedPolicy:
        """The agent, read from its folder when it is first asked for."""
        from .agent import load_policy

        return load_policy(self.folder)

    @property
    def observation(self) -> str:
        """The argument ``observation`` of environments that it plays."""
        return self.player.observation

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        """Begin; see ``learned.LearnedPolicy``."""
        self.player.reset(view, rng)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Choose the action of every game; see ``learned.LearnedPolicy``."""
        return self.player.predict(observation, state, episode_start, deterministic, action_masks)

    def explain(self) -> tuple[str, F4]:
        """By what the last actions were chosen; see ``learned.LearnedPolicy``."""
        return self.player.explain()


@dataclass
class SuiteAgentPolicy(ShippedPolicy):
    """Plays the agent that ships for clusters, which learned on the cluster tasks of the suite."""

    task: ClassVar[str] = "cluster"

    agent: str = SUITE

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigError: For an unknown agent.
        """
        need(self.agent != DEMO, f"policy.agent={DEMO}: is for placement; policy=demo_agent plays it")
        super().__post_init__()

    def begin_on(self, scenario: Scenario) -> None:
        """Fall back on the rule of its kind of cluster; see ``learned.LearnedPolicy``."""
        self.player.begin_on(scenario)

    @property
    def env_options(self) -> dict[str, Any]:
        """Arguments of ``Cluster-v0`` that it must be played with."""
        return self.player.env_options
