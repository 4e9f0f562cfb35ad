"""An impossible configuration is one line that names the key; a possible one means what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import ClusterConfig, HostType, MigrationConfig, VmType
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload

NAN, INF = float("nan"), float("inf")


def refused(words: str, make: Any, **values: Any) -> None:
    with pytest.raises(ConfigError) as error:
        make(**values)
    text = str(error.value)
    assert words in text, text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cores", 0),
        ("cores", NAN),
        ("cores", 1.5),
        ("core_mhz", 0.0),
        ("core_mhz", INF),
        ("memory_mib", -1.0),
        ("nic_mbps", NAN),
        ("boot_time_s", -1.0),
        ("shutdown_time_s", INF),
        ("power_w", "no_such_table"),
        ("power_w", (100.0,)),
        ("power_w", (100.0, -1.0)),
        ("power_w", (NAN, 100.0)),
        ("boot_power_w", -1.0),
        ("shutdown_power_w", NAN),
    ],
)
def test_host_type(host_type: HostType, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^host type test\.{key}\b[^\n]*$"):
        replace(host_type, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("vcpus", 0), ("vcpus", 2.5), ("vcpu_mhz", 0.0), ("memory_mib", NAN)],
)
def test_vm_type(key: str, value: Any) -> None:
    fine: dict[str, Any] = {"name": "x", "vcpus": 1, "vcpu_mhz": 1000.0, "memory_mib": 512.0}
    refused(f"VM type x.{key}", VmType, **{**fine, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bandwidth_mbps", 0.0),
        ("bandwidth_mbps", NAN),
        ("cpu_loss", 1.1),
        ("cpu_loss", NAN),
        ("dest_cpu_share", -0.1),
    ],
)
def test_migration(key: str, value: float) -> None:
    refused(f"migration.{key}", MigrationConfig, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host_types", ()),
        ("host_type_of", np.array([0, 1], dtype=np.int32)),
        ("host_type_of", np.array([-1], dtype=np.int32)),
        ("host_type_of", np.array([0.5])),
        ("interval_s", 0.0),
        ("interval_s", NAN),
        ("arrival_cpu_overcommit", 0.0),
        ("memory", "bindin"),
        ("arrival", "nearest"),
    ],
)
def test_cluster(make_cluster: Any, key: str, value: Any) -> None:
    refused(f"cluster.{key}", make_cluster, **{key: value})


def test_no_hosts(make_cluster: Any) -> None:
    refused("cluster.hosts", make_cluster, n_hosts=0)


def test_choices_are_listed(make_cluster: Any) -> None:
    with pytest.raises(ConfigError, match="must be one of ignored, binding"):
        make_cluster(memory="bindin")
    with pytest.raises(ConfigError, match=r"known: .*hp_ml110_g4"):
        make_cluster(power_w="hp_ml110")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_s", 0.0),
        ("sample_s", INF),
        ("cpu_mhz", 0.0),
        ("cpu_mhz", INF),
        ("cpu_mhz", NAN),
        ("vcpus", 0),
        ("mem_mib", -1.0),
        ("arrival_s", -1.0),
        ("arrival_s", INF),
        ("departure_s", NAN),
        ("departure_s", 0.0),
        ("util", [[-0.1, 0.5]]),
        ("util", [[NAN, 0.5]]),
        ("util", [[INF, 0.5]]),
    ],
)
def test_workload(make_workload: Any, key: str, value: Any) -> None:
    words = "departure" if key == "departure_s" and value == 0 else key
    refused(words, make_workload, **{"util": [[0.5, 0.5]], key: value})


def test_shapes_of_a_workload(make_workload: Any) -> None:
    fine = make_workload([[0.5, 0.5]])
    with pytest.raises(ConfigError, match="vm_mem_mib has shape"):
        replace(fine, vm_mem_mib=np.ones(3))
    with pytest.raises(ConfigError, match=r"shape \(S, V\)"):
        replace(fine, util=np.ones(2))
    with pytest.raises(ConfigError, match=r"shape \(S, V\)"):
        Workload("empty", 300.0, np.ones((0, 1)), *([np.ones(1)] * 2), *([np.ones(1)] * 3))  # type: ignore[arg-type]


def test_rate_of_a_copy() -> None:
    assert MigrationConfig(bandwidth_mbps=8.0).rate_mib_s == pytest.approx(1e6 / 2**20)
    assert MigrationConfig().rate_mib_s == pytest.approx(62.5)


def test_power_tables_of_any_lengths_meet(host_type: HostType, make_workload: Any) -> None:
    tables = ((10.0, 20.0), (5.0, 7.0, 30.0, 31.0), tuple(float(x * x) for x in range(11)), (1.0, 5.0, 6.0))
    types = tuple(replace(host_type, name=str(i), power_w=table) for i, table in enumerate(tables))
    for load in (0.05, 1 / 3, 0.4, 0.5, 2 / 3, 0.9, 1.0):
        config = ClusterConfig(types, np.arange(4, dtype=np.int32), arrival="worst_fit")
        sim = Simulator(config, make_workload([[load] * 4], cpu_mhz=2000.0, vcpus=2))
        assert sim.state.vm_host.tolist() == [0, 1, 2, 3]
        want = [np.interp(load, np.linspace(0, 1, len(table)), table) for table in tables]
        assert sim.state.host_power_now_w.tolist() == pytest.approx(want, rel=1e-12)
