"""Training of guides of annealing: what proposals are worth."""
