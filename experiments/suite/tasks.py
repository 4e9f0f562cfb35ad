"""What a suite is made of: tasks, splits of seeds, sizes (``conf/suite/NAME.yaml``)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from virtgym.envs.checks import hint, need, need_count
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import group_names
from virtgym.envs.scenarios.choices import compose_choice, is_file, on_own_path, own_names
from virtgym.envs.scenarios.nodes import made, schema_of
from virtgym.envs.scenarios.scenario import load_scenario_config

SUITE = "virtgym-1"
"""The suite whose splits say which seeds are for training and tuning, which for choosing."""

SIZES: dict[str, int] = {"small": 1, "80": 8, "800": 80}
"""Factor on hosts and VMs of a cluster by size; at its small size a task has about ten hosts."""


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: Name in tables.
        scenario: Scenario that ships, of kind cluster or placement.
        question: What it asks of a policy, one sentence; empty = what its scenario does.
        shows: Sub-models whose effect it shows.
    """

    name: str
    scenario: str
    question: str = ""
    shows: tuple[str, ...] = ()

    @functools.cached_property
    def kind(self) -> str:
        """Kind of its scenario."""
        return str(load_scenario_config(self.scenario).get("kind", "cluster"))

    @functools.cached_property
    def asks(self) -> str:
        """Its question."""
        return self.question or str(load_scenario_config(self.scenario).get("question", ""))


@dataclass(frozen=True)
class Split:
    """Seeds of a split.

    Attributes:
        first: The first one.
        count: How many.
    """

    first: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_count("suite.splits", low=0, first=self.first)
        need_count("suite.splits", count=self.count)

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return list(range(self.first, self.first + self.count))


@dataclass(frozen=True)
class Kind:
    """What is the same for all tasks of a kind.

    Attributes:
        reference: Policy whose score is 0.
        bound: Policy that knows the future, whose score is 100; None = the fluid bound (``bound``).
        policies: What is run unless ``policies=`` says otherwise.
    """

    reference: str = "static"
    bound: str | None = None
    policies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: Its name.
        description: One line for ``virtgym list``.
        tasks: Its tasks.
        cluster: What holds for tasks of kind cluster.
        placement: What holds for tasks of kind placement.
        train: Seeds to train and tune on.
        validation: Seeds to choose by.
        test: Seeds that claims are made on.
    """

    name: str
    description: str = ""
    tasks: tuple[Task, ...] = ()
    cluster: Kind = field(default_factory=Kind)
    placement: Kind = field(default_factory=Kind)
    train: Split = field(default_factory=Split)
    validation: Split = field(default_factory=Split)
    test: Split = field(default_factory=Split)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need(len(self.tasks) > 0, f"suite {self.name}.tasks: needs at least one")
        names = [task.name for task in self.tasks]
        need(len(set(names)) == len(names), f"suite {self.name}.tasks: a name is given twice")

    def of(self, task: Task) -> Kind:
        """What holds for a task's kind."""
        return self.placement if task.kind == "placement" else self.cluster


SPLITS = ("test", "validation", "train")


def load_suite(name: str) -> Suite:
    """Read a suite that ships, one on the search path, or a file of one's own, which may inherit.

    Args:
        name: Name, or path of a YAML file.

    Raises:
        ConfigError: If there is none, or a key or value in it is not allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [*group_names(resources.files("virtgym.conf") / "suite"), *own_names("suite")]
    if not is_file(name) and name not in known and not on_own_path("suite", name):
        raise ConfigError(f"suite={name}: no such suite{hint(name, known)}; there are: {', '.join(known)}")
    given = {key: value for key, value in compose_choice("suite", name).items() if key != "defaults"}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema_of(Suite)), given)
        raw = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"suite={name}: {where}{str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"suite={name}: must be a mapping with the keys of a suite")
    return made(Suite, {str(key): value for key, value in raw.items()}, f"suite {name}")


def sized(scenario: str, size: str) -> list[str]:
    """Overrides that make a scenario larger: more hosts and VMs of every kind, in proportion.

    What is told of single hosts (racks, dedicated hosts) is told of as many hosts in their place.

    Args:
        scenario: A scenario that ships.
        size: One of ``SIZES``.

    Raises:
        ConfigError: If there is no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"suite.size={size}: must be one of {', '.join(SIZES)}")
    factor = SIZES[size]
    if factor == 1:
        return []
    raw = load_scenario_config(scenario)
    if raw.get("kind") == "placement":
        return [f"scenario.placement.n_hosts={factor * int(raw['placement']['n_hosts'])}"]
    found = [f"scenario.hosts.{i}.count={factor * int(g['count'])}" for i, g in enumerate(raw["hosts"])]
    found.append(f"scenario.trace.options.n_vms={factor * int(raw['trace']['options']['n_vms'])}")
    domains = (raw.get("failures") or {}).get("domains") or []
    if domains:
        spread = [{**d, "hosts": _spread(d["hosts"], factor)} for d in domains]
        found.append(f"scenario.failures.domains={_inline(spread)}")
    admission = raw.get("admission") or {}
    if "host_failures" in admission:
        found.append(f"scenario.admission.host_failures={factor * int(admission['host_failures'])}")
    return found


def _spread(hosts: Sequence[int], factor: int) -> list[int]:
    """Hosts in the place of each."""
    return [factor * h + i for h in hosts for i in range(factor)]


def _inline(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_inline, value)) + "]"
    return str(value)
