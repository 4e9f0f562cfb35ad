"""JSON that an export consists of: read as a whole, checked for what it must be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TraceError
from ..files import one_line, read_bytes, show_path

MOST_BYTES = 1 << 30


def read_json(path: Path) -> Any:
    """Read a JSON file; of an API's answer ``{"data": …}`` what is in it.

    Raises:
        TraceError: If it is none.
    """
    try:
        found = json.loads(read_bytes(path, limit=MOST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{show_path(path)}: not JSON ({one_line(error)})") from None
    if isinstance(found, dict) and set(found) <= {"data", "success", "total"} and "data" in found:
        return found["data"]
    return found


def number_of(item: Mapping[str, Any], key: str, where: str) -> float:
    """A number of an object.

    Raises:
        TraceError: If it is not there, or is no number.
    """
    found = item.get(key)
    try:
        if isinstance(found, bool) or found is None:
            raise ValueError
        return float(found)
    except (ValueError, TypeError):
        shown = "nothing" if found is None else repr(found)[:60]
        raise TraceError(f"{where}: {key}: expected a number, found {shown}") from None


def json_files(root: Path) -> list[Path]:
    """The JSON files of a folder, sorted; the file itself."""
    if root.is_dir():
        return sorted(file for file in root.rglob("*.json") if file.is_file())
    return [root]
