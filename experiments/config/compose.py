"""From overrides to a checked configuration: Hydra composes, its messages become one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.choices import (
    FOLDERS,
    as_typed,
    compose_choice,
    config_loader,
    hydra_words,
    is_file,
    on_own_path,
    own_folders,
    own_names,
    root_cause,
    store_choice,
    store_file,
)
from virtgym.envs.scenarios.kinds import GAMES
from virtgym.envs.scenarios.nodes import default_keys, schema_of
from virtgym.envs.scenarios.schema import as_meant, dotted_keys, no_key, unknown_key
from virtgym.policies.registry import POLICIES, policy_config

from .env import env_options
from .launchers import store_launchers
from .listing import experiment_choice, list_names, read_group_file
from .overrides import PolicySpec, parse_policy, plain_value, quote, split_list, split_outer, unquote
from .schema import (
    CELLS,
    COMMAND_KEYS,
    DEFAULT_POLICIES,
    REPLICA_KEYS,
    SUITE_KEYS,
    RunConfig,
    ScenarioNode,
    scenario_keys,
)
from .yamlio import YamlError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

PATH_KEYS = (
    *("out", "video", "initial", "import_zip", "scenario.trace.path", "scenario.windows"),
    *("scenario.instance", "scenario.assignment", "scenario.lower_bound"),
    *("scenario.carbon.path", "scenario.failures.path"),
    *("scenario.inventory.path", "scenario.inventory.usage", "scenario.inventory.overlay"),
    "scenario.inventory.cluster",
)
_OPEN_KEYS = (
    *("policy.", "env.", "scenario.quirks.", "scenario.trace.options.", "scenario.placement."),
    *("scenario.profiles.", "scenario.profile_assignment.", "scenario.snapshot.", "launcher.options."),
)
_GROUPS = ("scenario", "policy", "agent", "experiment", "env", "launcher", "suite")
_FUNCTION = re.compile(r"(choice|glob|range|interval|sort|shuffle|tag)\(")
"""How a value begins that Hydra's grammar makes several of."""
_OTHER = {
    ("evaluate", "policies"): "evaluate takes policy=NAME; use virtgym benchmark for several",
    ("watch", "policies"): "watch takes policy=NAME and shows one episode",
    ("watch", "seeds"): "watch takes seed=N and shows one episode",
}
CONFIG_NAMES = {
    **dict.fromkeys(("evaluate", "benchmark", "watch"), "config"),
    **{"train": "train", "suite": "suite_run"},
}
"""The primary configuration of each command (``conf/NAME.yaml``)."""


@dataclass(frozen=True)
class Run:
    """A checked command.

    Attributes:
        command: ``evaluate``, ``benchmark`` or ``watch``.
        config: The resolved configuration as plain data.
        scenario: Its scenario, as ``build_scenario`` takes it.
        policies: Policies to run.
        seeds: Seeds to run.
        env: Arguments of the environment that were asked for.
    """

    command: str
    config: dict[str, Any]
    scenario: dict[str, Any]
    policies: tuple[PolicySpec, ...]
    seeds: tuple[int, ...]
    env: dict[str, Any]


@dataclass(frozen=True)
class Composed:
    """What Hydra made of a command.

    Attributes:
        config: Every key, as plain data.
        typed: What was typed, as Hydra reads it.
        choices: Choice of each group.
        swept: Keys of which it is one of several values.
    """

    config: dict[str, Any]
    typed: tuple[Override, ...]
    choices: dict[str, Any]
    swept: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: DictConfig, hydra: Any, swept: Iterable[str] = ()) -> Composed:
        """Take a composed configuration, Hydra's own part of it, and keys of a sweep.

        Raises:
            ConfigError: If a reference in it leads nowhere.
        """
        from omegaconf import OmegaConf

        with told_in_one_line():
            plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        typed = tuple(parse_override(text) for text in hydra.overrides.task)
        return cls(
            {str(k): v for k, v in plain.items()}, typed, dict(hydra.runtime.choices), frozenset(swept)
        )

    def names(self, key: str) -> bool:
        """Whether a key, or one below it, was typed."""
        return any(f"{o.key_or_group}.".startswith(f"{key}.") for o in self.typed)

    @property
    def typed_scenario(self) -> list[str]:
        """Keys of the scenario that were typed, dotted from there on; of a mapping every key in it."""
        found: list[str] = []
        for override in self.typed:
            first, _, rest = override.key_or_group.partition(".")
            if "scenario.windows" in self.swept and rest in ("n_windows", "rows"):
                continue  # said for the jobs that draw their windows
            if first == "scenario" and rest:
                value = None if override.is_delete() else plain_value(override.value())
                found += dotted_keys({rest: value if isinstance(value, Mapping) else None})
        return found

    @property
    def own_scenario(self) -> dict[str, Any]:
        """The scenario as its file has it, before anything is laid over it."""
        name = str(self.choices.get("scenario"))
        if name in list_names("scenario"):
            return read_group_file("scenario", name)
        return {} if name == "None" else compose_choice("scenario", name)


def compose_run(command: str, arguments: Sequence[str]) -> Run:
    """Compose and check a run.

    Args:
        command: ``evaluate``, ``benchmark`` or ``watch``.
        arguments: Overrides as typed.

    Returns:
        The run.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    return make_run(command, compose_command(command, arguments))


def compose_command(command: str, arguments: Sequence[str]) -> Composed:
    """Let Hydra compose a command.

    Args:
        command: One of ``COMMAND_KEYS``.
        arguments: Overrides as typed.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    from hydra.types import RunMode
    from omegaconf import flag_override

    texts = hydra_overrides(command, arguments)
    with told_in_one_line(texts):
        config = config_loader().load_configuration(CONFIG_NAMES[command], texts, RunMode.RUN)
    hydra = config.hydra
    with flag_override(config, ["struct", "readonly"], [False, False]):
        del config["hydra"]
    return Composed.of(config, hydra)


def make_run(command: str, composed: Composed) -> Run:
    """Check what was composed.

    Args:
        command: ``evaluate``, ``benchmark`` or ``watch``.
        composed: What Hydra made of it.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    config = {**default_keys(RunConfig), **composed.config}
    typed = composed.typed_scenario
    if config["scenario"]["kind"] == "replica":
        for key in typed:
            if key.split(".")[0] not in REPLICA_KEYS:
                raise ConfigError(
                    f"scenario.{key}: fixed in the replica; allowed are: {', '.join(REPLICA_KEYS)}"
                )
        from ..replication.quirks import check_quirks

        check_quirks(config["scenario"]["quirks"])
    config["scenario"] = of_its_kind(config["scenario"], typed, composed.own_scenario)
    kind = str(config["scenario"]["kind"])
    one = composed.names("policy")
    config["policy"], first = config["policy"] or {}, DEFAULT_POLICIES["cluster"][0]
    if "name" not in config["policy"] or (not one and config["policy"]["name"] == first):
        config["policy"]["name"] = DEFAULT_POLICIES[kind][0]
    if command == "benchmark" and one and composed.names("policies"):
        raise ConfigError("policy, policies: name one policy by policy=NAME, or several by policies=[NAME,…]")
    if config["policies"] is None and command == "benchmark" and not one:
        config["policies"] = list(config["scenario"].get("rivals") or DEFAULT_POLICIES[kind])
    if command == "benchmark" and not one:
        specs = tuple(_without_defaults(parse_policy(text)) for text in config["policies"])
    else:
        specs = (_chosen_policy(config["policy"]),)
        config["policies"] = [specs[0].label]
    _check_policies(specs)
    scenario = {k: v for k, v in config["scenario"].items() if k != "_target_"}
    seeds = tuple(config["seeds"] if config["seeds"] is not None else [config["seed"]])
    check_numbers(seeds, config["workers"])
    env = config["env"] = env_options(config["env"], command, kind)
    return Run(command, config, scenario, specs, seeds, env)


def _chosen_policy(config: Mapping[str, Any]) -> PolicySpec:
    params = {k: v for k, v in config.items() if k not in ("_target_", "name", "description")}
    return _without_defaults(PolicySpec(str(config["name"]), params))


def _check_policies(specs: Sequence[PolicySpec]) -> None:
    if not specs:
        raise ConfigError("policies=[]: name at least one, like policies=[static,thr-mmt]")
    seen: set[str] = set()
    for spec in specs:
        if spec.label in seen:
            raise ConfigError(f"policies: {spec.label} is named twice")
        seen.add(spec.label)


def _without_defaults(spec: PolicySpec) -> PolicySpec:
    """Leave out parameters that are given their default, so that one policy has one label."""
    from omegaconf import OmegaConf

    if spec.name not in POLICIES:
        return spec
    defaults: Any = OmegaConf.to_container(OmegaConf.create(policy_config(spec.name)))
    changed = {k: v for k, v in spec.params.items() if k not in defaults or defaults[k] != v}
    return PolicySpec(spec.name, changed)


def check_numbers(seeds: Any, workers: Any) -> None:
    """Check what every command that plays policies is given, whatever its values are.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    if not isinstance(seeds, (list, tuple)) or not all(type(seed) is int for seed in seeds):
        shown = f"[{','.join(map(str, seeds))}]" if isinstance(seeds, (list, tuple)) else seeds
        raise ConfigError(f"seeds={shown}: must be a list of whole numbers, like [0,1,2]")
    if not seeds:
        raise ConfigError("seeds=[]: name at least one, like seeds=[0,1,2]")
    if min(seeds) < 0:
        raise ConfigError(f"seeds: {min(seeds)} is negative; seeds are 0 or more")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={list(seeds)}: a seed is named twice")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers={workers}: must be at least 1")


def of_its_kind(
    scenario: dict[str, Any], typed: Sequence[str] = (), own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Leave out what a scenario's kind does not have; what would be ignored is an error.

    Args:
        scenario: As composed.
        typed: Keys of it that were typed.
        own: The scenario before anything was laid over it; None = as it ships.
    """
    kind = str(scenario["kind"])
    if kind not in DEFAULT_POLICIES:
        raise ConfigError(f"scenario.kind={kind}: must be one of {', '.join(DEFAULT_POLICIES)}")
    allowed = scenario_keys(kind if kind in GAMES else "cluster")
    plain = default_keys(ScenarioNode)
    for key, value in scenario.items():
        if key not in plain:
            raise no_key(f"scenario.{key}", allowed)
        if key not in (*allowed, "_target_") and value != plain[key]:
            raise ConfigError(
                f"scenario.{key}: {scenario['name']} is of kind {kind}, which has no such key; "
                f"allowed are: {', '.join(allowed)}"
            )
    kept = {key: value for key, value in scenario.items() if key in (*allowed, "_target_")}
    if own is None:
        name = str(scenario["name"])
        own = read_group_file("scenario", name) if name in list_names("scenario") else {}
    kept = as_meant(kept, own, typed)
    return GAMES[kind].check(kept, typed) if kind in GAMES else kept


def hydra_overrides(command: str, arguments: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Bring what was typed into the form that Hydra's grammar takes, and store what it chooses.

    Paths and policies with parameters are quoted, since the grammar gives a meaning to ``=`` and parentheses
    in them; files, folders and classes of one's own become choices; keys of open mappings are marked as new.

    Args:
        command: One of ``COMMAND_KEYS``.
        arguments: Overrides as typed.
        sweep: Whether a key may have several values.

    Raises:
        ConfigError: For what no override is, a key that the command does not have, or several values.
    """
    take_search_path(arguments)
    arguments = [text for text in arguments if text not in ("experiment=null", "env=null")]  # the default
    texts = [_in_hydras_form(text, sweep) for text in arguments]
    parsed = [parse_override(text) for text in texts]
    _store_schemas(command, parsed)
    for override, typed in zip(parsed, arguments):
        _check_key(command, override, typed)
        if override.is_sweep_override() and (not sweep or override.key_or_group.split(".")[0] in CELLS):
            raise ConfigError(
                f"{typed.lstrip('+')}: several values where one is allowed "
                "(several seeds: seeds=[0,1,2]; every combination: -m)"
            )
    return texts


def take_search_path(arguments: Sequence[str]) -> list[str]:
    """Look for groups in the folders of ``hydra.searchpath=[DIR,…]``, too.

    Args:
        arguments: Overrides as typed.

    Returns:
        The other overrides.
    """
    key = "hydra.searchpath="
    for text in arguments:
        if text.lstrip("+").startswith(key):
            value = plain_value(parse_override(text.lstrip("+")).value())
            named = value if isinstance(value, list) else [value] if value else []
            FOLDERS.extend(str(folder) for folder in named if str(folder) not in FOLDERS)
    return [text for text in arguments if not text.lstrip("+").startswith(key)]


def parse_override(text: str) -> Override:
    """Read an override by Hydra's grammar.

    Raises:
        ConfigError: If it is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        shown = text.lstrip("+")
        key, _, value = shown.partition("=")
        raise ConfigError(
            f"{shown}: the value cannot be read; quote a text with special characters: {key}='\"{value}\"'"
        ) from None


def is_hydra_key(key: str) -> bool:
    """Whether a key is one of Hydra's own."""
    return key.split(".")[0].split("/")[0] == "hydra"


def _in_hydras_form(text: str, sweep: bool) -> str:
    bare = text.lstrip("+~")
    mark = text[: len(text) - len(bare)]
    key, equals, value = bare.partition("=")
    key = key.strip()
    if not key or not (equals or mark == "~"):
        raise ConfigError(f"{text!r}: expected key=value, like scenario=demo or seed=1")
    if mark == "~" or is_hydra_key(key):
        return text
    key = "import_zip" if key == "import" else key
    several = split_outer(value) if sweep and key != "out" and "," in value else [value]
    if key in PATH_KEYS:
        value = ",".join(map(quote, several))
    elif key == "policies":
        value = ",".join(f"[{','.join(quote(item) for item in split_list(one))}]" for one in several)
    elif key in _GROUPS:
        value = ",".join(_choice(key, unquote(one)) for one in several)
    elif not mark and f"{key}.".startswith(_OPEN_KEYS):
        mark = "++"  # open mappings, checked by their owners: Hydra asks for a mark to add a key
    return f"{mark}{key}={value}"


def _choice(group: str, name: str) -> str:
    """The choice of Hydra's group that stands for what was typed."""
    if is_file(name):
        return store_file(group, name)
    if on_own_path(group, name) or _FUNCTION.match(name):
        return name
    if name in ("null", ""):  # of which Hydra makes no choice
        raise ConfigError(f"{group}={name}: no such {group}; there are: {', '.join(list_names(group))}")
    return CHOOSERS[group](name) if group in CHOOSERS else name


def _choose_policy(name: str) -> str:
    """A policy by name; an agent's folder, a class, or one with parameters is added to the group."""
    if name in POLICIES:
        return name
    spec = parse_policy(name)
    known = policy_config(spec.name) if spec.name in POLICIES else {"name": spec.name}
    return store_choice("policy", name, {**known, **spec.params})


CHOOSERS: dict[str, Callable[[str], str]] = {"policy": _choose_policy}
"""By group, what finds or makes the choice for a name; ``training.compose`` adds ``agent``."""

SCHEMAS: dict[str, Callable[[], None]] = {}
"""By command, what tells Hydra types other than ``RunConfig``; ``training.compose`` adds ``train``."""


def _store_schemas(command: str, parsed: Sequence[Override]) -> None:
    """Tell Hydra the types of every key, and the policies that may be chosen."""
    store_launchers()
    if command in SCHEMAS:
        SCHEMAS[command]()
        return
    store_schema("run_schema", RunConfig)
    values = [str(o.input_line).partition("=")[2] for o in parsed if o.key_or_group == "policy"]
    named = {name for value in values or [DEFAULT_POLICIES["cluster"][0]] for name in split_list(value)}
    for o in parsed:
        if o.key_or_group == "experiment":
            named.add(experiment_choice(str(o.input_line).partition("=")[2], "policy") or "")
    # One configuration each: of all of them it takes a second, so only where any may be inherited.
    inherits = own_folders() or any(name not in POLICIES for name in named if name)
    store_policies(POLICIES if inherits else named & {*POLICIES})


def store_schema(name: str, kind: type[Any]) -> None:
    """Tell Hydra the types of a command's keys, unless it knows them: it takes as long as composing."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    if f"{name}.yaml" not in store.repo:
        store.store(name=name, node=schema_of(cast(Any, kind)))


def store_policies(names: Iterable[str]) -> None:
    """Make policies choices of their group."""
    from hydra.core.config_store import ConfigStore

    for name in names:
        ConfigStore.instance().store(group="policy", name=name, node=policy_config(name))


def _check_key(command: str, override: Override, typed: str) -> None:
    """Refuse keys that the command does not have, naming their neighbours."""
    key, allowed = override.key_or_group, COMMAND_KEYS[command]
    first = key.split(".")[0]
    if is_hydra_key(key):
        return
    if (command, first) in _OTHER:
        raise ConfigError(f"{typed}: {_OTHER[command, first]}")
    if command == "suite" and (first not in allowed or (first == "suite" and key not in SUITE_KEYS)):
        raise ConfigError(
            f"{typed.lstrip('+~')}: a suite has no such key{hint(key, SUITE_KEYS)}; "
            f"allowed are: {', '.join((*SUITE_KEYS, *allowed[1:]))}"
        )
    if first not in allowed:
        raise ConfigError(
            f"{typed.lstrip('+~')}: {command} has no key {first}{hint(first, allowed)}; "
            f"allowed are: {', '.join(allowed)}"
        )
    if key == "experiment" and command != "train" and experiment_choice(typed.partition("=")[2], "agent"):
        raise ConfigError(f"{typed}: trains an agent; use virtgym train {typed}")


@contextmanager
def told_in_one_line(texts: Sequence[str] = ()) -> Iterator[None]:
    """Tell what Hydra refuses as a user's error.

    Args:
        texts: Overrides that it is given.

    Raises:
        ConfigError: One line.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(tell_hydra_error(error)) from None
    except YamlError as error:  # of a file on the search path
        raise ConfigError(f"not YAML ({' '.join(str(error).split())})") from None
    except TypeError as error:
        index = re.match(r"Index '(.*)' \(str\) is not an int", str(error))  # OmegaConf's, of a list
        if index is None:
            raise
        where = next((text.lstrip("+~") for text in texts if f".{index[1]}." in text), "a key")
        raise ConfigError(f"{where}: {index[1]} should be the number of an item, 0 is the first") from None


def tell_hydra_error(error: BaseException) -> str:
    """What Hydra says in many lines, in one: the key, what is wrong with it, and what is allowed."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        path = str(error.missing_cfg_file).removesuffix(".yaml")
        group, _, name = path.rpartition("/") if is_hydra_key(path) else path.partition("/")
        known = (*list_names(group), *own_names(group))
        known = (*known, *POLICIES) if group == "policy" else known
        text = f"{group}={name}: no such {group}{hint(name, known)}; there are: {', '.join(known) or 'none'}"
        return as_typed(error, text)
    cause = root_cause(error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and is_dataclass(cause.object_type):
        key = str(cause.full_key or cause.key)
        if "." not in key or key.startswith("scenario."):  # within an item of a list it knows no more
            return as_typed(error, str(unknown_key(cause)))
        hidden = ("name", "description")
        allowed = [f.name for f in fields(cause.object_type) if not f.name.startswith("_")]
        return as_typed(error, str(no_key(key, [name for name in allowed if name not in hidden])))
    return hydra_words(error)
