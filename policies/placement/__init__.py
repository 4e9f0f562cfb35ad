"""Rules of the placement game, and the OR-Tools policy."""
