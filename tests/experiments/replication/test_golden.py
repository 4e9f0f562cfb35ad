"""The replica against the peer's own results on six real days, and its first rounds step by step."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.experiments.replication import run_replica
from virtgym.experiments.replication.golden import ENERGY_RTOL, check_row, main, read_day, read_reference
from virtgym.experiments.replication.metrics import ReplicaResult

DAYS = ("20110303", "20110306", "20110309", "20110322", "20110325", "20110403")


@cache
def _day(folder: Path) -> NDArray[np.int16]:
    return read_day(folder)


@pytest.fixture(scope="module")
def first_day(traces_dir: Path) -> NDArray[np.int16]:
    """The day on which the peer was studied closest."""
    return _day(traces_dir / "planetlab" / DAYS[0])


@pytest.fixture(scope="module")
def thr(first_day: NDArray[np.int16]) -> ReplicaResult:
    """``thr-mmt`` of that day."""
    return run_replica(first_day, "thr-mmt", record=True)


@pytest.mark.parametrize("day", DAYS)
def test_every_row_of_the_peer(day: str, traces_dir: Path, reference_dir: Path) -> None:
    rows = [row for row in read_reference(reference_dir / "cloudsim.csv") if row["day"] == day]
    percent = _day(traces_dir / "planetlab" / day)
    checks = [check_row(row, run_replica(percent, row["policy"])) for row in rows]
    assert len(checks) >= 7
    assert [check for check in checks if not check.passed] == []


def test_random_selection_lies_in_the_spread_of_its_seeds(
    first_day: NDArray[np.int16], reference_dir: Path
) -> None:
    """lr-rs and lrr-rs are the same policy: the peer's two runs belong to the replica's distribution."""
    rows = {(row["day"], row["policy"]): row for row in read_reference(reference_dir / "cloudsim.csv")}
    runs = [run_replica(first_day, "lr-rs", seed=seed) for seed in range(6)]
    for name in ("energy_kwh", "migrations", "host_shutdowns"):
        ours = np.array([getattr(run, name) for run in runs], dtype=np.float64)
        peer = np.array([float(rows[DAYS[0], policy][name]) for policy in ("lr-rs", "lrr-rs")])
        spread = np.concatenate([ours - ours.mean(), peer - peer.mean()]).std(ddof=2)
        assert np.abs(peer - ours.mean()).max() < 4 * spread


def test_a_wrong_row_is_noticed(thr: ReplicaResult, reference_dir: Path) -> None:
    rows = read_reference(reference_dir / "cloudsim.csv")
    row = next(row for row in rows if row["policy"] == "thr-mmt" and row["day"] == DAYS[0])
    assert check_row(row, thr).passed
    assert not check_row({**row, "migrations": "26712"}, thr).passed
    assert not check_row({**row, "energy_kwh": str(thr.energy_kwh * (1 + 2 * ENERGY_RTOL))}, thr).passed


def test_initial_placement(first_day: NDArray[np.int16], thr: ReplicaResult) -> None:
    assert thr.decisions is not None
    hosts = thr.decisions.initial
    assert np.bincount(np.bincount(hosts, minlength=800)).tolist() == [0, 548, 252]
    known = {0: 1, 1: 3, 263: 527, 400: 527, 526: 0, 527: 2, 926: 526, 1051: 776}
    assert {vm: int(hosts[vm]) for vm in known} == known
    first_fit = run_replica(first_day, "dvfs", record=True).decisions
    assert first_fit is not None
    assert np.unique(first_fit.initial).size == 414
    assert [int(first_fit.initial[vm]) for vm in (0, 1, 526, 527)] == [1, 1, 0, 0]


def test_first_rounds(thr: ReplicaResult) -> None:
    events, log = thr.events, thr.decisions
    assert log is not None
    assert list(zip(log.vm[:5].tolist(), log.dest[:5].tolist())) == [
        (813, 7),
        (649, 11),
        (667, 13),
        (668, 17),
        (739, 21),
    ]
    assert events.migrations[:3].tolist() == [592, 305, 215]
    assert events.t[:5] == pytest.approx([300.1, 309.908, 314.02, 327.94, 600.1], abs=1e-9)
    assert events.vms[0] == 994
    assert events.hosts[[1, 3]].tolist() == [641, 320]
    at = np.flatnonzero(np.isclose(events.t, 600.1) | np.isclose(events.t, 900.1))
    assert events.vms[at[0]] == 959
    energy = events.energy_kwh
    assert energy[[0, 1, 3]] == pytest.approx([0.0, 0.19347759225007996, 0.48101151093350336], rel=1e-14)
    assert energy[at] == pytest.approx([2.8364856266056093, 4.72150456400709], rel=1e-14)


def test_table_of_ablations(first_day: NDArray[np.int16]) -> None:
    """Runs of another port of the same text with one behaviour changed: two independent readings agree."""
    from virtgym.experiments.replication.ablation import ablate_quirks

    table = ablate_quirks(first_day, ["thr-mmt"]).set_index("case")
    expected = {
        "drop_zero_demand off": (253.76, 41634, 4926, 5.359, 7763),
        "sla_counts_incoming_full off": (192.62, 26711, 3176, 0.055, 5885),
        "double_moves off": (202.88, 25371, 0, 4.635, 4845),
        "memory_ignored off": (455.75, 1075, 0, 0.116, 629),
        "free_power_on off": (134.24, 21701, 482, 4.612, 1071),
        "stale_power, free_power_on off": (130.71, 21833, 380, 3.581, 1066),
        "Q1, Q3, Q4, Q5 off": (877.73, 575, 0, 0.031, 508),
    }
    names = ["energy_kwh", "migrations", "double_moves", "slatah_pct", "host_shutdowns"]
    for case, numbers in expected.items():
        row = table.loc[case, names]
        assert (round(row.iloc[0], 2), *row.iloc[1:3], round(row.iloc[3], 3), row.iloc[4]) == numbers


def test_command_reports_failure(
    tmp_path: Path, traces_dir: Path, reference_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (reference_dir / "cloudsim.csv").read_text(encoding="utf-8").splitlines()
    dvfs = next(line for line in lines if line.startswith("20110303,dvfs"))
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("\n".join([lines[0], dvfs]), encoding="utf-8")
    bad.write_text("\n".join([lines[0], dvfs.replace(",0,455,", ",0,456,")]), encoding="utf-8")
    assert main([str(traces_dir), str(good)]) == 0
    assert main([str(traces_dir), str(bad)]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert main([str(traces_dir), str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err
