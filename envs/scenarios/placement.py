"""A placement scenario: a stream of VM requests, the windows of it that are played, and the protocol.

The configuration is a mapping with the keys of ``PlacementScenarioConfig`` and ``kind: placement``; the ones
that ship are in ``conf/scenario/NAME.yaml``. A key that does not exist is an error that names its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..arrays import I8
from ..checks import need
from ..errors import ConfigError
from ..placement.games import PlacementConfig, PlacementGames, fits_empty_host
from ..traces import read_requests, read_windows
from ..traces.requests import RequestTrace
from .build import check_source, need_generated, refuse_oversized
from .nodes import schema_of
from .scenario import load_scenario_config
from .schema import GENERATORS, About, TraceConfig, dotted_keys, merge_schema, no_key

TAIL = 1000
"""Rows at the end of a stream in which no window begins by default, so that none is cut short."""

GENERATED = 72_000
"""Length of a generated stream by default: that of the reference trace."""


@dataclass
class PlacementScenarioConfig(About):
    """Every key that a placement scenario may have.

    Attributes:
        kind: ``placement``.
        trace: The requests: ``format`` is ``huawei``, ``azure_packing`` or ``synthetic``; None as ``path`` =
            the generator.
        windows: File with the row of each window's first request, ``.npy`` or text; None = drawn.
        n_windows: How many windows are drawn.
        rows: Rows [from, to) that they are drawn from; None = those after ``train_rows``, and all where
            nothing is left after them, but never the last 1,000 (in survival games: the last
            ``max_requests`` if that is more).
        train_rows: Rows [from, to) in which windows for training begin; None = the first half of the stream.
        placement: Cluster and protocol, the fields of ``sim.placement_games.PlacementConfig``.
    """

    name: str = "placement"
    kind: str = "placement"
    trace: TraceConfig = field(default_factory=TraceConfig)
    windows: str | None = None
    n_windows: int = 150
    rows: list[int] | None = None
    train_rows: list[int] | None = None
    placement: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PlacementScenario:
    """A placement scenario with its requests read and its windows known.

    Attributes:
        config: The resolved configuration; ``config.placement`` holds every field.
        placement: Cluster and protocol.
        trace: The requests, R of them.
        windows: Row of each window's first request, (W,), in the order in which they are reported.
        lengths: Requests of each window, (W,), the same for every policy.
        seed: Seed of everything random in it: generated requests, drawn windows.
        n_dropped: Requests of the stream that fit on no host and were left out.
    """

    config: PlacementScenarioConfig
    placement: PlacementConfig
    trace: RequestTrace
    windows: I8
    lengths: I8
    seed: int
    n_dropped: int = 0

    @property
    def name(self) -> str:
        """Name in result rows."""
        return self.config.name

    @property
    def train_rows(self) -> tuple[int, int]:
        """Rows [from, to) in which windows for training begin.

        Raises:
            ConfigError: If they do not lie within the stream.
        """
        n = self.trace.n_requests
        chosen = self.config.train_rows
        return (0, max(1, n // 2)) if chosen is None else _check_range("train_rows", chosen, n)

    def arrays(self) -> list[NDArray[Any]]:
        """The numbers of all requests, for a fingerprint."""
        trace = self.trace
        return [trace.cores, trace.memory_gib, trace.arrival_s, trace.lifetime_s]

    def games(self, n_games: int | None = None) -> PlacementGames:
        """Make games on its requests; None = one per window."""
        return PlacementGames(self.trace, self.placement, n_games or len(self.windows))


def build_placement_scenario(
    config: str | Mapping[str, Any], *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> PlacementScenario:
    """Build a placement scenario.

    With the generator, the seed gives another stream; with a file, other windows of it are drawn; with a file
    of windows, too, nothing is random.

    Args:
        config: Name of one that ships, or a mapping with the keys of ``PlacementScenarioConfig``.
        seed: Seed of generated requests and of drawn windows.
        overrides: Changes by dotted key.

    Raises:
        ConfigError: If a key or value is not allowed.
        TraceError: If requests or windows cannot be read.
    """
    raw = load_scenario_config(config) if isinstance(config, str) else dict(config)
    if (kind := raw.get("kind", "cluster" if isinstance(config, str) else "placement")) != "placement":
        raise _wrong_kind(raw.get("name", config), kind)
    checked, placement = _check(raw, overrides or {})
    stream_seed, window_seed = np.random.SeedSequence(seed).spawn(2)
    stream = _read(checked.trace, int(stream_seed.generate_state(1)[0]))
    fits = fits_empty_host(stream, placement)
    trace = stream if fits.all() else _drop_oversized(checked.trace, stream, placement, fits)
    games = PlacementGames(trace, placement)
    if checked.windows is None:
        tail = max(TAIL, placement.max_requests)
        windows = _draw_windows(checked, trace.n_requests, tail, np.random.default_rng(window_seed))
    else:
        windows = read_windows(checked.windows, stream.n_requests)
        if not fits.all():  # the file counts all rows: a window begins with the first that is left
            windows = np.cumsum(fits)[windows] - fits[windows]
    dropped = stream.n_requests - trace.n_requests
    return PlacementScenario(checked, placement, trace, windows, games.window_lengths(windows), seed, dropped)


def check_placement_keys(values: Mapping[str, Any]) -> PlacementConfig:
    """Check names, types and values of ``scenario.placement``.

    Args:
        values: Fields of ``PlacementConfig``; those that are missing keep their default.

    Raises:
        ConfigError: Naming the key, its neighbours and what is allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    hints = get_type_hints(PlacementConfig)
    for key in values:
        if key not in hints:
            raise no_key(f"scenario.placement.{key}", list(hints))
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(schema_of(PlacementConfig)), OmegaConf.create(dict(values))
        )
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"scenario.placement.{error.full_key}: {first}") from None
    try:
        return PlacementConfig(**{str(key): value for key, value in merged.items()})
    except ConfigError as error:
        raise ConfigError(f"scenario.{error}") from None


def _check(
    raw: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[PlacementScenarioConfig, PlacementConfig]:
    result = merge_schema(PlacementScenarioConfig, raw, overrides)
    if result.kind != "placement":
        raise _wrong_kind(result.name, result.kind)
    check_drawn(result.windows, dotted_keys(overrides))
    need(result.n_windows >= 1, f"scenario.n_windows={result.n_windows}: must be at least 1")
    placement = check_placement_keys(result.placement)
    result.placement = asdict(placement)
    return result, placement


def check_placement_node(node: dict[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """Check values of a composed configuration, and fill in the group ``placement``; it is returned."""
    check_drawn(node["windows"], typed)
    node["placement"] = asdict(check_placement_keys(node["placement"]))
    return node


def check_drawn(windows: str | None, typed: Collection[str]) -> None:
    """Refuse keys about drawn windows that were typed beside a file of windows, where they say nothing.

    Args:
        windows: The file; None = windows are drawn.
        typed: Keys that the user gave, dotted.

    Raises:
        ConfigError: Naming the key.
    """
    for key in ("n_windows", "rows"):
        if windows is not None and key in typed:
            raise ConfigError(
                f"scenario.{key}: windows are not drawn but read from scenario.windows={windows}"
            )


def _wrong_kind(name: Any, kind: Any) -> ConfigError:
    return ConfigError(f"scenario={name}: is of kind {kind}, placement games need kind placement")


def _read(config: TraceConfig, seed: int) -> RequestTrace:
    check_source(config)
    if config.path is None and config.format in ("auto", *GENERATORS):
        need_generated(config, n=GENERATED)
        return read_requests(None, "synthetic", **{"seed": seed, "n": GENERATED, **config.options})
    return read_requests(config.path, config.format, **config.options)


def _drop_oversized(
    config: TraceConfig, stream: RequestTrace, placement: PlacementConfig, fits: NDArray[np.bool_]
) -> RequestTrace:
    """Deal with requests that fit on no empty host, as ``trace.oversized`` says."""
    sizes = [
        f"row {row} ({stream.cores[row]:g} cores, {stream.memory_gib[row]:g} GiB)"
        for row in np.flatnonzero(~fits)[:3]
    ]
    node = f"two nodes of {placement.cores_to_give:g} cores and {placement.node_memory_gib:g} GiB"
    refuse_oversized(config, stream.name, fits, sizes, node)
    columns = ("cores", "memory_gib", "arrival_s", "lifetime_s", "vm_ids")
    return replace(stream, **{key: getattr(stream, key)[fits] for key in columns})


def _check_range(key: str, chosen: Sequence[int], n: int) -> tuple[int, int]:
    if len(chosen) != 2 or not 0 <= chosen[0] < chosen[1] <= n:
        text = ",".join(map(str, chosen))
        raise ConfigError(
            f"scenario.{key}=[{text}]: must be two rows in order, from 0 to {n}, the number of requests"
        )
    return int(chosen[0]), int(chosen[1])


def _draw_windows(config: PlacementScenarioConfig, n: int, tail: int, rng: np.random.Generator) -> I8:
    """First rows of different windows, in ascending order, (W,)."""
    if config.rows is not None:
        low, high = _check_range("rows", config.rows, n)
    else:
        trained = n // 2 if config.train_rows is None else config.train_rows[-1]
        high = n - min(tail, n // 2)
        low = trained if trained < high else 0
    if config.n_windows > high - low:
        raise ConfigError(
            f"scenario.n_windows={config.n_windows}: windows are drawn from the {high - low} rows "
            f"{low}...{high - 1} (scenario.rows), so at most {high - low}"
        )
    return low + np.sort(rng.choice(high - low, config.n_windows, replace=False)).astype(np.int64)
