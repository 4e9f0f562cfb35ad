"""What a page shows by what the scenario exercises: columns, terms, failed hosts, migrations, pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.envs.scenarios.scenario import list_scenarios, load_scenario_config
from virtgym.experiments.analysis.run_data import Group, HeatFile, RunFolder
from virtgym.experiments.config.overrides import parse_policy
from virtgym.experiments.report.columns import LEADERBOARD, exercised
from virtgym.experiments.report.facts import question_of
from virtgym.experiments.report.figures import day_figures, terms_figure
from virtgym.experiments.report.heat import FAILED, OFF, OVERLOADED, read_moves, reduce_heat
from virtgym.experiments.report.leaderboard import make_leaderboard
from virtgym.experiments.report.moves import move_choices
from virtgym.experiments.report.pairs import side_by_side
from virtgym.policies.registry import policy_names


def rows(n_seeds: int = 12, **more: float) -> pd.DataFrame:
    """Two policies, the second 1 kWh dearer on every seed, of unserved work."""
    found = [
        {
            **{"scenario": "s", "trace": "t", "policy": policy, "seed": seed, "kind": "rule", "gate": "ok"},
            **{"energy_kwh": 10.0 + seed, "cost_energy": 10.0 + seed, "cost_unserved": extra},
            **{"cost": 10.0 + seed + extra, "unserved_weighted": 0.001 * extra, "trace_digest": str(seed)},
            **{"slatah": 0.1 + extra, "ready_pct": 1.0 + extra, "migrations": 2.0, **more},
        }
        for policy, extra in (("dear", 1.0), ("cheap", 0.0))
        for seed in range(n_seeds)
    ]
    return pd.DataFrame(found)


def group(scenario: Mapping[str, Any], table: pd.DataFrame, **more: Any) -> Group:
    """A group of one run of a scenario."""
    run = RunFolder(Path("r"), table, None, (), {}, "", "", 0, settings={"scenario": dict(scenario)})
    return Group("s", "s", ["t"], "", table, runs=[run], **more)


@pytest.mark.parametrize("name", [*list_scenarios()])
def test_every_scenario_names_its_question_and_rivals_that_can_play_it(name: str) -> None:
    raw = load_scenario_config(name)
    kind = raw.get("kind", "cluster")
    if name not in ("small", "inventory"):
        assert str(raw["question"]).endswith("?")
    for rival in raw.get("rivals", []):
        assert parse_policy(rival).name in policy_names("cluster" if kind == "replica" else kind)


def test_columns_follow_what_the_scenario_exercises() -> None:
    full = {"cpu": {"enabled": True}, "memory": "multiplexed", "migration": {"mode": "precopy"}}
    assert exercised(full) == {"always", "cpu", "tiers", "precopy"}
    assert exercised({"memory": "ignored", "carbon": {"path": None, "hourly_g_per_kwh": []}}) == {
        "always",
        "literature",
    }
    assert {c.shown for c in LEADERBOARD} - {""} <= {
        *(
            "always",
            "literature",
            "failures",
            "standby",
            "admission",
            "cpu",
            "numa",
            "tiers",
            "io",
            "precopy",
        ),
        *("precopy", "carbon", "balance"),
    }
    board = make_leaderboard(group(full, rows()))
    assert "slatah" in board.more
    assert "ready_pct" not in board.more
    assert "slatah" not in make_leaderboard(group({"memory": "ignored"}, rows())).more
    assert make_leaderboard(group({}, rows()).__class__("s", "s", ["t"], "", rows())).more == frozenset()


def test_the_question_stands_first() -> None:
    assert question_of(group({"question": "Why?"}, rows())) == "Why?"
    assert question_of(group({"question": 3}, rows())) == ""


def test_terms_are_stacked_to_the_cost() -> None:
    board = make_leaderboard(group({}, rows()))
    figure = terms_figure(board)
    assert figure is not None
    total = np.sum([bar.x for bar in figure.data], axis=0)
    assert total == pytest.approx([line.mean("cost") for line in board.lines[::-1]], rel=1e-6)
    assert [bar.name for bar in figure.data] == ["energy", "unserved"]


def test_pairs_say_who_is_better_only_with_enough_runs() -> None:
    found = side_by_side(make_leaderboard(group({}, rows())))
    assert found is not None
    assert found["policies"] == ["cheap", "dear"]
    cost = next(i for i, head in enumerate(found["heads"]) if head.startswith("Cost"))
    text, mark = found["gaps"][0][1][cost]
    assert (text.split()[0], mark) == ("−1.0", "better")
    assert found["gaps"][1][0][cost][1] == "worse"
    few = side_by_side(make_leaderboard(group({}, rows(n_seeds=4))))
    assert few is not None
    assert {mark for row in few["gaps"] for cell in row for _, mark in cell} == {""}


def test_merged_cells_keep_failures() -> None:
    heat = np.array([[10, FAILED, 20, OFF], [OFF, OFF, OVERLOADED, FAILED]], dtype=np.uint8)
    assert reduce_heat(heat, 2, 2).tolist() == [[FAILED, OFF], [OFF, OVERLOADED]]


def test_what_is_rare_is_drawn_where_it_happens() -> None:
    steps = pd.DataFrame(
        {
            **{"scenario": "s", "trace": "t", "policy": "cheap", "seed": 0, "step": range(4)},
            **{"time_s": [0.0, 300.0, 600.0, 900.0], "cost": 0.5, "hosts_on": 2.0},
            **{"hosts_failed": [0.0, 1.0, 1.0, 0.0], "swapped_mib": 0.0},
        }
    )
    made = dataclasses.replace(group({}, rows()), steps=steps)
    found = dict(day_figures(made, make_leaderboard(made), ["cheap"]))
    assert list(found) == ["Cost so far", "Hosts that are on", "Hosts that have failed"]
    assert np.asarray(found["Cost so far"].data[0].y).tolist() == [0.5, 1.0, 1.5, 2.0]


def test_migrations_are_drawn_from_what_was_stored(tmp_path: Path) -> None:
    moves = np.array([[0, 7, 1, 2], [3, 7, 2, 1], [3, 5, 0, 0], [4, 6, 0, -1]], dtype=np.int32)
    path = tmp_path / "cheap.npz"
    np.savez_compressed(path, heat=np.zeros((3, 5), np.uint8), moves=moves)
    made = dataclasses.replace(group({}, rows()), heats=[HeatFile("cheap", 0, path)])
    figures: dict[str, Any] = {}
    (one,) = move_choices(made, make_leaderboard(made), figures)
    assert one["text"] == "Seed 0: 4 migrations of 3 VMs."
    assert one["most"] == 1
    table = figures[one["map"]]["data"][0]
    assert table["x"] == ["1", "2"]  # neither that which was broken off nor that of a VM that left
    assert table["z"] == [[None, 1], [1, None]]
    many = np.array([[i, i, i, i + 50] for i in range(50)], dtype=np.int32)
    np.savez_compressed(path, heat=np.zeros((3, 5), np.uint8), moves=many)
    assert move_choices(made, make_leaderboard(made), {})[0]["text"] == (
        "Seed 0: 50 migrations of 50 VMs; the map has the 40 of 100 hosts with most of them."
    )
    texts = figures[one["key"]]["data"][0]["text"]
    assert "VM 5: host 0 to nowhere: broken off" in texts
    np.savez_compressed(path, heat=np.zeros((3, 5), np.uint8), moves=moves - 5)
    assert move_choices(made, make_leaderboard(made), {}) == []
    np.savez_compressed(path, heat=np.zeros((3, 5), np.uint8))
    assert read_moves(path) is None
