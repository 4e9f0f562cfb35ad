"""What there is: names and one-line descriptions, read without importing anything heavy.

``virtgym list`` must answer at once, so scenarios and policies are read from their YAML files and not from
the modules that build them (those import Numba).
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from .yamlio import load_yaml

KINDS: tuple[str, ...] = ("scenarios", "policies", "agents", "traces", "envs")
"""What ``virtgym list`` can list."""


def _folder(group: str) -> Any:
    return resources.files("virtgym.conf") / group


@functools.cache
def list_names(group: str) -> tuple[str, ...]:
    """Names of the files of a configuration group (``scenario``, ``policy``, …), sorted."""
    folder = _folder(group)
    if not folder.is_dir():
        return ()
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def read_group_file(group: str, name: str) -> dict[str, Any]:
    """Read ``conf/GROUP/NAME.yaml`` as plain data."""
    return dict(load_yaml((_folder(group) / f"{name}.yaml").read_text(encoding="utf-8")) or {})


def experiment_agent(name: str) -> str | None:
    """The agent that an experiment trains; None = there is no such experiment, or it trains none."""
    if name not in list_names("experiment"):
        return None
    for item in read_group_file("experiment", name).get("defaults", []):
        if isinstance(item, dict) and "override /agent" in item:
            return str(item["override /agent"])
    return None


def _described(group: str) -> dict[str, str]:
    return {name: str(read_group_file(group, name).get("description", "")) for name in list_names(group)}


def _traces() -> dict[str, str]:
    from virtgym.envs.traces import REQUEST_FORMATS, SERIES_FORMATS, TRACE_FORMATS

    return {**TRACE_FORMATS, **REQUEST_FORMATS, **SERIES_FORMATS}


def _envs() -> dict[str, str]:
    import gymnasium as gym

    import virtgym.envs  # noqa: F401 - registers the environments

    texts = {
        "virtgym/Cluster-v0": "operate a cluster interval by interval: migrations, host power, placement",
        "virtgym/Placement-v0": "place one VM request after the other on host and NUMA node",
    }
    ours = sorted(name for name in gym.registry if name.startswith("virtgym/"))
    return {name: texts.get(name, str(gym.registry[name].entry_point)) for name in ours}


def list_kind(kind: str) -> dict[str, str]:
    """Names and descriptions of one kind.

    Args:
        kind: One of ``KINDS``.
    """
    if kind == "traces":
        return _traces()
    if kind == "envs":
        return _envs()
    groups = {"scenarios": "scenario", "policies": "policy", "agents": "agent"}
    return _described(groups[kind])
