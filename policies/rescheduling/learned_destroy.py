"""A learned destroy operator: of every host the chance that freeing it now leads to a better plan.

A small network (``odds``) reads what is on a host, what the search has done with it, and where the search
stands, all by counting: any cluster, any objective. A neighbourhood is drawn without replacement by the
chances, so that several hosts which fit each other may come together, and none is ruled out.
"""

from __future__ import annotations

import os

import numpy as np

from virtgym.envs.arrays import F4, F8, I8

from ..learned.architecture import HOST, Layout
from ..learned.storage import Member
from ..ties import tied_ranks
from .destroy import Scene, draw_hosts
from .odds import Odds, load_members

LAYOUT = Layout.current(HOST)
"""What the network reads."""

SHARP = 1.5
"""Hosts are drawn in proportion to their chances to this power."""

LEAST = 1e-3
"""Least chance of a host, over the best one."""


def _few(n: I8 | F8, half: float) -> F8:
    """Counts, of any size, as 0 to 1."""
    return np.asarray(n / (n + half), np.float64)


def _rank(values: F8 | I8) -> F8:
    """Place of each value among all, 0 to 1."""
    return tied_ranks(values) / max(1, len(values) - 1)


def features(scene: Scene, n_hosts: int) -> F4:
    """Inputs of the network, (H, features), in the order of ``LAYOUT``.

    Args:
        scene: Where the search stands.
        n_hosts: How many hosts are to be freed.
    """
    p, s = scene.games.params, scene.games.state
    k, H, n = int(s.snapshot[0]), p.n_hosts, p.per_host
    there = p.vm_class[k] >= 0
    host = s.vm_node[0, there] // n
    free, total = (x.reshape(H, n).astype(np.float64) for x in (s.free_cpu[0], p.node_cpu[k]))
    free_mem, total_mem = (x.reshape(H, n).sum(axis=1) for x in (s.free_mem[0], p.node_mem[k]))
    rest = free % p.size / p.size
    load = 1.0 - free.sum(axis=1) / np.maximum(total.sum(axis=1), 1.0)
    n_vms = s.host_vms[0].astype(np.int64)
    bins = np.searchsorted(np.array([0.25, 0.5, 1.0]) * p.size, p.vm_cpu[k, there])
    by_size = np.bincount(4 * host + bins, minlength=4 * H).reshape(H, 4)
    movable = np.bincount(host[~p.vm_fixed[k, there]], minlength=H)
    # Whole ones that the best VM to leave would make: two of a double VM.
    whole = np.zeros(there.sum(), np.float64)
    for node in range(n):
        takes = p.vm_double[k, there] | (s.vm_node[0, there] % n == node)
        whole += takes & (rest[host, node] * p.size + p.vm_rest[k, there] >= p.size)
    leaving = np.zeros(H)
    np.maximum.at(leaving, host, 0.5 * whole)
    away = scene.away
    come, gone = (np.bincount(x[away] // n, minlength=H) for x in (s.vm_node[0], scene.home))
    columns = (
        load, _rank(load), 1.0 - free_mem / np.maximum(total_mem, 1), rest.min(axis=1), rest.max(axis=1),
        _few((free // p.size).sum(axis=1), 2.0), _few(n_vms, 8.0), _rank(n_vms), _few(movable, 8.0),
        *_few(by_size, 2.0).T, leaving, _few(come, 1.0), _few(gone, 1.0), _few(scene.tried, 2.0),
        _few(scene.gained, 1.0),
        np.full(H, scene.moves_left / max(scene.limit, 1)), np.full(H, scene.step / (scene.step + 20.0)),
        np.full(H, min(1.0, n_hosts / H)),
    )  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


class LearnedDestroy:
    """A destroy operator of networks.

    Args:
        members: The networks.
    """

    def __init__(self, members: tuple[Member, ...]) -> None:
        self._odds = Odds(members)

    def __call__(self, scene: Scene, n_hosts: int, rng: np.random.Generator) -> I8:
        """The hosts to free: ``destroy.Destroy``."""
        chance = self._odds.chance("host", features(scene, n_hosts))
        return draw_hosts(np.maximum(chance / chance.max(), LEAST) ** SHARP, n_hosts, rng)


def load_destroy(folder: str | os.PathLike[str]) -> LearnedDestroy:
    """Make an operator of its folder; no code in it is run.

    Raises:
        ConfigError: If the folder holds none; one line that names it.
    """
    return LearnedDestroy(load_members("policy.destroy", folder, LAYOUT, "operators destroyer"))
