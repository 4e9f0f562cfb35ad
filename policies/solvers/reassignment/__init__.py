"""Machine reassignment: local search on its evaluator, and exact neighbourhoods by CP-SAT."""
