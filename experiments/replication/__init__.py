"""Replica of CloudSim 3.0.3 on the PlanetLab experiment, every quirk of the peer a named switch."""

from __future__ import annotations

from .metrics import DecisionLog, Events, ReplicaResult
from .quirks import QUIRK_TEXT, Quirks
from .replica import N_HOSTS, REPLICA_POLICIES, run_replica

__all__ = [
    "N_HOSTS",
    "QUIRK_TEXT",
    "REPLICA_POLICIES",
    "DecisionLog",
    "Events",
    "Quirks",
    "ReplicaResult",
    "run_replica",
]
