"""Replica of CloudSim 3.0.3 on the PlanetLab experiment, every quirk of the peer a named switch."""

from __future__ import annotations

from .quirks import Quirks
from .replica import run_replica

__all__ = ["Quirks", "run_replica"]
