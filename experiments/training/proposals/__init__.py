"""Training of what leads a search: guides of annealing, and destroy operators."""
