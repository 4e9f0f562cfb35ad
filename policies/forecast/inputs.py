"""What the learned forecaster reads of a series, and what it gives: names and sizes, as plain data."""

from __future__ import annotations

RECENT = 12
"""Newest samples that the network reads one by one."""
NEAREST = 6
"""Samples of its shortest mean."""
ANCHOR = 24
"""Samples whose mean is the anchor, which inputs and forecasts are relative to."""
WINDOW = 96
"""Samples that it looks at."""

SAMPLES: tuple[str, ...] = tuple(f"sample.{i}" for i in range(RECENT))
"""Inputs that are samples, the newest one first."""
SERIES: tuple[str, ...] = (
    *("mean.nearest", "smoothed", "mean.window", "least", "most", "deviation.recent", "deviation.window"),
    *("level", "lag_1", "idle", "known.recent", "known.window", "known.inverse", "ahead", "ahead.inverse"),
)
"""Further inputs: statistics of the window, how much of it is known, and the steps ahead."""
INPUTS = SAMPLES + SERIES

QUANTILES: tuple[float, ...] = (0.5, 0.84, 0.95, 0.99)
"""Levels of the quantiles that it gives beside mean and standard deviation; all but the first are upper."""
NORMAL: tuple[float, ...] = (0.0, 0.994457883209753, 1.644853626951472, 2.326347874040841)
"""Standard deviations above the mean at which a normal distribution has these levels."""
MEAN, DEVIATION, LOWEST = 0, 1, 2
"""Places of the outputs: the mean, the standard deviation, and from the third on the quantiles."""
OUTPUTS = LOWEST + len(QUANTILES)
