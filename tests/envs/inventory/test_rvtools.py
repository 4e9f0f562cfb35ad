"""RVTools exports: what a workbook of 300 VMs becomes, and what becomes of hostile ones."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.exports import Tabs, column, put, rvtools_tabs, write_csv_tabs, write_usage, write_xlsx
from virtgym.envs.errors import TraceError
from virtgym.envs.inventory import read_inventory
from virtgym.envs.inventory.base import Inventory

N_VMS, N_HOSTS = 24, 4


def small() -> Tabs:
    return rvtools_tabs(N_VMS, N_HOSTS)


def read(folder: Path, tabs: Tabs, **options: Any) -> Inventory:
    return read_inventory(write_csv_tabs(folder, tabs), **options)


def needs_workbooks() -> None:
    pytest.importorskip("python_calamine", reason="reading workbooks needs the extra virtgym[excel]")


def test_a_workbook_and_its_tabs_say_the_same(tmp_path: Path) -> None:
    needs_workbooks()
    tabs = rvtools_tabs(300, 12)
    book = read_inventory(write_xlsx(tmp_path / "export.xlsx", tabs))
    folder = read_inventory(write_csv_tabs(tmp_path / "export", tabs))
    plain = [
        [(v.name, v.vcpus, v.memory_mib, v.host, v.shares) for v in found.vms] for found in (book, folder)
    ]
    assert plain[0] == plain[1]
    assert [(h.name, h.cores, h.core_mhz) for h in book.hosts] == [
        (h.name, h.cores, h.core_mhz) for h in folder.hosts
    ]
    assert (len(book.vms), len(book.hosts)) == (300, 12)
    np.testing.assert_array_equal(book.usage.cpu, folder.usage.cpu)
    at = {name: column(tabs, "vCPU", name) for name in ("Overall", "Max")}
    expected = [row[at["Overall"]] / row[at["Max"]] for row in tabs["vCPU"][1:]]
    np.testing.assert_allclose(book.usage.cpu[0], expected)


def test_a_usage_table_beside_the_tabs_is_the_history(tmp_path: Path) -> None:
    tabs = small()
    folder = write_csv_tabs(tmp_path / "export", tabs)
    write_usage(folder / "usage.csv", tabs, samples=12)
    found = read_inventory(folder)
    assert found.usage.cpu.shape == (12, N_VMS)
    assert found.usage.sample_s == 300.0
    assert not found.notes


def edit(tab: str, row: int, name: str, value: Any) -> Callable[[Tabs], None]:
    return lambda tabs: put(tabs, tab, row, name, value)


def rename(tab: str, name: str, new: str) -> Callable[[Tabs], None]:
    def change(tabs: Tabs) -> None:
        tabs[tab][0][column(tabs, tab, name)] = new

    return change


def drop_column(tab: str, name: str) -> Callable[[Tabs], None]:
    def change(tabs: Tabs) -> None:
        at = column(tabs, tab, name)
        for row in tabs[tab]:
            del row[at]

    return change


def drop_tab(tab: str) -> Callable[[Tabs], None]:
    return lambda tabs: tabs.__delitem__(tab)


def drop_row(tab: str, row: int) -> Callable[[Tabs], None]:
    return lambda tabs: tabs[tab].__delitem__(row)


def copy_row(tab: str, row: int, **cells: Any) -> Callable[[Tabs], None]:
    def change(tabs: Tabs) -> None:
        tabs[tab].append(list(tabs[tab][row]))
        for name, value in cells.items():
            put(tabs, tab, -1, name.replace("_", " "), value)

    return change


def all_cells(tab: str, name: str, write: Callable[[Any], Any]) -> Callable[[Tabs], None]:
    def change(tabs: Tabs) -> None:
        at = column(tabs, tab, name)
        for row in tabs[tab][1:]:
            row[at] = write(row[at])

    return change


def all_of(*changes: Callable[[Tabs], None]) -> Callable[[Tabs], None]:
    def change(tabs: Tabs) -> None:
        for one in changes:
            one(tabs)

    return change


def pad(tabs: Tabs) -> None:
    """A title and empty rows before the head, an empty column, empty rows between and after."""
    for name, rows in tabs.items():
        padded = [["RVTools 4.4.1", ""], [""], *[["", *row] for row in rows]]
        padded.insert(5, [""] * 3)
        tabs[name] = [*padded, [""], ["", "", ""]]


GERMAN = {
    "vInfo": {"VM": "Virtuelle Maschine", "Powerstate": "Energiestatus", "Template": "Vorlage",
              "Memory": "Arbeitsspeicher", "Resource pool": "Ressourcenpool", "CPUs": "Anzahl CPUs"},
    "vCPU": {"VM": "Virtuelle Maschine", "Overall": "Gesamt", "Shares": "Anteile",
             "Reservation": "Reservierung", "Limit": "Grenzwert", "Level": "Stufe"},
    "vMemory": {"VM": "Virtuelle Maschine", "Size MiB": "Größe MiB", "Active": "Aktiv",
                "Reservation": "Reservierung"},
    "vHost": {"Speed": "Taktfrequenz", "# Cores": "# Kerne", "# Memory": "# Speicher",
              "in Maintenance Mode": "im Wartungsmodus"},
}  # fmt: skip


def german(tabs: Tabs) -> None:
    """Names, words and numbers as a German desktop has them."""
    for tab, names in GERMAN.items():
        for name, new in names.items():
            rename(tab, name, new)(tabs)
    all_cells("vInfo", "Energiestatus", lambda _: "eingeschaltet")(tabs)
    all_cells("vInfo", "Vorlage", lambda _: "FALSCH")(tabs)
    for tab, name in (("vInfo", "Arbeitsspeicher"), ("vCPU", "Gesamt"), ("vHost", "# Speicher")):
        all_cells(tab, name, lambda n: f"{n:,}".replace(",", "."))(tabs)


ALIKE: dict[str, Callable[[Tabs], None]] = {
    "padded sheets": pad,
    "German names and numbers": german,
    "thousands by comma": all_cells("vInfo", "Memory", lambda n: f"{n:,}"),
    "thousands by apostrophe": all_cells("vInfo", "Memory", lambda n: f"{n:,}".replace(",", "'")),
    "thousands by narrow blank": all_cells("vInfo", "Memory", lambda n: f"{n:,}".replace(",", "\u202f")),
    "memory in the head's GB": all_of(
        all_cells("vInfo", "Memory", lambda n: n / 1024), rename("vInfo", "Memory", "Memory (GB)")
    ),
    "memory with a unit in the cell": all_cells("vInfo", "Memory", lambda n: f"{n // 1024} GB"),
    "numbers as text with blanks": all_cells("vInfo", "CPUs", lambda n: f"  {n} "),
    "whole numbers written with .0": all_cells("vInfo", "CPUs", lambda n: f"{n}.0"),
    "speed in GHz": all_of(
        all_cells("vHost", "Speed", lambda n: f"{n / 1000}"), rename("vHost", "Speed", "Speed GHz")
    ),
    "MB in place of MiB": rename("vMemory", "Size MiB", "Size MB"),
    "names of old versions": all_of(
        rename("vInfo", "CPUs", "vInfoCPUs"), rename("vInfo", "Host", "vInfoHost")
    ),
    "heads in capitals": all_of(*(rename("vInfo", name, name.upper()) for name in ("VM", "CPUs", "Memory"))),
    "words for yes and no": all_cells("vInfo", "Template", lambda _: "no"),
    "power state in capitals": all_cells("vInfo", "Powerstate", lambda _: "PoweredOn"),
    "no vRP": drop_tab("vRP"),
    "no vCluster": drop_tab("vCluster"),
    "no vMemory": drop_tab("vMemory"),
    "limits spelt unlimited": all_cells("vCPU", "Limit", lambda _: "unlimited"),
    "empty reservations": all_cells("vCPU", "Reservation", lambda _: ""),
    "other tabs beside": lambda tabs: tabs.__setitem__("vDisk", [["VM", "Disk"], ["vm-00000", "a"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_written_otherwise_is_read_alike(name: str, tmp_path: Path) -> None:
    tabs = small()
    plain = read(tmp_path / "plain", small())
    ALIKE[name](tabs)
    found = read(tmp_path / "export", tabs)
    assert [(v.name, v.vcpus, v.memory_mib, v.host) for v in found.vms] == [
        (v.name, v.vcpus, v.memory_mib, v.host) for v in plain.vms
    ]
    assert [(h.name, h.cores, h.core_mhz, h.memory_mib) for h in found.hosts] == [
        (h.name, h.cores, h.core_mhz, h.memory_mib) for h in plain.hosts
    ]
    np.testing.assert_allclose(found.usage.cpu, plain.usage.cpu)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separators_and_encodings(delimiter: str, encoding: str, tmp_path: Path) -> None:
    tabs = small()
    put(tabs, "vInfo", 1, "VM", "büro-1")
    put(tabs, "vCPU", 1, "VM", "büro-1")
    put(tabs, "vMemory", 1, "VM", "büro-1")
    found = read_inventory(write_csv_tabs(tmp_path / "export", tabs, delimiter, encoding))
    assert found.vms[0].name == "büro-1"
    assert len(found.vms) == N_VMS


DROP = {"missing": "drop"}
COUNTED: dict[str, tuple[Callable[[Tabs], None], dict[str, Any], str, int]] = {
    "templates": (edit("vInfo", 1, "Template", True), {}, "templates, left out", N_VMS - 1),
    "powered off": (edit("vInfo", 2, "Powerstate", "poweredOff"), {}, "do not run", N_VMS - 1),
    "suspended": (edit("vInfo", 2, "Powerstate", "suspended"), {}, "do not run", N_VMS - 1),
    "placeholders": (edit("vInfo", 2, "SRM Placeholder", True), {}, "placeholders of SRM", N_VMS - 1),
    "agents": (edit("vInfo", 2, "VM", "vCLS-0c1e"), {}, "agents of vSphere", N_VMS - 1),
    "memory promised twice": (edit("vHost", 1, "# Memory", 4096), {}, "take no VM", N_VMS),
    "doubled row": (copy_row("vInfo", 1), {}, "twice, taken once", N_VMS),
    "doubled host": (copy_row("vHost", 1), {}, "hosts that stand in the export twice", N_VMS),
    "one name, two VMs": (
        all_of(copy_row("vInfo", 1, VM_ID="vm-9", VM_UUID="x"), copy_row("vCPU", 1, VM_ID="vm-9"),
               copy_row("vMemory", 1, VM_ID="vm-9")),
        {}, "share their name", N_VMS + 1,
    ),
    "row without a VM": (edit("vInfo", 3, "VM", ""), {}, "rows of vInfo without a VM", N_VMS - 1),
    "row without a host": (
        lambda tabs: tabs["vHost"].append([""] * 6 + [2600]), {}, "rows of vHost without a host", N_VMS
    ),
    "dangling host, dropped": (edit("vInfo", 4, "Host", "gone"), DROP, "export does not have", N_VMS - 1),
    "no usage, dropped": (edit("vCPU", 5, "Overall", ""), DROP, "without all of their", N_VMS - 1),
    "reservation above the vCPUs": (edit("vCPU", 6, "Reservation", 999_999), {}, "cut to that", N_VMS),
    "memory reserved above the memory": (edit("vMemory", 6, "Reservation", 10**7), {}, "cut to that", N_VMS),
    "pool with a limit": (edit("vRP", 1, "CPU limit", 5000), {}, "resource pools", N_VMS),
    "use above the vCPUs": (edit("vCPU", 1, "Overall", 4 * 2600 + 100), {}, "above what the VM has", N_VMS),
    "usage of others": (copy_row("vCPU", 1, VM="other", VM_ID="vm-77"), {}, "sample of usage", N_VMS),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_left_out_is_counted(name: str, tmp_path: Path) -> None:
    change, options, note, left = COUNTED[name]
    tabs = small()
    put(tabs, "vInfo", 1, "CPUs", 4)
    put(tabs, "vCPU", 1, "Overall", 500)
    change(tabs)
    found = read(tmp_path / "export", tabs, **options)
    assert any(note in text for text in found.notes), found.notes
    assert len(found.vms) == left


IDS = ("VM ID", "VM UUID", "VI SDK Server")
REFUSED: dict[str, tuple[Callable[[Tabs], None], str]] = {
    "no vInfo": (drop_tab("vInfo"), "is of no known export|has no tab vInfo"),
    "no vHost": (drop_tab("vHost"), "has no tab vHost"),
    "no vCPU": (drop_tab("vCPU"), "has no usage"),
    "no column VM": (drop_column("vInfo", "VM"), "vInfo.csv: has no column 'VM'"),
    "no column Host": (drop_column("vInfo", "Host"), "vInfo.csv: has no column 'Host'"),
    "no column CPUs": (drop_column("vInfo", "CPUs"), "vInfo.csv: has no column 'CPUs'"),
    "no column Speed": (drop_column("vHost", "Speed"), "vHost.csv: has no column 'Speed'"),
    "no column Overall": (drop_column("vCPU", "Overall"), "has no usage"),
    "column twice": (rename("vInfo", "NICs", "CPUs"), "column 'CPUs' stands there twice"),
    "no head": (lambda tabs: tabs.__setitem__("vInfo", [["x", "y"], ["1", "2"]]), "no row in the first"),
    "an empty tab": (lambda tabs: tabs.__setitem__("vInfo", []), "no row in the first"),
    "no VM": (lambda tabs: tabs["vInfo"].__delitem__(slice(1, None)), "has no VMs"),
    "no host": (lambda tabs: tabs["vHost"].__delitem__(slice(1, None)), "has no hosts"),
    "nothing runs": (all_cells("vInfo", "Powerstate", lambda _: "poweredOff"), "has no VMs"),
    "unknown power state": (edit("vInfo", 3, "Powerstate", "half"), r"csv:4, column 'Powerstate': half"),
    "unknown truth": (edit("vInfo", 3, "Template", "perhaps"), r"csv:4, column 'Template': expected yes"),
    "text for a number": (edit("vInfo", 3, "CPUs", "four"), r"vInfo.csv:4, column 'CPUs': expected a number"),
    "nothing for a number": (edit("vInfo", 3, "Memory", ""), r"csv:4, column 'Memory': .* found nothing"),
    "part of a CPU": (edit("vInfo", 3, "CPUs", "1,5"), r"vInfo.csv:4, column 'CPUs': 1.5: must be a whole"),
    "unknown unit": (edit("vInfo", 3, "Memory", "4 parsec"), r"vInfo.csv:4, .*unknown unit 'parsec'"),
    "unit of something else": (edit("vInfo", 3, "Memory", "4 GHz"), r"unknown unit 'GHz'"),
    "no memory": (edit("vInfo", 3, "Memory", 0), r"VM vm-00002: memory_mib 0: must be above 0"),
    "negative memory": (edit("vInfo", 3, "Memory", -4096), r"memory_mib -4096"),
    "memory beyond machines": (edit("vInfo", 3, "Memory", 10**13), r"memory_mib 1e\+13: must be"),
    "no vCPUs": (edit("vInfo", 3, "CPUs", 0), "vcpus 0: must be"),
    "a million vCPUs": (edit("vInfo", 3, "CPUs", 10**6), "vcpus 1e.06: must be"),
    "infinite speed": (edit("vHost", 1, "Speed", "inf"), "column 'Speed': expected a number"),
    "speed in another unit": (edit("vHost", 1, "Speed", 2_600_000_000), "core_mhz 2.6e.09: must be"),
    "no cores": (edit("vHost", 1, "# Cores", 0), "cores 0: must be"),
    "dangling host": (edit("vInfo", 4, "Host", "gone"), r"vInfo.csv:5: VM vm-00003 is on host gone"),
    "VM without a host": (edit("vInfo", 4, "Host", ""), r"VM vm-00003 is on host \(none\)"),
    "no usage of a VM": (edit("vCPU", 5, "Overall", ""), "VM vm-00004, column 'vCPU Overall': no value"),
    "no row of a VM in vCPU": (drop_row("vCPU", 5), "VM vm-00004, column 'vCPU Overall': no value"),
    "no active memory of a VM": (edit("vMemory", 5, "Active", ""), "VM vm-00004, column 'vMemory Active'"),
    "use in another unit": (edit("vCPU", 1, "Overall", 10**9), "of what VM vm-00000 has; is it in another"),
    "negative use": (edit("vCPU", 1, "Overall", -5), "of what VM vm-00000 has"),
    "one name without ids": (
        all_of(copy_row("vInfo", 1, CPUs=8), *(drop_column("vInfo", name) for name in IDS)),
        "no VM ID tells them apart",
    ),
    "one id, two sizes": (copy_row("vInfo", 1, Memory=1), "already, with other values"),
    "one host, two sizes": (copy_row("vHost", 1, Speed=1), "host esx000.example.org stands in"),
    "unknown cluster": (lambda tabs: None, "cluster x: no such cluster; there are: cluster-0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_line_that_names_its_place(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    tabs = small()
    change(tabs)
    options = {"cluster": "x"} if name == "unknown cluster" else {}
    with pytest.raises(TraceError, match=message) as caught:
        read(tmp_path / "export", tabs, **options)
    assert "\n" not in str(caught.value)


def test_there_are_enough_hostile_variants() -> None:
    assert len(ALIKE) + len(COUNTED) + len(REFUSED) >= 50


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\0" * (len(content) // 2)
    path.write_bytes(content)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet1.xml", b"<row/>" * 15_000_000)


def liar(path: Path) -> None:
    """An archive whose table says that an entry is shorter than it is."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as book:
        entry = book.getinfo("xl/worksheets/sheet1.xml")
    size = entry.file_size.to_bytes(4, "little")
    path.write_bytes(content.replace(size, (10).to_bytes(4, "little")))


BOOKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not an Excel workbook"),
    "text": (lambda path: path.write_text("VM;CPUs"), "not an Excel workbook"),
    "an old workbook": (lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0" * 200), "not an Excel workbook"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "not an Excel workbook"),
    "damaged": (damage_bytes, "not an Excel workbook"),
    "a bomb": (bomb, "unpacks to 90,000,000 bytes"),
    "an entry longer than it says": (liar, "not an Excel workbook"),
    "two sheets of a name": (
        lambda path: write_xlsx(path, {**small(), "vinfo": small()["vInfo"]}), "two sheets vInfo|not an Excel"
    ),
    "other sheets only": (lambda path: write_xlsx(path, {"a": [["x"]]}), "has no tab vInfo"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOOKS)
def test_hostile_workbooks_are_one_line(name: str, tmp_path: Path) -> None:
    needs_workbooks()
    make, message = BOOKS[name]
    path = write_xlsx(tmp_path / "export.xlsx", small())
    make(path)
    with pytest.raises(TraceError, match=message) as caught:
        read_inventory(path)
    assert "\n" not in str(caught.value)
    assert "export.xlsx" in str(caught.value)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "python_calamine", None)
    path = write_xlsx(tmp_path / "export.xlsx", small())
    with pytest.raises(TraceError, match=r"virtgym\[excel\]"):
        read_inventory(path)


def test_vms_of_clusters_stay_in_theirs(tmp_path: Path) -> None:
    from virtgym.envs.scenarios.inventory import rules_of

    found = read(tmp_path / "export", rvtools_tabs(24, 4, clusters=2))
    rules = rules_of(found)
    assert found.clusters == ("cluster-0", "cluster-1")
    assert sorted(rule.hosts for rule in rules.must) == [(0, 1), (2, 3)]
    one = read(tmp_path / "one", rvtools_tabs(24, 4, clusters=2), cluster="cluster-1")
    assert {host.cluster for host in one.hosts} == {"cluster-1"}
    assert any("hosts that are left out" in note for note in one.notes)


def test_vcenter_performance_is_usage(tmp_path: Path) -> None:
    tabs = small()
    folder = write_csv_tabs(tmp_path / "export", tabs)
    path = tmp_path / "getstat.csv"
    heads = ["MetricId", "Timestamp", "Value", "Unit", "Entity", "EntityId", "IntervalSecs", "Instance"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write("#TYPE VMware.VimAutomation.ViCore.Impl.V1.Stat.FloatSampleImpl\n")
        out = csv.writer(file, quoting=csv.QUOTE_ALL)
        out.writerow(heads)
        for k in range(3):
            for v in range(N_VMS):
                for metric, value, instance in (
                    *(("cpu.usage.average", 10 + k + v / 10, ""), ("cpu.usage.average", 99, "0")),
                    ("mem.usage.average", 40.5, ""),
                ):
                    time = f"11/30/2026 9:{20 * k:02d}:00 AM"
                    row = [metric, time, value, "%", f"vm-{v:05d}", f"VirtualMachine-vm-{v}", 1200, instance]
                    out.writerow(row)
    found = read_inventory(folder, usage=path)
    assert found.usage.sample_s == 1200.0
    np.testing.assert_allclose(found.usage.cpu[2], [0.12 + v / 1000 for v in range(N_VMS)])
    assert found.usage.memory is not None
    np.testing.assert_allclose(found.usage.memory, 0.405)
