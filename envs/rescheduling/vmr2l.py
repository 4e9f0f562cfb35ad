"""Snapshots in the JSON form of VMR2L (EuroSys 2025): hosts with NUMA nodes, and VMs by node.

    {"cluster_list": [{
        "host_info": [{"node_id": ID, "status": "ACTIVE", "numa": [
            {"node": 0, "total_cpu": 44, "free_cpu": 4,
             "memory_huge_total_mb": 184388, "memory_huge_free_mb": 94276}, …]}],
        "vm_instance": [{"instance_id": ID, "host_id": ID, "numa": [{"node": 0, "cpu": 4, "mem_mb": 8192}],
                         "allow_migration": true}],
        "other_requirement": {"deployment_set": [[ID, …], …]}}],
     "vm_type_list": [{"vm_type": NAME, "request_cpu": 4}]}

The hosts of all clusters of a file are one snapshot. What is taken of a node by none of the VMs stays taken;
without ``free_cpu`` and ``memory_huge_free_mb`` there is no such. Hosts whose status is not ACTIVE are left
out. A VM whose ``instance_type`` is in ``vm_type_list`` must take that many cores of its nodes together.
``deployment_set`` are anti-affinity groups: lists of VMs, or objects with such a list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import TraceError
from ..files import Located, names_its_file, one_line, read_bytes, show_found, show_path
from ..sim.models.power import SPEC_POWER_W
from .snapshot import MILLI, MOST, Snapshot, check_snapshot


class _Reader:
    """What is read of a file, and where one is in it.

    Args:
        where: What the file is called.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.hosts: dict[str, int] = {}
        self.rooms: list[tuple[int, int, int, int]] = []  # CPU, memory, and what is free of both, by node
        self.per_host = 0
        self.names: list[str] = []
        self.vms: list[tuple[int, int, int, bool, bool]] = []  # node, CPU, memory, double, fixed
        self.groups: list[list[int]] = []
        self.types: dict[str, int] = {}  # CPU by type, where the file says it

    def fail(self, at: str, text: str) -> TraceError:
        """An error at a place in the file."""
        return TraceError(f"{self.where}: {at}: {text}")

    def items(self, at: str, owner: Any, key: str, needed: bool = True) -> list[Any]:
        """A list in an object."""
        found = owner.get(key) if isinstance(owner, Mapping) else None
        if found is None and not needed:
            return []
        if not isinstance(found, list):
            raise self.fail(at, f"needs a list {key!r}")
        return found

    def text(self, at: str, owner: Any, key: str) -> str:
        """A name in an object."""
        found = owner.get(key) if isinstance(owner, Mapping) else None
        if not isinstance(found, str | int) or isinstance(found, bool):
            raise self.fail(at, f"needs a name {key!r}")
        return str(found)

    def number(self, at: str, owner: Any, key: str, unit: int, default: int | None = None) -> int:
        """A number in an object, in whole units."""
        found = owner.get(key) if isinstance(owner, Mapping) else None
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self.fail(
                at, f"needs a number {key!r}" + ("" if found is None else f", not {show_found(str(found))}")
            )
        if found < 0:
            raise self.fail(at, f"{key}={found:g}: must be 0 or more")
        if found * unit > MOST:
            raise self.fail(at, f"{key}={found:g}: is too large")
        return round(found * unit)

    def read_host(self, at: str, host: Any) -> None:
        """A host and its nodes."""
        if isinstance(host, Mapping) and str(host.get("status", "ACTIVE")).upper() != "ACTIVE":
            return
        name = self.text(at, host, "node_id")
        if name in self.hosts:
            raise self.fail(at, f"host {name} is there twice")
        nodes = self.items(at, host, "numa")
        self.per_host = self.per_host or len(nodes)
        if len(nodes) != self.per_host or len(nodes) not in (1, 2):
            raise self.fail(
                at, f"host {name} has {len(nodes)} NUMA nodes: must be 1 or 2, the same for all hosts"
            )
        first = len(self.rooms)
        self.hosts[name] = first
        self.rooms += [(0, 0, 0, 0)] * len(nodes)
        seen = set()
        for i, node in enumerate(nodes):
            here = f"{at}.numa[{i}]"
            number = self.number(here, node, "node", 1, i)
            if number >= len(nodes) or number in seen:
                raise self.fail(
                    here, f"node={number}: must be one of the host's {len(nodes)} nodes, each once"
                )
            seen.add(number)
            cpu = self.number(here, node, "total_cpu", MILLI)
            mem = self.number(here, node, "memory_huge_total_mb", 1)
            free = self.number(here, node, "free_cpu", MILLI, -1)
            room = self.number(here, node, "memory_huge_free_mb", 1, -1)
            if free > cpu or room > mem:
                raise self.fail(here, "more is free than there is")
            self.rooms[first + number] = cpu, mem, free, room

    def read_vm(self, at: str, vm: Any, index: dict[str, int]) -> None:
        """A VM and where it is."""
        name, host = self.text(at, vm, "instance_id"), self.text(at, vm, "host_id")
        if name in index:
            raise self.fail(at, f"VM {name} is there twice")
        if host not in self.hosts:
            raise self.fail(at, f"VM {name} is on host {host}, which there is not")
        nodes = self.items(at, vm, "numa")
        if len(nodes) not in (1, 2):
            raise self.fail(at, f"VM {name} is on {len(nodes)} NUMA nodes: must be 1 or 2")
        parts = []
        for i, node in enumerate(nodes):
            here = f"{at}.numa[{i}]"
            number = self.number(here, node, "node", 1)
            if number >= self.per_host:
                raise self.fail(here, f"VM {name}: node={number}: its host has {self.per_host}")
            parts.append(
                (number, self.number(here, node, "cpu", MILLI), self.number(here, node, "mem_mb", 1))
            )
        double = len(parts) == 2
        if double and (parts[0][0] == parts[1][0] or parts[0][1:] != parts[1][1:]):
            raise self.fail(at, f"VM {name}: must take the same of two different nodes")
        asked = self.types.get(str(vm.get("instance_type")))
        if asked is not None and asked != len(parts) * parts[0][1]:
            cores = f"{len(parts)} x {parts[0][1] / MILLI:g}"
            raise self.fail(at, f"VM {name}: takes {cores} cores of its nodes, its type {asked / MILLI:g}")
        node = self.hosts[host] + (0 if double else parts[0][0])
        index[name] = len(self.vms)
        self.names.append(name)
        self.vms.append((node, parts[0][1], parts[0][2], double, vm.get("allow_migration", True) is False))

    def read_group(self, at: str, group: Any, index: dict[str, int]) -> None:
        """VMs that are to be on different hosts."""
        if isinstance(group, Mapping):
            lists = [value for value in group.values() if isinstance(value, list)]
            group = lists[0] if len(lists) == 1 else None
        if not isinstance(group, list):
            raise self.fail(at, "must be a list of VMs")
        for name in group:
            if str(name) not in index:
                raise self.fail(at, f"names VM {show_found(str(name))}, which there is not")
        self.groups.append([index[str(name)] for name in group])

    def read(self, data: Any) -> None:
        """Everything."""
        index: dict[str, int] = {}
        for i, kind in enumerate(self.items("the file", data, "vm_type_list", needed=False)):
            at = f"vm_type_list[{i}]"
            self.types[self.text(at, kind, "vm_type")] = self.number(at, kind, "request_cpu", MILLI)
        clusters = self.items("the file", data, "cluster_list")
        for c, cluster in enumerate(clusters):
            for i, host in enumerate(self.items(f"cluster_list[{c}]", cluster, "host_info")):
                self.read_host(f"cluster_list[{c}].host_info[{i}]", host)
        for c, cluster in enumerate(clusters):
            for i, vm in enumerate(self.items(f"cluster_list[{c}]", cluster, "vm_instance")):
                self.read_vm(f"cluster_list[{c}].vm_instance[{i}]", vm, index)
            more = cluster.get("other_requirement") or {}
            key = f"cluster_list[{c}].other_requirement"
            for i, group in enumerate(self.items(key, more, "deployment_set", needed=False)):
                self.read_group(f"{key}.deployment_set[{i}]", group, index)


@names_its_file
def read_snapshot(path: Located) -> Snapshot:
    """Read a snapshot.

    Args:
        path: A JSON file.

    Raises:
        TraceError: In one line with the file, the place in it, and what is wrong there.
    """
    where = show_path(path)
    try:
        data = json.loads(read_bytes(path))
    except json.JSONDecodeError as error:
        raise TraceError(f"{where}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{where}: not JSON ({one_line(error)})") from None
    reader = _Reader(where)
    reader.read(data)
    if not reader.rooms or not reader.vms:
        raise TraceError(f"{where}: has no {'hosts' if not reader.rooms else 'VMs'}")
    node, cpu, mem, double, fixed = map(np.array, zip(*reader.vms, strict=True))
    rooms = np.array(reader.rooms, dtype=np.int32)
    group = np.full(len(node), -1, np.int32)
    for g, members in enumerate(reader.groups):
        if (group[members] >= 0).any():
            v = members[int(np.argmax(group[members] >= 0))]
            raise TraceError(f"{where}: VM {reader.names[v]} is in two deployment sets")
        group[members] = g
    n_hosts = len(rooms) // reader.per_host
    whole = Snapshot(
        where, rooms[:, 0], rooms[:, 1], cpu.astype(np.int32), mem.astype(np.int32), double.astype(np.bool_),
        node.astype(np.int32), fixed.astype(np.bool_), group, reader.per_host, np.zeros(n_hosts, np.int32),
        np.array([SPEC_POWER_W["dell_r740_8280"]]), list(reader.hosts), reader.names,
    )  # fmt: skip
    check_snapshot(whole, where, TraceError)
    return _without_foreign(whole, rooms)


def _without_foreign(whole: Snapshot, rooms: Any) -> Snapshot:
    """Take off the nodes what others than the VMs have, as far as the file says what is free."""
    from dataclasses import replace

    found = []
    for what, capacity, free, said in zip(
        ("cores", "memory"), (whole.node_cpu, whole.node_mem), whole.free(), (rooms[:, 2], rooms[:, 3])
    ):
        for a in np.flatnonzero((said >= 0) & (said > free))[:1].tolist():
            node = f"host {whole.host_name(a // whole.nodes_per_host)}, node {a % whole.nodes_per_host}"
            raise TraceError(f"{whole.name}: {node}: its VMs leave less {what} than is free")
        found.append(capacity - np.where(said >= 0, free - said, 0).astype(np.int32))
    name = whole.name.rsplit("/", 1)[-1]
    return replace(whole, name=name, node_cpu=found[0], node_mem=found[1])
