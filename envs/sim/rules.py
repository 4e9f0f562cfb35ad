"""Placement rules of a cluster: VMs that belong together or apart, and VMs that belong on certain hosts.

The simulator itself does not enforce them: placing VMs is what policies are for. A rule is checked when it is
made: rules that nobody could keep are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .validation import need

__all__ = ["Rules", "VmHostRule", "merge_groups"]

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
        >>> rules = Rules(affinity=((0, 1),), anti_affinity=((1, 2),), must=(VmHostRule((2,), (0, 3)),))
        >>> sorted(rules.allowed_hosts(2))
        [0, 3]
        >>> Rules(affinity=((0, 1), (1, 2)), anti_affinity=((0, 2),))
        Traceback (most recent call last):
            ...
        virtgym.envs.sim.errors.ConfigError: rules: VMs 0 and 2 are to be together and apart
    """

    affinity: tuple[Group, ...] = ()
    anti_affinity: tuple[Group, ...] = ()
    must: tuple[VmHostRule, ...] = ()
    should: tuple[VmHostRule, ...] = ()

    def __post_init__(self) -> None:
        """Check every rule, and that they can be kept together.

        Raises:
            ConfigError: Naming the rule and what is wrong with it.
        """
        for name in ("affinity", "anti_affinity"):
            for group in getattr(self, name):
                need(len(set(group)) >= 2, f"rules.{name}={list(group)}: needs at least two VMs")
                need(len(set(group)) == len(group), f"rules.{name}={list(group)}: a VM is named twice")
                need(all(v >= 0 for v in group), f"rules.{name}={list(group)}: must be 0 or more")
        together = {v: i for i, group in enumerate(self.joined) for v in group}
        for group in self.anti_affinity:
            seen: dict[int, int] = {}
            for v in group:
                if v not in together:
                    continue
                other = seen.setdefault(together[v], v)
                need(other == v, f"rules: VMs {other} and {v} are to be together and apart")
        self._check_hosts()

    def _check_hosts(self) -> None:
        """Every VM, group and set of VMs that keep apart needs hosts enough."""
        for v in {v for rule in self.must for v in rule.vms}:
            need(bool(self.allowed_hosts(v)), f"rules.must: no host is left for VM {v}")
        for group in self.joined:
            sets = [hosts for v in group if (hosts := self.allowed_hosts(v)) is not None]
            need(
                not sets or bool(frozenset.intersection(*sets)),
                f"rules: no host may hold all of the VMs {list(group)}, which are to be together",
            )
        for group in self.anti_affinity:
            apart = [self.allowed_hosts(v) for v in group]
            known = [hosts for hosts in apart if hosts is not None]
            room = len(frozenset().union(*known)) if len(known) == len(apart) else len(group)
            need(
                room >= len(group), f"rules.anti_affinity={list(group)}: only {room} hosts are allowed for it"
            )

    @property
    def joined(self) -> tuple[Group, ...]:
        """Affinity, with groups that have a VM in common made one; sorted."""
        return merge_groups(self.affinity)

    def allowed_hosts(self, vm: int) -> frozenset[int] | None:
        """Hosts on which a VM must run; None = any."""
        sets = [frozenset(rule.hosts) for rule in self.must if vm in rule.vms]
        return frozenset.intersection(*sets) if sets else None

    def check(self, n_vms: int, n_hosts: int) -> None:
        """Check that what the rules name exists.

        Args:
            n_vms: Number of VMs.
            n_hosts: Number of hosts.

        Raises:
            ConfigError: Naming the rule and the largest index allowed.
        """
        for name in ("must", "should"):
            for rule in getattr(self, name):
                _below(f"rules.{name}: VM", rule.vms, n_vms)
                _below(f"rules.{name}: host", rule.hosts, n_hosts)
        for name in ("affinity", "anti_affinity"):
            for group in getattr(self, name):
                _below(f"rules.{name}: VM", group, n_vms)
        for group in self.anti_affinity:
            need(len(group) <= n_hosts, f"rules.anti_affinity={list(group)}: there are {n_hosts} hosts only")

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self.affinity or self.anti_affinity or self.must or self.should)


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
