"""Metered power: every way to write times and owners, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces.formats.meter import read_meter
from virtgym.envs.traces.readers import guess_format
from virtgym.envs.traces.series import check_series


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("head", "times", "first_s", "dated"),
    [
        ("time,watts", ("60", "120", "180"), 60.0, False),
        ("time_s,power_w", ("60.0", "120.0", "180.0"), 60.0, False),
        ("timestamp,power_draw", ("60000", "120000", "180000"), 60.0, False),
        ("Time,Watts", ("1970-01-01T00:01", "1970-01-01T00:02", "1970-01-01T00:03"), 60.0, True),
        ("time,watts", ("2022-10-06 22:00Z", "2022-10-06 22:01Z", "2022-10-06 22:02Z"), 1665093600.0, True),
        ("time,watts", ("1665093600", "1665093660", "1665093720"), 1665093600.0, True),
    ],
)
def test_times(tmp_path: Path, head: str, times: tuple[str, ...], first_s: float, dated: bool) -> None:
    lines = [f"{at},{watts}" for at, watts in zip(times, (10, 20, 30))]
    path = put(tmp_path / "m.csv", "\n".join([head, *lines]))
    meter = read_meter(path)
    assert (meter.period_s, meter.first_s, meter.dated) == (60.0, first_s, dated)
    assert meter.watts[:, 0].tolist() == [10, 20, 30]
    assert guess_format(path) == "power"
    summary = check_series(path)
    assert (summary.rows, summary.mean, summary.unit) == (3, 20.0, "W")


def test_groups_and_parquet(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    table = {"timestamp": [0, 30_000, 0, 30_000], "power_draw": [1.0, 2, 3, 4], "host": ["b", "b", "a", "a"]}
    pq.write_table(pa.table({**table, "energy_usage": [0, 0, 0, 0]}), path)
    meter = read_meter(path)
    assert meter.owners == ("b", "a")
    assert meter.watts.tolist() == [[1, 3], [2, 4]]
    table["timestamp"] = [0, 30_000, 60_000, 90_000]
    pq.write_table(pa.table(table), path)
    meter = read_meter(path)
    assert (meter.owners, len(meter.watts)) == (("",), 4)
    assert "taken as everybody's" in meter.notes[0]


HOSTILE = {
    "no watts": ("time,kw\n0,1\n30,1", "needs the columns watts"),
    "two watts": ("time,watts,power_w\n0,1,1\n30,1,1", "named twice"),
    "no time": ("watts\n1\n2", "needs one column of times"),
    "two times": ("time,timestamp,watts\n0,0,1\n30,30,1", "found both"),
    "no rows": ("time,watts\n", "no rows"),
    "one row": ("time,watts\n0,1", "at least two readings"),
    "negative": ("time,watts\n0,1\n30,-1", "m.csv:3: watts: expected a number of watts, 0 or more, found"),
    "text": ("time,watts\n0,1\n30,1 kW", "m.csv:3: watts"),
    "blank": ("time,watts\n0,1\n30,", "m.csv:3: watts: expected a number of watts, 0 or more, found nothing"),
    "infinite": ("time,watts\n0,1\n30,inf", "m.csv:3: watts"),
    "bad time": ("time,watts\n0,1\nnoon,1", "m.csv:3: time"),
    "bad date": ("time,watts\n2022-10-06,1\nnoon,1", "m.csv:3: time: expected a time like"),
    "doubled": ("time,watts\n0,1\n30,1\n30,1", "m.csv:4: time_s=30 has a reading already"),
    "backwards": ("time,watts\n0,1\n60,1\n30,1", "m.csv:4: time_s=30 comes after a later one"),
    "gap": ("time,watts\n0,1\n30,1\n60,1\n120,1", "no reading for time_s=90"),
    "gap of one": ("time,host,watts\n0,a,1\n30,a,1\n60,a,1\n0,b,1\n60,b,1", "no reading of b for time_s=30"),
    "off beat": ("time,watts\n0,1\n30,1\n60,1\n105,1", "m.csv:5: time_s=105"),
    "far away": ("time,watts\n0,1\n1,1\n2,1\n1e10,1", "too many"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_for_what_is_wrong(tmp_path: Path, name: str) -> None:
    text, told = HOSTILE[name]
    with pytest.raises(TraceError) as caught:
        read_meter(put(tmp_path / "m.csv", text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gaps_are_left_out(tmp_path: Path) -> None:
    path = put(tmp_path / "m.csv", "time,watts\n0,1\n30,\n60,3\n120,5")
    watts = read_meter(path, gaps="skip").watts[:, 0]
    np.testing.assert_array_equal(watts, [1, np.nan, 3, np.nan, 5])
    with pytest.raises(TraceError, match="gaps"):
        read_meter(path, gaps="fill")
