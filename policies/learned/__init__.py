"""Trained agents: networks, safe storage, and the policy that plays one without PyTorch.

Only ``networks`` and the ``sb3_…`` modules need ``virtgym[rl]``.
"""

from __future__ import annotations

from .agent import LearnedPolicy, load_policy
from .architecture import Architecture, Layout
from .storage import Agent, Member, load_agent, merge_agents, save_agent

__all__ = [
    "Agent",
    "Architecture",
    "Layout",
    "LearnedPolicy",
    "Member",
    "load_agent",
    "load_policy",
    "merge_agents",
    "save_agent",
]
