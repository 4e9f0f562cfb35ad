"""Run one policy on one scenario: the cell that every table is made of."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.metrics import own_metrics
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import own_modules
from virtgym.envs.scenarios.kinds import GAMES, GameScenario
from virtgym.envs.scenarios.nodes import default_keys
from virtgym.envs.scenarios.scenario import Scenario, build_scenario, load_scenario_config
from virtgym.envs.scenarios.schema import ScenarioConfig
from virtgym.envs.sim.models.cost import gate
from virtgym.envs.traces.cache import content_signature
from virtgym.policies.base import Policy
from virtgym.policies.registry import POLICIES, check_task, make_policy, policy_defaults, policy_kind

from ..config.env import env_options
from ..config.overrides import PolicySpec, parse_policy
from ..config.schema import REPLICA_KEYS
from .fingerprint import (
    code_digest,
    config_hash,
    content_digest,
    source_digest,
    trace_digest,
    with_contents,
)
from .folder import CellResult, RunFolder
from .placement_cell import run_placement_cell
from .reassignment_cell import run_reassignment_cell
from .rescheduling_cell import run_rescheduling_cell
from .rollout import make_env, rollout
from .rows import KEYS, make_row, rows_frame, virtgym_version

if TYPE_CHECKING:
    import pandas as pd

_WARM: set[Any] = set()

GAME_CELLS: dict[str, Callable[..., tuple[list[dict[str, Any]], Any, dict[str, Any]]]] = {
    "placement": run_placement_cell,
    "rescheduling": run_rescheduling_cell,
    "reassignment": run_reassignment_cell,
}
"""What runs a cell of each of ``GAMES``, of scenario, policy, seed and first columns of tables: the values of
its rows, its table of steps, and arrays of its heat file."""


@dataclass(frozen=True)
class Cell:
    """One policy on one scenario, checked and ready to run.

    Attributes:
        scenario: The scenario, of any kind.
        policy: The policy by name.
        made: The policy itself; None for the replica, which has its own.
        config_hash: Fingerprint of all but the seed.
        env: Arguments of the environment that were asked for.
    """

    scenario: Scenario | GameScenario
    policy: PolicySpec
    made: Policy | None
    config_hash: str
    env: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, Any]:
        """What names its rows."""
        s = self.scenario
        return dict(zip(KEYS, (s.name, s.trace.name, self.policy.label, s.seed)))


def evaluate(
    scenario: str | Mapping[str, Any] | Scenario | GameScenario,
    policy: str | Policy,
    seed: int = 0,
    *,
    overrides: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Run one policy on one scenario.

    Args:
        scenario: Name, path of a YAML file, mapping with the keys of a scenario, or a built scenario.
        policy: Name (also ``NAME(parameter=value,…)``), agent's folder, dotted path of a class, or a policy.
        seed: Seed of generated traces, of drawn windows, of the environment and of the policy.
        overrides: Changes to the scenario by dotted key, like ``{"trace.path": "20110303"}``.
        params: Parameters of the policy.
        env: Arguments of the environment of a cluster, like ``{"reward": {"energy": -2.0}}``.
        out: Folder to write results, per-interval table and heat map into; None writes nothing.

    Returns:
        The result rows: one, or one per window of a placement scenario.

    Raises:
        ConfigError: For a key, name or value that is not allowed.
        TraceError: If the trace cannot be read.

    Examples:
        >>> row = evaluate("small", "static").iloc[0]
        >>> bool(row["finished"]), int(row["steps"])
        (True, 288)
        >>> len(evaluate("demo_placement", "first_fit", overrides={"n_windows": 3}))
        3
    """
    if isinstance(scenario, str | Mapping):
        built = load_scenario(scenario, seed, overrides)
    else:
        if overrides:
            raise ConfigError("overrides: a built scenario cannot be changed; give its name or configuration")
        built = scenario
    options = env_options(env, "evaluate", built.config.kind)
    cell = make_cell(built, policy, params, options)
    result = run_cell(cell, seed)
    if out is not None:
        folder = RunFolder(Path(out), scenario_hash(built, options))
        config = {"scenario": asdict(built.config), "policies": [cell.policy.label], "seeds": [seed]}
        folder.open(config, [seed])
        folder.read_cell(cell.policy.label, seed, cell.config_hash)
        folder.write_cell(result)
        folder.collect([(cell.policy.label, seed)])
        folder.finish(finished=True)
    return rows_frame(result.rows)


def load_scenario(
    config: str | Mapping[str, Any], seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> Scenario | GameScenario:
    """Build a scenario of any kind; those built last are kept.

    Args:
        config: Name, path of a YAML file, or mapping with the keys of a scenario.
        seed: Seed of generated traces, drawn windows and random VM types.
        overrides: Changes by dotted key.

    Raises:
        ConfigError: For a key or value that is not allowed.
        TraceError: If the trace cannot be read.
    """
    raw = load_scenario_config(config) if isinstance(config, str) else dict(config)
    text = json.dumps([raw, dict(overrides or {})], sort_keys=True, default=str)
    # Files count by their content: one that was rewritten in place is read again.
    signed = with_contents([raw, dict(overrides or {})], content_signature)
    return _load_cached(text, seed, json.dumps(signed, sort_keys=True, default=str))


@functools.lru_cache(maxsize=4)
def _load_cached(text: str, seed: int, _contents: str) -> Scenario | GameScenario:
    raw, overrides = json.loads(text)
    if raw.get("kind") in GAMES:
        return GAMES[raw["kind"]].build(raw, seed=seed, overrides=overrides)
    if raw.get("kind") != "replica":
        return build_scenario(raw, seed=seed, overrides=overrides)
    return _build_replica(raw, seed, overrides)


def _build_replica(raw: Mapping[str, Any], seed: int, overrides: Mapping[str, Any]) -> Scenario:
    """The replica's hosts and VM types are those of ``planetlab`` and cannot be changed."""
    from ..replication.quirks import check_quirks

    plain = {"_target_": raw.get("_target_"), **default_keys(ScenarioConfig)}
    for key, value in raw.items():
        changed = value != plain[key] if key in plain else bool(value)
        if key not in REPLICA_KEYS and changed:
            raise ConfigError(f"scenario.{key}: fixed in the replica; allowed are: {', '.join(REPLICA_KEYS)}")
    check_quirks(raw.get("quirks") or {})
    own = {key: raw[key] for key in REPLICA_KEYS if key in raw}
    return build_scenario({**load_scenario_config("planetlab"), **own}, seed=seed, overrides=overrides)


def scenario_hash(scenario: Scenario | GameScenario, env: Mapping[str, Any] | None = None) -> str:
    """Fingerprint of scenario and environment alone: what all cells of a run folder share."""
    return config_hash(scenario, PolicySpec(""), {"env": dict(env)} if env else {})


def make_cell(
    scenario: Scenario | GameScenario,
    policy: str | PolicySpec | Policy,
    params: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
) -> Cell:
    """Look a policy up and check its parameters.

    Args:
        scenario: The scenario.
        policy: Name, specification or policy.
        params: Parameters of the policy; they win.
        env: Arguments of the environment that were asked for.

    Raises:
        ConfigError: For a name, parameter or value that is not allowed, and for a policy that was made for
            scenarios of another kind.
    """
    task = "cluster" if isinstance(scenario, Scenario) else GAMES[scenario.config.kind].task
    if isinstance(policy, (str, PolicySpec)):
        spec = parse_policy(policy) if isinstance(policy, str) else policy
        spec = PolicySpec(spec.name, {**spec.params, **(params or {})})
        try:
            spec.label.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"policy={spec.label!r}: is not UTF-8, so that no table can hold it") from None
    else:
        own = PolicySpec(type(policy).__name__)
        values: dict[str, Any] = {}
        if is_dataclass(policy) and not isinstance(policy, type):
            values = asdict(policy)
        check_task(own.name, policy, task, scenario.name)
        decides = {**values, **_digests(policy, None, values, env), **_asked(own.name, policy, env)}
        return Cell(scenario, own, policy, config_hash(scenario, own, decides), dict(env or {}))
    if scenario.config.kind == "replica":
        from .replica_cell import check_replica_policy

        check_replica_policy(spec)
        return Cell(scenario, spec, None, config_hash(scenario, spec, {}))
    made = make_policy(spec.name, **spec.params)
    check_task(spec.name, made, task, scenario.name)
    named = spec.name in POLICIES
    defaults = policy_defaults(spec.name) if named else {}
    folder = getattr(made, "folder", None) if named else Path(spec.name)
    digests = _digests(made, folder, {**defaults, **spec.params}, env)
    decides = {**defaults, **digests, **_asked(spec.label, made, env)}
    return Cell(scenario, spec, made, config_hash(scenario, spec, decides), dict(env or {}))


def _asked(name: str, policy: Policy, env: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was asked of the environment, for the fingerprint; a policy may need it to be another one.

    Raises:
        ConfigError: If it does.
    """
    for key, value in getattr(policy, "env_options", {}).items():
        if env and key in env and env[key] != value:
            raise ConfigError(f"env.{key}={env[key]}: {name} is played with {value}; leave the key out")
    return {"env": dict(env)} if env else {}


def _digests(
    policy: Policy, folder: Path | None, params: Mapping[str, Any], env: Mapping[str, Any] | None
) -> dict[str, str]:
    """Fingerprints of what decides what a policy does: an agent's files, its code, that of named parts."""
    content = None if folder is None else content_digest(folder)
    named = [params, env or {}, list(own_metrics((env or {}).get("metrics", ())))]
    found = {
        "content": content,
        "code": code_digest(type(policy)),
        "parts": source_digest(own_modules(named)),
    }
    return {key: digest for key, digest in found.items() if digest is not None}


def run_cell(cell: Cell, seed: int, make: Callable[..., gym.Env[Any, Any]] = make_env) -> CellResult:
    """Run a cell.

    Args:
        cell: The cell.
        seed: Seed of the environment and of the policy.
        make: Makes the environment of a cluster for a policy, with arguments that were asked for.
    """
    scenario = cell.scenario
    shared = {
        **cell.keys,
        "seed": seed,
        "config_hash": cell.config_hash,
        "virtgym_version": virtgym_version(),
        "vms_dropped": scenario.n_dropped,
        "kind": "rule" if cell.made is None else policy_kind(cell.made),
        "trace_digest": trace_digest(scenario),
    }
    if not isinstance(scenario, Scenario):
        run = GAME_CELLS[scenario.config.kind]
        if shared["kind"] == "oracle":
            shared["information"] = "oracle"
        every, table, more = run(scenario, cell.made, seed, {**cell.keys, "seed": seed})
        return CellResult([make_row({**shared, **values}) for values in every], table, more)
    heat: dict[str, Any] = {}
    if cell.made is None:
        from .replica_cell import run_replica_cell

        values, steps = run_replica_cell(scenario, cell.policy, seed, {**cell.keys, "seed": seed})
    else:
        values, steps, heat = _run_cluster_cell(cell, scenario, cell.made, seed, make)
    shared |= {"n_hosts": scenario.cluster.n_hosts, "n_vms": scenario.workload.n_vms}
    return CellResult([make_row({**shared, **values})], steps, heat)


def _run_cluster_cell(
    cell: Cell,
    scenario: Scenario,
    policy: Policy,
    seed: int,
    make: Callable[..., gym.Env[Any, Any]],
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    env = make(scenario, policy, **cell.env)
    if type(policy) not in _WARM:  # loading compiled kernels takes longer than a day: not the policy's fault
        rollout(env, policy, seed, heat=False, max_intervals=2)
        _WARM.add(type(policy))
    run = rollout(env, policy, seed)
    information = cast(ClusterEnv, env.unwrapped).sim.information
    env.close()
    cluster = scenario.cluster
    values = {
        "information": information,
        "finished": run.finished,
        "steps": run.record.n,
        "sim_hours": run.sim_s / 3600.0,
        "wall_s": run.wall_s,
        "vm_intervals_per_s": run.record.vm_intervals / run.wall_s if run.wall_s > 0 else math.nan,
        "memory": scenario.config.memory,
        "gate": gate(
            run.metrics["unserved_weighted"],
            cluster.cost.objective,
            run.finished,
            run.metrics["guarantee_broken"],
        ),
        "episode_return": run.episode_return,
        **run.metrics,
        **(policy.plan_metrics() if hasattr(policy, "plan_metrics") else {}),
    }
    heat = {
        **run.record.layers,
        **run.reasons,
        "moves": run.record.moves.begun(),
        "host_type": cluster.host_type_of,
        "type_names": np.array([kind.name for kind in cluster.host_types]),
        "interval_s": np.float64(cluster.interval_s),
    }
    return values, run.record.frame(**{**cell.keys, "seed": seed}), heat
