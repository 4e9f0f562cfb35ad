"""One way to give a thing a name: in code, by a plug-in's entry point, or by the dotted path of one's own.

A registry holds one kind of thing: policies, trace formats, detectors, reward terms, agents. What ships is
registered as ``"module:name"`` and imported when it is used, so that a list of names costs nothing.

A plug-in is an installed package with an entry point in the group ``virtgym.plugins``. It names a function
without arguments, which registers, or a module, which does so when it is imported. Plug-ins are loaded
once, when a list is asked for or a name is looked up that virtgym does not have.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from importlib import metadata
from typing import Any

from .checks import unknown_name
from .errors import ConfigError, VirtgymError

GROUP = "virtgym.plugins"
"""Group of the entry points of plug-ins."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*[.:][A-Za-z_]\w*")
_loaded: set[str] = set()


class PluginWarning(UserWarning):
    """A plug-in could not be loaded; what it would have registered is missing."""


@dataclass(frozen=True)
class Entry:
    """A thing that has a name.

    Attributes:
        name: The name.
        description: One line for lists.
        factory: The thing: a class, function or object; ``module:name`` until it is used.
        implied: Parameters that the name implies.
    """

    name: str
    description: str
    factory: Any
    implied: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modules(self) -> set[str]:
        """Modules that say what the thing does, as far as they are known without importing it."""
        if isinstance(self.factory, str):
            return {_split(self.factory)[0]}
        parts = [] if isinstance(self.factory, type) else getattr(self.factory, "__dict__", {}).values()
        things = (self.factory, *(part for part in parts if callable(part)))
        return {str(getattr(thing, "__module__", "")) for thing in things}

    @property
    def defaults(self) -> dict[str, Any]:
        """Every parameter with its default; imports the thing."""
        thing = self.factory
        return {**parameters(getattr(thing, "schema", thing)), **self.implied}


class Registry(Mapping[str, str]):
    """Things of one kind by name; as a mapping, from name to description.

    Args:
        kind: What they are called, the key in messages.
        accepts: Whether something is of the kind; asked before anything is made of it.
        needs: What is of the kind, for the message: "must be a class with …".
        error: Type of the errors.
    """

    def __init__(
        self,
        kind: str,
        accepts: Callable[[Any], bool],
        needs: str,
        error: type[VirtgymError] = ConfigError,
    ) -> None:
        self.kind, self.error = kind, error
        self._accepts, self._needs = accepts, needs
        self._entries: dict[str, Entry | Callable[[], Iterable[Entry]]] = {}
        REGISTRIES.append(self)

    def register(self, name: str, description: str, factory: Any, **implied: Any) -> None:
        """Give a thing a name.

        Args:
            name: The name.
            description: One line for lists.
            factory: The thing, or ``"module:name"`` of it, which is imported when it is used.
            **implied: Parameters that the name implies.

        Raises:
            VirtgymError: If the name is that of something that ships; one's own is replaced.
        """
        entry = self.named(name)
        if entry is not None and all(map(_ships, entry.modules)):
            raise self.error(f"{self.kind}={name}: ships with virtgym; choose another name")
        self._entries[name] = Entry(name, description, factory, implied)

    def register_family(self, pattern: str, members: Callable[[], Iterable[Entry]]) -> None:
        """Give names to all combinations of other things.

        Args:
            pattern: What the names look like.
            members: Makes the entries that there are now.
        """
        self._entries[pattern] = members

    def known(self) -> Iterator[Entry]:
        """Every entry that is registered by now."""
        for entry in list(self._entries.values()):
            if isinstance(entry, Entry):
                yield entry
            else:
                yield from entry()

    def entries(self) -> Iterator[Entry]:
        """Every entry, with those of plug-ins."""
        load_plugins()
        return self.known()

    def named(self, name: str) -> Entry | None:
        """The entry of a name that is registered by now."""
        entry = self._entries.get(name)
        if isinstance(entry, Entry):
            return entry
        return next((entry for entry in self.known() if entry.name == name), None)

    def __getitem__(self, name: str) -> str:
        """Description of a name."""
        if self.named(name) is None:
            load_plugins()
        entry = self.named(name)
        if entry is None:
            raise KeyError(name)
        return entry.description

    def __iter__(self) -> Iterator[str]:
        """All names."""
        return (entry.name for entry in self.entries())

    def __len__(self) -> int:
        """Number of names."""
        return sum(1 for _ in self.entries())

    def find(self, name: str, key: str | None = None) -> Entry:
        """Look a name or a dotted path up, and import what it means.

        Args:
            name: A name, or ``package.module:thing`` (or ``package.module.thing``) of one's own.
            key: What is being set, for messages; None = the kind.

        Returns:
            The entry, its factory imported and of the right kind.

        Raises:
            VirtgymError: For a name that there is not, naming close ones and what is allowed; for a path
                that cannot be imported, or leads to something else.
        """
        key = key or self.kind
        entry = self.named(name) if name in self else None
        if entry is None:
            if not _PATH.fullmatch(str(name)):
                raise unknown_name(key, name, self, self.error)
            entry = Entry(name, "", name)
        if isinstance(entry.factory, str):
            entry = replace(entry, factory=self._import(f"{key}={name}", entry.factory))
        if not self._accepts(entry.factory):
            raise self.error(f"{key}={name}: must be {self._needs}, is {_describe(entry.factory)}")
        return entry

    def _import(self, what: str, path: str) -> Any:
        module, name = _split(path)
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            what = f"{what}: no module {error.name}"
            raise self.error(
                f"{what} is installed, on PYTHONPATH or here; names that there are: {', '.join(self)}"
            ) from error
        except AttributeError as error:
            raise self.error(f"{what}: {error}") from error
        except (ImportError, SyntaxError) as error:
            reason = " ".join(str(error).split())
            raise self.error(f"{what}: module {module} cannot be imported: {reason}") from error


REGISTRIES: list[Registry] = []
"""Every registry."""


def _split(path: str) -> tuple[str, str]:
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    return module, name


def _ships(module: str) -> bool:
    return module.partition(".")[0] == "virtgym"


def _describe(thing: Any) -> str:
    name = getattr(thing, "__qualname__", None)
    return f"{name} of {thing.__module__}" if name else f"a {type(thing).__name__}"


def load_plugins() -> None:
    """Load the plug-ins that are installed, once a process; one that fails is told and left out."""
    if GROUP in _loaded:
        return
    _loaded.add(GROUP)  # first: a plug-in may look names up itself
    for point in metadata.entry_points(group=GROUP):
        try:
            plugin = point.load()
            if not inspect.ismodule(plugin):
                plugin()
        except Exception as error:  # code of others, on which nothing else depends
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            text = f"plug-in {point.name} ({point.value}) cannot be loaded: {reason}"
            warnings.warn(text, PluginWarning, stacklevel=2)


def parameters(schema: Any) -> dict[str, Any]:
    """Parameters with their defaults, of a dataclass, class, function or mapping; others are left out."""
    if isinstance(schema, Mapping):
        return dict(schema)
    if is_dataclass(schema):
        values = {f.name: field_default(f) for f in fields(schema) if f.init}
        return {name: value for name, value in values.items() if value is not MISSING}
    found = inspect.signature(schema).parameters.values()
    return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}


def field_default(parameter: Field[Any]) -> Any:
    """Default of a dataclass's field, ``dataclasses.MISSING`` if it has none."""
    if parameter.default_factory is not MISSING:
        return parameter.default_factory()
    return parameter.default


def own_modules(values: Any) -> set[str]:
    """Modules outside of virtgym of whatever a configuration names, by name or by dotted path.

    Args:
        values: Nested plain data.
    """
    if isinstance(values, Mapping | list | tuple):
        inner = (*values, *values.values()) if isinstance(values, Mapping) else values
        return set().union(*map(own_modules, inner))
    if not isinstance(values, str):
        return set()
    entries = [entry for registry in REGISTRIES if (entry := registry.named(values)) is not None]
    found = set().union(*(entry.modules for entry in entries))
    if _PATH.fullmatch(values):
        module, name = _split(values)
        found |= {module} if hasattr(sys.modules.get(module), name) else set()
    return {module for module in found if not _ships(module)}


def group_names(folder: Any) -> tuple[str, ...]:
    """Names of the YAML files of a folder, sorted, then those of its folders as ``FOLDER/NAME``.

    Args:
        folder: A path, or a resource of a package.
    """
    entries = sorted(folder.iterdir(), key=lambda entry: str(entry.name))
    names = [entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")]
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith(("_", ".")):
            names += [f"{entry.name}/{name}" for name in group_names(entry)]
    return tuple(names)
