"""Azure, Google and Alibaba: small files in the genuine formats, values by hand, errors with their lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import read_trace
from virtgym.envs.traces.formats.alibaba import read_alibaba
from virtgym.envs.traces.formats.azure import read_azure
from virtgym.envs.traces.formats.google import TASK_EVENT_COLUMNS, TASK_USAGE_COLUMNS, read_google
from virtgym.envs.traces.readers import guess_format


def write(path: Path, rows: list[str]) -> Path:
    """Write lines, through gzip where the name asks for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


# ---------------------------------------------------------------- Azure

VMS = [
    "aa+/x=,s1,d1,0,2591700,99.3,3.4,10.1,Delay-insensitive,1,1.75",
    "bb,s1,d1,300,600,98.9,3,9.4,Interactive,4,32",
    "cc,s2,d2,9000,9300,98.9,3,9.4,Unkown,8,56",
]
READINGS = [
    ["0,aa+/x=,2.5,50,10", "300,bb,0,100,20", "300,aa+/x=,1,2,30"],
    ["600,bb,1,2,40", "600,aa+/x=,5,90,50"],
]


def azure(
    folder: Path, vms: list[str] = VMS, readings: list[list[str]] = READINGS, end: str = ".csv.gz"
) -> Path:
    write(folder / "vmtable" / f"vmtable{end}", vms)
    for number, rows in enumerate(readings, start=1):
        write(folder / "vm_cpu_readings" / f"vm_cpu_readings-file-{number}-of-125{end}", rows)
    return folder


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
def test_azure_2017(tmp_path: Path, end: str) -> None:
    folder = azure(tmp_path / "trace_data", end=end)
    assert guess_format(folder) == guess_format(tmp_path) == "azure"
    trace = read_azure(folder, core_mhz=2400.0)
    assert trace.vm_names == ("aa+/x=", "bb")
    assert trace.util.tolist() == [[0.1, 0], [0.3, 0.2], [0.5, 0.4]]
    assert trace.signals["cpu_max"].tolist() == [[0.5, 0], [0.02, 1.0], [0.9, 0.02]]
    assert trace.signals["cpu_min"][0, 0] == 0.025
    assert trace.arrival_s.tolist() == [0, 300]
    assert trace.vcpus is not None
    assert trace.memory_mib is not None
    assert trace.cpu_mhz is not None
    assert trace.vcpus.tolist() == [1, 4]
    assert trace.memory_mib.tolist() == [1.75 * 1024, 32 * 1024]
    assert trace.cpu_mhz.tolist() == [2400, 9600]
    assert read_azure(tmp_path).util.tolist() == trace.util.tolist()
    assert read_azure(folder).cpu_mhz is None
    assert trace.notes[0] == "time 0 is second 0 of the data set; readings every 300 s"
    assert trace.notes[1].startswith("from 2 files; units: %")


def test_azure_2019_has_buckets(tmp_path: Path) -> None:
    vms = [VMS[0].replace(",1,1.75", ",>24,>64"), VMS[1]]
    trace = read_azure(azure(tmp_path, vms))
    assert trace.vcpus is not None
    assert trace.memory_mib is not None
    assert trace.vcpus.tolist() == [30, 4]
    assert trace.memory_mib.tolist() == [70 * 1024, 32 * 1024]
    assert "V2 (2019): sizes are buckets; >24 is 30 cores, >64 is 70 GiB" in trace.notes
    other = read_azure(tmp_path, cores_above=64, memory_gib_above=256.0)
    assert other.vcpus is not None
    assert other.vcpus.tolist() == [64, 4]


def test_azure_windows_and_unknown_vms(tmp_path: Path) -> None:
    folder = azure(tmp_path, readings=[[*READINGS[0], "300,zz,1,1,1"], READINGS[1]])
    trace = read_azure(folder, start_s=300)
    assert trace.util.tolist() == [[0.3, 0.2], [0.5, 0.4]]
    assert trace.arrival_s.tolist() == [0, 0]
    assert "1 VMs with readings are not in the VM table, and are left out" in trace.notes
    assert read_azure(folder, end_s=300, max_vms=1).vm_names == ("aa+/x=",)
    with pytest.raises(TraceError, match=r"no reading of a VM of .* in the window"):
        read_azure(folder, start_s=9e9)
    with pytest.raises(TraceError, match="end_s must be after start_s=5, is 2"):
        read_azure(folder, start_s=5, end_s=2)


def test_azure_gaps(tmp_path: Path) -> None:
    folder = azure(tmp_path, readings=[["0,bb,0,0,10", "0,aa+/x=,0,0,10", "900,aa+/x=,0,0,110"]])
    with pytest.raises(TraceError, match=r"has no reading for time_s=300; gaps: .* of 2 VMs"):
        read_azure(folder)
    trace = read_azure(folder, fill="zero")
    assert trace.util[:, 0].tolist() == [0.1, 0, 0, 1.1]
    assert any("over capacity: 1 of 3 rows" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("vms", "readings", "text"),
    [
        (VMS, [["0,aa+/x=,1,2"]], r"file-1-of-125\.csv\.gz:1: expected 5 columns, found 4"),
        (
            VMS,
            [["0,aa+/x=,1,2,3", "300,aa+/x=,1,2,x"]],
            r"file-1-of-125\.csv\.gz:2: avgcpu: expected a number, found 'x'",
        ),
        (
            VMS,
            [["0,bb,1,2,3", "", "300,bb,1,2,-3"]],
            r"gz:3: vm 'bb' has no reading for time_s=300; .* avgcpu: 0 blank and 1 invalid",
        ),
        (VMS, [["0,,1,2,3"]], r"no reading of a VM of .* in the window"),
        ([VMS[0], VMS[0]], READINGS, r"vmtable\.csv\.gz:2: the vmid 'aa\+/x=' has a row already"),
        (
            [VMS[0].replace(",1,1.75", ",?,1")],
            READINGS,
            r"vmtable\.csv\.gz:1: vmcorecount: expected a positive number",
        ),
        ([], READINGS, r"vmtable\.csv\.gz: the table has no rows"),
    ],
)
def test_azure_errors(tmp_path: Path, vms: list[str], readings: list[list[str]], text: str) -> None:
    with pytest.raises(TraceError, match=text) as caught:
        read_azure(azure(tmp_path, vms, readings))
    assert "\n" not in str(caught.value)


def test_azure_needs_its_files(tmp_path: Path) -> None:
    write(tmp_path / "vmtable.csv", VMS)
    with pytest.raises(
        TraceError, match=r"needs one vmtable\.csv\[\.gz\] and vm_cpu_readings\*.* has 1 and 0"
    ):
        read_trace(tmp_path)
    damaged = azure(tmp_path / "d")
    part = damaged / "vm_cpu_readings" / "vm_cpu_readings-file-1-of-125.csv.gz"
    part.write_bytes(part.read_bytes()[:30])
    with pytest.raises(TraceError, match=r"file-1-of-125\.csv\.gz: "):
        read_azure(damaged)


# ---------------------------------------------------------------- Google


def usage_2011(
    start: float, end: float, job: int, task: int, cpu: object, memory: object, disk: object = 0.5
) -> str:
    row: dict[str, object] = dict.fromkeys(TASK_USAGE_COLUMNS, "")
    row |= {"start_time": int(start * 1e6), "end_time": int(end * 1e6), "job_id": job, "task_index": task}
    row |= {"machine_id": 5, "cpu_rate": cpu, "canonical_memory_usage": memory, "disk_io_time": disk}
    row |= {"aggregation_type": 0, "sample_portion": 1}
    return ",".join(str(value) for value in row.values())


def event_2011(job: int, task: int, cpu: object, memory: object) -> str:
    row: dict[str, object] = dict.fromkeys(TASK_EVENT_COLUMNS, "")
    row |= {
        "time": 0,
        "job_id": job,
        "task_index": task,
        "event_type": 0,
        "user": "u=",
        "scheduling_class": 2,
    }
    row |= {"priority": 9, "cpu_request": cpu, "memory_request": memory}
    return ",".join(str(value) for value in row.values())


def google_2011(folder: Path, usage: list[str], events: list[str]) -> Path:
    write(folder / "task_usage" / "part-00000-of-00500.csv.gz", usage[:2])
    write(folder / "task_usage" / "part-00001-of-00500.csv.gz", usage[2:])
    if events:
        write(folder / "task_events" / "part-00000-of-00500.csv.gz", events)
    return folder


USAGE = [
    usage_2011(600, 900, 6253771429, 0, 0.05, 0.1),
    usage_2011(600, 900, 6253771429, 1, 0.2, 0.01),
    usage_2011(900, 1200, 6253771429, 0, 0.025, 0.05, ""),
    usage_2011(900, 1050, 6253771429, 1, 0.1, 0.02),
]
EVENTS = [
    event_2011(6253771429, 0, 0.1, 0.2),
    event_2011(6253771429, 0, 0.05, 0.2),
    event_2011(1, 1, 0.5, 0.5),
]


def test_google_2011(tmp_path: Path) -> None:
    folder = google_2011(tmp_path, USAGE, EVENTS)
    assert guess_format(folder) == "google"
    with pytest.raises(TraceError, match="gaps in disk_busy"):
        read_google(folder)
    trace = read_google(folder, fill="zero", machine_mhz=10_000.0, machine_memory_mib=1000.0)
    assert trace.vm_names == ("6253771429-0", "6253771429-1")
    assert trace.util.ravel() == pytest.approx([0.5, 1.0, 0.25, 0.5])
    assert trace.departure_s.tolist() == [float("inf"), 450]
    assert trace.cpu_mhz is not None
    assert trace.memory_mib is not None
    assert trace.cpu_mhz == pytest.approx([1000, 2000])
    assert trace.memory_mib == pytest.approx([200, 20])
    assert trace.signals["memory_active"].ravel() == pytest.approx([0.5, 0.5, 0.25, 1.0])
    assert trace.signals["disk_busy"].ravel() == pytest.approx([0.5, 0.5, 0, 0.5])
    assert "CPU: the peak of 1 of 2 tasks is their size, no request is known" in trace.notes
    assert "time 0 is second 600 of the data set" in trace.notes
    alone = read_google(google_2011(tmp_path / "alone", USAGE, []), fill="previous")
    assert alone.util[0].tolist() == [1.0, 1.0]
    assert (alone.cpu_mhz, alone.memory_mib, alone.vcpus) == (None, None, None)


def test_google_windows_and_first_release(tmp_path: Path) -> None:
    folder = google_2011(tmp_path, [row.rpartition(",")[0] for row in USAGE], [])  # 19 columns
    assert read_google(folder, max_vms=1, end_s=900).vm_names == ("6253771429-0",)
    with pytest.raises(TraceError, match="no window of a task between start_s and end_s"):
        read_google(folder, start_s=5e6)
    with pytest.raises(TraceError, match="machine_mhz must be positive, is 0"):
        read_google(folder, machine_mhz=0.0)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("1,2,3", r"part-00001-of-00500\.csv\.gz:2: expected 20 columns, found 3"),
        (
            usage_2011(900, 1200, 1, 1, "much", 0),
            r"part-00001.*:2: cpu_rate: expected a number, found 'much'",
        ),
        (
            usage_2011(1200, 1500, 6253771429, 0, -0.5, 0.1),
            r"part-00001.*:2: vm '6253771429-0' has .* cpu_rate: 0 blank and 1 inv",
        ),
    ],
)
def test_google_2011_errors(tmp_path: Path, bad: str, text: str) -> None:
    with pytest.raises(TraceError, match=text):
        read_google(google_2011(tmp_path, [*USAGE[:3], bad], EVENTS))


def usage_2019(start: int, end: int, index: int, cpu: float | None, memory: float, kind: str = "0") -> str:
    row: dict[str, Any] = {"start_time": str(start * 1_000_000), "end_time": str(end * 1_000_000)}
    row |= {"collection_id": "330587238433", "instance_index": str(index), "machine_id": "23624491139"}
    row |= {"alloc_collection_id": "330587160469", "alloc_instance_index": "111", "collection_type": kind}
    row["average_usage"] = {"memory": memory} if cpu is None else {"cpus": cpu, "memory": memory}
    row |= {
        "random_sample_usage": {"cpus": 0.016},
        "assigned_memory": 0,
        "cpu_usage_distribution": [0.1, 0.2],
    }
    return json.dumps(row)


def test_google_2019(tmp_path: Path) -> None:
    usage = [
        usage_2019(300, 600, 0, 0.05, 0.1),
        usage_2019(300, 600, 1, 0.01, 0.1),
        usage_2019(300, 600, 5, 1, 1, "1"),
    ]
    write(tmp_path / "instance_usage-000000000000.json.gz", usage)
    write(tmp_path / "instance_usage-000000000001.json.gz", [usage_2019(600, 900, 0, 0.1, 0.05)])
    event: dict[str, Any] = {"time": "0", "type": "0", "collection_id": "330587238433", "instance_index": "0"}
    event["resource_request"] = {"cpus": 0.2, "memory": 0.2}
    write(tmp_path / "instance_events-000000000000.json.gz", [json.dumps(event)])
    assert guess_format(tmp_path) == "google"
    trace = read_google(tmp_path)
    assert trace.vm_names == ("330587238433-0", "330587238433-1")
    assert trace.util[:, 0] == pytest.approx([0.25, 0.5])
    assert trace.signals["memory_active"][:, 0] == pytest.approx([0.5, 0.25])
    assert trace.departure_s.tolist() == [float("inf"), 300]
    assert "1 rows of alloc sets are left out: their tasks have rows of their own" in trace.notes


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("{nonsense", r"000000000000\.json:3: expected a JSON object, found '\{nonsense'"),
        (
            usage_2019(1, 2, 0, 0.1, 0.1).replace('"1000000"', '"soon"'),
            r"json:3: start_time: expected a number, found 'soon'",
        ),
        (
            usage_2019(1, 2, 0, -1.0, 0.1),
            r"json:3: vm '330587238433-0' has no reading .* average_usage\.cpus: 0 blank and 1 invalid",
        ),
    ],
)
def test_google_2019_errors(tmp_path: Path, bad: str, text: str) -> None:
    write(tmp_path / "instance_usage-000000000000.json", [usage_2019(300, 600, 0, 0.05, 0.1), "", bad])
    with pytest.raises(TraceError, match=text) as caught:
        read_google(tmp_path)
    assert "\n" not in str(caught.value)


def test_google_needs_its_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"needs task_usage/\*\.csv\.gz \(2011\) or instance_usage"):
        read_google(tmp_path)


# ---------------------------------------------------------------- Alibaba

EVENTS_2017 = [
    "0,Create,10772,85,4,0.25,0.0340851218221338,32|33|34|35",
    "0,Create,10772,85,4,0.99,0.0340851218221338,32|33|34|35",
    "34424,Create,7,85,8,0.5,0.03,1|2",
]
USAGE_2017 = [
    "39600,10772,25.0,50.0,3.5,1,1,1,1.2,0.5,2,3",
    "39600,9088,1,1,1,1,1,1,,,,",
    "39900,10772,75.0,25.0,,1,1,1,1.2,0.5,2,3",
    "39900,7,12.5,10,1,1,1,1,1,1,1,1",
]
META_2018 = [
    "c_1,m_2556,0,app_5052,started,400,400,1.56",
    "c_1,m_2556,287942,app_5052,started,400,400,1.56",
    "c_2,m_1,0,app_1,started,50,800,3.12",
]
USAGE_2018 = [
    "c_1,m_2556,386640,41,92,1.5,0.7,3,10.5,20,5",
    "c_2,m_1,386640,10,50,,,,0,0,101",
    "c_1,m_2556,386700,101,92,1.5,0.7,3,10.5,20,5",
    "c_1,m_2556,386940,21,50,1.5,0.7,3,10.5,20,-1",
    "c_2,m_1,386940,120,50,1,1,1,0,0,8",
]


def test_alibaba_2017(tmp_path: Path) -> None:
    write(tmp_path / "container_event.csv", EVENTS_2017)
    write(tmp_path / "container_usage.csv", USAGE_2017)
    assert guess_format(tmp_path) == "alibaba"
    trace = read_alibaba(tmp_path, core_mhz=2500.0, machine_memory_mib=400_000.0)
    assert trace.vm_names == ("10772", "7")
    assert trace.util.tolist() == [[0.25, 0], [0.75, 0.125]]
    assert trace.signals["memory_active"].tolist() == [[0.5, 0], [0.25, 0.1]]
    assert trace.arrival_s.tolist() == [0, 300]
    assert trace.vcpus is not None
    assert trace.memory_mib is not None
    assert trace.cpu_mhz is not None
    assert trace.vcpus.tolist() == [4, 8]
    assert trace.cpu_mhz.tolist() == [10_000, 20_000]
    assert trace.memory_mib.tolist() == [100_000, 200_000]
    assert "1 rows give a container another size than its first row, which counts" in trace.notes
    assert "1 containers with readings have no size, and are left out" in trace.notes
    assert "time 0 is second 39600 of the data set; readings every 300 s" in trace.notes


def test_alibaba_2018(tmp_path: Path) -> None:
    write(tmp_path / "container_meta.csv", META_2018)
    write(tmp_path / "container_usage.csv.gz", USAGE_2018)
    with pytest.raises(TraceError, match="vm 'c_1' has no reading for time_s=0; gaps: 1 of 4 samples"):
        read_alibaba(tmp_path)
    trace = read_alibaba(tmp_path, fill="previous", max_vms=2)
    assert trace.notes[0] == "version 2018"
    assert trace.vm_names == ("c_1", "c_2")
    assert trace.vcpus is not None
    assert trace.vcpus.tolist() == [4, 1]
    assert trace.util[0].tolist() == pytest.approx([0.41, 0.1])  # the invalid 101 counts as missing
    zero = read_alibaba(tmp_path, fill="zero")
    assert zero.util[0].tolist() == pytest.approx([0.41 * 60 / 300, 0.1])
    assert trace.util[1].tolist() == pytest.approx([0.21, 1.2])
    assert trace.signals["net_rx"][0, 0] == pytest.approx(0.105)
    assert trace.signals["disk_busy"][:, 1].tolist() == pytest.approx([0, 0.08])
    assert "cpu_util_percent: 0 blank and 1 invalid values count as missing" in trace.notes
    assert "disk_io_percent: 0 blank and 2 invalid values count as missing" in trace.notes
    assert any(note.startswith("over capacity: 1 of 5 rows") for note in trace.notes)


@pytest.mark.parametrize(
    ("meta", "usage", "text"),
    [
        (META_2018, [USAGE_2018[0], "c_1,m_1,5"], r"container_usage\.csv:2: expected 11 columns, found 3"),
        (
            META_2018,
            ["c_1,m_1,x,1,1,1,1,1,1,1,1"],
            r"container_usage\.csv:1: time: expected a number, found 'x'",
        ),
        (["c_1,m_1,0,app,started,,,"], USAGE_2018, r"container_meta\.csv: no container has a size"),
        (META_2018, ["c_9,m_1,5,1,1,1,1,1,1,1,1"], "no reading of a known container in the window"),
    ],
)
def test_alibaba_errors(tmp_path: Path, meta: list[str], usage: list[str], text: str) -> None:
    write(tmp_path / "container_meta.csv", meta)
    write(tmp_path / "container_usage.csv", usage)
    with pytest.raises(TraceError, match=text) as caught:
        read_alibaba(tmp_path)
    assert "\n" not in str(caught.value)


def test_alibaba_needs_its_files_and_positive_sizes(tmp_path: Path) -> None:
    write(tmp_path / "container_usage.csv", USAGE_2018)
    with pytest.raises(TraceError, match=r"needs container_usage\.csv\[\.gz\] and container_event\.csv"):
        read_alibaba(tmp_path)
    with pytest.raises(TraceError, match="core_mhz must be positive, is -1"):
        read_alibaba(tmp_path, core_mhz=-1.0)
