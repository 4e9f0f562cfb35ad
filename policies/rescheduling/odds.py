"""Small networks that give chances: those of guides of annealing, and of learned destroy operators.

A *tower* reads a vector of features x and gives

    p = 1 / (1 + exp(-(w · relu(W₂ relu(W₁ x + b₁) + b₂) + b₃)))

with any number of hidden layers. Sums have a fixed order (``learned.kernel_net``).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from virtgym.envs.arrays import F4, F8
from virtgym.envs.errors import ConfigError

from ..learned.architecture import ACTIVATIONS, TOWERS, Architecture, Layout
from ..learned.kernel_net import LINEAR, dense, turned
from ..learned.storage import Agent, Member, load_agent


def odds_architecture(layout: Layout, network: str, hidden: tuple[int, ...]) -> Architecture:
    """Networks that read a layout, of some widths."""
    return Architecture(network, *layout.sizes, hidden=hidden)


class Odds:
    """Networks, a tower for each thing that has chances; of several members the logits are averaged.

    Args:
        members: The networks.
    """

    def __init__(self, members: tuple[Member, ...]) -> None:
        self._layers = {
            tower: [
                [
                    (turned(m.weights, f"{tower}.{i}"), m.weights[f"{tower}.{i}.bias"])
                    for i in range(len(m.architecture.hidden) + 1)
                ]
                for m in members
            ]
            for tower in TOWERS[members[0].architecture.network]
        }

    def chance(self, tower: str, inputs: F4) -> F8:
        """Chances of rows, (...,).

        Args:
            tower: Its name.
            inputs: Features, (..., features).
        """
        flat = np.ascontiguousarray(inputs.reshape(-1, inputs.shape[-1]))
        logits: Any = 0.0
        for layers in self._layers[tower]:
            x = flat
            for i, (w, bias) in enumerate(layers):
                x = dense(x, w, bias, ACTIVATIONS.index("relu") if i < len(layers) - 1 else LINEAR)
            logits = logits + x[:, 0].astype(np.float64) / len(self._layers[tower])
        found: F8 = (1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))).reshape(inputs.shape[:-1])
        return found


def members_of(agent: Agent, name: str, layout: Layout, agents: str) -> tuple[Member, ...]:
    """The networks of an agent's folder, if they are what a search wants.

    Args:
        agent: What the folder holds.
        name: What to call it in messages.
        layout: What they must read.
        agents: What is wanted, and which ``agent`` of a training makes it: "guides", "proposer".

    Raises:
        ConfigError: If it is something else, or reads other features than this version has.
    """
    what, made_by = agents.split()
    if agent.task != layout.task:
        raise ConfigError(
            f"{name}: is an agent for {agent.task}; {what} come from virtgym train agent={made_by}"
        )
    for member in agent.members:
        if member.layout != layout:
            raise ConfigError(f"{name}: reads other features than {what} of this version")
    return agent.members


def load_members(key: str, folder: str | os.PathLike[str], layout: Layout, agents: str) -> tuple[Member, ...]:
    """``members_of`` a folder that a key names; no code in it is run."""
    return members_of(load_agent(folder), f"{key}={os.fspath(folder)}", layout, agents)
