"""Statistics and comparisons of stored rows."""
