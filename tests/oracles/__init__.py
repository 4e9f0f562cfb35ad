"""Plain-Python twins and random episodes: slow, short, independent of the code that they judge."""
