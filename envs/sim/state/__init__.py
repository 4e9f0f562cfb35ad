"""Parameters and state of a cluster, as arrays."""
