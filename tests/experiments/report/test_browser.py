"""The report in a real browser: drawn, without errors, nothing fetched, and not wider than a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from virtgym.experiments.cli.benchmark import benchmark
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.report import write_report
from virtgym.experiments.suite.play import compose_suite, play

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--virtual-time-budget=20000", "--enable-logging=stderr", "--v=0", "--dump-dom"),
)

HARNESS = """<!DOCTYPE html><title>harness</title><body style="margin:0">
<iframe id="page" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
"use strict";
const root = document.documentElement;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const use = (inner) => {{
  for (const button of inner.querySelectorAll(".group:not([hidden]) thead button")) button.click();
  for (const button of inner.querySelectorAll(".group:not([hidden]) [data-show]")) button.click();
  for (const box of inner.querySelectorAll(".group:not([hidden]) input[type=checkbox]")) box.click();
  for (const choice of inner.querySelectorAll("select")) {{
    choice.selectedIndex = choice.options.length - 1;
    choice.dispatchEvent(new Event("change"));
  }}
}};
(async () => {{
  let inner = null;
  for (let i = 0; i < 100 && !(inner && inner.dataset.ready); i += 1) {{
    await wait(100);
    inner = document.getElementById("page").contentDocument.documentElement;
  }}
  Object.assign(root.dataset, {{ before: JSON.stringify(inner.dataset) }});
  use(inner);
  await wait(3000);
  const order = [...inner.querySelectorAll(".group:not([hidden]) tbody .name")].map((n) => n.textContent);
  const heat = [...inner.querySelectorAll(".group:not([hidden]) .heat-note")].map((n) => n.textContent);
  root.dataset.after = JSON.stringify({{ ...inner.dataset, wide: inner.scrollWidth, order, heat,
    drawn: inner.querySelectorAll(".group:not([hidden]) .js-plotly-plot").length }});
}})();
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser on the machine: none of {', '.join(BROWSERS)} is in PATH")
    return found


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


def _open(browser: str, page: Path, width: int, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Use the page in a frame of some width; what it says of itself before and after, and the console."""
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.format(page=page.as_uri(), width=width), encoding="utf-8")
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={max(width, 600)},1000",
    ]
    done = subprocess.run([*command, harness.as_uri()], capture_output=True, text=True, check=True)
    said = []
    for name in ("before", "after"):
        found = re.search(rf'data-{name}="([^"]*)"', done.stdout)
        assert found is not None, f"the page never got ready; the browser said: {done.stderr[-2000:]}"
        said.append(json.loads(html.unescape(found.group(1))))
    return said[0], said[1], done.stderr


@pytest.mark.parametrize("width", [390, 1440])
def test_page_works_in_a_browser(browser: str, page: Path, width: int, tmp_path: Path) -> None:
    before, after, console = _open(browser, page, width, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert not re.findall(r".*CONSOLE.*(?:Uncaught|Refused|rror).*", console)
    assert int(before["viewport"]) == width
    assert int(before["scrollWidth"]) <= width
    assert after["wide"] <= width
    # quality, four measures over time, two heat maps, migrations over time and in all
    assert int(before["plots"]) >= 9
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
def test_placement_windows_are_drawn(browser: str, placement_page: Path, width: int, tmp_path: Path) -> None:
    before, after, console = _open(browser, placement_page, width, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert not re.findall(r".*CONSOLE.*(?:Uncaught|Refused|rror).*", console)
    assert after["wide"] <= width
    assert after["drawn"] >= 4  # profile, differences, and two figures of the policy that was chosen last
    assert len(after["order"]) == 20  # ten in the leaderboard, ten rows of the matrix of pairs


def test_single_run_redraws_heat_and_sorts(browser: str, page: Path, tmp_path: Path) -> None:
    alone = write_report([page.parent.parent / "full"], tmp_path / "alone")
    before, after, _ = _open(browser, alone, 800, tmp_path)
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
def test_scores_of_a_suite_are_drawn(browser: str, suite_page: Path, width: int, tmp_path: Path) -> None:
    before, after, log = _open(browser, suite_page, width, tmp_path)
    assert before["errors"] == after["errors"] == "", log
    assert int(before["plots"]) > 0
    assert after["wide"] <= width
    assert after["drawn"] > 0  # the last task of the picker
