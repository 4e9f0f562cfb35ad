"""Reader of the online services of Alibaba's cluster traces v2017 and v2018.

Schemas: ``cluster-trace-v2017/schema.csv`` and ``cluster-trace-v2018/schema.txt`` of
``github.com/alibaba/clusterdata``. CSV without header; a container is a VM here.

- 2017: ``container_event.csv`` (time, event, container, machine, cores, memory, disk, cpuset) and
  ``container_usage.csv`` (time, container, % of the requested CPU, memory and disk, three loads, four columns
  of CPI and MPKI), averages over 300 s. Memory is normalised to the largest machine = 1.
- 2018: ``container_meta.csv`` (container, machine, time, group, status, requested and allowed CPU with 100
  for a core, memory) and ``container_usage.csv`` (container, machine, time, CPU and memory %, CPI, memory
  bandwidth, MPKI, network in and out, disk %). The % of CPU is of the requested one (the authors, issue 62);
  memory is normalised to 100; -1 and 101 stand for invalid values.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import TraceError
from ...files import names_its_file, show_path
from ..base import Trace
from ..delimited import Coder, Collector, Window, find_parts, read_blocks
from ..repairs import Repairs
from ..resample import Readings, Vms, build_trace, check_positive, count_vcpus, hold_until_next
from ..sniffing import Look


@dataclass(frozen=True)
class _Layout:
    """Where one version keeps what."""

    version: str
    meta: str
    meta_fields: tuple[str, ...]
    usage_fields: tuple[str, ...]
    cpu: str
    memory: str
    cores_of_one: float
    memory_of_one: float
    util: str
    signals: dict[str, str] = field(default_factory=dict)
    invalid: tuple[float, ...] = ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """Numeric columns of the usage table, the time first."""
        return ("time", self.util, *self.signals.values())


_V2017 = _Layout(
    version="2017",
    meta="container_event",
    meta_fields=("time", "event", "container", "machine", "plan_cpu", "plan_mem", "plan_disk", "cpuset"),
    usage_fields=(
        *("time", "container", "cpu_util", "mem_util", "disk_util", "load1", "load5", "load15"),
        *("avg_cpi", "avg_mpki", "max_cpi", "max_mpki"),
    ),
    cpu="plan_cpu",
    memory="plan_mem",
    cores_of_one=1.0,
    memory_of_one=1.0,
    util="cpu_util",
    signals={"memory_active": "mem_util"},
)
_V2018 = _Layout(
    version="2018",
    meta="container_meta",
    meta_fields=("container", "machine", "time", "app_du", "status", "cpu_request", "cpu_limit", "mem_size"),
    usage_fields=(
        *("container", "machine", "time", "cpu_util_percent", "mem_util_percent", "cpi", "mem_gps", "mpki"),
        *("net_in", "net_out", "disk_io_percent"),
    ),
    cpu="cpu_request",
    memory="mem_size",
    cores_of_one=0.01,
    memory_of_one=0.01,
    util="cpu_util_percent",
    signals={
        "memory_active": "mem_util_percent",
        "memory_bandwidth": "mem_gps",
        "net_rx": "net_in",
        "net_tx": "net_out",
        "disk_busy": "disk_io_percent",
    },
    invalid=(-1.0, 101.0),
)


@names_its_file
def read_alibaba(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = None,
    over: str = "keep",
    start_s: float = 0.0,
    end_s: float | None = None,
    max_vms: int | None = None,
    core_mhz: float | None = None,
    machine_memory_mib: float | None = None,
) -> Trace:
    """Read a folder with ``container_usage`` and ``container_event`` (2017) or ``container_meta`` (2018).

    Each is one CSV file or several parts, plain or gzip, perhaps in a sub-folder of that name.
    A container lives from its first reading to its last. Signals, fractions: ``memory_active`` of the
    container's memory; 2018 also ``memory_bandwidth``, ``net_rx``, ``net_tx`` of the largest value of all
    machines, and ``disk_busy``.

    Args:
        path: The folder.
        sample_s: Sampling period of the trace, s.
        fill: What to put into gaps: None for an error, ``previous`` or ``zero``.
        over: What to do with more than 100 %: ``keep``, ``clip`` or ``error``.
        start_s: Leave out readings before this time, s.
        end_s: Leave out readings from this time on, s.
        max_vms: Take only the first containers that have a reading.
        core_mhz: Clock of a core, MHz, which the data does not say; without it ``cpu_mhz`` is None.
        machine_memory_mib: Memory of the largest machine, MiB; without it ``memory_mib`` is None.

    Returns:
        The trace; VMs in the order of their first readings.

    Raises:
        TraceError: For a missing or malformed file, with file and line, or gaps that may not be filled.
    """
    window = Window("alibaba", start_s, end_s, max_vms)
    check_positive("alibaba", core_mhz=core_mhz, machine_memory_mib=machine_memory_mib)
    repairs = Repairs("alibaba", fill, over)
    root = Path(path)
    layout, meta, usage = _locate(root)
    repairs.notes.append(f"version {layout.version}")
    sizes = _read_meta(layout, meta, repairs)
    rows, coder = Collector(), Coder(limit=max_vms, allowed=sizes)
    for part in usage:
        _read_usage(layout, part, window, coder, rows)
    if len(rows) == 0:
        raise TraceError(f"{show_path(root)}: no reading of a known container in the window")
    cores, memory = np.array([sizes[name] for name in coder.names]).T
    vms = Vms(
        vcpus=count_vcpus(str(path), cores),
        cpu_mhz=None if core_mhz is None else cores * core_mhz,
        memory_mib=None if machine_memory_mib is None else memory * machine_memory_mib,
    )
    readings = _make_readings(str(path), layout, rows, coder, sample_s, repairs)
    return build_trace(readings, vms, name=root.resolve().name, sample_s=sample_s, repairs=repairs)


def sniff(look: Look) -> bool:
    """Whether a folder holds the usage of containers."""
    return look.has_stem("container_usage")


def _make_readings(
    source: str, layout: _Layout, rows: Collector, coder: Coder, sample_s: float, repairs: Repairs
) -> Readings:
    repairs.leave_out_nobodys(coder.nobodys)
    repairs.leave_out(len(coder.refused), "containers with readings have no size")
    notes = repairs.notes
    time, vm = rows.column("time"), rows.column("vm")
    zero = float(time.min())
    ends, period = hold_until_next(vm, time - zero, sample_s, 300.0)
    notes.append(f"time 0 is second {zero:g} of the data set; readings every {period:g} s")
    notes.append("units: % made fractions: CPU of the request, memory of the container's")
    columns = {key: repairs.clean(key, rows.column(key), layout.invalid) / 100 for key in layout.numbers[1:]}
    return Readings(
        source=source,
        format="alibaba",
        vm=vm,
        start_s=time - zero,
        end_s=ends,
        util=columns[layout.util],
        names=coder.names,
        where=rows.where,
        signals={key: columns[column] for key, column in layout.signals.items()},
    )


def _locate(root: Path) -> tuple[_Layout, list[Path], list[Path]]:
    usage = find_parts(root, "container_usage")
    for layout in (_V2018, _V2017):
        meta = find_parts(root, layout.meta)
        if meta and usage:
            return layout, meta, usage
    raise TraceError(
        f"{show_path(root)}: needs container_usage.csv[.gz] and container_event.csv (2017) or "
        "container_meta.csv (2018)"
    )


def _read_meta(layout: _Layout, parts: list[Path], repairs: Repairs) -> dict[str, tuple[float, float]]:
    """Return cores and memory (share of the largest machine) of each container, from its first full row."""
    sizes: dict[str, tuple[float, float]] = {}
    other = nobodys = 0
    for part in parts:
        columns: dict[str, Any] = {"texts": ("container",), "numbers": (layout.cpu, layout.memory)}
        for block in read_blocks(part, layout.meta_fields, **columns):
            cores = block.numbers[layout.cpu] * layout.cores_of_one
            memory = block.numbers[layout.memory] * layout.memory_of_one
            for name, *size in zip(block.texts["container"].to_pylist(), cores.tolist(), memory.tolist()):
                nobodys += not name
                if name and 0 < size[0] < math.inf and 0 < size[1] < math.inf:
                    other += sizes.setdefault(name, (size[0], size[1])) != (size[0], size[1])
    if not sizes:
        raise TraceError(f"{show_path(parts[0])}: no container has a size")
    repairs.leave_out(nobodys, f"rows of {layout.meta} name no container")
    if other:
        repairs.notes.append(f"{other} rows give a container another size than its first row, which counts")
    return sizes


def _read_usage(layout: _Layout, part: Path, window: Window, coder: Coder, rows: Collector) -> None:
    blocks = read_blocks(part, layout.usage_fields, numbers=layout.numbers, texts=("container",))
    for block in blocks:
        time = block.numbers["time"]
        vm = coder.encode(block.texts["container"], window.holds(time), time)
        rows.add(block, vm >= 0, {"vm": vm, **block.numbers})
