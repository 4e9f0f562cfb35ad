"""Overrides: what people type works, and every mistake is one line that names what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import list_scenarios
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.config.listing import experiment_choice, list_names
from virtgym.experiments.config.overrides import PolicySpec, parse_policy, quote, split_list
from virtgym.experiments.training.compose import compose_training
from virtgym.experiments.training.settings.own import RolloutConfig
from virtgym.policies import POLICIES


@pytest.mark.parametrize("name", sorted(list_scenarios()))
def test_every_scenario_composes(name: str) -> None:
    run = compose_run("evaluate", [f"scenario={name}"])
    assert run.scenario["name"] == name
    assert run.seeds == (0,)


@pytest.mark.parametrize("name", list_names("experiment"))
def test_every_experiment_composes(name: str) -> None:
    agent = experiment_choice(name, "agent")
    if agent is None:
        assert len(compose_run("benchmark", [f"experiment={name}"]).policies) > 5
        return
    run = compose_training([f"experiment={name}", "agent.learning_rate=0.5"])
    assert (run.agent.name, run.agent.learning_rate) == (agent, 0.5)
    with pytest.raises(ConfigError, match=f"trains an agent; use virtgym train experiment={name}$"):
        compose_run("benchmark", [f"experiment={name}"])


def test_settings_of_an_experiment_s_agent_are_checked_as_its_own() -> None:
    run = compose_training(["experiment=demo_agent", "agent.population=3"])
    assert isinstance(run.agent, RolloutConfig)
    assert run.agent.population == 3
    with pytest.raises(ConfigError, match=r"agent\.n_steps: no such key.*allowed are: .*population"):
        compose_training(["experiment=demo_agent", "agent.n_steps=3"])


def test_every_policy_composes() -> None:
    names = tuple(POLICIES)
    run = compose_run("benchmark", [f"policies=[{','.join(names)}]"])
    assert [spec.name for spec in run.policies] == list(names)


@pytest.mark.parametrize(
    "path",
    [
        "plain",
        "/a b/c.d",
        "day=1/x",
        "it's",
        'say "x"',
        "a,b[c]{d}(e)",
        "back\\slash\\",
        "$HOME/$",
        "trailing. ",
        "ä/日",
        "'quoted'",
        "a:b",
    ],
)
def test_paths_of_any_kind_just_work(path: str) -> None:
    run = compose_run("evaluate", [f"scenario.trace.path={path}", f"out={path}"])
    expected = "quoted" if path == "'quoted'" else path
    assert run.scenario["trace"]["path"] == expected
    assert run.config["out"] == expected


def test_policies_with_parameters() -> None:
    run = compose_run("benchmark", ["policies=[ols-mmt(safety=1.3,window=12),'thr-mmt',\"dvfs\"]"])
    assert run.policies[0] == PolicySpec("ols-mmt", {"safety": 1.3, "window": 12})
    assert [spec.label for spec in run.policies] == ["ols-mmt(safety=1.3,window=12)", "thr-mmt", "dvfs"]


def test_a_parameter_at_its_default_is_no_parameter() -> None:
    run = compose_run("evaluate", ["policy=ols-mmt", "policy.horizon_steps=1", "policy.safety=1.1"])
    assert run.policies == (PolicySpec("ols-mmt", {"safety": 1.1}),)


def test_agents_and_classes_are_named_by_path() -> None:
    assert compose_run("evaluate", ["policy=runs/my run/agent"]).policies[0].name == "runs/my run/agent"
    run = compose_run("evaluate", ["policy=my.module.Class", "policy.alpha=2", "policy.on=true"])
    assert run.policies[0] == PolicySpec("my.module.Class", {"alpha": 2, "on": True})


def test_values_reach_the_scenario() -> None:
    run = compose_run(
        "evaluate",
        [
            "scenario=small",
            "scenario.memory=ignored",
            "scenario.hosts.0.count=3",
            "scenario.trace.options.n_vms=7",
            "seeds=[3,4]",
        ],
    )
    assert run.scenario["memory"] == "ignored"
    assert run.scenario["hosts"][0]["count"] == 3
    assert run.scenario["trace"]["options"]["n_vms"] == 7
    assert run.seeds == (3, 4)


def test_a_scenario_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "my scenario=1.yaml"
    own.write_text("name: mine\nhosts: [{name: a, count: 2}]\nvm_types: [{name: b}]\n", encoding="utf-8")
    run = compose_run("evaluate", [f"scenario={own}", "scenario.hosts.0.cores=8"])
    assert run.scenario["name"] == "mine"
    assert run.scenario["hosts"][0]["cores"] == 8
    own.write_text("name: mine\nhosts: [{name: a, cuont: 2}]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cuont.*did you mean count"):
        compose_run("evaluate", [f"scenario={own}"])
    own.write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML"):
        compose_run("evaluate", [f"scenario={own}"])


@pytest.mark.parametrize(
    ("command", "argument", "parts"),
    [
        ("evaluate", "seeeds=[0]", ["seeeds", "did you mean seeds", "scenario, policy"]),
        ("evaluate", "scenario=planetlb", ["planetlb", "did you mean planetlab", "small"]),
        ("evaluate", "scenario.memmory=x", ["memmory", "did you mean memory", "hosts"]),
        ("evaluate", "scenario.trace.pth=x", ["pth", "did you mean path", "format, options"]),
        ("evaluate", "scenario.hosts.0.cuont=1", ["did you mean count"]),
        ("evaluate", "scenario.hosts.x.count=1", ["number of an item"]),
        ("evaluate", "scenario.name.x=1", ["scenario.name", "Cannot convert"]),
        ("evaluate", "scenario.interval_s=abc", ["scenario.interval_s", "abc", "Float"]),
        ("evaluate", "scenario.memory=a b)", ["scenario.memory=a b)", "cannot be read", "quote"]),
        ("evaluate", "experiment=foo", ["no such experiment", "literature"]),
        ("evaluate", "seed=1,2", ["seed=1,2", "seeds=[0,1,2]"]),
        ("evaluate", "seed=x", ["seed", "x", "Integer"]),
        ("evaluate", "seed=-1", ["0 or more"]),
        ("evaluate", "seeds=[]", ["at least one"]),
        ("evaluate", "seeds=[1,1]", ["twice"]),
        ("evaluate", "planetlab", ["key=value"]),
        ("evaluate", "policies=[a]", ["policy=NAME", "benchmark"]),
        ("evaluate", "policy.x=[", ["policy.x", "cannot be read"]),
        ("benchmark", "policies=[]", ["at least one"]),
        ("benchmark", "policies=[static,static]", ["static", "twice"]),
        ("benchmark", "policies=[ols-mmt(1.3)]", ["parameter=value"]),
        ("benchmark", "policies=[ols-mmt(safety=1.3]", ["do not close"]),
        ("benchmark", "workers=0", ["at least 1"]),
    ],
)
def test_mistakes_are_one_clear_line(command: str, argument: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run(command, [argument])
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_the_replica_takes_quirks_and_a_trace_only() -> None:
    run = compose_run("evaluate", ["scenario=planetlab_cloudsim3", "scenario.quirks.double_moves=false"])
    assert run.scenario["quirks"] == {"double_moves": False}
    with pytest.raises(ConfigError, match=r"double_move: .*did you mean double_moves.*stale_power"):
        compose_run("evaluate", ["scenario=planetlab_cloudsim3", "scenario.quirks.double_move=false"])
    with pytest.raises(ConfigError, match=r"scenario.memory: fixed in the replica"):
        compose_run("evaluate", ["scenario=planetlab_cloudsim3", "scenario.memory=binding"])


def test_splitting_and_quoting() -> None:
    assert split_list("[a, b(c=1,d=[2,3]) , 'e,f']") == ["a", "b(c=1,d=[2,3])", "e,f"]
    assert split_list("a,b") == ["a", "b"]
    assert split_list("") == []
    assert quote("null") == "null"
    assert quote("a'b") == "'a\\'b'"
    assert parse_policy("x(a=true,b=text,c=1e-3)") == PolicySpec("x", {"a": True, "b": "text", "c": 0.001})
    assert parse_policy("x()") == PolicySpec("x")
    assert PolicySpec("x", {"b": 1, "a": False}).label == "x(a=false,b=1)"
