"""Where VMs end, made better a neighbourhood at a time: the VMs on some hosts are placed anew exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from virtgym.envs.arrays import I4, I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.rescheduling.game import shift_vm, write_terms
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.state import ReschedulingParams, ReschedulingState

from ..solvers.snapshots.migrations import Found, Question, answer
from .destroy import Scene


@kernel
def _end_at(p: ReschedulingParams, s: ReschedulingState, b: int, target: I4, move_ms: int) -> None:
    """Put every VM where it shall be, whatever the order, and write the terms."""
    for v in range(p.n_vms):
        if target[v] != s.vm_node[b, v]:
            shift_vm(p, s, b, v, target[v])
    s.move_ms[b] = move_ms
    write_terms(p, s, b)


class Neighbourhoods:
    """A search over where VMs end.

    VMs of a kind are alike, so they are told apart only by where they are at home: of those that end at a
    place as many as possible are at home there. So no assignment has more VMs away than it needs.

    Args:
        games: One game, a fork; it is played with.
        everything: Free VMs that change nothing where they go, too: those of whole multiples of the size
            where only fragments count. They are in no one's way that gains.

    Attributes:
        scene: Where the search stands.
        failed: Neighbourhoods that the solver gave up.
    """

    def __init__(self, games: ReschedulingGames, everything: bool = False) -> None:
        self.games = games
        p, s = games.params, games.state
        k = int(s.snapshot[0])
        self.kind = p.vm_class[k].astype(np.int64)
        grouped = p.vm_group[k] >= 0
        self.kind[grouped] = p.n_classes + np.arange(int(grouped.sum()))
        self.kind[p.vm_fixed[k] | (p.vm_class[k] < 0)] = -1
        only_fragments = p.weights[0] > 0.0 and not p.weights[1:].any()
        if only_fragments and not everything:
            self.kind[p.vm_rest[k] == 0] = -1
        self._move_ms = int(s.move_ms[0])
        limit = games.limit - int(s.moves[0])
        tried, gained = np.zeros((2, p.n_hosts), np.int64)
        self.scene = Scene(games, s.vm_node[0].copy(), limit, tried, gained, 0)
        self.failed = 0

    @property
    def objective(self) -> float:
        """The objective of where VMs end by now."""
        return float(self.games.state.objective[0])

    @property
    def target(self) -> I4:
        """Where VMs end by now, (V,)."""
        where: I4 = self.games.state.vm_node[0].copy()
        return where

    def n_variables(self) -> int:
        """Kinds times places: how large the whole problem is."""
        return len(np.unique(self.kind[self.kind >= 0])) * self.games.params.n_nodes

    def take(self, target: I4) -> None:
        """Let VMs end elsewhere."""
        p, k = self.games.params, int(self.games.state.snapshot[0])
        where = self._at_home_if_possible(target)
        away = np.flatnonzero(where != self.scene.home)
        ms = self._move_ms + int(p.vm_ms[k, away].sum())
        _end_at(self.games.kernel_params, self.games.kernel_state, 0, where, ms)

    def _at_home_if_possible(self, target: I4) -> I4:
        """The same counts of kinds at places, with as many VMs at home as possible, (V,)."""
        vms = np.flatnonzero(self.kind >= 0)
        n = np.int64(self.games.params.n_nodes)
        home = self.kind[vms] * n + self.scene.home[vms]
        order = np.argsort(home, kind="stable")
        slots = np.sort(self.kind[vms] * n + target[vms])
        keys = home[order]
        # The j-th VM of a kind that is at home at a place stays if more than j end there.
        rank = np.arange(len(keys)) - np.searchsorted(keys, keys)
        stays = rank < np.searchsorted(slots, keys, "right") - np.searchsorted(slots, keys)
        own = np.searchsorted(keys, slots, "right") - np.searchsorted(keys, slots)
        free = np.arange(len(slots)) - np.searchsorted(slots, slots) >= own
        where = target.astype(np.int32).copy()
        where[vms[order[stays]]] = keys[stays] % n
        where[vms[order[~stays]]] = slots[free] % n
        return where

    def inside(self, hosts: I8) -> int:
        """How many VMs that are away from home are on some hosts."""
        away = self.scene.away
        places = self.games.state.vm_node[0, away[self.kind[away] >= 0]]
        return int(np.isin(places // self.games.params.per_host, hosts).sum())

    def free(self, hosts: I8, moves: int, exact: bool = False, **effort: Any) -> Found | None:
        """Place the VMs on some hosts anew; it is taken unless it is worse.

        Args:
            hosts: The hosts, in ascending order.
            moves: How many more VMs than now may be away from home.
            exact: As of ``Question``.
            **effort: ``work``, ``seconds`` and ``seed`` of ``answer``.
        """
        scene, before, was = self.scene, self.objective, self.target
        away = self.inside(hosts) + moves
        question = Question(self.games, scene.home, self.kind, hosts, away, exact=exact)
        found = answer(question, **effort)
        if found is None:
            self.failed += 1
        else:
            self.take(found.target)
            if self.objective > before + 1e-12 or len(scene.away) > scene.limit:
                self.take(was)
        self.settle(hosts, before, was)
        return found

    def settle(self, hosts: I8, before: float, was: I4) -> bool:
        """Note what came of a neighbourhood; whether it gained.

        Args:
            hosts: The hosts that were freed.
            before: The objective before.
            was: Where VMs ended before, (V,).
        """
        scene, gained = self.scene, self.objective < before - 1e-12
        scene.tried[hosts] = 0 if gained else scene.tried[hosts] + 1
        if gained:
            moved = np.flatnonzero(self.target != was)
            ends = np.concatenate([was[moved], self.target[moved]]) // self.games.params.per_host
            scene.gained[np.unique(ends)] += 1
        self.scene = replace(scene, step=scene.step + 1)
        return gained
