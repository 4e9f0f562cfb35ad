"""The agents that ship: they load without PyTorch, play, are small, installed, and made by known commands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.placement import build_placement_scenario
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.config.overrides import PolicySpec
from virtgym.experiments.run.cell import evaluate, make_cell
from virtgym.experiments.run.rollout import make_env, rollout
from virtgym.experiments.suite.tasks import load_suite
from virtgym.experiments.training.compose import compose_training
from virtgym.policies import make_policy
from virtgym.policies.learned.safety import NEVER
from virtgym.policies.learned.shipped_agents import DEMO, SHIPPED, ShippedPolicy, shipped_folder
from virtgym.policies.learned.shipped_agents import SUITE as SUITE_AGENT
from virtgym.policies.learned.storage import load_agent

SUITE = load_suite("virtgym-1")
TASKS = [task.scenario for task in SUITE.tasks if task.kind == "cluster"]


def test_it_is_what_the_committed_command_trains() -> None:
    run = compose_training(["experiment=demo_agent"])
    training = load_agent(shipped_folder(DEMO)).training
    assert training["agent"] == run.config["agent"]
    for key in ("seed", "total_timesteps", "reward", "num_envs"):
        assert training[key] == run.config[key]
    assert training["train_rows"] == run.scenario["train_rows"]
    assert training["validation_windows"] == run.scenario["n_windows"]


def test_the_agent_of_the_suite_is_what_the_committed_command_trains() -> None:
    agent = load_agent(shipped_folder(SUITE_AGENT))
    run = compose_training(["experiment=suite_agent"])
    made, asked = agent.training, run.config
    words = {"description": ""}  # no setting
    assert {**made["agent"], **words} == {**asked["agent"], **words}
    for key in ("seed", "total_timesteps", "num_envs"):
        assert made[key] == asked[key], key
    assert [one["name"] for one in agent.training["scenarios"]] == TASKS
    assert {one.rule for one in agent.fallbacks} <= set(run.config["fallback"])
    assert {one.margin for one in agent.fallbacks} <= {*run.config["margins"], NEVER}
    assert "suite_agent" in SUITE.cluster.policies


@pytest.mark.parametrize("task", TASKS)
def test_the_agent_of_the_suite_plays_legally_and_alike(task: str) -> None:
    """Every action that it chooses is offered; two runs end with the same cost to the bit."""
    scenario = build_scenario(task, seed=3001)
    made = [make_cell(scenario, "suite_agent").made for _ in range(2)]
    costs = []
    for policy in made:
        env = make_env(scenario, policy)
        run = rollout(env, policy, 3001, heat=False, max_intervals=10)  # type: ignore[arg-type]
        illegal = [value for name, value in run.metrics.items() if "illegal" in name or "refused" in name]
        assert not any(illegal)
        costs.append(run.metrics["cost"])
    assert costs[0] == costs[1]


def test_it_was_not_trained_on_the_streams_that_it_is_shown_on() -> None:
    """Not one run of 200 requests is common to its stream and to those of seeds 0 to 4."""

    def runs(scenario: object, seed: int) -> set[bytes]:
        trace = build_placement_scenario(scenario, seed=seed).trace  # type: ignore[arg-type]
        columns = np.stack([trace.cores, trace.memory_gib, trace.lifetime_s], axis=1)
        return {columns[i : i + 200].tobytes() for i in range(len(columns) - 200)}

    own = runs(compose_training(["experiment=demo_agent"]).scenario, 0)
    for seed in range(5):
        assert not own & runs("demo_placement", seed)


@pytest.mark.parametrize("agent", SHIPPED)
def test_it_is_small_and_installed(agent: str, repo_dir: Path) -> None:
    files = {path.resolve(): path.stat().st_size for path in shipped_folder(agent).iterdir()}
    assert {path.name for path in files} == {"agent.json", "weights.npz"}
    assert sum(files.values()) < 200_000
    with open(repo_dir / "pyproject.toml", "rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]["virtgym.policies.learned"]
    folder = (repo_dir / "policies" / "learned").resolve()
    assert {path for pattern in data for path in folder.glob(pattern)} >= set(files)


def test_it_beats_first_fit_on_generated_requests() -> None:
    names = ("first_fit", "demo_agent")
    waits = {name: evaluate("demo_placement", name, seed=7)["total_wait_s"] for name in names}
    assert np.isfinite(waits["demo_agent"]).all()
    assert waits["demo_agent"].median() < waits["first_fit"].median()


def test_it_plays_without_torch_and_reads_nothing_before() -> None:
    code = (
        "import sys; from virtgym.policies import make_policy\n"
        "policy = make_policy('demo_agent')\n"
        "assert 'player' not in vars(policy)\n"
        "from virtgym.experiments.evaluate import evaluate\n"
        "assert evaluate('demo_placement', 'demo_agent', overrides={'n_windows': 2})['finished'].all()\n"
        "assert not {'torch', 'stable_baselines3', 'sb3_contrib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_its_content_is_in_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of another agent of this name are not taken for its own."""
    scenario = build_placement_scenario("demo_placement", overrides={"n_windows": 1})
    before = make_cell(scenario, PolicySpec("demo_agent")).config_hash
    (tmp_path / "agent.json").write_text("{}")
    monkeypatch.setattr("virtgym.policies.learned.shipped_agents.shipped_folder", lambda agent: tmp_path)
    assert make_cell(scenario, PolicySpec("demo_agent")).config_hash != before


def test_all_of_them_are_small() -> None:
    files = [path for agent in SHIPPED for path in shipped_folder(agent).iterdir()]
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_the_agents_are_not_played_for_each_others_tasks() -> None:
    with pytest.raises(ConfigError, match=r"policy.agent=demo: is for placement"):
        make_policy("suite_agent", agent=DEMO)


def test_another_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"policy.agent=dmeo: did you mean demo.*\? allowed: "):
        make_policy("demo_agent", agent="dmeo")
    assert ShippedPolicy().observation == "slots"
