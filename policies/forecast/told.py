"""What a policy says of the demand that it plans for, so that it can be held against what came."""

from __future__ import annotations

import math
from typing import NamedTuple


class Foretold(NamedTuple):
    """A forecast of the demand of the whole cluster, made at a decision.

    A policy with a method ``foretold() -> Foretold | None`` is asked for it once an interval, after it has
    planned; the report shows it against what the policy measured when the time had come.

    Attributes:
        forecaster: By what it was made.
        steps: Decisions that lie between it and the time that it is about.
        now_mhz: CPU demand of all VMs as the policy measures it now, MHz.
        ahead_mhz: What it is expected to be then, MHz.
        deviation_mhz: Standard deviation of that, VMs taken as independent, MHz; NaN = the policy has none.
    """

    forecaster: str
    steps: int
    now_mhz: float
    ahead_mhz: float
    deviation_mhz: float = math.nan
