"""Which hosts a large-neighbourhood search frees next: the operator that destroys, by name or of one's own.

A neighbourhood is a set of hosts. The VMs on them (but for pinned ones) may go to any place of these hosts;
what is best is then found exactly. What to free is the only choice that is not exact, so it can be learned.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8, I4, I8
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import Registry
from virtgym.envs.rescheduling.games import ReschedulingGames


@dataclass(frozen=True, eq=False)
class Scene:
    """Where a search stands, before a neighbourhood. Nothing in it may be changed.

    Attributes:
        games: One game (number 0) in which every VM is where it ends by now: ``games.state`` has what is
            free, who is where, the terms and the objective; its moves, ``movable`` and masks say nothing.
        home: Place of each VM at the start, (V,).
        limit: VMs that may end away from home.
        tried: How often each host was freed since a neighbourhood with it gained, (H,).
        gained: In how many neighbourhoods that gained a VM left it, or came to it, (H,).
        step: Neighbourhoods so far.
    """

    games: ReschedulingGames
    home: I4
    limit: int
    tried: I8
    gained: I8
    step: int

    @property
    def away(self) -> I8:
        """VMs that are not at home, (n,)."""
        return np.flatnonzero(self.games.state.vm_node[0] != self.home)

    @property
    def moves_left(self) -> int:
        """How many more VMs may leave home; those that are away may go elsewhere, too."""
        return self.limit - len(self.away)

    def fragments(self) -> F8:
        """Free CPU of each host's nodes that holds no whole VM of the size, in sizes, (H,)."""
        p = self.games.params
        rest = self.games.state.free_cpu[0] % p.size / p.size
        return np.asarray(rest.reshape(p.n_hosts, p.per_host).sum(axis=1))

    def ends(self) -> I8:
        """Hosts that a VM has left or come to, in ascending order."""
        p, away = self.games.params, self.away
        places = np.concatenate([self.home[away], self.games.state.vm_node[0, away]])
        return np.unique(places // p.per_host)


Destroy = Callable[[Scene, int, np.random.Generator], I8]
"""``destroy(scene, n_hosts, rng)``: the hosts to free, distinct numbers, about ``n_hosts`` of them."""


def draw_hosts(weights: F8, n_hosts: int, rng: np.random.Generator) -> I8:
    """Draw distinct hosts with chances in proportion to weights.

    Args:
        weights: 0 or more of each host, (H,).
        n_hosts: How many.
        rng: Generator of what is drawn.
    """
    keys = rng.exponential(size=len(weights)) / np.maximum(weights, 1e-12)
    return np.argsort(keys, kind="stable")[:n_hosts]


def destroy_random(scene: Scene, n_hosts: int, rng: np.random.Generator) -> I8:
    """Any hosts."""
    return draw_hosts(np.ones(scene.games.params.n_hosts), n_hosts, rng)


def destroy_fragments(scene: Scene, n_hosts: int, rng: np.random.Generator) -> I8:
    """Hosts at the ends of moves, whose moves may be spent better, and hosts with much of a fragment."""
    weights = 0.1 + scene.fragments()
    ends = np.zeros(len(weights))
    ends[scene.ends()] = 1.0
    weights *= 1.0 + ends * rng.choice([0.0, 1.0, 4.0])
    return draw_hosts(weights / (1.0 + scene.tried), n_hosts, rng)


DESTROYS = Registry("policy.destroy", callable, "a function destroy(scene, n_hosts, rng)")
"""Every destroy operator that has a name."""
DESTROYS.register("fragments", "hosts at the ends of moves, and with fragments", destroy_fragments)
DESTROYS.register("random", "any hosts", destroy_random)


def find_destroy(name: str) -> Destroy:
    """A destroy operator by its name, by the dotted path of one's own, or by the folder of a learned one.

    Raises:
        ConfigError: For a name that there is not, or a folder that holds none.
    """
    if DESTROYS.named(name) is None and (os.sep in name or os.path.isdir(name)):
        from .learned_destroy import load_destroy

        return load_destroy(name)
    found: Destroy = DESTROYS.find(name).factory
    return found


def chosen_hosts(destroy: Destroy, scene: Scene, n_hosts: int, rng: np.random.Generator) -> I8:
    """The hosts that an operator frees, in ascending order.

    Raises:
        ConfigError: If they are none, or no hosts of the snapshot.
    """
    hosts = np.unique(np.asarray(destroy(scene, n_hosts, rng)))
    n = scene.games.params.n_hosts
    if not (len(hosts) and hosts.dtype.kind in "iu" and hosts[0] >= 0 and hosts[-1] < n):
        raise ConfigError(f"policy.destroy: must choose hosts of 0 to {n - 1}, and at least one")
    return hosts.astype(np.int64)
