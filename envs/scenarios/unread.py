"""Keys that a scenario does not read: those of sub-models that are off, and of what was not chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError


class _Rule(NamedTuple):
    keys: tuple[str, ...]  # each with all below it
    needs: tuple[tuple[str, Any], ...]  # keys with the values of which one must be; ``...`` = any but none
    but: tuple[str, ...] = ()  # keys below them that are read all the same


_RULES: tuple[_Rule, ...] = (
    *(
        _Rule((group,), ((f"{group}.enabled", True),))
        for group in ("overhead", "cpu", "numa", "io", "standby", "admission", "working_sets")
    ),
    _Rule(("inventory",), (("inventory.path", ...),)),
    _Rule(("failures.domains",), (("failures.enabled", True), ("standby.enabled", True))),
    _Rule(("failures", "recovery"), (("failures.enabled", True),), ("failures.domains",)),
    _Rule(
        ("failures.up_shape", "failures.up_scale_h", "failures.down_shape", "failures.down_scale_h"),
        (("failures.model", "weibull"),),
    ),
    _Rule(("failures.mtbf_h", "failures.mttr_h"), (("failures.model", "exponential"),)),
    _Rule(("failures.start",), (("failures.model", "weibull"), ("failures.model", "exponential"))),
    _Rule(("failures.since",), (("failures.path", ...),)),
    _Rule(("memory_tiers", "memory_overcommit"), (("memory", "multiplexed"),)),
    _Rule(("migration",), (("migration.mode", "fixed"),)),
    _Rule(("precopy",), (("migration.mode", "precopy"),)),
    _Rule(("carbon.zone", "carbon.start", "carbon.fill", "carbon.series"), (("carbon.path", ...),)),
    _Rule(
        ("carbon.source",),
        (("carbon.path", ...), ("carbon.g_per_kwh", ...), ("carbon.hourly_g_per_kwh", ...)),
    ),
)
"""Which keys are read only where others say so. Hosts, VM types and profiles are no part of it: what they say
is true of a machine or guest whatever of it is simulated."""


def only_read(
    scenario: Mapping[str, Any], own: Mapping[str, Any], typed: Collection[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Refuse keys that say something where it is not read.

    What a scenario says of a sub-model that the user has switched off is no mistake: it goes back to the
    defaults, so that it is not taken for something that had an effect.

    Args:
        scenario: Every key with its value.
        own: What the scenario itself has, before anything is laid over it.
        typed: Keys that were laid over it, dotted.
        defaults: Every key with its default.

    Returns:
        The scenario, keys that are not read with their defaults.

    Raises:
        ConfigError: For the first such key that the user gave, or that the scenario itself does not read.
    """
    result = dict(scenario)
    for rule in _RULES:
        if _read(rule, scenario, defaults):
            continue
        for key, default in [leaf for top in rule.keys for leaf in _leaves(top, _at(defaults, top))]:
            value = _at(scenario, key)
            if value == default or key in rule.but or key in dict(rule.needs):
                continue
            given = any(f"{key}.".startswith(f"{t}.") or t.startswith(f"{key}.") for t in typed)
            if given or not _read(rule, own, defaults):
                raise _unread(key, value, rule)
            result = _with(result, key.split("."), default)
    return result


def _unread(key: str, value: Any, rule: _Rule) -> ConfigError:
    words = {True: "true"}
    asked = " or ".join(
        f"scenario.{other} is given" if wanted is ... else f"scenario.{other}={words.get(wanted, wanted)}"
        for other, wanted in rule.needs
    )
    return ConfigError(f"scenario.{key}={value}: is not read unless {asked}")


def _read(rule: _Rule, tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    found = ((_at(tree, key, _at(defaults, key)), wanted) for key, wanted in rule.needs)
    return any(value not in (None, [], ()) if wanted is ... else value == wanted for value, wanted in found)


def _at(tree: Any, key: str, default: Any = None) -> Any:
    """Value of a dotted key; the default where there is none."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return default
        tree = tree[part]
    return tree


def _leaves(key: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(key, value)]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]


def _with(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _with(tree[first], rest, value) if rest else value}
