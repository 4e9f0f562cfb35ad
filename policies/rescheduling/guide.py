"""A learned guide of annealing: which VMs, and which places, proposals are worth.

Two small networks read cheap features of a proposal and of the search,

    x = [CPU modulo size / size, double, f, f of the other node, progress],

with f the fragment of the VM's node, or of the place, in sizes (the other node counts for double VMs), and
give the odds that annealing accepts such a proposal,

    p = 1 / (1 + exp(-(w · relu(W₂ relu(W₁ x + b₁) + b₂) + b₃))).

The features take few values, so that a search asks them once for a stretch of itself, for every shape and
bin of fragments: a table. VMs are then drawn by theirs, and places by theirs, of some draws each the first
that is taken. Sums have a fixed order (``learned.kernel_net``).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from virtgym.envs.arrays import F4, F8
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.state import ReschedulingParams

from ..learned.architecture import ACTIVATIONS, PROPOSAL, Architecture, Layout
from ..learned.kernel_net import LINEAR, dense, turned
from ..learned.storage import Agent, Member, load_agent

LAYOUT = Layout.current(PROPOSAL)
"""What the networks read."""

BINS = 8
"""Bins of fragments of a node."""

STRETCHES = 10
"""Parts of a search with a table each."""

LEAST = 0.03
"""Least odds, over the best ones, of a VM or place to be drawn: nothing is ruled out."""

TRIES = 8
"""Draws of a VM or place; the last is taken anyway."""


def guide_architecture(hidden: tuple[int, ...]) -> Architecture:
    """The networks of a guide, of some widths."""
    return Architecture("odds", *LAYOUT.sizes, hidden=hidden)


def features(p: ReschedulingParams, k: int, progress: float) -> F4:
    """Inputs of every shape and bins of a node and of the other one, (K, BINS * BINS, features).

    Args:
        p: The games.
        k: Number of the snapshot.
        progress: Of the search, 0 to 1.
    """
    found = np.zeros((p.n_classes, BINS, BINS, sum(LAYOUT.sizes)), np.float32)
    double = p.class_double[k][:, None, None]
    bins = (np.arange(BINS) / BINS).astype(np.float32)
    found[..., 0] = (p.class_cpu[k] % p.size / p.size)[:, None, None]
    found[..., 1] = double
    found[..., 2] = bins[None, :, None]
    found[..., 3] = np.where(double, bins[None, None, :], 0.0)
    found[..., 4] = progress
    return found.reshape(p.n_classes, BINS * BINS, -1)


class Guide:
    """Networks that say what proposals are worth; of several the logits are averaged.

    Args:
        members: The networks.
    """

    def __init__(self, members: tuple[Member, ...]) -> None:
        self._layers = {
            tower: [
                [(turned(m.weights, name), m.weights[f"{name}.bias"]) for name in names]
                for m, names in (
                    (m, [f"{tower}.{i}" for i in range(len(m.architecture.hidden) + 1)]) for m in members
                )
            ]
            for tower in ("vm", "place")
        }

    def odds(self, inputs: F4) -> tuple[F8, F8]:
        """Odds to be drawn, of VMs over the best of all, of places over the best of the shape.

        Args:
            inputs: As of ``features``.
        """
        vm, place = (self._chance(tower, inputs) for tower in ("vm", "place"))
        place = place / place.max(axis=1, keepdims=True)
        return np.maximum(vm / vm.max(), LEAST), np.maximum(place, LEAST)

    def _chance(self, tower: str, inputs: F4) -> F8:
        flat = np.ascontiguousarray(inputs.reshape(-1, inputs.shape[-1]))
        logits: Any = 0.0
        for layers in self._layers[tower]:
            x = flat
            for i, (w, bias) in enumerate(layers):
                x = dense(x, w, bias, ACTIVATIONS.index("relu") if i < len(layers) - 1 else LINEAR)
            logits = logits + x[:, 0].astype(np.float64) / len(self._layers[tower])
        chance: F8 = (1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))).reshape(inputs.shape[:-1])
        return chance


def make_guide(agent: Agent, name: str) -> Guide:
    """The guide in an agent's folder.

    Args:
        agent: What it holds.
        name: What to call it in messages.

    Raises:
        ConfigError: If it is none, or reads other features than this version has.
    """
    if agent.task != LAYOUT.task:
        raise ConfigError(
            f"{name}: is an agent for {agent.task}; guides come from virtgym train agent=proposer"
        )
    for member in agent.members:
        if member.layout != LAYOUT:
            raise ConfigError(f"{name}: reads other features than guides of this version")
    return Guide(agent.members)


def load_guide(folder: str | os.PathLike[str]) -> Guide:
    """Make a guide of its folder; no code in it is run.

    Raises:
        ConfigError: If the folder holds no guide; one line that names it.
    """
    return make_guide(load_agent(folder), f"policy.guide={os.fspath(folder)}")
