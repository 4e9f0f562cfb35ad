"""Placement rules of a cluster: VMs that belong together or apart, and VMs that belong on certain hosts.

Orders of policies are not held to them: a plan may have to pass through what it breaks. Single choices of
agents are (``guarantee``). Rules that nobody could keep, given when the VMs come and go, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import I4, I8
from ...checks import need

Group = tuple[int, ...]


@dataclass(frozen=True)
class VmHostRule:
    """VMs and the hosts that they belong on.

    Attributes:
        vms: VMs by index.
        hosts: Hosts by index.
    """

    vms: Group
    hosts: Group

    def __post_init__(self) -> None:
        """Check that both are given.

        Raises:
            ConfigError: If one is empty or holds a negative index.
        """
        for name, items in (("vms", self.vms), ("hosts", self.hosts)):
            need(bool(items), f"rules.{name}: a VM-host rule needs at least one")
            need(all(i >= 0 for i in items), f"rules.{name}={list(items)}: must be 0 or more")


@dataclass(frozen=True)
class Rules:
    """Rules of a cluster.

    Attributes:
        affinity: Groups of VMs that are to share a host; groups with a VM in common are one.
        anti_affinity: Groups of VMs of which no two are to share a host.
        must: Where VMs have to run; of several rules for one VM all hold.
        should: Where VMs are to run if possible.

    Examples:
        >>> Rules(affinity=((0, 1), (1, 2)), anti_affinity=((0, 2),)).check(3, 4)
        Traceback (most recent call last):
            ...
        virtgym.envs.errors.ConfigError: rules: VMs 0 and 2 are to be together and apart
    """

    affinity: tuple[Group, ...] = ()
    anti_affinity: tuple[Group, ...] = ()
    must: tuple[VmHostRule, ...] = ()
    should: tuple[VmHostRule, ...] = ()

    def __post_init__(self) -> None:
        """Check the form of every rule; whether the rules can be kept says ``check``.

        Raises:
            ConfigError: Naming the rule and what is wrong with it.
        """
        for name in ("affinity", "anti_affinity"):
            for group in getattr(self, name):
                need(bool(group), f"rules.{name}: needs VMs")
                need(len(set(group)) == len(group), f"rules.{name}={_show(group)}: a VM is named twice")
                need(all(v >= 0 for v in group), f"rules.{name}={_show(group)}: must be 0 or more")

    @property
    def joined(self) -> tuple[Group, ...]:
        """Affinity, with groups that have a VM in common made one; sorted."""
        return merge_groups(self.affinity)

    def check(
        self,
        n_vms: int,
        n_hosts: int,
        arrival_s: NDArray[np.float64] | None = None,
        departure_s: NDArray[np.float64] | None = None,
        horizon_s: float = math.inf,
    ) -> None:
        """Check that what the rules name exists, and that the VMs that are there together can keep them.

        A rule about VMs that are never there at the same time asks for nothing.

        Args:
            n_vms: Number of VMs.
            n_hosts: Number of hosts.
            arrival_s: When each VM arrives, (n_vms,), s; None = at 0.
            departure_s: When it leaves, (n_vms,), s; None = never.
            horizon_s: End of the episode, s: who arrives later is never there.

        Raises:
            ConfigError: Naming the rule, and the largest index allowed or the VMs that cannot keep it.
        """
        for name in ("must", "should"):
            for rule in getattr(self, name):
                _below(f"rules.{name}: VM", rule.vms, n_vms)
                _below(f"rules.{name}: host", rule.hosts, n_hosts)
        for name in ("affinity", "anti_affinity"):
            for group in getattr(self, name):
                _below(f"rules.{name}: VM", group, n_vms)
        arrival = np.zeros(n_vms) if arrival_s is None else arrival_s
        departure = np.full(n_vms, math.inf) if departure_s is None else departure_s
        allowed = self._allowed()
        everywhere = frozenset(range(n_hosts))
        for v, hosts in allowed.items():
            need(bool(hosts) or arrival[v] >= horizon_s, f"rules.must: no host is left for VM {v}")
        label = {v: i for i, group in enumerate(self.joined) for v in group}
        for group in self.joined:
            known = [v for v in group if v in allowed]  # the others go wherever these may
            for there in _together(known, arrival, departure, horizon_s):
                need(
                    bool(frozenset.intersection(*(allowed[v] for v in there))),
                    f"rules: no host may hold all of the VMs {_show(there)}, which are to be together",
                )
        for group in self.anti_affinity:
            for there in _together(group, arrival, departure, horizon_s):
                seen: dict[int, int] = {}
                for v in there:
                    other = seen.setdefault(label[v], v) if v in label else v
                    need(other == v, f"rules: VMs {other} and {v} are to be together and apart")
                room = len(frozenset().union(*(allowed.get(v, everywhere) for v in there)))
                offer = f"only {room} hosts are allowed" if room < n_hosts else f"there are {room} hosts only"
                need(
                    room >= len(there),
                    f"rules.anti_affinity={_show(group)}: {len(there)} of them are there at the same time, "
                    f"from {max(arrival[v] for v in there):g} s on, and {offer}",
                )

    def _allowed(self) -> dict[int, frozenset[int]]:
        """Hosts on which VMs must run, of those that may not run anywhere."""
        found: dict[int, frozenset[int]] = {}
        for rule in self.must:
            hosts = frozenset(rule.hosts)
            for v in rule.vms:
                found[v] = found.get(v, hosts) & hosts
        return found

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self.affinity or self.anti_affinity or self.must or self.should)


def _together(
    group: Sequence[int], arrival_s: NDArray[np.float64], departure_s: NDArray[np.float64], horizon_s: float
) -> Iterator[list[int]]:
    """Those of a group that are there at the same time, at every arrival of one of them before the horizon.

    The VMs there at any other time are some of those there at the last arrival before it.
    """
    vms = np.asarray(group, dtype=np.int64)
    arrival, departure = arrival_s[vms], departure_s[vms]
    for now in np.unique(arrival[arrival < horizon_s]):
        yield vms[(arrival <= now) & (now < departure)].tolist()


def _show(group: Sequence[int]) -> str:
    """A group as text, cut where it is long."""
    first = ", ".join(map(str, group[:8]))
    return f"[{first}, …]" if len(group) > 8 else f"[{first}]"


def _below(what: str, items: Sequence[int], n: int) -> None:
    need(max(items) < n, f"{what} {max(items)}: no such one, must lie in 0..{n - 1}")


def merge_groups(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Join groups that have a member in common.

    Args:
        groups: Groups of indices.

    Returns:
        Disjoint groups, each sorted, by first member.

    Examples:
        >>> merge_groups([(5, 1), (7, 8), (1, 3)])
        ((1, 3, 5), (7, 8))
    """
    merged: list[set[int]] = []
    for group in groups:
        mine = set(group)
        apart = [other for other in merged if not other & mine]
        for other in merged:
            if other & mine:
                mine |= other
        merged = [*apart, mine]
    return tuple(sorted(tuple(sorted(group)) for group in merged))


def named_hosts(rules: Sequence[VmHostRule], strict: bool) -> dict[int, frozenset[int]]:
    """Hosts of every VM that rules name.

    Of several rules for a VM all hold; of wishes that contradict each other (not ``strict``) the first.
    """
    named: dict[int, frozenset[int]] = {}
    for rule in rules:
        hosts = frozenset(rule.hosts)
        for v in rule.vms:
            both = named.get(v, hosts) & hosts
            named[v] = both if both or strict else named[v]
    return named


def _groups(groups: Sequence[Iterable[int]]) -> tuple[I8, I4]:
    """Start of each group, and all members in a row."""
    members = [list(group) for group in groups]
    first = np.concatenate([[0], np.cumsum([len(group) for group in members])]).astype(np.int64)
    return first, np.array([v for group in members for v in group], dtype=np.int32)


def rule_arrays(rules: Rules, n_vms: int, n_hosts: int) -> dict[str, Any]:
    """Placement rules as flat arrays.

    Args:
        rules: The cluster's rules.
        n_vms: V.
        n_hosts: H.

    Returns:
        By name, as in ``parameters.ClusterParams``.
    """
    aff = np.full(n_vms, -1, dtype=np.int32)
    for i, group in enumerate(rules.joined):
        aff[list(group)] = i
    of: list[list[int]] = [[] for _ in range(n_vms)]
    for i, group in enumerate(rules.anti_affinity):
        for v in group:
            of[v].append(i)
    sets: dict[frozenset[int], int] = {}
    rows = {"must_row": named_hosts(rules.must, True), "should_row": named_hosts(rules.should, False)}
    known: dict[str, Any] = {name: np.full(n_vms, -1, dtype=np.int32) for name in rows}
    for name, named in rows.items():
        for v, hosts in named.items():
            known[name][v] = sets.setdefault(hosts, len(sets))
    table = np.zeros((len(sets), n_hosts), dtype=np.int8)
    for hosts, row in sets.items():
        table[row, list(hosts)] = 1
    groups = {"aff": rules.joined, "apart": rules.anti_affinity, "anti": of}
    for name, members in groups.items():
        known[f"{name}_first"], known[f"{name}_{'of' if name == 'anti' else 'vm'}"] = _groups(members)
    return known | {"aff": aff, "host_sets": table}
