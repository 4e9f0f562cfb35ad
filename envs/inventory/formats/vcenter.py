"""Performance of VMs as PowerCLI's ``Get-Stat | Export-Csv`` writes it: usage for an export of RVTools.

Columns ``Entity, MetricId, Timestamp, Value`` and perhaps ``Unit, Instance``. Metrics that are read:
``cpu.usage.average`` (% of the VM's vCPUs) or ``cpu.usagemhz.average``, ``mem.usage.average`` (%) or
``mem.active.average`` (KB). Readings of single vCPUs (an ``Instance``) are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import TraceError
from ...files import show_path
from ...traces.sniffing import Look
from ..quantities import quantity, seconds
from ..sheets import Row, make_tab, read_csv_rows
from ..usage import Series

_KNOWN = {
    "Entity": ("entity", "vm", "vmname"),
    "MetricId": ("metricid", "metric"),
    "Timestamp": ("timestamp", "time", "zeit", "zeitstempel"),
    "Value": ("value", "wert"),
    "Unit": ("unit", "einheit"),
    "Instance": ("instance", "instanz"),
}
_METRICS: dict[str, tuple[str, str, float]] = {
    "cpu.usage.average": ("cpu", "share", 0.01),
    "cpu.usagemhz.average": ("cpu", "mhz", 1.0),
    "mem.usage.average": ("memory", "share", 0.01),
    "mem.active.average": ("memory", "mib", 2.0**-10),
}
"""Metrics, best first: what each is of, its unit and factor."""


def read_vcenter(path: Path) -> Series:
    """Read a performance CSV.

    Raises:
        TraceError: Naming file, line and column.
    """
    tab = make_tab(show_path(path), read_csv_rows(path), "", _KNOWN, ":")
    tab.need("Entity", "MetricId", "Timestamp", "Value")
    readings: dict[str, list[Row]] = {}
    for row in tab:
        if row.text("MetricId") in _METRICS and not row.text("Instance"):
            readings.setdefault(row.text("MetricId"), []).append(row)
    chosen = {what: [m for m in readings if _METRICS[m][0] == what] for what in ("cpu", "memory")}
    if not chosen["cpu"]:
        raise TraceError(f"{tab.where}: has no readings of cpu.usage.average or cpu.usagemhz.average")
    order = list(_METRICS)
    cpu, *_ = sorted(chosen["cpu"], key=order.index)
    memory = min(chosen["memory"], key=order.index, default=None)
    names: dict[str, int] = {}
    times: dict[str, float] = {}
    at: dict[tuple[int, float], list[float]] = {}
    first: dict[tuple[int, float], Row] = {}
    for column, metric in enumerate((cpu, memory)):
        for row in readings.get(metric or "", ()):
            text = row.text("Timestamp")
            if text not in times:
                times[text] = seconds(row.where, row.head("Timestamp"), text)
            key = names.setdefault(row.text("Entity"), len(names)), times[text]
            value = quantity(row.where, row.head("Value"), row.cell("Value"), "")
            at.setdefault(key, [np.nan, np.nan])[column] = np.nan if value is None else value
            first.setdefault(key, row)
    keys = list(at)
    table = np.array(list(at.values()))
    return Series(
        names=list(names),
        vm=np.array([vm for vm, _ in keys], dtype=np.int64),
        time_s=np.array([time for _, time in keys]),
        cpu=table[:, 0] * _METRICS[cpu][2],
        memory=None if memory is None else table[:, 1] * _METRICS[memory][2],
        cpu_unit=_METRICS[cpu][1],
        memory_unit="share" if memory is None else _METRICS[memory][1],
        columns=(cpu, memory or ""),
        where=lambda i: first[keys[i]].where,
        source=tab.where,
    )


def sniff(look: Look) -> bool:
    """Whether a CSV has the columns of ``Get-Stat``."""
    head = look.head[:2000].lower()
    return look.name.endswith(".csv") and "metricid" in head and "entity" in head
