"""Every key of every scenario: a trace replaces the generator, no key is ignored, files read back."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oracles.fuzz.configs import hostile_overrides, leaf_keys
from virtgym.envs.errors import ConfigError, TraceError, VirtgymError
from virtgym.envs.scenarios.build import OversizedWarning
from virtgym.envs.scenarios.kinds import GAMES
from virtgym.envs.scenarios.nodes import default_keys, made, schema_of
from virtgym.envs.scenarios.placement import (
    PlacementScenario,
    PlacementScenarioConfig,
    check_placement_keys,
)
from virtgym.envs.scenarios.scenario import Scenario, list_scenarios
from virtgym.envs.scenarios.schema import (
    WORDS,
    FailuresGroup,
    NumaGroup,
    ScenarioConfig,
    as_meant,
    merge_schema,
)
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.config.overrides import PolicySpec
from virtgym.experiments.config.schema import scenario_keys
from virtgym.experiments.config.yamlio import flat_difference
from virtgym.experiments.run.cell import load_scenario, scenario_hash
from virtgym.experiments.run.fingerprint import config_hash
from virtgym.experiments.training.agents import AGENTS, agent_kind
from virtgym.experiments.training.compose import compose_training, make_run
from virtgym.policies.registry import POLICIES, make_policy, policy_defaults, policy_task

SCENARIOS = sorted(list_scenarios())
TRACED = [name for name in SCENARIOS if name not in ("reassignment", "rescheduling")]
"""Scenarios that a trace may drive; the others read snapshots and instances."""


def kind_of(name: str) -> str:
    return str(compose_run("evaluate", [f"scenario={name}"]).scenario["kind"])


@pytest.fixture
def traces(tmp_path: Path) -> dict[str, Path]:
    """A trace for each kind of scenario: two VMs with sizes, and sixty requests."""
    table = tmp_path / "table.csv"
    rows = [f"{vm},{t},0.2,1,500,256" for vm in ("b", "a") for t in (0, 300)]
    table.write_text("\n".join(["vm,time_s,cpu,vcpus,cpu_mhz,memory_mib", *rows]) + "\n")
    requests = tmp_path / "requests.csv"
    rows = [f"{i},1,2,{10 * i},100" for i in range(60)]
    requests.write_text("\n".join(["vmid,cpu,mem,at,lt", *rows]) + "\n")
    return {"cluster": table, "replica": table, "placement": requests}


@pytest.mark.parametrize("name", TRACED)
def test_a_trace_replaces_the_generator_in_every_scenario(name: str, traces: dict[str, Path]) -> None:
    kind = kind_of(name)
    path = str(traces[kind])
    fewer = {"n_windows": 1, "train_rows": [0, 5], "rows": [0, 30]} if kind == "placement" else {}
    typed = [f"scenario.{key}={json.dumps(value)}" for key, value in fewer.items()]
    run = compose_run("evaluate", [f"scenario={name}", f"scenario.trace.path={path}", *typed])
    built = [
        load_scenario(run.scenario),
        load_scenario(name, overrides={"trace.path": path, **fewer}),
        load_scenario(name, overrides={"trace": {"path": path}, **fewer}),
    ]
    for scenario in built:
        assert scenario.trace.source == path
        assert (scenario.config.trace.format, scenario.config.trace.options) == ("auto", {})
        if isinstance(scenario, Scenario):
            assert sorted(scenario.workload.vm_names) == ["a", "b"]
    assert len({scenario_hash(scenario) for scenario in built}) == 1
    for args in (["scenario.trace.path=/no/such/file"], ["scenario.trace={path: /no/such/file}"]):
        with pytest.raises(TraceError, match=r"^/no/such/file: no such file"):
            load_scenario(compose_run("evaluate", [f"scenario={name}", *args]).scenario)


@pytest.mark.parametrize("name", TRACED)
def test_what_the_user_gave_beside_a_path_is_not_ignored(name: str, traces: dict[str, Path]) -> None:
    path = str(traces[kind_of(name)])
    short = [f"scenario={name}", f"scenario.trace.path={path}"]
    option = "n" if kind_of(name) == "placement" else "n_vms"
    for given in (f"scenario.trace.options.{option}=20000", f"scenario.trace.options={{{option}: 50}}"):
        with pytest.raises(TraceError, match=rf"no option '{option}'"):
            load_scenario(compose_run("evaluate", [*short, given]).scenario)
    with pytest.raises(TraceError, match=rf"no option '{option}'"):
        load_scenario(name, overrides={"trace.path": path, f"trace.options.{option}": 50})
    with pytest.raises(ConfigError, match=r"format=synthetic\) reads no file"):
        load_scenario(compose_run("evaluate", [*short, "scenario.trace.format=synthetic"]).scenario)


def test_the_options_of_a_prepared_experiment_go_with_its_generator(traces: dict[str, Path]) -> None:
    arguments = ["experiment=demo_agent", f"scenario.trace.path={traces['placement']}"]
    assert compose_training(arguments).scenario["trace"]["options"] == {}
    assert compose_training(arguments[:1]).scenario["trace"]["options"] == {"n": 72000, "seed": 1000}


def test_a_reader_s_own_options_and_format_stay(traces: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntrace: {path: null, format: table, options: {sample_s: 150}}\n")
    run = compose_run("evaluate", [f"scenario={file}", f"scenario.trace.path={traces['cluster']}"])
    assert run.scenario["trace"]["options"] == {"sample_s": 150}
    assert run.scenario["trace"]["format"] == "table"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_resolved_scenario_reads_back_from_its_file(name: str, tmp_path: Path) -> None:
    resolved = compose_run("evaluate", [f"scenario={name}"]).scenario
    file = tmp_path / "copy.yaml"
    file.write_text(yaml.safe_dump(resolved))
    again = compose_run("evaluate", [f"scenario={file}"]).scenario
    assert again == resolved
    hashes = {scenario_hash(load_scenario(config)) for config in (name, resolved, again)}
    assert len(hashes) == 1


def test_lists_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    host = {
        "name": "h",
        "power_w": [40, 50.5, 60],
        "virtualization": {"types": ["full", "hardware_assisted"]},
    }
    file.write_text(yaml.safe_dump({"name": "mine", "hosts": [host], "rules": {"must": [{"vms": ["a", 1]}]}}))
    assert compose_run("evaluate", [f"scenario={file}"]).scenario["hosts"][0]["power_w"] == [40, 50.5, 60]
    file.write_text("kind: placement\nrows: [0, 9]\ntrain_rows: [0, 5]\n")
    assert compose_run("evaluate", [f"scenario={file}"]).scenario["train_rows"] == [0, 5]
    file.write_text("hosts: [{name: [a]}]\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*name.*ListConfig|mine.yaml: .*name"):
        compose_run("evaluate", [f"scenario={file}"])


def allowed(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call returns, None if it refuses its arguments, which takes one line."""
    try:
        return call(*args, **kwargs)
    except VirtgymError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return None


def other_values(value: Any) -> list[Any]:
    """Values unlike this one; of an open key those of several types."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1] if abs(value) < 1e300 else [1.0]
    if isinstance(value, str):
        return [f"{value}x"]
    if value and isinstance(value, list):
        return [[*value, value[-1]]]
    return [0.5, "x", [0, 1]]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_key_of_a_scenario_changes_its_hash_or_is_refused(name: str) -> None:
    base = load_scenario(name)
    config = compose_run("evaluate", [f"scenario={name}"]).scenario
    check = {"placement": check_placement, "cluster": check_cluster, "replica": check_cluster}.get(
        config["kind"], check_game
    )
    keys = leaf_keys({key: config[key] for key in scenario_keys(config["kind"])})
    for key in keys:
        if key in (*WORDS, "kind"):  # words for people; another kind is another schema
            continue
        found = []
        for value in other_values(value_at(config, key)):
            changed = allowed(check, config, key, value)
            if changed is not None:
                other: Any = replace(cast(Any, base), config=changed)
                found.append(config_hash(other, PolicySpec(""), {}))
        assert scenario_hash(base) not in found, key


def check_cluster(config: dict[str, Any], key: str, value: Any) -> Any:
    if not of_its_type(re.sub(r"\.\d+", ".0", key), json.dumps(value)):
        return None
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    group: Any = value_at(changed, ".".join(path)) if path else changed
    group[int(last) if isinstance(group, list) else last] = value
    return made(ScenarioConfig, as_meant(changed, config, [key]), "scenario")


def check_game(config: dict[str, Any], key: str, value: Any) -> Any:
    kind = GAMES[config["kind"]]
    changed: Any = merge_schema(kind.schema, config, {key: value})
    kind.check(asdict(changed), [key])
    return changed


@functools.cache
def schema() -> Any:
    one = {"hosts": [{}], "vm_types": [{}], "failures": {"domains": [{}], "outages": [{}]}}
    return OmegaConf.merge(OmegaConf.structured(schema_of(ScenarioConfig)), one)


@functools.cache
def of_its_type(key: str, text: str) -> bool:
    """Whether the schema takes a value; that is the same in all scenarios."""
    try:
        OmegaConf.update(schema(), key, json.loads(text))
    except OmegaConfBaseException:
        return False
    return True


def check_placement(config: dict[str, Any], key: str, value: Any) -> Any:
    changed = merge_schema(PlacementScenarioConfig, config, {key: value})
    changed.placement = asdict(check_placement_keys(changed.placement))
    return changed


OFF = {
    "numa.cpu_overcommit=4": "numa.enabled=true",
    "io={virtio: {exits: 3}}": "io.enabled=true",
    "overhead.para.clock=0.5": "overhead.enabled=true",
    "cpu.co_stop=0.5": "cpu.enabled=true",
    "standby.mode=lockstep": "standby.enabled=true",
    "admission.host_failures=3": "admission.enabled=true",
    "failures.mtbf_h=4": "failures.enabled=true",
    "failures.vm_mtbf_h=4": "failures.enabled=true",
    "failures.outages=[{host: 1}]": "failures.enabled=true",
    "failures.domains=[{hosts: [1]}]": "failures.enabled=true or scenario.standby.enabled=true",
    "recovery.spares=[1]": "failures.enabled=true",
    "memory_tiers.soft=0.7": "memory=multiplexed",
    "memory_overcommit=2": "memory=multiplexed",
    "precopy.energy_j=3": "migration.mode=precopy",
    "carbon.zone=DE": "carbon.path is given",
    "inventory.missing=drop": "inventory.path is given",
    "carbon.source=me": "carbon.path is given or scenario.carbon.g_per_kwh is given "
    "or scenario.carbon.hourly_g_per_kwh is given",
}


@pytest.mark.parametrize("typed", OFF)
def test_a_key_of_what_is_off_is_refused_and_told_how_to_switch_it_on(typed: str, tmp_path: Path) -> None:
    key, _, value = typed.partition("=")
    message = rf"^scenario\.{key}.* is not read unless scenario\.{OFF[typed]}$"
    with pytest.raises(ConfigError, match=message):
        compose_run("evaluate", ["scenario=small", f"scenario.{typed}"])
    tree: Any = yaml.safe_load(value)
    with pytest.raises(ConfigError, match=message):
        load_scenario("small", overrides={key: tree})
    for part in reversed(key.split(".")):
        tree = {part: tree}
    with pytest.raises(ConfigError, match=message):
        load_scenario("small", overrides=tree)
    small = compose_run("evaluate", ["scenario=small"]).scenario
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**{k: small[k] for k in ("hosts", "vm_types", "trace")}, **tree}))
    with pytest.raises(ConfigError, match=message):
        compose_run("evaluate", [f"scenario={file}"])


def test_keys_of_what_the_user_switched_off_go_back_to_the_defaults() -> None:
    run = compose_run("evaluate", ["scenario=planetlab_full", "scenario.numa.enabled=false"])
    assert run.scenario["numa"] == default_keys(NumaGroup)
    off = {"failures.enabled": False, "standby.enabled": False}
    scenario = load_scenario("ha_hot", overrides=off)
    assert isinstance(scenario, Scenario)
    assert asdict(scenario.config.failures) == asdict(FailuresGroup())
    assert scenario.config.recovery.restart == "first_fit"
    other = load_scenario("ha_hot", overrides={"failures.model": "weibull"})
    assert isinstance(other, Scenario)
    assert other.config.failures.mtbf_h == FailuresGroup().mtbf_h
    assert other.config.failures.domains != ()


def value_at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[int(part) if isinstance(tree, list) else part]
    return tree


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_parameter_of_a_policy_changes_the_hash_or_is_refused(name: str) -> None:
    tasks = {"placement": "demo_placement", "rescheduling": "rescheduling"}
    task = tasks.get(policy_task(name), "small")
    base = load_scenario(task)
    defaults = policy_defaults(name)
    plain = config_hash(base, PolicySpec(name), defaults)
    for key, value in defaults.items():
        for other in other_values(value):
            if allowed(make_policy, name, **{key: other}) is not None:
                assert config_hash(base, PolicySpec(name, {key: other}), defaults) != plain, key


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_key_of_an_agent_changes_the_training_or_is_refused(name: str) -> None:
    scenarios = {"placement": "huawei_placement", "cluster": "small", "rescheduling": "rescheduling"}
    scenario = scenarios[agent_kind(name).tasks[0]]
    plain = compose_training([f"agent={name}", f"scenario={scenario}"]).config
    for key, value in plain["agent"].items():
        if key in ("name", "description"):
            continue
        for other in other_values(value):
            agent = {**plain["agent"], key: other}
            changed = allowed(make_run, {**plain, "agent": agent})
            if changed is not None:
                assert flat_difference(plain, changed.config), key


@pytest.mark.parametrize("key", ["n_windows=3", "rows=[0,9]"])
def test_keys_of_drawn_windows_are_refused_beside_a_file_of_windows(key: str) -> None:
    name, _, value = key.partition("=")
    short = ["scenario=demo_placement", "scenario.windows=w.npy"]
    with pytest.raises(ConfigError, match=rf"^scenario.{name}: windows are not drawn"):
        compose_run("evaluate", [*short, f"scenario.{key}"])
    with pytest.raises(ConfigError, match=rf"^scenario.{name}: windows are not drawn"):
        load_scenario("demo_placement", overrides={"windows": "w.npy", name: json.loads(value)})


def test_vms_that_fit_on_no_host_are_refused_or_dropped_in_every_kind(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    sizes = {"ok": "500,512", "big": "500,9000000", "wide": "9e9,512"}
    rows = [f"{vm},{t},0.1,{size}" for vm, size in sizes.items() for t in (0, 300)]
    table.write_text("\n".join(["vm,time_s,cpu,cpu_mhz,memory_mib", *rows]) + "\n")
    requests = tmp_path / "requests.csv"
    lines = [f"{i},{900 if i in (3, 7) else 1},2,{10 * i},100" for i in range(60)]
    requests.write_text("\n".join(["vmid,cpu,mem,at,lt", *lines]) + "\n")
    windows = tmp_path / "windows.csv"
    windows.write_text("0\n3\n8\n")
    cases = (
        (
            "planetlab",
            {"trace.path": str(table), "vm_assignment": "trace"},
            r"2 of 3 VMs .*: big \(.*, wide \(",
        ),
        (
            "planetlab_full",
            {"trace.path": str(table), "vm_assignment": "trace"},
            r"2 of 3 VMs .* largest host is",
        ),
        (
            "demo_placement",
            {"trace.path": str(requests), "windows": str(windows)},
            r"2 of 60 VMs .*: row 3 \(900 cores, 2 GiB\), row 7",
        ),
    )
    for name, overrides, message in cases:
        with pytest.raises(TraceError, match=message + ".*oversized=drop leaves them out$"):
            load_scenario(name, overrides=overrides)
        with pytest.warns(OversizedWarning, match=message + ".*left out$"):
            scenario = load_scenario(name, overrides={**overrides, "trace.oversized": "drop"})
        if isinstance(scenario, Scenario):
            assert scenario.workload.vm_names == ("ok",)
            assert scenario.n_dropped == 2
            assert scenario.simulator().view.n_vms == 1
        else:
            assert isinstance(scenario, PlacementScenario)
            assert (scenario.trace.n_requests, scenario.n_dropped) == (58, 2)
            assert scenario.windows.tolist() == [0, 3, 6]
    with pytest.raises(ConfigError, match=r"^scenario.trace.oversized=x: must be one of refuse, drop$"):
        load_scenario("small", overrides={"trace.oversized": "x"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"trace.options.n_samples": 10**11},
            r"n_vms=50 x n_samples=100000000000: needs about 2.24e\+05 GiB",
        ),
        ({"hosts.0.count": 10**11}, r"count=100000000000: needs about"),
        ({"hosts.0.count": 10**20}, r"hosts.0.count=100000000000000000000: must be below 2\*\*63"),
        ({"horizon_s": 1e15}, r"scenario.horizon_s=1e\+15: 3.33e\+12 intervals of 300 s: needs about"),
        ({"interval_s": 1e-9}, r"8.64e\+13 intervals of 1e-09 s: needs about"),
        ({"interval_s": float("nan")}, r"scenario.interval_s=nan: must be a number"),
        ({"trace.path": "a\0b"}, r"scenario.trace.path='a.x00b': a text may not hold NUL"),
        ({"hosts.0.power_w": 5}, r"power_w=5: must be the name of a table, or a list"),
        ({"hosts.0.power_w": [1, 1e300]}, r"power_w=1e\+300: must be at most 1e\+09 W"),
        ({"hosts.0.curve.busy_w": 1e308}, r"curve\.busy_w=1e\+308: must be at most 1e\+09 W"),
        ({"hosts.0.boot_power_w": 1e308}, r"boot_power_w=1e\+308: must be at most 1e\+09 W"),
        ({"hosts.0.power_w": None}, r"power_w=None: must be the name of a table, or a list"),
        ({"hosts.0.power_w": {}}, r"power_w={}: must be the name of a table, or a list"),
        ({"hosts.0.power_w": [[1, 2]]}, r"power_w=\[\[1, 2\]\]: must be the name of a table, or a list"),
    ],
)
def test_impossible_numbers_are_one_line_before_anything_is_allocated(
    overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_scenario("small", overrides=overrides)
    assert "\n" not in str(caught.value)


def test_hostile_overrides_are_built_or_refused_in_one_line() -> None:
    cases = list(hostile_overrides())
    assert len(cases) > 30_000
    for _, arguments in cases[::1993]:
        run = allowed(compose_run, "evaluate", arguments)
        if run is not None:
            allowed(load_scenario, run.scenario)
