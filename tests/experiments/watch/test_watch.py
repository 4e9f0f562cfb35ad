"""``virtgym watch``: the page holds what happened, a browser replays it, and mistakes are one line."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from oracles.browser import open_page
from virtgym.envs.cluster.candidates.settings import CandidateSettings
from virtgym.envs.scenarios.scenario import build_scenario, load_scenario_config
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.state.cluster_state import DEPARTED, RUNNING
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.evaluate import evaluate
from virtgym.experiments.run.cell import make_cell, run_cell
from virtgym.experiments.run.rollout import make_env
from virtgym.experiments.watch.episode import watch
from virtgym.experiments.watch.page import episode_data, render_episode
from virtgym.experiments.watch.tape import ORDER_KINDS, SHORT, Tape
from virtgym.policies import make_policy

HOURS = "scenario.horizon_s=7200"
TYPES = {"Int16Array": "<i2", "Int32Array": "<i4", "Uint8Array": "u1", "Float32Array": "<f4"}


def unpack(packed: dict[str, Any]) -> NDArray[Any]:
    """What the page's script makes of a packed array."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, TYPES[packed["type"]]).reshape(packed["shape"])


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data-0">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("watch") / "dpm"
    return watch(compose_run("watch", ["scenario=small", HOURS, "policy=dpm", "seed=3", f"out={out}"]))


def test_the_page_holds_what_was_recorded(seen: Any) -> None:
    data, steps = data_of(seen.page), seen.steps
    frames = {name: unpack(packed) for name, packed in data["frames"].items()}
    n = len(steps)
    assert data["n"] == n == 24
    assert frames["vm_host"].shape == (n + 1, 50)
    assert frames["host_cpu"].shape == (n + 1, 10)
    for name, frame in frames.items():
        np.testing.assert_array_equal(frame, seen.tape.frames[name])
    np.testing.assert_allclose(data["series"]["cost"], steps["cost"], rtol=1e-5)
    np.testing.assert_allclose(data["series"]["power_w"], steps["power_w"], rtol=1e-5)
    assert data["series"]["migrations"] == steps["migrations"].tolist()
    terms = [name for name in data["series"] if name.startswith("cost_")]
    np.testing.assert_allclose(
        sum(np.array(data["series"][name]) for name in terms), steps["cost"], rtol=1e-4
    )
    # Who is where agrees with the table of the run, and orders with what came of them.
    states = frames["vm_state"] % 8
    np.testing.assert_array_equal((states == RUNNING)[1:].sum(axis=1), steps["vms_running"])
    orders = unpack(data["orders"])
    moves = orders[(orders[:, 1] == ORDER_KINDS.index("move")) & (orders[:, 4] == 0)]
    assert len(moves) == steps["migrations"].sum() > 0
    for t, _, v, h, _ in moves.tolist():
        arrived = frames["vm_host"][t + 1 :, v] == h
        assert arrived.any() or (states[t + 1 :, v] == DEPARTED).any()
    off = orders[orders[:, 1] == ORDER_KINDS.index("power_off")]
    assert len(off) > 0
    assert (frames["host_power"][-1][off[:, 3]] != ON).any()


def test_results_are_those_of_evaluate(seen: Any) -> None:
    plain = evaluate("small", "dpm", 3, overrides={"horizon_s": 7200}).iloc[0]
    for name in ("cost", "energy_kwh", "migrations", "unserved_weighted", "config_hash"):
        assert seen.rows.iloc[0][name] == plain[name]


def test_nothing_but_itself_is_needed(seen: Any) -> None:
    text = seen.page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert len(text) < 400_000
    assert text.count("<script") == 4
    assert "virtgym watch: dpm on small" in text


class Chooser:
    """Plays candidates by values of its own, and tells them."""

    env_options = {"actions": "candidates"}  # noqa: RUF012
    task = "cluster"

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        self.rng = rng

    def predict(
        self, observation: Any, state: Any = None, start: Any = None, best: bool = True, masks: Any = None
    ) -> tuple[Any, Any]:
        self.values = np.where(masks, self.rng.random(len(masks)), -np.inf)[None]
        return int(self.values[0].argmax()), state

    def explain(self) -> tuple[str, Any]:
        return "value", self.values


def recorder(tapes: list[Tape], **options: Any) -> Any:
    """What makes environments, on tape."""

    def make(built: Any, player: Any) -> Any:
        tapes.append(Tape(make_env(built, player, **options), player))
        return tapes[-1]

    return make


def play(policy: Any, scenario: Any, **options: Any) -> tuple[Tape, dict[str, Any]]:
    """An episode on tape, and the data of its page."""
    tapes: list[Tape] = []
    result = run_cell(make_cell(scenario, policy), 0, recorder(tapes, **options))
    return tapes[0], episode_data(tapes[0], result.rows[0], result.steps)


def build(**overrides: Any) -> Any:
    """The small scenario, changed."""
    return build_scenario(load_scenario_config("small"), overrides={"horizon_s": 7200, **overrides})


def hosts(count: int, cores: int) -> list[dict[str, Any]]:
    size = {"cores": cores, "core_mhz": 3067, "memory_mib": 16384}
    return [{"name": "one", "count": count, "power_w": [50.0, 100.0], **size}]


@pytest.fixture(scope="module")
def scenario() -> Any:
    return build()


def test_candidates_are_told_with_their_values(scenario: Any) -> None:
    _, data = play(Chooser(), scenario, max_decisions_per_interval=3)
    rows, values = unpack(data["offers"]), unpack(data["values"])
    assert data["measure"] == "value"
    assert len(data["slots"]) == CandidateSettings().n
    assert len(rows) == len(values) > 0
    for t in range(data["n"]):
        mine = rows[:, 0] == t
        for choice in np.unique(rows[mine, 1]):
            one = mine & (rows[:, 1] == choice)
            assert rows[one, 6].sum() == 1
            assert values[one].argmax() == rows[one, 6].argmax()
    assert rows[:, 1].max() == 2
    taken = rows[rows[:, 6] == 1]
    orders = unpack(data["orders"])
    for t in range(data["n"]):
        assert taken[taken[:, 0] == t, 5].sum() == (orders[:, 0] == t).sum()


class Unrolled:
    """Moves any VM anywhere, one an interval, and sometimes what is illegal."""

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        self.rng, self.k = rng, 0

    def predict(
        self, observation: Any, state: Any = None, start: Any = None, best: bool = True, masks: Any = None
    ) -> tuple[Any, Any]:
        self.k += 1
        if self.k % 3 == 0:
            return 0, state
        legal = np.flatnonzero(masks)
        return int(self.rng.choice(legal[legal > 0] if self.k % 7 else len(masks))), state


class Knobs:
    """Sets the knobs of the default policy at random."""

    env_options = {"actions": "knobs"}  # noqa: RUF012

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        self.rng = rng

    def predict(self, observation: Any, state: Any = None, *others: Any, **more: Any) -> tuple[Any, Any]:
        return self.rng.uniform(-1, 1, 2).astype(np.float32), state


@pytest.mark.parametrize("policy", [Unrolled, Knobs])
def test_orders_of_other_forms_of_actions_are_noted(scenario: Any, policy: Any) -> None:
    made = policy()
    if policy is Knobs:
        made.predict = lambda *a, **k: (np.zeros(made.n, np.float32), None)
        made.n = len(make_env(scenario, made).action_space.sample())
    tape, data = play(made, scenario)
    orders = unpack(data["orders"])
    moves = orders[(orders[:, 1] == ORDER_KINDS.index("move")) & (orders[:, 4] == 0)]
    assert len(moves) == sum(data["series"]["migrations"])
    assert data["measure"] == ""
    if policy is Unrolled:
        assert len(moves) > 0
        assert (orders[:, 4] > 0).any() or tape.cluster.place[2] == 0


def test_refused_orders_say_why(scenario: Any) -> None:
    class Stubborn(Unrolled):
        def predict(self, *given: Any, **more: Any) -> tuple[Any, Any]:
            return Decisions(
                move_vm=np.array([3], dtype=np.int32), move_host=np.array([77], dtype=np.int32)
            ), None

    _, data = play(Stubborn(), scenario)
    orders = unpack(data["orders"])
    assert {data["reasons"][code] for code in orders[:, 4]} == {"no such VM or host"}


def test_hosts_short_of_cpu_are_flagged() -> None:
    tapes: list[Tape] = []
    crowded = build(memory="ignored", horizon_s=43200, **{"trace.options.load": 3.0})
    result = run_cell(make_cell(crowded, "thr-mmt(safety=1.0)"), 0, recorder(tapes))
    short = (tapes[0].frames["host_flags"] & SHORT) != 0
    np.testing.assert_array_equal(short[1:].any(axis=1), result.steps["saturated_hosts"] > 0)
    assert short.any()


def test_a_search_tells_what_candidates_are_worth() -> None:
    policy = make_policy("rollout_search", horizon=2, choices=2)
    _, data = play(policy, build(horizon_s=1500))
    rows, values = unpack(data["offers"]), unpack(data["values"])
    assert data["measure"] == "value"
    for t in range(data["n"]):
        for choice in np.unique(rows[rows[:, 0] == t, 1]):
            one = (rows[:, 0] == t) & (rows[:, 1] == choice)
            assert values[one & (rows[:, 6] == 1)] == values[one].max()
    plain = evaluate(build(horizon_s=1500), make_policy("rollout_search", horizon=2, choices=2))
    assert sum(data["series"]["cost"]) == pytest.approx(plain["cost"].iloc[0], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["scenario=demo_placement", "policy=first_fit"], ["kind placement", "kind cluster only"]),
        (["scenario=planetlab_cloudsim3", "policy=thr-mmt"], ["kind replica", "kind cluster only"]),
        (["scenario=small", "policies=[dpm]"], ["watch takes policy=NAME"]),
        (["scenario=small", "seeds=[0,1]"], ["watch takes seed=N"]),
        (["scenario=small", "policy=dmp"], ["dmp", "did you mean dpm"]),
        (["scenario=small", "polcy=dpm"], ["did you mean policy"]),
        (["scenario=small", "video=film.avi"], ["film.avi", ".gif or .mp4"]),
        (["scenario=small", "video=/proc/film.gif"], ["/proc/film.gif", "cannot be written"]),
        (
            ["scenario=small", "scenario.trace.options.n_samples=500000"],
            ["too much for a page", "horizon_s="],
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], parts: list[str], capsys: Any, tmp_path: Path) -> None:
    assert main(["watch", *arguments, f"out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("virtgym watch: ")
    for part in parts:
        assert part in line


def test_without_moviepy_an_mp4_names_the_extra(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "moviepy" else find(name, *a)
    )
    video = tmp_path / "film.mp4"
    assert main(["watch", "scenario=small", f"video={video}", f"out={tmp_path / 'out'}"]) == 2
    assert "virtgym[video]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_page_and_video(capsys: Any, tmp_path: Path) -> None:
    arguments = ["scenario=small", "scenario.horizon_s=1500", "policy=dpm"]
    out, video = tmp_path / "out", tmp_path / "films" / "film.gif"
    assert main(["watch", *arguments, f"out={out}", f"video={video}"]) == 0
    said = capsys.readouterr()
    assert f"page: {out / 'episode.html'}" in said.out
    assert f"video: {video}" in said.out
    assert said.err.startswith("[1/1] dpm seed 0: cost ")
    with Image.open(video) as film:
        assert (film.size, film.n_frames) == ((1000, 620), 6)  # type: ignore[attr-defined]
    assert main(["watch", *arguments, f"out={out}"]) == 0  # again: the page is written anew


def test_an_mp4_is_written(capsys: Any, tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="needs the extra virtgym[video]")
    video = tmp_path / "film.mp4"
    arguments = ["scenario=small", "scenario.horizon_s=1500", "policy=static", f"out={tmp_path / 'out'}"]
    assert main(["watch", *arguments, f"video={video}"]) == 0
    assert video.read_bytes()[4:8] == b"ftyp"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_replays_it(seen: Any, width: int, tmp_path: Path) -> None:
    before, after, console = open_page(seen.page, width, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert not re.findall(r".*CONSOLE.*(?:Uncaught|Refused|rror).*", console)
    assert int(before["viewport"]) == width
    assert int(before["scrollWidth"]) <= width
    assert after["wide"] <= width
    assert before["hurdles"] == []
    assert int(before["frame"]) == 0
    assert float(before["cost"]) == pytest.approx(seen.steps["cost"].sum(), rel=1e-5)
    assert int(before["hosts"]) == seen.tape.frames["vm_host"][-1].sum()
    assert int(after["frame"]) > 0  # it was stepped


@pytest.mark.browser
@pytest.mark.parametrize("count", [10, 80, 200])
def test_a_browser_shows_candidates_on_clusters_of_any_size(count: int, tmp_path: Path) -> None:
    many = build(horizon_s=1500, hosts=hosts(count, 12), **{"trace.options.n_vms": 5 * count})
    tapes: list[Tape] = []
    result = run_cell(make_cell(many, Chooser()), 0, recorder(tapes))
    page = tmp_path / "page.html"
    page.write_text(render_episode(tapes[0], result.rows[0], result.steps), encoding="utf-8")
    before, after, _ = open_page(page, 1000, tmp_path)
    assert before["errors"] == after["errors"] == ""
    assert after["wide"] <= 1000
    assert after["offers"] > 1
