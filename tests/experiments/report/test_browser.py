"""The report in a real browser: drawn, without errors, nothing fetched, and not wider than a phone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from oracles.browser import open_page
from virtgym.experiments.cli.benchmark import benchmark
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.report import write_report
from virtgym.experiments.suite.play import compose_suite, play

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, report_sample: Any) -> Path:
    """A report of two runs, the second one without its optional files."""
    base = tmp_path_factory.mktemp("browser")
    write = report_sample.write_sample_run
    full = write(base / "full", seeds=(0, 1), max_steps=36, copies=12)
    bare = write(base / "bare", scenario="demo", seeds=(0,), max_steps=12)
    shutil.rmtree(bare / "heat")
    (bare / "steps.parquet").unlink()
    return write_report([full, bare], base / "out")


@pytest.mark.parametrize("width", [390, 1440])
def test_page_works_in_a_browser(page: Path, width: int, tmp_path: Path) -> None:
    before, after, console = open_page(page, width, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert not re.findall(r".*CONSOLE.*(?:Uncaught|Refused|rror).*", console)
    assert int(before["viewport"]) == width
    assert int(before["scrollWidth"]) <= width
    assert after["wide"] <= width
    # quality, four measures over time, two heat maps, migrations over time and in all, forecast, choices
    assert int(before["plots"]) >= 12
    assert before["hurdles"] == []
    assert "leaderboard.png" in after["saved"]
    assert "Migrations in all.png" in after["saved"]
    # the last choice of the picker is the run without optional files: quality and bars remain
    assert after["drawn"] >= 2
    assert len(after["order"]) == 8


@pytest.fixture(scope="module")
def placement_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of placement windows, and of a cluster beside them."""
    base = tmp_path_factory.mktemp("placement")
    runs = (
        ("windows", ["scenario=demo_placement", "scenario.n_windows=12"]),
        ("cluster", ["scenario=small", "scenario.horizon_s=3000", "policies=[static,npa]"]),
    )
    for name, arguments in runs:
        benchmark(compose_run("benchmark", [*arguments, f"out={base / name}"]))
    return write_report([base / "cluster", base / "windows"], base / "out")


@pytest.mark.parametrize("width", [390, 1440])
def test_placement_windows_are_drawn(placement_page: Path, width: int, tmp_path: Path) -> None:
    before, after, console = open_page(placement_page, width, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert not re.findall(r".*CONSOLE.*(?:Uncaught|Refused|rror).*", console)
    assert before["hurdles"] == []
    assert after["wide"] <= width
    assert after["drawn"] >= 4  # profile, differences, and two figures of the policy that was chosen last
    assert len(after["order"]) == 20  # ten in the leaderboard, ten rows of the matrix of pairs


def test_single_run_redraws_heat_and_sorts(page: Path, tmp_path: Path) -> None:
    alone = write_report([page.parent.parent / "full"], tmp_path / "alone")
    before, after, _ = open_page(alone, 800, tmp_path)
    assert (before["errors"], after["errors"]) == ("", "")
    assert after["heat"]
    assert all("seed 0, 10 hosts" in note for note in after["heat"])
    assert len(after["order"]) == 20


@pytest.fixture(scope="module")
def suite_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two tasks of the suite."""
    out = tmp_path_factory.mktemp("suite")
    tasks = "suite.tasks=[consolidate,placement_waiting]"
    play(
        compose_suite(
            ["suite=virtgym-1", tasks, "policies=[dvfs,best_fit]", "seeds=[1004,1005]", f"out={out}"]
        )
    )
    return out / "report.html"


@pytest.mark.parametrize("width", [360, 1280])
def test_scores_of_a_suite_are_drawn(suite_page: Path, width: int, tmp_path: Path) -> None:
    before, after, log = open_page(suite_page, width, tmp_path)
    assert before["errors"] == after["errors"] == "", log
    assert before["hurdles"] == []
    assert int(before["plots"]) > 0
    assert after["wide"] <= width
    assert after["drawn"] > 0  # the last task of the picker
