"""Overrides as a person types them, made into overrides that Hydra's grammar takes.

Hydra's grammar gives a meaning to ``=``, blanks, brackets and parentheses inside a value. Paths and policies
with parameters have them, so they are quoted here before Hydra sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from virtgym.envs.errors import ConfigError


def split_override(text: str) -> tuple[str, str]:
    """Split ``key=value`` at the first ``=``.

    Args:
        text: One argument of the command line.

    Returns:
        Key (without ``+`` or ``++``) and value.

    Raises:
        ConfigError: If it is no override.
    """
    key, found, value = text.partition("=")
    key = key.strip().lstrip("+")
    if not found or not key:
        raise ConfigError(f"{text!r}: expected key=value, like scenario=demo or seed=1")
    return key, value  # blanks stay: names of trace files may end with one


def quote(value: str) -> str:
    """Quote a value so that Hydra takes it literally; what is quoted already stays."""
    if value == "null" or _is_quoted(value):
        return value
    inner = value.replace("'", "\\'")
    tail = len(inner) - len(inner.rstrip("\\"))  # a backslash before the closing quote would escape it
    return f"'{inner}{chr(92) * tail}'"


def _is_quoted(value: str) -> bool:
    """Whether all of it stands in one pair of quotes, which ``'a','b'`` does not."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return False
    return value[0] not in value[1:-1].replace(f"\\{value[0]}", "")


def unquote(value: str) -> str:
    """Take off one pair of quotes."""
    return value[1:-1] if _is_quoted(value) else value


def split_list(value: str) -> list[str]:
    """Split ``[a,b(c=1,d=2)]`` (brackets optional) at its outer commas.

    Args:
        value: The text.

    Returns:
        The items, without blanks round them and quotes.

    Raises:
        ConfigError: If brackets or quotes do not close.
    """
    text = unquote(value.strip())
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [unquote(item) for item in split_outer(text)]


def split_outer(text: str) -> list[str]:
    """Split a text at the commas outside its brackets and quotes.

    Args:
        text: The text.

    Returns:
        The items, without blanks round them; quotes stay.

    Raises:
        ConfigError: If brackets or quotes do not close.
    """
    items, depth, start, mark = [], 0, 0, ""
    for i, c in enumerate(text):
        if mark:
            mark = "" if c == mark else mark
        elif c in "'\"":
            mark = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    if depth or mark:
        raise ConfigError(f"{text!r}: brackets or quotes do not close; expected [a,b,…]")
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def parse_value(key: str, value: str) -> Any:
    """Read a value by Hydra's grammar: numbers, booleans, lists, mappings, else text.

    Args:
        key: Key, for the message.
        value: The text.

    Raises:
        ConfigError: If Hydra cannot read it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        raise ConfigError(
            f"{key}={value}: cannot be read; quote a text with blanks or special characters: {key}='\"…\"'"
        ) from None
    return plain_value(parsed)


def plain_value(value: Any) -> Any:
    """Replace Hydra's quoted strings, also inside lists and mappings."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(plain_value(k)): plain_value(v) for k, v in value.items()}
    return value.text if type(value).__name__ == "QuotedString" else value


@dataclass(frozen=True)
class PolicySpec:
    """A policy by name, with the parameters that differ from its defaults.

    Attributes:
        name: Name, folder of an agent, or dotted path of a class.
        params: Parameters given by the user.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name in result rows: ``NAME`` or ``NAME(key=value,…)``."""
        inner = ",".join(f"{k}={_show(v)}" for k, v in sorted(self.params.items()))
        return f"{self.name}({inner})" if inner else self.name


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).replace(" ", "")


def parse_policy(text: str) -> PolicySpec:
    """Read ``NAME`` or ``NAME(key=value,…)``.

    Args:
        text: The text.

    Raises:
        ConfigError: If what stands in the parentheses is not ``key=value``.
    """
    name, found, inner = text.strip().partition("(")
    if not found or not inner.endswith(")"):
        return PolicySpec(text.strip())
    params = {}
    for item in split_list(inner[:-1]):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"policy {text}: {item!r} should be parameter=value, like ols-mmt(safety=1.3)")
        params[key.strip()] = parse_value(f"{name}.{key.strip()}", value.strip())
    return PolicySpec(name.strip(), params)
