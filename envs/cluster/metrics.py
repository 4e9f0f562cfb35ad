"""Metrics of an episode by name: those that ship, and those of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..registry import Registry
from ..sim.metrics import METRICS
from ..sim.simulator import Simulator


@dataclass(frozen=True)
class Metric:
    """One number that an episode of a cluster comes to.

    Attributes:
        doc: What it is, with its unit.
        value: Works it out when the episode is over. None: one of those that ship (``sim.metrics``).
    """

    doc: str
    value: Callable[[Simulator], float] | None = None

    @property
    def schema(self) -> dict[str, float]:
        """Nothing of it can be set."""
        return {}


METRIC_NAMES = Registry("metric", lambda thing: isinstance(thing, Metric), f"a Metric of {__name__}")
"""Every metric by name, the columns of result rows."""
for _name, _doc in METRICS.items():
    METRIC_NAMES.register(_name, _doc, Metric(_doc))


def own_metrics(asked: Iterable[str] = ()) -> dict[str, Callable[[Simulator], float]]:
    """Metrics of one's own: all that are registered, and those that are asked for by a dotted path.

    Args:
        asked: Names and dotted paths.

    Raises:
        ConfigError: If there is no such metric.
    """
    found = {name: METRIC_NAMES.find(name, "env.metrics").factory for name in (*METRIC_NAMES, *asked)}
    return {name: metric.value for name, metric in found.items() if metric.value is not None}
