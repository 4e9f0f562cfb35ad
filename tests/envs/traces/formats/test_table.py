"""The user's own tables: schema, gaps, lives, errors with line numbers, exact round trips."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from virtgym.envs.errors import TraceError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.traces import Trace, convert_trace
from virtgym.envs.traces.formats.synthetic import generate
from virtgym.envs.traces.formats.table import read_table

HEAD = "vm,time_s,cpu\n"


def put(path: Path, text: str) -> Path:
    """Write a file."""
    path.write_text(text)
    return path


def message(path: Path, **options: Any) -> str:
    """Return the error of reading ``path``, which must be one line."""
    with pytest.raises(TraceError) as caught:
        read_table(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def assert_same(one: Trace, two: Trace) -> None:
    """Compare all that a table keeps."""
    assert one.vm_names == two.vm_names
    assert one.sample_s == two.sample_s
    for key in ("util", "arrival_s", "departure_s", "vcpus", "cpu_mhz", "memory_mib", "vm_class"):
        left, right = getattr(one, key), getattr(two, key)
        assert (left is None) == (right is None)
        if left is not None:
            assert np.array_equal(left, right)
            assert left.dtype == right.dtype
    assert dict(one.signals).keys() == dict(two.signals).keys()
    for key, matrix in one.signals.items():
        assert np.array_equal(matrix, two.signals[key])


def test_smallest_table(tmp_path: Path) -> None:
    trace = read_table(put(tmp_path / "my.csv", HEAD + "a,0,0.5\na,300,0.25\nb,300,1\nb,0,0\n"))
    assert (trace.name, trace.format, trace.sample_s) == ("my", "table", 300.0)
    assert trace.vm_names == ("a", "b")
    assert trace.util.tolist() == [[0.5, 0.0], [0.25, 1.0]]
    assert trace.vcpus is None
    assert not trace.arrival_s.any()
    assert np.isinf(trace.departure_s).all()


def test_lives_follow_from_rows(tmp_path: Path) -> None:
    rows = "a,0,.1\na,60,.1\nb,60,.2\nb,120,.2\nc,60,.3\nd,0,0\nd,60,0\nd,120,0\nd,180,0\n"
    trace = read_table(put(tmp_path / "t.csv", HEAD + rows))
    assert trace.arrival_s.tolist() == [0, 60, 60, 0]
    assert trace.departure_s.tolist() == [120, 180, 120, np.inf]


def test_gaps(tmp_path: Path) -> None:
    path = put(
        tmp_path / "t.csv", HEAD + "a,0,.1\na,60,.4\na,240,.2\nb,0,0\nb,60,0\nb,120,0\nb,180,0\nb,240,0\n"
    )
    text = message(path)
    assert "vm 'a' has no row for time_s=120 (2 such gaps)" in text
    previous = read_table(path, fill="previous")
    assert previous.util[:, 0].tolist() == [0.1, 0.4, 0.4, 0.4, 0.2]
    assert previous.notes == ("filled 2 missing samples (fill=previous)",)
    assert read_table(path, fill="zero").util[:, 0].tolist() == [0.1, 0.4, 0.0, 0.0, 0.2]
    assert "fill must be one of none, previous, zero; is 'linear'" in message(path, fill="linear")


def test_given_lives_rule_over_rows(tmp_path: Path) -> None:
    head = "vm,time_s,cpu,arrival_s,departure_s\n"
    path = put(tmp_path / "t.csv", head + "a,0,.1,0,\na,60,.1,0,\nb,60,.2,30,90\n")
    text = message(path)  # b lives from second 30, so it needs the first sample
    assert "vm 'b' has no row for time_s=0 (1 such gaps)" in text
    trace = read_table(path, fill="previous")
    assert trace.arrival_s.tolist() == [0, 30]
    assert trace.departure_s.tolist() == [np.inf, 90]
    assert trace.util[:, 1].tolist() == [0.0, 0.2]
    wrong = put(tmp_path / "w.csv", head + "a,0,.1,0,\na,60,.1,0,\nb,60,.2,60,30\n")
    assert "vm 'b' departs at 30 s, which is before its arrival at 60 s" in message(wrong)


def test_constant_columns_and_mhz(tmp_path: Path) -> None:
    head = "vm,time_s,cpu_mhz_used,cpu_mhz,vcpus,memory_mib\n"
    path = put(tmp_path / "t.csv", head + "1,0,500,1000,2,512\n2,0,50,2000,1,256.5\n")
    trace = read_table(path, sample_s=300)
    assert trace.util.tolist() == [[0.5, 0.025]]
    assert trace.cpu_mhz is not None
    assert trace.cpu_mhz.tolist() == [1000, 2000]
    assert trace.vcpus is not None
    assert trace.vcpus.dtype == np.int32
    assert trace.memory_mib is not None
    assert trace.memory_mib.tolist() == [512, 256.5]
    assert trace.vm_names == ("1", "2")


def test_folder_with_sizes(tmp_path: Path) -> None:
    put(tmp_path / "usage.csv", "vm,time_s,cpu_mhz_used\na,0,100\nb,0,400\na,60,200\nb,60,0\n")
    put(tmp_path / "vms.csv", "vm,vcpus,cpu_mhz\nb,4,800\na,2,400\n")
    trace = read_table(tmp_path)
    assert trace.vm_names == ("b", "a")  # the order of the sizes file
    assert trace.util.tolist() == [[0.5, 0.25], [0.0, 0.5]]
    assert trace.vcpus is not None
    assert trace.vcpus.tolist() == [4, 2]


def test_service_classes_reach_the_vms(tmp_path: Path) -> None:
    path = put(
        tmp_path / "t.csv", "vm,time_s,cpu,vm_class\n1,0,0.5,critical\n2,0,0.5,\n3,0,0.5,best_effort\n"
    )
    trace = read_table(path, sample_s=300)
    assert trace.vm_class is not None
    assert trace.vm_class.tolist() == [2, -1, 0]
    given = {"path": str(path), "format": "table", "options": {"sample_s": 300}}
    types = [{"name": "small", "service_class": "critical"}]
    built = build_scenario("small", overrides={"trace": given, "vm_types": types, "horizon_s": 600.0})
    assert built.workload.vm_class.tolist() == [2, 2, 0]


def test_folder_errors(tmp_path: Path) -> None:
    assert "needs usage.csv or usage.parquet" in message(tmp_path)
    put(tmp_path / "usage.csv", HEAD + "a,0,1\nb,0,1\na,60,1\nb,60,1\n")
    sizes = tmp_path / "vms.csv"
    put(sizes, "vm,vcpus\na,1\n")
    assert f"usage.csv:3: vm 'b' is not in {sizes}" in message(tmp_path)
    put(sizes, "vm,vcpus\na,1\nb,1\nc,1\n")
    assert f"{sizes}:4: vm 'c' has no row in" in message(tmp_path)
    put(sizes, "vm,vcpus\na,1\nb,1\na,1\n")
    assert read_table(tmp_path).notes == ("1 rows repeat another row, and count once",)
    put(sizes, "vm,vcpus\na,1\nb,1\na,2\n")
    assert f"{sizes}:4: vm 'a' has a row already" in message(tmp_path)
    put(sizes, "vm,vcpus\na,1\nb,1.5\n")
    assert f"{sizes}:3: vcpus: expected a whole number of at least 1, found 1.5" in message(tmp_path)
    put(tmp_path / "usage.csv", "vm,time_s,cpu,vcpus\na,0,1,1\na,60,1,1\n")
    put(sizes, "vm,vcpus\na,1\n")
    assert "column 'vcpus' stands in" in message(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm,time_s,cpu\na,0,.1\na,60,1.5\n", ":3: cpu: expected a fraction from 0 to 1, found '1.5'"),
        ("vm,time_s,cpu\na,0,.1\n\n\na,60,-.1\n", ":5: cpu: expected a fraction from 0 to 1, found '-.1'"),
        ("vm,time_s,cpu\na,0,.1\na,60,nan\n", ":3: cpu: expected a fraction from 0 to 1, found 'nan'"),
        ("vm,time_s,cpu\na,0,abc\na,60,0\n", ":2: cpu: expected a fraction from 0 to 1, found 'abc'"),
        ("vm,time_s,cpu\na,0,\na,60,0\n", ":2: cpu: expected a fraction from 0 to 1, found nothing"),
        ("vm,time_s,cpu\na,-1,0\n", ":2: time_s: expected a time of at least 0, found '-1'"),
        ("vm,time_s,cpu\na,inf,0\n", ":2: time_s: expected a time of at least 0, found 'inf'"),
        ("vm,time_s,cpu\n,0,0\n", ": no row names a VM and a time"),
        ("vm,time_s,cpu\na,60,0\na,120,0\n", ":2: time_s must start at 0, the smallest is 60"),
        ("vm,time_s,cpu\na,0,0\na,60,0\na,130,0\n", ":4: time_s=130 is off the grid of 60 s"),
        ("vm,time_s,cpu\na,0,0\na,60,0\na,60,1\n", ":4: vm 'a' has a row for time_s=60 already"),
        ("vm,time_s,cpu\na,0,0\n", "needs the option sample_s"),
        ("vm,time_s,cpu\na,0,0,7\n", ":2: expected 3 columns, found 4"),
        ("vm,time_s,cpu\na,0,0\na,60\n", ":3: expected 3 columns, found 2"),
        ("vm,time_s,cpu\n", "has no rows"),
        ("", "the file is empty"),
        ("vm;time_s;cpu\na;0;0\n", ":1: unknown column 'vm;time_s;cpu'"),
        ("vm,time_s\na,0\na,60\n", "needs one of the columns cpu, cpu_mhz_used; has []"),
        ("vm,time_s,cpu,cpu_mhz_used\na,0,0,0\na,60,0,0\n", "needs one of the columns cpu, cpu_mhz_used"),
        ("vm,time_s,cpu_mhz_used\na,0,0\na,60,0\n", "cpu_mhz_used needs a column cpu_mhz"),
        ("vm,time_s,cpu_mhz_used,cpu_mhz\na,0,0,9\na,60,10,9\n", ":3: cpu_mhz_used exceeds cpu_mhz=9"),
        ("vm,time_s,cpu,cpu_mhz\na,0,0,0\na,60,0,0\n", ":2: cpu_mhz: expected a positive number, found 0"),
        ("vm,cpu\na,0\n", ":1: needs the columns time_s; found vm, cpu"),
        ("vm,time_s,cpu,vcpu\na,0,0,1\n", ":1: unknown column 'vcpu', did you mean 'vcpus'?"),
        ("vm,time_s,cpu,cpu\na,0,0,1\n", ":1: a column is named twice"),
        (
            "vm,time_s,cpu,vcpus\na,0,0,1\na,60,0,2\n",
            ":3: vcpus must be the same in all rows of a VM",
        ),
        (
            "vm,time_s,cpu,vm_class\na,0,0,critical\na,60,0,high\n",
            ":3: vm_class: expected one of best_effort, standard, critical, or nothing, found 'high'",
        ),
        (
            "vm,time_s,cpu,vm_class\na,0,0,critical\na,60,0,standard\n",
            ":3: vm_class must be the same in all rows of a VM, was critical, is standard",
        ),
        ("vm,time_s,cpu\na,0,0\na,0.001,0\nb,100000000,0\n", "is time_s in seconds from 0?"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, expected: str) -> None:
    path = put(tmp_path / "t.csv", text)
    found = message(path)
    assert found.startswith(str(path))
    assert expected in found


def test_not_text_not_parquet_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"vm,time_s,cpu\n\xff\xfe,0,0\n")
    assert "not a CSV file in UTF-8" in message(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
    assert "not a Parquet file" in message(tmp_path / "t.parquet")
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    assert "cannot be read" in message(tmp_path / "t.csv.gz")
    assert "no such file" in message(tmp_path / "none.csv")
    put(tmp_path / "t.txt", HEAD)
    assert "a table ends in .csv" in message(tmp_path / "t.txt")


def test_over(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", HEAD + "a,0,1.5\na,60,1\n")
    assert "found '1.5'" in message(path)
    assert read_table(path, over="clip").util.tolist() == [[1.0], [1.0]]
    assert read_table(path, over="keep").util.tolist() == [[1.5], [1.0]]


def test_bom_gzip_blank_header_and_quotes(tmp_path: Path) -> None:
    text = '\ufeff\nvm, time_s ,cpu\n"a,\nb", 0 , .5\n"a,\nb",300,.25\n'
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    trace = read_table(path)
    assert trace.name == "t"
    assert trace.vm_names == ("a,\nb",)
    assert trace.util.tolist() == [[0.5], [0.25]]


def test_parquet_of_pandas(tmp_path: Path) -> None:
    """Integer names, float32 values, and the index that pandas writes unasked."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"vm": [7, 7, 8, 8], "time_s": [0, 60, 0, 60], "cpu": [0.5, 0.25, 1.0, 0.0]})
    frame["cpu"] = frame["cpu"].astype("float32")
    path = tmp_path / "t.parquet"
    frame.iloc[[3, 2, 1, 0]].to_parquet(path)
    trace = read_table(path)
    assert trace.vm_names == ("8", "7")
    assert trace.util.tolist() == [[1.0, 0.5], [0.0, 0.25]]
    frame.loc[2, "cpu"] = float("nan")
    frame.to_parquet(path)
    assert message(path).startswith(f"{path}, row 3: cpu: expected a fraction from 0 to 1, found nothing")
    frame.assign(cpu="x").to_parquet(path)
    assert "column 'cpu' has type" in message(path)
    frame.assign(vm=[1.5, 1.5, 2.5, 2.5], cpu=0.5).to_parquet(path)
    assert "column 'vm' has type double, expected text or integers" in message(path)


def test_convert_is_atomic_and_named_clearly(tmp_path: Path) -> None:
    trace = generate(np.random.default_rng(0), n_vms=3, n_samples=4)
    with pytest.raises(TraceError, match=r"ends in \.parquet"):
        convert_trace(trace, tmp_path / "out.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        convert_trace(trace, tmp_path / "file" / "out.parquet")
    path = convert_trace(trace, tmp_path / "new" / "out.parquet")
    convert_trace(trace, path)
    assert [item.name for item in path.parent.iterdir()] == ["out.parquet"]
    assert read_table(path).name == "synthetic"


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
    min_size=1,
    max_size=4,
    unique=True,
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw a trace with every optional part."""
    vm_names = tuple(draw(names))
    vms, samples = len(vm_names), draw(st.integers(2, 5))
    fraction = hnp.arrays(np.float64, (samples, vms), elements=st.floats(0, 1))
    positive = hnp.arrays(np.float64, vms, elements=st.floats(1e-3, 1e9))
    classes = hnp.arrays(np.int8, vms, elements=st.integers(-1, 2))
    counts = hnp.arrays(np.int32, vms, elements=st.integers(1, 2**31 - 1))
    arrival = draw(hnp.arrays(np.float64, vms, elements=st.floats(0, 1e5)))
    stay = draw(hnp.arrays(np.float64, vms, elements=st.sampled_from([0.5, 300.0, np.inf])))
    signal = hnp.arrays(np.float64, (samples, vms), elements=st.floats(-1e18, 1e18))
    return Trace(
        name="drawn",
        format="test",
        source="hypothesis",
        sample_s=draw(st.sampled_from([0.1, 1.0, 300.0, 1 / 3])),
        util=draw(fraction),
        vm_names=vm_names,
        arrival_s=arrival,
        departure_s=arrival + stay,
        vcpus=draw(st.none() | counts),
        cpu_mhz=draw(st.none() | positive),
        memory_mib=draw(st.none() | positive),
        vm_class=draw(st.none() | classes),
        signals=draw(st.just({}) | st.fixed_dictionaries({"io rate": signal})),
    )


@settings(max_examples=60)
@given(trace=traces(), suffix=st.sampled_from(["parquet", "csv"]))
def test_round_trip(tmp_path: Path, trace: Trace, suffix: str) -> None:
    assert_same(read_table(convert_trace(trace, tmp_path / f"t.{suffix}")), trace)


@settings(max_examples=40)
@given(row=st.integers(0, 19), bad=st.sampled_from(["-0.1", "1.01", "x", "nan", "inf", "", "1,2"]))
def test_one_corrupt_row_is_named(tmp_path: Path, row: int, bad: str) -> None:
    rows = [f"vm{k % 4},{60 * (k // 4)},0.5" for k in range(20)]
    rows[row] = rows[row].rsplit(",", 1)[0] + "," + bad
    path = put(tmp_path / "t.csv", HEAD + "\n".join(rows) + "\n")
    assert message(path).startswith(f"{path}:{row + 2}: ")


def test_one_sample_and_more_than_all_cpu_survive_parquet(tmp_path: Path) -> None:
    trace = Trace(
        "one", "test", "test", 7.0, np.array([[1.5, 0.0]]), ("a", "b"), np.zeros(2), np.full(2, np.inf)
    )
    path = convert_trace(trace, tmp_path / "t.parquet")
    again = read_table(path, over="keep")
    assert_same(again, trace)
    assert again.name == "one"
    assert "expected a fraction from 0 to 1, found 1.5" in message(path)  # the file may not allow it itself


@pytest.mark.parametrize(
    "note", ["{", "[" * 10_000, "[1]", '{"name": 5, "sample_s": "x", "over": "keep"}', '{"sample_s": 60.0}']
)
def test_metadata_of_a_file_is_a_claim(tmp_path: Path, note: str) -> None:
    """What a file says of itself may switch no check off."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    for column, values, expected in (
        ("cpu", [0.5, 1.5], "expected a fraction from 0 to 1, found 1.5"),
        ("time_s", [60.0, 120.0], "time_s must start at 0"),
    ):
        columns = {"vm": ["a", "a"], "time_s": [0.0, 60.0], "cpu": [0.5, 0.5], column: values}
        pq.write_table(pa.table(columns).replace_schema_metadata({"virtgym": note}), path)
        assert expected in message(path)


def test_synthetic_day_with_churn_survives(tmp_path: Path) -> None:
    trace = generate(np.random.default_rng(5), n_vms=200, churn=0.4)
    assert_same(read_table(convert_trace(trace, tmp_path / "t.parquet")), trace)
