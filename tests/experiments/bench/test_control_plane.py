"""The table of the managers: rows, comparison with the reference, one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from virtgym.experiments.bench.control_plane import compare_lines, day_rows, main, scene_rows, to_markdown


def test_a_scene_is_one_row_per_policy_with_an_interval() -> None:
    rows = scene_rows("drs_light", ("static", "platform(power=none)", "dpm"), range(2))
    assert [row["policy"] for row in rows] == ["static", "platform(power=none)", "dpm"]
    energy = [float(row["energy_kwh"]) for row in rows]
    assert energy[2] < 0.4 * energy[0]
    assert energy[1] == pytest.approx(energy[0], rel=0.05)  # nobody switches anything
    low, high = (float(x) for x in str(rows[2]["interval"]).split(" – "))
    assert low <= energy[2] <= high
    table = to_markdown(rows).splitlines()
    assert len(table) == 5
    assert len({line.count("|") for line in table}) == 1


def test_days_are_compared_with_the_literature(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    day = tmp_path / "a_day"
    day.mkdir()
    for i in range(40):
        load = np.clip(rng.normal(12.0, 8.0, 288), 0, 100).astype(int)
        (day / f"vm{i:02d}").write_text("\n".join(map(str, load)) + "\n")
    rows = day_rows(day, ("ols-mmt", "dpm"))
    (line,) = compare_lines(rows)
    assert line.startswith("a_day dpm: ESV ")
    falling_short = [{**row, "esv": esv} for row, esv in zip(rows, (8e-3, 2e-3))]
    assert compare_lines(falling_short)[0].startswith("a_day dpm: ESV 1/4, energy ")
    assert compare_lines(rows[1:]) == []  # nothing to compare with
    never = [{**rows[0], "esv": 0.0}, {**rows[1], "esv": 2e-3}]  # placed by a guess, VMs lie so far apart
    assert compare_lines(never)[0].startswith("a_day dpm: ESV 2 · 10⁻³, energy ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one day"),
        (["--scenes", "--seeds", "0"], "--seeds=0: must be at least 1"),
        (["nowhere"], "nowhere"),
        (["nowhere", "--policies", "dmp"], "policy=dmp: did you mean dpm"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_an_agent_on_the_knobs_is_compared_with_fixed_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3", reason="needs the extra rl")
    from virtgym.experiments.training.knobs import main as compare

    assert compare(["--scenario", "small", "--timesteps", "600", "--seeds", "2", "--days", "1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "reward", "energy, kWh", "migrations", "unserved, share", "ESV",
    ]  # fmt: skip
    assert compare(["--seeds", "1"]) == 2
    assert compare(["--scenario", "smal"]) == 2
    assert "did you mean small" in capsys.readouterr().err
