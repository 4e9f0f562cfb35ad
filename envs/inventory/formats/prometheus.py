"""Range queries of Prometheus (``/api/v1/query_range``), saved as JSON: libvirt and node exporter.

Metrics that are read, each in any file, several in one or one in several:

- ``libvirt_domain_info_cpu_time_seconds_total``: a counter, from which the use of CPU follows;
- ``libvirt_domain_info_virtual_cpus``, ``libvirt_domain_info_maximum_memory_bytes``: sizes;
- optional ``libvirt_domain_info_memory_usage_bytes``, ``libvirt_domain_info_vstate`` (1 = runs);
- ``node_memory_MemTotal_bytes`` and ``node_cpu_seconds_total`` (or ``machine_cpu_cores``): hosts; optional
  ``node_cpu_frequency_max_hertz`` or ``node_cpu_scaling_frequency_max_hertz``.

A domain is on the host whose exporter told of it last: ``instance`` without its port.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...arrays import F8
from ...errors import TraceError
from ...files import show_path
from ...traces.sniffing import Look, read_head
from ..base import Draft, Host, Vm
from ..json_files import json_files, read_json
from ..readers import Asked, Export
from ..usage import Series

CPU = "libvirt_domain_info_cpu_time_seconds_total"
USED = "libvirt_domain_info_memory_usage_bytes"
_VCPUS, _SIZE = "libvirt_domain_info_virtual_cpus", "libvirt_domain_info_maximum_memory_bytes"
_STATE = "libvirt_domain_info_vstate"
_MEMORY, _CORES, _MACHINE = "node_memory_MemTotal_bytes", "node_cpu_seconds_total", "machine_cpu_cores"
_SPEEDS = ("node_cpu_frequency_max_hertz", "node_cpu_scaling_frequency_max_hertz")
METRICS = (CPU, USED, _VCPUS, _SIZE, _STATE, _MEMORY, _CORES, _MACHINE, *_SPEEDS)

ASSUMED_MHZ = 2000.0
"""Speed of a core where no metric says it. [assumed] Loads are shares, so it scales MHz and nothing else."""


@dataclass(frozen=True)
class _Line:
    """One series: its labels, its times and values, both (N,)."""

    labels: Mapping[str, str]
    time_s: F8
    value: F8
    where: str

    @property
    def host(self) -> str:
        return self.labels.get("instance", "").rpartition(":")[0] or self.labels.get("instance", "")

    @property
    def last(self) -> float:
        return float(self.value[-1])


def read_prometheus(path: str | os.PathLike[str], *, asked: Asked) -> Export:
    """Read answers of range queries.

    Args:
        path: A file, or a folder of them.
        asked: Speed of a core where it is not said.

    Raises:
        TraceError: Naming the file and the series.
    """
    found: dict[str, list[_Line]] = {}
    for file in json_files(Path(path)):
        for name, line in _lines(file):
            found.setdefault(name, []).append(line)
    where = show_path(path)
    for needed in (CPU, _VCPUS, _SIZE, _MEMORY):
        if needed not in found:
            known = ", ".join(name for name in METRICS if name in found) or "none"
            raise TraceError(f"{where}: has no series of {needed}; metrics that are read and there: {known}")
    draft = Draft()
    _read_hosts(draft, found, where, asked)
    _read_domains(draft, found)
    return Export(draft, None if asked.usage else _read_usage(draft, found, where))


def sniff(look: Look) -> bool:
    """Whether JSON is the answer of a query."""
    if not look.is_dir:
        return look.name.endswith(".json") and '"resultType"' in look.head
    files = [Path(look.root) / name for name in look.names if name.endswith(".json")]
    return any('"resultType"' in read_head(file) for file in files[:20])


def _lines(file: Path) -> Iterator[tuple[str, _Line]]:
    """Series of a file that are read, with the names of their metrics."""
    where = show_path(file)
    data = read_json(file)
    if not isinstance(data, dict):
        raise TraceError(f"{where}: not the answer of a range query")
    if data.get("status", "success") != "success":
        raise TraceError(f"{where}: the query failed ({str(data.get('error', 'no reason given'))[:120]})")
    data = data.get("data", data)
    if (
        not isinstance(data, dict)
        or data.get("resultType") != "matrix"
        or not isinstance(data.get("result"), list)
    ):
        raise TraceError(f"{where}: resultType: must be matrix, the answer of /api/v1/query_range")
    for i, item in enumerate(data["result"]):
        here = f"{where}: data.result[{i}]"
        if not isinstance(item, dict) or not isinstance(item.get("metric"), dict):
            raise TraceError(f"{here}: has no labels")
        labels = {str(key): str(value) for key, value in item["metric"].items()}
        name = labels.get("__name__", file.stem)
        if name not in METRICS:
            continue
        try:
            values = np.array(item["values"], dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != 2 or not len(values):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise TraceError(f"{here}: values: must be pairs of time and number") from None
        order = np.argsort(values[:, 0], kind="stable")
        yield name, _Line(labels, values[order, 0], values[order, 1], here)


def _read_hosts(draft: Draft, found: Mapping[str, list[_Line]], where: str, asked: Asked) -> None:
    cores: dict[str, set[str]] = {}
    for line in found.get(_CORES, ()):
        cores.setdefault(line.host, set()).add(line.labels.get("cpu", ""))
    count = {line.host: int(line.last) for line in found.get(_MACHINE, ())}
    count |= {host: len(cpus) for host, cpus in cores.items()}
    speeds = {line.host: line.last / 1e6 for name in _SPEEDS for line in found.get(name, ())}
    for line in found[_MEMORY]:
        name = line.host
        if name not in count:
            raise TraceError(
                f"{where}: host {name}: no series of {_CORES} or {_MACHINE} says how many cores it has"
            )
        mhz = speeds.get(name, asked.core_mhz)
        if mhz is None:
            draft.notes.count(f"hosts of which no metric says the speed, {ASSUMED_MHZ:g} MHz assumed", name)
            mhz = ASSUMED_MHZ
        draft.hosts.append(Host(name, count[name], mhz, line.last / 2**20, where=line.where))


def _read_domains(draft: Draft, found: Mapping[str, list[_Line]]) -> None:
    latest: dict[str, _Line] = {}
    for line in found[CPU]:
        name = line.labels.get("domain", "")
        if not name:
            raise TraceError(f"{line.where}: has no label domain")
        if name not in latest or line.time_s[-1] > latest[name].time_s[-1]:
            latest[name] = line
    sizes = {metric: _by_domain(found, metric) for metric in (_VCPUS, _SIZE, _STATE)}
    end = max(float(line.time_s[-1]) for line in latest.values())
    for name, line in latest.items():
        state = sizes[_STATE].get(name)
        if (state is not None and state.last != 1) or line.time_s[-1] < end - 3600.0:
            draft.notes.count("domains that do not run any more, left out", name)
            continue
        for metric in (_VCPUS, _SIZE):
            if name not in sizes[metric]:
                raise TraceError(f"{line.where}: VM {name}, column {metric!r}: no value")
        draft.vms.append(
            Vm(
                name=name,
                vcpus=int(sizes[_VCPUS][name].last),
                memory_mib=sizes[_SIZE][name].last / 2**20,
                host=line.host,
                where=line.where,
            )
        )


def _by_domain(found: Mapping[str, list[_Line]], metric: str) -> dict[str, _Line]:
    """The latest series of each domain."""
    lines = sorted(found.get(metric, ()), key=lambda line: float(line.time_s[-1]))
    return {line.labels.get("domain", ""): line for line in lines}


def _read_usage(draft: Draft, found: Mapping[str, list[_Line]], where: str) -> Series:
    """Share of the vCPUs between two readings of the counter; a counter that fell began again at 0."""
    place = {vm.name: v for v, vm in enumerate(draft.vms)}
    used = {
        (line.labels.get("domain"), t): b
        for line in found.get(USED, ())
        for t, b in zip(line.time_s, line.value)
    }
    parts: list[tuple[_Line, int, F8, F8, F8]] = []
    for line in found[CPU]:
        v = place.get(line.labels["domain"], -1)
        if v < 0 or len(line.value) < 2:
            continue
        rise = np.where(np.diff(line.value) < 0, line.value[1:], np.diff(line.value))
        share = rise / np.diff(line.time_s) / draft.vms[v].vcpus
        memory = np.array([used.get((line.labels["domain"], t), np.nan) for t in line.time_s[:-1]])
        parts.append((line, v, line.time_s[:-1], share, memory / (draft.vms[v].memory_mib * 2**20)))
    if not parts:
        raise TraceError(f"{where}: {CPU}: needs at least two readings of a domain")
    lines = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
    times, cpu, memory = (np.concatenate([part[i] for part in parts]) for i in (2, 3, 4))
    return Series(
        names=[vm.name for vm in draft.vms],
        vm=np.array([part[1] for part in parts])[lines],
        time_s=times,
        cpu=cpu,
        memory=memory if used else None,
        cpu_unit="share",
        memory_unit="share",
        columns=(CPU, USED),
        where=lambda row: parts[lines[row]][0].where,
        source=where,
    )
