"""A learned guide of annealing: which VMs, and which places, proposals are worth.

Two small networks read cheap features of a proposal and of the search,

    x = [CPU modulo size / size, double, f, f of the other node, progress],

with f the fragment of the VM's node, or of the place, in sizes (the other node counts for double VMs), and
give the odds that annealing accepts such a proposal (``odds``).

The features take few values, so that a search asks them once for a stretch of itself, for every shape and
bin of fragments: a table. VMs are then drawn by theirs, and places by theirs, of some draws each the first
that is taken.
"""

from __future__ import annotations

import os

import numpy as np

from virtgym.envs.arrays import F4, F8
from virtgym.envs.rescheduling.state import ReschedulingParams

from ..learned.architecture import PROPOSAL, Layout
from ..learned.storage import Member
from .odds import Odds, load_members

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
    """Networks that say what proposals are worth.

    Args:
        members: The networks.
    """

    def __init__(self, members: tuple[Member, ...]) -> None:
        self._odds = Odds(members)

    def odds(self, inputs: F4) -> tuple[F8, F8]:
        """Odds to be drawn, of VMs over the best of all, of places over the best of the shape.

        Args:
            inputs: As of ``features``.
        """
        vm, place = (self._odds.chance(tower, inputs) for tower in ("vm", "place"))
        place = place / place.max(axis=1, keepdims=True)
        return np.maximum(vm / vm.max(), LEAST), np.maximum(place, LEAST)


def load_guide(folder: str | os.PathLike[str]) -> Guide:
    """Make a guide of its folder; no code in it is run.

    Raises:
        ConfigError: If the folder holds no guide; one line that names it.
    """
    return Guide(load_members("policy.guide", folder, LAYOUT, "guides proposer"))
