"""What there is, one line each; nothing heavy is imported unless parameters are asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from virtgym.envs.registry import group_names
from virtgym.envs.scenarios.choices import own_folders

from ..config.listing import list_names, read_group_file
from ..config.yamlio import load_yaml

LISTED: dict[str, tuple[str, ...]] = {
    "policies": ("virtgym.policies.registry:POLICIES",),
    "agents": ("virtgym.experiments.training.agents:AGENTS",),
    "detectors": ("virtgym.policies.literature.parts:DETECTORS",),
    "selectors": ("virtgym.policies.literature.parts:SELECTORS",),
    "forecasters": ("virtgym.policies.forecast.forecasters:FORECASTERS",),
    "rewards": ("virtgym.envs.cluster.rewards:TERMS",),
    "candidates": ("virtgym.envs.cluster.candidates.plugins:CANDIDATES",),
    "columns": ("virtgym.envs.cluster.tables:COLUMNS",),
    "metrics": ("virtgym.envs.cluster.metrics:METRIC_NAMES",),
    "power": ("virtgym.envs.scenarios.power_curves:POWER_CURVES",),
    "sections": ("virtgym.experiments.report.sections:SECTIONS",),
    "inventories": ("virtgym.envs.inventory.readers:INVENTORY_FORMATS",),
    "traces": tuple(f"virtgym.envs.traces.readers:{kind}_FORMATS" for kind in ("TRACE", "REQUEST", "SERIES")),
}
"""Registries by the kind that lists them."""

KINDS: tuple[str, ...] = ("scenarios", "suites", *LISTED, "envs")
"""What ``virtgym list`` can list."""

_SLOW = ("rewards", "candidates", "columns", "metrics", "power", "sections")

QUICK: tuple[str, ...] = tuple(kind for kind in KINDS if kind not in _SLOW)
"""What it lists unless told: what is known without importing the simulator."""

_ENVS = {
    "virtgym/Cluster-v0": "operate a cluster interval by interval: migrations, host power, placement",
    "virtgym/Placement-v0": "place one VM request after the other on host and NUMA node",
    "virtgym/Rescheduling-v0": "migrate a few VMs of a full cluster, one by one",
}


def list_kind(kind: str, verbose: bool = False) -> Iterator[tuple[str, str]]:
    """Yield names and descriptions of one kind.

    Args:
        kind: One of ``KINDS``.
        verbose: Whether to add parameters with their defaults.
    """
    if kind in ("scenarios", "suites"):
        for name in list_names(kind[:-1]):
            yield name, str(read_group_file(kind[:-1], name).get("description", ""))
        for folder in own_folders():
            group = Path(folder) / kind[:-1]
            for name in group_names(group) if group.is_dir() else ():
                found = load_yaml((group / f"{name}.yaml").read_text(encoding="utf-8")) or {}
                yield name, str(found.get("description", ""))
    elif kind == "envs":
        import gymnasium as gym

        import virtgym.envs  # noqa: F401 - registers the environments

        for name in sorted(name for name in gym.registry if name.startswith("virtgym/")):
            yield name, _ENVS.get(name, str(gym.registry[name].entry_point))
    else:
        if kind == "candidates":
            from virtgym.envs.cluster.candidates.settings import MEANINGS

            yield from MEANINGS.items()
        for path in LISTED[kind]:
            module, _, attribute = path.partition(":")
            registry = getattr(importlib.import_module(module), attribute)
            for name, text in registry.items():
                yield name, f"{text}{_show(registry.find(name).defaults)}" if verbose else text


def _show(defaults: dict[str, object]) -> str:
    words = {"None": "null", "True": "true", "False": "false"}
    shown = (f"{key}={words.get(str(value), value)}" for key, value in defaults.items() if value != "")
    text = ", ".join(shown)
    return f"  [{text}]" if text else ""


def print_kinds(asked: Sequence[str], verbose: bool) -> None:
    """Print names and descriptions.

    Args:
        asked: Kinds; empty = those of ``QUICK``.
        verbose: Whether to add parameters with their defaults.
    """
    kinds = asked or QUICK
    for kind in kinds:
        found = dict(list_kind(kind, verbose))
        if not found:
            if asked:
                print(f"there are no {kind}", file=sys.stderr)
            continue
        if len(kinds) > 1:
            print(f"{kind}:")
        width = max(map(len, found), default=0)
        indent = "  " if len(kinds) > 1 else ""
        for name, text in found.items():
            print(f"{indent}{name:<{width}}  {text}")
