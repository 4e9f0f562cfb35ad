"""YAML in and out, without OmegaConf: it takes a quarter of a second to import and resolves what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["YamlError", "dump_yaml", "load_yaml"]

YamlError: type[Exception] = yaml.YAMLError
"""What is raised for text that is not YAML."""


def load_yaml(text: str) -> Any:
    """Read plain data."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write plain data, keys in their order."""
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True))
