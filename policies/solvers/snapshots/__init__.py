"""Rescheduled snapshots: exact neighbourhoods, exchanges between all nodes, and what no plan can exceed."""
