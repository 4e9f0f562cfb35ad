"""What is played in a placement environment, and by which rules: one object for one environment or many."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checks import need_seed
from ..errors import ConfigError
from .games import PlacementConfig, RequestArrays

if TYPE_CHECKING:
    from ..scenarios.placement import PlacementScenario


@dataclass(frozen=True, eq=False)
class PlacementSettings:
    """The keywords that ``PlacementEnv`` and its batches share.

    Attributes:
        requests: The stream: a ``RequestTrace``, a path that ``traces.requests.read_requests`` reads, or None
            for the embedded generator.
        config: Cluster and protocol: ``PlacementConfig`` or a mapping of its fields.
        windows: Rows of first requests, played in this order, over and over.
        rows: Without ``windows``: range (from, to) of rows in which the first request of a window is drawn.
            None: all but the last 1,000.
        reward: One of ``REWARDS``; None = ``spane``, in survival games ``placed``.
        wait_scale_s: T of the rewards ``wait`` and ``delay``, s.
        synthetic_seed: Seed of the embedded stream.
        scenario: A placement scenario in place of requests and config: its name, a mapping, or one that was
            built. Without ``windows`` and ``rows``, windows begin in its rows for training;
            ``synthetic_seed`` is the seed that it is built with.
        observation: ``basic``, or ``slots``: more columns, see ``placement.slots``.
        illegal_penalty: Subtracted from the reward of an illegal action.
        max_illegal: Illegal actions in a row that truncate an episode.

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    requests: RequestArrays | str | os.PathLike[str] | None = None
    config: PlacementConfig | Mapping[str, Any] | None = None
    windows: Sequence[int] | NDArray[np.integer[Any]] | None = None
    rows: tuple[int, int] | None = None
    reward: str | None = None
    wait_scale_s: float = 3600.0
    synthetic_seed: int = 0
    scenario: str | Mapping[str, Any] | PlacementScenario | None = None
    observation: str = "basic"
    illegal_penalty: float = 0.0
    max_illegal: int = 100

    def __post_init__(self) -> None:
        need_seed("env.synthetic_seed", self.synthetic_seed)
        if not 0.0 < self.wait_scale_s < np.inf:
            raise ConfigError(f"placement.wait_scale_s={self.wait_scale_s}: must be positive")
        if not 0.0 <= self.illegal_penalty < np.inf:
            raise ConfigError(f"env.illegal_penalty={self.illegal_penalty}: must be at least 0")
        if self.max_illegal < 1:
            raise ConfigError(f"env.max_illegal={self.max_illegal}: must be at least 1")
