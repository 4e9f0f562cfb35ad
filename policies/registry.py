"""Policies by name, by dotted path or by folder."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.suggestions import unknown_name

from .base import Policy
from .dpm.ortools_policy import OrtoolsDpmPolicy
from .dpm.policy import DpmPolicy
from .drs.policy import DrsPolicy
from .ha.policy import HaPolicy
from .ha.rolling_upgrade import RollingUpgradePolicy
from .learned.shipped_agents import SHIPPED, ShippedPolicy
from .literature.detectors import DETECTORS
from .literature.policy import ConsolidationPolicy
from .literature.selectors import SELECTORS
from .placement.ortools_policy import OrtoolsPlacementPolicy
from .placement.policies import PLACEMENT_DESCRIPTIONS, RulePolicy
from .platform import PlatformPolicy
from .schema import RESERVED, check_parameters, field_default, nested, structured
from .simple import DvfsPolicy, NpaPolicy, RandomPolicy, StaticPolicy

TASKS: tuple[str, ...] = ("cluster", "placement")
"""What policies can be made for: operating a cluster, or placing one request after the other."""

KINDS: tuple[str, ...] = ("rule", "solver", "agent", "oracle")
"""What policies can be: a rule; a solver of an optimisation model; something trained; or, to be shown and not
ranked, something that knows what no scheduler can know."""

POLICIES: dict[str, str] = {}
"""Every policy that has a name, with one line about it."""

_CLASSES: dict[str, tuple[type[Any], dict[str, Any]]] = {}
_LOADERS: list[Callable[[str], Policy]] = []


def register_policy(name: str, description: str, kind: type[Any], **defaults: Any) -> None:
    """Give a policy a name.

    Args:
        name: The name.
        description: One line for lists.
        kind: A dataclass with the interface of ``base.Policy``; its fields are the parameters.
        **defaults: Parameters that the name implies.
    """
    POLICIES[name] = description
    _CLASSES[name] = (kind, defaults)


def register_loader(load: Callable[[str], Policy]) -> None:
    """Set what turns a trained agent's folder into a policy, in place of ``learned.load_policy``.

    Args:
        load: Function of the folder's path.
    """
    _LOADERS[:] = [load]


def _register_baselines() -> None:
    register_policy("static", "first-fit placement, then nothing; every host stays on", StaticPolicy)
    register_policy("npa", "non-power-aware: every host on at full power", NpaPolicy)
    register_policy("dvfs", "first-fit placement, empty hosts off, no migration", DvfsPolicy)
    register_policy("random", "cluster or placement: random legal migrations or actions", RandomPolicy)
    for detector in DETECTORS.values():
        for selector in SELECTORS.values():
            register_policy(
                f"{detector.name}-{selector.name}",
                f"consolidation; overload: {detector.description}; VM: {selector.description.split(':')[0]}",
                ConsolidationPolicy,
                detector=detector.name,
                selector=selector.name,
            )
    register_policy("dpm", "power management: relieve, evacuate, switch hosts off and on; greedy", DpmPolicy)
    register_policy(
        "dpm_ortools", "power management towards placements that OR-Tools plans", OrtoolsDpmPolicy
    )
    register_policy("ha", "restart in order, spread over failure domains, keep failover capacity", HaPolicy)
    register_policy(
        "nfv_upgrade",
        "rolling hardware upgrade: empty old hosts onto newer ones and switch them off",
        RollingUpgradePolicy,
    )
    register_policy("drs", "DRS: even load by moves that pay off, rules, maintenance", DrsPolicy)
    register_policy(
        "drs_loess", "DRS on forecast demand (tuned local regression)", DrsPolicy, forecaster="loess"
    )
    register_policy("drs_ortools", "DRS with the fewest migrations, by OR-Tools", DrsPolicy, solver="ortools")
    register_policy("platform", "HA over power management over DRS, without fights", PlatformPolicy)
    for rule, description in PLACEMENT_DESCRIPTIONS.items():
        register_policy(rule, f"placement: {description}", RulePolicy, rule=rule)
    register_policy(
        "ortools_placement",
        "placement: CP-SAT packs the queue and keeps room for what is likely to come",
        OrtoolsPlacementPolicy,
    )
    for agent, description in SHIPPED.items():
        register_policy(f"{agent}_agent", f"placement: {description}", ShippedPolicy, agent=agent)


_register_baselines()


def policy_class(name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        ConfigError: For an unknown name.
    """
    return _look_up(name)[0]


def policy_defaults(name: str) -> dict[str, Any]:
    """Every parameter of a named policy with its default.

    Raises:
        ConfigError: For an unknown name.
    """
    kind, implied = _look_up(name)
    own = {f.name: field_default(f) for f in fields(kind) if f.init}
    return {**{key: value for key, value in own.items() if value is not MISSING}, **implied}


def policy_schema(name: str) -> type[Any]:
    """The structured configuration of a named policy: allowed keys, types and defaults.

    Raises:
        ConfigError: For an unknown name.
    """
    kind, implied = _look_up(name)
    return structured(name, POLICIES[name], kind, implied)


def policy_task(policy: Any) -> str:
    """What a policy is made for.

    Args:
        policy: A policy, its class, or a name of ``POLICIES``.

    Returns:
        One of ``TASKS``, or ``any`` for one that serves all. A class says so by its attribute ``task``;
        without it, it is made for clusters.

    Raises:
        ConfigError: For an unknown name.

    Examples:
        >>> policy_task("ols-mmt"), policy_task("first_fit"), policy_task("random")
        ('cluster', 'placement', 'any')
    """
    return str(getattr(policy_class(policy) if isinstance(policy, str) else policy, "task", "cluster"))


def policy_kind(policy: Any) -> str:
    """What a policy is, one of ``KINDS``: its attribute ``kind``; without it, a rule.

    Args:
        policy: A policy.

    Raises:
        ConfigError: For a kind that there is not.

    Examples:
        >>> policy_kind(make_policy("ols-mmt")), policy_kind(make_policy("ortools_placement", oracle=True))
        ('rule', 'oracle')
    """
    kind = getattr(policy, "kind", "rule")
    if kind not in KINDS:
        raise ConfigError(f"policy {type(policy).__name__}: kind={kind!r}; allowed: {', '.join(KINDS)}")
    return str(kind)


def policy_names(task: str) -> tuple[str, ...]:
    """Names of the policies that serve a task, in the order of ``POLICIES``.

    Args:
        task: One of ``TASKS``.

    Raises:
        ConfigError: For an unknown task.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    return tuple(name for name in _CLASSES if policy_task(name) in (task, "any"))


def check_task(name: str, policy: Any, task: str, scenario: str) -> None:
    """Refuse a policy that was made for something else.

    Args:
        name: What the user called the policy.
        policy: The policy or its class.
        task: What the scenario asks for, one of ``TASKS``.
        scenario: Name of the scenario.

    Raises:
        ConfigError: Naming both, and the policies that serve the task.
    """
    made_for = policy_task(policy)
    if made_for not in (task, "any"):
        raise ConfigError(
            f"policy={name}: is made for {made_for}, scenario={scenario} needs one for {task}; "
            f"allowed: {', '.join(policy_names(task))}, or the folder of an agent trained for it"
        )


def _look_up(name: str) -> tuple[type[Any], dict[str, Any]]:
    if name not in _CLASSES:
        raise unknown_name("policy", name, POLICIES)
    return _CLASSES[name]


def make_policy(policy: str | os.PathLike[str] | Mapping[str, Any] | None = None, **params: Any) -> Policy:
    """Make a policy.

    Args:
        policy: A name of ``POLICIES``; a dotted path ``package.module.Class`` to your own class; the folder
            of a trained agent; or a mapping with such a ``name`` and parameters beside it (a composed
            configuration). None = the parameter ``name``, for ``hydra.utils.instantiate``.
        **params: Parameters; they win over those of the mapping.

    Returns:
        The policy, to be ``reset`` with a view before use.

    Raises:
        ConfigError: For an unknown name, parameter or value, naming close matches and what is allowed.

    Examples:
        >>> make_policy("ols-mmt", safety=1.1).safety
        1.1
        >>> make_policy({"name": "thr-mu", "safety": 0.9}).detector
        'thr'
    """
    if policy is None or isinstance(policy, Mapping):
        params = {**{str(key): value for key, value in (policy or {}).items()}, **params}
        if not params.get("name"):
            raise ConfigError(f"policy: the configuration has no name; allowed: {', '.join(POLICIES)}")
        name = str(params["name"])
        params = {key: value for key, value in params.items() if key not in RESERVED}
    else:
        name = os.fspath(policy)
    if name in _CLASSES:
        kind, implied = _CLASSES[name]
        return _construct(name, kind, {**implied, **params})
    if os.sep in name or os.path.isdir(name):
        return _load_agent(name, params)
    if "." in name:
        return _construct(name, _import_class(name), params)
    raise unknown_name("policy", name, POLICIES)


def _construct(name: str, kind: type[Any], params: Mapping[str, Any]) -> Policy:
    """Call a policy's class, with parameters that it is known to take."""
    params = nested(params)
    check_parameters(name, kind, params)
    try:
        policy = kind(**params)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"policy {name}: {error}") from error
    if not isinstance(policy, Policy):
        raise ConfigError(f"policy {name}: needs the methods reset(view, rng) and predict(observation, ...)")
    return policy


def _load_agent(path: str, params: Mapping[str, Any]) -> Policy:
    if not os.path.isdir(path):
        raise ConfigError(
            f"policy={path}: no such folder; allowed: a name ({', '.join(POLICIES)}), "
            "a dotted path to a class, or the folder of a trained agent"
        )
    if params:
        raise ConfigError(f"policy={path}: a trained agent has no parameters, got {', '.join(params)}")
    if _LOADERS:
        return _LOADERS[0](path)
    from .learned.agent import load_policy  # only now: rules need no networks

    return load_policy(path)


def _import_class(path: str) -> type[Any]:
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"policy={path}: no module {error.name}; or did you mean one of {', '.join(POLICIES)}?"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"policy={path}: module {module_name} has no {class_name}") from error
    if not isinstance(found, type):
        raise ConfigError(f"policy={path}: is not a class")
    return found
