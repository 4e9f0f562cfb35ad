"""Placement scenarios from configuration to result rows: the published figures, and bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.scenarios.placement import PlacementScenario, build_placement_scenario
from virtgym.envs.sim.metrics import METRICS
from virtgym.experiments.analysis.stats import trimmed_mean
from virtgym.experiments.cli.benchmark import benchmark
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.config.schema import DEFAULT_POLICIES
from virtgym.experiments.run.cell import evaluate
from virtgym.experiments.run.folder import cell_name
from virtgym.experiments.run.placement_rollout import play_windows
from virtgym.experiments.run.rows import COLUMNS
from virtgym.policies import make_policy
from virtgym.policies.placement.rules import run_windows
from virtgym.policies.registry import policy_names

PUBLISHED = {
    "worst_fit": 361_910.242,
    "first_fit": 267_139.975,
    "best_fit": 254_803.650,
    "balance_fit": 204_081.367,
    "best_host_emptier_node": 206_023.058,
    "first_host_emptier_node": 199_780.250,
}
"""Trimmed means of the total wait on the 150 validation windows, s (SPANE's protocol)."""

SHORT = ("scenario=demo_placement", "scenario.n_windows=4")
TIMES = ("wall_s", "decision_ms_p50", "decision_ms_p99")


def run(*arguments: str) -> pd.DataFrame:
    outcome = benchmark(compose_run("benchmark", [*SHORT, *arguments]))
    assert outcome.failures == ()
    return outcome.rows


def test_the_published_figures_through_the_command_line(
    traces_dir: Path, reference_dir: Path, tmp_path: Path
) -> None:
    folder = traces_dir / "huawei-east-1"
    expected = pd.read_csv(reference_dir / "placement_validation.csv")
    out = tmp_path / "run"
    arguments = [
        "benchmark",
        "scenario=huawei_placement",
        f"scenario.trace.path={folder / 'requests.csv'}",
        f"scenario.windows={folder / 'validation_windows.npy'}",
        f"policies=[{','.join(PUBLISHED)}]",
        f"out={out}",
        "report=false",
    ]
    assert main(arguments) == 0
    rows = pd.read_parquet(out / "results.parquet")
    for policy, figure in PUBLISHED.items():
        mine, theirs = rows[rows["policy"] == policy], expected[expected["policy"] == policy]
        np.testing.assert_array_equal(mine["window"], theirs["window"])
        np.testing.assert_array_equal(mine["n_vms"], theirs["n_vm"])
        np.testing.assert_array_equal(mine["total_wait_s"], theirs["total_wait_s"])
        assert trimmed_mean(mine["total_wait_s"]) == pytest.approx(figure, abs=5e-4)
    steps = pd.read_parquet(out / "steps.parquet")
    assert len(steps) == rows["n_vms"].sum()
    # one window stands twice in the list: sums are compared by policy and window
    sums = steps.groupby(["policy", "window"])["wait_s"].sum()
    whole = rows.groupby(["policy", "window"])["total_wait_s"].sum()
    np.testing.assert_array_equal(sums, whole)


def test_a_row_per_window_and_nan_where_nothing_is_meant(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rows = run("policies=[first_fit,random]", "seeds=[0,1]", f"out={out}")
    assert tuple(rows.columns) == COLUMNS
    assert len(rows) == 16
    assert rows["finished"].all()
    meant = {"cost", "failed_placements", "decision_ms_p50", "decision_ms_p99"}
    assert rows[[name for name in METRICS if name not in meant]].isna().all().all()
    assert (rows["failed_placements"] == 0).all()
    assert (rows["gate"] == "ok").all()
    np.testing.assert_array_equal(rows["cost"], rows["total_wait_s"])
    np.testing.assert_array_equal(rows["steps"], rows["n_vms"])
    np.testing.assert_allclose(rows["mean_wait_s"], rows["total_wait_s"] / rows["n_vms"])
    first = build_placement_scenario("demo_placement", seed=1, overrides={"n_windows": 4})
    waits, _ = run_windows(first.trace, first.windows, "first_fit", config=first.placement)
    mine = rows[(rows["policy"] == "first_fit") & (rows["seed"] == 1)]
    np.testing.assert_array_equal(mine["window"], first.windows)
    np.testing.assert_array_equal(mine["n_vms"], first.lengths)
    np.testing.assert_array_equal(mine["total_wait_s"], waits)


def test_the_log_of_requests_is_consistent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rows = run("policies=[best_fit]", f"out={out}")
    scenario = build_placement_scenario("demo_placement", overrides={"n_windows": 4})
    steps = pd.read_parquet(out / "steps.parquet")
    request = steps["request"].to_numpy()
    np.testing.assert_array_equal(request, steps["window"] + steps["step"])  # strict FIFO
    np.testing.assert_array_equal(steps["wait_s"], steps["time_s"] - scenario.trace.arrival_s[request])
    assert steps["node"].between(0, 9).all()
    end = steps.groupby("window")["time_s"].max().to_numpy()
    span = (end - scenario.trace.arrival_s[scenario.windows]) / 3600.0
    np.testing.assert_allclose(rows["sim_hours"], span)


def test_seeds_draw_other_streams_and_the_same_seed_the_same(tmp_path: Path) -> None:
    one, two, again = (evaluate("demo_placement", "first_fit", seed) for seed in (0, 1, 0))
    same = [name for name in COLUMNS if name not in TIMES]
    pd.testing.assert_frame_equal(one[same], again[same], check_exact=True)
    assert not np.array_equal(one["window"], two["window"])
    draws = [evaluate("demo_placement", "random", seed, overrides={"n_windows": 5}) for seed in (3, 3)]
    np.testing.assert_array_equal(draws[0]["total_wait_s"], draws[1]["total_wait_s"])


def test_with_files_the_seed_matters_to_random_policies_only(tmp_path: Path) -> None:
    path, windows = write_requests(tmp_path), tmp_path / "windows.csv"
    windows.write_text("window\n3\n20\n3\n")
    options = {"trace.path": str(path), "windows": str(windows), "placement.n_hosts": 1}
    tables = {
        p: [evaluate("huawei_placement", p, s, overrides=options) for s in (0, 1)]
        for p in ("first_fit", "random")
    }
    assert tables["first_fit"][0]["window"].tolist() == [3, 20, 3]
    same = [name for name in COLUMNS if name not in (*TIMES, "seed")]
    zero, one = tables["first_fit"]
    pd.testing.assert_frame_equal(zero[same], one[same], check_exact=True)
    a, b = (t["total_wait_s"].to_numpy() for t in tables["random"])
    assert not np.array_equal(a, b)


def test_finished_cells_are_kept_and_damaged_ones_run_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ("policies=[first_fit,best_fit,worst_fit]", f"out={out}")
    first = run(*common)
    cell = out / "cells" / f"{cell_name('best_fit', 0)}.json"
    stored = json.loads(cell.read_text())
    assert len(stored["cell"]["rows"]) == 4
    cell.write_text(json.dumps(stored)[:-9])  # as a crash of the file system might leave it
    (out / "cells" / f"{cell_name('worst_fit', 0)}.steps.parquet").unlink()
    outcome = benchmark(compose_run("benchmark", [*SHORT, *common]))
    assert outcome.skipped == 1
    same = [name for name in COLUMNS if name not in TIMES]
    pd.testing.assert_frame_equal(first[same], outcome.rows[same], check_exact=True)
    with pytest.raises(ConfigError, match=r"scenario.placement.n_hosts: 5 there, 4 now"):
        run(*common, "scenario.placement.n_hosts=4")


def test_files_count_by_what_is_in_them(tmp_path: Path) -> None:
    path, windows = write_requests(tmp_path), tmp_path / "windows.npy"
    np.save(windows, np.array([2, 9]))
    out = tmp_path / "run"

    def again(requests: Path, rows: Path) -> int:
        texts = [f"scenario.trace.path={requests}", f"scenario.windows={rows}", f"out={out}"]
        run_ = compose_run("benchmark", ["scenario=huawei_placement", "policies=[first_fit]", *texts])
        return benchmark(run_).skipped

    assert again(path, windows) == 0
    (tmp_path / "b").mkdir()
    moved = [Path(shutil.copy(file, tmp_path / "b")) for file in (path, windows)]
    assert again(*moved) == 1
    np.save(moved[1], np.array([2, 10]))
    with pytest.raises(ConfigError, match="another configuration"):
        again(*moved)


def test_an_agent_counts_by_what_is_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtgym.policies.learned.agent.load_policy", lambda path: Recorder(True))
    agent = tmp_path / "seed0" / "agent"
    agent.mkdir(parents=True)
    (agent / "weights").write_text("1")
    out = tmp_path / "run"
    rows = run(f"policies=[first_fit,{agent}]", f"out={out}")
    a, b = (part["total_wait_s"].to_numpy() for _, part in rows.groupby("policy", sort=False))
    np.testing.assert_array_equal(a, b)
    run(f"policies=[{agent}]", f"out={out}")
    (agent / "weights").write_text("2")
    with pytest.raises(ConfigError, match=r"agent with seed 0 is there from another configuration"):
        run(f"policies=[{agent}]", f"out={out}")


def test_names_of_any_length_are_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtgym.policies.learned.agent.load_policy", lambda path: Recorder(True))
    deep = tmp_path / ("x" * 120) / ("y" * 120)
    agents = [deep / f"seed{k}" for k in range(2)]
    for agent in agents:
        agent.mkdir(parents=True)
    rows = run(f"policies=[{agents[0]},{agents[1]}]", f"out={tmp_path / 'run'}")
    assert rows["policy"].nunique() == 2


def test_workers_give_the_same_numbers(tmp_path: Path) -> None:
    common = ("policies=[first_fit,random]", "seeds=[0,1]")
    one, two = run(*common, f"out={tmp_path / 'a'}"), run(*common, f"out={tmp_path / 'b'}", "workers=2")
    same = [name for name in COLUMNS if name not in TIMES]
    pd.testing.assert_frame_equal(one[same], two[same], check_exact=True)


def test_survival_games_count_requests_and_know_no_waits() -> None:
    for protocol in ("fading", "recovering"):
        rows = evaluate(f"placement_{protocol}", "first_fit", overrides={"n_windows": 5})
        assert rows["total_wait_s"].isna().all()
        np.testing.assert_array_equal(rows["n_vms"] - rows["failed_placements"], rows["steps"])
        assert (rows["failed_placements"] > 0).any()


def test_a_wait_that_never_ends_is_no_number(tmp_path: Path) -> None:
    path = write_requests(tmp_path, ["0,40,9,0,inf", "1,40,9,1,inf", "2,1,1,2,5"])
    options = {"trace.path": str(path), "rows": [0, 1], "n_windows": 1, "placement.n_hosts": 1}
    row = evaluate("huawei_placement", "first_fit", overrides=options).iloc[0]
    assert not row["finished"]
    assert np.isnan([row["total_wait_s"], row["failed_placements"]]).all()


def test_rejected_requests_are_failed_placements(tmp_path: Path) -> None:
    class Reject:
        """Rejects every second request."""

        task: ClassVar[str] = "placement"

        def reset(self, games: Any, rng: Any) -> None:
            self.games = games
            self.turn = 0

        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            self.turn += 1
            mask = _[3] if len(_) > 3 else __["action_masks"]
            nodes = mask[:, :10].argmax(1)
            return np.where(self.turn % 2 == 0, 10, nodes), None

    options = {"n_windows": 3, "placement.allow_reject": True}
    rows = evaluate("demo_placement", Reject(), overrides=options)
    np.testing.assert_array_equal(rows["failed_placements"], rows["n_vms"] // 2)
    assert rows["total_wait_s"].notna().all()


class Recorder:
    """First fit by the mask, and a note of what it was given."""

    task: ClassVar[str] = "placement"

    def __init__(self, stateless: bool) -> None:
        self.stateless = stateless

    def reset(self, games: Any, rng: np.random.Generator) -> None:
        self.sizes: list[int] = []

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        assert observation["nodes"].shape[0] == len(action_masks) == len(episode_start)
        assert bool(episode_start.all()) == (not self.sizes)
        self.sizes.append(len(action_masks))
        return action_masks.argmax(axis=1), None


@pytest.mark.parametrize("stateless", [True, False])
def test_lock_step_gives_what_single_windows_give(stateless: bool) -> None:
    scenario = build_placement_scenario("demo_placement", overrides={"n_windows": 6})
    batch = PlacementBatch(6, PlacementSettings(scenario.trace, scenario.placement))
    policy = Recorder(stateless)
    played = play_windows(policy, batch, scenario.windows, rng=np.random.default_rng(0))
    waits, _ = run_windows(scenario.trace, scenario.windows, "first_fit", config=scenario.placement)
    np.testing.assert_array_equal(played.total_wait_s, waits)
    assert len(policy.sizes) == scenario.lengths.max()
    playing = [int((scenario.lengths > k).sum()) for k in range(len(policy.sizes))]
    assert policy.sizes == (playing if stateless else [6] * len(playing))


def test_a_policy_that_answers_nonsense_is_named() -> None:
    class Short(Recorder):
        def predict(self, *_: Any, **__: Any) -> tuple[Any, Any]:
            return np.zeros(2, dtype=np.int64), None

    class Stubborn(Recorder):
        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            return np.full(len(observation["nodes"]), 99), None

    options = {"n_windows": 3}
    with pytest.raises(ConfigError, match=r"policy Short: predict\(\) must answer with 3 whole numbers"):
        evaluate("demo_placement", Short(False), overrides=options)
    rows = evaluate("demo_placement", Stubborn(False), overrides=options)
    assert not rows["finished"].any()
    assert (rows["steps"] == 100).all()
    assert rows["total_wait_s"].isna().all()


def write_requests(folder: Path, lines: list[str] | None = None, **changes: str) -> Path:
    """A small file of requests; ``changes`` replace lines by number."""
    lines = lines or [f"{i},{4 + 2 * (i % 3)},{8 * (1 + i % 3)},{10 * i},{500 + 7 * i}" for i in range(400)]
    for number, line in changes.items():
        lines[int(number.removeprefix("line"))] = line
    path = folder / "requests.csv"
    path.write_text("\n".join(["vmid,cpu,mem,at,lt", *lines]) + "\n")
    return path


Damage = Callable[[Path], list[str]]

BAD: dict[str, tuple[Damage, list[str]]] = {
    "nan": (lambda d: [f"path={write_requests(d, line3='3,nan,8,30,5')}"], ["requests.csv:5", "cpu", "nan"]),
    "negative lifetime": (
        lambda d: [f"path={write_requests(d, line3='3,4,8,30,-5')}"],
        ["requests.csv:5", "lt", "-5"],
    ),
    "decreasing arrivals": (
        lambda d: [f"path={write_requests(d, line3='3,4,8,3,5')}"],
        ["requests.csv:5", "at must not decrease"],
    ),
    "larger than any host": (
        lambda d: [f"path={write_requests(d, line3='3,90,8,30,5')}"],
        ["row 3", "90 cores", "fit on no host"],
    ),
    "empty file": (lambda d: [f"path={touch(d / 'requests.csv')}"], ["requests.csv", "no known format"]),
    "missing file": (lambda d: [f"path={d / 'nothing.csv'}"], ["nothing.csv", "no such file"]),
    "unknown format": (lambda d: [f"path={write_requests(d)}", "format=hwawei"], ["did you mean huawei"]),
    "generator with a file": (
        lambda d: [f"path={write_requests(d)}", "format=synthetic"],
        ["reads no file", "format=auto"],
    ),
}


def touch(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_bad_requests_are_one_line(
    case: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, parts = BAD[case]
    texts = [f"scenario.trace.{text}" for text in damage(tmp_path)]
    code = main([command, "scenario=huawei_placement", *texts, f"out={tmp_path / 'out'}"])
    check_one_line(code, parts, capsys)
    assert not (tmp_path / "out").exists()


def check_one_line(code: int, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("7\n400\n", ["windows.csv:2", "0 to 399", "400"]),
        ("-1\n", ["windows.csv:1", "-1"]),
        ("a\nb\n", ["windows.csv:2", "'b'"]),
        ("", ["windows.csv", "no window"]),
    ],
)
def test_bad_windows_are_one_line(
    rows: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = tmp_path / "windows.csv"
    windows.write_text(rows)
    texts = [f"scenario.trace.path={write_requests(tmp_path)}", f"scenario.windows={windows}"]
    check_one_line(main(["evaluate", "scenario=huawei_placement", *texts]), parts, capsys)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["policy=first_ft"], ["first_ft", "did you mean first_fit"]),
        (["policy=ols-mmt"], ["ols-mmt", "made for cluster", "best_host_emptier_node"]),
        (["scenario=demo", "policy=first_fit"], ["first_fit", "made for placement", "thr-mmt"]),
        (["scenario.placement.n_hsts=3"], ["n_hsts", "did you mean n_hosts", "protocol"]),
        (["scenario.placement.n_hosts=many"], ["scenario.placement.n_hosts", "many"]),
        (["scenario.placement.protocol=fadin"], ["scenario.placement.protocol=fadin", "fading"]),
        (["scenario.windws=x"], ["windws", "did you mean windows"]),
        (["scenario.memory=ignored"], ["scenario.memory", "kind placement", "n_windows"]),
        (["scenario=small", "scenario.n_windows=3"], ["scenario.n_windows", "kind cluster", "hosts"]),
        (["scenario.rows=[5]"], ["scenario.rows=[5]", "two rows"]),
        (["scenario.rows=[0,999999]"], ["0 to 20000"]),
        (["scenario.rows=[0,10]"], ["n_windows=60", "at most 10", "10 rows"]),
        (["scenario.n_windows=0"], ["n_windows=0", "at least 1"]),
        (["scenario.trace.options.intensty=2"], ["intensty", "did you mean intensity"]),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = any(text.startswith("scenario=") for text in arguments)
    scenario = () if named else ("scenario=demo_placement",)
    check_one_line(main(["evaluate", *scenario, *arguments, f"out={tmp_path / 'out'}"]), parts, capsys)


def test_rows_are_drawn_where_no_agent_was_trained() -> None:
    scenario = build_placement_scenario("huawei_placement", seed=4)
    assert scenario.train_rows == (0, 50_000)
    assert len(set(scenario.windows.tolist())) == 150
    assert scenario.windows.min() >= 50_000
    assert scenario.windows.max() < 71_000
    chosen = build_placement_scenario("huawei_placement", overrides={"rows": [10, 200], "n_windows": 7})
    assert chosen.windows.min() >= 10
    assert chosen.windows.max() < 200


def test_training_rows_outside_of_the_stream_are_refused(tmp_path: Path) -> None:
    overrides = {"trace.path": str(write_requests(tmp_path))}
    scenario = build_placement_scenario("huawei_placement", overrides=overrides)
    with pytest.raises(ConfigError, match=r"scenario.train_rows=\[0,50000\]: .* from 0 to 400"):
        _ = scenario.train_rows
    half = build_placement_scenario("huawei_placement", overrides={**overrides, "train_rows": None})
    assert half.train_rows == (0, 200)
    assert half.windows.min() >= 200 or half.windows.max() < 200


def test_azure_requests_are_played(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "packing.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE vmType (vmTypeId INTEGER, machineId INTEGER, core REAL, memory REAL)")
        file.execute(
            "CREATE TABLE vm (vmId INTEGER, tenantId INTEGER, vmTypeId INTEGER, priority INTEGER, "
            "starttime REAL, endtime REAL)"
        )
        file.executemany("INSERT INTO vmType VALUES (?,?,?,?)", [(0, 1, 0.05, 0.05), (1, 1, 0.4, 0.4)])
        rows = [(i, 0, i % 2, 0, 0.001 * i, None if i % 7 == 0 else 0.001 * i + 0.05) for i in range(60)]
        file.executemany("INSERT INTO vm VALUES (?,?,?,?,?,?)", rows)
    texts = [
        f"scenario.trace.path={path}",
        "scenario.rows=[0,20]",
        "scenario.n_windows=5",
        f"out={tmp_path / 'o'}",
    ]
    assert main(["evaluate", "scenario=huawei_placement", "policy=best_fit", *texts]) == 0
    assert len(pd.read_parquet(tmp_path / "o" / "results.parquet")) == 5


def test_defaults_suit_the_kind_of_scenario() -> None:
    placement = compose_run("benchmark", ["scenario=demo_placement"])
    names = [spec.name for spec in placement.policies]
    assert set(names) <= set(policy_names("placement"))
    assert len(names) >= 7
    assert compose_run("evaluate", ["scenario=demo_placement"]).policies[0].name == "first_fit"
    cluster = compose_run("benchmark", ["scenario=demo"])
    assert [spec.label for spec in cluster.policies] == cluster.scenario["rivals"]
    small = compose_run("benchmark", ["scenario=small"])
    assert tuple(spec.label for spec in small.policies) == DEFAULT_POLICIES["cluster"]
    assert "placement" not in cluster.scenario
    assert "hosts" not in placement.scenario
    assert placement.scenario["placement"]["queue_window"] == 1
    every = compose_run("benchmark", ["scenario=planetlab_cloudsim3"])
    assert every.policies[0].name == "npa"


def test_a_placement_scenario_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(
        "name: mine\nkind: placement\ntrace: {options: {n: 900}}\nn_windows: 3\nplacement: {n_hosts: 2}\n"
    )
    run_ = compose_run("evaluate", [f"scenario={own}", "scenario.placement.node_cores=80"])
    assert run_.scenario["placement"]["n_hosts"] == 2
    assert run_.scenario["placement"]["node_cores"] == 80.0
    assert isinstance(build_placement_scenario(run_.scenario), PlacementScenario)
    own.write_text("name: mine\nkind: placement\nhosts: [{name: a}]\n")
    with pytest.raises(ConfigError, match=r"scenario.hosts: mine is of kind placement"):
        compose_run("evaluate", [f"scenario={own}"])
    with pytest.raises(ConfigError, match="virtgym/Placement-v0"):
        gym.make("virtgym/Cluster-v0", scenario="demo_placement")


def test_policies_by_object_are_checked_for_their_task() -> None:
    with pytest.raises(ConfigError, match="made for cluster"):
        evaluate("demo_placement", make_policy("thr-mmt"))
    with pytest.raises(ConfigError, match="made for placement"):
        evaluate("small", make_policy("best_fit"))
