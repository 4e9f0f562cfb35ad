"""Optimisation models that know the problem, not the simulator."""
