"""What is measured of a cluster, and what views show of it (docs §12)."""
