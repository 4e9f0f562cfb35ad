"""A choice of a configuration group: a name that ships, one on the search path, or a file of one's own.

Hydra composes it, so a file may inherit by a list of defaults: ``defaults: [small]`` is the scenario of that
name (or ``small.yaml`` beside the file, which comes first) with the keys of the file laid over it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..registry import Registry, group_names

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.config_search_path import ConfigSearchPath

FOLDERS: list[str] = []
"""Folders of one's own in which groups are looked for (``FOLDER/scenario/NAME.yaml``), after what ships."""

SCENARIO_FOLDERS = Registry(
    "scenario folder",
    lambda thing: isinstance(thing, str | Path) and Path(thing).is_dir(),
    "a folder with scenario/NAME.yaml in it",
)
"""Such folders of plug-ins, by name."""

STORED: dict[str, str] = {}
"""What was typed for a choice that ``store_choice`` made: its file, or whatever else Hydra cannot name."""


def is_file(name: str) -> bool:
    """Whether a choice is a file of one's own, not a name."""
    return name.endswith((".yaml", ".yml"))


def own_folders() -> list[str]:
    """``FOLDERS``, then those of plug-ins."""
    plugged = [str(SCENARIO_FOLDERS.find(name).factory) for name in SCENARIO_FOLDERS]
    return [*FOLDERS, *(folder for folder in plugged if folder not in FOLDERS)]


def on_own_path(group: str, name: str) -> bool:
    """Whether a folder of one's own has a choice of a group."""
    return any((Path(folder) / group / f"{name}.yaml").is_file() for folder in own_folders())


def own_names(group: str) -> list[str]:
    """Choices of a group that folders of one's own have."""
    found = [folder for folder in (Path(own) / group for own in own_folders()) if folder.is_dir()]
    return [name for folder in found for name in group_names(folder)]


def search_path() -> ConfigSearchPath:
    """Where Hydra looks for groups: what ships, and ``own_folders``."""
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    path = create_config_search_path("pkg://virtgym.conf")
    for folder in own_folders():
        if "://" not in folder and not Path(folder).is_dir():
            raise ConfigError(f"{folder}: no such folder on the search path (--config-dir, hydra.searchpath)")
        where = folder if "://" in folder else f"file://{Path(folder).absolute()}"
        path.prepend("command-line", where, SearchPathQuery(provider="schema"))
    return path


def config_loader() -> ConfigLoader:
    """Hydra's loader without any state of the process: who asks may stand within a command of Hydra's."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_store import ConfigStore

    # Hydra copies all that is stored for each composition, yet what it loads from there is a copy anyway.
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    if version.getbase() is None:
        version.setbase("1.3")
    return ConfigLoaderImpl(search_path())


def compose_choice(group: str, name: str) -> dict[str, Any]:
    """Compose one choice of a group, and nothing else.

    Args:
        group: Such as ``scenario``.
        name: A name, or the path of a file.

    Returns:
        Its keys as plain data.

    Raises:
        ConfigError: If there is no such choice, or it cannot be read or composed.
    """
    import yaml
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choice = store_file(group, name) if is_file(name) else name
    try:
        composed = config_loader().load_configuration(None, [f"+{group}={choice}"], RunMode.RUN)
        plain = OmegaConf.to_container(composed[group])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{group}={name}: {hydra_words(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{group}={name}: not YAML ({' '.join(str(error).split())})") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def root_cause(error: BaseException) -> BaseException:
    """The error of OmegaConf or Hydra that Hydra wraps once or twice."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    inner = error.__cause__ or error.__context__
    wraps = isinstance(error, HydraException) and isinstance(inner, HydraException | OmegaConfBaseException)
    return root_cause(inner) if wraps and inner is not None else error


def hydra_words(error: BaseException) -> str:
    """What Hydra says in many lines, in one line."""
    cause = root_cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else type(cause).__name__
    if text.endswith("raised while composing config:") and len(lines) > 1:
        text = lines[1]
    full_key = getattr(cause, "full_key", None)
    return as_typed(error, f"{full_key}: {text}" if full_key else text)


def as_typed(error: BaseException, text: str) -> str:
    """What an error says, with what was typed for choices that were made for it, and the file it is in."""
    for choice, typed in STORED.items():
        text = text.replace(choice, typed)
        if f"/{choice}'" in str(error) and typed not in text:
            text = f"{typed}: {text}"
    return text


def store_choice(group: str, typed: str, node: Any, package: str | None = None) -> str:
    """Make something a choice of a group.

    Args:
        group: The group.
        typed: What a person calls it.
        node: Its configuration.
        package: Where its keys belong; None = the group's place.

    Returns:
        The name of the choice.
    """
    from hydra.core.config_store import ConfigStore

    choice = f"own_{hashlib.blake2b(f'{group} {typed}'.encode(), digest_size=6).hexdigest()}"
    ConfigStore.instance().store(group=group, name=choice, node=node, package=package)
    STORED[choice] = typed
    return choice


def store_file(group: str, path: str, inheriting: Sequence[Path] = ()) -> str:
    """Make a file of one's own, with those beside it that it inherits, a choice of a group.

    Args:
        group: The group.
        path: The file.
        inheriting: Files that inherit it.

    Returns:
        The name of the choice.

    Raises:
        ConfigError: If it cannot be read, is no mapping, or inherits itself.
    """
    import yaml
    from hydra.plugins.config_source import ConfigSource
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    here = Path(path).absolute()
    if here in inheriting:
        raise ConfigError(f"{group}={path}: inherits itself by its defaults")
    try:
        text = here.read_text(encoding="utf-8")
        node: Any = OmegaConf.create(text)
    except OSError as error:
        raise ConfigError(f"{group}={path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{group}={path}: not YAML ({' '.join(str(error).split())})") from None
    if not OmegaConf.is_dict(node) or (text.strip() and not node and ":" not in text):
        raise ConfigError(f"{group}={path}: must be a mapping with the keys of a {group}")
    plain: Any = OmegaConf.to_container(node)
    defaults = plain.get("defaults", [])
    if not isinstance(defaults, list):
        raise ConfigError(f"{group}={path}: defaults={defaults}: must be a list, like [small]")
    if defaults:
        if group == "scenario":
            _replace_generator(node, plain.get("trace"))
        node["defaults"] = [_inherited(group, entry, here, (*inheriting, here)) for entry in defaults]
    header = ConfigSource._get_header_dict(text)
    return store_choice(group, path, node, header.get("package"))


def _replace_generator(node: Any, trace: Any) -> None:
    """Let a path in a file that inherits replace the generator that it inherits, with its options."""
    if (
        not isinstance(trace, Mapping)
        or trace.get("path") is None
        or not isinstance(trace.get("options", {}), Mapping)
    ):
        return
    from ..traces import TRACE_FORMATS
    from ..traces.readers import REQUEST_FORMATS
    from .schema import GENERATORS

    generated = [
        key
        for formats in (TRACE_FORMATS, REQUEST_FORMATS)
        for name in GENERATORS
        if name in formats
        for key in formats.find(name).defaults
    ]
    node["trace"] = {
        "format": "auto",
        **trace,
        "options": {**dict.fromkeys(generated), **trace.get("options", {})},
    }


def _inherited(group: str, entry: Any, here: Path, inheriting: Sequence[Path]) -> Any:
    """An entry of a list of defaults; a file beside the file is made a choice, keys stay in their place."""
    if isinstance(entry, Mapping) or not isinstance(entry, str) or "@" in entry or entry == "_self_":
        return entry
    beside = here.parent / (entry if is_file(entry) else f"{entry}.yaml")
    if is_file(entry) or (beside.is_file() and beside != here):
        entry = store_file(group, str(beside), inheriting)
    return f"{entry}@_here_"
