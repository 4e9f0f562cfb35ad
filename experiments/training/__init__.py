"""Training of agents, and sweeps of trainings."""
