"""What the report works out and says, on tables small enough to check by hand."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from virtgym.envs.sim.metrics import METRICS
from virtgym.experiments.analysis.run_data import Group, HeatFile, RunFolder, group_runs
from virtgym.experiments.report.columns import LEADERBOARD, fit_scale, write_number
from virtgym.experiments.report.facts import notes
from virtgym.experiments.report.figures import day_figures, pareto_figures, styles_of
from virtgym.experiments.report.heat import FULL, OFF, OVERLOADED, SWITCHING, pack_heats, reduce_heat
from virtgym.experiments.report.leaderboard import compare, make_leaderboard, shared_intervals
from virtgym.experiments.report.markdown import render_markdown
from virtgym.experiments.report.table import make_table
from virtgym.experiments.report.verdict import make_tiles, make_verdict
from virtgym.experiments.run.rows import gates_of

Table = Mapping[str, Sequence[tuple[float, float]]]


def table(policies: Table, trace: str = "t", **more: object) -> pd.DataFrame:
    """Rows from ``{policy: [(energy, slav) per seed]}``; policies with SLAV 0 do not migrate.

    The cost is the energy and 100 times the SLAV.
    """
    rows = [
        {
            "scenario": "s",
            "trace": trace,
            "policy": policy,
            "seed": seed,
            "kind": "agent" if policy == "runs/ppo/agent" else "rule",
            "energy_kwh": energy,
            "slav": slav,
            "esv": energy * slav,
            "cost": energy + 100.0 * slav,
            "gate": "ok",
            "migrations": 10.0 if slav > 0 else 0.0,
            "swap_mib": math.nan,
            **more,
        }
        for policy, runs in policies.items()
        for seed, (energy, slav) in enumerate(runs)
    ]
    return pd.DataFrame(rows)


def group(policies: Table) -> Group:
    """A group of one trace."""
    return Group("s", "s", ["t"], "", table(policies))


def said(policies: Table) -> list[str]:
    """The verdict as plain sentences."""
    return [
        "".join(sentence).replace("\u00a0", " ")
        for sentence in make_verdict(make_leaderboard(group(policies)))
    ]


CLEAR: Table = {
    "static": [(100.0, 0.0), (110.0, 0.0), (120.0, 0.0)],
    "good": [(50.0, 0.10), (55.0, 0.11), (60.0, 0.12)],
    "poor": [(60.0, 0.20), (66.0, 0.22), (72.0, 0.24)],
}


def test_order_means_and_energy_against_static() -> None:
    board = make_leaderboard(group(CLEAR))
    assert [line.policy for line in board.lines] == ["good", "poor", "static"]
    assert [line.below for line in board.lines] == [False, False, False]
    good = board.lines[0]
    assert good.mean("energy_kwh") == pytest.approx(55.0)
    assert good.mean("energy_delta_pct") == pytest.approx(-50.0)
    assert good.cells["energy_delta_pct"].value.high == pytest.approx(-50.0)  # paired: seeds cancel
    assert good.cells["energy_kwh"].value.high == pytest.approx(55.0 + 4.302653 * 5.0 / math.sqrt(3))
    assert board.column("swap_mib") is None


def test_best_and_not_clearly_worse_are_marked_by_paired_difference() -> None:
    board = make_leaderboard(group(CLEAR))
    good, poor, static = board.lines
    assert (good.cells["energy_kwh"].best, poor.cells["energy_kwh"].tied) == (True, False)
    assert good.cells["energy_kwh"].value.holds(poor.mean("energy_kwh"))  # unpaired they overlap
    assert static.cells["esv"].best  # by definition: it never migrates
    noisy = {
        "a": [(50.0, 0.10), (52.0, 0.10)],
        "b": [(52.0, 0.1), (51.0, 0.1)],
        "static": CLEAR["static"][:2],
    }
    board = make_leaderboard(group(noisy))
    assert {line.policy: line.cells["energy_kwh"].tied for line in board.ranked} == {
        "a": False,
        "b": True,
        "static": False,
    }


def often(policies: Table) -> Table:
    """The same runs four times over: twelve, which is enough to say something."""
    return {policy: [*runs] * 4 for policy, runs in policies.items()}


def test_fewer_than_ten_independent_runs_say_nothing_is_better() -> None:
    few = "in 3 independent runs, too few (under 10) to say that one is better"
    sure = said(CLEAR)[1]
    assert sure.startswith(f"Ahead of every other ranked policy {few}; next is poor")
    assert "overlap with poor" in sure
    agent = {**CLEAR, "runs/ppo/agent": CLEAR["poor"]}
    (sentence,) = (s for s in said(agent) if s.startswith("The trained agent"))
    assert "is behind the best rule good on cost" in sentence
    assert few in sentence
    many = group(often(CLEAR))
    assert make_leaderboard(many).n_blocks == 12
    loads = many.rows["seed"].map(lambda seed: f"load {seed % 4}")
    assert make_leaderboard(replace(many, rows=many.rows.assign(trace_digest=loads))).n_blocks == 4
    alone = many.rows.assign(trace_digest="the same")
    assert make_leaderboard(replace(many, rows=alone)).n_blocks == 12


def test_verdict_of_a_clear_winner() -> None:
    first, sure, *rest = said(often(CLEAR))
    assert first.startswith("Lowest cost: good with 66.0 kWh [")
    assert first.endswith("55.0 kWh, 50 % less energy than static.")
    assert sure.startswith("Ahead of every other ranked policy in paired comparison; next is poor")
    assert rest == []


def test_verdict_does_not_claim_what_it_cannot() -> None:
    noisy = {"static": CLEAR["static"], "a": [(50.0, 0.1), (60.0, 0.3), (50.0, 0.1)], "b": CLEAR["good"]}
    assert said(noisy)[1].startswith("Not clearly better than ")
    one = {policy: runs[:1] for policy, runs in CLEAR.items()}
    assert said(one)[0] == "Lowest cost: good with 60.0 kWh; 50.0 kWh, 50 % less energy than static."
    assert said(one)[1] == "One run per policy: no intervals, small differences may be chance."
    same = {policy: [runs[0]] * 3 for policy, runs in CLEAR.items()}
    assert "this trace" in said(same)[1]


def test_a_trained_agent_that_loses_is_said_to_lose() -> None:
    agent = often({**CLEAR, "runs/ppo/agent": CLEAR["poor"]})
    assert any("runs/ppo/agent loses against the best rule good on cost" in s for s in said(agent))
    agent = often({**CLEAR, "runs/ppo/agent": [(40.0, 0.05), (44.0, 0.055), (48.0, 0.06)]})
    assert any("runs/ppo/agent beats the best rule good" in s for s in said(agent))
    one = {policy: runs[:1] for policy, runs in {**CLEAR, "runs/ppo/agent": CLEAR["poor"]}.items()}
    assert any("is behind the best rule good on cost" in s for s in said(one))


def test_agents_are_known_by_their_kind_and_not_by_their_name() -> None:
    rows = table(
        {"maskable_ppo": CLEAR["good"], "./best": CLEAR["good"], "plain": CLEAR["poor"]}, kind="rule"
    )
    rows.loc[rows["policy"] == "plain", "kind"] = "agent"
    board = make_leaderboard(Group("s", "s", ["t"], "", rows))
    assert {line.policy for line in board.lines if line.learned} == {"plain"}


LEAN: Table = {**CLEAR, "lean": [(20.0, 0.02), (21.0, 0.02), (22.0, 0.02)]}


def _with_gate(policies: Table, gates: Mapping[str, str]) -> Group:
    rows = table(policies)
    for policy, text in gates.items():
        rows.loc[rows["policy"] == policy, "gate"] = text
    return Group("s", "s", ["t"], "", rows)


def test_who_leaves_work_unserved_is_below_the_line_however_little_it_costs() -> None:
    why = "18 % of the weighted work unserved, 1 % allowed"
    lean = _with_gate(LEAN, {"lean": why})
    board = make_leaderboard(lean)
    assert [line.policy for line in board.lines] == ["good", "poor", "static", "lean"]
    assert [line.below for line in board.lines] == [False, False, False, True]
    assert not any(cell.best for cell in board.lines[-1].cells.values())
    first, *rest = ["".join(s) for s in make_verdict(board)]
    assert first.startswith("Lowest cost: good")
    assert rest[-1] == f"Below the line: lean, {why} (in 3 of 3 runs)."
    assert not any("lean" in text for text in (first, *rest[:-1]))
    assert {tile.who for tile in make_tiles(board)} <= {"good", "poor", "static"}
    (line,) = [t for t in render_markdown([(lean, board)]).splitlines() if t.startswith("| – |")]
    assert line.startswith("| – | lean (18 % of the weighted work unserved")
    shown = make_table(lean, board).rows
    assert shown[-1].greyed
    assert shown[-1].tags == [board.lines[-1].gate]
    assert str(shown[-1].tags[0]).startswith(why)
    assert [row.name for row in shown].index("static") < len(shown) - 1


def test_nobody_is_ranked_where_nobody_serves() -> None:
    board = make_leaderboard(_with_gate(CLEAR, dict.fromkeys(CLEAR, "80 % unserved")))
    assert board.ranked == []
    assert "".join(make_verdict(board)[0]) == "No policy is ranked: all are below the line."
    assert make_tiles(board) == []
    assert pareto_figures(board)


def test_one_run_under_the_gate_is_enough_and_the_table_says_how_many() -> None:
    rows = table(CLEAR)
    rows.loc[(rows["policy"] == "good") & (rows["seed"] == 1), "gate"] = "why"
    assert gates_of(rows) == {"static": "ok", "good": "why (in 1 of 3 runs)", "poor": "ok"}


def test_rows_from_before_there_was_a_cost_are_ordered_by_energy_and_gated_by_what_they_know() -> None:
    rows = table(LEAN, sla_unserved=0.001).drop(columns=["cost", "gate"])
    rows.loc[rows["policy"] == "lean", "sla_unserved"] = 0.18
    old = Group("s", "s", ["t"], "", rows)
    board = make_leaderboard(old)
    assert [line.policy for line in board.lines] == ["good", "poor", "static", "lean"]
    assert board.lines[-1].gate == "18 % of the weighted work unserved, 1 % allowed"
    assert board.primary.key == "energy_kwh"
    assert any(t.startswith("These rows were written before there was a cost") for t in notes(old, board))


def test_the_unit_of_costs_is_that_of_the_runs() -> None:
    rows = table(CLEAR)
    run = RunFolder(Path("r"), rows, None, (), {}, "", "", 0, {"scenario": {"cost": {"unit": "EUR"}}})
    board = make_leaderboard(group_runs([run])[0])
    assert board.primary.unit == "EUR"
    assert "".join(make_verdict(board)[0]).startswith("Lowest cost: good with 66.0\u00a0EUR [")


def test_the_agent_below_the_line_is_said_to_be_there() -> None:
    agent = {**CLEAR, "runs/ppo/agent": LEAN["lean"]}
    board = make_leaderboard(_with_gate(agent, {"runs/ppo/agent": "why"}))
    texts = ["".join(s) for s in make_verdict(board)]
    assert "The trained agent runs/ppo/agent is below the line: why (in 3 of 3 runs)." in texts


def test_without_migrations_at_all_everything_is_ranked_by_cost() -> None:
    board = make_leaderboard(group({"a": [(5.0, 0.0)], "b": [(4.0, 0.0)]}))
    assert [line.policy for line in board.ranked] == ["b", "a"]
    assert board.primary.key == "cost"
    assert [tile.who for tile in make_tiles(board)][:1] == ["b"]


def test_seeds_effect_is_taken_out_of_the_picture() -> None:
    board = make_leaderboard(group(CLEAR))
    bars, shared = shared_intervals(board, "energy_kwh")
    assert shared
    assert bars["good"].estimate == pytest.approx(55.0)
    plain = board.lines[0].cells["energy_kwh"].value
    assert bars["good"].high - 55.0 < 0.5 * (plain.high - 55.0)
    same = {policy: [runs[0]] * 3 for policy, runs in CLEAR.items()}
    assert shared_intervals(make_leaderboard(group(same)), "energy_kwh") == ({}, False)


def test_compare_uses_common_seeds_only() -> None:
    gap = compare(
        make_leaderboard(group({"a": [(1.0, 0.1), (2.0, 0.1), (9.0, 0.1)], "b": [(2.0, 0.1), (4.0, 0.1)]})),
        "a",
        "b",
        "energy_kwh",
    )
    assert (gap.estimate, gap.n) == (-1.5, 2)


def _run(rows: pd.DataFrame, name: str, memory: str = "") -> RunFolder:
    return RunFolder(Path(name), rows, None, (), {}, "", memory, 0)


def test_groups_by_trace_and_memory_rule() -> None:
    one, two = table(CLEAR, "days/20110303"), table(CLEAR, "days/20110306")
    titles = [g.title for g in group_runs([_run(pd.concat([one, two]), "r")])]
    assert titles == ["s · all 2 traces", "s · 20110303", "s · 20110306"]
    titles = [g.title for g in group_runs([_run(one, "r", "ignored"), _run(one, "q", "binding")])]
    assert titles == ["s · 20110303 · memory ignored", "s · 20110303 · memory binding"]


def test_same_cells_join_unless_their_configuration_differs() -> None:
    rows = table(CLEAR, config_hash="1")
    (joined,) = group_runs([_run(rows, "r"), _run(rows, "q")])
    assert len(joined.rows) == len(rows)
    other = table(CLEAR, config_hash="2")
    assert [g.title for g in group_runs([_run(rows, "r"), _run(other, "q")])] == ["s · t", "s · t · q"]


def test_pooled_group_averages_over_traces() -> None:
    heavy = {policy: [(2 * e, s) for e, s in runs] for policy, runs in CLEAR.items()}
    pooled = group_runs([_run(table(CLEAR, "x"), "r"), _run(table(heavy, "y"), "q")])[0]
    board = make_leaderboard(pooled)
    assert pooled.pooled
    assert board.lines[0].mean("energy_kwh") == pytest.approx(1.5 * 55.0)
    value = board.lines[0].cells["energy_kwh"].value
    assert 75.0 <= value.low < 82.5 < value.high <= 90.0  # runs vary within a trace only
    assert "stratified bootstrap" in board.method


def test_heat_merges_cells_by_rule() -> None:
    heat = np.array([[100, OFF, OFF, OVERLOADED], [50, OFF, 10, OFF]], dtype=np.uint8)
    assert reduce_heat(heat, 1, 4).tolist() == [[75, OFF, OFF, OVERLOADED]]
    assert reduce_heat(heat, 2, 2).tolist() == [[OFF, OVERLOADED], [OFF, OFF]]
    assert reduce_heat(np.array([[SWITCHING, OFF, 7]], dtype=np.uint8), 1, 1)[0, 0] in (7, SWITCHING)
    assert reduce_heat(heat, 9, 9).tolist() == heat.tolist()


def _store(path: Path, heat: np.ndarray) -> HeatFile:
    np.savez_compressed(
        path, heat=heat, host_type=np.zeros(len(heat), int), type_names=np.array(["g4"]), interval_s=300.0
    )
    policy, _, seed = path.stem.rpartition("__")
    return HeatFile(policy, int(seed), path)


def test_heat_is_sorted_and_comes_back_as_it_was(tmp_path: Path) -> None:
    heat = np.array([[OFF, OFF, 5], [200, 200, 200], [1, 1, 1]], dtype=np.uint8)
    files = [_store(tmp_path / f"{name}__{seed}.npz", heat) for name in ("a", "b") for seed in (1, 0)]
    packed, _ = pack_heats(files, ["b", "a", "c"])
    assert [(p["policy"], p["seed"]) for p in packed] == [("b", 0), ("a", 0)]
    assert packed[0]["hosts"] == [1, 2, 0]
    cells = np.frombuffer(zlib.decompress(base64.b64decode(packed[0]["data"]["heat"])), dtype=np.uint8)
    assert cells.reshape(packed[0]["rows"], -1).tolist() == heat[[1, 2, 0]].tolist()
    assert packed[0]["column_h"] == pytest.approx(1 / 12)


def test_heat_leaves_out_hosts_that_are_off_and_stays_within_its_budget(tmp_path: Path) -> None:
    heat = np.full((800, 288), OFF, dtype=np.uint8)
    heat[:40] = 77
    ((packed,), _) = pack_heats([_store(tmp_path / "a__0.npz", heat)], ["a"])
    assert (packed["rows"], packed["n_hosts"], packed["n_left_out"]) == (40, 800, 760)
    noise = np.random.default_rng(0).integers(0, FULL + 1, size=(800, 288)).astype(np.uint8)
    file = _store(tmp_path / "b__0.npz", noise)
    ((full,), _) = pack_heats([file], ["b"])
    assert (full["rows"], full["columns"], full["per_row"]) == (400, 288, 2)
    ((small,), _) = pack_heats([file], ["b"], budget=40_000)
    assert len(small["data"]["heat"]) <= 40_000


def test_numbers_are_written_to_be_read() -> None:
    texts = {
        0.0: "0",
        12345.6: "12,300",
        0.01234: "0.0123",
        3.3e-8: "3.30 × 10⁻⁸",
        -2.5: "−2.50",
        99.96: "100",
    }
    for value, text in texts.items():
        assert write_number(value).replace("\u00a0", " ") == text
    assert write_number(math.nan) == "–"
    slav = next(c for c in LEADERBOARD if c.key == "slav")
    scale = fit_scale(slav, [3.2e-5, 1.1e-4, 0.0])
    assert scale.exponent == -5
    assert scale.write(3.2e-5) == "3.20"
    assert scale.write(0.0) == "0"
    assert fit_scale(slav, []).write(math.nan) == "–"


def test_availability_shows_the_digits_that_differ() -> None:
    column = next(c for c in LEADERBOARD if c.key == "vm_availability")
    values = (0.999921, 0.99988, 0.99412)
    scale = fit_scale(column, (*values, math.nan))
    assert [scale.write(v) for v in values] == ["99.992", "99.988", "99.412"]
    assert fit_scale(column, (1.0, 1.0)).write(1.0) == "100"


def test_columns_are_metrics_that_exist() -> None:
    known = {*METRICS, "energy_delta_pct", "total_wait_s", "mean_wait_s"}
    assert {c.key for c in LEADERBOARD} <= known


def test_pareto_names_what_is_outside_and_keeps_the_front() -> None:
    far = {**CLEAR, "static": [(900.0, 0.0), (910.0, 0.0), (920.0, 0.0)]}
    far |= {f"p{i}": [(56.0 + i, 0.2)] * 3 for i in range(3)}
    ((column, figure, outside),) = pareto_figures(make_leaderboard(group(far)))
    assert column.key == "slav"
    assert outside == ["static"]
    front = figure.data[0]
    assert list(front.x) == pytest.approx([55.0])  # static's SLAV of 0 does not count


def test_lines_are_means_over_seeds_and_long_days_are_binned() -> None:
    rows = [
        {"policy": p, "seed": s, "time_s": 300.0 * i, "hosts_on": 10.0 * s + 5, "unserved_mhz": 12e3}
        for p in CLEAR
        for s in (0, 1)
        for i in range(1300)
    ]
    day = group(CLEAR)
    day.steps = pd.DataFrame(rows)
    found = dict(day_figures(day, make_leaderboard(day), ["good"]))
    assert list(found) == ["Hosts that are on", "CPU demand left unserved so far, GHz h"]
    hosts, unserved = (figure.data[0] for figure in found.values())
    assert (hosts.name, hosts.visible, found["Hosts that are on"].data[1].visible) == ("good", True, False)
    assert len(hosts.y) <= 600
    assert set(np.asarray(hosts.y).tolist()) == {10.0}
    assert float(unserved.y[-1]) == pytest.approx(12.0 * 1300 / 12, rel=2e-3)  # 12 GHz for 108 h


def test_every_policy_has_a_look_of_its_own() -> None:
    many = {f"p{i:02d}": [(50.0 + i, 0.1)] for i in range(30)} | {"static": CLEAR["static"][:1]}
    styles = styles_of(make_leaderboard(group(many)))
    assert len({(s.ink, s.dash, s.symbol) for s in styles.values()}) == 31


def test_what_is_written_like_the_best_is_marked_like_it() -> None:
    """A difference that no digit shows marks nobody alone."""
    board = make_leaderboard(group({"a": [(50.0, 0.0)], "b": [(50.00001, 0.0)], "c": [(60.0, 0.0)]}))
    assert [line.cells["energy_kwh"].best for line in board.lines] == [True, True, False]
    alike = make_leaderboard(group({"a": [(50.0, 0.0)], "b": [(50.00001, 0.0)]}))
    assert not any(line.cells["energy_kwh"].best for line in alike.lines)
