"""Things of one's own, of every kind: registered in code, by a plug-in, or named by a dotted path."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from virtgym.envs import registry
from virtgym.envs.cluster.candidates.plugins import CANDIDATES
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.metrics import METRIC_NAMES
from virtgym.envs.cluster.rewards import TERMS
from virtgym.envs.cluster.tables import COLUMNS
from virtgym.envs.errors import VirtgymError
from virtgym.envs.scenarios.power_curves import POWER_CURVES
from virtgym.envs.traces import TRACE_FORMATS, read_trace
from virtgym.envs.traces.readers import REQUEST_FORMATS, guess_format
from virtgym.experiments.cli.commands import main
from virtgym.experiments.report.sections import SECTIONS
from virtgym.experiments.run.cell import evaluate
from virtgym.experiments.training.agents import AGENTS
from virtgym.policies import POLICIES, make_policy
from virtgym.policies.forecast.forecasters import FORECASTERS
from virtgym.policies.literature.parts import DETECTORS, SELECTORS

OWN = """
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from virtgym.envs.cluster.candidates.plugins import CANDIDATES
from virtgym.envs.cluster.columns import RowColumn
from virtgym.envs.cluster.metrics import METRIC_NAMES, Metric
from virtgym.envs.cluster.rewards import TERMS, RewardTerm
from virtgym.envs.cluster.tables import COLUMNS
from virtgym.envs.scenarios.power_curves import POWER_CURVES, HostPower
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.traces import TRACE_FORMATS, Trace
from virtgym.envs.traces.readers import REQUEST_FORMATS
from virtgym.envs.traces.requests import RequestTrace
from virtgym.experiments.report.sections import SECTIONS, Section
from virtgym.experiments.training.agents import AGENTS, AgentKind
from virtgym.experiments.training.settings.base import AgentConfig
from virtgym.policies import POLICIES, PlanningPolicy
from virtgym.policies.forecast.forecasters import FORECASTERS, Forecaster
from virtgym.policies.literature.parts import DETECTORS, MU, SELECTORS, Detector, Selector

MADE = []


@dataclass
class Lazy(PlanningPolicy):
    level: float = 0.5

    def plan(self, view):
        return Decisions()


@dataclass(frozen=True)
class Halved(Forecaster):
    factor: float = 0.5

    @property
    def samples(self):
        return 1

    def _forecast(self, history, steps, counts, out):
        out[:] = self.factor * history[-1]


@dataclass
class CoinConfig(AgentConfig):
    luck: float = 1.0


def mean_of_three(window, horizon):
    return np.full(3, 0.3)


def read(path, *, scale: float = 1.0) -> Trace:
    util = scale * np.loadtxt(path, ndmin=2)
    vms = util.shape[1]
    names = tuple(f"vm{i}" for i in range(vms))
    return Trace("mine", "mine", str(path), 300.0, util, names, np.zeros(vms), np.full(vms, np.inf))


def sniff(look):
    return look.name.endswith(".mine")


def read_lie(path) -> Trace:
    return 3


def read_one(path) -> RequestTrace:
    one = np.ones(1)
    return RequestTrace("mine", "mine", str(path), one, one, 0 * one, one, np.arange(1))


class Wrong:
    def __init__(self, *args, **params):
        MADE.append(self)


DETECTOR = Detector(0.7, 3, taps=mean_of_three)
SELECTOR = Selector(MU)
TERM = RewardTerm("came", -0.125, "VMs that came", lambda d, c, illegal: d.arrivals)
COLUMN = RowColumn("odd", 3, "number of the host", lambda p, s, b, h: h)
METRIC = Metric("VMs", lambda sim: sim.view.n_vms)
CURVE = HostPower((1.0, 2.0, 4.0))


def drain_nothing(view):
    return None


def section(group):
    figure = go.Figure([go.Bar(x=["a"], y=[1])])
    return Section("Mine", f"<p>{len(group.rows)} rows</p>", {"one bar": figure}, ["three words here"])


def broken(group):
    raise ValueError("broken")


AGENT = AgentKind(CoinConfig, "own_things:make")
not_callable = 3


def register():
    POLICIES.register("mine_policy", "of a plug-in", "own_things:Lazy", level=0.25)
    DETECTORS.register("mine_detector", "of a plug-in", "own_things:DETECTOR")
    SELECTORS.register("mine_selector", "of a plug-in", SELECTOR)
    FORECASTERS.register("mine_forecaster", "of a plug-in", Halved)
    AGENTS.register("mine_agent", "of a plug-in", AGENT)
    TRACE_FORMATS.register("mine_trace", "of a plug-in", "own_things:read")
    REQUEST_FORMATS.register("mine_requests", "of a plug-in", "own_things:read_one")
    TERMS.register("mine_reward", "of a plug-in", "own_things:TERM")
    CANDIDATES.register("mine_candidate", "of a plug-in", "own_things:drain_nothing")
    COLUMNS.register("hosts/mine_column", "of a plug-in", "own_things:COLUMN")
    METRIC_NAMES.register("mine_metric", "of a plug-in", "own_things:METRIC")
    POWER_CURVES.register("mine_power", "of a plug-in", "own_things:CURVE")
    SECTIONS.register("mine_section", "of a plug-in", "own_things:section")
"""

KINDS: dict[str, tuple[registry.Registry, str, str, str]] = {
    "policy": (POLICIES, "policies", "Lazy", "level=0.25"),
    "detector": (DETECTORS, "detectors", "DETECTOR", "safety=0.7"),
    "selector": (SELECTORS, "selectors", "SELECTOR", ""),
    "forecaster": (FORECASTERS, "forecasters", "Halved", "factor=0.5"),
    "agent": (AGENTS, "agents", "AGENT", "luck=1.0"),
    "trace": (TRACE_FORMATS, "traces", "read", "scale=1.0"),
    "requests": (REQUEST_FORMATS, "traces", "read_one", ""),
    "reward": (TERMS, "rewards", "TERM", "weight=-0.125"),
    "candidate": (CANDIDATES, "candidates", "drain_nothing", ""),
    "column": (COLUMNS, "columns", "COLUMN", "low=0.0, high=3"),
    "metric": (METRIC_NAMES, "metrics", "METRIC", ""),
    "power": (POWER_CURVES, "power", "CURVE", "idle_w=1.0, peak_w=4.0"),
    "section": (SECTIONS, "sections", "section", ""),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_kind_that_ships = pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in ("candidate", "section")]
)
"""What ships of candidates and sections are no entries of the registry."""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of one's own that can be imported; what a test registers is forgotten."""
    for each in registry.REGISTRIES:
        monkeypatch.setattr(each, "_entries", dict(each._entries))
    monkeypatch.setattr(registry, "_loaded", {registry.GROUP})
    path = tmp_path / "own_things.py"
    path.write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    yield path
    sys.modules.pop("own_things", None)


def install(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Pretend that packages with these entry points are installed."""
    points = [metadata.EntryPoint(f"p{i}", value, registry.GROUP) for i, value in enumerate(values)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "_loaded", set())


@every_kind
def test_a_name_is_given_in_code(kind: str) -> None:
    things, _, attribute, _ = KINDS[kind]
    things.register("mine", "my own", f"own_things:{attribute}")
    assert things["mine"] == "my own"
    assert "mine" in list(things)
    import own_things  # type: ignore[import-not-found]

    assert things.find("mine").factory is getattr(own_things, attribute)


@every_kind
def test_a_plug_in_gives_names_and_is_listed(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    things, listed, _, defaults = KINDS[kind]
    install(monkeypatch, "own_things:register")
    name = f"hosts/mine_{kind}" if kind == "column" else f"mine_{kind}"
    assert things.find(name).factory is not None  # an unknown name loads plug-ins
    assert main(["list", listed]) == main(["list", listed, "-v"]) == 0
    lines = [
        line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines() if f"mine_{kind} " in line
    ]
    assert lines[0] == "of a plug-in"
    assert defaults in lines[-1]


@every_kind
@pytest.mark.parametrize("mark", ":.")
def test_a_dotted_path_is_a_name(kind: str, mark: str) -> None:
    things, _, attribute, _ = KINDS[kind]
    assert things.find(f"own_things{mark}{attribute}").factory is not None


@every_kind
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("own_things:Wrong", ["must be a", "own_things"]),
        ("own_things:not_callable", ["must be a", "a int"]),
        ("own_things:nothing", ["nothing"]),
        ("own_thing:nothing", ["no module own_thing", "PYTHONPATH"]),
        ("bad name!", ["allowed: "]),
    ],
)
def test_what_is_not_of_the_kind_is_one_line_and_never_made(kind: str, name: str, parts: list[str]) -> None:
    things = KINDS[kind][0]
    with pytest.raises(VirtgymError) as caught:
        things.find(name)
    text = str(caught.value)
    assert text.startswith(f"{things.kind}={name}: ")
    assert "\n" not in text
    assert all(part in text for part in parts)
    if "own_things" in sys.modules:
        assert sys.modules["own_things"].MADE == []


@every_kind_that_ships
def test_what_ships_keeps_its_name_and_ones_own_can_be_replaced(kind: str) -> None:
    things, _, attribute, _ = KINDS[kind]
    ships = next(iter(things))
    with pytest.raises(VirtgymError, match=f"={ships}: ships with virtgym; choose another name"):
        things.register(ships, "mine", f"own_things:{attribute}")
    for text in ("once", "twice"):
        things.register("mine", text, f"own_things:{attribute}")
    assert things["mine"] == "twice"


@every_kind_that_ships
def test_a_misspelt_name_has_neighbours(kind: str) -> None:
    things = KINDS[kind][0]
    name = next(iter(things))
    with pytest.raises(VirtgymError, match=rf"={name}x: did you mean .*{name}.*\? allowed: "):
        things.find(f"{name}x")


def test_a_detector_of_a_plug_in_goes_with_every_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "own_things:register")
    policy: Any = make_policy("mine_detector-mc", safety=0.9)
    assert (policy.detector, policy.selector) == ("mine_detector", "mc")
    assert len([name for name in POLICIES if "-" in name]) == len(DETECTORS) * len(SELECTORS) == 35


def test_a_plug_in_that_fails_is_told_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "no_such_module:register", "own_things:Nothing", "own_things:register")
    with pytest.warns(registry.PluginWarning, match="cannot be loaded: ") as told:
        assert "mine_policy" in POLICIES
    assert len(told) == 2


def test_plug_ins_are_not_loaded_for_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "own_things:register")
    make_policy("ols-mmt")
    assert registry._loaded == set()


def write_load(tmp_path: Path) -> Path:
    path = tmp_path / "load.mine"
    path.write_text("0.5 0.2\n0.6 0.3\n" * 12, encoding="utf-8")
    return path


def test_a_reader_of_ones_own_runs_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = write_load(tmp_path)
    command = ["evaluate", "scenario=small", "policy=static", f"scenario.trace.path={load}"]
    chosen = "scenario.trace.format=own_things:read"
    assert main([*command, chosen, "scenario.trace.options.scale=0.5", f"out={tmp_path / 'a'}"]) == 0
    capsys.readouterr()
    assert main([*command, chosen, "scenario.trace.options.scael=0.5", f"out={tmp_path / 'b'}"]) == 2
    assert "no option 'scael' (did you mean scale?)" in capsys.readouterr().err
    assert main([*command, "scenario.trace.format=own_things:read_one", f"out={tmp_path / 'c'}"]) == 2
    assert "must be a function of a path, annotated as -> Trace" in capsys.readouterr().err
    assert main([*command, "scenario.trace.format=own_things:read_lie", f"out={tmp_path / 'c'}"]) == 2
    assert "load.mine: the reader own_things:read_lie must return a Trace, not int" in capsys.readouterr().err
    assert main([*command, "scenario.trace.format=shutil:rmtree", f"out={tmp_path / 'c'}"]) == 2
    assert load.exists()
    install(monkeypatch, "own_things:register")
    assert guess_format(load) == "mine_trace"
    assert main([*command, f"out={tmp_path / 'd'}"]) == 0  # recognised by its ``sniff``


def test_code_of_ones_own_that_was_edited_makes_other_rows(tmp_path: Path, own: Path) -> None:
    load = str(write_load(tmp_path))
    settings = {"trace.path": load, "trace.format": "own_things:read", "trace.options.scale": 1.0}
    code = (
        "from virtgym.experiments.evaluate import evaluate\n"
        f"row = evaluate('small', 'ols-mmt(detector=own_things:DETECTOR)', overrides={settings!r}).iloc[0]\n"
        "print(row['config_hash'], row['energy_kwh'])"
    )
    hashes = []
    for old, new in (("", ""), ("np.full(3, 0.3)", "np.full(3, 0.25)"), ("scale * np", "0.5 * scale * np")):
        own.write_text(own.read_text().replace(old, new) if old else own.read_text(), encoding="utf-8")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        hashes.append(run.stdout.split())
    assert len({found for found, _ in hashes}) == 3
    assert hashes[1][1] != hashes[2][1]  # the old trace was not kept


def test_dotted_paths_play() -> None:
    rows = evaluate("small", "own_things:Lazy(level=0.1)", overrides={"horizon_s": 3000})
    assert rows["policy"].iloc[0] == "own_things:Lazy(level=0.1)"
    rows = evaluate("small", "dpm(forecaster=own_things:Halved)", overrides={"horizon_s": 3000})
    assert bool(rows["finished"].iloc[0])
    with pytest.raises(VirtgymError, match=r"policy\.forecaster=own_things:Wrong: must be a class"):
        make_policy("dpm", forecaster="own_things:Wrong")
    with pytest.raises(VirtgymError, match="needs a path"):
        read_trace(None, "own_things:read")


def test_metrics_curves_and_sections_by_dotted_path(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["benchmark", "scenario=small", "policies=[static]", "scenario.horizon_s=3600", f"out={out}"]
    command += [
        "env.metrics=[own_things:METRIC]",
        "scenario.hosts.0.power_w=own_things:CURVE",
        "report=false",
    ]
    assert main(command) == 0
    (cell,) = (out / "cells").glob("*.json")
    begun = cell.stat().st_mtime_ns
    assert main(command) == 0
    assert cell.stat().st_mtime_ns == begun  # a row with a column of one's own is read back
    assert pd.read_parquet(out / "results.parquet")["own_things:METRIC"].tolist() == [50.0]
    assert "- 4.0" in (out / "config.yaml").read_text(encoding="utf-8")
    with pytest.warns(registry.PluginWarning, match="broken is left out: ValueError: broken"):
        assert main(["report", str(out), "sections=[own_things:section,own_things:broken]"]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<p>1 rows</p>" in page
    # Not one of "lines": the page's script switches those by policy.
    assert '<div class="plot " data-figure="own-0-0" role="group" aria-label="one bar">' in page
    assert "three words here" in (out / "report.md").read_text(encoding="utf-8")
    assert main(["report", str(out), "sections=[own_things:Wrong]"]) == 2
    assert main([*command, "env.metrics=[own_things:TERM]"]) == 2
    assert main([*command, "env.metrics=own_things:METRIC"]) == 2
    assert main([*command, "scenario.hosts.0.power_w=own_things:TERM"]) == 2


def test_terms_and_columns_of_a_plug_in_are_in_every_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "own_things:register")
    env = ClusterEnv("small", tables=True, reward={"own_things:TERM": -2.0})
    seen, _ = env.reset(seed=0)
    assert seen["hosts"][:, -1].tolist() == [0, 1, 2, *[3] * 7]  # clipped
    terms = env.step(0)[4]["reward_terms"]
    assert terms["mine_reward"] == terms["own_things:TERM"]
    assert (env.reward_weights["mine_reward"], env.reward_weights["own_things:TERM"]) == (-0.125, -2.0)
