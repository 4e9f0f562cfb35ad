"""The command line as a user meets it: exit codes, one line per mistake, and an answer at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from virtgym.experiments.cli.commands import COMMANDS, main

HEAVY = ("pandas", "hydra", "numba", "plotly", "ortools", "torch", "matplotlib", "scipy", "pyarrow", "joblib")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def day(tmp_path: Path) -> Path:
    folder = tmp_path / "20110303"
    folder.mkdir()
    for v in range(4):
        (folder / f"host {v}.example. ").write_text("".join(f"{(v + k) % 50}\n" for k in range(288)))
    return folder


@pytest.mark.parametrize("damage", ["truncated", "-1", "101", "abc", "empty", "missing"])
def test_a_bad_trace_is_one_line(day: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, expected = day, [str(day)]
    victim = day / "host 2.example. "
    text = victim.read_text().splitlines()
    if damage == "truncated":
        victim.write_text("\n".join(text[:100]) + "\n")
        expected = ["host 2.example. ", ":100", "288"]
    elif damage == "empty":
        path = day.parent / "nothing"
        path.mkdir()
        expected = [str(path), "empty"]
    elif damage == "missing":
        path = day / "elsewhere"
        expected = [str(path), "no such file or folder"]
    else:
        text[41] = damage
        victim.write_text("\n".join(text) + "\n")
        expected = ["host 2.example. ", ":42", damage, "integer from 0 to 100"]
    out = day.parent / "out"
    for command in (["evaluate", "policy=static"], ["benchmark", "policies=[static]"]):
        code = main([*command, "scenario=planetlab", f"scenario.trace.path={path}", f"out={out}"])
        assert code == 2
        (line,) = lines(capsys)
        for part in expected:
            assert part in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["simulate"],
            [
                "simulate",
                "list, evaluate, benchmark, train, tune, watch, report, forecast, plan, whatif, size",
            ],
        ),
        (["benchmrk"], ["did you mean benchmark"]),
        (["list", "polices"], ["did you mean policies"]),
        (["evaluate", "policy=ols-mtm"], ["ols-mtm", "did you mean ols-mmt"]),
        (
            ["evaluate", "policy=ols-mmt", "policy.safty=1.2"],
            ["policy.safty", "did you mean safety", "window"],
        ),
        (["evaluate", "policy=ols-mmt", "policy.safety=-1"], ["policy.safety", "positive"]),
        (["benchmark", "policies=[static,ols-mmt(safty=1)]"], ["policy.safty", "did you mean safety"]),
        (["evaluate", "scenario.memmory=binding"], ["memmory", "did you mean memory"]),
        (["evaluate", "scenario.memory=bindng"], ["bindng", "ignored, binding"]),
        (["evaluate", "seeeds=[0]"], ["did you mean seeds"]),
        (["evaluate", "scenario=planetlab_cloudsim3", "scenario.quirks.q1=false"], ["q1", "double_moves"]),
        (["evaluate", "out=/proc/virtgym"], ["out=/proc/virtgym"]),
        (["evaluate", "policy=no/such/agent"], ["no/such/agent", "no such folder"]),
        (["report"], ["at least one"]),
        (["report", "no/such/run"], ["no/such/run", "no such folder"]),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str],
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(arguments) == 2
    (line,) = lines(capsys)
    assert line.startswith("virtgym")
    for part in parts:
        assert part in line


def test_an_internal_error_is_told_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from virtgym.experiments.config import compose

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(compose, "compose_run", fail)
    assert main(["evaluate"]) == 1
    text = lines(capsys)
    assert text[-1] == "virtgym evaluate: internal error, please report it: RuntimeError: boom"
    assert text[0].startswith("Traceback")
    assert len(text) < 15


NAMES = (
    *("list", "evaluate", "benchmark", "train", "tune", "report", "forecast", "traces", "watch"),
    *("plan", "whatif", "size", "ha-check", "new", "calibrate", "validate"),
)


@pytest.mark.parametrize("command", NAMES)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"virtgym {command}" in text
    assert "examples:" in text
    assert set(COMMANDS) == set(NAMES)


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("virtgym 0.")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("planetlab_cloudsim3", "loess_robust-mmt", "synthetic", "virtgym/Cluster-v0"):
        assert name in text
    assert main(["list", "policies"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("static ") for line in listed)
    assert all(len(line.split(None, 1)) == 2 for line in listed)  # everything is described
    assert main(["list", "agents"]) == 0


def test_listing_imports_nothing_heavy_and_little_at_all() -> None:
    code = (
        "import sys; from virtgym.experiments.cli import main; main(['list']); "
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)), len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, number = done.stdout.splitlines()[-1].removeprefix("loaded: ").rsplit(" ", 1)
    assert heavy == "[]"
    assert int(number) < 500  # about 360, so it answers at once; a command that runs something loads 900


def test_evaluate_writes_and_shows(day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a b=c"
    arguments = [
        "evaluate",
        "scenario=planetlab",
        f"scenario.trace.path={day}",
        "policy=thr-mmt",
        f"out={out}",
    ]
    assert main([*arguments, "policy.safety=0.9"]) == 0
    text = capsys.readouterr().out
    assert "thr-mmt(safety=0.9)" in text
    assert "energy_kwh" in text
    for name in ("results.parquet", "results.csv", "steps.parquet", "config.yaml", "run.json"):
        assert (out / name).is_file()


def test_benchmark_ends_with_a_table_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    grid = ["scenario=small", "scenario.horizon_s=6000", "policies=[static,dvfs,thr-mmt]", "seeds=[0,1]"]
    assert main(["benchmark", *grid, f"out={out}"]) == 0
    shown = capsys.readouterr()
    assert "[6/6]" in shown.err
    assert "energy kWh" in shown.out
    assert "±" in shown.out
    assert f"report: {out}/report.html" in shown.out
    assert (out / "report.html").stat().st_size > 10_000
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()


def test_default_out_is_named_after_the_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "scenario=small", "scenario.horizon_s=600"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("small-")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_loses_columns_but_no_digits(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from virtgym.experiments.cli import progress
    from virtgym.experiments.run.rows import make_row, rows_frame

    base: dict[str, object] = dict.fromkeys(
        ("scenario", "trace", "config_hash", "virtgym_version", "memory"), "x"
    )
    base |= {"steps": 1, "n_hosts": 1, "n_vms": 1, "finished": True, "wall_s": 1.0}
    numbers = {"energy_kwh": 123456.78, "sla_unserved": 0.0123, "migrations": 1e6, "esv": 1.5, "slav": 0.1}
    rows = [
        make_row({**base, **numbers, "policy": name, "seed": seed, "active_hosts": 300.0 + seed})
        for name in ("loess_robust-mmt", "[bold]x[/]")
        for seed in (0, 1)
    ]
    monkeypatch.setattr(progress, "_console", lambda: Console(width=width))
    progress.print_results(rows_frame(rows))
    text = capsys.readouterr().out
    assert "…" not in text
    assert "123456.78" in text
    assert "[bold]x[/]" in text
    assert ("too narrow" in text) == (width < 200)
