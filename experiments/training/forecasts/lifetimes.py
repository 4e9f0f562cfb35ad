"""Training of predicted lifetimes: of a placement scenario's rows for training, judged on later ones."""

from __future__ import annotations

import os

from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.policies.placement.lifetime_model import learn_lifetimes

from ...analysis.lifetime_quality import quality

JUDGED_S = (600.0, 3600.0, 14400.0, 86400.0)
"""Times T of which the chance to leave within T is judged, s."""


def train_lifetimes(
    scenario: PlacementScenario, path: str | os.PathLike[str]
) -> dict[float, dict[str, float]]:
    """Learn of the rows for training as they were known at the end of them, and write the model.

    Args:
        scenario: The scenario.
        path: ``.npz`` to write, for ``policy.predictor`` of the rules by departure.

    Returns:
        AUC and calibration error on the rows from the first window on, by T.
    """
    rows = range(*scenario.train_rows)
    model = learn_lifetimes(scenario.trace, rows)
    model.save(path)
    judged = range(max(rows.stop, int(scenario.windows.min())), scenario.trace.n_requests)
    return {time_s: quality(model, scenario.trace, judged, time_s) for time_s in JUDGED_S}
