"""A scenario: a cluster, its workload and the rules of the game, built from one configuration.

The configuration is a mapping with the keys of ``ScenarioConfig``; the ones that ship are in
``conf/scenario/NAME.yaml``. A key that does not exist is an error that names it and its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

from ..checks import hint
from ..errors import ConfigError
from ..registry import group_names
from ..sim.config import ClusterConfig
from ..sim.simulator import Simulator
from ..sim.workload import Workload
from ..traces import Trace
from .build import build_cluster, drop_oversized, need_episode, read_demand, size_vms
from .choices import compose_choice, is_file, on_own_path, own_names
from .inventory import fit_out, host_kinds, read_group, trace_of, workload_of
from .nodes import made
from .rules import build_rules
from .schema import HostGroupConfig, ScenarioConfig, as_meant, check_scenario
from .working_sets import add_phases

INVENTORY = "inventory"
"""The scenario whose cluster is an export's; what it has itself stands in until one is named."""


@dataclass(frozen=True)
class Scenario:
    """A scenario with its trace read and its VMs sized.

    Attributes:
        config: The resolved configuration.
        cluster: The cluster.
        workload: The load.
        trace: The trace it came from.
        seed: Seed of everything random in it (generated traces, random VM types).
        host_names: Name of every host, where it has one of its own.
    """

    config: ScenarioConfig
    cluster: ClusterConfig
    workload: Workload
    trace: Trace
    seed: int
    host_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in result rows."""
        return self.config.name

    @property
    def n_dropped(self) -> int:
        """VMs of the trace that fit on no host and were left out."""
        return self.trace.n_vms - self.workload.n_vms

    @property
    def horizon_s(self) -> float:
        """Length of an episode, s."""
        return self.workload.span_s if self.config.horizon_s is None else float(self.config.horizon_s)

    def drawn_anew(self, seed: int) -> Scenario:
        """The same configuration with another seed: another generated trace, other random VM types."""
        if self.config.inventory.path is not None:
            return replace(self, seed=seed)
        return _draw(self.config, self.cluster, seed)

    def simulator(
        self,
        *,
        arrival: str | None = None,
        restart: str | None = None,
        strict: bool = False,
        oracle: bool = False,
    ) -> Simulator:
        """Make a simulator of it.

        Args:
            arrival: Rule for arrivals in place of the scenario's, as policies may ask for.
            restart: The same for VMs that restart after a failure.
            strict: Raise on refused orders.
            oracle: Whether ``view.oracle()`` hands out the future.
        """
        cluster = self.cluster
        if arrival is not None:
            cluster = replace(cluster, arrival=arrival)
        if restart is not None:
            cluster = replace(cluster, restart=restart)
        return Simulator(cluster, self.workload, strict=strict, horizon_s=self.horizon_s, oracle=oracle)


def list_scenarios() -> dict[str, str]:
    """Names and one-line descriptions of the scenarios that ship."""
    names = group_names(resources.files("virtgym.conf") / "scenario")
    return {name: str(load_scenario_config(name).get("description", "")) for name in names}


def load_scenario_config(name: str) -> dict[str, Any]:
    """Read ``conf/scenario/NAME.yaml``, or a file of one's own (see ``choices``).

    Args:
        name: Name of one that ships or stands on the search path, or path of a YAML file.

    Raises:
        ConfigError: If there is no such scenario; names close ones and all that exist.
    """
    from omegaconf import OmegaConf

    if is_file(name):
        return compose_choice("scenario", name)
    entry = resources.files("virtgym.conf") / "scenario" / f"{name}.yaml"
    if not entry.is_file():
        if on_own_path("scenario", name):
            return compose_choice("scenario", name)
        known = [*list_scenarios(), *own_names("scenario")]
        raise ConfigError(
            f"scenario={name}: no such scenario{hint(name, known)}; there are: {', '.join(known)}"
        )
    loaded = OmegaConf.to_container(OmegaConf.create(entry.read_text(encoding="utf-8")))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def build_scenario(
    config: str | Mapping[str, Any], *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> Scenario:
    """Build a scenario.

    Args:
        config: Name of one that ships, path of a YAML file, or a mapping with the keys of ``ScenarioConfig``.
        seed: Seed of generated traces and random VM types.
        overrides: Nested mapping (or dotted keys) laid over the configuration.

    Returns:
        The scenario.

    Raises:
        ConfigError: If a key or value is not allowed.
        TraceError: If the trace cannot be read.
    """
    raw = load_scenario_config(config) if isinstance(config, str) else dict(config)
    kind = str(raw.get("kind", "cluster"))
    if kind not in ("cluster", "replica") and str(raw.get("_target_", "")).startswith("virtgym."):
        raise ConfigError(
            f"scenario={raw.get('name')}: is a {kind} scenario, not a cluster to operate; it is built by "
            f"{raw['_target_']} and played in virtgym/{kind.capitalize()}-v0"
        )
    checked = check_scenario(raw, overrides or {})
    if checked.inventory.path is not None:
        return _take_inventory(checked, seed)
    return _draw(checked, build_cluster(checked), seed)


def _take_inventory(checked: ScenarioConfig, seed: int) -> Scenario:
    """The cluster of an export, with what the scenario says of everything else."""
    given = ("trace", "hosts", "vm_types", "rules")
    own = {key: value for key, value in load_scenario_config(INVENTORY).items() if key in given}
    stand_in = made(ScenarioConfig, as_meant(own, own, ()), "scenario")
    for key in given:
        if getattr(checked, key) != getattr(stand_in, key):
            raise ConfigError(f"scenario.{key}: the export says that; scenario.inventory.overlay adds to it")
    found = read_group(checked.inventory)
    trace = trace_of(found)
    kinds, of = host_kinds(found)
    count = np.bincount(of, minlength=len(kinds)).tolist()
    groups = [HostGroupConfig(**vars(kind), count=n) for kind, n in zip(kinds, count)]
    cluster = replace(build_cluster(replace(checked, hosts=groups)), host_types=kinds, host_type_of=of)
    workload = workload_of(found, trace)
    cluster = fit_out(cluster, found)
    horizon_s = workload.span_s if checked.horizon_s is None else float(checked.horizon_s)
    need_episode(checked, cluster, horizon_s)
    return Scenario(checked, cluster, workload, trace, seed, tuple(host.name for host in found.hosts))


def _draw(checked: ScenarioConfig, cluster: ClusterConfig, seed: int) -> Scenario:
    """Read or generate the trace of a scenario, and size its VMs."""
    seeds = np.random.SeedSequence(seed).spawn(3)
    trace_rng, type_rng, phase_rng = (np.random.default_rng(s) for s in seeds)
    trace = read_demand(checked.trace, trace_rng)
    workload = drop_oversized(checked, cluster, size_vms(checked, trace, type_rng))
    if checked.working_sets.enabled:
        workload = add_phases(checked.working_sets, workload, phase_rng)
    horizon_s = workload.span_s if checked.horizon_s is None else float(checked.horizon_s)
    need_episode(checked, cluster, horizon_s)
    for i, event in enumerate(checked.events):
        event.check(f"scenario.events.{i}", cluster.n_hosts, workload.n_vms, horizon_s)
    hosts = [cluster.host_types[kind].name for kind in cluster.host_type_of.tolist()]
    rules = build_rules(checked.rules, workload, hosts, horizon_s)
    return Scenario(checked, replace(cluster, rules=rules), workload, trace, seed)
