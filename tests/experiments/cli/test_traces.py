"""``virtgym traces list|check|convert``: tables, exit codes, one line on stderr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from virtgym.envs.traces import read_trace
from virtgym.experiments.cli.traces import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it, and give tables room."""
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """A folder of three VMs."""
    folder = tmp_path / "20110303"
    folder.mkdir()
    for number in range(3):
        (folder / f"vm {number} ").write_text(f"{number}\n" * 288)
    return folder


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("planetlab", "table", "huawei", "azure_packing", "planetlab/20110403", "1463", "CoMon"):
        assert word in out


def test_check(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (day / "sub").mkdir()
    assert main(["check", str(day), "synthetic"]) == 0
    out = capsys.readouterr().out
    assert "1.00" in out
    assert "33.3" in out
    assert "1000" in out
    assert "20110303: skipped the sub-folder sub" in out


def test_check_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vms.csv"
    path.write_text("vmid,cpu,mem,at,lt\n0,1,2,0,30\n1,1,2,0,40\n2,64,128,86400,inf\n")
    assert main(["check", str(path), "synthetic"]) == 0
    out = capsys.readouterr().out
    assert "zero %" in out  # the other kind has its own table
    for text in (
        "huawei",
        "vms: 2 sizes, most often 1 cores and 2 GiB (66.7 %), at most 64 cores, 128 GiB",
        "vms: 33.33 % have more than 10 GiB",
        "vms: lifetimes: 10 % up to 30 s, 50 % 40 s, 90 % inf s, 99 % inf s; 33.3 % never leave",
        "vms: 2 times of arrival, at most 2 requests at one time",
    ):
        assert text in out
    assert main(["check", "synthetic_requests", "--option", "n=300", "--option", "seed=3"]) == 0
    assert "300" in capsys.readouterr().out


def test_requests_fit_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["check", "synthetic_requests"]) == 0
    table = capsys.readouterr().out
    assert "synthetic_requests  synthetic_requests  20000" in table


def test_convert(day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(day), "--out", str(tmp_path / "out")]) == 0
    assert main(["convert", "synthetic", "--option", "n_vms=4", "--out", str(tmp_path / "s.csv")]) == 0
    assert "20110303.parquet" in capsys.readouterr().out
    again = read_trace(tmp_path / "out" / "20110303.parquet")
    assert np.array_equal(again.util, read_trace(day).util)
    assert again.vm_names == ("vm 0 ", "vm 1 ", "vm 2 ")
    assert read_trace(tmp_path / "s.csv").n_vms == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "nowhere"], "nowhere: no such file or folder"),
        (["check", "DAY", "--format", "planetlap"], "did you mean planetlab?"),
        (["check", "DAY", "--option", "expected=144"], "of 144 lines"),
        (["check", "DAY", "--option", "expected"], "expected KEY=VALUE"),
        (["check", "DAY", "--option", "speed=1"], "no option 'speed'"),
        (["check", "DAY", "--option", "expected=many"], "expected must be"),
        (["check", "DAY", "--format", "huawei"], "cannot be read"),
        (["check", "synthetic_requests", "--option", "rate=1"], "synthetic_requests: no option 'rate'"),
        (["check", "x", "--format", "azure_packing"], "x: no such file"),
        (["convert", "DAY", "DAY", "--out", "OUT/x.parquet"], "several traces"),
        (["convert", "DAY", "DAY", "--out", "OUT"], "was written already"),
        (["fetch", "nothing"], "no trace is called 'nothing'"),
        (["chek"], "invalid choice: 'chek'"),
        (["check"], "required: NAME"),
        ([], "required: COMMAND"),
    ],
)
def test_errors(
    day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    filled = [text.replace("DAY", str(day)).replace("OUT", str(tmp_path / "out")) for text in arguments]
    assert main(filled) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.startswith("virtgym traces: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["fetch"], ["check"], ["convert"], ["list"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: virtgym traces" in out
    assert "examples:" in out
