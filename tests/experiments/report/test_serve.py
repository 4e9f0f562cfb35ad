"""The report of a run that goes on: what is finished is shown, nothing of the run is touched."""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtgym.envs.errors import ConfigError
from virtgym.experiments.cli.benchmark import benchmark
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.report.serve import HOST, LiveReport, make_server, serve


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A benchmark of two policies, one of which is not finished."""
    out = tmp_path / "run"
    grid = ["scenario=small", "scenario.horizon_s=1800", "policies=[static,thr-mmt]", "report=false"]
    benchmark(compose_run("benchmark", [*grid, f"out={out}"]))
    (tmp_path / "kept").mkdir()
    for name in ("results.parquet", "results.csv", "steps.parquet"):
        (out / name).unlink()
    for path in (out / "cells").glob("*thr*"):
        shutil.move(path, tmp_path / "kept" / path.name)
    return out


@pytest.fixture
def address(run: Path, tmp_path: Path) -> Iterator[str]:
    """Where its report is served."""
    server = make_server(LiveReport([run], tmp_path / "scratch"), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://{HOST}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def get(address: str) -> str:
    """What is served."""
    with urllib.request.urlopen(address) as answer:
        return str(answer.read().decode())


def test_cells_are_shown_as_they_are_finished(run: Path, address: str, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    page, stamp = get(f"{address}/"), get(f"{address}/stamp")
    assert ('title="static"' in page, 'title="thr-mmt"' in page) == (True, False)
    assert "connect-src 'self'" in page
    assert get(f"{address}/stamp") == stamp
    assert sorted(run.rglob("*")) == before
    for path in (tmp_path / "kept").iterdir():
        shutil.move(path, run / "cells" / path.name)
    assert get(f"{address}/stamp") != stamp
    page = get(f"{address}/")
    assert 'title="thr-mmt"' in page
    assert "Every host over time" in page
    assert "<option selected>static</option>" in page
    with pytest.raises(urllib.error.HTTPError):
        get(f"{address}/../run.json")


def test_before_the_first_cell_it_says_so(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "cells")
    assert b"Nothing yet" in LiveReport([run], tmp_path / "scratch").page()


def test_what_cannot_be_served_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for port in ("x", "-1", "70000"):
        with pytest.raises(ConfigError, match=f"--serve={port}: must be a port, 0 to 65535"):
            serve([run], port)
    for arguments, told in (
        (["report"], "name at least one run folder"),
        (["report", str(run), "--port=3"], "--port=3: no such option"),
        (["report", str(run), "--serve", "out=x"], "out=x: --serve writes no file"),
    ):
        assert main(arguments) == 2
        assert told in capsys.readouterr().err
