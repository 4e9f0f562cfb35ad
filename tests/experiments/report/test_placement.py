"""Placement windows side by side: the statistics, and what the report says of them, losses too."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from virtgym.experiments.analysis.placement_summary import Comparison, compare_windows, learner_name
from virtgym.experiments.analysis.run_data import group_runs, read_run
from virtgym.experiments.analysis.stats import trimmed_mean
from virtgym.experiments.cli.benchmark import benchmark
from virtgym.experiments.cli.progress import print_results
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.report import write_report
from virtgym.experiments.report.placement.overview import overview_rows
from virtgym.experiments.report.placement.terminal_table import notes, placement_table
from virtgym.experiments.report.placement.words import make_placement_verdict
from virtgym.experiments.run.rows import make_row, rows_frame

N = 40


def results(
    waits: dict[str, Any], seeds: tuple[int, ...] = (0,), windows: Any = None, **more: Any
) -> pd.DataFrame:
    """Result rows: the waits of each policy, one per window."""
    rows = []
    kinds = {"oracle": "oracle", "agent": "agent"}
    for policy, values in waits.items():
        for seed in seeds:
            first = 100 * np.arange(len(values)) + 100 if windows is None else windows
            for window, wait in zip(first, values):
                row = {"scenario": "s", "trace": "t", "policy": policy, "seed": seed, "window": float(window)}
                row |= {"finished": True, "steps": 50, "n_vms": 50 + int(window) % 7, "n_hosts": 5}
                row |= {"config_hash": policy, "virtgym_version": "0", "memory": "binding"}
                row |= {"kind": kinds.get(policy.rpartition("/")[2], "rule")}
                row |= {"failed_placements": 0.0, "total_wait_s": wait, "mean_wait_s": wait / 50}
                rows.append(make_row({**row, **more}))
    return rows_frame(rows)


@pytest.fixture(scope="module")
def hard() -> np.ndarray[Any, Any]:
    """How hard each window is: heavy-tailed, as genuine ones are."""
    return np.round(np.random.default_rng(0).lognormal(8.0, 2.0, N))


def entry(found: Comparison, name: str) -> Any:
    return next(e for e in found.entries if e.name == name)


def test_statistics_of_a_policy_are_those_of_its_windows(hard: Any) -> None:
    found = compare_windows(results({"first_fit": hard, "best_fit": 2 * hard}))
    one, two = entry(found, "first_fit"), entry(found, "best_fit")
    assert [e.name for e in found.entries] == ["first_fit", "best_fit"]
    assert found.best_rule is not None
    assert found.best_rule.name == one.name
    assert found.value(one) == pytest.approx(trimmed_mean(hard))
    assert found.value(one, "mean") == pytest.approx(hard.mean())
    assert found.value(one, "iqm") == pytest.approx(scipy_stats.trim_mean(hard, 0.25))
    requests = sum(50 + int(w) % 7 for w in range(100, 100 * (N + 1), 100))
    assert found.per_vm(one) == pytest.approx(hard.sum() / requests)
    assert (found.won(one), found.won(two)) == (N, 0)
    assert found.chance(one, two) == 1.0
    gap = found.gap(two, one)
    assert gap.estimate == pytest.approx(trimmed_mean(hard))
    assert found.worse(gap)
    assert not found.better(gap)
    assert math.isnan(one.decision_us)
    timed = compare_windows(results({"first_fit": hard}, wall_s=0.001))
    assert timed.entries[0].decision_us == pytest.approx(20.0)  # 1 ms for 50 decisions
    drawn = np.random.default_rng(1).choice(hard, (2000, N))
    low, high = np.percentile(scipy_stats.trim_mean(drawn, 0.1, axis=1), [2.5, 97.5])
    assert (gap.low, gap.high) == pytest.approx((low, high), rel=0.2)


def test_a_window_that_stands_twice_counts_twice(hard: Any) -> None:
    windows = 100 * np.arange(N)
    windows[-1] = windows[0]
    found = compare_windows(results({"first_fit": hard}, windows=windows))
    assert len(found.windows) == N
    assert found.value(found.entries[0]) == pytest.approx(trimmed_mean(hard))


def test_seeds_on_the_same_windows_are_runs_and_on_others_more_windows(hard: Any) -> None:
    shared = compare_windows(results({"first_fit": hard}, seeds=(0, 1, 2)))
    assert shared.entries[0].runs.shape == (1, N)  # equal runs are one
    noisy = results({"random": hard}, seeds=(0, 1))
    noisy.loc[noisy["seed"] == 1, "total_wait_s"] *= 3
    runs = compare_windows(noisy)
    assert runs.entries[0].runs.shape == (2, N)
    assert runs.value(runs.entries[0]) == pytest.approx(2 * trimmed_mean(hard))
    own = pd.concat(
        [results({"a": hard}, (0,), np.arange(N)), results({"a": hard}, (1,), np.arange(N) + 999)]
    )
    assert len(compare_windows(own).windows) == 2 * N


def test_learners_are_grouped_over_seeds(hard: Any) -> None:
    factors = {f"runs/ppo/seed{k}/agent": (0.5 + 0.1 * k) * hard for k in range(5)}
    found = compare_windows(results({"first_fit": hard, **factors, "runs/other/agent": hard}))
    (learner,) = found.learners
    assert learner.name == "runs/ppo/seed*/agent"
    assert len(learner.members) == 5
    assert found.value(learner) == pytest.approx(0.7 * trimmed_mean(hard))
    over = found.over_seeds(learner)
    each = [(0.5 + 0.1 * k) * trimmed_mean(hard) for k in range(5)]
    half = scipy_stats.t.ppf(0.975, 4) * np.std(each, ddof=1) / math.sqrt(5)
    assert over.high - over.estimate == pytest.approx(half)
    assert [e.name for e in found.judged] == ["runs/ppo/seed*/agent", "runs/other/agent"]
    assert found.best_rule is not None
    assert found.best_rule.name == "first_fit"
    assert learner_name("a/parseed3/x") == "a/parseed3/x"
    assert learner_name("Seed_4") == "Seed_*"


def test_only_common_windows_are_compared(hard: Any) -> None:
    rows = results({"first_fit": hard, "best_fit": hard + 1})
    rows = rows[~((rows["policy"] == "best_fit") & (rows["window"] < 1100))]
    found = compare_windows(rows.reset_index(drop=True))
    assert (len(found.windows), found.n_dropped) == (N - 10, 10)
    apart = pd.concat(
        [rows, results({"worst_fit": hard}, windows=100 * np.arange(N) + 50_000)], ignore_index=True
    )
    found = compare_windows(apart)
    assert found.left_out == ("worst_fit",)
    assert "worst_fit: left out" in "\n".join(notes(found))


def test_stuck_windows_are_told(hard: Any) -> None:
    rows = results({"first_fit": hard, "best_fit": hard + 1})
    stuck = (rows["policy"] == "best_fit") & (rows["window"] < 400)
    rows.loc[stuck, "total_wait_s"] = math.nan
    rows.loc[stuck, "failed_placements"] = 2.0
    found = compare_windows(rows)
    assert found.n_stuck == {"best_fit": 3}
    assert found.n_dropped == 3
    assert "best_fit: requests rejected or never placed in 3 windows" in notes(found)


def test_a_bound_is_shown_and_not_ranked(hard: Any) -> None:
    found = compare_windows(results({"with hindsight/oracle": 0.1 * hard, "first_fit": hard}))
    assert [e.reference for e in found.entries] == [False, True]
    assert found.best_rule is found.entries[0]
    assert found.won(found.entries[0]) == N


@pytest.mark.parametrize(
    ("factor", "said"),
    [(0.5, "beats the best rule"), (1.7, "loses against the best rule"), (None, "cannot be told apart from")],
)
def test_the_verdict_says_what_happened(factor: float | None, said: str, hard: Any, tmp_path: Path) -> None:
    noise = np.exp(np.random.default_rng(8).normal(0.0, 0.5, N))
    waits = hard * noise if factor is None else hard * factor
    rows = results({"first_fit": hard, "best_fit": 3 * hard, "runs/a/agent": waits})
    (line,) = [text for text in notes(compare_windows(rows)) if "trained agent" in text]
    assert said in line
    assert "first_fit" in line
    page = write_report([store(tmp_path / "run", rows)], tmp_path)
    text = html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))
    assert line in text
    plain = page.with_suffix(".md").read_text(encoding="utf-8").replace("**", "").replace("\\", "")
    assert line in plain


def store(folder: Path, rows: pd.DataFrame) -> Path:
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "results.parquet", index=False)
    return folder


def test_one_window_and_one_policy_make_a_report(tmp_path: Path) -> None:
    rows = results({"first_fit": [5.0]})
    text = write_report([store(tmp_path / "a", rows)], tmp_path).read_text(encoding="utf-8")
    assert "The only policy" in text
    two = results({"first_fit": [5.0], "best_fit": [0.0]})
    text = write_report([store(tmp_path / "b", two)], tmp_path).read_text(encoding="utf-8")
    assert "One window: no intervals" in text


def test_numbers_of_the_page_and_of_markdown_are_those_of_the_rows(hard: Any, tmp_path: Path) -> None:
    rows = results({"first_fit": hard, "best_fit": 2 * hard, "runs/x/seed1/agent": 1.5 * hard})
    page = write_report([store(tmp_path / "run", rows)], tmp_path)
    text = page.read_text(encoding="utf-8")
    table = re.search(r'<table class="leaderboard">.*?</table>', text, flags=re.DOTALL)
    assert table is not None
    values = [float(v) for v in re.findall(r'data-value="([^"]+)"', table.group(0))]
    assert values[0] == pytest.approx(trimmed_mean(hard), rel=1e-9)
    markdown = page.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{trimmed_mean(hard):,.0f}" in markdown
    assert f"{hard.mean():,.0f}" in markdown
    pairs = re.search(r'<table class="matrix">.*?</table>', text, flags=re.DOTALL)
    assert pairs is not None
    assert pairs.group(0).count("<td") == 9
    assert pairs.group(0).count('class="good"') == pairs.group(0).count('class="bad"') == 3
    block = re.search(r'<script type="application/json" id="data-0">(.*?)</script>', text, flags=re.DOTALL)
    assert block is not None
    figures = json.loads(block.group(1))["figures"]
    shown = set(re.findall(r'data-figure="([^"]+)"', text))
    assert shown == set(figures)
    assert len(figures["profile"]["data"]) == 3


def test_a_report_over_clusters_and_windows_has_a_section_for_each(tmp_path: Path) -> None:
    small = ["scenario=small", "scenario.horizon_s=3000", "policies=[static,npa]", f"out={tmp_path / 'c'}"]
    placement = ["scenario=demo_placement", "scenario.n_windows=5", f"out={tmp_path / 'p'}"]
    survival = ["scenario=placement_fading", "scenario.n_windows=5", f"out={tmp_path / 'f'}"]
    for arguments in (small, placement, survival):
        assert benchmark(compose_run("benchmark", arguments)).failures == ()
    folders = [tmp_path / name for name in "cpf"]
    text = write_report(folders, tmp_path).read_text(encoding="utf-8")
    assert text.count('<section class="group"') == 3
    assert text.count('<table class="leaderboard">') == 3
    assert text.count('<section class="block pairs">') == 2
    for title in ("small · synthetic", "demo_placement · synthetic_requests", "Most requests placed"):
        assert title in text


def test_other_windows_of_one_scenario_are_another_group(hard: Any, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("val", "more", "test")]
    for folder, policy, identity, first in zip(folders, "aba", ("x", "x", "y"), (0, 0, 7000), strict=True):
        store(folder, results({policy: hard}, windows=np.arange(N) + first))
        (folder / "run.json").write_text(json.dumps({"scenario_hash": identity}))
    groups = group_runs([read_run(folder) for folder in folders])
    assert [(g.title, g.policies) for g in groups] == [("s · t", ["a", "b"]), ("s · t · test", ["a"])]
    twice = group_runs([read_run(folders[0]), read_run(folders[0])])
    assert len(twice[0].rows) == N


def test_the_table_of_a_terminal(hard: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = results({"first_fit": hard, "best_fit": 2 * hard})
    print_results(rows)
    text = capsys.readouterr().out
    assert f"{trimmed_mean(hard):,.1f}" in text
    assert "40/40" in text
    assert "paired bootstrap" in text
    found = compare_windows(rows)
    assert len(placement_table(found, "t").columns) == 8
    assert len(placement_table(found, "t", ("iqm", "won")).columns) == 6
    alone = compare_windows(results({"first_fit": hard}))
    assert [column.header for column in placement_table(alone, "t").columns][1:] == [
        "trimmed mean wait s",
        "mean wait s",
        "IQM wait s",
        "wait/VM s",
        "µs/decision",
    ]


def test_survival_counts_upwards(hard: Any) -> None:
    rows = results({"good": hard, "bad": hard}, total_wait_s=math.nan, mean_wait_s=math.nan)
    rows["failed_placements"] = np.where(rows["policy"] == "good", 10.0, 20.0)
    found = compare_windows(rows)
    assert found.survival
    assert [e.name for e in found.entries] == ["good", "bad"]
    gap = found.gap(found.entries[0], found.entries[1])
    assert gap.estimate == pytest.approx(10.0)
    assert found.better(gap)
    assert found.chance(*found.entries) == 1.0
    assert found.won(found.entries[0]) == N


def test_scenarios_with_other_hosts_are_set_side_by_side(hard: Any, tmp_path: Path) -> None:
    folders = []
    for hosts, factor in ((3, 0.5), (5, 2.0)):
        waits = {"first_fit": hard, "best_fit": 4 * hard, "runs/x/agent": factor * hard}
        folders.append(store(tmp_path / f"n{hosts}", results(waits, n_hosts=hosts)))
        (folders[-1] / "run.json").write_text(json.dumps({"scenario_hash": str(hosts)}))
    groups = group_runs([read_run(folder) for folder in folders])
    assert [g.title for g in groups] == ["s · t · 3 hosts", "s · t · 5 hosts"]
    rows = overview_rows([(g, compare_windows(g.rows)) for g in groups])
    table = {name: [(c.text, c.small, c.mark) for c in cells] for name, cells in rows}
    trimmed = trimmed_mean(hard)
    assert table["first_fit"] == [(f"{trimmed:,.0f}", "", "base")] * 2
    assert table["best_fit"] == [(f"{4 * trimmed:,.0f}", "+300.0 %", "bad")] * 2
    assert table["runs/x/agent"] == [
        (f"{0.5 * trimmed:,.0f}", "−50.0 %", "good"),
        (f"{2 * trimmed:,.0f}", "+100.0 %", "bad"),
    ]
    page = write_report(folders, tmp_path)
    assert page.read_text(encoding="utf-8").count('<section class="block across">') == 2
    assert "## Across scenarios" in page.with_suffix(".md").read_text(encoding="utf-8")


def test_windows_that_overlap_are_counted_as_blocks(hard: Any) -> None:
    rows = results({"first_fit": hard, "best_fit": 2 * hard}, windows=5 * np.arange(N))
    found = compare_windows(rows)
    assert found.n_blocks == 4  # 40 windows of 50 requests in 245 rows
    gap = found.gap(entry(found, "first_fit"), entry(found, "best_fit"))
    assert gap.high < 0
    assert not found.better(gap)
    text = " ".join("".join(s) for s in make_placement_verdict(found))
    assert "4 independent blocks of windows, fewer than 10: nothing is said to be better" in text
    streams = rows.assign(trace_digest=rows["policy"].str.len().astype(str))
    assert found.tells is False
    assert compare_windows(pd.concat([streams.assign(trace_digest=f"{k}") for k in range(3)])).n_blocks == 12
