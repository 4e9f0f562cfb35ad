"""oVirt's data warehouse (DWH): views of ``ovirt_engine_history`` exported as CSV into one folder.

Files are told by their columns, so their names do not matter:

- VMs (``v4_4_latest_configuration_vms``): vm_id, vm_name, cpu_per_socket, number_of_sockets, memory_size_mb;
- hosts (``v4_4_latest_configuration_hosts``): host_id, host_name, number_of_cores, memory_size_mb,
  cpu_speed_mh, perhaps cluster_id, number_of_sockets;
- usage (``v4_4_statistics_vms_resources_usage_samples`` or ``_hourly``): history_datetime, vm_id, vm_status,
  cpu_usage_percent, memory_usage_percent, currently_running_on_host.

A VM is on the host on which it ran in its last row with the status 1 (up).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import TraceError
from ...files import show_path
from ...traces.sniffing import Look, read_head
from ..base import Draft, Host, Vm
from ..quantities import seconds
from ..readers import Asked, Export
from ..sheets import Row, Tab, make_tab, plain_name, read_csv_rows
from ..usage import Series

_VMS = (
    *(
        "vm_id",
        "vm_name",
        "cpu_per_socket",
        "number_of_sockets",
        "memory_size_mb",
        "delete_date",
        "history_id",
    ),
)
_HOSTS = (
    *("host_id", "host_name", "number_of_cores", "number_of_sockets", "memory_size_mb", "cpu_speed_mh"),
    *("cluster_id", "cluster_name", "delete_date", "history_id"),
)
_USAGE = (
    *("history_datetime", "vm_id", "vm_status", "cpu_usage_percent", "memory_usage_percent"),
    "currently_running_on_host",
)
_VIEWS = {"usage": (_USAGE, 4), "vms": (_VMS, 5), "hosts": (_HOSTS, 4)}
"""Columns of each view, and how many of the first must be there."""
UP = 1


def read_ovirt(path: str | os.PathLike[str], *, asked: Asked) -> Export:
    """Read views of the data warehouse.

    Args:
        path: The folder.
        asked: Speed of a core where a host has none.

    Raises:
        TraceError: Naming file, line and column.
    """
    found: dict[str, Tab] = {}
    for file in sorted(Path(path).glob("*.csv")):
        view = _view_of(read_head(file))
        if view is None:
            continue
        if view in found:
            raise TraceError(f"{show_path(file)}: holds {view}, as {found[view].where} does")
        known = {name: (plain_name(name),) for name in _VIEWS[view][0]}
        found[view] = make_tab(show_path(file), read_csv_rows(file), "", known, ":")
    for view, (columns, n) in _VIEWS.items():
        if view not in found:
            raise TraceError(f"{show_path(path)}: has no CSV of {view} (columns {', '.join(columns[:n])})")
    draft = Draft()
    _read_hosts(draft, found["hosts"], asked)
    rows = [row for row in found["usage"] if row.text("vm_status") in ("", str(UP))]
    _read_vms(draft, found["vms"], found["hosts"], rows)
    return Export(draft, None if asked.usage else _read_usage(rows, found["usage"].where))


def sniff(look: Look) -> bool:
    """Whether a folder has a CSV with statistics of VMs."""
    if not look.is_dir:
        return False
    files = [Path(look.root) / name for name in look.names if name.lower().endswith(".csv")]
    return any(_view_of(read_head(file)) == "usage" for file in files[:20])


def _view_of(head: str) -> str | None:
    cells = {
        plain_name(c) for c in (head.splitlines() or [""])[0].replace(";", ",").replace("\t", ",").split(",")
    }
    for view, (columns, n) in _VIEWS.items():
        if {plain_name(name) for name in columns[:n]} <= cells:
            return view
    return None


def _latest(tab: Tab, key: str) -> dict[str, Row]:
    """The last row of everything that is not deleted: configurations are kept with their history."""
    found: dict[str, Row] = {}
    for row in tab:
        name = row.text(key)
        newer = name not in found or (row.number("history_id") or 0) >= (
            found[name].number("history_id") or 0
        )
        if name and newer:
            found[name] = row
    return {name: row for name, row in found.items() if not row.text("delete_date")}


def _read_hosts(draft: Draft, tab: Tab, asked: Asked) -> None:
    for row in _latest(tab, "host_id").values():
        speed = row.number("cpu_speed_mh", whole=False) or asked.core_mhz
        if not speed:
            raise TraceError(f"{row.where}, column 'cpu_speed_mh': nothing; core_mhz=MHZ says it")
        cores, sockets = row.count("number_of_cores"), row.number("number_of_sockets")
        draft.hosts.append(
            Host(
                name=row.text("host_name"),
                cores=cores,
                core_mhz=speed,
                memory_mib=row.needed("memory_size_mb"),
                cluster=row.text("cluster_name") or row.text("cluster_id"),
                numa_nodes=int(sockets) if sockets and cores % sockets == 0 else 1,
                where=row.where,
            )
        )


def _read_vms(draft: Draft, tab: Tab, hosts: Tab, rows: Sequence[Row]) -> None:
    names = {row.text("host_id"): row.text("host_name") for row in hosts}
    times: dict[str, float] = {}
    last: dict[str, tuple[float, str]] = {}
    for row in rows:
        text = row.text("history_datetime")
        if text not in times:
            times[text] = seconds(row.where, "history_datetime", text)
        there = (times[text], row.text("currently_running_on_host"))
        last[row.text("vm_id")] = max(last.get(row.text("vm_id"), there), there)
    newest = max((time for time, _ in last.values()), default=0.0)
    for vm, row in _latest(tab, "vm_id").items():
        name = row.text("vm_name")
        time, host = last.get(vm, (0.0, ""))
        if not host or time < newest - 7200.0:
            draft.notes.count("VMs that do not run, left out", name)
            continue
        if any(other.name == name for other in draft.vms):
            draft.notes.count("VMs share their name with another, and are told apart by their id", name)
            name = f"{name} ({vm})"
        draft.vms.append(
            Vm(
                name=name,
                vcpus=row.count("cpu_per_socket") * row.count("number_of_sockets"),
                memory_mib=row.needed("memory_size_mb"),
                host=names.get(host, host),
                key=vm,
                where=row.where,
            )
        )


def _read_usage(rows: Sequence[Row], source: str) -> Series:
    names: dict[str, int] = {}
    times: dict[str, float] = {}
    for row in rows:
        names.setdefault(row.text("vm_id"), len(names))
        text = row.text("history_datetime")
        if text not in times:
            times[text] = seconds(row.where, "history_datetime", text)
    percent = [
        np.array([np.nan if (x := row.number(key, whole=False)) is None else 0.01 * x for row in rows])
        for key in ("cpu_usage_percent", "memory_usage_percent")
    ]
    has_memory = bool(rows) and "memory_usage_percent" in rows[0].tab.columns
    return Series(
        names=list(names),
        vm=np.array([names[row.text("vm_id")] for row in rows], dtype=np.int64),
        time_s=np.array([times[row.text("history_datetime")] for row in rows]),
        cpu=percent[0],
        memory=percent[1] if has_memory else None,
        cpu_unit="share",
        memory_unit="share",
        columns=("cpu_usage_percent", "memory_usage_percent"),
        where=lambda i: rows[i].where,
        source=source,
    )
