"""The report as a whole: what is in the page and beside it, and what happens when files are missing."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from oracles.fuzz.results import folder_mutations
from virtgym.envs.errors import VirtgymError
from virtgym.experiments.report import write_report
from virtgym.experiments.report.parts import read_part
from virtgym.experiments.run.folder import cell_name

WRONG = ("no folder", "empty folder", "no rows", "not a table", "other table", "none")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, report_sample: Any) -> Path:
    """A small run: 8 policies, 2 seeds, 30 intervals."""
    folder: Path = report_sample.write_sample_run(tmp_path_factory.mktemp("run"), seeds=(0, 1), max_steps=30)
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    return write_report([run_dir], tmp_path_factory.mktemp("report"))


class _Tags(html.parser.HTMLParser):
    """Collects tags, and checks that they nest."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> closes another tag"


def _parsed(page: Path) -> _Tags:
    tags = _Tags()
    tags.feed(page.read_text(encoding="utf-8"))
    return tags


def _blocks(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data-\d+">(.*?)</script>', text, flags=re.DOTALL)
    return [json.loads(block) for block in found]


def test_page_and_markdown_are_written_and_nothing_else(page: Path) -> None:
    assert page.name == "report.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.md"]


def test_plotly_is_bundled_once_and_the_page_is_small_enough(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert page.stat().st_size < 6_000_000


def test_page_is_well_formed_and_accessible(page: Path) -> None:
    tags = _parsed(page)
    assert tags.stack == []
    assert len(tags.ids) == len(set(tags.ids))
    names = [tag for tag, _ in tags.tags]
    assert dict(tags.tags)["html"] == {"lang": "en"}
    assert names.count("title") == names.count("h1") == names.count("main") == 1
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in tags.tags)
    plots = [a for tag, a in tags.tags if tag == "div" and "plot" in str(a.get("class")).split()]
    assert plots
    assert all(a.get("role") == "group" and a.get("aria-label") for a in plots)
    assert not any(key.startswith("on") for _, attrs in tags.tags for key in attrs)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_what_they_stand_on(theme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", read_part("report/report.css"), re.S)
    ink = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", blocks[theme]))
    pairs = [("accent", on) for on in ("paper", "card")]
    pairs += [(text, on) for text in ("ink", "muted") for on in ("paper", "card", "best", "tied", "warn")]
    for text, on in pairs:
        light, dark = sorted((_luminance(ink[text]), _luminance(ink[on])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, on)  # WCAG 2, AA
    for line in (*(f"p{i}" for i in range(7)), "ref"):
        light, dark = sorted((_luminance(ink[line]), _luminance(ink["paper"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, line  # of what is drawn


def test_nothing_is_fetched_from_anywhere(page: Path) -> None:
    for tag, attrs in _parsed(page).tags:
        for key in ("src", "srcset", "data", "poster", "action"):
            assert key not in attrs, (tag, attrs)
        assert tag == "a" or str(attrs.get("href", "data:")).startswith("data:"), (tag, attrs)
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_names_from_outside_are_escaped_everywhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    body = text[text.index("<body>") : text.index('<script type="application/json"')]
    assert "<b>evil" not in body
    assert "&lt;b&gt;evil &amp; &#34;quoted&#34;" in body
    block = text[text.index('<script type="application/json"') :]
    assert "<b>evil" not in block
    markdown = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "<b>evil" not in markdown
    assert '&lt;b&gt;evil &amp; "quoted"' in markdown


def test_every_section_is_there_with_its_figures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"<h3>(.*?)</h3>", text)
    assert headings == [
        "Leaderboard",
        "What the cost is made of",
        "Two policies side by side",
        "Energy against service quality",
        "Over time",
        "Every host over time",
        "Migrations",
        "Forecasts against what came",
        "What was chosen, and why",
        "What was run",
    ]
    (block,) = _blocks(page)
    assert {"day-0", "day-1", "day-2", "day-3", "heat", "moves", "bars"} <= set(block["figures"])
    assert "terms" in block["figures"]
    assert block["pairs"]["policies"][0] == re.findall(r'<span class="name" title="([^"]+)"', text)[0]
    placed = set(re.findall(r'data-figure="([^"]+)"', text))
    assert placed == set(block["figures"]) - {"heat"}
    assert len(block["heats"]) == 8
    assert len(block["figures"]["day-0"]["data"]) == 8


def test_table_holds_the_means_of_the_rows(page: Path, run_dir: Path) -> None:
    rows = pd.read_parquet(run_dir / "results.parquet")
    want = rows.groupby("policy")["cost"].mean()
    text = page.read_text(encoding="utf-8")
    line = re.search(r'title="thr-mmt">thr-mmt</span>.*?</tr>', text, flags=re.DOTALL)
    assert line is not None
    values = re.findall(r'data-value="([^"]*)"', line.group())
    assert float(values[0]) == pytest.approx(want["thr-mmt"], rel=1e-9)


def test_what_was_run_is_told(page: Path) -> None:
    for text in (page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")):
        for fact in ("0123456789abcdef", "virtgym benchmark scenario=small", "0123abcd", "numpy"):
            assert fact in text
    assert "Resolved configuration" in page.read_text(encoding="utf-8")
    assert "No number (NaN, not 0)" in page.read_text(encoding="utf-8")


def test_missing_optional_files_are_said_and_are_no_error(run_dir: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run_dir / "results.parquet", bare)
    text = write_report([bare], tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "page.md").is_file()
    assert "Per-interval figures are left out: no steps.parquet" in text
    assert "Heat maps are left out: no heat folder" in text
    (block,) = _blocks(tmp_path / "out" / "page.html")
    assert block["heats"] == []
    assert "day-0" not in block["figures"]


def test_broken_optional_files_are_no_error(run_dir: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    (bad / "heat").mkdir(parents=True)
    shutil.copy(run_dir / "results.parquet", bad)
    (bad / "steps.parquet").write_bytes(b"PAR1 not really")
    (bad / "heat" / f"{cell_name('static', 0)}.npz").write_bytes(b"nothing")
    (bad / "run.json").write_text("{", encoding="utf-8")
    (bad / "config.yaml").write_text("a: [1,", encoding="utf-8")
    text = write_report([bad], tmp_path / "out").read_text(encoding="utf-8")
    for name in ("steps.parquet", "run.json", "config.yaml"):
        assert f"<dt>Left out</dt><dd>{bad / name}: " in text
    assert "Left out: " in text[text.index('<ul class="notes">') :]


def test_one_policy_and_one_seed(run_dir: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    rows = pd.read_parquet(run_dir / "results.parquet")
    for policy in ("static", "thr-mmt"):
        rows[(rows["policy"] == policy) & (rows["seed"] == 0)].to_parquet(one / "results.parquet")
        text = write_report([one], tmp_path / policy).read_text(encoding="utf-8")
        assert "no intervals are given" in text
        assert "The only policy" in text
        assert "±" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_several_runs_get_a_picker_and_a_pooled_section(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    for name in ("results.parquet", "steps.parquet"):
        table = pd.read_parquet(other / name)
        table["trace"] = "/somewhere/20110303"
        table.to_parquet(other / name)
    page = write_report([run_dir, other], tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    picker = text[text.index('<select id="picker">') : text.index("</select>")]
    options = re.findall(r"<option value=\"\d\">(.*?)</option>", picker)
    assert options == ["small · all 2 traces", "small · synthetic", "small · 20110303"]
    assert len(_blocks(page)) == 3
    assert "2 seeds on each of 2 traces" in text
    assert len(re.findall(r"plotly\.js v\d", text)) == 1


@pytest.mark.parametrize(
    "case", ["no folder", "empty folder", "no rows", "not a table", "other table", "none"]
)
def test_what_a_user_can_do_wrong_is_one_line(case: str, run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if case != "no folder":
        folder.mkdir()
    if case == "no rows":
        rows = pd.read_parquet(run_dir / "results.parquet")
        rows.assign(finished=False).to_parquet(folder / "results.parquet")
    elif case == "not a table":
        (folder / "results.parquet").write_text("hello", encoding="utf-8")
    elif case == "other table":
        pd.DataFrame({"policy": ["x"]}).to_parquet(folder / "results.parquet")
    with pytest.raises(VirtgymError) as caught:
        write_report([] if case == "none" else [folder], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("report")
    assert not (tmp_path / "out").exists()


def test_vms_that_fit_on_no_host_are_told(run_dir: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    rows = pd.read_parquet(run_dir / "results.parquet")
    rows.assign(vms_dropped=1234.0).to_parquet(part / "results.parquet")
    told = "1,234 VMs of the trace fit on no host and are left out"
    assert told in write_report([part], tmp_path / "out").read_text(encoding="utf-8")
    assert "fit on no host" not in write_report([run_dir], tmp_path / "own").read_text(encoding="utf-8")


def test_unfinished_rows_are_left_out_and_counted(run_dir: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    rows = pd.read_parquet(run_dir / "results.parquet")
    rows["finished"] = rows["policy"] != "static"
    rows.to_parquet(part / "results.parquet")
    text = write_report([part], tmp_path / "out").read_text(encoding="utf-8")
    assert "2 unfinished rows left out" in text
    assert ">static</span>" not in text


def test_importing_the_report_is_cheap() -> None:
    code = (
        "import sys, virtgym.experiments.report\n"
        "print([m for m in ('pandas', 'plotly', 'scipy', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def fuzzed_run(tmp_path_factory: pytest.TempPathFactory, report_sample: Any) -> Path:
    """A tiny run as ``virtgym benchmark`` writes it, cells included."""
    from virtgym.experiments.cli.benchmark import benchmark
    from virtgym.experiments.config.compose import compose_run

    out = tmp_path_factory.mktemp("fuzzed") / "run"
    grid = ["scenario=small", "scenario.horizon_s=1800", "policies=[static,thr-mmt]"]
    benchmark(compose_run("benchmark", [*grid, f"out={out}"]))
    return out


def test_damaged_folders_are_told_in_a_line_or_left_out(
    fuzzed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mutation makes a report, or is one line that names the folder; nothing of the machine gets in."""
    secret = "a-secret-of-this-machine"
    monkeypatch.setenv("HOME", secret)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", str)
    lines: dict[str, str] = {}
    mutations = list(folder_mutations())[::6]
    for label, mutate in mutations:
        folder = tmp_path / "run"
        shutil.copytree(fuzzed_run, folder)
        mutate(folder)
        try:
            page = write_report([folder], tmp_path / "out")
        except VirtgymError as error:
            lines[label] = str(error)
        else:
            text = page.read_text(encoding="utf-8")
            assert secret not in text + page.with_suffix(".md").read_text(encoding="utf-8"), label
            if label.startswith("heat: ") and ("declares" in label or "bomb" in label or "half" in label):
                assert "Left out: " in text, label
        shutil.rmtree(folder)
    assert len(mutations) > 100
    assert 20 < len(lines) < len(mutations) - 50
    for label, line in lines.items():
        assert line.startswith("report "), label
        assert str(tmp_path / "run") in line, label
        assert len(line.splitlines()) == 1, label
    assert [text for text in lines.items() if "no report can be made" in text[1]] == []
