"""Plans, sizes and HA checks of small clusters worked out by hand, and the commands from file to answer."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from oracles.exports import prometheus_files, proxmox_files, rvtools_tabs, write_csv_tabs, write_usage
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.experiments.cli import main
from virtgym.experiments.operations.commands import plan_answer, tail
from virtgym.experiments.operations.ha_check import ha_check
from virtgym.experiments.operations.page import Table
from virtgym.experiments.operations.plan import Plan, make_plan
from virtgym.experiments.operations.size import size, usual_host
from virtgym.policies import make_policy

HEAVY = (
    "pandas",
    "pyarrow",
    "scipy.sparse",
    "scipy.linalg",
    "ortools",
    "PIL",
    "plotly",
    "matplotlib",
    "torch",
)
MHZ = 40_000.0
"""CPU of a host: 16 cores of 2,500 MHz."""


def export(
    folder: Path, loads: dict[str, list[float]], rules: dict[str, Any] | None = None, **hosts: Any
) -> Path:
    """Hosts of 16 cores, 64 GiB, and VMs of 8 vCPUs (20,000 MHz), 8 GiB; loads are shares of a host."""
    folder.mkdir(exist_ok=True)
    vms, rows = [], ["time,vm,cpu"]
    for host, shares in loads.items():
        for i, share in enumerate(shares):
            name = f"{host}{i}"
            vms.append({"name": name, "vcpus": 8, "memory_gib": 8, "host": host})
            rows += [f"{300 * k},{name},{share * MHZ / 20_000}" for k in range(4)]
    kinds = [
        {
            "name": h,
            "cores": 16,
            "core_mhz": 2500,
            "memory_gib": 64,
            "power_w": [100, 300],
            **hosts.get(h, {}),
        }
        for h in loads
    ]
    tree = {"hosts": kinds, "vms": vms, "rules": rules or {}}
    (folder / "inventory.yaml").write_text(yaml.safe_dump(tree))
    (folder / "usage.csv").write_text("\n".join(rows) + "\n")
    return folder


def planned(folder: Path, policy: str, **params: Any) -> tuple[Scenario, Plan]:
    scenario = build_scenario("inventory", overrides={"inventory.path": str(folder)})
    return scenario, make_plan(tail(scenario, 4), make_policy(policy, **params), warmup=4, rounds=4)


def moves(scenario: Scenario, plan: Plan) -> list[tuple[str, str, str]]:
    names, hosts = scenario.trace.vm_names, scenario.host_names
    return [(names[m.vm], hosts[m.source], hosts[m.dest]) for m in plan.moves]


def precopy(memory: float, rate: float, dirty: float, working: float) -> tuple[float, float]:
    """Time and downtime of a migration, by the rounds of docs/simulator.md §6."""
    volume, sent, i = memory, 0.0, 0
    while volume > 50 * 4 / 1024 and i < 29 and sent <= 3 * memory:
        sent += volume
        volume = min(dirty * volume / rate, working, memory)
        i += 1
    return 1.0 + (sent + volume) / rate + 0.05, volume / rate + 0.05


def test_a_balancing_plan_worked_out_by_hand(tmp_path: Path) -> None:
    """Loads 0.8, 0.1, 0.1: DRS evens them to 0.4, 0.3, 0.3 by one VM of 0.2 to each of the others."""
    scenario, plan = planned(export(tmp_path / "dc", {"a": [0.2] * 4, "b": [0.1], "c": [0.1]}), "drs")
    assert [(source, dest) for _, source, dest in moves(scenario, plan)] == [("a", "b"), ("a", "c")]
    first, second = plan.moves
    spread = [float(np.std(loads)) for loads in ((0.8, 0.1, 0.1), (0.6, 0.3, 0.1), (0.4, 0.3, 0.3))]
    np.testing.assert_allclose(
        [first.before.imbalance, first.after.imbalance, second.after.imbalance], spread
    )
    assert first.gain_unit == "imbalance"
    assert first.gain == pytest.approx(100 * (spread[0] - spread[1]))
    np.testing.assert_allclose([first.before.source, first.after.source, first.after.dest], [0.8, 0.6, 0.3])
    assert "imbalance 0.330 > 0.115" in first.why  # level 3: 0.2 / sqrt(3 hosts)
    rate = 10_000 / 2 / 8.388608  # two copies share the network of host a
    dirty = 0.5 + 20.0 * 0.4  # idle, and what its load of 0.4 of its vCPUs adds
    seconds, down = precopy(8192.0, rate, dirty, 819.2)
    np.testing.assert_allclose([first.seconds, first.downtime_s], [seconds, down])
    assert plan.seconds == pytest.approx(seconds)  # side by side
    assert plan.downtime_s == pytest.approx(2 * down)
    np.testing.assert_allclose(plan.imbalance, [spread[0], spread[2]])


def test_an_even_cluster_has_no_beneficial_move(tmp_path: Path) -> None:
    scenario, plan = planned(export(tmp_path / "dc", {"a": [0.3], "b": [0.3], "c": [0.35]}), "drs")
    answer = plan_answer(scenario, plan, "drs", 0.1)
    assert not plan.moves
    assert answer.verdict.startswith("no beneficial move (drs: imbalance 0.02")
    assert list(answer.tables[0][2].columns[:7]) == [
        "vm",
        "from",
        "to",
        "gain",
        "why",
        "seconds",
        "downtime_s",
    ]


def test_a_plan_that_saves_power_counts_what_the_host_draws(tmp_path: Path) -> None:
    """Two hosts at 10 %: one takes both VMs, the other goes off and saves its 100 W idle."""
    scenario, plan = planned(export(tmp_path / "dc", {"a": [0.1], "b": [0.1]}), "dpm", min_on_s=0.0)
    assert len(plan.moves) == 1
    move = plan.moves[0]
    assert [(kind, scenario.host_names[h]) for kind, h, _ in plan.actions] == [
        ("power_off", scenario.host_names[move.source])
    ]
    assert move.gain_unit == "watts"
    assert move.gain == pytest.approx(100.0)  # 120 + 120 W -> 140 W
    assert plan.hosts_on == (2, 1)
    assert "(target - tolerance)" in move.why


def test_a_plan_mends_rules_and_empties_hosts_in_maintenance(tmp_path: Path) -> None:
    rules = {"anti_affinity": [["a0", "a1"]]}
    scenario, plan = planned(export(tmp_path / "r", {"a": [0.1, 0.1], "b": [0.1], "c": [0.1]}, rules), "drs")
    assert len(plan.moves) == 1
    assert (plan.moves[0].gain_unit, plan.moves[0].why) == ("rules", "breaks 1 placement rule where it is")
    folder = export(tmp_path / "m", {"a": [0.1], "b": [0.1], "c": [0.1]}, a={"state": "maintenance"})
    scenario, plan = planned(folder, "drs")
    assert [move[:2] for move in moves(scenario, plan)] == [("a0", "a")]
    assert plan.moves[0].gain_unit == "maintenance"


def test_vms_begin_where_they_are_whatever_the_policy_s_rule(tmp_path: Path) -> None:
    folder = export(tmp_path / "dc", {"a": [0.1], "b": [], "c": [0.1, 0.1]})
    scenario = build_scenario("inventory", overrides={"inventory.path": str(folder)})
    for arrival in (None, "first_fit", "policy"):
        sim = scenario.simulator(arrival=arrival)
        sim.reset()
        assert sim.state.vm_host.tolist() == [0, 2, 2]
        np.testing.assert_allclose(sim.state.host_mem_mib, [8192, 0, 16384])
        sim.advance()
        assert sim.state.totals.failed_placements == 0
    twin = sim.fork()
    assert twin.digest() == sim.digest()


def test_an_agent_plans_through_its_actions(tmp_path: Path) -> None:
    scenario, plan = planned(export(tmp_path / "dc", {"a": [0.2] * 4, "b": [0.1], "c": [0.1]}), "suite_agent")
    assert all(math.isfinite(move.seconds) for move in plan.moves)
    assert all(name[1] != name[2] for name in moves(scenario, plan))


def test_a_size_worked_out_by_hand(tmp_path: Path) -> None:
    """Ten VMs of 8 GiB and 0.1 of a host: 8 fill the memory of a host of 64 GiB, 4 one of 32 GiB."""
    from virtgym.envs.inventory import read_inventory

    found = read_inventory(export(tmp_path / "dc", {"a": [0.1] * 5, "b": [0.1] * 5}))
    now = size(found, usual_host(found), rounds=20)
    assert (now.hosts, now.bound) == (2, 2)
    small = size(found, usual_host(found, {"memory_gib": 32}), failures=1, rounds=20)
    assert (small.hosts, small.bound, small.sizing.hosts) == (4, 4, 3)
    busy = size(found, usual_host(found, {"cores": 8}), cpu_share=0.5, rounds=20)
    assert busy.hosts == 5  # 10 x 4,000 MHz, 10,000 MHz a host: two each


def test_an_ha_check_worked_out_by_hand(tmp_path: Path) -> None:
    """64 GiB a host: 6 VMs of 8 GiB on a, 5 on b, 5 on c leave room for 2, 3 and 3."""
    from virtgym.envs.inventory import read_inventory

    rack = {"domain": "rack-1"}
    folder = export(tmp_path / "dc", {"a": [0.1] * 6, "b": [0.1] * 5, "c": [0.1] * 5}, b=rack, c=rack)
    one = ha_check(read_inventory(folder))
    assert one.exact
    assert [(loss.hosts, loss.domain, len(loss.left)) for loss in one.losses] == [(("b", "c"), "rack-1", 8)]
    two = ha_check(read_inventory(folder), failures=2)
    assert {loss.hosts: len(loss.left) for loss in two.losses} == {
        ("a", "b"): 8,
        ("a", "c"): 8,
        ("b", "c"): 8,
    }
    assert not ha_check(read_inventory(folder), failures=2, memory_overcommit=2.0).losses
    few = ha_check(read_inventory(folder), failures=2, sets=1)
    assert not few.exact
    assert few.checked == 5  # three hosts, the two fullest, the rack


def test_from_a_file_to_an_explained_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tabs = rvtools_tabs(60, 5)
    folder = write_csv_tabs(tmp_path / "rvtools", tabs)
    write_usage(folder / "usage.csv", tabs, samples=6)
    out = tmp_path / "out"
    assert (
        main(["plan", str(folder), "policy=drs", "policy.level=5", "warmup=4", "intervals=3", f"out={out}"])
        == 0
    )
    told = capsys.readouterr().out
    assert "Nothing was sent to any platform." in told
    rows = pd.read_csv(out / "plan.csv")
    assert list(rows.columns[:7]) == ["vm", "from", "to", "gain", "why", "seconds", "downtime_s"]
    assert len(rows) > 0
    assert rows["why"].str.len().min() > 0
    assert (rows["from"] != rows["to"]).all()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "virtgym report: plan of rvtools" in page
    assert rows["vm"].iloc[0] in page
    again = tmp_path / "again"
    assert main(["plan", str(folder), "policy.level=5", "warmup=4", "intervals=3", f"out={again}"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(again / "plan.csv"), rows)


@pytest.mark.parametrize("command", ["plan", "ha-check"])
def test_an_answer_loads_little(command: str, tmp_path: Path) -> None:
    folder = write_csv_tabs(tmp_path / "rvtools", rvtools_tabs(60, 5))  # a table of usage needs PyArrow
    assert main([command, str(folder), f"out={tmp_path / 'first'}"]) == 0  # compiles what it has to
    code = (
        "import sys; from virtgym.experiments.cli import main\n"
        f"main([{command!r}, {str(folder)!r}, {'out=' + str(tmp_path / 'out')!r}])\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)), len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, number = done.stdout.splitlines()[-1].removeprefix("loaded: ").rsplit(" ", 1)
    assert heavy == "[]"
    assert int(number) < 1200  # about 1,100, two thirds of them Numba's, NumPy's and Hydra's


def test_tables_are_written_as_pandas_writes_them(tmp_path: Path) -> None:
    rows = [("a,b", 1.5, math.nan, True, np.float64(0.1)), ('say "x"', 1e-17, -2.0, False, np.float64(3.0))]
    table = Table(["name", "x", "y", "on", "z"], rows)
    table.write(tmp_path / "own.csv")
    pd.DataFrame(rows, columns=list(table.columns)).to_csv(tmp_path / "pandas.csv", index=False)
    assert (tmp_path / "own.csv").read_bytes() == (tmp_path / "pandas.csv").read_bytes()
    assert [table.is_number(at) for at in range(5)] == [False, True, True, False, True]
    assert Table.of(pd.read_csv(tmp_path / "own.csv")).rows[1] == rows[1]


@pytest.mark.parametrize("make", [proxmox_files, prometheus_files])
def test_other_platforms_by_one_command(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "export")
    assert main(["plan", str(folder), "warmup=3", "intervals=2", f"out={tmp_path / 'out'}"]) == 0
    told = capsys.readouterr().out
    assert "by drs:" in told or "no beneficial move" in told
    assert main(["ha-check", str(folder), "--failures", "1", f"out={tmp_path / 'ha'}"]) == 0
    assert (tmp_path / "ha" / "report.html").exists()


def test_whatif_is_a_benchmark_on_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(tmp_path / "dc", {"a": [0.2] * 4, "b": [0.1], "c": [0.1]})
    out = tmp_path / "out"
    assert main(["whatif", str(folder), "policies=[static,drs]", f"out={out}"]) == 0
    rows = pd.read_csv(out / "results.csv")
    assert rows["policy"].tolist() == ["static", "drs"]
    assert set(rows["scenario"]) == {"inventory"}
    assert rows["migrations"].tolist() == [0, 2]
    assert (out / "report.html").exists()


def test_size_by_flags_and_by_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(tmp_path / "dc", {"a": [0.1] * 5, "b": [0.1] * 5})
    for words in (["--host", "memory_gib=32", "--failures", "1"], ["host=memory_gib=32", "failures=1"]):
        assert main(["size", str(folder), *words, f"out={tmp_path / 'out'}"]) == 0
        assert "4 hosts of 16 cores of 2,500 MHz and 32 GiB, 1 of them for failures; fewer are not" in (
            capsys.readouterr().out
        )
    row = pd.read_csv(tmp_path / "out" / "size.csv").iloc[0]
    assert (row["hosts"], row["bound"]) == (4, 4)


WRONG = {
    "no export": (["plan"], "needs one export"),
    "two exports": (["plan", "a", "b"], "needs one export"),
    "no such file": (["plan", "nothing.xlsx"], "no such file"),
    "no such key": (["plan", "EXPORT", "warmups=3"], "no such key .did you mean warmup"),
    "no such flag": (["size", "EXPORT", "--fail", "1"], "--fail: no such flag"),
    "no value": (["size", "EXPORT", "--failures"], "--failures: needs a value"),
    "no such policy": (["plan", "EXPORT", "policy=drz"], "drz"),
    "a policy of placement": (["plan", "EXPORT", "policy=best_fit"], "is made for placement"),
    "negative failures": (["ha-check", "EXPORT", "failures=-1"], "must be a whole number of at least 0"),
    "no warm-up": (["plan", "EXPORT", "warmup=0"], "must be a whole number of at least 1"),
    "an unknown part of a host": (["size", "EXPORT", "host=kernels=3"], "no such key kernels"),
    "a host that is too small": (["size", "EXPORT", "host=memory_gib=4"], "VM a0 needs"),
    "an unknown way with gaps": (["size", "EXPORT", "missing=zero"], "must be one of error, drop, previous"),
    "another scenario": (["plan", "EXPORT", "scenario=small"], "the export is the scenario"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_user_s_error_is_one_line_and_exit_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = WRONG[name]
    folder = export(tmp_path / "dc", {"a": [0.1], "b": [0.1]})
    assert main([str(folder) if word == "EXPORT" else word for word in words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"virtgym {words[0]}: ")
    import re

    assert re.search(message, told), told
