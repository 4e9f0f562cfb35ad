"""Damaged files of every published format: a trace or one clear line, never another exception."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import TraceError
from virtgym.envs.traces.base import Trace
from virtgym.envs.traces.formats.alibaba import read_alibaba
from virtgym.envs.traces.formats.azure import read_azure
from virtgym.envs.traces.formats.bitbrains import BITBRAINS_COLUMNS, read_bitbrains
from virtgym.envs.traces.formats.google import read_google

TIMES = range(0, 1500, 300)
FILES = {
    "1.csv": ";\t".join(BITBRAINS_COLUMNS)
    + "\n"
    + "".join(
        f"{1376314846 + t};\t4;\t11703.9;\t10.9;\t0.5;\t6.7E7;\t6129274.4;\t0.0;\t20.6;\t5.3;\t1.6\n"
        for t in TIMES
    ),
    "vmtable.csv": "a,s,d,0,2591700,99,3,10,Interactive,2,3.5\nb,s,d,300,2591700,99,3,10,Unknown,>24,>64\n",
    "vm_cpu_readings-file-1-of-125.csv": "".join(f"{t},a,1,2,1.5\n" for t in TIMES),
    "part-00000-of-00500.csv": "".join(
        f"{(600 + t) * 1000000},{(900 + t) * 1000000},1,0,5,0.1,0.2,,,,,0.1,,,,,,1,0,0.1\n" for t in TIMES
    ),
    "instance_usage-000000000000.json": "".join(
        json.dumps(
            {
                "start_time": str((600 + t) * 1_000_000),
                "end_time": str((900 + t) * 1_000_000),
                "collection_id": "1",
                "instance_index": 0,
                "collection_type": "0",
                "average_usage": {"cpus": 0.1, "memory": 0.2},
            }
        )
        + "\n"
        for t in TIMES
    ),
    "container_event.csv": "0,Create,7,85,4,0.25,0.03,1|2\n",
    "container_usage.csv": "".join(f"{39600 + t},7,25,50,3,1,1,1,1,1,1,1\n" for t in TIMES),
}
CASES: dict[str, tuple[Callable[..., Trace], str, tuple[str, ...]]] = {
    "bitbrains": (read_bitbrains, "1.csv", ()),
    "azure readings": (read_azure, "vm_cpu_readings-file-1-of-125.csv", ("vmtable.csv",)),
    "azure table": (read_azure, "vmtable.csv", ("vm_cpu_readings-file-1-of-125.csv",)),
    "google 2011": (read_google, "task_usage/part-00000-of-00500.csv", ()),
    "google 2019": (read_google, "instance_usage-000000000000.json", ()),
    "alibaba usage": (read_alibaba, "container_usage.csv", ("container_event.csv",)),
    "alibaba sizes": (read_alibaba, "container_event.csv", ("container_usage.csv",)),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=60)
@given(data=st.data())
def test_damage(tmp_path: Path, case: str, data: st.DataObject) -> None:
    reader, name, others = CASES[case]
    content = FILES[name.rpartition("/")[2]].encode()
    place = data.draw(st.integers(0, len(content)))
    cut = data.draw(st.integers(0, 3))
    junk = data.draw(
        st.sampled_from([b"", b"-", b"\n", b",", b"x", b"\xff", b'"', b"\0", b"1e999", b"nan", b"9" * 25])
    )
    damaged = content[:place] + junk + content[place + cut :]
    packed = data.draw(st.booleans())
    for old in tmp_path.rglob("*.*"):
        if old.is_file():
            old.unlink()
    for other in others:
        (tmp_path / other).write_text(FILES[other])
    path = tmp_path / (name + (".gz" if packed else ""))
    path.parent.mkdir(exist_ok=True)
    blob = gzip.compress(damaged) if packed else damaged
    path.write_bytes(blob[: len(blob) - data.draw(st.sampled_from([0, 0, 0, 5]))])
    with suppress(TraceError):
        assert reader(tmp_path, sample_s=300.0, fill="zero").n_vms >= 1
