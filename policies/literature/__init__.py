"""Dynamic consolidation of the literature: detector, selector, placer."""
