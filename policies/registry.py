"""Policies by name, by dotted path or by folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import unknown_name
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import Entry, Registry

from .literature.parts import DETECTORS, SELECTORS
from .schema import RESERVED, TARGET, construct, is_folder

if TYPE_CHECKING:
    from .base import Policy

TASKS: tuple[str, ...] = ("cluster", "placement", "rescheduling", "reassignment")
"""What policies can be made for: operating a cluster, placing one request after the other, migrating a few
VMs of a snapshot, or reassigning the processes of machines all at once."""

KINDS: tuple[str, ...] = ("rule", "solver", "agent", "oracle")
"""What policies can be: a rule; a solver of an optimisation model; something trained; or, to be shown and not
ranked, something that knows what no scheduler can know."""


def _is_policy(thing: Any) -> bool:
    return isinstance(thing, type) and all(
        callable(getattr(thing, name, None)) for name in ("reset", "predict")
    )


POLICIES = Registry(
    "policy", _is_policy, "a class with the methods reset(view, rng) and predict(observation, ...)"
)
"""Every policy that has a name; the parameters are the fields of its dataclass."""


def _combine() -> Iterator[Entry]:
    """The literature's policies: every detector with every selector."""
    for detector in DETECTORS.known():
        for selector in SELECTORS.known():
            overload, vm = detector.description, selector.description.split(":")[0]
            yield Entry(
                f"{detector.name}-{selector.name}",
                f"consolidation; overload: {overload}; VM: {vm}",
                f"{__package__}.literature.policy:ConsolidationPolicy",
                {"detector": detector.name, "selector": selector.name},
            )


def _register(name: str, home: str, description: str, **implied: Any) -> None:
    POLICIES.register(name, description, f"{__package__}.{home}", **implied)


def _register_baselines() -> None:
    _register("static", "simple:StaticPolicy", "first-fit placement, then nothing; every host stays on")
    _register("npa", "simple:NpaPolicy", "non-power-aware: every host on at full power")
    _register("dvfs", "simple:DvfsPolicy", "first-fit placement, empty hosts off, no migration")
    _register("random", "simple:RandomPolicy", "any scenario: random legal migrations or actions")
    POLICIES.register_family("DETECTOR-SELECTOR", _combine)
    _register(
        "dpm", "dpm.policy:DpmPolicy", "power management: relieve, evacuate, switch hosts off and on; greedy"
    )
    _register(
        "dpm_ortools",
        "dpm.ortools_policy:OrtoolsDpmPolicy",
        "power management towards placements that OR-Tools plans",
    )
    _register(
        "ha", "ha.policy:HaPolicy", "restart in order, spread over failure domains, keep failover capacity"
    )
    _register(
        "nfv_upgrade",
        "ha.rolling_upgrade:RollingUpgradePolicy",
        "rolling hardware upgrade: empty old hosts onto newer ones and switch them off",
    )
    drs = "drs.policy:DrsPolicy"
    _register("drs", drs, "DRS: even load by moves that pay off, rules, maintenance")
    _register("drs_loess", drs, "DRS on forecast demand (tuned local regression)", forecaster="loess")
    _register("drs_ortools", drs, "DRS with the fewest migrations, by OR-Tools", solver="ortools")
    _register(
        "rollout_search",
        "search.policy:RolloutSearchPolicy",
        "tries macro-actions in forks under forecast demand, and carries the best out",
    )
    _register("platform", "platform:PlatformPolicy", "HA over power management over DRS, without fights")


def _register_games() -> None:
    for rule, description in {
        "first_fit": "the lowest feasible node",
        "best_fit": "the feasible node (for a double VM: host) with the least room",
        "worst_fit": "the feasible node (for a double VM: host) with the most room",
        "balance_fit": "the host whose nodes differ most, there the emptier node; double VMs by first fit",
        "best_host_emptier_node": "the fullest host, there the emptier node",
        "first_host_emptier_node": "the lowest feasible host, there the emptier node",
        "move_to_front": "the feasible node used last",
        "dot_product": "vector packing: the node whose free room is most along the demand",
        "norm_based": "vector packing: the node that is left with the least, by weighted Euclidean norm",
    }.items():
        _register(rule, "placement.policies:RulePolicy", f"placement: {description}", rule=rule)
    for rule, description in {
        "nilas": "the host that is in use least longer for it (predicted, true or noisy lifetimes)",
        "lifetime_alignment": "the host whose last VM leaves when it does",
        "departure_classes": "hosts of one class of departure, else an empty one",
    }.items():
        _register(rule, "placement.lifetimes:LifetimePolicy", f"placement: {description}", rule=rule)
    _register(
        "ortools_placement",
        "placement.ortools_policy:OrtoolsPlacementPolicy",
        "placement: CP-SAT packs the queue and keeps room for what is likely to come",
    )
    _register(
        "greedy_rescheduling",
        "rescheduling.greedy:GreedyReschedulingPolicy",
        "rescheduling: the move that gains most, over and over",
    )
    _register(
        "annealing",
        "rescheduling.annealing:AnnealingPolicy",
        "rescheduling: simulated annealing over where VMs end, within the limit of moves",
    )
    _register(
        "ortools_rescheduling",
        "rescheduling.ortools:OrtoolsReschedulingPolicy",
        "rescheduling: a programme for the whole, then exact neighbourhoods by CP-SAT",
    )
    _register(
        "pop",
        "rescheduling.ortools:PopPolicy",
        "rescheduling: the hosts in random parts, each solved on its own",
    )
    _register(
        "demo_agent",
        "learned.shipped_agents:ShippedPolicy",
        "placement: a small network trained on generated requests (virtgym train experiment=demo_agent)",
        agent="demo",
    )
    _register(
        "suite_agent",
        "learned.shipped_agents:SuiteAgentPolicy",
        "what suits the kind of cluster: a search, or a rule (virtgym train experiment=suite_agent)",
    )


def _register_products() -> None:
    for name, kind, description in (
        ("fusioncompute", "FusionComputePolicy", "load balancing every 50 min, power management every 10"),
        ("vmware_drs", "VmwareDrsPolicy", "vSphere 7: a score of every VM, moves that are worth their cost"),
        ("proxmox_crs", "ProxmoxCrsPolicy", "one move at a time against the variation of node loads"),
        ("onedrs", "OneDrsPolicy", "OpenNebula: an integer programme, capped migrations"),
        ("ovirt", "OvirtPolicy", "power saving, even distribution or even guests, a VM a minute"),
        ("nutanix_ads", "NutanixAdsPolicy", "hosts in contention only, moves just enough"),
        ("xen_orchestra", "XenOrchestraPolicy", "performance or density plan by critical thresholds"),
        ("cloudstack", "CloudStackPolicy", "balanced or condensed allocation, against the memory moved"),
    ):
        POLICIES.register(name, f"product: {description}", f"{__package__}.products.{name}:{kind}")


_register_baselines()
_register_products()
_register_games()


def policy_class(name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        ConfigError: For an unknown name.
    """
    kind: type[Any] = POLICIES.find(name).factory
    return kind


def policy_defaults(name: str) -> dict[str, Any]:
    """Every parameter of a named policy with its default.

    Raises:
        ConfigError: For an unknown name.
    """
    return POLICIES.find(name).defaults


def policy_config(name: str) -> dict[str, Any]:
    """The configuration of a named policy, as ``make_policy`` and ``hydra.utils.instantiate`` take it.

    Raises:
        ConfigError: For an unknown name.
    """
    return {"_target_": TARGET, "name": name, "description": POLICIES[name], **policy_defaults(name)}


def policy_task(policy: Any) -> str:
    """What a policy is made for.

    Args:
        policy: A policy, its class, or a name of ``POLICIES``.

    Returns:
        One of ``TASKS``. A class says so by its attribute ``task``; without it, it is made for clusters. What
        it serves besides stands in its attribute ``also``.

    Raises:
        ConfigError: For an unknown name.

    Examples:
        >>> policy_task("ols-mmt"), policy_task("first_fit"), policy_task("annealing")
        ('cluster', 'placement', 'rescheduling')
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
    return tuple(name for name in POLICIES if serves(policy_class(name), task))


def serves(policy: Any, task: str) -> bool:
    """Whether a policy or its class serves a task."""
    return policy_task(policy) == task or task in getattr(policy, "also", ())


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
    if not serves(policy, task):
        raise ConfigError(
            f"policy={name}: is made for {made_for}, scenario={scenario} needs one for {task}; "
            f"allowed: {', '.join(policy_names(task))}, or the folder of an agent trained for it"
        )


def make_policy(policy: str | os.PathLike[str] | Mapping[str, Any] | None = None, **params: Any) -> Policy:
    """Make a policy.

    Args:
        policy: A name of ``POLICIES``; a dotted path ``package.module:Class`` (or
            ``package.module.Class``) to your own class; the folder
            of a trained agent; a zip of Stable-Baselines3, which may run any code that is in it; or a mapping
            with such a ``name`` and parameters beside it (a composed
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
    if name.endswith(".zip") or is_folder(name, POLICIES):
        return _load_agent(name, params)
    made: Policy = construct(name, POLICIES.find(name), params)
    return made


def _load_agent(path: str, params: Mapping[str, Any]) -> Policy:
    zipped = path.endswith(".zip") and os.path.isfile(path)
    if not zipped and not os.path.isdir(path):
        raise ConfigError(
            f"policy={path}: no such folder; allowed: a name ({', '.join(POLICIES)}), "
            "a dotted path to a class, the folder of a trained agent, or a zip of Stable-Baselines3"
        )
    if params:
        raise ConfigError(f"policy={path}: a trained agent has no parameters, got {', '.join(params)}")
    if not zipped:
        from .learned.agent import load_policy  # only now: rules need no networks

        return load_policy(path)
    try:
        from .learned.sb3_zip import load_zip_policy
    except ModuleNotFoundError as error:
        if str(error.name).startswith("virtgym"):
            raise
        raise ConfigError(f"policy={path}: needs {error.name}: pip install 'virtgym[rl]'") from None
    return load_zip_policy(path)
