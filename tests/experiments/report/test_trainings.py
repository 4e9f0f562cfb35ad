"""Reports of trainings and sweeps: learning curves over seeds, what was searched, what is damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from oracles.browser import open_page
from virtgym.experiments.analysis.trainings import curve, group_trainings, read_training
from virtgym.experiments.cli.commands import main

RATES, SEEDS = (1e-4, 1e-3, 1e-2), (0, 1, 2)


def write_training(folder: Path, rate: float, seed: int, n: int = 6, entropy: float = 0.0) -> float:
    """A training's folder as the command leaves it; its best objective."""
    folder.mkdir(parents=True)
    lines = ["agent:", "  name: ppo", f"  learning_rate: {rate}", f"  ent_coef: {entropy}"]
    lines += ["scenario:", "  name: small", f"seed: {seed}", f"out: {folder}", "total_timesteps: 5000"]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    (folder / "train.json").write_text(json.dumps({"finished": True, "objective": 1.0}))
    steps = 1000 * np.arange(n)
    worth = 20.0 - 4.0 * (1.0 - np.exp(-steps / 2000.0)) + 3.0 * abs(np.log10(rate) + 3.0)
    table = pd.DataFrame(
        {
            "timesteps": steps,
            "frames_per_s": np.r_[0.0, np.full(n - 1, 3000.0)],
            "objective": worth + 0.3 * seed,
            "best": worth + 0.3 * seed,
            "loss": np.r_[np.nan, 0.1 / (1 + steps[1:] / 1000.0)],
        }
    )
    table.to_csv(folder / "progress.csv", index=False)
    return float(table["objective"].min())


def write_sweep(folder: Path) -> None:
    """A sweep over step sizes, entropies and seeds."""
    rows = []
    for rate in RATES:
        for entropy in (0.0, 0.01):
            for seed in SEEDS:
                job = folder / f"rate={rate},entropy={entropy},seed={seed}"
                best = write_training(job, rate, seed, entropy=entropy) + 100 * entropy
                (job / "job.json").write_text("{}")
                keys = {"agent.learning_rate": rate, "agent.ent_coef": entropy, "seed": seed}
                rows.append({"job": job.name, **keys, "finished": True, "objective": best})
    pd.DataFrame(rows).to_csv(folder / "sweep.csv", index=False)


def figures_of(page: Path) -> dict[str, object]:
    blocks = re.findall(
        r'<script type="application/json" id="data-\d+">(.*?)</script>', page.read_text(), re.S
    )
    return {key: value for text in blocks for key, value in json.loads(text)["figures"].items()}


def test_trainings_give_curves_over_seeds(tmp_path: Path) -> None:
    folders = [tmp_path / f"{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders):
        write_training(folder, 1e-3, seed)
    assert main(["report", *map(str, folders), f"out={tmp_path / 'out'}"]) == 0
    page = tmp_path / "out" / "report.html"
    assert {"curve-objective", "curve-loss", "curve-frames_per_s"} <= set(figures_of(page))
    text = page.with_suffix(".md").read_text()
    assert "ppo: best validation 16.63" in text
    assert "(95 %, 3 seeds)" in text
    assert text.count("| ppo |") == 3


def test_a_curve_is_the_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    for seed in SEEDS:
        write_training(tmp_path / str(seed), 1e-3, seed, n=6 - seed)
    runs = [run for seed in SEEDS if (run := read_training(tmp_path / str(seed)))]
    (mine,) = group_trainings(runs).values()
    found = curve(mine, "objective")
    assert found is not None
    assert found.x.tolist() == [0.0, 1000.0, 2000.0, 3000.0]  # as far as all have come
    assert found.n == 3
    alone = [run.progress["objective"].to_numpy()[:4] for run in runs]
    np.testing.assert_allclose(found.mean, np.mean(alone, axis=0))
    half = 4.30265 * 0.3 / np.sqrt(3)
    np.testing.assert_allclose(found.high - found.mean, half, rtol=1e-4)
    assert curve(mine, "nothing") is None


def test_a_sweep_shows_what_was_searched_and_the_best_setting_over_seeds(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_sweep(sweep)
    assert main(["report", str(sweep)]) == 0
    found = figures_of(sweep / "report.html")
    slices = {"slice-agent.learning_rate", "slice-agent.ent_coef"}
    assert {"parallel", "curve-objective", *slices} <= set(found)
    text = (sweep / "report.md").read_text().replace("\\", "")
    assert "Best of 6 settings: agent.learning_rate=0.001, agent.ent_coef=0.0, objective 16.63" in text
    assert "(95 %, 3 seeds)" in text
    assert "18 rows, 18 finished, 0 failed" in text


def test_problems_that_were_swept_are_no_contest(tmp_path: Path) -> None:
    """A scenario without a memory limit costs less whatever the policy does: that is no better setting."""
    folder = tmp_path / "sweep"
    for memory in ("binding", "ignored"):
        (folder / memory).mkdir(parents=True)
        (folder / memory / "job.json").write_text("{}")
    rows = [
        {"job": m, "policy.target": t, "scenario.memory": m, "finished": True, "objective": c, "runs": 2}
        for m, t, c in (
            ("binding", 0.6, 18.0),
            ("ignored", 0.6, 7.5),
            ("binding", 0.7, 19.0),
            ("ignored", 0.7, 7.0),
        )
    ]
    pd.DataFrame(rows).assign(job=[f"{r['job']}-{r['policy.target']}" for r in rows]).to_csv(
        folder / "sweep.csv"
    )
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.md").read_text().replace("\\", "")
    assert (
        "scenario.memory=ignored: best of 2 settings: policy.target=0.7, objective 7.000 (2 runs); the next"
        in text
    )
    assert (
        "scenario.memory=binding: best of 2 settings: policy.target=0.6, objective 18.00 (2 runs); the next"
        in text
    )
    assert "scenario.memory changes the problem" in text
    assert "Best of" not in text


def test_what_never_changed_is_told_and_not_drawn(tmp_path: Path) -> None:
    write_training(tmp_path / "run", 1e-3, 0)
    table = pd.read_csv(tmp_path / "run" / "progress.csv").assign(clip_range=0.2)
    table.to_csv(tmp_path / "run" / "progress.csv", index=False)
    (tmp_path / "run" / "train.json").write_text(json.dumps({"finished": True, "unit": "kWh a day"}))
    assert main(["report", str(tmp_path / "run")]) == 0
    page = tmp_path / "run" / "report.html"
    assert "curve-clip_range" not in figures_of(page)
    assert "The same throughout: clip_range 0.200." in page.read_text()
    assert "ppo: best validation 16.33 kWh a day (one seed)" in page.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("progress.csv", "a,b\n1,2\n", "has no columns timesteps and objective"),
        ("train.json", "{", "is no training that can be read"),
        ("config.yaml", "[1", "is no training that can be read"),
    ],
)
def test_what_is_damaged_is_one_line(
    name: str, content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path / "run", 1e-3, 0)
    (tmp_path / "run" / name).write_text(content)
    assert main(["report", str(tmp_path / "run")]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert said in line


def test_a_training_that_has_not_begun_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path / "run", 1e-3, 0)
    (tmp_path / "run" / "progress.csv").unlink()
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "nothing was evaluated" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_of_a_sweep_works_in_a_browser(width: int, tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep")
    assert main(["report", str(tmp_path / "sweep")]) == 0
    before, after, console = open_page(tmp_path / "sweep" / "report.html", width, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert not re.findall(r".*CONSOLE.*(?:Uncaught|Refused|rror).*", console)
    assert int(before["scrollWidth"]) <= width
    assert before["hurdles"] == []
    assert int(before["plots"]) >= 5
