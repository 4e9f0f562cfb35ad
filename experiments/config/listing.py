"""Files of the configuration groups, read as plain data: ``virtgym list`` imports nothing heavy."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from virtgym.envs.registry import group_names

from .yamlio import load_yaml


def _folder(group: str) -> Any:
    return resources.files("virtgym.conf") / group


@functools.cache
def list_names(group: str) -> tuple[str, ...]:
    """Names of the files of a configuration group (``scenario``, …), as ``group_names`` gives them."""
    folder = _folder(group)
    return group_names(folder) if folder.is_dir() else ()


def read_group_file(group: str, name: str) -> dict[str, Any]:
    """Read ``conf/GROUP/NAME.yaml`` as plain data."""
    return dict(load_yaml((_folder(group) / f"{name}.yaml").read_text(encoding="utf-8")) or {})


def experiment_choice(name: str, group: str) -> str | None:
    """What an experiment chooses of a group; None = there is no such experiment, or it chooses nothing."""
    if name not in list_names("experiment"):
        return None
    for item in read_group_file("experiment", name).get("defaults", []):
        if isinstance(item, dict) and f"override /{group}" in item:
            return str(item[f"override /{group}"])
    return None
