"""Mutated inputs: traces, configurations, agents and result folders, each taken or refused in one line."""
