"""A scenario of machine reassignment: an instance of the ROADEF/EURO challenge 2012.

The configuration is a mapping with the keys of ``ReassignmentScenarioConfig`` and ``kind: reassignment``. The
instance is read from files, or generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..checks import need, need_count
from ..errors import ConfigError
from ..rescheduling.reassignment.generate import generate_problem
from ..rescheduling.reassignment.instance import ReassignmentProblem
from ..rescheduling.reassignment.reading import read_number, read_problem
from .scenario import load_scenario_config
from .schema import About, dotted_keys, merge_schema


@dataclass
class ReassignmentScenarioConfig(About):
    """Every key that a scenario of machine reassignment may have.

    Attributes:
        kind: ``reassignment``.
        instance: Model file; None = the generator.
        assignment: File of the initial assignment.
        lower_bound: File of a number below which no cost can be; None = unknown.
        processes: Processes of a generated instance.
        machines: Its machines.
    """

    name: str = "reassignment"
    kind: str = "reassignment"
    instance: str | None = None
    assignment: str | None = None
    lower_bound: str | None = None
    processes: int = 400
    machines: int = 20


@dataclass(frozen=True, eq=False)
class ReassignmentScenario:
    """A scenario of machine reassignment with its instance.

    Attributes:
        config: The resolved configuration.
        trace: The instance; result rows call it the trace.
        seed: What a generated instance was drawn from.
        lower_bound: What no assignment can cost less than, None = unknown.
    """

    config: ReassignmentScenarioConfig
    trace: ReassignmentProblem
    seed: int
    lower_bound: int | None = None

    n_dropped = 0

    @property
    def name(self) -> str:
        """Name in result rows."""
        return self.config.name

    def arrays(self) -> Sequence[NDArray[Any]]:
        """The instance, for a fingerprint."""
        return self.trace.arrays


def build_reassignment_scenario(
    config: str | Mapping[str, Any], *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> ReassignmentScenario:
    """Build a scenario of machine reassignment.

    Args:
        config: Name of one that ships, or a mapping with the keys of ``ReassignmentScenarioConfig``.
        seed: Seed of a generated instance.
        overrides: Changes by dotted key.

    Raises:
        ConfigError: If a key or value is not allowed.
        TraceError: If a file cannot be read.
    """
    raw = load_scenario_config(config) if isinstance(config, str) else dict(config)
    merged = merge_schema(ReassignmentScenarioConfig, raw, overrides or {})
    checked = check_reassignment(merged, dotted_keys(overrides or {}))
    bound = None if checked.lower_bound is None else read_number(checked.lower_bound)
    if checked.instance is None or checked.assignment is None:
        problem = generate_problem(seed, checked.processes, checked.machines)
    else:
        problem = read_problem(checked.instance, checked.assignment)
    return ReassignmentScenario(checked, problem, seed, bound)


def check_reassignment(
    config: ReassignmentScenarioConfig, typed: Sequence[str] = ()
) -> ReassignmentScenarioConfig:
    """Check values of a scenario of machine reassignment; it is returned.

    Args:
        config: The configuration.
        typed: Keys that the user gave, dotted.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    if config.kind != "reassignment":
        raise ConfigError(f"scenario={config.name}: is of kind {config.kind}, not reassignment")
    given = {key: getattr(config, key) for key in ("instance", "assignment")}
    missing = [key for key, path in given.items() if path is None]
    need(
        len(missing) != 1,
        f"scenario.{''.join(missing[:1])}: missing; an instance is two files, "
        "scenario.instance=model_X.txt and scenario.assignment=assignment_X.txt, or none",
    )
    need(
        not missing or config.lower_bound is None,
        "scenario.lower_bound: is that of an instance, give scenario.instance, too",
    )
    need_count("scenario", processes=config.processes)
    need_count("scenario", low=2, machines=config.machines)
    for key in ("processes", "machines"):
        if not missing and key in typed:
            raise ConfigError(f"scenario.{key}: is not read with scenario.instance={config.instance}")
    return config
