"""Rollout policy iteration: comparisons against a plain loop over copied games, and the learner itself."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.observations import PlacementObserver
from virtgym.envs.placement.state import PLAYING, STUCK
from virtgym.envs.scenarios.placement import PlacementScenario, build_placement_scenario
from virtgym.envs.traces.requests import RequestTrace
from virtgym.experiments.cli.commands import main
from virtgym.experiments.training.compose import compose_training
from virtgym.policies.learned import comparisons as compared
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.comparisons import (
    NETWORK,
    STUCK_S,
    Comparisons,
    allocate_comparisons,
    check_comparable,
    collect_comparisons,
)
from virtgym.policies.learned.kernel_net import make_kernel_net, net_action
from virtgym.policies.learned.storage import load_agent
from virtgym.policies.placement.packing import make_keys
from virtgym.policies.placement.rules import choose_node, rule_number, run_windows

FIRST_HOST = "first_host_emptier_node"


def stream(n: int, seed: int = 0) -> RequestTrace:
    """Requests that fill a few hosts of 8 cores a node now and then, some of them double."""
    rng = np.random.default_rng(seed)
    return RequestTrace(
        "toy",
        "toy",
        "made by hand",
        rng.choice([1.0, 2.0, 4.0, 6.0], n),
        rng.choice([1.0, 4.0, 8.0, 20.0], n, p=[0.4, 0.3, 0.2, 0.1]),
        np.cumsum(rng.choice([0.0, 5.0, 20.0], n)),
        rng.choice([30.0, 100.0, 400.0], n),
        np.arange(n),
    )


SMALL = PlacementConfig(n_hosts=3, node_cores=8, node_memory_gib=20.0, extra_requests=40)


class Comparing:
    """Two games, their observer, and a network with random weights."""

    def __init__(self, seed: int = 0, n: int = 400) -> None:
        self.games = PlacementGames(stream(n, seed), SMALL, 2)
        self.observer = PlacementObserver(self.games, "slots")
        self.layout = Layout.current("slots")
        self.architecture = Architecture("equivariant", *self.layout.sizes, hidden=(8, 8))
        rng = np.random.default_rng(seed)
        shapes = self.architecture.shapes()
        self.weights = {k: rng.normal(0.0, 0.5, s).astype(np.float32) for k, s in shapes.items()}
        self.net = make_kernel_net(self.architecture, self.weights, self.games.params.n_nodes)

    def collect(
        self, first: int, player: int, base: int, *, n: int = 200, probability: float = 1.0, **options: Any
    ) -> tuple[Comparisons, int]:
        """Comparisons of one window, and the number of decisions."""
        store = allocate_comparisons(n, self.observer)
        rows = np.array([first])
        found, made = collect_comparisons(
            self.games.kernel_params, self.games.kernel_state, self.observer.handle, self.net,
            rows, rows + self.games.window_lengths(rows), np.array(options.get("draws", [0.0, 1.0])),
            np.array([player]), base, options.get("horizon", 10), probability, 0.0, make_keys(1, 0), store,
        )  # fmt: skip
        kept = Comparisons(store.flat[:found], store.mask[:found], store.cost[:found], store.level[:found])
        return kept, int(made)


def play_out(games: PlacementGames, choose: Any) -> float:
    """The total wait once a game, the first of its kind, has been played to its end."""
    step = 0
    while games.state.status[0] == PLAYING:
        games.step(int(choose(games, step)), 0)
        step += 1
    return float(games.state.wait[0]) + (STUCK_S if games.state.status[0] == STUCK else 0.0)


def by_rule(rule: int) -> Any:
    keys = make_keys(1, 0)
    return lambda games, step: choose_node(games.kernel_params, games.kernel_state, 0, rule, keys, 0)


def by_network(case: Comparing, horizon: int) -> Any:
    """What a network plays, for so many decisions; its scores are tested elsewhere."""
    after = by_rule(rule_number(FIRST_HOST))

    def choose(games: PlacementGames, step: int) -> int:
        if step >= horizon:
            return int(after(games, step))
        observer = PlacementObserver(games, "slots")
        observer.observe(0)
        return int(net_action(case.net, observer.buffers.flat[0], observer.buffers.mask[0]))

    return choose


def lowest_alike(games: PlacementGames, mask: NDArray[np.bool_], a: int) -> int:
    """The lowest action that differs from a by nothing but numbers of hosts or nodes."""
    host_load = games.state.n_vms[0].reshape(-1, 2).sum(axis=1)
    if games.params.double[games.state.cursor[0]]:
        return a - a % 2
    if host_load[a // 2]:
        return a
    return min(int(b) for b in np.flatnonzero(mask) if not host_load[b // 2])


def plain_comparisons(case: Comparing, first: int, player: int, choose: Any) -> list[tuple[Any, Any, Any]]:
    """Observation, mask and cost of every state of a window whose actions differ, by pickled copies."""
    games = PlacementGames(stream(case.games.params.n_requests), SMALL, 1)
    games.begin([0], [first])
    rule, found = by_rule(player), []
    while games.state.status[0] == PLAYING:
        mask = games.mask()
        cost = np.zeros(len(mask))
        for a in np.flatnonzero(mask):
            copy = pickle.loads(pickle.dumps(games))
            copy.step(lowest_alike(games, mask, int(a)), 0)
            cost[a] = play_out(copy, choose)
        if np.ptp(cost[mask]) > 0:
            observer = PlacementObserver(games, "slots")
            observer.observe(0)
            found.append((observer.buffers.flat[0].copy(), mask, cost))
        games.step(int(rule(games, 0)), 0)
    return found


@pytest.mark.parametrize("player", [FIRST_HOST, "best_fit"])
@pytest.mark.parametrize("base", [FIRST_HOST, "first_fit", "network"])
def test_costs_are_those_of_playing_on_in_copies(player: str, base: str) -> None:
    """The same states, masks and costs, to the bit, as of a plain loop over copies of games."""
    case = Comparing()
    number = NETWORK if base == "network" else rule_number(base)
    choose = by_network(case, 10) if base == "network" else by_rule(number)
    n = 0
    for first in (0, 60):
        want = plain_comparisons(case, first, rule_number(player), choose)
        got, made = case.collect(first, rule_number(player), number)
        assert made == case.games.window_lengths([first])[0]  # strict FIFO: a decision per request
        assert len(got.flat) == len(want)
        for i, (flat, mask, cost) in enumerate(want):
            np.testing.assert_array_equal(got.flat[i], flat)
            np.testing.assert_array_equal(got.mask[i], mask)
            np.testing.assert_array_equal(got.cost[i], cost)
        n += len(want)
    assert n > 20  # there was something to compare


def test_the_level_is_what_the_base_makes_of_the_whole_window() -> None:
    case = Comparing()
    for rule in ("first_fit", FIRST_HOST):
        got, _ = case.collect(60, rule_number("best_fit"), rule_number(rule))
        waited, _ = run_windows(case.games, [60], rule)
        assert len(got.level) > 0
        np.testing.assert_array_equal(got.level, waited[0])


def test_equal_actions_are_tried_once() -> None:
    """Of the empty hosts and of the two actions of a double VM one is tried: its twin has a lower number."""
    case = Comparing()
    case.games.begin([0], [0])
    mask = case.games.mask()
    twin = compared._twin.py_func
    p, s = case.games.params, case.games.state
    single = np.flatnonzero(~p.double[: p.n_requests])
    double = np.flatnonzero(p.double)
    s.cursor[0] = single[0]
    assert [twin(p, s, mask, a) for a in range(6)] == [-1, 0, 0, 0, 0, 0]
    s.cursor[0] = double[0]
    assert [twin(p, s, mask, a) for a in range(6)] == [-1, 0, -1, 2, -1, 4]
    s.cursor[0] = single[0]
    s.n_vms[0, 1] = 1  # the first host is not empty: its nodes stand for themselves
    assert [twin(p, s, mask, a) for a in range(6)] == [-1, -1, -1, 2, 2, 2]


def test_only_drawn_states_are_compared_and_a_full_store_ends_the_play() -> None:
    case = Comparing()
    rule = rule_number(FIRST_HOST)
    everything, made = case.collect(60, rule, rule)
    none, as_many = case.collect(60, rule, rule, probability=0.0)
    assert (len(none.flat), as_many) == (0, made)
    few, fewer = case.collect(60, rule, rule, n=3)
    assert len(few.flat) == 3
    assert fewer < made
    np.testing.assert_array_equal(few.cost, everything.cost[:3])


@pytest.mark.parametrize(
    "changes",
    [{"protocol": "fading"}, {"protocol": "recovering"}, {"allow_reject": True}, {"queue_window": 3}],
    ids=lambda changes: next(iter(changes)),
)
def test_games_without_waiting_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"needs protocol=huawei_placement.*maskable_ppo") as caught:
        check_comparable(replace(SMALL, **changes))
    assert "\n" not in str(caught.value)


# -- the learner ---------------------------------------------------------------------------------------------

TINY = (
    "agent=rollout_iteration",
    "scenario=demo_placement",
    "agent.states=64",
    "agent.population=2",
    "agent.selection_windows=5",
    "agent.hidden=[8,8]",
    "tensorboard=false",
)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("agent.rules=[first_fit,frist_fit]", ["frist_fit", "did you mean first_fit"]),
        ("agent.rules=[]", ["agent.rules=[]", "at least one rule"]),
        ("agent.base=lowest", ["lowest", "allowed: first_fit"]),
        ("agent.states=0", ["agent.states=0: must be positive"]),
        ("agent.probability=2", ["agent.probability=2", "at most 1"]),
        ("agent.average=1", ["agent.average=1", "below 1"]),
        ("agent.network=mlp", ["equivariant networks with relu only"]),
        ("agent.safety=random", ["safety.rule=random", "must be one of first_fit"]),
        ("agent.certainty=1", ["agent.certainty=1", "below 1"]),
        ("agent.populaton=3", ["no such key", "population"]),
        ("scenario.placement.protocol=fading", ["needs protocol=huawei_placement"]),
        ("scenario.placement.allow_reject=true", ["allow_reject=false"]),
        ("scenario.train_rows=[0,20]", ["scenario.train_rows", "no whole window"]),
    ],
)
def test_wrong_settings_are_one_line(
    override: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert main(["train", *TINY, override, f"out={tmp_path / 'run'}"]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert all(part in line for part in parts), line


def toy_scenario(trace: RequestTrace, config: PlacementConfig) -> PlacementScenario:
    """A scenario whose windows for training and for evaluation are the same rows of a stream."""
    base = build_placement_scenario("demo_placement", overrides={"n_windows": 1})
    windows = np.array([0])
    lengths = PlacementGames(trace, config).window_lengths(windows)
    settings = replace(base.config, train_rows=[0, trace.n_requests])
    return replace(base, config=settings, placement=config, trace=trace, windows=windows, lengths=lengths)


def make_learner(scenario: PlacementScenario, seed: int = 0, total: int = 4000, **changes: Any) -> Any:
    pytest.importorskip("torch")
    from virtgym.experiments.training.placement_task import PlacementTrainTask
    from virtgym.experiments.training.rollouts.learner import make_rollout_learner
    from virtgym.experiments.training.settings.own import RolloutConfig

    small = {"states": 64, "population": 2, "selection_windows": 5, "hidden": [8, 8], "batch_size": 32}
    config = RolloutConfig(name="rollout_iteration", **{**small, "probability": 0.5, **changes})
    config.check()
    return make_rollout_learner(PlacementTrainTask(scenario, seed=seed, total_timesteps=total), config)


def same_arrays(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("more", [{}, {"safety": FIRST_HOST, "resampled": 300}], ids=["free", "safe"])
def test_a_restored_learner_goes_on_to_the_bit(more: dict[str, Any]) -> None:
    """The rules hand over to the network between the chunks, and a snapshot changes who is best."""
    scenario = toy_scenario(stream(1500), SMALL)
    options: dict[str, Any] = {"rule_share": 0.05, "horizon": 5, **more}
    whole, first, second = (make_learner(scenario, **options) for _ in range(3))
    assert whole.by_rules
    for learner in (whole, first):
        learner.learn_chunk(1)
        learner.snapshot()
    arrays, state = first.arrays()
    before = {name: array.copy() for name, array in arrays.items()}
    whole.learn_chunk(1)
    first.learn_chunk(1)
    assert same_arrays(arrays, before)  # what was handed out is a copy
    second.restore(arrays, json.loads(json.dumps(state)))
    assert second.timesteps == state["timesteps"] > 0
    second.learn_chunk(1)
    assert not whole.by_rules
    assert first.snapshot()[0].safety == second.snapshot()[0].safety == whole.snapshot()[0].safety
    for other in (first, second):
        assert same_arrays(whole.arrays()[0], other.arrays()[0])
        assert whole.arrays()[1] == other.arrays()[1]
    assert not same_arrays(whole.arrays()[0], arrays)


def test_what_teaches_is_the_rows_and_what_selects_may_be_more() -> None:
    pytest.importorskip("torch")
    trace = stream(1500)
    scenario = toy_scenario(trace, SMALL)
    whole = make_learner(scenario)
    assert whole.learned is whole.selected
    assert whole.safety is None
    more = make_learner(scenario, resampled=500, safety=FIRST_HOST)
    learned, selected = (w.games.params for w in (more.learned, more.selected))
    assert (learned.n_requests, selected.n_requests) == (1500, 2000)
    np.testing.assert_array_equal(selected.lifetime[:1500], trace.lifetime_s)
    assert more.safety.rule == FIRST_HOST
    assert set(more.safety.shapes) == {(6.0, 1.0), (6.0, 4.0), (6.0, 8.0)}


@pytest.mark.parametrize("worse", [False, True])
def test_the_margin_is_one_that_is_certainly_better_or_none_is_played(worse: bool) -> None:
    """Where the rule spreads, an agent that packs is sure to gain; where it packs, nobody can gain."""
    trace, config = fragments(200)
    options: dict[str, Any] = {"rules": ["worst_fit", "random"], "base": "worst_fit", "average": 0.5}
    options |= {"cost_scale_s": 100.0, "ent_coef": 0.0, "learning_rate": 1e-2, "selection_windows": 40}
    learner = make_learner(
        toy_scenario(trace, config), safety=FIRST_HOST if worse else "worst_fit", least_share=0.9,
        margins=[0.0, 0.1], total=100_000, **options,
    )  # fmt: skip
    for _ in range(8):
        learner.learn_chunk(1)
    (member,) = learner.snapshot()
    assert member.safety == learner.safety
    assert member.safety.shapes == ()
    assert member.safety.margin == (1e6 if worse else member.safety.margin)
    assert worse or member.safety.margin in (0.0, 0.1)


def fragments(n_cycles: int) -> tuple[RequestTrace, PlacementConfig]:
    """Two hosts of 4 cores a node, where a rule that spreads VMs makes a double one wait.

    Each cycle: three VMs for one core that stay 500 s, then a double one that needs a whole host, for 50 s.
    Where the three are not on one host the double one waits for them, else nothing waits. The cycles do not
    overlap.
    """
    cores = np.tile([1.0, 1.0, 1.0, 8.0], n_cycles)
    memory = np.tile([1.0, 1.0, 1.0, 20.0], n_cycles)
    arrival = (1000.0 * np.arange(n_cycles)[:, None] + np.array([0.0, 1.0, 2.0, 3.0])).ravel()
    lifetime = np.tile([500.0, 500.0, 500.0, 50.0], n_cycles)
    ids = np.arange(4 * n_cycles)
    trace = RequestTrace("toy", "toy", "made by hand", cores, memory, arrival, lifetime, ids)
    return trace, PlacementConfig(n_hosts=2, node_cores=4, node_memory_gib=40.0, extra_requests=20)


def test_what_the_rules_do_wrong_is_learned() -> None:
    """On a stream whose best return, 0, is known: it learns from rules that lose some 500 s a cycle."""
    trace, config = fragments(100)
    scenario = toy_scenario(trace, config)
    spread, _ = run_windows(scenario.games(1), scenario.windows, "worst_fit")
    pack, _ = run_windows(scenario.games(1), scenario.windows, FIRST_HOST)
    assert pack[0] == 0.0 < 1000.0 < spread[0]
    learner = make_learner(
        scenario, rules=["worst_fit", "random"], base="worst_fit", ent_coef=0.0, learning_rate=1e-2,
        cost_scale_s=100.0, average=0.5, total=100_000,
    )  # fmt: skip
    for _ in range(8):
        learner.learn_chunk(1)
    learner.snapshot()
    assert learner._select() == 0.0


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "run"
    assert main(["train", *TINY, "total_timesteps=3000", "eval_every=1500", f"out={out}"]) == 0
    assert "first_fit" in capsys.readouterr().out
    progress = pd.read_csv(out / "progress.csv")
    assert progress["timesteps"].iloc[-1] >= 3000
    np.testing.assert_array_equal(progress["best"], progress["objective"].cummin())
    evaluated = tmp_path / "evaluated"
    assert main(["evaluate", "scenario=demo_placement", f"policy={out / 'agent'}", f"out={evaluated}"]) == 0
    rows = pd.read_csv(evaluated / "results.csv")
    assert len(rows) == 60
    assert rows["finished"].all()


def test_an_agent_can_be_where_training_begins(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    first = make_learner(toy_scenario(stream(1500), SMALL))
    first.learn_chunk(1)
    (member,) = first.snapshot()
    second = make_learner(toy_scenario(stream(1500), SMALL), seed=1)
    second.load_member(member)
    for name, array in member.weights.items():
        np.testing.assert_array_equal(second.means[0][name], array)
    other = make_learner(toy_scenario(stream(1500), SMALL), hidden=[16, 16])
    with pytest.raises(ConfigError, match="initial: the agent is"):
        other.load_member(member)


def test_before_anything_is_learned_the_rule_plays_and_gives_way_at_once(tmp_path: Path) -> None:
    """An agent with a safety begins as the rule, which no evaluation by chance may keep in its place."""
    pytest.importorskip("torch")
    scenario = toy_scenario(stream(1500), SMALL)
    learner = make_learner(scenario, safety=FIRST_HOST)
    assert learner.snapshot()[0].safety.margin == 1e6
    out = tmp_path / "run"
    settings = (*TINY, "total_timesteps=3000", "eval_every=3000", f"agent.safety={FIRST_HOST}")
    assert main(["train", *settings, f"out={out}"]) == 0
    agent = load_agent(out / "agent")
    assert agent.training["timesteps"] > 0
    assert agent.safety is not None
    assert agent.safety.rule == FIRST_HOST


def test_the_command_that_made_the_agent_that_ships_composes() -> None:
    run = compose_training(["experiment=demo_agent"])
    assert run.agent.name == "rollout_iteration"
    assert run.config["total_timesteps"] > 0
    options = run.scenario["trace"]["options"]
    streams = {
        build_placement_scenario("demo_placement", seed=seed).trace.arrival_s.tobytes() for seed in range(5)
    }
    own = build_placement_scenario(run.scenario).trace
    assert own.n_requests == options["n"]
    n = own.arrival_s[:20_000].tobytes()
    assert n not in streams
