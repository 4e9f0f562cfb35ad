"""RVTools exports: a workbook, or a folder with a CSV per tab (``RVTools_tabvInfo.csv``, ``vInfo.csv``).

Tabs read: vInfo (needed), vHost (needed), vCPU, vMemory and vRP. Columns are found by name, whatever the
version (``Size MB``, ``Size MiB``, ``vInfoCPUs``), order or language of them (English, German). RVTools
says what is used once, not over time: without other usage the demand of vCPU's column Overall is a history of
one sample.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import TraceError
from ...files import show_path
from ...traces.sniffing import Look
from ..base import Draft, Host, Vm
from ..readers import Asked, Export
from ..sheets import Row, Tab, make_tab, read_csv_rows, read_workbook
from ..usage import Series, read_usage_table

TABS: dict[str, dict[str, tuple[str, ...]]] = {
    "vInfo": {
        "VM": ("vm", "vmname", "name", "virtuellemaschine", "virtuellermaschinenname"),
        "Powerstate": ("powerstate", "power", "energiestatus", "energiezustand", "betriebszustand"),
        "Template": ("template", "vorlage", "istvorlage"),
        "SRM Placeholder": ("srmplaceholder", "srmplatzhalter"),
        "CPUs": ("cpus", "vcpus", "numcpu", "anzahlcpus", "cpuanzahl"),
        "Memory": ("memory", "memorysize", "speicher", "arbeitsspeicher", "hauptspeicher"),
        "Resource pool": ("resourcepool", "ressourcenpool"),
        "Cluster": ("cluster", "clustername"),
        "Host": ("host", "hostname", "esxhost", "esxihost", "gastgeber"),
        "VM ID": ("vmid", "moref", "vmmoref"),
        "VM UUID": ("vmuuid", "uuid", "instanceuuid"),
        "VI SDK Server": ("visdkserver", "visdkservername", "vcenter"),
    },
    "vCPU": {
        "VM": ("vm", "vmname", "name", "virtuellemaschine", "virtuellermaschinenname"),
        "VM ID": ("vmid", "moref", "vmmoref"),
        "Overall": ("overall", "overallcpuusage", "gesamt", "gesamtauslastung", "gesamtnutzung"),
        "Level": ("level", "stufe", "ebene", "sharelevel"),
        "Shares": ("shares", "anteile", "freigaben"),
        "Reservation": ("reservation", "reservierung"),
        "Limit": ("limit", "grenze", "grenzwert", "begrenzung", "maximum"),
    },
    "vMemory": {
        "VM": ("vm", "vmname", "name", "virtuellemaschine", "virtuellermaschinenname"),
        "VM ID": ("vmid", "moref", "vmmoref"),
        "Size": ("size", "memory", "grosse", "groesse", "speichergrosse"),
        "Active": ("active", "aktiv"),
        "Reservation": ("reservation", "reservierung"),
    },
    "vHost": {
        "Host": ("host", "hostname", "name", "esxhost", "esxihost", "gastgeber"),
        "Cluster": ("cluster", "clustername"),
        "in Maintenance Mode": ("inmaintenancemode", "maintenancemode", "imwartungsmodus", "wartungsmodus"),
        "Speed": ("speed", "cpuspeed", "geschwindigkeit", "taktfrequenz", "takt"),
        "# CPU": ("#cpu", "numcpu", "#sockets", "anzahlcpu"),
        "# Cores": ("#cores", "numcores", "cores", "#kerne", "anzahlkerne", "kerne"),
        "# Memory": ("#memory", "memory", "memorysize", "#speicher", "speicher", "arbeitsspeicher"),
        "Fault Domain": ("vsanfaultdomainname", "faultdomain", "fehlerdomane"),
    },
    "vRP": {
        "Resource pool": ("resourcepool", "resourcepoolname", "ressourcenpool", "ressourcenpoolname", "name"),
        "CPU limit": ("cpulimit", "cpugrenze", "cpugrenzwert"),
        "CPU reservation": ("cpureservation", "cpureservierung"),
    },
}
"""Columns that are read of each tab, and their names as ``sheets.plain_name`` makes them."""

AGENTS = "vCLS"
"""How the names of VMs begin that vSphere places itself, one or two a cluster."""
POWERED_ON = {"poweredon", "on", "eingeschaltet", "ein"}
POWERED_OFF = {"poweredoff", "off", "suspended", "ausgeschaltet", "aus", "angehalten"}
_TAB_FILE = re.compile(r"(?:rvtools_)?(?:tab)?(v\w+?)(?:[_-].*)?\.csv", re.IGNORECASE)


def read_rvtools(path: str | os.PathLike[str], *, asked: Asked) -> Export:
    """Read a workbook, or a folder with a CSV per tab, or with a workbook.

    A folder may hold ``usage.csv`` or ``usage.parquet`` beside, which is read as usage.

    Args:
        path: The file or folder.
        asked: What to do without usage, and whether it is needed.

    Raises:
        TraceError: Naming file, sheet, row and column.
    """
    root = Path(path)
    tabs = _find_tabs(root)
    draft = Draft()
    for name in ("vInfo", "vHost"):
        if name not in tabs:
            found = ", ".join(tabs) or "none"
            raise TraceError(f"{show_path(path)}: has no tab {name}; tabs that are read and there: {found}")
    _read_hosts(draft, tabs["vHost"])
    ids = _read_vms(draft, tabs["vInfo"])
    cpu = _rows_of(tabs.get("vCPU"), draft, ids)
    memory = _rows_of(tabs.get("vMemory"), draft, ids)
    draft.vms = [_with_settings(vm, cpu.get(vm.name), memory.get(vm.name)) for vm in draft.vms]
    for row in tabs.get("vRP", ()):
        if (row.number("CPU reservation", "MHz") or 0) > 0 or row.limit("CPU limit", "MHz") < np.inf:
            draft.notes.count(
                "resource pools have limits or reservations of their own, which are not modelled"
            )
    beside = [f for f in (root / "usage.csv", root / "usage.parquet") if root.is_dir() and f.is_file()]
    if asked.usage:
        return Export(draft, None)
    return Export(draft, read_usage_table(beside[0]) if beside else _snapshot(tabs, draft, cpu, memory))


def sniff(look: Look) -> bool:
    """Whether it is a workbook, or a folder with one or with tabs as CSV."""
    if look.is_dir:
        return any(tab_of(name) == "vInfo" for name in look.names) or len(_workbooks(look.names)) == 1
    return look.name.endswith((".xlsx", ".xlsm")) or tab_of(look.root.name) == "vInfo"


def tab_of(name: str) -> str | None:
    """The tab that a CSV file holds by its name; None = none that is read."""
    match = _TAB_FILE.fullmatch(name)
    return None if match is None else _known_tab(match[1])


def _known_tab(name: str) -> str | None:
    return {tab.lower(): tab for tab in TABS}.get(name.strip().lower())


def _workbooks(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower().endswith((".xlsx", ".xlsm")) and not name.startswith("~$")]


def _find_tabs(root: Path) -> dict[str, Tab]:
    """The tabs of an export, by name."""
    if root.is_file() and tab_of(root.name):
        root = root.parent  # one tab stands for the folder with all
    names = sorted(os.listdir(root)) if root.is_dir() else []
    files: dict[str, Path] = {}
    for name in names:
        tab = tab_of(name)
        if tab is None:
            continue
        if tab in files:
            raise TraceError(f"{show_path(root)}: {files[tab].name} and {name} are both tab {tab}")
        files[tab] = root / name
    if files or not (books := [root] if root.is_file() else [root / name for name in _workbooks(names)]):
        return {
            tab: make_tab(show_path(file), read_csv_rows(file), tab, TABS[tab], ":")
            for tab, file in files.items()
        }
    found = {}
    for name, rows in read_workbook(books[0]).items():
        tab = _known_tab(name)
        if tab is None or (tab not in ("vInfo", "vHost") and not any(any(row) for row in rows)):
            continue
        if tab in found:
            raise TraceError(f"{show_path(books[0])}: has two sheets {tab}")
        found[tab] = make_tab(f"{show_path(books[0])}, sheet {name.strip()}", rows, tab, TABS[tab], ", row ")
    return found


def _read_hosts(draft: Draft, tab: Tab) -> None:
    tab.need("Host", "Speed", "# Cores", "# Memory")
    for row in tab:
        name = row.text("Host")
        if not name:
            draft.notes.count("rows of vHost without a host, left out", row.where)
            continue
        draft.hosts.append(
            Host(
                name=name,
                cores=row.count("# Cores"),
                core_mhz=row.needed("Speed", "MHz"),
                memory_mib=row.needed("# Memory", "MiB"),
                cluster=row.text("Cluster"),
                numa_nodes=_nodes(row),
                maintenance=row.truth("in Maintenance Mode"),
                domain=row.text("Fault Domain"),
                where=row.where,
            )
        )


def _nodes(row: Row) -> int:
    """NUMA nodes: a node per socket, where that divides the cores."""
    sockets = row.number("# CPU")
    cores = row.count("# Cores")
    return int(sockets) if sockets and sockets >= 1 and cores % sockets == 0 and sockets <= 16 else 1


def _identity(row: Row) -> str:
    """What tells VMs of one name apart: their id within a server."""
    parts = (row.text("VI SDK Server"), row.text("VM UUID"), row.text("VM ID"))
    return "/".join(part for part in parts if part)


def _read_vms(draft: Draft, tab: Tab) -> dict[str, str]:
    """Add the VMs that run.

    Returns:
        The name that a VM has here, by its id.
    """
    tab.need("VM", "Powerstate", "CPUs", "Memory", "Host")
    running: dict[str, list[Row]] = {}
    for row in tab:
        if _runs(row, draft):
            running.setdefault(row.text("VM"), []).append(row)
    ids: dict[str, str] = {}
    for name, rows in running.items():
        alike: dict[str, Row] = {}
        for row in rows:
            identity = _identity(row) or row.where if len(rows) > 1 else ""
            if identity in alike and _vm(row, name) != replace(_vm(alike[identity], name), where=row.where):
                raise TraceError(
                    f"{row.where}: VM {name} stands in {alike[identity].where} already, with other values"
                )
            if identity in alike:
                draft.notes.count("VMs that stand in vInfo twice, taken once", name)
            alike.setdefault(identity, row)
        if len(alike) > 1 and any(not _identity(row) for row in alike.values()):
            row = list(alike.values())[1]
            raise TraceError(
                f"{row.where}: VM {name} stands in {rows[0].where} already, and no VM ID tells them apart"
            )
        for row in alike.values():
            own = name
            if len(alike) > 1:
                own = f"{name} ({row.text('VM ID') or row.text('VM UUID')})"
                draft.notes.count("VMs share their name with another, and are told apart by their id", own)
            draft.vms.append(_vm(row, own))
            ids[row.text("VM ID")] = own
    return ids


def _runs(row: Row, draft: Draft) -> bool:
    """Whether a row of vInfo is a VM that runs; others are counted."""
    name = row.text("VM")
    if not name:
        draft.notes.count("rows of vInfo without a VM, left out", row.where)
        return False
    if name.startswith(AGENTS):
        draft.notes.count("agents of vSphere's cluster services, left out", name)
        return False
    if row.truth("Template"):
        draft.notes.count("templates, left out", name)
        return False
    if row.truth("SRM Placeholder"):
        draft.notes.count("placeholders of SRM, left out", name)
        return False
    state = row.text("Powerstate").lower().replace(" ", "")
    if state in POWERED_OFF:
        draft.notes.count("VMs that do not run, left out", name)
        return False
    if state not in POWERED_ON:
        raise TraceError(
            f"{row.where}, column {row.head('Powerstate')!r}: {state or 'nothing'}: must be poweredOn, "
            "poweredOff or suspended"
        )
    return True


def _vm(row: Row, name: str) -> Vm:
    return Vm(
        name=name,
        vcpus=row.count("CPUs"),
        memory_mib=row.needed("Memory", "MiB"),
        host=row.text("Host"),
        pool=row.text("Resource pool"),
        where=row.where,
    )


def _rows_of(tab: Tab | None, draft: Draft, ids: Mapping[str, str]) -> dict[str, Row]:
    """Rows of vCPU or vMemory by the VM's name here."""
    if tab is None:
        return {}
    tab.need("VM")
    known = {vm.name for vm in draft.vms}
    found: dict[str, Row] = {}
    for row in tab:
        name = ids.get(row.text("VM ID"), row.text("VM")) if row.text("VM ID") else row.text("VM")
        if name in known:
            found.setdefault(name, row)
    return found


def _with_settings(vm: Vm, cpu: Row | None, memory: Row | None) -> Vm:
    """Reservations, limits and shares of a VM."""
    given: dict[str, Any] = {}
    if cpu is not None:
        given["reservation_mhz"] = max(0.0, cpu.number("Reservation", "MHz") or 0.0)
        given["limit_mhz"] = cpu.limit("Limit", "MHz") or np.inf
        shares, level = cpu.number("Shares"), cpu.text("Level").lower()
        if level in ("low", "normal", "high"):
            given["shares"] = level
        elif shares and shares > 0:  # RVTools has those of the whole VM
            given["shares"] = shares / vm.vcpus
    if memory is not None:
        given["memory_reservation_mib"] = max(0.0, memory.number("Reservation", "MiB") or 0.0)
    return replace(vm, **given)


def _snapshot(
    tabs: Mapping[str, Tab], draft: Draft, cpu: Mapping[str, Row], memory: Mapping[str, Row]
) -> Series | None:
    """What VMs use now, as one sample: MHz of vCPU's Overall, MiB of vMemory's Active."""
    if "vCPU" not in tabs or "Overall" not in tabs["vCPU"].columns:
        return None
    draft.notes.count("sample of usage: vCPU says what VMs use once; usage=FILE gives a history")
    names = [vm.name for vm in draft.vms]
    has_memory = "vMemory" in tabs and "Active" in tabs["vMemory"].columns
    n = len(names)
    return Series(
        names=[vm.key or vm.name for vm in draft.vms],
        vm=np.arange(n),
        time_s=np.zeros(n),
        cpu=np.array(list(_numbers(names, cpu, "Overall", "MHz"))),
        memory=np.array(list(_numbers(names, memory, "Active", "MiB"))) if has_memory else None,
        cpu_unit="mhz",
        memory_unit="mib",
        columns=("vCPU Overall", "vMemory Active"),
        where=lambda i: cpu[names[i]].where if names[i] in cpu else tabs["vCPU"].where,
        source=tabs["vCPU"].where,
    )


def _numbers(names: Sequence[str], rows: Mapping[str, Row], key: str, meant: str) -> Iterator[float]:
    for name in names:
        found = rows[name].number(key, meant) if name in rows else None
        yield np.nan if found is None else found
