"""The group ``rules`` of a scenario: who belongs together, apart or on certain hosts, by index or name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..checks import need
from ..errors import ConfigError
from ..sim.models.rules import Rules, VmHostRule
from ..sim.workload import Workload


@dataclass
class VmGroup:
    """VMs that are together or apart.

    Attributes:
        vms: Indices, or patterns of names such as ``web-*`` (``fnmatch``).
    """

    vms: list[Any] = field(default_factory=list)


@dataclass
class VmHostGroup:
    """VMs that belong on certain hosts.

    Attributes:
        vms: Indices, or patterns of names.
        hosts: Indices, or patterns of names of host types.
    """

    vms: list[Any] = field(default_factory=list)
    hosts: list[Any] = field(default_factory=list)


@dataclass
class RulesGroup:
    """Placement rules; see ``sim.rules.Rules``.

    Attributes:
        affinity: Groups of VMs that are kept on one host.
        anti_affinity: Groups of VMs of which no two are on one host.
        must: VMs that run on these hosts only.
        should: VMs that run on these hosts where there is room.
    """

    affinity: list[VmGroup] = field(default_factory=list)
    anti_affinity: list[VmGroup] = field(default_factory=list)
    must: list[VmHostGroup] = field(default_factory=list)
    should: list[VmHostGroup] = field(default_factory=list)


def build_rules(group: RulesGroup, workload: Workload, host_names: Sequence[str], horizon_s: float) -> Rules:
    """Look up who is meant.

    Args:
        group: The scenario's group.
        workload: The VMs, their names and when they come and go.
        host_names: Name of each host's type.
        horizon_s: End of the episode, s.

    Returns:
        The rules by index.

    Raises:
        ConfigError: For a pattern that nothing matches, an index that does not exist, or rules that nobody
            could keep; the line names the key.
    """
    n_vms, n_hosts = workload.n_vms, len(host_names)

    def vms(key: str, items: Sequence[Any]) -> tuple[int, ...]:
        return _indices(f"scenario.rules.{key}.vms", items, workload.vm_names, n_vms)

    def pairs(key: str) -> tuple[VmHostRule, ...]:
        found = []
        for i, item in enumerate(getattr(group, key)):
            where = f"scenario.rules.{key}.{i}.hosts"
            hosts = _indices(where, item.hosts, host_names, n_hosts)
            found.append(VmHostRule(vms(f"{key}.{i}", item.vms), hosts))
        return tuple(found)

    try:
        rules = Rules(
            affinity=tuple(vms(f"affinity.{i}", item.vms) for i, item in enumerate(group.affinity)),
            anti_affinity=tuple(
                vms(f"anti_affinity.{i}", item.vms) for i, item in enumerate(group.anti_affinity)
            ),
            must=pairs("must"),
            should=pairs("should"),
        )
        rules.check(n_vms, n_hosts, workload.vm_arrival_s, workload.vm_departure_s, horizon_s)
        return rules
    except ConfigError as error:
        line = str(error)
        raise ConfigError(line if line.startswith("scenario.") else f"scenario.{line}") from None


def _indices(key: str, items: Sequence[Any], names: Sequence[str], n: int) -> tuple[int, ...]:
    """Indices of what is meant, ascending."""
    if not items:
        raise ConfigError(f"{key}: needs indices or patterns of names")
    found: set[int] = set()
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise ConfigError(f"{key}={item}: must be an index in 0..{n - 1} or a pattern of names")
        if isinstance(item, int):
            need(0 <= item < n, f"{key}={item}: no such index, must lie in 0..{n - 1}")
            found.add(item)
            continue
        matching = [i for i, name in enumerate(names) if fnmatchcase(name, item)]
        if not matching:
            some = ", ".join(sorted(set(names))[:5]) or "there are none"
            raise ConfigError(f"{key}={item}: matches no name (names: {some})")
        found.update(matching)
    return tuple(sorted(found))
