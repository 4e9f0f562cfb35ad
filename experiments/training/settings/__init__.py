"""Typed settings of the agents that can be trained, one class an algorithm."""
