"""A rescheduling scenario: a snapshot of a full cluster, and how many VMs may be migrated.

The configuration is a mapping with the keys of ``ReschedulingScenarioConfig`` and ``kind: rescheduling``. The
snapshot is generated, read from a file, or taken of a cluster scenario at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import need, need_choice, need_count
from ..errors import ConfigError
from ..rescheduling.generate import LOADS, SIZES, generate_snapshot
from ..rescheduling.objective import ObjectiveConfig
from ..rescheduling.snapshot import Snapshot
from .scenario import build_scenario, load_scenario_config
from .schema import About, dotted_keys, merge_schema, no_key

SOURCES = ("path", "from", "overrides")
"""Keys of ``scenario.snapshot``."""


@dataclass
class ReschedulingScenarioConfig(About):
    """Every key that a rescheduling scenario may have.

    Attributes:
        kind: ``rescheduling``.
        size: Size of a generated snapshot: ``medium`` (279 hosts) or ``large`` (1,176).
        load: VMs of a generated snapshot: ``light``, ``middle`` or ``heavy``.
        groups: Anti-affinity groups of a generated snapshot.
        snapshot: In place of the generator: ``path`` = a file (``rescheduling.vmr2l``), or ``from`` =
            ``SCENARIO@SECONDS``, a cluster scenario at a time, with ``overrides`` of its keys.
        limit: Migrations that are allowed.
        objective: What is to become small.
    """

    name: str = "rescheduling"
    kind: str = "rescheduling"
    size: str = "medium"
    load: str = "heavy"
    groups: int = 0
    snapshot: dict[str, Any] = field(default_factory=dict)
    limit: int = 50
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


@dataclass(frozen=True, eq=False)
class ReschedulingScenario:
    """A rescheduling scenario with its snapshot.

    Attributes:
        config: The resolved configuration.
        trace: The snapshot; result rows call it the trace.
        seed: What a generated snapshot was drawn from.
        source: Configuration of the cluster scenario that the snapshot was taken of; empty = of none.
    """

    config: ReschedulingScenarioConfig
    trace: Snapshot
    seed: int
    source: Mapping[str, Any] = field(default_factory=dict)

    n_dropped = 0

    @property
    def name(self) -> str:
        """Name in result rows."""
        return self.config.name

    def arrays(self) -> list[NDArray[Any]]:
        """What decides how it is played, for a fingerprint."""
        return self.trace.arrays()

    def draw(self, n: int) -> list[Snapshot]:
        """Snapshots of the seeds from this one's on; the first is its own.

        Raises:
            ConfigError: If there is one only, as its snapshot is not generated.
        """
        if n > 1 and any(self.config.snapshot.values()):
            raise ConfigError(
                f"env.snapshots={n}: {self.name} has one snapshot, only generated ones are drawn"
            )
        return [self.trace, *(_generate(self.config, self.seed + i) for i in range(1, n))]


def build_rescheduling_scenario(
    config: str | Mapping[str, Any], *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> ReschedulingScenario:
    """Build a rescheduling scenario.

    Args:
        config: Name of one that ships, or a mapping with the keys of ``ReschedulingScenarioConfig``.
        seed: Seed of a generated snapshot, or of the cluster scenario that it is taken of.
        overrides: Changes by dotted key.

    Raises:
        ConfigError: If a key or value is not allowed.
        TraceError: If a snapshot cannot be read.
    """
    raw = load_scenario_config(config) if isinstance(config, str) else dict(config)
    typed = dotted_keys(overrides or {})
    checked = check_rescheduling(merge_schema(ReschedulingScenarioConfig, raw, overrides or {}), typed)
    source = checked.snapshot
    if source.get("path") is not None:
        from ..rescheduling.vmr2l import read_snapshot

        return ReschedulingScenario(checked, read_snapshot(str(source["path"])), seed)
    if source.get("from") is not None:
        from .cluster_snapshot import take_snapshot

        name, at_s = _parse_from(str(source["from"]))
        cluster = build_scenario(name, seed=seed, overrides=source.get("overrides") or {})
        return ReschedulingScenario(checked, take_snapshot(cluster, at_s), seed, asdict(cluster.config))
    return ReschedulingScenario(checked, _generate(checked, seed), seed)


def _generate(config: ReschedulingScenarioConfig, seed: int) -> Snapshot:
    return generate_snapshot(seed, config.size, config.load, config.groups)


def check_rescheduling(
    config: ReschedulingScenarioConfig, typed: Sequence[str] = ()
) -> ReschedulingScenarioConfig:
    """Check values of a rescheduling scenario; it is returned.

    Args:
        config: The configuration.
        typed: Keys that the user gave, dotted.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    if config.kind != "rescheduling":
        raise ConfigError(f"scenario={config.name}: is of kind {config.kind}, not rescheduling")
    need_choice("scenario", "size", config.size, tuple(SIZES))
    need_choice("scenario", "load", config.load, tuple(LOADS))
    need_count("scenario", limit=config.limit)
    need_count("scenario", low=0, groups=config.groups)
    for key in config.snapshot:
        if key not in SOURCES:
            raise no_key(f"scenario.snapshot.{key}", SOURCES)
    path, taken = config.snapshot.get("path"), config.snapshot.get("from")
    need(path is None or taken is None, "scenario.snapshot: name path or from, not both")
    for source, value in (("path", path), ("from", taken)):
        for key in ("size", "load", "groups"):
            if value is not None and key in typed:
                raise ConfigError(f"scenario.{key}: is not read with scenario.snapshot.{source}={value}")
    overrides = config.snapshot.get("overrides")
    if overrides:
        need(
            taken is not None,
            "scenario.snapshot.overrides: is not read unless scenario.snapshot.from is given",
        )
        need(
            isinstance(overrides, Mapping),
            f"scenario.snapshot.overrides={overrides}: must be a mapping of keys",
        )
    return config


def _parse_from(text: str) -> tuple[str, float]:
    name, at, seconds = text.rpartition("@")
    try:
        at_s = float(seconds)
    except ValueError:
        at_s = np.nan
    if not at or not name or not 0.0 <= at_s < np.inf:
        raise ConfigError(f"scenario.snapshot.from={text}: must be SCENARIO@SECONDS, like planetlab@36000")
    return name, at_s
