"""What is typed after ``virtgym plan|whatif|size|ha-check``: an export, and ``key=value``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.inventory import InventoryGroup

from ..config.overrides import parse_value, split_list, split_override, unquote

INVENTORY = tuple(f.name for f in fields(InventoryGroup) if f.name != "path")
"""Keys that say how the export is read."""

_NUMBER, _COUNT, _SHARE = (
    "a positive number",
    "a whole number of at least {low}",
    "a number above 0, at most {high:g}",
)

OWN: dict[str, dict[str, Any]] = {
    "plan": {"warmup": 12, "intervals": 12, "out": None},
    "whatif": {},
    "size": {
        "host": None, "failures": 0, "cpu": 0.95, "cpu_share": 0.8, "memory_share": 1.0, "time_limit_s": 10.0,
        "out": None,
    },
    "ha-check": {"failures": 1, "memory_overcommit": 1.0, "sets": 2000, "time_limit_s": 5.0, "out": None},
}  # fmt: skip
"""Keys of each command beside those of ``INVENTORY`` and of Hydra, with their defaults."""

_LEAST = {"warmup": 1, "intervals": 1, "failures": 0, "sets": 1}
_MOST = {"cpu": 1.0, "cpu_share": 1.0, "memory_share": 10.0, "memory_overcommit": 10.0}
_HYDRA = {"plan": ("policy", "scenario", "seed"), "whatif": None, "size": (), "ha-check": ()}
"""First parts of the keys that Hydra composes; None = whatever benchmark takes."""
FLAGS = {"--host": "host", "--failures": "failures", "--policy": "policy", "--out": "out"}


@dataclass(frozen=True)
class Request:
    """A checked command line.

    Attributes:
        export: The export.
        own: Values of the command's keys.
        overrides: What Hydra composes, the export among it.
    """

    export: str
    own: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()


def read_request(command: str, arguments: Sequence[str]) -> Request:
    """Read the arguments of a command.

    Args:
        command: Key of ``OWN``.
        arguments: What was typed after it; flags are another form of keys (``--failures 1``).

    Raises:
        ConfigError: One line that names the key and what is allowed.
    """
    words = _without_flags(command, arguments)
    exports = [word for word in words if "=" not in word or Path(word).exists()]
    if len(exports) != 1:
        shown = ", ".join(exports) or "none"
        raise ConfigError(
            f"needs one export, a file or folder, found {shown}; like virtgym {command} rvtools.xlsx"
        )
    own = dict(OWN[command])
    overrides = ["scenario=inventory", f"scenario.inventory.path={exports[0]}"]
    for word in words:
        if word is exports[0]:
            continue
        key, value = split_override(word)
        if key in own:
            own[key] = value if key in ("host", "out") else _typed(key, value, own[key])
        elif key in INVENTORY:
            overrides.append(f"scenario.inventory.{key}={value}")
        elif _composed(command, key):
            overrides.append(word)
        else:
            first = _HYDRA[command] or ()
            known = (*own, *INVENTORY, *first)
            raise ConfigError(
                f"{key}: {command} has no such key{hint(key, known)}; allowed are: {', '.join(known)}"
            )
    if isinstance(own.get("out"), str):
        own["out"] = unquote(own["out"])
    return Request(exports[0], own, tuple(overrides))


def _composed(command: str, key: str) -> bool:
    first = _HYDRA[command]
    if key == "scenario" or key.startswith("scenario.inventory."):
        raise ConfigError(
            f"{key}: the export is the scenario; keys of how it is read: {', '.join(INVENTORY)}"
        )
    return first is None or key.split(".")[0] in first


def _without_flags(command: str, arguments: Sequence[str]) -> list[str]:
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif flag not in FLAGS or (FLAGS[flag] not in OWN[command] and flag != "--policy"):
            known = [name for name, key in FLAGS.items() if key in OWN[command] or key == "policy"]
            raise ConfigError(
                f"{flag}: no such flag{hint(flag, known)}; allowed are: {', '.join(known)}, --help"
            )
        elif equals or rest:
            words.append(f"{FLAGS[flag]}={value if equals else rest.pop(0)}")
        else:
            raise ConfigError(f"{flag}: needs a value")
    return words


def _typed(key: str, text: str, default: Any) -> Any:
    value = parse_value(key, text)
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, int):
        low = _LEAST[key]
        if not plain or value != int(value) or value < low:
            raise ConfigError(f"{key}={text}: must be {_COUNT.format(low=low)}")
        return int(value)
    most = _MOST.get(key, math.inf)
    if not plain or not 0 < value <= most:
        what = _NUMBER if most == math.inf else _SHARE.format(high=most)
        raise ConfigError(f"{key}={text}: must be {what}")
    return float(value)


def host_values(text: str) -> Mapping[str, Any]:
    """What ``host=cores=64,core_ghz=2.6,memory_gib=768`` says: keys of a host of ``inventory.yaml``.

    Raises:
        ConfigError: For what is no key=value.
    """
    found: dict[str, Any] = {}
    for item in split_list(text.strip().strip("{}")):
        key, equals, value = item.partition("=") if "=" in item else item.partition(":")
        if not equals or not key.strip():
            raise ConfigError(
                f"host={text}: {item!r} should be key=value, like cores=64,core_ghz=2.6,memory_gib=768"
            )
        found[key.strip()] = parse_value(f"host.{key.strip()}", value.strip())
    return found
