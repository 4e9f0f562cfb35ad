"""Run folders: damage is found, names mean nothing, and nothing that is not ours is written into."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from oracles.fuzz.results import cell_mutations
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.experiments.cli.benchmark import Outcome, benchmark
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.compose import Run, compose_run
from virtgym.experiments.config.overrides import PolicySpec
from virtgym.experiments.run.cell import evaluate, load_scenario, make_cell
from virtgym.experiments.run.fingerprint import config_hash, content_digest, trace_digest
from virtgym.experiments.run.folder import MARK, RunFolder, cell_name, claim_folder
from virtgym.experiments.run.rows import COLUMNS
from virtgym.policies import registry
from virtgym.policies.learned.agent import load_policy

SHORT = ("scenario=small", "scenario.horizon_s=1800")
TIMES = ("wall_s", "vm_intervals_per_s", "decision_ms_p50", "decision_ms_p99")


def run(*arguments: str) -> Outcome:
    return benchmark(compose_run("benchmark", [*SHORT, *arguments]))


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results.parquet")[[c for c in COLUMNS if c not in TIMES]]


HOSTILE = (
    *(
        "./best",
        ".hidden",
        "..",
        "../up",
        "/abs/path",
        "q/plain",
        "q_plain",
        "Q/plain",
        "a b",
        "",
        " ",
        "~",
        "-",
    ),
    *("übung/κ", "名前", "a\nb", "nul\0", "x" * 5000, "é" * 300, "con", "a:b|c?*", "$HOME", "${oc.env:HOME}"),
    *("first_fit", "first_fit__0", "first_fit.steps", "a.json", "\ud800"),
)


def test_any_text_names_a_cell_of_its_own() -> None:
    names = {cell_name(policy, seed) for policy in HOSTILE for seed in (0, 1, 10**30)}
    assert len(names) == 3 * len(HOSTILE)
    assert len({name.lower() for name in names}) == len(names)  # also where case does not count
    for name in names:
        assert name.isascii()
        assert name[0].isalnum()
        assert len(name) < 110
        assert not set(name) & set('/\\. :\n\0"*?<>|~$')


@pytest.fixture
def hostile_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders of agents with names that mean something elsewhere; each plays, and none is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "virtgym.policies.learned.agent.load_policy", lambda path: registry.make_policy("static")
    )
    names = [
        "./best",
        "./.hidden",
        "q/plain",
        "./q_plain",
        "./Q_plain",
        "./a b",
        "./übung",
        "./x..y",
        "./" + "n" * 200,
    ]
    for name in names:
        Path(name).mkdir(parents=True)
    return names


def test_every_name_appears_in_the_results(hostile_agents: list[str], tmp_path: Path) -> None:
    policies = ["static", *hostile_agents]
    quoted = ",".join(f"'{name}'" for name in policies)
    outcome = run(f"policies=[{quoted}]", f"out={tmp_path / 'run'}")
    assert outcome.failures == ()
    assert list(outcome.rows["policy"]) == policies
    assert list(rows_of(tmp_path / "run")["policy"]) == policies
    assert run(f"policies=[{quoted}]", f"out={tmp_path / 'run'}").skipped == len(policies)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".") and p.is_file()]


def test_a_trained_agent_in_a_folder_is_in_the_results_as_one(
    repo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(repo_dir / "policies" / "learned" / "shipped" / "demo", "best")
    arguments = ["scenario=demo_placement", "scenario.n_windows=2", "policies=[first_fit,./best]", "out=run"]
    rows = benchmark(compose_run("benchmark", arguments)).rows
    assert dict(zip(rows["policy"], rows["kind"])) == {"first_fit": "rule", "./best": "agent"}
    again = benchmark(compose_run("benchmark", arguments))
    assert again.skipped == 2
    described = Path("best/agent.json")
    state = described.stat()
    described.write_text(described.read_text().replace(": ", ":  ", 1))
    os.utime(described, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ConfigError, match="another configuration"):
        benchmark(compose_run("benchmark", arguments))


@pytest.mark.parametrize(
    ("policy", "params", "kind"),
    [
        ("static", {}, "rule"),
        ("ols-mmt", {}, "rule"),
        ("drs", {}, "rule"),
        ("drs_ortools", {}, "solver"),
        ("drs", {"solver": "ortools"}, "solver"),
        ("dpm", {}, "rule"),
        ("dpm_ortools", {}, "solver"),
        ("platform", {}, "rule"),
        ("platform", {"drs": {"solver": "ortools"}}, "solver"),
        ("first_fit", {}, "rule"),
        ("ortools_placement", {}, "solver"),
        ("ortools_placement", {"oracle": True}, "oracle"),
        ("demo_agent", {}, "agent"),
        ("suite_agent", {}, "agent"),
    ],
)
def test_policies_say_what_they_are(policy: str, params: dict[str, Any], kind: str) -> None:
    assert registry.policy_kind(registry.make_policy(policy, **params)) == kind


def test_every_named_policy_has_a_kind(repo_dir: Path) -> None:
    assert {registry.policy_kind(registry.make_policy(name)) for name in registry.POLICIES} <= set(
        registry.KINDS
    )
    agent = load_policy(str(repo_dir / "policies" / "learned" / "shipped" / "demo"))
    assert registry.policy_kind(agent) == "agent"
    with pytest.raises(ConfigError, match="kind='best'; allowed: rule, solver, agent, oracle"):
        registry.policy_kind(type("Own", (), {"kind": "best"})())


# -- damage --------------------------------------------------------------------------------------------------


@functools.cache
def two_cells() -> Run:
    return compose_run("benchmark", [*SHORT, "policies=[static,dvfs]"])


def run_two(out: Path) -> Outcome:
    """Run two cells in a folder; Hydra composes them once for all tests."""
    whole = two_cells()
    return benchmark(replace(whole, config={**whole.config, "out": str(out)}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two cells."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run_two(out)
    return out


@pytest.mark.parametrize("label", [label for label, _ in cell_mutations()])
def test_every_kind_of_damage_to_a_cell_is_repaired(
    label: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    dict(cell_mutations())[label](out)
    capsys.readouterr()
    outcome = run_two(out)
    assert outcome.failures == ()
    assert "damaged, run again: " in capsys.readouterr().err or "gone" in label
    assert outcome.skipped == 1
    pd.testing.assert_frame_equal(rows_of(out), rows_of(finished), check_exact=True)
    assert run_two(out).skipped == 2


def test_a_flipped_bit_anywhere_in_a_cell_is_found(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    info = json.loads((out / "run.json").read_text())
    name = cell_name("dvfs", 0)
    found, tried = 0, 0
    for path in (
        out / "cells" / f"{name}.json",
        out / "cells" / f"{name}.steps.parquet",
        out / "heat" / f"{name}.npz",
    ):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            folder = RunFolder(out, info["scenario_hash"])
            rows = folder.read_cell("dvfs", 0)
            found += rows is None and len(folder.damaged) == 1
            tried += 1
        path.write_bytes(whole)
    assert tried > 150
    assert found == tried
    assert RunFolder(out, info["scenario_hash"]).read_cell("dvfs", 0) is not None


@pytest.mark.parametrize(
    "name", [MARK, "run.json", "config.yaml", "results.parquet", "results.csv", "steps.parquet"]
)
@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "null", "a: &a [*a]", '{"kind": 3, "seeds": [null, "x"], "start": {}}']
)
def test_damaged_tables_and_facts_are_written_again(
    name: str, text: str | None, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / name).unlink()
    if text is not None:
        (out / name).write_text(text)
    assert run_two(out).skipped == 2
    pd.testing.assert_frame_equal(rows_of(out), rows_of(finished), check_exact=True)


def test_a_cell_of_another_scenario_is_left_out_where_the_facts_are_lost(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / MARK).unlink()
    (out / "run.json").write_text("{")
    rows = benchmark(
        compose_run("benchmark", ["scenario=small", "scenario.horizon_s=600", "policies=[npa]", f"out={out}"])
    ).rows
    assert list(rows_of(out)["policy"]) == ["npa"] == list(rows["policy"])


# -- whose a folder is ---------------------------------------------------------------------------------------


def test_a_folder_that_is_not_ours_is_never_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "results.csv", "report.html", "forecast.csv"):
        (tmp_path / name).write_text("mine")
    monkeypatch.chdir(tmp_path)
    short = [*SHORT, "policies=[static]"]
    assert main([*TRAIN, "out=."]) == 2
    capsys.readouterr()
    for command in (["evaluate", *SHORT], ["benchmark", *short], ["forecast", "trace=synthetic"]):
        assert main([*command, "out=."]) == 2
        err = capsys.readouterr().err.strip()
        assert "out=.: holds files that are not virtgym's (config.yaml, forecast.csv, report.html, …)" in err
        assert len(err.splitlines()) == 1
    assert main(["benchmark", *short, "out=run"]) == 0
    assert main(["report", "run", "out=."]) == 2
    assert "report.html" in capsys.readouterr().err
    assert {p.read_text() for p in tmp_path.iterdir() if p.is_file()} == {"mine"}
    assert len(list(tmp_path.iterdir())) == 5


TRAIN = ["train", "agent=ppo", "scenario=demo_placement", "total_timesteps=100"]


@pytest.mark.parametrize("kind", ["run", "train", "forecast"])
def test_another_commands_folder_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {"run": ["evaluate", *SHORT], "train": TRAIN, "forecast": ["forecast", "trace=synthetic"]}
    claim_folder(tmp_path, kind)
    for other, command in commands.items():
        if other != kind:
            assert main([*command, f"out={tmp_path}"]) == 2
            assert "belongs to another command" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [MARK]


def test_a_report_replaces_only_reports(finished: Path, tmp_path: Path) -> None:
    from virtgym.experiments.report import write_report

    page = write_report([finished], tmp_path)
    assert write_report([finished], tmp_path) == page
    (tmp_path / "README.md").write_text("# mine")
    with pytest.raises(ConfigError, match=r"README\.md"):
        write_report([finished], tmp_path / "README.html")
    assert not (tmp_path / "README.html").exists()
    assert (tmp_path / "README.md").read_text() == "# mine"


def _claim(barrier: Any, queue: Any, out: str, identity: str) -> None:
    barrier.wait()
    try:
        queue.put(claim_folder(Path(out), "run", identity) == identity)
    except ConfigError:
        queue.put(False)


def test_of_two_commands_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for trial in range(25):
        barrier, queue = context.Barrier(3), context.Queue()
        out = str(tmp_path / f"run{trial}")
        workers = [context.Process(target=_claim, args=(barrier, queue, out, str(i))) for i in range(3)]
        for worker in workers:
            worker.start()
        got = [queue.get() for _ in workers]
        for worker in workers:
            worker.join()
        assert sorted(got) == [False, False, True]
        assert [p.name for p in Path(out).iterdir()] == [MARK]


def test_default_names_never_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    from virtgym.experiments.run.folder import default_out

    names = {default_out("../../up") for _ in range(50)}
    assert len(names) > 45
    assert {path.parent for path in names} == {Path("runs")}


# -- cells that end badly ------------------------------------------------------------------------------------

OWN = """
import os, signal
from dataclasses import dataclass
from virtgym.envs.sim.decisions import Decisions
from virtgym.policies import PlanningPolicy
from own_settings import LIMIT

@dataclass
class Own(PlanningPolicy):
    how: str = "kill"
    file: str = ""
    def plan(self, view):
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            raise SystemExit(0)
        if self.how == "base":
            raise GeneratorExit("no")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        return Decisions()
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with a policy of one's own, on the path of this process and of those it starts."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_policy.py").write_text(OWN)
    (folder / "own_settings.py").write_text("LIMIT = 1\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "virtgym.experiments.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("how", "workers", "said"),
    [
        ("kill", 2, "its process was ended by the system"),
        ("exit", 1, "SystemExit: 0"),
        ("exit", 2, "SystemExit: 0"),
        ("base", 1, "GeneratorExit: no"),
        ("interrupt", 2, "KeyboardInterrupt"),
    ],
)
def test_a_cell_that_ends_badly_ends_only_itself(
    how: str, workers: int, said: str, own_module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    grid = f"policies=[static,own_policy.Own(how={how}),dvfs,npa]"
    common = ["benchmark", *SHORT, f"out={out}", "report=false"]
    done = cli(*common, grid, f"workers={workers}")
    assert done.returncode == 1, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert sorted(rows_of(out)["policy"]) == ["dvfs", "npa", "static"]
    assert json.loads((out / "run.json").read_text())["finished"] is False
    assert main([*common, "policies=[static,dvfs,npa]"]) == 0
    assert "skipped 3 finished cells of 3" in capsys.readouterr().err


# -- what has changed ----------------------------------------------------------------------------------------


def _hash(own_module: Path, *params: str) -> str:
    code = textwrap.dedent(
        f"""
        from virtgym.experiments.run.cell import load_scenario, make_cell
        print(make_cell(load_scenario("small"), "own_policy.Own(how=rest{"".join(params)})").config_hash)
        """
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_editing_a_policy_of_ones_own_makes_another_run(own_module: Path) -> None:
    hashes = [_hash(own_module), _hash(own_module)]
    for name, text in (("own_policy.py", OWN + "\n# edited\n"), ("own_settings.py", "LIMIT = 2\n")):
        (own_module / name).write_text(text)
        hashes.append(_hash(own_module))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_file_that_a_parameter_names_counts_by_its_content(tmp_path: Path) -> None:
    scenario = load_scenario("small")
    file, folder = tmp_path / "weights.bin", tmp_path / "agent"
    folder.mkdir()
    hashes = []
    for content in (b"a", b"b"):
        file.write_bytes(content)
        (folder / "model.zip").write_bytes(content)
        os.utime(file, ns=(1, 1))
        os.utime(folder / "model.zip", ns=(1, 1))
        for path in (file, folder):
            for params in ({"file": str(path)}, {"nested": {"files": [str(path)]}}):
                hashes.append(config_hash(scenario, PolicySpec("own", params), {}))
    assert len(set(hashes)) == len(hashes)
    copy = tmp_path / "copy.bin"
    shutil.copy(file, copy)
    one, two = (config_hash(scenario, PolicySpec("own", {"file": str(p)}), {}) for p in (file, copy))
    assert one == two
    assert config_hash(scenario, PolicySpec("own", {"file": "missing.bin"}), {}) != one


def test_digests_read_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert content_digest(tmp_path / "pipe") is None
    assert content_digest(Path("/dev/zero")) is None
    assert content_digest(tmp_path / "missing") is None
    (tmp_path / "a").write_bytes(b"1")
    assert content_digest(tmp_path) is not None  # the pipe in it is passed over


def test_a_trace_rewritten_with_its_old_time_stamp_is_read_again(tmp_path: Path) -> None:
    day = tmp_path / "day"
    day.mkdir()

    def write(load: int) -> None:
        for v in range(3):
            (day / f"vm_{v}").write_text(f"{load}\n" * 288)
            os.utime(day / f"vm_{v}", ns=(10**18, 10**18))
        os.utime(day, ns=(10**18, 10**18))

    energy = []
    for load in (10, 90):
        write(load)
        rows = evaluate("planetlab", "static", overrides={"trace.path": str(day), "horizon_s": 3600.0})
        energy.append(float(rows["energy_kwh"].iloc[0]))
    assert energy[0] < energy[1]


def test_every_column_of_a_trace_counts(tmp_path: Path) -> None:
    scenario = load_scenario("small")
    assert isinstance(scenario, Scenario)
    load = scenario.trace
    n = load.util.shape[1]
    changed: list[dict[str, Any]] = [
        {"util": load.util + 0.001},
        {"arrival_s": load.arrival_s + 1.0},
        {"departure_s": load.arrival_s + 5e5},
        {"memory_mib": pd.Series([512.0] * n).to_numpy()},
        {"cpu_mhz": pd.Series([512.0] * n).to_numpy()},
        {"vcpus": pd.Series([2] * n, dtype="int32").to_numpy()},
        {"signals": {"memory_activity": load.util}},
    ]
    digests = {trace_digest(replace(scenario, trace=replace(load, **change))) for change in [{}, *changed]}
    assert len(digests) == len(changed) + 1


def test_an_unfinished_cell_has_no_metrics() -> None:
    from virtgym.envs.sim.metrics import METRICS
    from virtgym.experiments.run.rows import make_row

    row = make_row(
        {"finished": False, "steps": 3, "energy_kwh": 1.0, "total_wait_s": 2.0, "slav": 0.0, "n_vms": 4}
    )
    assert row["steps"] == 3
    assert row["n_vms"] == 4
    assert all(row[name] != row[name] for name in (*METRICS, "total_wait_s", "mean_wait_s"))


def test_agents_that_give_up_have_no_metrics(tmp_path: Path) -> None:
    cell = make_cell(load_scenario("demo_placement", 0, {"n_windows": 2}), _Illegal())
    from virtgym.experiments.run.cell import run_cell

    for row in run_cell(cell, 0).rows:
        assert row["finished"] is False
        assert row["failed_placements"] != row["failed_placements"]


class _Illegal:
    task = "placement"

    def reset(self, games: Any, rng: Any) -> None:
        pass

    def predict(self, observation: Any, state: Any = None, *_: Any, **__: Any) -> tuple[Any, Any]:
        import numpy as np

        return np.full(len(next(iter(observation.values()))), -1), state
