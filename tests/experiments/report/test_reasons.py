"""Forecasts against what came, and choices, as the page tells them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.experiments.analysis.run_data import HeatFile
from virtgym.experiments.report import write_report
from virtgym.experiments.report.reasons import read_reasons

NOW = np.array([np.nan, 100.0, 120.0, 80.0, 100.0])
AHEAD = np.array([np.nan, 100.0, 110.0, 999.0, 999.0])
SPREAD = np.array([np.nan, 10.0, 10.0, 10.0, 10.0])


def told(**changed: Any) -> dict[str, Any]:
    return {
        "interval_s": np.float64(300.0),
        "forecast": np.stack([NOW, AHEAD, SPREAD], axis=1) * 1000.0,
        "forecast_steps": np.array(2),
        "forecaster": np.array("ewma"),
        "choices": np.array([[0, 1, 3, 1], [0, 0, 2, 2], [13, 2, 3, 2]]),
        "choice_values": np.array([[0.5, 0.25], [0.1, 0.6], [0.75, 0.25]]),
        "choice_slots": np.array(["nothing", "empty", "dpm"]),
        "choice_offered": np.array([3, 2, 3]),
        "choice_mean": np.array([0.2, 0.4, 0.5]),
        "choice_measure": np.array("probability"),
        **changed,
    }


def read(folder: Path, **changed: Any) -> Any:
    path = folder / "x.npz"
    np.savez_compressed(path, **told(**changed))
    return read_reasons(HeatFile("dpm", 0, path))


def test_a_forecast_is_held_against_the_time_that_it_is_about(tmp_path: Path) -> None:
    forecast, _ = read(tmp_path)
    # made at 1 and 2, they are about 3 and 4: 100 for 80, 110 for 100; nothing changed: 20 and 20 off
    error, mean = np.array([20.0, 10.0]), (120.0 + 80.0 + 100.0) / 3.0
    name, by, ahead, miss, bias, stay, held = forecast.row("dpm")
    assert (name, by, ahead) == ("dpm", "ewma", "10 min")
    assert float(miss) == pytest.approx(100 * np.abs(error).mean() / mean, rel=5e-3)
    assert float(bias) == pytest.approx(100 * error.mean() / mean, rel=5e-3)
    assert float(stay) == pytest.approx(100 * 20.0 / mean, rel=5e-3)
    assert held == "50"  # 20 is more than 1.28 × 10


def test_choices_are_counted_by_kind(tmp_path: Path) -> None:
    _, choices = read(tmp_path)
    assert choices.kinds == ["dpm", "empty", "nothing"]
    assert choices.table() == [
        ["dpm", "3", "1", "0.750", "0.500", "0.500"],
        ["empty", "2", "1", "0.500", "0.400", "0.250"],
        ["nothing", "3", "1", "0.100", "0.200", "−0.500"],
    ]
    said = choices.told(7)
    assert "Seed 7: 3 choices, 2 of them to act; 1 were not the candidate rated highest" in said


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({"forecast": np.zeros((5, 2))}, 1),
        ({"forecast": np.full((5, 3), np.nan)}, 1),
        ({"forecast_steps": np.array(0)}, 1),
        ({"forecast_steps": np.array(5)}, 1),
        ({"forecast": np.array(["a"])}, 1),
        ({"choices": np.array([[0, 7, 1, 0]])}, 0),
        ({"choices": np.array([[0, 0, 1, -1]])}, 0),
        ({"choices": np.zeros((0, 4), int)}, 0),
        ({"choice_values": np.zeros(3)}, 0),
        ({"choice_offered": np.zeros(9, int)}, 0),
    ],
)
def test_what_is_no_reason_is_left_out(changed: dict[str, Any], left: int, tmp_path: Path) -> None:
    found = read(tmp_path, **changed)
    assert found[1 - left] is None
    assert found[left] is not None


def test_the_page_shows_forecasts_and_choices(tmp_path: Path, report_sample: Any) -> None:
    run = report_sample.write_sample_run(tmp_path / "run", seeds=(0,), max_steps=12)
    text = write_report([run], tmp_path / "out").read_text()
    block = re.findall(r'<script type="application/json" id="data-\d+">(.*?)</script>', text, re.S)[0]
    assert {"forecast-0", "choices-0", "choices-0-values"} <= set(json.loads(block)["figures"])
    assert "Forecasts against what came" in text
    assert "12 choices, 6 of them to act" in text
