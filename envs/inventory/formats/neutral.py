"""The neutral form on disk: ``inventory.yaml`` with hosts, VMs and rules, and a usage table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...checks import hint
from ...errors import TraceError
from ...files import one_line, read_bytes, show_path, write_atomically
from ...sim.models.power import SPEC_POWER_W
from ...sim.models.scheduling import SHARE_LEVELS
from ...traces.sniffing import Look
from ..base import Draft, Host, Inventory, NamedRules, Vm
from ..quantities import quantity
from ..readers import Asked, Export
from ..usage import read_usage_table

NAME = "inventory.yaml"

_MOST_BYTES = 256 << 20
_SPEED = {"core_mhz": "MHz", "core_ghz": "GHz"}
_MEMORY = {"memory_mib": "MiB", "memory_gib": "GiB"}
_HOST = (
    "name",
    "cores",
    *_SPEED,
    *_MEMORY,
    "cluster",
    "numa_nodes",
    "nic_mbps",
    "power_w",
    "state",
    "domain",
)
_VM = (
    *("name", "vcpus", *_MEMORY, "host", "pool", "reservation_mhz", "limit_mhz", "shares"),
    *("memory_reservation_mib", "state", "key"),
)
_RULES = ("affinity", "anti_affinity", "must", "should")
_TOP = ("name", "hosts", "vms", "rules", "usage")
HOST_STATES, VM_STATES = ("on", "maintenance", "off"), ("on", "off", "template")


def read_neutral(path: str | os.PathLike[str], *, asked: Asked) -> Export:
    """Read ``inventory.yaml`` and the usage table that it names.

    Args:
        path: The file, or its folder.
        asked: Of the usage, whether it comes from elsewhere.

    Raises:
        TraceError: Naming the file and the item.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    tree = _load(file)
    draft = Draft()
    where = show_path(file)
    for i, item in enumerate(_items(tree, "hosts", where)):
        _add_host(draft, item, f"{where}: hosts[{i}]")
    for i, item in enumerate(_items(tree, "vms", where)):
        _add_vm(draft, item, f"{where}: vms[{i}]")
    names = {vm.name: vm for vm in draft.vms}
    if len(names) < len(draft.vms) or len({host.name for host in draft.hosts}) < len(draft.hosts):
        _refuse_doubled(draft)
    draft.rules = _rules(tree.get("rules") or {}, where)
    if asked.usage:
        return Export(draft, None)
    table = tree.get("usage", "usage.csv")
    if not isinstance(table, str):
        raise TraceError(f"{where}: usage: must be the name of a table")
    return Export(draft, read_usage_table(file.parent / table))


def sniff(look: Look) -> bool:
    """Whether a folder has an ``inventory.yaml``, or a YAML file hosts and VMs."""
    if look.is_dir:
        return NAME in look.names
    return look.name.endswith((".yaml", ".yml")) and "hosts:" in look.head


def lay_over(path: str | os.PathLike[str], *, draft: Draft) -> None:
    """Lay a YAML file with keys of ``inventory.yaml`` over what a reader found.

    Hosts and VMs are named, and what is given of them replaces what was found; rules are added.

    Raises:
        TraceError: Naming the file and the item.
    """
    where = show_path(path)
    tree = _load(Path(path))
    kinds: tuple[tuple[str, list[Any], Sequence[str], Any], ...] = (
        ("hosts", draft.hosts, _HOST, host_values),
        ("vms", draft.vms, _VM, _vm_values),
    )
    for kind, found, allowed, values in kinds:
        place = {item.name: i for i, item in enumerate(found)}
        for i, item in enumerate(_items(tree, kind, where)):
            here = f"{where}: {kind}[{i}]"
            name = _text(_checked(item, allowed, here), "name", here)
            if name not in place:
                raise TraceError(f"{here}: name: {name} is not in the export{hint(name, place)}")
            given = {k: v for k, v in values(item, here).items() if k not in ("name", "where")}
            found[place[name]] = replace(found[place[name]], **given)
    more = _rules(tree.get("rules") or {}, where)
    old = draft.rules
    draft.rules = NamedRules(*(getattr(old, key) + getattr(more, key) for key in _RULES))


def write_inventory(inventory: Inventory, folder: str | os.PathLike[str]) -> Path:
    """Write the neutral form, which `read_inventory` reads back: ``inventory.yaml`` and ``usage.parquet``.

    Args:
        inventory: What to write.
        folder: Where; made if it is not there.

    Returns:
        The YAML file.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    file = Path(folder) / NAME
    tree = {
        "name": inventory.name,
        "hosts": [_plain(host, _HOST) for host in inventory.hosts],
        "vms": [_plain(vm, _VM) for vm in inventory.vms],
        "rules": _plain_rules(inventory.rules),
        "usage": "usage.parquet",
    }
    samples, vms = inventory.usage.cpu.shape
    names = pa.array([vm.key or vm.name for vm in inventory.vms])
    code = pa.array(np.repeat(np.arange(vms, dtype=np.int32), samples))
    table = {
        "time": np.tile(np.arange(samples) * inventory.usage.sample_s, vms),
        "vm": pa.DictionaryArray.from_arrays(code, names).cast(pa.string()),
        "cpu": inventory.usage.cpu.T.ravel(),
    }
    if inventory.usage.memory is not None:
        table["memory"] = inventory.usage.memory.T.ravel()
    write_atomically(file.with_name("usage.parquet"), lambda draft: pq.write_table(pa.table(table), draft))
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(tree, Dumper=dumper, sort_keys=False, allow_unicode=True)
    write_atomically(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    return file


def _plain(item: Host | Vm, keys: Sequence[str]) -> dict[str, Any]:
    blank = Host("", 1, 1, 1) if isinstance(item, Host) else Vm("", 1, 1, "")
    kept = {k: getattr(item, k) for k in keys if hasattr(item, k)}
    kept = {k: v for k, v in kept.items() if k not in ("key",) and v != getattr(blank, k)}
    if isinstance(item, Host) and item.maintenance:
        kept["state"] = "maintenance"
    must = ("cores", "core_mhz", "memory_mib") if isinstance(item, Host) else ("vcpus", "memory_mib", "host")
    kept |= {k: getattr(item, k) for k in must}
    if isinstance(item, Vm) and item.key:
        kept["key"] = item.key
    return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


def _plain_rules(rules: NamedRules) -> dict[str, Any]:
    found: dict[str, Any] = {k: [list(group) for group in getattr(rules, k)] for k in _RULES[:2]}
    for key in _RULES[2:]:
        found[key] = [{"vms": list(vms), "hosts": list(hosts)} for vms, hosts in getattr(rules, key)]
    return {key: value for key, value in found.items() if value}


def _load(file: Path) -> Mapping[str, Any]:
    """Plain data of a YAML file; references in it, which can grow beyond memory, are refused."""
    import yaml

    where = show_path(file)
    content = read_bytes(file, limit=_MOST_BYTES)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = content.decode("utf-8-sig")
        if any(isinstance(token, yaml.AliasToken) for token in _tokens(text, loader)):
            raise TraceError(f"{where}: has YAML references (*name), which are not read")
        tree = yaml.load(text, Loader=loader)
    except UnicodeDecodeError:
        raise TraceError(f"{where}: is not in UTF-8") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise TraceError(f"{where}: not YAML ({one_line(error)})") from None
    if not isinstance(tree, dict):
        raise TraceError(f"{where}: expected the keys {', '.join(_TOP)}")
    return _checked(tree, _TOP, where)


def _tokens(text: str, loader: Any) -> Any:
    """Tokens of a text that may have a reference; of others none, which takes no time."""
    import yaml

    return yaml.scan(text, Loader=loader) if "*" in text else ()


def _checked(item: Any, allowed: Sequence[str], where: str) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise TraceError(f"{where}: expected the keys {', '.join(allowed)}")
    for key in item:
        if key not in allowed:
            raise TraceError(
                f"{where}: no such key {key}{hint(key, allowed)}; allowed are: {', '.join(allowed)}"
            )
    return item


def _items(tree: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    found = tree.get(key) or []
    if not isinstance(found, list):
        raise TraceError(f"{where}: {key}: must be a list")
    return found


def _text(item: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    found = item.get(key, default)
    if found is None or isinstance(found, list | dict | bool) or not str(found).strip():
        if default is not None and found in (None, ""):
            return default
        raise TraceError(f"{where}: {key}: must be a name")
    return str(found).strip()


def _number(item: Mapping[str, Any], keys: Mapping[str, str], where: str, meant: str) -> float | None:
    """The number under one of several keys, each in its unit; None = it is not given."""
    given = [key for key in keys if item.get(key) is not None]
    if len(given) > 1:
        raise TraceError(f"{where}: give one of {', '.join(keys)}")
    if not given:
        return None
    return quantity(where, given[0], item[given[0]], meant, unit=keys[given[0]])


def _whole(item: Mapping[str, Any], key: str, where: str) -> int:
    value = item[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value % 1:
        raise TraceError(f"{where}: {key}: {value!r}: must be a whole number")
    return int(value)


def host_values(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What is given of a host.

    Raises:
        TraceError: For a key or value that is not allowed.
    """
    _checked(item, _HOST, where)
    found: dict[str, Any] = {"where": where}
    found |= {k: _text(item, k, where, "") for k in ("name", "cluster", "domain") if k in item}
    found |= {k: _whole(item, k, where) for k in ("cores", "numa_nodes") if k in item}
    for key, keys, meant in (("core_mhz", _SPEED, "MHz"), ("memory_mib", _MEMORY, "MiB")):
        value = _number(item, keys, where, meant)
        found |= {} if value is None else {key: value}
    nic = _number(item, {"nic_mbps": ""}, where, "")
    found |= {} if nic is None else {"nic_mbps": nic}
    if item.get("power_w") is not None:
        found["power_w"] = _power(item["power_w"], where)
    if "state" in item:
        found["maintenance"] = _state(item, HOST_STATES, where) == "maintenance"
    return found


def _power(value: Any, where: str) -> tuple[float, ...]:
    if isinstance(value, str) and value in SPEC_POWER_W:
        return SPEC_POWER_W[value]
    plain = isinstance(value, list) and len(value) > 1
    if not plain or not all(isinstance(w, int | float) and 0 <= w < 1e6 for w in value):
        raise TraceError(
            f"{where}: power_w: must be watts at equally spaced loads, like [150, 400], or one of "
            f"{', '.join(SPEC_POWER_W)}"
        )
    return tuple(float(w) for w in value)


def _state(item: Mapping[str, Any], allowed: Sequence[str], where: str) -> str:
    found = item.get("state", "on")
    found = (
        {True: "on", False: "off"}.get(found, found) if isinstance(found, bool) else found
    )  # YAML's on, off
    if found not in allowed:
        raise TraceError(f"{where}: state: {found}: must be one of {', '.join(allowed)}")
    return str(found)


def _add_host(draft: Draft, item: Any, where: str) -> None:
    _checked(item, _HOST, where)
    name = _text(item, "name", where)
    if _state(item, HOST_STATES, where) == "off":
        draft.notes.count("hosts that are off, left out", name)
        draft.gone.add(name)
        return
    values = host_values(item, where)
    for key, given in (
        ("cores", "cores"),
        ("core_mhz", "core_mhz or core_ghz"),
        ("memory_mib", "memory_mib"),
    ):
        if key not in values:
            raise TraceError(f"{where}: host {name}: needs {given}")
    draft.hosts.append(Host(**values))


def _vm_values(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What is given of a VM."""
    found: dict[str, Any] = {"where": where}
    found |= {k: _text(item, k, where, "") for k in ("name", "host", "pool", "key") if k in item}
    if "vcpus" in item:
        found["vcpus"] = _whole(item, "vcpus", where)
    memory = _number(item, _MEMORY, where, "MiB")
    found |= {} if memory is None else {"memory_mib": memory}
    for key in ("reservation_mhz", "limit_mhz", "memory_reservation_mib"):
        value = _number(item, {key: ""}, where, "")
        found |= {} if value is None else {key: value}
    if item.get("shares") is not None:
        found["shares"] = _shares(item["shares"], where)
    return found


def _shares(value: Any, where: str) -> float | str:
    if isinstance(value, str) and value in SHARE_LEVELS:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    raise TraceError(
        f"{where}: shares: {value}: must be a number per vCPU, or one of {', '.join(SHARE_LEVELS)}"
    )


def _add_vm(draft: Draft, item: Any, where: str) -> None:
    _checked(item, _VM, where)
    name = _text(item, "name", where)
    state = _state(item, VM_STATES, where)
    if state != "on":
        draft.notes.count("VMs that are off, left out" if state == "off" else "templates, left out", name)
        return
    values = _vm_values(item, where)
    for key, given in (("vcpus", "vcpus"), ("memory_mib", "memory_mib or memory_gib"), ("host", "host")):
        if key not in values:
            raise TraceError(f"{where}: VM {name}: needs {given}")
    draft.vms.append(Vm(**values))


def _refuse_doubled(draft: Draft) -> None:
    named: tuple[tuple[str, Sequence[Host | Vm]], ...] = (("host", draft.hosts), ("VM", draft.vms))
    for what, items in named:
        seen: dict[str, str] = {}
        for item in items:
            if item.name in seen:
                raise TraceError(f"{item.where}: {what} {item.name} stands in {seen[item.name]} already")
            seen[item.name] = item.where


def _rules(tree: Any, where: str) -> NamedRules:
    _checked(tree, _RULES, f"{where}: rules")
    found: dict[str, Any] = {}
    for key in _RULES[:2]:
        groups = _items(tree, key, f"{where}: rules")
        found[key] = tuple(_names(group, f"{where}: rules.{key}[{i}]") for i, group in enumerate(groups))
    for key in _RULES[2:]:
        pairs = []
        for i, item in enumerate(_items(tree, key, f"{where}: rules")):
            here = f"{where}: rules.{key}[{i}]"
            _checked(item, ("vms", "hosts"), here)
            pairs.append((_names(item.get("vms"), f"{here}.vms"), _names(item.get("hosts"), f"{here}.hosts")))
        found[key] = tuple(pairs)
    return NamedRules(**found)


def _names(group: Any, where: str) -> tuple[str, ...]:
    if not isinstance(group, list) or not group or any(isinstance(name, list | dict) for name in group):
        raise TraceError(f"{where}: must be a list of names")
    return tuple(str(name) for name in group)
