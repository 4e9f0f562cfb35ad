"""Proxmox VE: what its API answers, saved as JSON files in one folder.

- ``cluster/resources`` (any file whose list holds objects of the types node and qemu or lxc);
- ``nodes/NODE/qemu/VMID/rrddata`` of every VM that runs: a list of readings, in a file whose name has the
  VMID as a number of its own (``rrddata-100.json``, ``100.json``, ``qemu/100/rrddata.json``);
- optional ``nodes/NODE/status``, in a file whose name has the node's, for the speed of its cores;
- optional ``cluster/ha/rules``: affinity of resources and of nodes.

They are as ``pvesh get PATH --output-format json`` prints them, or as the API sends them, within ``data``.
``cpu`` is a share of ``maxcpu``, memory is in bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import TraceError
from ...files import show_path
from ...traces.sniffing import Look, read_head
from ..base import Draft, Host, NamedRules, Vm
from ..json_files import json_files, number_of, read_json
from ..readers import Asked, Export
from ..usage import Series

ASSUMED_MHZ = 2000.0
"""Speed of a core where no node's status says it. [assumed] Loads are shares: it scales MHz, nothing else."""
GUESTS = ("qemu", "lxc")


def read_proxmox(path: str | os.PathLike[str], *, asked: Asked) -> Export:
    """Read the answers of the API.

    Args:
        path: The folder.
        asked: Speed of a core where it is not said.

    Raises:
        TraceError: Naming the file and the object.
    """
    found = {file: read_json(file) for file in json_files(Path(path))}
    resources = [file for file, data in found.items() if _is_resources(data)]
    if len(resources) != 1:
        what = "no" if not resources else "more than one"
        raise TraceError(
            f"{show_path(path)}: has {what} answer of cluster/resources (nodes and VMs in one list)"
        )
    draft = Draft()
    speeds = dict(_speeds(found))
    _read_resources(draft, found[resources[0]], show_path(resources[0]), speeds, asked)
    for file, data in found.items():
        if _is_rules(data):
            _read_rules(draft, data, show_path(file))
    return Export(draft, None if asked.usage else _read_usage(draft, found, show_path(path)))


def sniff(look: Look) -> bool:
    """Whether JSON in a folder has nodes and guests of Proxmox."""
    if not look.is_dir:
        return look.name.endswith(".json") and _looks(look.head)
    files = (Path(look.root) / name for name in look.names if name.endswith(".json"))
    return any(_looks(read_head(file)) for file in list(files)[:50])


def _looks(head: str) -> bool:
    return '"maxcpu"' in head and '"maxmem"' in head and ('"vmid"' in head or '"node"' in head)


def _is_resources(data: Any) -> bool:
    kinds = {item.get("type") for item in data if isinstance(item, dict)} if isinstance(data, list) else set()
    return "node" in kinds or bool(kinds & set(GUESTS))


def _is_readings(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "time" in data[0]


def _is_rules(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "rule" in data[0]


def _speeds(found: Mapping[Path, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the status of nodes says of their CPU, by what their files are called."""
    for file, data in found.items():
        if isinstance(data, dict) and isinstance(data.get("cpuinfo"), dict):
            for word in (file.stem, *file.parts[-3:-1]):
                yield word, data["cpuinfo"]


def _read_resources(
    draft: Draft, items: list[Any], where: str, speeds: Mapping[str, dict[str, Any]], asked: Asked
) -> None:
    for i, item in enumerate(items):
        here = f"{where}: [{i}]"
        if not isinstance(item, dict):
            raise TraceError(f"{here}: expected an object")
        if item.get("type") == "node":
            _add_node(draft, item, here, speeds, asked)
        elif item.get("type") in GUESTS:
            _add_guest(draft, item, here)


def _add_node(
    draft: Draft, item: Mapping[str, Any], where: str, speeds: Mapping[str, dict[str, Any]], asked: Asked
) -> None:
    name = str(item.get("node") or "")
    if not name:
        raise TraceError(f"{where}: node: must be a name")
    if item.get("status", "online") != "online":
        draft.notes.count(f"nodes that are {str(item['status'])[:20]}, left out", name)
        draft.gone.add(name)
        return
    info = next((cpu for word, cpu in speeds.items() if name in re.split(r"[^\w.-]|status-", word)), None)
    mhz, nodes = asked.core_mhz, 1
    if info is not None:
        mhz = number_of(info, "mhz", f"{where}: status of {name}: cpuinfo")
        nodes = int(number_of(info, "sockets", f"{where}: status of {name}: cpuinfo"))
    if mhz is None:
        draft.notes.count(f"nodes of which no status says the speed, {ASSUMED_MHZ:g} MHz assumed", name)
        mhz = ASSUMED_MHZ
    cores = number_of(item, "maxcpu", where)
    draft.hosts.append(
        Host(
            name=name,
            cores=int(cores),
            core_mhz=mhz,
            memory_mib=number_of(item, "maxmem", where) / 2**20,
            numa_nodes=nodes if nodes and cores % nodes == 0 else 1,
            maintenance=item.get("hastate") == "maintenance",
            where=where,
        )
    )


def _add_guest(draft: Draft, item: Mapping[str, Any], where: str) -> None:
    vmid = item.get("vmid", str(item.get("id", "")).rpartition("/")[2])
    name = str(item.get("name") or vmid)
    if item.get("template") in (1, True, "1"):
        draft.notes.count("templates, left out", name)
        return
    if item.get("status") != "running":
        draft.notes.count("VMs that do not run, left out", name)
        return
    if not str(vmid).isdigit():
        raise TraceError(f"{where}: vmid: expected a number, found {vmid!r}")
    if any(vm.name == name for vm in draft.vms):
        name = f"{name} ({vmid})"
        draft.notes.count("VMs share their name with another, and are told apart by their VMID", name)
    draft.vms.append(
        Vm(
            name=name,
            vcpus=max(1, round(number_of(item, "maxcpu", where))),
            memory_mib=number_of(item, "maxmem", where) / 2**20,
            host=str(item.get("node") or ""),
            pool=str(item.get("pool") or ""),
            key=str(vmid),
            where=where,
        )
    )


def _read_rules(draft: Draft, items: list[Any], where: str) -> None:
    """Rules of HA: resources together or apart, and resources on nodes."""
    by_id = {f"{kind}:{vm.key}": vm.name for vm in draft.vms for kind in ("vm", "ct")}
    groups: dict[str, list[Any]] = {"affinity": [], "anti_affinity": [], "must": [], "should": []}
    for i, item in enumerate(items):
        if not isinstance(item, dict) or item.get("disable") in (1, True, "1"):
            continue
        asked = item.get("resources") or ""
        words = re.split(r"[,;\s]+", asked) if isinstance(asked, str) else [str(word) for word in asked]
        vms = tuple(by_id[word] for word in words if word in by_id)
        if item.get("type") == "resource-affinity":
            groups["affinity" if item.get("affinity") == "positive" else "anti_affinity"].append(vms)
        elif item.get("type") == "node-affinity":
            nodes = tuple(
                word.partition(":")[0] for word in re.split(r"[,;\s]+", str(item.get("nodes") or ""))
            )
            groups["must" if item.get("strict") in (1, True, "1") else "should"].append((vms, nodes))
        else:
            raise TraceError(
                f"{where}: [{i}]: type: {item.get('type')}: must be resource-affinity or node-affinity"
            )
    draft.rules = NamedRules(**{key: tuple(found) for key, found in groups.items()})


def _read_usage(draft: Draft, found: Mapping[Path, Any], where: str) -> Series | None:
    """Readings of all VMs; a VM without a file, or a reading without a value, is missing."""
    known = {vm.key for vm in draft.vms}
    times: list[float] = []
    cpu: list[float] = []
    memory: list[float] = []
    codes: list[int] = []
    names: list[str] = []
    places: list[tuple[Path, int]] = []
    sizes = {vm.key: vm.memory_mib * 2**20 for vm in draft.vms}
    for file, data in found.items():
        if not _is_readings(data):
            continue
        words = [w for part in (*file.parts[-3:-1], file.stem) for w in re.findall(r"\d+", part)]
        mine = [word for word in words if word in known]
        if not mine:
            draft.notes.count("files of readings that belong to no VM that runs, left out", file.name)
            continue
        names.append(mine[-1])
        for i, item in enumerate(data):
            here = f"{show_path(file)}: [{i}]"
            times.append(number_of(item, "time", here))
            cpu.append(np.nan if item.get("cpu") is None else number_of(item, "cpu", here))
            used = np.nan if item.get("mem") is None else number_of(item, "mem", here)
            memory.append(used / sizes[mine[-1]])
            codes.append(len(names) - 1)
            places.append((file, i))
    if not names:
        return None
    _trim(times, cpu, memory, codes, places)
    return Series(
        names=names,
        vm=np.array(codes, dtype=np.int64),
        time_s=np.array(times),
        cpu=np.array(cpu),
        memory=np.array(memory),
        cpu_unit="share",
        memory_unit="share",
        columns=("rrddata cpu", "rrddata mem"),
        where=lambda row: f"{show_path(places[row][0])}: [{places[row][1]}]",
        source=where,
    )


def _trim(
    times: list[float], cpu: list[float], memory: list[float], codes: list[int], places: list[Any]
) -> None:
    """Leave out the times at either end at which no VM has a reading: the last one is still being made."""
    known = [t for t, c in zip(times, cpu) if c == c]
    if not known:
        return
    low, high = min(known), max(known)
    keep = [i for i, t in enumerate(times) if low <= t <= high]
    columns: tuple[list[Any], ...] = (times, cpu, memory, codes, places)
    for column in columns:
        column[:] = [column[i] for i in keep]
