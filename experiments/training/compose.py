"""From overrides to a checked training, by the same rules as the other commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

from virtgym.envs.checks import need
from virtgym.envs.cluster.candidates.settings import CandidateSettings
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.generate import SIZES
from virtgym.envs.scenarios.choices import store_choice
from virtgym.envs.scenarios.nodes import default_keys
from virtgym.envs.scenarios.scenario import build_scenario, load_scenario_config
from virtgym.envs.scenarios.schema import no_key
from virtgym.policies.learned.architecture import Architecture, Layout

from ..config.compose import CHOOSERS, SCHEMAS, compose_command, of_its_kind, store_schema
from ..config.env import env_options
from ..suite.tasks import load_suite
from .agents import AGENTS, agent_kind, default_config, defaults_for
from .schema import TrainConfig, check_train_values
from .settings.base import AgentConfig


@dataclass(frozen=True)
class TrainRun:
    """A checked training.

    Attributes:
        config: The resolved configuration as plain data.
        scenario: Its scenario, as ``load_scenario`` takes it.
        agent: The learner's settings.
        others: Other scenarios that are played besides.
    """

    config: dict[str, Any]
    scenario: dict[str, Any]
    agent: AgentConfig
    others: tuple[dict[str, Any], ...] = ()


_STORED: dict[str, AgentConfig] = {}
"""Settings of the agents that Hydra knows, by name: telling it again takes as long as composing."""


def store_schemas() -> None:
    """Tell Hydra the types of every key."""
    from hydra.core.config_store import ConfigStore

    register_resolver()
    store_schema("train_schema", TrainConfig)
    store = ConfigStore.instance()
    for name in AGENTS:
        config = default_config(name)
        if _STORED.get(name) != config or f"{name}.yaml" not in store.repo.get("agent", {}):
            store.store(group="agent", name=name, node=_agent_node(name))
            _STORED[name] = config


def register_resolver() -> None:
    """Tell OmegaConf of ``for_kind``: what is the default on the kind of scenario that is composed."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("for_kind", _for_kind, replace=True)


def _for_kind(
    kind: str, placement: Any, cluster: Any, rescheduling: Any, agent: str = "", forecaster: Any = None
) -> Any:
    if agent in AGENTS and agent_kind(agent).forecasts:
        return forecaster
    return {"cluster": cluster, "rescheduling": rescheduling}.get(kind, placement)


def _agent_node(name: str) -> Any:
    """The settings of an agent, with defaults that depend on the kind of scenario."""
    from omegaconf import DictConfig, OmegaConf

    config = default_config(name)
    node = OmegaConf.structured(config)
    for key in node:
        if isinstance(node[key], DictConfig):
            OmegaConf.set_struct(node[key], False)  # its keys are those of what it configures
    of_cluster, of_rescheduling = (defaults_for(type(config), task) for task in ("cluster", "rescheduling"))
    for key in of_cluster | of_rescheduling:
        own = getattr(config, key)
        values = own, of_cluster.get(key, own), of_rescheduling.get(key, own)
        node[key] = f"${{for_kind:${{scenario.kind}},{','.join(map(str, values))}}}"
    return node


def compose_training(arguments: Sequence[str]) -> TrainRun:
    """Compose and check a training.

    Args:
        arguments: Overrides as typed.

    Returns:
        The training.

    Raises:
        ConfigError: One line that names the key, what is wrong and what is allowed.
    """
    composed = compose_command("train", arguments)
    return make_run(composed.config, composed.typed_scenario, composed.own_scenario)


def make_run(
    config: dict[str, Any], typed: Sequence[str] = (), own: Mapping[str, Any] | None = None
) -> TrainRun:
    """Check a composed configuration.

    Args:
        config: Plain data with the keys of ``TrainConfig``.
        typed: Keys of the scenario that were typed.
        own: The scenario before anything was laid over it; None = as it ships.

    Raises:
        ConfigError: If a value is impossible, or the scenario is of a kind that the agent does not learn.
    """
    config = {**default_keys(TrainConfig), **config}
    config = {key: value for key, value in config.items() if key not in ("launcher", "workers")}
    name, task = str(config["agent"].get("name")), str(config["scenario"]["kind"])
    kind = agent_kind(name)
    if task not in kind.tasks:
        others = [other for other in AGENTS if task in agent_kind(other).tasks]
        advice = f"; use agent={', '.join(others)}" if others else ""
        raise ConfigError(
            f"scenario={config['scenario']['name']}: is of kind {task}, and agent={name} learns scenarios of "
            f"kind {', '.join(kind.tasks)} (virtgym list scenarios){advice}"
        )
    config["env"] = env_options(config["env"], "train", task)
    check_train_values(config)
    if kind.forecasts and config["env"]:
        raise ConfigError(f"env.{next(iter(config['env']))}: agent={name} learns from load and plays nothing")
    for key in config["agent"]:
        if key not in (known := [f.name for f in fields(kind.schema)]):
            raise no_key(f"agent.{key}", known)
    agent = kind.schema(**config["agent"])
    agent.check(task)
    config["scenario"] = of_its_kind(config["scenario"], typed, own)
    scenario = {key: value for key, value in config["scenario"].items() if key != "_target_"}
    if not kind.forecasts:
        _check_memory(config, agent)
    mixed = _other_scenarios(config["mix"], scenario, typed)
    if kind.forecasts and (mixed or config["fallback"]):
        key = "mix" if mixed else "fallback"
        raise ConfigError(f"{key}={config[key]}: agent={name} learns from the load of one scenario")
    return TrainRun({**config, "scenario": scenario}, scenario, agent, mixed)


def _other_scenarios(
    names: Sequence[str], first: Mapping[str, Any], typed: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """The scenarios of ``mix``, once each, with the keys that were typed.

    Raises:
        ConfigError: If there is none of a name, or it is not of kind cluster.
    """
    changes = {key: _value_at(first, key) for key in typed}
    suites = resources.files("virtgym.conf") / "suite"
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        tasks = load_suite(name).tasks if (suites / f"{name}.yaml").is_file() else ()
        for one in [task.scenario for task in tasks if task.kind == "cluster"] or [name]:
            if one == first["name"]:
                continue
            try:
                raw = load_scenario_config(one)
                kind = raw.get("kind", "cluster")
                need(kind == "cluster", f"{one}: is of kind {kind}, must be of kind cluster")
                found[one] = asdict(build_scenario(raw, overrides=changes).config)
            except ConfigError as error:
                raise ConfigError(f"mix: {error}") from None
    return tuple(found.values())


def _value_at(tree: Any, key: str) -> Any:
    """What stands at a dotted key, in which numbers are places of lists."""
    for part in key.split("."):
        tree = tree[int(part)] if isinstance(tree, list | tuple) else tree[part]
    return tree


def _check_memory(config: dict[str, Any], agent: AgentConfig) -> None:
    """Refuse a training whose arrays are larger than the memory, before any is made.

    Raises:
        ConfigError: Naming the keys that ask for most.
    """
    kind = config["scenario"]["kind"]
    if kind == "cluster":
        sizes = Layout.current(agent.observation).sizes
        n_rows = CandidateSettings.of(config["env"].get("candidates")).n
    elif kind == "rescheduling":
        sizes = Layout.current(agent.observation).sizes
        n_hosts, n_vms = SIZES[config["scenario"]["size"]]  # of a snapshot that is read it is not known yet
        n_rows = 2 * n_hosts + n_vms + 1
    else:
        game = config["scenario"]["placement"]
        sizes = Layout.current(agent.observation, game["queue_window"]).sizes
        n_rows = 2 * int(game["n_hosts"])
    width = n_rows * sizes[0] + sizes[1] + sizes[2]
    fixed = n_rows if agent.network == "mlp" else 0
    Architecture(
        agent.network, *sizes, fixed, 0, tuple(agent.hidden), agent.activation
    )  # refuses what is too large
    arrays = agent.arrays(config["num_envs"], width, n_rows + 2)
    n_seeds = len(config["seeds"] or [0])  # in one process
    needed, there = (
        4.0 * n_seeds * sum(arrays.values()),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    if needed > there:
        raise ConfigError(
            f"{max(arrays, key=arrays.__getitem__)}: the training needs about {needed / 2**30:,.3g} GiB with "
            f"observations of {width:,} numbers; this machine has {there / 2**30:,.3g} GiB"
        )


def choose_agent(name: str) -> str:
    """The choice of Hydra's group that stands for an agent; one by dotted path is added to the group."""
    agent_kind(name)
    return name if name in AGENTS else store_choice("agent", name, _agent_node(name))


CHOOSERS["agent"] = choose_agent
SCHEMAS["train"] = store_schemas
