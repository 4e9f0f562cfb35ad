"""High availability: restarts, placement that expects failures, rolling upgrades."""
