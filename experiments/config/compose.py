"""From overrides to a checked configuration: Hydra composes, its messages become one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.nodes import default_keys, schema_of
from virtgym.envs.scenarios.placement import check_drawn, check_placement_keys
from virtgym.envs.scenarios.schema import as_meant, dotted_keys, unknown_key
from virtgym.policies.registry import POLICIES, policy_config, policy_defaults

from .listing import experiment_choice, list_names, read_group_file
from .overrides import (
    PolicySpec,
    last_value,
    parse_policy,
    parse_value,
    quote,
    split_list,
    split_override,
    unquote,
)
from .schema import COMMAND_KEYS, DEFAULT_POLICIES, REPLICA_KEYS, RunConfig, ScenarioNode, scenario_keys
from .yamlio import YamlError

PATH_KEYS = (
    *("out", "video", "scenario.trace.path", "scenario.windows"),
    *("scenario.carbon.path", "scenario.failures.path"),
)
_OPEN_KEYS = (
    *("policy.", "env.", "scenario.quirks.", "scenario.trace.options.", "scenario.placement."),
    *("scenario.profiles.", "scenario.profile_assignment."),
)
_USER_FILE = "user_file"
_GROUPS = ("scenario", "policy", "agent", "experiment")
_OTHER = {
    (
        "benchmark",
        "policy",
    ): "benchmark takes policies=[NAME,…], parameters like policies=['ols-mmt(safety=1.3)']",
    ("evaluate", "policies"): "evaluate takes policy=NAME; use virtgym benchmark for several",
    ("watch", "policies"): "watch takes policy=NAME and shows one episode",
    ("watch", "seeds"): "watch takes seed=N and shows one episode",
    ("evaluate", "workers"): "evaluate runs in one process; use virtgym benchmark for several",
}


@dataclass(frozen=True)
class Run:
    """A checked command.

    Attributes:
        command: ``evaluate``, ``benchmark`` or ``watch``.
        config: The resolved configuration as plain data.
        scenario: Its scenario, as ``build_scenario`` takes it.
        policies: Policies to run.
        seeds: Seeds to run.
    """

    command: str
    config: dict[str, Any]
    scenario: dict[str, Any]
    policies: tuple[PolicySpec, ...]
    seeds: tuple[int, ...]


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
    pairs = [split_override(text) for text in arguments]
    for key, value in pairs:
        check_key(command, key, value)
    typed = last_value(pairs, "policy")
    # Names that Hydra does not know (agents' folders, classes, the replica's own) are looked up later.
    reference = unquote(typed) if typed and unquote(typed) not in POLICIES else None
    texts = [
        quote_value(key, value) for key, value in pairs if not (reference and key.split(".")[0] == "policy")
    ]
    for text in texts:
        check_grammar(text)
    chosen = experiment_choice(unquote(last_value(pairs, "experiment") or ""), "policy")
    config = _compose(texts, {DEFAULT_POLICIES["cluster"][0], chosen or "", unquote(typed or "")})
    if config["scenario"]["kind"] == "replica":
        _check_replica_keys(pairs)
    config["scenario"] = of_its_kind(config["scenario"], typed_keys(pairs))
    params = {k[7:]: parse_value(k, v) for k, v in pairs if k.startswith("policy.")}
    kind = str(config["scenario"]["kind"])
    if typed is None and kind != "cluster" and config["policy"].get("name") == DEFAULT_POLICIES["cluster"][0]:
        reference = DEFAULT_POLICIES[kind][0]
    if reference:
        config["policy"] = {"name": reference, **params}
    name = reference or str(config["policy"].get("name") or typed or "static")
    if config["policies"] is None:
        config["policies"] = list(DEFAULT_POLICIES[kind])
    specs = _policies(command, config, name, params)
    scenario = {k: v for k, v in config["scenario"].items() if k != "_target_"}
    seeds = tuple(config["seeds"] if config["seeds"] is not None else [config["seed"]])
    check_numbers(seeds, config["workers"])
    return Run(command, config, scenario, specs, seeds)


def _policies(
    command: str, config: dict[str, Any], name: str, params: dict[str, Any]
) -> tuple[PolicySpec, ...]:
    if command != "benchmark":
        return (_without_defaults(PolicySpec(name, params)),)
    specs = tuple(_without_defaults(parse_policy(text)) for text in config["policies"])
    if not specs:
        raise ConfigError("policies=[]: name at least one, like policies=[static,thr-mmt]")
    seen: set[str] = set()
    for spec in specs:
        if spec.label in seen:
            raise ConfigError(f"policies: {spec.label} is named twice")
        seen.add(spec.label)
    return specs


def _without_defaults(spec: PolicySpec) -> PolicySpec:
    """Leave out parameters that are given their default, so that one policy has one label."""
    if spec.name not in POLICIES:
        return spec
    defaults = policy_defaults(spec.name)
    changed = {k: v for k, v in spec.params.items() if k not in defaults or defaults[k] != v}
    return PolicySpec(spec.name, changed)


def check_numbers(seeds: Any, workers: Any, report: Any = True) -> None:
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
    if type(workers) is not int or workers < 1:
        raise ConfigError(f"workers={workers}: must be at least 1")
    if type(report) is not bool:
        raise ConfigError(f"report={report}: must be true or false")


def check_key(command: str, key: str, value: str) -> None:
    """Refuse keys and choices that do not exist, naming their neighbours."""
    first, _, rest = key.partition(".")
    allowed = COMMAND_KEYS[command]
    if (command, first) in _OTHER:
        raise ConfigError(f"{key}={value}: {_OTHER[command, first]}")
    if first not in allowed:
        raise ConfigError(
            f"{key}={value}: {command} has no key {first}{hint(first, allowed)}; "
            f"allowed are: {', '.join(allowed)}"
        )
    if key == "scenario" and _is_file(value):
        return
    if (
        key in _GROUPS
        and key != "policy"
        and unquote(value) not in list_names(key)
        and (key, value) != ("experiment", "null")
    ):
        known = list_names(key)
        raise ConfigError(
            f"{key}={value}: no such {key}{hint(value, known)}; there are: {', '.join(known) or 'none'}"
        )
    if key == "experiment" and command != "train" and experiment_choice(unquote(value), "agent"):
        raise ConfigError(f"{key}={value}: trains an agent; use virtgym train {key}={value}")
    if first == "scenario" and rest:
        _check_scenario_key(key, rest.split("."), schema_of(ScenarioNode))


def _is_file(value: str) -> bool:
    return unquote(value).endswith((".yaml", ".yml"))


def _check_scenario_key(full: str, parts: list[str], owner: Any) -> None:
    """Walk the schema along a dotted key."""
    part, rest = parts[0], parts[1:]
    if is_dataclass(owner):
        hints = get_type_hints(owner)
        allowed = [f.name for f in fields(owner) if not f.name.startswith("_")]
        if part not in allowed:
            raise ConfigError(
                f"{full}: no such key {part}{hint(part, allowed)}; allowed are: {', '.join(allowed)}"
            )
        inner = hints[part]
        if inner == dict[str, bool]:  # the replica's switches
            _check_quirk(full, rest)
        elif rest:
            _check_scenario_key(full, rest, inner)
        return
    if isinstance(owner, UnionType):  # X | None
        owner = get_args(owner)[0]
    if get_origin(owner) is list:
        if not part.isdigit():
            raise ConfigError(f"{full}: {part} should be the number of an item, 0 is the first")
        if rest:
            _check_scenario_key(full, rest, get_args(owner)[0])
    elif get_origin(owner) is not dict and owner is not Any:  # of which anything may be the value
        raise ConfigError(f"{full}: {'.'.join(parts)} is below a plain value")


def _check_quirk(full: str, rest: list[str]) -> None:
    from ..replication.quirks import QUIRK_TEXT

    if rest and (len(rest) > 1 or rest[0] not in QUIRK_TEXT):
        raise ConfigError(
            f"{full}: no such quirk{hint(rest[0], QUIRK_TEXT)}; there are: {', '.join(QUIRK_TEXT)}"
        )


def _check_replica_keys(pairs: Sequence[tuple[str, str]]) -> None:
    """The replica's cluster is fixed: a key that it would ignore is an error."""
    for key, _ in pairs:
        first, _, rest = key.partition(".")
        if first == "scenario" and rest and rest.split(".")[0] not in REPLICA_KEYS:
            raise ConfigError(f"{key}: fixed in the replica; allowed are: {', '.join(REPLICA_KEYS)}")


def typed_keys(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Keys of the scenario that were typed, dotted, without ``scenario.``; of a mapping every key in it."""
    found: list[str] = []
    for key, value in pairs:
        first, _, rest = key.partition(".")
        if first == "scenario" and rest:
            inner = parse_value(key, value) if value.lstrip().startswith("{") else None
            found += dotted_keys({rest: inner})
    return found


def of_its_kind(scenario: dict[str, Any], typed: Sequence[str] = ()) -> dict[str, Any]:
    """Leave out what a scenario's kind does not have; what would be ignored is an error.

    Args:
        scenario: As composed.
        typed: Keys of it that were typed.
    """
    kind = str(scenario["kind"])
    if kind not in DEFAULT_POLICIES:
        raise ConfigError(f"scenario.kind={kind}: must be one of {', '.join(DEFAULT_POLICIES)}")
    allowed = scenario_keys(kind if kind == "placement" else "cluster")
    plain = default_keys(ScenarioNode)
    for key, value in scenario.items():
        if key not in (*allowed, "_target_") and value != plain[key]:
            raise ConfigError(
                f"scenario.{key}: {scenario['name']} is of kind {kind}, which has no such key; "
                f"allowed are: {', '.join(allowed)}"
            )
    kept = {key: value for key, value in scenario.items() if key in (*allowed, "_target_")}
    kept = as_meant(kept, _own_keys(str(scenario["name"])), typed)
    if kind == "placement":
        check_drawn(kept["windows"], typed)
        kept["placement"] = asdict(check_placement_keys(kept["placement"]))
    return kept


def _own_keys(name: str) -> dict[str, Any]:
    """A scenario as its file has it, before anything is laid over it."""
    from hydra.core.config_store import ConfigStore

    stored = ConfigStore.instance().repo.get("scenario", {}).get(f"{_USER_FILE}.yaml")
    if stored is not None and stored.node.get("name", ScenarioNode.name) == name:
        return dict(stored.node)
    return dict(read_group_file("scenario", name)) if name in list_names("scenario") else {}


def check_grammar(text: str) -> None:
    """Refuse what Hydra cannot read, or reads as several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    shown = text.lstrip("+")
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException:
        key, _, value = shown.partition("=")
        raise ConfigError(
            f"{shown}: the value cannot be read; quote a text with special characters: {key}='\"{value}\"'"
        ) from None
    if parsed.is_sweep_override():
        raise ConfigError(f"{shown}: several values where one is allowed (several seeds: seeds=[0,1,2])")


def quote_value(key: str, value: str) -> str:
    """One override in the form that Hydra takes."""
    if key in PATH_KEYS:
        return f"{key}={quote(value)}"
    if key == "scenario":
        _forget_scenario_file()
    if key == "scenario" and _is_file(value):
        return f"scenario={_store_scenario_file(unquote(value))}"
    if key == "policies":
        return f"policies=[{','.join(quote(item) for item in split_list(value))}]"
    if key != "policy" and f"{key}.".startswith(_OPEN_KEYS):
        # Open mappings, checked by their owners: Hydra asks for a mark to add a key.
        return f"++{key}={value}"
    return f"{key}={value}"


def _forget_scenario_file() -> None:
    """Take the scenario file of an earlier command of this process out of the choices."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().repo.get("scenario", {}).pop(f"{_USER_FILE}.yaml", None)


def _store_scenario_file(path: str) -> str:
    """Make a user's own scenario file a choice of the group."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    try:
        node = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"scenario={path}: cannot be read ({error.strerror})") from None
    except YamlError as error:
        raise ConfigError(f"scenario={path}: not YAML ({' '.join(str(error).split())})") from None
    if not OmegaConf.is_dict(node):
        raise ConfigError(f"scenario={path}: must be a mapping with the keys of a scenario")
    plain = OmegaConf.to_container(node)
    for dotted in _dotted(plain):
        if dotted != ["_target_"]:
            try:
                _check_scenario_key("scenario." + ".".join(dotted), dotted, schema_of(ScenarioNode))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
    ConfigStore.instance().store(group="scenario", name=_USER_FILE, node=node)
    return _USER_FILE


def _dotted(tree: Any) -> list[list[str]]:
    """Every key of a tree of mappings and lists, as the parts of its dotted form."""
    inner = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else ()
    found: list[list[str]] = []
    for key, value in inner:
        below = _dotted(value)
        found += [[str(key), *rest] for rest in below] if below else [[str(key)]]
    return found


def _compose(texts: list[str], policies: set[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    store = ConfigStore.instance()
    store.store(name="run_schema", node=schema_of(RunConfig))
    for policy in policies & {*POLICIES}:  # one configuration each; of all of them it takes a while
        store.store(group="policy", name=policy, node=policy_config(policy))
    try:
        with initialize_config_module("virtgym.conf", version_base="1.3"):
            config = compose("config", overrides=texts)
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(tell_hydra_error(error)) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def tell_hydra_error(error: BaseException) -> str:
    """What Hydra says in many lines, in one: the key, and what is wrong with it."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    cause = error.__cause__ or error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and is_dataclass(cause.object_type):
        return str(unknown_key(cause))
    full_key = getattr(cause, "full_key", None)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    first = lines[0] if lines else type(cause).__name__
    return f"{full_key}: {first}" if full_key else first
