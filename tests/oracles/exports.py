"""Exports of small clusters as the real tools write them, for the tests of their readers."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

Tabs = dict[str, list[list[Any]]]

_TYPES = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/xl/workbook.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>{sheets}</Types>'
)
_RELS = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{items}</Relationships>'
)
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def rvtools_tabs(n_vms: int = 300, n_hosts: int = 12, seed: int = 0, clusters: int = 1) -> Tabs:
    """Tabs of an RVTools export with the columns of version 4, those that are read and some that are not."""
    rng = np.random.default_rng(seed)
    hosts = [f"esx{h:03d}.example.org" for h in range(n_hosts)]
    of_host = [f"cluster-{h * clusters // n_hosts}" for h in range(n_hosts)]
    info: list[list[Any]] = [
        ["VM", "Powerstate", "Template", "SRM Placeholder", "Config status", "DNS Name", "CPUs", "Memory"]
    ]
    info[0] += ["NICs", "Resource pool", "Cluster", "Host", "VM ID", "VM UUID", "VI SDK Server"]
    cpu: list[list[Any]] = [
        ["VM", "Powerstate", "Template", "CPUs", "Sockets", "Cores p/s", "Max", "Overall", "Level", "Shares"]
    ]
    cpu[0] += ["Reservation", "Entitlement", "DRS Entitlement", "Limit", "Hot Add", "Host", "VM ID"]
    memory: list[list[Any]] = [
        ["VM", "Powerstate", "Template", "Size MiB", "Overhead", "Max", "Consumed", "Active", "Level"]
    ]
    memory[0] += ["Shares", "Reservation", "Limit", "Host", "VM ID"]
    for v in range(n_vms):
        h = min(int(n_hosts * rng.random() ** 1.3), n_hosts - 1)
        vcpus = int(rng.choice([1, 2, 4, 8]))
        size = int(rng.choice([2, 4, 8, 16])) * 1024
        name, ident = f"vm-{v:05d}", f"vm-{1000 + v}"
        use = int(vcpus * 2600 * rng.beta(1.2, 4.0))
        uuid = f"564d0000-0000-0000-0000-{v:012d}"
        info.append(
            [name, "poweredOn", False, False, "green", f"{name}.example.org", vcpus, size, 1, "/dc/prod"]
        )
        info[-1] += [of_host[h], hosts[h], ident, uuid, "vc.example.org"]
        cpu.append([name, "poweredOn", False, vcpus, vcpus, 1, vcpus * 2600, use, "normal", vcpus * 1000, 0])
        cpu[-1] += [use, use, -1, False, hosts[h], ident]
        memory.append(
            [name, "poweredOn", False, size, 60, size, size // 2, int(size * rng.beta(2, 6)), "normal"]
        )
        memory[-1] += [size * 10, 0, -1, hosts[h], ident]
    host: list[list[Any]] = [
        ["Host", "Datacenter", "Cluster", "Config status", "in Maintenance Mode", "CPU Model", "Speed"]
    ]
    host[0] += ["HT Available", "# CPU", "Cores per CPU", "# Cores", "CPU usage %", "# Memory", "# VMs"]
    for h, name in enumerate(hosts):
        host.append([name, "dc", of_host[h], "green", False, "Intel(R) Xeon(R) Gold 6240", 2600, True, 2, 32])
        host[-1] += [64, 40, 786_432, 25]
    pool: list[list[Any]] = [
        ["Resource Pool name", "Resource Pool path", "CPU limit", "CPU reservation"],
        ["prod", "/dc", -1, 0],
    ]
    group: list[list[Any]] = [
        ["Name", "NumHosts", "HA enabled", "Failover Level"],
        ["cluster-0", n_hosts, True, 1],
    ]
    return {"vInfo": info, "vCPU": cpu, "vMemory": memory, "vHost": host, "vRP": pool, "vCluster": group}


def column(tabs: Tabs, tab: str, name: str) -> int:
    """Place of a column of a tab."""
    return tabs[tab][0].index(name)


def put(tabs: Tabs, tab: str, row: int, name: str, value: Any) -> None:
    """Write a cell; row 1 is the first below the head."""
    tabs[tab][row][column(tabs, tab, name)] = value


def write_xlsx(path: Path, tabs: Mapping[str, Sequence[Sequence[Any]]]) -> Path:
    """Write a workbook with nothing but what makes it one."""
    names = list(tabs)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"
        parts = "".join(
            f'<Override PartName="/xl/worksheets/sheet{i}.xml" ContentType="{kind}"/>'
            for i in range(1, len(names) + 1)
        )
        book.writestr("[Content_Types].xml", _TYPES.format(sheets=parts))
        root = f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        book.writestr("_rels/.rels", _RELS.format(items=root))
        links = "".join(
            f'<Relationship Id="rId{i}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            for i in range(1, len(names) + 1)
        )
        book.writestr("xl/_rels/workbook.xml.rels", _RELS.format(items=links))
        sheets = "".join(
            f'<sheet name="{escape(name)}" sheetId="{i}" r:id="rId{i}"/>' for i, name in enumerate(names, 1)
        )
        book.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>',
        )
        for i, name in enumerate(names, 1):
            book.writestr(f"xl/worksheets/sheet{i}.xml", _sheet(tabs[name]))
    return path


def _sheet(rows: Sequence[Sequence[Any]]) -> str:
    lines = []
    for r, row in enumerate(rows, 1):
        cells = "".join(_cell(f"{_letters(c)}{r}", value) for c, value in enumerate(row))
        lines.append(f'<row r="{r}">{cells}</row>')
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def _letters(c: int) -> str:
    return chr(65 + c) if c < 26 else chr(64 + c // 26) + chr(65 + c % 26)


def _cell(place: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f'<c r="{place}"><v>{value}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(str(value))}</t></is></c>'


def write_csv_tabs(folder: Path, tabs: Tabs, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Write a CSV per tab as RVTools names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tabs.items():
        with open(folder / f"RVTools_tab{name}.csv", "w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
    return folder


def write_usage(path: Path, tabs: Tabs, samples: int = 24, seed: int = 1) -> Path:
    """Write a usage table for the VMs of tabs, whose last sample is that of vCPU's Overall."""
    rng = np.random.default_rng(seed)
    at = {name: column(tabs, "vCPU", name) for name in ("VM", "Overall", "Max")}
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["time", "vm", "cpu"])
        for row in tabs["vCPU"][1:]:
            share = row[at["Overall"]] / row[at["Max"]]
            for k in range(samples):
                noise = 0.0 if k == samples - 1 else 0.02 * rng.normal()
                out.writerow(
                    [f"2026-11-30T{k // 12:02d}:{k % 12 * 5:02d}:00", row[at["VM"]], max(0.0, share + noise)]
                )
    return path


def proxmox_files(folder: Path, n_vms: int = 6, samples: int = 20) -> Path:
    """What the API of Proxmox VE answers, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [
        {
            "type": "node",
            "id": f"node/pve{h}",
            "node": f"pve{h}",
            "status": "online",
            "maxcpu": 16,
            "cpu": 0.2,
        }
        | {
            "maxmem": 128 * 2**30,
            "mem": 40 * 2**30,
            "level": "",
            "uptime": 86400,
            "maxdisk": 10**11,
            "disk": 1,
        }
        for h in range(3)
    ]
    guests = [
        {"type": "qemu", "id": f"qemu/{100 + v}", "vmid": 100 + v, "name": f"app{v}", "node": f"pve{v % 2}"}
        | {"status": "running", "template": 0, "maxcpu": 4, "maxmem": 8 * 2**30, "cpu": 0.1, "mem": 4 * 2**30}
        | {"pool": "web", "uptime": 3600, "maxdisk": 34359738368, "netin": 1, "netout": 1}
        for v in range(n_vms)
    ]
    others = [
        {"type": "qemu", "id": "qemu/900", "vmid": 900, "name": "golden", "node": "pve0", "status": "stopped"}
        | {"template": 1, "maxcpu": 1, "maxmem": 2**30},
        {"type": "qemu", "id": "qemu/901", "vmid": 901, "name": "old", "node": "pve0", "status": "stopped"}
        | {"template": 0, "maxcpu": 1, "maxmem": 2**30},
        {
            "type": "storage",
            "id": "storage/pve0/local",
            "storage": "local",
            "node": "pve0",
            "status": "available",
        },
        {"type": "sdn", "id": "sdn/pve0/localnetwork", "sdn": "localnetwork", "node": "pve0", "status": "ok"},
    ]
    (folder / "resources.json").write_text(json.dumps({"data": nodes + guests + others}))
    for h in range(3):
        cpu = {"cpus": 16, "cores": 8, "sockets": 2, "mhz": "2400.000", "model": "AMD EPYC", "hvm": "1"}
        (folder / f"status-pve{h}.json").write_text(
            json.dumps({"data": {"cpuinfo": cpu, "kversion": "Linux"}})
        )
    for v in range(n_vms):
        readings = [
            {
                "time": 1_700_000_040 + 60 * k,
                "cpu": 0.1 + 0.12 * v + 0.001 * k,
                "maxcpu": 4,
                "mem": 4.5 * 2**30,
            }
            | {"maxmem": 8 * 2**30, "netin": 10.5, "netout": 4.25, "diskread": 0, "diskwrite": 512.0}
            for k in range(samples)
        ]
        readings.append({"time": 1_700_000_040 + 60 * samples})  # the period under way
        (folder / f"rrddata-{100 + v}.json").write_text(json.dumps(readings))
    return folder


def prometheus_files(folder: Path, n_vms: int = 4, samples: int = 12) -> Path:
    """Answers of range queries of libvirt's exporter and the node exporter."""
    folder.mkdir(parents=True, exist_ok=True)
    times = [1_700_000_000 + 300 * k for k in range(samples)]

    def write(name: str, lines: Sequence[tuple[dict[str, str], Sequence[float]]]) -> None:
        result = [
            {
                "metric": {"__name__": name} | labels,
                "values": [[t, f"{x:.10g}"] for t, x in zip(times, values)],
            }
            for labels, values in lines
        ]
        answer = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        (folder / f"{name}.json").write_text(json.dumps(answer))

    vms = [
        {"domain": f"instance-{v:08x}", "instance": f"kvm{v % 2}:9177", "job": "libvirt"}
        for v in range(n_vms)
    ]
    rates = [0.4 + 0.3 * v for v in range(n_vms)]  # cores in use, of 4
    write(
        "libvirt_domain_info_cpu_time_seconds_total",
        [(vm, [1000 + rate * (t - times[0]) for t in times]) for vm, rate in zip(vms, rates)],
    )
    write("libvirt_domain_info_virtual_cpus", [(vm, [4] * samples) for vm in vms])
    write("libvirt_domain_info_maximum_memory_bytes", [(vm, [8 * 2**30] * samples) for vm in vms])
    write("libvirt_domain_info_memory_usage_bytes", [(vm, [6 * 2**30] * samples) for vm in vms])
    nodes = [{"instance": f"kvm{h}:9100", "job": "node"} for h in range(2)]
    write("node_memory_MemTotal_bytes", [(node, [64 * 2**30] * samples) for node in nodes])
    cores = [{**node, "cpu": str(c), "mode": "idle"} for node in nodes for c in range(8)]
    write("node_cpu_seconds_total", [(one, [5.0] * samples) for one in cores])
    write("node_cpu_frequency_max_hertz", [({**node, "cpu": "0"}, [2.5e9] * samples) for node in nodes])
    return folder
