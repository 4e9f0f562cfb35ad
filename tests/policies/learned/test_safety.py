"""Safety of placement agents: legal, the same alone and in a batch, and a large request finds its host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.observations import PlacementObserver
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.scenarios.placement import build_placement_scenario
from virtgym.envs.traces import read_requests
from virtgym.envs.traces.requests import RequestTrace
from virtgym.experiments.run.placement_rollout import play_windows
from virtgym.policies.learned.agent import LearnedPolicy, load_policy
from virtgym.policies.learned.architecture import Architecture, Layout
from virtgym.policies.learned.comparisons import play_windows as play_in_kernel
from virtgym.policies.learned.kernel_net import make_kernel_net
from virtgym.policies.learned.safety import SAFE_RULES, SafePlayer, Safety, make_safety_table, safe_action
from virtgym.policies.learned.storage import Agent, Member, merge_agents, save_agent
from virtgym.policies.placement.packing import make_keys
from virtgym.policies.placement.rules import choose_node, rule_number, run_windows

BEST_HOST = "best_host_emptier_node"
NEVER = 1e6


def member(safety: Safety | None, seed: int = 0, spread: float = 1.0) -> Member:
    """A network with random weights, which spreads VMs as likely as not."""
    layout = Layout.current("slots")
    architecture = Architecture("equivariant", *layout.sizes, hidden=(8, 8))
    rng = np.random.default_rng(seed)
    shapes = architecture.shapes()
    weights = {k: rng.normal(0.0, spread, s).astype(np.float32) for k, s in shapes.items()}
    return Member(architecture, layout, weights, safety=safety)


def policy(safety: Safety | None, config: PlacementConfig | None = None, **options: Any) -> LearnedPolicy:
    protocol = {} if config is None else {"node_cores": config.node_cores}
    return LearnedPolicy(Agent((member(safety, **options),), protocol=protocol))


def play(
    agent: Any, trace: RequestTrace, windows: Any, config: PlacementConfig | None = None
) -> tuple[Any, Any]:
    batch = PlacementBatch(len(windows), PlacementSettings(trace, config, observation="slots"))
    played = play_windows(agent, batch, windows, rng=np.random.default_rng(0))
    assert played.n_illegal.sum() == 0
    return played.total_wait_s, played.log["node"]


def requests(n: int = 3000, seed: int = 1, odd: bool = False) -> RequestTrace:
    trace = read_requests(None, "synthetic", n=n, seed=seed)
    if not odd:
        return trace
    rng = np.random.default_rng(seed)  # sizes that are no whole cores, as Azure's
    cores = trace.cores * rng.choice([1.0, 0.5, 1.0 / 3.0], n)
    return replace(trace, cores=cores, memory_gib=trace.memory_gib * rng.choice([1.0, 0.7], n))


@pytest.mark.parametrize("rule", SAFE_RULES)
@pytest.mark.parametrize("odd", [False, True], ids=["whole cores", "fractions"])
def test_an_agent_that_is_never_sure_is_the_rule_to_the_second(rule: str, odd: bool) -> None:
    """The rule is worked out from float32 shares of nodes, and yet its ties are decided by the last bit."""
    trace, windows = requests(odd=odd), np.arange(0, 2400, 150)
    waits, _ = play(policy(Safety(rule, NEVER)), trace, windows)
    np.testing.assert_array_equal(waits, run_windows(trace, windows, rule)[0])


@pytest.mark.parametrize("changes", [{"node_cores": 48.0, "node_memory_gib": 128.0}, {"n_hosts": 3}])
def test_it_is_the_rule_on_other_clusters_too(changes: dict[str, Any]) -> None:
    config = replace(PlacementConfig(), **changes)
    trace, windows = requests(), np.arange(0, 2400, 300)
    agent = policy(Safety(BEST_HOST, NEVER))
    waits, _ = play(agent, trace, windows, config)
    np.testing.assert_array_equal(waits, run_windows(trace, windows, BEST_HOST, config=config)[0])
    again, _ = play(agent, trace, windows)  # and back on its own
    np.testing.assert_array_equal(again, run_windows(trace, windows, BEST_HOST)[0])


def test_alone_in_a_batch_and_in_the_kernel_are_the_same() -> None:
    safety = Safety(BEST_HOST, 0.2, ((64.0, 128.0), (32.0, 64.0)))
    trace, windows = requests(), np.arange(0, 2400, 150)
    waits, nodes = play(policy(safety), trace, windows)
    alone = [play(policy(safety), trace, windows[i : i + 1]) for i in range(len(windows))]
    np.testing.assert_array_equal(waits, np.concatenate([w for w, _ in alone]))
    np.testing.assert_array_equal(nodes, np.concatenate([n for _, n in alone]))
    games = PlacementGames(trace, None, 2)
    observer, costs = PlacementObserver(games, "slots"), np.empty(len(windows))
    m = member(safety)
    net = make_kernel_net(m.architecture, m.weights, games.params.n_nodes)
    table = make_safety_table(safety, games.config)
    ends = windows + games.window_lengths(windows)
    play_in_kernel(games.kernel_params, games.kernel_state, observer.handle, net, table, windows, ends, costs)
    np.testing.assert_array_equal(waits, costs)
    free, _ = play(policy(None), trace, windows)
    rule, _ = run_windows(trace, windows, BEST_HOST)
    assert (waits != free).any()
    assert (waits != rule).any()


def test_every_choice_is_legal_and_keeps_room() -> None:
    """Against a recount in plain Python, on random states of play."""
    trace, safety = requests(), Safety(BEST_HOST, 0.1, ((64.0, 128.0), (32.0, 64.0)))
    games = PlacementGames(trace)
    table = make_safety_table(safety, games.config)
    rng, keys, differ = np.random.default_rng(5), make_keys(1), 0
    games.begin([0], [0])
    for _ in range(1200):
        p, s = games.params, games.state
        if s.status[0]:
            games.begin([0], [int(rng.integers(2000))])
        mask = games.mask()
        scores = rng.normal(size=len(mask)).astype(np.float32)
        base = choose_node(games.kernel_params, games.kernel_state, 0, rule_number(BEST_HOST), keys, 0)
        got = safe_action(games.kernel_params, games.kernel_state, 0, table, scores, mask)
        row = s.cursor[0]
        allowed = [base]
        for a in np.flatnonzero(mask):
            same = p.double[row] and a // 2 == base // 2
            room = plain_room(p, s, row, int(a), safety.shapes), plain_room(p, s, row, base, safety.shapes)
            kept = all(x[0] >= y[0] and x[1] <= y[1] + 1e-9 for x, y in zip(*room))
            if scores[a] > scores[base] + np.float64(0.1) and kept and not same:
                allowed.append(int(a))
        want = allowed[int(np.argmax([scores[a] - 1e3 * (a == base) * (len(allowed) > 1) for a in allowed]))]
        assert mask[got]
        assert got == want
        differ += got != base
        games.step(int(got))
    assert differ > 100


def plain_room(p: Any, s: Any, row: int, a: int, shapes: Any) -> list[tuple[int, float]]:
    """For each shape, which are all double: hosts that take it, and the lack of the host that lacks least."""
    found = []
    for cores, memory in shapes:
        lacks = []
        for host in range(p.n_nodes // 2):
            lack = 0.0
            for node in (2 * host, 2 * host + 1):
                taken = node == a or (p.double[row] and node == a ^ 1)
                left = s.free_cores[0, node] - p.cores[row] * taken
                left_memory = s.free_memory[0, node] - p.memory[row] * taken
                lack += max(0.0, 1.0 - left / (cores / 2), 1.0 - left_memory / (memory / 2))
            lacks.append(lack)
        found.append((sum(lack == 0.0 for lack in lacks), min(lacks)))
    return found


# -- worked by hand ------------------------------------------------------------------------------------------


def waiting_for_64_cores() -> tuple[RequestTrace, PlacementConfig]:
    """Two hosts; eight small VMs that stay a day, then one for 64 cores, and one that waits behind it.

    64 cores and 128 GiB are 32 cores and 64 GiB of both nodes of a host, which has 40 cores and 90 GiB a
    node. The rule puts the small VMs, of 5 cores, on one host, 20 cores a node; the large one goes at once on
    the other. Were four of the small ones on each host, 10 cores of a node were taken there, 2 too many:
    it would wait until they leave, a day.
    """
    cores = np.array([5.0] * 8 + [64.0, 1.0])
    memory = np.array([5.0] * 8 + [128.0, 1.0])
    arrival = np.arange(10.0)
    life = np.array([86_400.0] * 8 + [10.0, 10.0])
    trace = RequestTrace("toy", "toy", "made by hand", cores, memory, arrival, life, np.arange(10))
    return trace, PlacementConfig(n_hosts=2, extra_requests=10)


class Spreading(LearnedPolicy):
    """Scores by free cores: an agent that spreads."""

    def scores(self, parts: Any, mask: Any) -> Any:
        seen = self._layout(parts[-1])
        rows = parts[0].reshape(len(mask), mask.shape[1], -1)
        free = rows[:, :, seen.rows.index("free_cores")]
        return np.where(mask, free + free.reshape(len(mask), -1, 2).sum(2).repeat(2, 1), -np.inf)


@pytest.mark.parametrize(
    ("safety", "total"),
    [
        (None, None),
        (Safety(BEST_HOST, 0.0, ()), None),
        (Safety(BEST_HOST, 0.0, ((64.0, 128.0),)), 0.0),
        (Safety(BEST_HOST, NEVER, ()), 0.0),
    ],
    ids=["no safety", "no shapes", "room for 64 cores", "never sure"],
)
def test_a_request_for_64_cores_finds_the_host_that_was_kept_clear(
    safety: Safety | None, total: float | None
) -> None:
    trace, config = waiting_for_64_cores()
    agent = Spreading(Agent((member(safety),)))
    waits, nodes = play(agent, trace, np.array([0]), config)
    if total == 0.0:
        assert waits[0] == 0.0  # so at most one small VM is on a node of the other host
        assert np.bincount(nodes[:8], minlength=4)[2:].max() <= 1
    else:
        assert waits[0] > 2 * 80_000.0  # the large one and the one behind it
        assert set(nodes[:8] // 2) == {0, 1}


def test_the_emptiest_host_is_kept_where_none_is_empty() -> None:
    """Of three hosts the last lacks least for 64 cores; the agent may choose between the others."""
    config = PlacementConfig(n_hosts=3)
    trace = RequestTrace(
        "toy", "toy", "made by hand", np.array([2.0]), np.array([2.0]), np.zeros(1), np.ones(1), np.arange(1)
    )
    games = PlacementGames(trace, config)
    games.begin([0], [0])
    games.state.free_cores[0] = [4, 4, 10, 10, 20, 20]
    table = make_safety_table(Safety(BEST_HOST, 0.0), config)
    handles = games.kernel_params, games.kernel_state

    def chosen(*scores: float) -> int:
        return int(safe_action(*handles, 0, table, np.array(scores, np.float32), games.mask()))

    assert chosen(0, 0, 0, 0, 0, 0) == 0  # the rule's
    assert chosen(0, 0, 0, 1, 0, 0) == 3
    assert chosen(0, 0, 1, 0, 9, 9) == 2  # the last host scores best, and would lack more then
    assert chosen(0, 0, 0, 0, 9, 9) == 0


# -- folders -------------------------------------------------------------------------------------------------


def test_a_safety_travels_in_the_folder(tmp_path: Path) -> None:
    safety = Safety("first_host_emptier_node", 0.25, ((64.0, 128.0), (48.0, 96.0)))
    save_agent(tmp_path, Agent((member(safety),)))
    loaded = load_policy(tmp_path)
    assert loaded.agent.safety == safety
    trace, windows = requests(), np.arange(0, 2000, 400)
    for got, want in zip(play(loaded, trace, windows), play(policy(safety), trace, windows)):
        np.testing.assert_array_equal(got, want)
    save_agent(tmp_path, Agent((member(None),)))
    assert "safety" not in (tmp_path / "agent.json").read_text()
    assert load_policy(tmp_path).agent.safety is None


@pytest.mark.parametrize(
    ("safety", "text"),
    [
        ("best_fit", "safety: must be a mapping"),
        ({"rule": "best_fit", "margin": 0.0}, "safety: must be a mapping"),
        ({"rule": "random", "margin": 0.0, "shapes": []}, "safety.rule=random: must be one of first_fit"),
        ({"rule": "best_fit", "margin": -1.0, "shapes": []}, "safety.margin=-1.0"),
        ({"rule": "best_fit", "margin": "1", "shapes": []}, "safety.margin=1"),
        ({"rule": "best_fit", "margin": float("nan"), "shapes": []}, "safety.margin=nan"),
        ({"rule": "best_fit", "margin": 0.0, "shapes": [[64]]}, "safety.shapes: .64.: must be cores and GiB"),
        ({"rule": "best_fit", "margin": 0.0, "shapes": [[64, 0]]}, "safety.shapes"),
        ({"rule": "best_fit", "margin": 0.0, "shapes": [["a", 1]]}, "safety.shapes"),
        ({"rule": "best_fit", "margin": 0.0, "shapes": [64, 128]}, "safety.shapes: must be a list"),
        ({"rule": "best_fit", "margin": 0.0, "shapes": [[1, 1]] * 101}, "at most 100"),
    ],
)
def test_a_damaged_safety_is_one_line(safety: Any, text: str, tmp_path: Path) -> None:
    save_agent(tmp_path, Agent((member(Safety()),)))
    path = tmp_path / "agent.json"
    meta = json.loads(path.read_text())
    meta["members"][0]["safety"] = safety
    path.write_text(json.dumps(meta))
    with pytest.raises(ConfigError, match=text) as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_ensemble_is_as_cautious_as_its_most_cautious_member(tmp_path: Path) -> None:
    for i, margin in enumerate((0.1, 0.4)):
        save_agent(tmp_path / str(i), Agent((member(Safety(BEST_HOST, margin), seed=i),)))
    save_agent(tmp_path / "none", Agent((member(None),)))
    merged = merge_agents([tmp_path / "0", tmp_path / "1"])
    assert merged.safety == Safety(BEST_HOST, 0.4)
    play(LearnedPolicy(merged), requests(), np.arange(3))
    with pytest.raises(ConfigError, match="safety must have the same rule and shapes"):
        merge_agents([tmp_path / "0", tmp_path / "none"])


def test_games_with_other_actions_are_refused() -> None:
    for config in (PlacementConfig(allow_reject=True), PlacementConfig(queue_window=3)):
        with pytest.raises(ConfigError, match="safety: chooses nodes"):
            SafePlayer(Safety(), config)


def test_the_safety_of_a_scenario_reads_its_nodes() -> None:
    """Cores promised twice: shares are of what a node gives, not of what it has."""
    overrides = {"placement.cpu_overcommit": 2.0, "n_windows": 4}
    scenario = build_placement_scenario("demo_placement", overrides=overrides)
    waits, _ = play(policy(Safety(BEST_HOST, NEVER)), scenario.trace, scenario.windows, scenario.placement)
    np.testing.assert_array_equal(waits, run_windows(scenario.games(1), scenario.windows, BEST_HOST)[0])
