"""``virtgym new KIND NAME``: a package of one's own, as a skeleton that works and has a test.

A skeleton is a text of the folder ``skeletons``: a line about the kind, then parts that begin with
``=== PATH``, and ``=== use`` with commands. It calls its package ``my_pkg``.
"""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from virtgym.envs.checks import unknown_name
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import GROUP

from .listing import LISTED
from .usage import NEW

KINDS: dict[str, str] = {
    "policy": "policies", "detector": "detectors", "forecaster": "forecasters", "reward": "rewards",
    "column": "columns", "candidate": "candidates", "reader": "traces", "power": "power",
    "scenario": "scenarios", "metric": "metrics", "section": "sections",
}  # fmt: skip
"""Kinds of skeletons, and what ``virtgym list`` calls the things."""

_PLACEHOLDER = "my_pkg"
_PROJECT = f"""\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "{_PLACEHOLDER}"
version = "0.1.0"
dependencies = ["virtgym"]

[project.entry-points."{GROUP}"]
{_PLACEHOLDER} = "{_PLACEHOLDER}:register"

[tool.setuptools]
packages = ["{_PLACEHOLDER}"]
package-dir = {{"" = "src"}}

[tool.setuptools.package-data]
{_PLACEHOLDER} = ["**/*.yaml"]

[tool.pytest.ini_options]
pythonpath = ["src"]
"""


@dataclass(frozen=True)
class Skeleton:
    """A package that is to be written.

    Attributes:
        about: What its thing is, one line.
        use: Commands that use it, one a line.
        files: Text by path.
    """

    about: str
    use: str
    files: dict[str, str]


def read_skeleton(kind: str, name: str = _PLACEHOLDER) -> Skeleton:
    """Read the skeleton of a kind.

    Args:
        kind: One of ``KINDS``.
        name: What the package is called.

    Raises:
        ConfigError: If there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS, ConfigError)
    text = (resources.files(__package__) / "skeletons" / f"{kind}.txt").read_text(encoding="utf-8")
    text = text.replace(_PLACEHOLDER, name).replace("MyPkg", name.title().replace("_", ""))
    about, *parts = re.split(r"^=== (.*)\n", text, flags=re.MULTILINE)
    found = dict(zip(parts[::2], parts[1::2]))
    use = found.pop("use").rstrip()
    return Skeleton(about.strip(), use, {"pyproject.toml": _PROJECT.replace(_PLACEHOLDER, name), **found})


def _check_name(kind: str, name: str) -> None:
    """Refuse what is no name of a package, or is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"new {kind} {name}: must be a name of a package: small letters, digits and _")
    if Path(name).exists():
        raise ConfigError(f"new {kind} {name}: there is something of this name here; choose another")
    for path in LISTED.get(KINDS[kind], ()):
        module, _, attribute = path.partition(":")
        things = getattr(importlib.import_module(module), attribute)
        taken = f"hosts/{name}" if kind == "column" else name
        if things.named(taken) is not None:
            raise ConfigError(f"new {kind} {name}: there is a {things.kind} of this name; choose another")
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(f"new {kind} {name}: there is a package of this name; choose another")


def write_skeleton(kind: str, name: str, folder: Path) -> list[Path]:
    """Write a package.

    Args:
        kind: One of ``KINDS``.
        name: What it is called.
        folder: Where its files go.

    Returns:
        The files.

    Raises:
        ConfigError: If there is no such kind.
    """
    written = []
    for path, text in read_skeleton(kind, name).files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written


def main(arguments: Sequence[str]) -> int:
    """Run ``virtgym new``.

    Raises:
        ConfigError: For a kind that there is not, or a name that cannot be.
    """
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(NEW.format(kinds=" ".join(KINDS)), end="")
        return 0 if arguments else 2
    if len(arguments) != 2:
        raise ConfigError(f"new {' '.join(arguments)}: takes a kind and a name, like policy calm")
    kind, name = arguments
    skeleton = read_skeleton(kind, name)
    _check_name(kind, name)
    for file in write_skeleton(kind, name, Path(name)):
        print(file)
    print(f"\ninstall and test it:\n  pip install -e {name} && python -m pytest {name}\nthen:")
    print("\n".join(f"  {line}" for line in skeleton.use.splitlines()))
    return 0
