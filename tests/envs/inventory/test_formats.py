"""The neutral form, Proxmox VE, Prometheus and oVirt: what they become, and what they are refused for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from oracles.exports import prometheus_files, proxmox_files
from virtgym.envs.errors import TraceError
from virtgym.envs.inventory import read_inventory, write_inventory
from virtgym.envs.inventory.readers import INVENTORY_FORMATS
from virtgym.envs.scenarios.inventory import host_kinds, rules_of, trace_of, workload_of

TREE: dict[str, Any] = {
    "name": "dc",
    "hosts": [
        {"name": "a", "cores": 16, "core_ghz": 2.5, "memory_gib": 64, "numa_nodes": 2, "power_w": [100, 300]},
        {"name": "b", "cores": 16, "core_mhz": 2500, "memory_mib": 65536, "state": "maintenance"},
        {"name": "c", "cores": 8, "core_mhz": 3000, "memory_gib": 32, "domain": "rack-1", "nic_mbps": 25000},
        {"name": "d", "cores": 8, "core_mhz": 3000, "memory_gib": 32, "state": "off"},
    ],
    "vms": [
        {"name": "web", "vcpus": 4, "memory_gib": 8, "host": "a", "reservation_mhz": 1000, "shares": "high"},
        {"name": "db", "vcpus": 8, "memory_gib": 16, "host": "a", "limit_mhz": 9000, "shares": 1500},
        {
            "name": "ci",
            "vcpus": 2,
            "memory_gib": 4,
            "host": "c",
            "memory_reservation_mib": 1024,
            "pool": "dev",
        },
        {"name": "golden", "vcpus": 1, "memory_gib": 1, "host": "a", "state": "template"},
        {"name": "old", "vcpus": 1, "memory_gib": 1, "host": "a", "state": "off"},
    ],
    "rules": {
        "anti_affinity": [["web", "db"]],
        "must": [{"vms": ["ci"], "hosts": ["b", "c"]}],
        "should": [{"vms": ["web"], "hosts": ["a"]}],
    },
}
USE = {"web": (0.5, 0.6, 0.7), "db": (0.2, 0.2, 0.1), "ci": (1.0, 0.0, 0.5)}


def neutral(folder: Path, tree: dict[str, Any] | None = None, usage: list[list[Any]] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "inventory.yaml").write_text(yaml.safe_dump(tree or TREE, sort_keys=False))
    rows = usage or [
        ["time", "vm", "cpu"],
        *([600 * k, vm, share] for vm, shares in USE.items() for k, share in enumerate(shares)),
    ]
    with open(folder / "usage.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_the_neutral_form_becomes_a_cluster_and_its_load(tmp_path: Path) -> None:
    found = read_inventory(neutral(tmp_path / "dc"))
    assert [host.name for host in found.hosts] == ["a", "b", "c"]
    assert found.usage.sample_s == 600.0
    kinds, of = host_kinds(found)
    assert of.tolist() == [0, 1, 2]  # a and b differ in power
    assert (kinds[0].core_mhz, kinds[0].memory_mib, kinds[0].numa_nodes) == (2500.0, 65536.0, 2)
    load = workload_of(found, trace_of(found))
    assert load.vm_names == ("web", "db", "ci")
    assert load.vm_cpu_mhz.tolist() == [10_000.0, 20_000.0, 6_000.0]
    assert load.vm_home.tolist() == [0, 0, 2]
    np.testing.assert_array_equal(load.util, np.array(list(USE.values())).T)
    web, db, ci = (load.profiles[i] for i in load.vm_profile)
    assert (web.cpu.reservation_mhz, web.cpu.shares, db.cpu.limit_mhz, db.cpu.shares) == (
        1000,
        "high",
        9000,
        1500,
    )
    assert ci.memory.reservation_mib == 1024
    rules = rules_of(found)
    assert rules.anti_affinity == ((0, 1),)
    assert [(rule.vms, rule.hosts) for rule in rules.must] == [((2,), (1, 2))]
    assert found.notes == (
        "1 hosts that are off, left out (d)",
        "1 templates, left out (golden)",
        "1 VMs that are off, left out (old)",
    )


@pytest.mark.parametrize("source", ["neutral", "proxmox", "prometheus"])
def test_what_is_written_is_read_back(source: str, tmp_path: Path) -> None:
    make: dict[str, Callable[[Path], Path]] = {
        "neutral": neutral, "proxmox": proxmox_files, "prometheus": prometheus_files
    }  # fmt: skip
    first = read_inventory(make[source](tmp_path / source))
    again = read_inventory(write_inventory(first, tmp_path / "again"))
    plain = [
        [(h.name, h.cores, h.core_mhz, h.memory_mib, h.maintenance) for h in x.hosts] for x in (first, again)
    ]
    assert plain[0] == plain[1]
    one, two = (workload_of(x, trace_of(x)) for x in (first, again))
    for name in ("util", "vm_cpu_mhz", "vm_mem_mib", "vm_vcpus", "vm_home", "vm_profile"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.profiles == two.profiles
    assert rules_of(first) == rules_of(again)
    for kind in ("cpu", "memory"):
        a, b = getattr(first.usage, kind), getattr(again.usage, kind)
        assert (a is None and b is None) or np.array_equal(a, b)


def test_a_usage_table_may_be_wide_or_parquet(tmp_path: Path) -> None:
    import pandas as pd

    long = read_inventory(neutral(tmp_path / "long"))
    wide_rows: list[list[Any]] = [["time", *USE, "web:memory", "db:memory", "ci:memory"]]
    wide_rows += [[600 * k, *(USE[vm][k] for vm in USE), 0.5, 0.5, 0.25] for k in range(3)]
    wide = read_inventory(neutral(tmp_path / "wide", usage=wide_rows))
    np.testing.assert_array_equal(long.usage.cpu, wide.usage.cpu)
    assert wide.usage.memory is not None
    assert wide.usage.memory[0].tolist() == [0.5, 0.5, 0.25]
    times = pd.to_datetime([f"2026-11-30T0{k}:00:00Z" for k in range(3)] * 3)
    frame = pd.DataFrame(
        {"time": times, "vm": np.repeat(list(USE), 3), "cpu_percent": np.ravel(list(USE.values())) * 100}
    )
    frame.to_parquet(tmp_path / "usage.parquet", index=False)
    packed = read_inventory(tmp_path / "long", usage=tmp_path / "usage.parquet")
    assert packed.usage.sample_s == 3600.0
    np.testing.assert_allclose(packed.usage.cpu, long.usage.cpu)


def change(**parts: Any) -> dict[str, Any]:
    """The tree with items changed: ``hosts_0_cores=0`` sets hosts[0].cores."""
    tree: dict[str, Any] = json.loads(json.dumps(TREE))
    for key, value in parts.items():
        kind, index, name = key.split("_", 2)
        tree[kind][int(index)][name] = value
    return tree


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt key": (change(hosts_0_core=1), r"hosts\[0\]: no such key core .did you mean cores"),
    "no cores": ({**TREE, "hosts": [{"name": "a", "core_mhz": 1, "memory_gib": 1}]}, "host a: needs cores"),
    "no host of a VM": ({**TREE, "vms": [{"name": "v", "vcpus": 1, "memory_gib": 1}]}, "VM v: needs host"),
    "two speeds": (change(hosts_0_core_mhz=2500), "give one of core_mhz, core_ghz"),
    "part of a core": (change(hosts_0_cores=1.5), "cores: 1.5: must be a whole number"),
    "doubled VM": (change(vms_1_name="web"), r"vms\[1\]: VM web stands in .*vms\[0\] already"),
    "doubled host": (change(hosts_1_name="a"), r"hosts\[1\]: host a stands in"),
    "unknown state": (change(vms_0_state="half"), "state: half: must be one of on, off, template"),
    "unknown shares": (change(vms_0_shares="much"), "shares: much: must be"),
    "power of one point": (change(hosts_0_power_w=[5]), "power_w: must be watts"),
    "more nodes than cores": (change(hosts_0_numa_nodes=64), "numa_nodes 64"),
    "dangling host": (change(vms_0_host="z"), "VM web is on host z, which the export does not have"),
    "rules of a wrong form": (
        {**TREE, "rules": {"affinity": ["web"]}},
        r"affinity\[0\]: must be a list of names",
    ),
    "unknown rule": ({**TREE, "rules": {"together": []}}, "no such key together"),
    "no mapping": ({"hosts": ["a"]}, r"hosts\[0\]: expected the keys"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_inventory_is_one_line_that_names_the_item(name: str, tmp_path: Path) -> None:
    tree, message = REFUSED[name]
    with pytest.raises(TraceError, match=message) as caught:
        read_inventory(neutral(tmp_path / "dc", tree))
    assert "\n" not in str(caught.value)


TEXTS = {
    "no YAML": ("hosts: [", "not YAML"),
    "a bomb of references": ("hosts: &a [x]\nvms: [*a, *a]\n", "references"),
    "a list": ("- hosts:\n", "expected the keys"),
    "nothing": ("", "expected the keys"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_yaml_is_one_line(name: str, tmp_path: Path) -> None:
    text, message = TEXTS[name]
    (tmp_path / "inventory.yaml").write_text(text)
    with pytest.raises(TraceError, match=message) as caught:
        read_inventory(tmp_path)
    assert "\n" not in str(caught.value)


GAPS: list[list[Any]] = [["time", "vm", "cpu"], [0, "web", 0.5], [600, "web", ""], [1200, "web", 0.7]]
GAPS += [[600 * k, vm, 0.1] for vm in ("db", "ci") for k in range(3)]


def test_a_gap_is_an_error_that_names_vm_and_column_and_never_zero(tmp_path: Path) -> None:
    folder = neutral(tmp_path / "dc", usage=GAPS)
    with pytest.raises(TraceError, match="VM web, column 'cpu': no value 600 s after the first"):
        read_inventory(folder)
    dropped = read_inventory(folder, missing="drop")
    assert [vm.name for vm in dropped.vms] == ["db", "ci"]
    assert not rules_of(dropped).anti_affinity  # a rule for one VM asks for nothing
    held = read_inventory(folder, missing="previous")
    assert held.usage.cpu[:, 0].tolist() == [0.5, 0.5, 0.7]
    late = neutral(tmp_path / "late", usage=[row for row in GAPS if row[:2] != [0, "web"]])
    assert read_inventory(late, missing="previous").usage.cpu[:, 0].tolist() == [0.7, 0.7, 0.7]


def test_a_vm_without_any_usage_cannot_be_held(tmp_path: Path) -> None:
    folder = neutral(tmp_path / "dc", usage=[row for row in GAPS if row[1] != "web"])
    for missing in ("error", "previous"):
        with pytest.raises(TraceError, match="VM web, column 'cpu': no value;"):
            read_inventory(folder, missing=missing)


def test_an_overlay_says_what_an_export_does_not(tmp_path: Path) -> None:
    folder = proxmox_files(tmp_path / "pve")
    (folder / "overlay.yaml").write_text(
        yaml.safe_dump(
            {
                "hosts": [{"name": "pve0", "power_w": [90, 250], "domain": "rack-1"}],
                "rules": {"anti_affinity": [["app0", "app1"]]},
            }
        )
    )
    found = read_inventory(folder)
    assert found.hosts[0].power_w == (90.0, 250.0)
    assert found.hosts[0].cores == 16
    assert rules_of(found).anti_affinity == ((0, 1),)
    (folder / "overlay.yaml").write_text("hosts: [{name: pve9, cores: 1}]")
    with pytest.raises(TraceError, match="pve9 is not in the export"):
        read_inventory(folder)


def test_proxmox(tmp_path: Path) -> None:
    folder = proxmox_files(tmp_path / "pve")
    (folder / "rules.json").write_text(
        json.dumps(
            [
                {"rule": "r1", "type": "resource-affinity", "affinity": "negative",
                 "resources": "vm:100,vm:102"},
                {"rule": "r2", "type": "node-affinity", "nodes": "pve0:2,pve1", "resources": "vm:101",
                 "strict": 1},
                {"rule": "r3", "type": "resource-affinity", "affinity": "positive",
                 "resources": "vm:103,vm:105", "disable": 1},
            ]
        )
    )  # fmt: skip
    found = read_inventory(folder)
    assert [(h.name, h.cores, h.core_mhz, h.numa_nodes) for h in found.hosts] == [
        (f"pve{h}", 16, 2400.0, 2) for h in range(3)
    ]
    assert [(vm.name, vm.host, vm.vcpus, vm.memory_mib) for vm in found.vms[:2]] == [
        ("app0", "pve0", 4, 8192.0), ("app1", "pve1", 4, 8192.0)
    ]  # fmt: skip
    assert found.usage.sample_s == 60.0
    np.testing.assert_allclose(found.usage.cpu[:, 1], [0.22 + 0.001 * k for k in range(20)])
    rules = rules_of(found)
    assert rules.anti_affinity == ((0, 2),)
    assert [(rule.vms, rule.hosts) for rule in rules.must] == [((1,), (0, 1))]
    assert not rules.affinity


def proxmox_without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def proxmox_item(index: int, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tree = json.loads((folder / "resources.json").read_text())
        tree["data"][index].update(values)
        (folder / "resources.json").write_text(json.dumps(tree))

    return edit


PROXMOX: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no resources": (proxmox_without("resources.json"), "no answer of cluster/resources|no known export"),
    "no readings of a VM": (proxmox_without("rrddata-101.json"), "VM app1, column 'rrddata cpu': no value"),
    "no JSON": (lambda folder: (folder / "x.json").write_text("{"), "x.json: not JSON"),
    "text for memory": (proxmox_item(0, maxmem="much"), r"\[0\]: maxmem: expected a number, found 'much'"),
    "no vmid": (proxmox_item(3, vmid=None), "vmid: expected a number"),
    "a node off, a VM on it": (proxmox_item(4, node="pve9"), "VM app1 is on host pve9"),
    "a gap": (
        lambda folder: (folder / "rrddata-101.json").write_text(
            json.dumps(
                [{"time": 1_700_000_040 + 60 * k, **({"cpu": 0.1} if k != 5 else {})} for k in range(20)]
            )
        ),
        "VM app1, column 'rrddata cpu': no value 300 s",
    ),
}


@pytest.mark.parametrize("name", PROXMOX)
def test_hostile_proxmox_is_one_line(name: str, tmp_path: Path) -> None:
    edit, message = PROXMOX[name]
    folder = proxmox_files(tmp_path / "pve")
    edit(folder)
    with pytest.raises(TraceError, match=message) as caught:
        read_inventory(folder)
    assert "\n" not in str(caught.value)


def test_nodes_that_are_off_are_left_out_with_what_is_on_them(tmp_path: Path) -> None:
    folder = proxmox_files(tmp_path / "pve")
    proxmox_item(1, status="offline")(folder)
    found = read_inventory(folder)
    assert [host.name for host in found.hosts] == ["pve0", "pve2"]
    assert any("nodes that are offline" in note for note in found.notes)
    assert any("on hosts that are left out" in note for note in found.notes)


def test_prometheus_counters_become_shares(tmp_path: Path) -> None:
    folder = prometheus_files(tmp_path / "prom")
    found = read_inventory(folder)
    assert [(h.name, h.cores, h.core_mhz) for h in found.hosts] == [("kvm0", 8, 2500.0), ("kvm1", 8, 2500.0)]
    assert found.usage.cpu.shape == (11, 4)
    np.testing.assert_allclose(found.usage.cpu[0], [(0.4 + 0.3 * v) / 4 for v in range(4)])
    assert found.usage.memory is not None
    np.testing.assert_allclose(found.usage.memory, 0.75)
    path = folder / "libvirt_domain_info_cpu_time_seconds_total.json"
    tree = json.loads(path.read_text())
    series = tree["data"]["result"][0]["values"]
    tree["data"]["result"][0]["values"] = [  # the domain was started anew: the counter begins at 0
        [t, x] if k < 6 else [t, str(0.4 * 300 * (k - 5))] for k, (t, x) in enumerate(series)
    ]
    path.write_text(json.dumps(tree))
    np.testing.assert_allclose(read_inventory(folder).usage.cpu[:, 0], 0.1)


PROMETHEUS = {
    "a failed query": ({"status": "error", "error": "query timed out"}, "the query failed .query timed out"),
    "an instant query": (
        {"status": "success", "data": {"resultType": "vector", "result": []}}, "must be matrix"
    ),
    "values of a wrong form": (
        {"status": "success", "data": {"resultType": "matrix", "result": [
            {"metric": {"__name__": "node_memory_MemTotal_bytes", "instance": "x:1"}, "values": [["a"]]}]}},
        "values: must be pairs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMETHEUS)
def test_hostile_prometheus_is_one_line(name: str, tmp_path: Path) -> None:
    answer, message = PROMETHEUS[name]
    folder = prometheus_files(tmp_path / "prom")
    (folder / "z.json").write_text(json.dumps(answer))
    with pytest.raises(TraceError, match=message):
        read_inventory(folder)


def test_a_metric_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = prometheus_files(tmp_path / "prom")
    (folder / "libvirt_domain_info_virtual_cpus.json").unlink()
    with pytest.raises(TraceError, match="no series of libvirt_domain_info_virtual_cpus"):
        read_inventory(folder)


def ovirt(folder: Path) -> Path:
    """Views of oVirt's data warehouse, as psql's CSV has them."""
    folder.mkdir()
    tables: dict[str, list[list[Any]]] = {
        "v4_4_latest_configuration_vms.csv": [
            ["history_id", "vm_id", "vm_name", "vm_type", "cluster_id", "cpu_per_socket", "number_of_sockets",
             "memory_size_mb", "delete_date"],
            *([v, f"uuid-{v}", f"app{v}", 1, "c1", 2, 2, 8192, ""] for v in range(3)),
            [9, "uuid-9", "gone", 1, "c1", 1, 1, 1024, "2026-01-01"],
        ],
        "v4_4_latest_configuration_hosts.csv": [
            ["history_id", "host_id", "host_name", "cluster_id", "number_of_cores", "number_of_sockets",
             "memory_size_mb", "cpu_speed_mh", "delete_date"],
            *([h, f"host-{h}", f"kvm{h}", "c1", 16, 2, 131072, "2600.0", ""] for h in range(2)),
        ],
        "v4_4_statistics_vms_resources_usage_samples.csv": [
            ["history_id", "history_datetime", "vm_id", "vm_status", "seconds_in_status", "cpu_usage_percent",
             "memory_usage_percent", "currently_running_on_host"],
            *(
                [k, f"2026-11-30 09:{k:02d}:00+00", f"uuid-{v}", 1, 60, 10 * v + k, 40,
                 f"host-{(v + (k > 2)) % 2}"]
                for v in range(3)
                for k in range(5)
            ),
        ],
    }  # fmt: skip
    for name, rows in tables.items():
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def test_ovirt(tmp_path: Path) -> None:
    found = read_inventory(ovirt(tmp_path / "dwh"))
    assert found.format == "ovirt"
    assert [(vm.name, vm.vcpus, vm.host) for vm in found.vms] == [
        ("app0", 4, "kvm1"), ("app1", 4, "kvm0"), ("app2", 4, "kvm1")
    ]  # fmt: skip
    assert found.usage.sample_s == 60.0
    np.testing.assert_allclose(found.usage.cpu[:, 1], [0.10, 0.11, 0.12, 0.13, 0.14])


def test_what_is_no_export_says_what_it_looks_like(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<html>")
    with pytest.raises(TraceError, match=r"no known export \(it looks like a web page"):
        read_inventory(tmp_path / "a.txt")
    with pytest.raises(TraceError, match="no such file or folder"):
        read_inventory(tmp_path / "nothing")
    with pytest.raises(TraceError, match="rvtools"):
        read_inventory(tmp_path / "a.txt", "rvtool")
    assert set(INVENTORY_FORMATS) == {"neutral", "rvtools", "proxmox", "prometheus", "ovirt"}
