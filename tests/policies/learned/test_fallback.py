"""Fallback of cluster agents: kinds of clusters, the rule to the bit where the agent is not sure, folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.run.cell import make_cell, run_cell
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.architecture import CANDIDATES, Architecture, Layout
from virtgym.policies.learned.fallback import Fallback, choose_sure, nearest, traits_of
from virtgym.policies.learned.safety import NEVER
from virtgym.policies.learned.storage import Agent, Member, load_agent, merge_agents, save_agent


def agent(limit: int = 1, fallbacks: tuple[Fallback, ...] = (), seed: int = 0) -> Agent:
    rng, layout = np.random.default_rng(seed), Layout.current(CANDIDATES)
    net = Architecture("scorer", *layout.sizes, hidden=(8, 8))
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in net.shapes().items()}
    protocol = {"actions": CANDIDATES, "max_decisions_per_interval": limit}
    return Agent((Member(net, layout, weights),), "cluster", protocol, fallbacks=fallbacks)


@pytest.mark.parametrize(
    ("scenario", "traits"),
    [
        ("small", ()),
        ("suite/churn", ("sparse",)),
        ("suite/carbon", ("carbon",)),
        ("suite/diurnal", ("slow_boot",)),
        ("suite/memory", ("multiplexed",)),
        ("suite/numa_wide", ("cpu", "numa")),
        ("suite/ha_hot", ("precopy", "failures", "standby")),
    ],
)
def test_a_cluster_is_known_by_what_it_has_and_not_by_its_name(
    scenario: str, traits: tuple[str, ...]
) -> None:
    assert traits_of(build_scenario(scenario)) == traits
    assert traits_of(build_scenario(scenario, overrides={"name": "other"})) == traits


@pytest.mark.parametrize("scenario", ["suite/churn", "suite/carbon", "demo"])
def test_a_kind_is_not_told_by_what_is_still_to_come(scenario: str) -> None:
    """Two loads that are alike at the beginning are of one kind, whoever comes later."""
    day = build_scenario(scenario)
    load = day.workload
    later = load.vm_arrival_s > 0.0
    assert later.any()
    cpu_mhz = load.vm_cpu_mhz * np.where(later, 10.0, 1.0)
    other = replace(
        load,
        vm_cpu_mhz=cpu_mhz,
        vm_arrival_s=np.where(later, 1e9, 0.0),
        vm_departure_s=np.full(later.size, np.inf),
    )
    assert traits_of(replace(day, workload=other)) == traits_of(day)


def test_the_nearest_kind_counts() -> None:
    kinds = [Fallback(t, "dpm", 0.0) for t in ((), ("cpu",), ("cpu", "numa", "io"))]
    assert nearest(kinds, ("cpu", "numa")) is kinds[1]
    assert nearest(kinds, ("failures",)) is kinds[0]
    assert nearest(kinds, ("cpu", "numa", "io")) is kinds[2]


def test_only_what_is_surely_better_than_the_plan_is_played() -> None:
    scores = np.array(
        [[0.0, 3.0, 1.0], [0.0, 1.5, 1.0], [0.0, 1.5, -np.inf], [0.0, 0.5, -np.inf]], np.float32
    )
    mask = np.isfinite(scores)
    assert choose_sure(scores, mask, 2, 1.0).tolist() == [1, 2, 1, 0]
    assert choose_sure(scores, mask, 2, NEVER).tolist() == [2, 2, 0, 0]
    assert choose_sure(scores, mask, 2, 0.0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("rule", ["dpm", "drs", "dvfs"])
@pytest.mark.parametrize("scenario", ["small", "suite/ha_cold", "suite/churn"])
def test_an_agent_that_is_never_sure_is_its_rule(
    scenario: str, rule: str, limit: int, tmp_path: Path
) -> None:
    """Also in who places VMs that come, and where a guarantee is to be kept."""
    day = build_scenario(scenario, seed=3, overrides={"horizon_s": 14_400})
    folder = save_agent(tmp_path / "agent", agent(limit, (Fallback((), rule, NEVER),)))
    costs = [run_cell(make_cell(day, name), 3).rows[0]["cost"] for name in (rule, str(folder))]
    assert costs[0] == costs[1]


def test_it_travels_in_the_folder_and_decides_the_environment(tmp_path: Path) -> None:
    kinds = (Fallback((), "dpm", 0.5), Fallback(("sparse",), "dvfs", 2.0))
    loaded = load_agent(save_agent(tmp_path / "agent", agent(fallbacks=kinds)))
    assert loaded.fallbacks == kinds
    assert "fallbacks" not in json.loads((save_agent(tmp_path / "no", agent()) / "agent.json").read_text())
    policy = LearnedPolicy(loaded)
    assert policy.env_options["candidates"]["plans"] == ["dpm"]
    for _ in range(2):
        policy.begin_on(build_scenario("suite/churn"))
        assert policy.env_options["candidates"]["plans"] == ["dvfs"]
        assert policy.env_options["arrival"] == "first_fit"
        policy.begin_on(build_scenario("small"))
        assert policy.env_options["candidates"]["plans"] == ["dpm"]
        assert policy.env_options["arrival"] == "pabfd"
    with pytest.raises(ConfigError, match="different fallbacks make no ensemble"):
        merge_agents([tmp_path / "agent", tmp_path / "no"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (3, "fallbacks: must be a list"),
        ([3], "fallbacks: must be a list of mappings"),
        ([{"traits": [], "rule": "dpm"}], "fallbacks: must be a list of mappings"),
        (
            [{"traits": ["gpu"], "rule": "dpm", "margin": 0}],
            "fallbacks.traits: 'gpu': must be of",
        ),
        ([{"traits": [3], "rule": "dpm", "margin": 0}], "fallbacks.traits: must be a list of names"),
        ([{"traits": [], "rule": "dpm", "margin": -1}], r"fallbacks.margin=-1: must be a finite number"),
        ([{"traits": [], "rule": "dpm", "margin": True}], r"fallbacks.margin=True: must be a finite number"),
        ([{"traits": [], "rule": "my_pkg:Rule", "margin": 1}], "an agent may use names only"),
    ],
)
def test_a_strangers_folder_is_refused_in_one_line(given: Any, text: str, tmp_path: Path) -> None:
    folder = save_agent(tmp_path / "agent", agent())
    meta = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps({**meta, "fallbacks": given}))
    with pytest.raises(ConfigError, match=text) as error:
        LearnedPolicy(load_agent(folder))
    assert "\n" not in str(error.value)
