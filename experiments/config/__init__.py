"""From what a person types to a checked configuration."""
