"""The engine: orders, events and rates between two decisions."""
