"""Mutated inputs of every other command: exports of operators, meters, problems, predictors, guides, runs.

Each is made valid once in a process and kept as bytes. A mutation changes bytes, a cell, a number, a node of
a tree or an array of one file, or puts something in its place; then the command runs that reads it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from oracles.exports import prometheus_files, proxmox_files, rvtools_tabs, write_csv_tabs
from oracles.plain_reassignment import draw as draw_reassignment
from virtgym.policies.learned.architecture import Layout
from virtgym.policies.learned.storage import Agent, Member, save_agent
from virtgym.policies.placement.lifetime_model import CLASSES, LEVELS, LifetimeModel
from virtgym.policies.rescheduling import guide, learned_destroy
from virtgym.policies.rescheduling.odds import odds_architecture

from .runner import HOSTILE, Attempt, Rng, mutate_bytes, run_command
from .traces import change_cell, change_kind


@dataclass(frozen=True)
class Input:
    """A valid input.

    Attributes:
        make: Writes it into an empty folder.
        commands: What reads it, from the folder above, which calls it ``in``; one is drawn.
    """

    make: Callable[[Path], object]
    commands: tuple[str, ...]


def _texts(files: dict[str, Any]) -> Callable[[Path], None]:
    """Writes text files; what is no text is written as JSON."""

    def make(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return make


def _csv(head: str, *rows: object) -> str:
    return "".join(f"{row}\n" for row in (head, *rows))


_HOSTS = [
    {"name": h, "cores": 16, "core_ghz": 2.5, "memory_gib": 64, "power_w": [100, 300], "domain": f"rack-{h}"}
    for h in "ab"
]
_VMS = [
    {"name": f"v{i}", "vcpus": 2, "memory_gib": 4, "host": "a", "reservation_mhz": 100, "shares": "high"}
    for i in range(4)
]
_RULES = {"anti_affinity": [["v0", "v1"]], "must": [{"vms": ["v2"], "hosts": ["a", "b"]}]}
_USE = _csv("time,vm,cpu,memory", *(f"{600 * k},v{i},0.{i + k},0.5" for i in range(4) for k in range(4)))
_NEUTRAL = {
    "inventory.yaml": yaml.safe_dump({"name": "dc", "hosts": _HOSTS, "vms": _VMS, "rules": _RULES}),
    "usage.csv": _USE,
}
_STATS = _csv(
    "MetricId,Timestamp,Value,Unit,Entity,EntityId,IntervalSecs,Instance",
    *(
        f"cpu.usage.average,11/30/2026 9:{20 * k:02d}:00 AM,{10 + k},%,v{v},VirtualMachine-{v},1200,"
        for k in range(3)
        for v in range(4)
    ),
)


_OVIRT = {
    "v4_4_latest_configuration_vms.csv": _csv(
        "history_id,vm_id,vm_name,vm_type,cluster_id,cpu_per_socket,number_of_sockets,memory_size_mb,delete_date",
        *(f"{v},u{v},app{v},1,c1,2,2,8192," for v in range(3)),
    ),
    "v4_4_latest_configuration_hosts.csv": _csv(
        "history_id,host_id,host_name,cluster_id,number_of_cores,number_of_sockets,memory_size_mb,cpu_speed_mh,"
        "delete_date",
        *(f"{h},h{h},kvm{h},c1,16,2,131072,2600.0," for h in range(2)),
    ),
    "v4_4_statistics_vms_resources_usage_samples.csv": _csv(
        "history_id,history_datetime,vm_id,vm_status,seconds_in_status,cpu_usage_percent,memory_usage_percent,"
        "currently_running_on_host",
        *(f"{k},2026-11-30 09:0{k}:00+00,u{v},1,60,{10 * v + k},40,h0" for v in range(3) for k in range(4)),
    ),
}
_METER = {"m.csv": _csv("time,watts", *(f"{600 * k},{900 + 7 * (k % 5)}" for k in range(1, 41)))}


def _snapshot() -> dict[str, Any]:
    rooms = {"total_cpu": 44, "free_cpu": 20, "memory_huge_total_mb": 9000, "memory_huge_free_mb": 4000}
    hosts = [
        {"node_id": h, "status": "ACTIVE", "numa": [{"node": n, **rooms} for n in range(2)]}
        for h in ("a", "b")
    ]
    vms = [
        {"instance_id": f"v{i}", "instance_type": "s", "host_id": "ab"[i % 2], "allow_migration": True}
        | {"numa": [{"node": i % 2, "cpu": 4, "mem_mb": 1000}]}
        for i in range(4)
    ]
    cluster = {
        "host_info": hosts,
        "vm_instance": vms,
        "other_requirement": {"deployment_set": [["v0", "v1"]]},
    }
    return {"cluster_list": [cluster], "vm_type_list": [{"vm_type": "s", "request_cpu": 4}]}


def _roadef(folder: Path) -> None:
    for name, text in zip(("model.txt", "assignment.txt"), draw_reassignment(0, n_processes=7, n_machines=4)):
        (folder / name).write_text(text)


def _predictor(folder: Path) -> None:
    keys, rates = np.zeros(1, np.int64), np.full((1, CLASSES), 0.1)
    LifetimeModel((keys,) * len(LEVELS), (rates,) * len(LEVELS)).save(folder / "m.npz")


def _odds(network: str, layout: Layout) -> Callable[[Path], None]:
    """Writes a guide of a search."""

    def make(folder: Path) -> None:
        architecture, rng = odds_architecture(layout, network, (4,)), np.random.default_rng(0)
        weights = {k: rng.normal(size=s).astype(np.float32) for k, s in architecture.shapes().items()}
        save_agent(folder / "guide", Agent((Member(architecture, layout, weights),), layout.task, {}))

    return make


_RULE = "scenario=small scenario.horizon_s=3600 policy=thr-mmt"
_STUDY = f"tune {_RULE} policy.safety=0.5,0.9 seeds=[1000] validation_seeds=[2000] n_trials=2 out=in/run"
_SWEEP = "evaluate -m scenario=small scenario.horizon_s=3600 policy=static,dvfs out=in/run"
_TRAINING = (
    "train agent=imitation scenario=demo_placement scenario.n_windows=2 scenario.trace.options.n=4000 "
    "total_timesteps=256 out=in/run"
)
_GAME = "evaluate scenario=rescheduling scenario.limit=2"
_MOVES = f"{_GAME} scenario.snapshot.from=small@600 policy"


def _by(command: str) -> Callable[[Path], None]:
    """What a command writes, run once in a process of its own."""

    def make(folder: Path) -> None:
        words = [sys.executable, "-m", "virtgym.experiments.cli", *command.split()]
        done = subprocess.run(words, cwd=folder.parent, capture_output=True)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())

    return make


_ROADEF = "evaluate scenario=reassignment scenario.instance=in/model.txt"
_PLACED = (
    "evaluate scenario=demo_placement scenario.n_windows=1 scenario.trace.options.n=4000 policy=nilas "
    "policy.predictor=in/m.npz"
)
INPUTS: dict[str, Input] = {
    "neutral": Input(
        _texts(_NEUTRAL), ("plan in", "ha-check in", "size in host=cores=16,core_ghz=2,memory_gib=64")
    ),
    "overlay": Input(
        _texts({**_NEUTRAL, "overlay.yaml": yaml.safe_dump({"hosts": _HOSTS, "rules": _RULES})}), ("plan in",)
    ),
    "vcenter": Input(_texts({**_NEUTRAL, "stat.csv": _STATS}), ("plan in usage=in/stat.csv",)),
    "prometheus": Input(lambda folder: prometheus_files(folder, 3, 5), ("plan in",)),
    "proxmox": Input(lambda folder: proxmox_files(folder, 3, 6), ("plan in",)),
    "ovirt": Input(_texts(_OVIRT), ("plan in",)),
    "rvtools": Input(
        lambda folder: write_csv_tabs(folder, rvtools_tabs(4, 2)),
        ("plan in", "whatif in policies=[static,drs]"),
    ),
    "meter": Input(_texts(_METER), ("validate scenario=small power=in/m.csv forms=[linear] blocks=2",)),
    "vmr2l": Input(
        _texts({"s.json": _snapshot()}),
        (f"{_GAME} scenario.snapshot.path=in/s.json policy=greedy_rescheduling",),
    ),
    "roadef": Input(
        _roadef, (f"{_ROADEF} scenario.assignment=in/assignment.txt policy=greedy_rescheduling",)
    ),
    "predictor": Input(_predictor, (_PLACED,)),
    "guide": Input(_odds("odds", guide.LAYOUT), (f"{_MOVES}=annealing policy.guide=in/guide",)),
    "destroyer": Input(
        _odds("host_odds", learned_destroy.LAYOUT),
        (f"{_MOVES}=ortools_rescheduling policy.destroy=in/guide",),
    ),
    "study": Input(
        _by(_STUDY),
        (_STUDY, "report in/run out=page", f"evaluate {_RULE.rpartition(' ')[0]} policy=in/run/best.yaml"),
    ),
    "sweep": Input(_by(_SWEEP), (_SWEEP, "report in/run out=page")),
    "moves": Input(_by(f"{_MOVES}=greedy_rescheduling out=in/run"), ("report in/run out=page",)),
    "training": Input(_by(_TRAINING), ("report in/run out=page",)),
}
"""Valid inputs by what they are."""


@functools.cache
def contents(title: str) -> dict[str, bytes]:
    """Files of a valid input by their path."""
    with tempfile.TemporaryDirectory(prefix="virtgym-fuzz-") as above:
        folder = Path(above) / "in"
        folder.mkdir()
        INPUTS[title].make(folder)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _change_tree(rng: Rng, tree: Any) -> Any:
    """Replace, drop or double a node of nested lists and mappings."""
    places: list[tuple[Any, Any]] = []
    heap = [tree]
    while heap:
        owner = heap.pop()
        pairs = (
            owner.items() if isinstance(owner, dict) else enumerate(owner) if isinstance(owner, list) else ()
        )
        for key, inner in pairs:
            places.append((owner, key))
            heap.append(inner)
    values: list[Any] = [*HOSTILE, 1e30, -1, 0, 2**63 - 1, 2**70, float("nan"), float("inf"), None, True]
    values += [[], {}, [1], {"a": {"b": 1}}, [[]], "x" * 100_000, 10**400]
    value = values[int(rng.integers(len(values)))]
    if not places:
        return value
    owner, key = places[int(rng.integers(len(places)))]
    what = rng.choice(["value", "value", "value", "drop", "double", "name"])
    if what == "drop":
        del owner[key]
    elif what == "double" and isinstance(owner, list):
        owner.append(owner[key])
    elif what == "name" and isinstance(owner, dict):
        owner[str(value)[:50]] = owner.pop(key)
    else:
        owner[key] = value
    return tree


def _change_arrays(rng: Rng, data: bytes) -> bytes:
    """Replace one array of an archive, or drop it."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = str(rng.choice(list(arrays)))
    old = np.atleast_1d(arrays[name])
    old = old if old.dtype.kind in "biuf" else np.arange(old.size).reshape(old.shape)
    choices: list[Any] = [
        *(np.full_like(old, v, dtype=float) for v in (np.nan, np.inf, -1.0, 1e300)),
        *(old.astype(str), old.astype(complex), old.astype(np.int8), old[..., None], old.ravel(), old[:0]),
        *(np.array(None, object), np.array(["x"]), np.zeros((3, 40)), np.zeros(5_000_000), np.array(7), None),
    ]  # fmt: skip
    arrays[name] = choices[int(rng.integers(len(choices)))]
    out = io.BytesIO()
    np.savez_compressed(out, **{key: value for key, value in arrays.items() if value is not None})
    return out.getvalue()


def _mutate(rng: Rng, name: str, data: bytes) -> bytes:
    """Change a file in the way of its kind, or its bytes."""
    suffix = Path(name).suffix
    if rng.random() < 0.3 or suffix not in (".json", ".yaml", ".csv", ".txt", ".npz", ".journal"):
        return mutate_bytes(rng, data)
    if suffix == ".npz":
        return _change_arrays(rng, data)
    text = data.decode()
    if suffix == ".json":
        return json.dumps(_change_tree(rng, json.loads(text))).encode()
    if suffix == ".yaml":
        return str(yaml.safe_dump(_change_tree(rng, yaml.safe_load(text)))).encode()
    if suffix == ".journal":
        lines = text.splitlines()
        at = int(rng.integers(len(lines)))
        lines[at] = json.dumps(_change_tree(rng, json.loads(lines[at])))
        return "\n".join([*lines, ""]).encode()
    changed = change_cell(rng, text.replace(" ", ",") if suffix == ".txt" else text)
    return (changed.replace(",", " ") if suffix == ".txt" else changed).encode(errors="surrogateescape")


def lay(title: str) -> None:
    """Write a valid input into ``in``, here."""
    for path, data in contents(title).items():
        (Path("in") / path).parent.mkdir(parents=True, exist_ok=True)
        (Path("in") / path).write_bytes(data)


def use(command: str) -> None:
    """Run a command of an input, here."""
    run_command([*command.split(), *(() if "out=" in command else ("out=out",))])


def draw(rng: Rng, titles: Sequence[str] = tuple(INPUTS)) -> Attempt:
    """Draw an input, a change to one of its files, and the command that reads it."""
    title = str(rng.choice(titles))
    name = str(rng.choice(list(contents(title))))
    command = str(rng.choice(INPUTS[title].commands))
    what = str(rng.choice(["content"] * 8 + ["kind", "gone"]))

    def run(folder: Path) -> None:
        os.chdir(folder)
        lay(title)
        path = Path("in") / name
        if what == "content":
            path.write_bytes(_mutate(rng, name, path.read_bytes()))
        elif what == "kind":
            change_kind(rng, path)
        else:
            path.unlink()
        use(command)

    return Attempt(f"{title}, {name}: {what}, {command.split()[0]}", run)
