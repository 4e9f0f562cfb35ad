"""Sub-models as groups of a scenario: one switch, every parameter by a dotted key, one line per mistake."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.placement.games import PlacementConfig
from virtgym.envs.scenarios.nodes import default_keys, made, schema_of
from virtgym.envs.scenarios.placement import PlacementScenarioConfig
from virtgym.envs.scenarios.profiles import ProfileGroup, build_profiles
from virtgym.envs.scenarios.scenario import Scenario, build_scenario, load_scenario_config
from virtgym.envs.scenarios.schema import OutageGroup, ScenarioConfig
from virtgym.envs.sim.guests import GUEST_PROFILES
from virtgym.envs.sim.state.build import make_params
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.config.overrides import PolicySpec
from virtgym.experiments.run.fingerprint import config_hash

DOMAIN = {"name": "rack", "hosts": [0, 1]}


def small(**overrides: Any) -> Scenario:
    return build_scenario("small", overrides={"trace.options.n_vms": 8, **overrides})


def flags(scenario: Scenario) -> set[str]:
    p = make_params(scenario.cluster, scenario.workload)._asdict()
    return {name.removeprefix("has_") for name in p if name.startswith("has_") and p[name]}


@pytest.mark.parametrize("kind", [ScenarioConfig, ProfileGroup, PlacementConfig])
def test_a_schema_makes_the_class_that_it_stands_for(kind: Any) -> None:
    again = made(kind, default_keys(kind), "scenario")
    assert again == kind()
    assert default_keys(type(again)) == default_keys(kind)


def test_what_a_scenario_is_made_of_cannot_be_changed() -> None:
    hosts = small(**{"hosts.0.power_w": [1, 2.5], "failures.enabled": True, "recovery.spares": [1]}).cluster
    assert hosts.host_types[0].power_w == (1, 2.5)
    assert hosts.spares == (1,)
    hash((hosts.host_types, hosts.recovery, hosts.power, hosts.migration))


def test_off_by_default() -> None:
    scenario = small()
    assert flags(scenario) == set()
    assert scenario.workload.profiles == (GUEST_PROFILES["default"],)


@pytest.mark.parametrize(
    ("override", "flag"),
    [
        ({"overhead.enabled": True}, "overhead"),
        ({"cpu.enabled": True}, "cpu"),
        ({"numa.enabled": True}, "numa"),
        ({"memory": "multiplexed"}, "tiers"),
        ({"io.enabled": True}, "io"),
        ({"migration.mode": "precopy"}, "precopy"),
        ({"failures.enabled": True}, "failures"),
        ({"standby.enabled": True}, "standby"),
    ],
)
def test_one_key_switches_one_sub_model(override: dict[str, Any], flag: str) -> None:
    assert flags(small(**override)) == {flag}


def test_the_same_keys_on_the_command_line() -> None:
    keys = {
        "overhead.para.state": 900,
        "cpu.co_stop": 0.5,
        "numa.latency_ratio": 1.5,
        "memory_tiers.swap_device": "disk",
        "io.virtio.exits": 3,
        "precopy.max_rounds": 5,
        "power.pue": 1.2,
        "failures.up_shape": 1,
        "recovery.boot_s": 30,
        "standby.max_vms": 2,
        "hosts.0.curve.kind": "linear",
        "hosts.0.curve.peak_w": 100,
        "hosts.0.numa_nodes": 2,
        "profiles.web.cpu.shares": "high",
        "vm_types.0.profile": "web",
    }
    switches = [
        f"scenario.{k}.enabled=true" for k in ("overhead", "cpu", "numa", "io", "failures", "standby")
    ]
    switches += ["scenario.memory=multiplexed", "scenario.migration.mode=precopy"]
    typed = [f"scenario.{k}={v}" for k, v in keys.items()]
    run = compose_run("evaluate", ["scenario=small", *switches, *typed])
    cluster = build_scenario(run.scenario).cluster
    assert cluster.overhead is not None
    assert cluster.overhead.para.state == 900
    assert cluster.cpu is not None
    assert cluster.cpu.co_stop == 0.5
    assert cluster.numa is not None
    assert cluster.numa.latency_ratio == 1.5
    assert cluster.memory_tiers.swap_device == "disk"
    assert cluster.io is not None
    assert cluster.io.virtio.exits == 3
    assert cluster.migration.max_rounds == 5  # type: ignore[union-attr]
    assert cluster.power.pue == 1.2
    assert cluster.failures is not None
    assert cluster.failures.up_shape == 1
    assert cluster.recovery.boot_s == 30
    assert cluster.standby is not None
    assert cluster.standby.max_vms == 2
    assert cluster.host_types[0].curve.kind == "linear"
    assert cluster.host_types[0].table_w == (0.0, 100.0)
    assert cluster.host_types[0].numa_nodes == 2
    web = next(kind for kind in build_scenario(run.scenario).workload.profiles if kind.name == "web")
    assert web.cpu.shares == "high"
    assert web.instructions == "io_bound"  # what was not typed is as it ships


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("numma.enabled=true", ["numma", "did you mean numa"]),
        ("numa.enabed=true", ["numa.enabed", "did you mean enabled", "latency_ratio"]),
        ("overhead.para.stae=1", ["overhead.para.stae", "did you mean state", "steady_tax"]),
        ("io.virtio.exit=1", ["io.virtio.exit", "did you mean exits"]),
        ("precopy.max_round=1", ["did you mean max_rounds"]),
        ("failures.domains=[{name: a, hots: [0]}]", ["hots", "did you mean hosts", "mtbf_h"]),
        ("hosts.0.curve.knd=fan", ["did you mean kind"]),
        ("hosts.0.virtualization.kernl=x", ["did you mean kernel"]),
        ("migration.mod=precopy", ["did you mean mode", "bandwidth_mbps"]),
        ("carbon.pat=x", ["did you mean path", "zone"]),
        ("numa.enabled=maybe", ["numa.enabled", "maybe"]),
    ],
)
def test_a_misspelt_key_names_its_neighbours(key: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run("evaluate", [f"scenario.{key}"])
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"numa": {"enabed": True}}, ["scenario.numa.enabed", "did you mean enabled"]),
        ({"failures": {"domains": [{"hots": [0]}]}}, ["hots", "did you mean hosts"]),
        ({"migration.mode": "fast"}, ["scenario.migration.mode=fast", "fixed, precopy"]),
        ({"overhead.full.state": -1}, ["scenario.overhead", "state=-1"]),
        ({"numa.scheduling": "smart"}, ["scenario.numa", "scheduling=smart", "aware, blind"]),
        ({"memory_tiers.soft": 2}, ["scenario.memory_tiers", "soft=2"]),
        ({"io.passthrough.exits": -1}, ["scenario.io", "exits=-1"]),
        ({"precopy.on_divergence": "post"}, ["scenario.precopy", "on_divergence=post", "post_copy"]),
        ({"power.pue": 0.5}, ["scenario.power", "pue=0.5"]),
        ({"failures.model": "gamma"}, ["scenario.failures", "model=gamma"]),
        ({"recovery.boot_s": -1}, ["scenario.recovery", "boot_s=-1"]),
        ({"recovery.restart": "now"}, ["restart=now", "first_fit, policy"]),
        ({"recovery.spares": [10]}, ["recovery.spares=10", "0..9"]),
        ({"standby.mode": "warm"}, ["scenario.standby", "mode=warm", "lockstep"]),
        ({"failures.domains": [{**DOMAIN, "hosts": [0, 10]}]}, ["rack", "hosts=10", "below 10"]),
        ({"failures.domains": [DOMAIN, DOMAIN]}, ["rack", "named twice"]),
        ({"failures.domains": [{"name": "a"}]}, ["failures.domain a.hosts"]),
        (
            {"failures.enabled": True, "failures.outages": [{"host": 10, "up_s": 1.0}]},
            ["host 10", "below 10"],
        ),
        ({"evc_level": "zen"}, ["evc_level=zen", "cpu_level of every host type"]),
        ({"memory": "tiered"}, ["memory=tiered", "ignored, binding, multiplexed"]),
        ({"carbon.g_per_kwh": 100.0}, ["carbon.source"]),
        ({"carbon.g_per_kwh": 1.0, "carbon.path": "x"}, ["scenario.carbon", "give one of path, g_per_kwh"]),
        ({"carbon.g_per_kwh": 1.0, "carbon.hourly_g_per_kwh": [1.0]}, ["scenario.carbon", "give one of"]),
        ({"carbon.hourly_g_per_kwh": [1.0]}, ["carbon.source"]),
        ({"carbon.hourly_g_per_kwh": [1.0, -1.0], "carbon.source": "x"}, ["carbon", "at least 0"]),
        ({"profiles": {"a": {"base": "b"}}}, ["scenario.profiles.a.base=b", "database"]),
        ({"profiles": {"a": 1}}, ["scenario.profiles.a=1", "mapping"]),
        ({"profiles": {"a": {"memry": 1}}}, ["scenario.profiles.a.memry", "did you mean memory"]),
        ({"profiles": {"a": {"io": {"mod": "x"}}}}, ["scenario.profiles.a.io.mod", "did you mean mode"]),
        ({"profiles": {"a": {"io": {"mode": "x"}}}}, ["scenario.profiles.a", "io.mode=x", "virtio"]),
        ({"profiles": {"a": {"cpu": {"shares": "huge"}}}}, ["scenario.profiles.a", "cpu.shares=huge"]),
        ({"profiles": {"a": {"restart_priority": "x"}}}, ["scenario.profiles.a.restart_priority", "x"]),
        ({"profiles": {"a": {"dirty_mib_s": [1]}}}, ["scenario.profiles.a", "dirty_mib_s: needs 2"]),
        ({"profiles": {"a": {"instructions": {"idle": 1}}}}, ["instructions", "idle_per_s"]),
        (
            {"profiles": {"a": {"instructions": {"idle_per_s": 1, "busy_per_ghz_s": 1}}}},
            ["instructions.idle_per_s=1", "4 numbers"],
        ),
        ({"profile_assignment": {"web": 1}}, ["profile_assignment", "vm_assignment=trace"]),
    ],
)
def test_mistakes_are_one_clear_line(overrides: dict[str, Any], parts: list[str]) -> None:
    groups = ("overhead", "cpu", "numa", "io", "failures", "standby")
    on = {f"{group}.enabled": True for group in groups}
    with pytest.raises(ConfigError) as caught:
        small(**{**on, "memory": "multiplexed", "migration.mode": "precopy", **overrides})
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_the_replica_has_no_sub_models() -> None:
    with pytest.raises(ConfigError, match=r"scenario.numa.enabled: fixed in the replica"):
        compose_run("evaluate", ["scenario=planetlab_cloudsim3", "scenario.numa.enabled=true"])


def test_profiles_of_vm_types_and_of_ones_own() -> None:
    own = {
        "web": {"restart_priority": 5},
        "quiet": {"base": "idle", "instructions": RATES, "protected": True},
    }
    types = [
        {"name": "a", "profile": "web"},
        {"name": "b", "profile": "quiet"},
        {"name": "c", "profile": "web"},
    ]
    scenario = small(profiles=own, vm_types=types, vm_assignment="blocks")
    load = scenario.workload
    names = [load.profiles[i].name for i in load.vm_profile]
    assert names == ["web"] * 3 + ["quiet"] * 3 + ["web"] * 2
    known = build_profiles(own)
    assert known["web"].restart_priority == 5
    assert known["web"].io == GUEST_PROFILES["web"].io
    assert known["quiet"].operations.idle_per_s == (1.0, 2.0, 3.0, 4.0)
    assert known["quiet"].memory == GUEST_PROFILES["idle"].memory
    assert known["quiet"].protected
    assert GUEST_PROFILES["web"].restart_priority != 5
    with pytest.raises(ConfigError, match=r"vm_types\.a\.profile=wbe: no such profile \(did you mean web"):
        small(vm_types=[{"name": "a", "profile": "wbe"}])


RATES = {"idle_per_s": [1, 2, 3, 4], "busy_per_ghz_s": [5, 6, 7, 8]}


@pytest.mark.parametrize("name", sorted(GUEST_PROFILES))
def test_a_profile_that_changes_nothing_is_the_one_that_ships(name: str) -> None:
    assert build_profiles({name: {}})[name] == GUEST_PROFILES[name]


def sized_trace(folder: Path) -> str:
    """A table with sizes of its own: 40 VMs, one sample each."""
    rows = [f"vm{i},{t},0.5,1,1000,512" for i in range(40) for t in (0, 300)]
    path = folder / "trace.csv"
    path.write_text("vm,time_s,cpu,vcpus,cpu_mhz,memory_mib\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def test_vms_with_sizes_of_their_own_draw_profiles(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "trace": {"path": sized_trace(tmp_path), "format": "table", "options": {}},
        "hosts": [{"count": 2}],
        "vm_assignment": "trace",
    }
    plain_load = build_scenario(keys).workload
    assert [kind.name for kind in plain_load.profiles] == ["default"]
    weights = {"web": 3.0, "batch": 1.0, "idle": 0.0}
    load = build_scenario({**keys, "profile_assignment": weights}, seed=1).workload
    names = [load.profiles[i].name for i in load.vm_profile]
    assert set(names) == {"web", "batch"}
    assert 20 < names.count("web") < 40
    other = build_scenario({**keys, "profile_assignment": weights}, seed=2).workload
    assert load.vm_profile.tolist() != other.vm_profile.tolist()
    for bad, words in (
        ({"wbe": 1.0}, "did you mean web"),
        ({"web": -1.0}, "0 or more"),
        ({"web": 0.0}, "all 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_scenario({**keys, "profile_assignment": bad})


def write_carbon(path: Path, values: list[float]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    stamps = np.datetime64("2023-01-01T00:00", "ms") + np.arange(len(values)) * np.timedelta64(3600, "s")
    table = pa.table({"timestamp": pa.array(stamps.astype("datetime64[ms]")), "carbon_intensity": values})
    pq.write_table(table, path)


def test_carbon_by_file_zone_and_constant(tmp_path: Path) -> None:
    write_carbon(tmp_path / "DE_2023.parquet", [100.0, 200.0])
    write_carbon(tmp_path / "FR_2023.parquet", [10.0, 20.0])
    by_file = small(**{"carbon.path": str(tmp_path / "FR_2023.parquet"), "carbon.start": "2023-01-01T01:00"})
    assert by_file.cluster.carbon is not None
    assert by_file.cluster.carbon.g_per_kwh.tolist() == [10.0, 20.0]
    assert by_file.cluster.carbon.offset_s == 3600.0
    by_zone = small(**{"carbon.path": str(tmp_path), "carbon.zone": "DE", "carbon.source": "A grid"})
    assert by_zone.cluster.carbon is not None
    assert by_zone.cluster.carbon.g_per_kwh.tolist() == [100.0, 200.0]
    assert by_zone.cluster.carbon.source.startswith("A grid, zone DE; DE_2023.parquet (sha256 ")
    constant = small(**{"carbon.g_per_kwh": 50.0, "carbon.source": "assumed"})
    assert constant.cluster.carbon is not None
    assert constant.cluster.carbon.source == "assumed"
    with pytest.raises(ConfigError, match="say which zone; zones there: DE, FR"):
        small(**{"carbon.path": str(tmp_path)})
    with pytest.raises(ConfigError, match="0 files of zone PL; zones there: DE, FR"):
        small(**{"carbon.path": str(tmp_path), "carbon.zone": "PL"})
    with pytest.raises(TraceError):
        small(**{"carbon.path": str(tmp_path / "none.parquet")})


def test_a_trace_of_failures_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "incidents.csv"
    path.write_text(
        "failure_interval,failure_duration,failure_intensity\n1000,2000,0.5\n1000,1000,1.0\n",
        encoding="utf-8",
    )
    keys = {"failures.path": str(path), "failures.model": "none"}
    cluster = small(**keys, **{"failures.enabled": True}).cluster
    assert [i.start_s for i in cluster.incidents] == [1.0, 4.0]
    cluster = small(**keys, **{"failures.enabled": True, "failures.since": "start"}).cluster
    assert [i.start_s for i in cluster.incidents] == [1.0, 2.0]
    outage = {**asdict(OutageGroup()), "host": 1, "down_s": 5.0, "up_s": 9.0}
    cluster = small(**{"failures.enabled": True, "failures.outages": [outage]}).cluster
    assert cluster.replayed is not None
    assert cluster.replayed.host.tolist() == [1]


def test_domains_are_there_for_standby_without_failures() -> None:
    scenario = small(**{"failures.domains": [DOMAIN], "standby.enabled": True})
    p = make_params(scenario.cluster, scenario.workload)
    assert p.host_domains[:3, 0].tolist() == [0, 0, -1]


def test_what_a_file_says_decides_a_row_not_where_it_lies(tmp_path: Path) -> None:
    hashes = []
    for folder, values in (("a", [1.0, 2.0]), ("b", [1.0, 2.0]), ("c", [1.0, 3.0])):
        (tmp_path / folder).mkdir()
        write_carbon(tmp_path / folder / "x.parquet", values)
        scenario = small(**{"carbon.path": str(tmp_path / folder / "x.parquet")})
        hashes.append(config_hash(scenario, PolicySpec("static"), {}))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("name", "more", "profiles"),
    [
        ("planetlab", {"failures"}, {"batch", "database", "web", "idle"}),
        ("small", set(), {"web", "batch", "database"}),
    ],
)
def test_full_scenarios_have_everything_on_and_the_cluster_of_the_simple_ones(
    name: str, more: set[str], profiles: set[str]
) -> None:
    full, simple = (build_scenario(one, overrides=SHORT) for one in (f"{name}_full", name))
    assert flags(full) == {"overhead", "cpu", "numa", "tiers", "io", "precopy", "standby"} | more
    assert flags(simple) == set()
    for a, b in zip(full.cluster.host_types, simple.cluster.host_types, strict=True):
        assert (a.name, a.cores, a.core_mhz, a.memory_mib, a.table_w) == (
            *(b.name, b.cores, b.core_mhz, b.memory_mib, b.table_w),
        )
        assert (a.boot_time_s, a.shutdown_time_s, a.numa_nodes) == (240.0, 60.0, 2)
    assert full.cluster.host_type_of.tolist() == simple.cluster.host_type_of.tolist()
    assert np.array_equal(full.workload.vm_cpu_mhz, simple.workload.vm_cpu_mhz)
    assert np.array_equal(full.workload.util, simple.workload.util)
    assert not simple.workload.signals
    assert {kind.name for kind in full.workload.profiles} == profiles
    assert full.cluster.carbon is None


def test_planetlab_full_has_working_sets_and_overcommit() -> None:
    full = build_scenario("planetlab_full", overrides=SHORT)
    assert set(full.workload.signals) == {"memory_active", "dirty_mib_s"}
    assert compose_run("evaluate", ["scenario=planetlab_full"]).scenario["numa"]["cpu_overcommit"] == 16
    assert load_scenario_config("planetlab_full")["memory"] == "multiplexed"


SHORT = {"trace.options.n_vms": 40}


def test_a_schema_comes_back_from_a_worker_as_it_was() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    for kind in (ScenarioConfig, PlacementScenarioConfig, ProfileGroup):
        schema = schema_of(kind)
        assert pickle.loads(cloudpickle.dumps(schema)) is schema
        assert asdict(pickle.loads(cloudpickle.dumps(schema()))) == asdict(schema())
        assert len(cloudpickle.dumps(schema)) < 200  # by name, not the class itself
