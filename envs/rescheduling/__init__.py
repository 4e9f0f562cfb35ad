"""Rescheduling: a full cluster, and a limit on what may be moved."""
