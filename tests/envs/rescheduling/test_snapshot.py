"""Where snapshots come from: the generator, files of VMR2L, cluster scenarios; and what none may hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.plain_rescheduling import plain_free
from virtgym.envs.errors import ConfigError, TraceError, VirtgymError
from virtgym.envs.rescheduling.generate import SIZES, VM_TYPES, generate_snapshot, vm_counts
from virtgym.envs.rescheduling.vmr2l import read_snapshot
from virtgym.envs.scenarios.rescheduling import build_rescheduling_scenario
from virtgym.experiments.cli import main


def test_generated_snapshots_are_the_medium_one_of_the_reference() -> None:
    assert sum(a + b for a, b in vm_counts("medium", "heavy")) == 2089
    assert vm_counts("medium", "heavy") == [kind[3:] for kind in VM_TYPES]
    rates = []
    for seed in range(10_000, 10_016):
        snapshot = generate_snapshot(seed)
        assert (snapshot.n_hosts, snapshot.n_vms) == SIZES["medium"]
        free, _ = snapshot.free()
        rates.append((free % 16_000).sum() / free.sum())
    assert 0.53 < np.mean(rates) < 0.60
    same, other = generate_snapshot(1), generate_snapshot(2)
    np.testing.assert_array_equal(generate_snapshot(1).vm_node, same.vm_node)
    assert (same.vm_node != other.vm_node).any()


def test_sizes_loads_and_groups() -> None:
    large = generate_snapshot(0, "large")
    assert (large.n_hosts, large.n_vms) == (1176, 4546)
    assert generate_snapshot(0, load="light").n_vms == 1044
    grouped = generate_snapshot(0, groups=300)
    sizes = np.bincount(grouped.vm_group[grouped.vm_group >= 0])
    assert len(sizes) == 300
    assert sizes.min() >= 2
    assert sizes.max() <= 5


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def sample() -> dict[str, Any]:
    """Two hosts with two nodes; a single VM, a double one, one that is pinned, and what nobody owns."""

    def host(name: str, *free: float) -> dict[str, Any]:
        nodes = [
            {
                "node": i,
                "total_cpu": 44,
                "free_cpu": f,
                "memory_huge_total_mb": 9000.0,
                "memory_huge_free_mb": 4000.0,
            }
            for i, f in enumerate(free)
        ]
        return {"node_id": name, "status": "ACTIVE", "node_cpu": 88, "numa": nodes}

    def vm(name: str, host: str, kind: str, cpu: float, *nodes: int, move: bool = True) -> dict[str, Any]:
        parts = [{"node": n, "cpu": cpu, "mem_mb": 1000.0} for n in nodes]
        return {
            "instance_id": name,
            "instance_type": kind,
            "host_id": host,
            "numa": parts,
            "allow_migration": move,
        }

    vms = [
        vm("a", "h1", "small", 4, 1),
        vm("b", "h1", "wide", 16, 0, 1),
        vm("c", "h2", "small", 4, 0, move=False),
    ]
    cluster = {
        "cluster_name": "one",
        "host_info": [host("h1", 20, 24), host("h2", 40, 44)],
        "vm_instance": vms,
        "other_requirement": {"deployment_set": [["a", "c"]]},
    }
    kinds = [{"vm_type": "small", "request_cpu": 4}, {"vm_type": "wide", "request_cpu": 32}]
    return {"cluster_list": [cluster], "vm_type_list": kinds}


def test_a_file_of_vmr2l(tmp_path: Path) -> None:
    snapshot = read_snapshot(write(tmp_path / "one.json", sample()))
    assert snapshot.name == "one.json"
    assert snapshot.vm_node.tolist() == [1, 0, 2]
    assert snapshot.vm_double.tolist() == [False, True, False]
    assert snapshot.vm_fixed.tolist() == [False, False, True]
    assert snapshot.vm_group.tolist() == [0, -1, 0]
    cpu, mem = plain_free(snapshot, snapshot.vm_node.tolist())
    assert cpu == [20_000, 24_000, 40_000, 44_000]  # as the file says, whoever has the rest
    assert mem == [4000] * 4
    built = build_rescheduling_scenario(
        "rescheduling", overrides={"snapshot.path": str(tmp_path / "one.json")}
    )
    assert built.trace.host_name(1) == "h2"


def broken(change: Any) -> dict[str, Any]:
    data = copy.deepcopy(sample())
    change(data["cluster_list"][0])
    return data


BAD: list[tuple[Any, str]] = [
    (
        lambda c: c["vm_instance"][0].update(host_id="h9"),
        r"vm_instance\[0\]: VM a is on host h9, which there is not",
    ),
    (
        lambda c: c["vm_instance"][1]["numa"].pop(),
        r"vm_instance\[1\]: VM b: takes 1 x 16 cores .* its type 32",
    ),
    (
        lambda c: c["vm_instance"][0]["numa"][0].update(cpu=-4),
        r"vm_instance\[0\].numa\[0\]: cpu=-4: must be 0",
    ),
    (lambda c: c["vm_instance"][0]["numa"][0].update(cpu="x"), r"needs a number 'cpu', not 'x'"),
    (lambda c: c["vm_instance"][0]["numa"][0].update(node=2), r"node=2: its host has 2"),
    (lambda c: c["vm_instance"][1]["numa"][1].update(node=0), "the same of two different nodes"),
    (
        lambda c: c["vm_instance"][2]["numa"][0].update(mem_mb=9001),
        "host h2, node 0: its VMs take 1 more MiB",
    ),
    (
        lambda c: c["host_info"][0]["numa"][0].update(total_cpu=15, free_cpu=0),
        "node 0: its VMs take 1 more cores",
    ),
    (lambda c: c["host_info"][0]["numa"][0].update(free_cpu=40), "its VMs leave less cores than is free"),
    (lambda c: c["host_info"][0]["numa"].pop(), r"host_info\[1\]: host h2 has 2 NUMA nodes"),
    (lambda c: c["host_info"].append(c["host_info"][0]), "host h1 is there twice"),
    (lambda c: c["vm_instance"].append(c["vm_instance"][0]), "VM a is there twice"),
    (
        lambda c: c["other_requirement"]["deployment_set"][0].append("b"),
        "another VM of its anti-affinity group",
    ),
    (lambda c: c["other_requirement"]["deployment_set"][0].append("z"), "names VM 'z', which there is not"),
    (lambda c: c.pop("vm_instance"), r"cluster_list\[0\]: needs a list 'vm_instance'"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, change: Any, text: str) -> None:
    path = write(tmp_path / "bad.json", broken(change))
    with pytest.raises(TraceError, match=text) as caught:
        read_snapshot(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "cut.json", json.dumps(sample(), indent=1)[:300])
    code = main(["evaluate", "scenario=rescheduling", f"scenario.snapshot.path={path}", f"out={tmp_path}/o"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert f"{path}: line " in error


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("snapshot.from=small", "must be SCENARIO@SECONDS"),
        ("snapshot.from=small@9e9", "ends at"),
        ("snapshot.from=demo_placement@0", "is a placement scenario"),
        ("snapshot.path=a.json scenario.snapshot.from=small@0", "path or from"),
        (
            "snapshot.path=a.json scenario.size=large",
            "scenario.size: is not read with scenario.snapshot.path",
        ),
        ("size=huge", "scenario.size=huge"),
        ("limit=0", "scenario.limit=0"),
        ("objective.fragment=0", "must have a weight above 0"),
        ("snapshot.foo=1", "scenario.snapshot.foo: no such key"),
    ],
)
def test_bad_keys_are_one_line_and_exit_2(
    override: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = f"scenario.{override}".split(" ")
    assert main(["evaluate", "scenario=rescheduling", *keys, f"out={tmp_path}/o"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert text in error[-1]


def test_any_cluster_at_any_time_is_a_snapshot() -> None:
    scenario = build_rescheduling_scenario("rescheduling", seed=3, overrides={"snapshot.from": "small@7200"})
    one = scenario.trace
    assert one.name == "small@7200"
    assert one.nodes_per_host == 1
    assert min(min(part) for part in plain_free(one, one.vm_node.tolist())) >= 0
    assert one.vm_cpu.sum() > 0
    later = build_rescheduling_scenario("rescheduling", seed=3, overrides={"snapshot.from": "small@36000"})
    assert later.trace.vm_cpu.tolist() != one.vm_cpu.tolist()
    with pytest.raises(ConfigError, match="one snapshot"):
        scenario.draw(2)
    assert isinstance(ConfigError("x"), VirtgymError)
