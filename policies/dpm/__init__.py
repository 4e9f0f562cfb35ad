"""Distributed power management."""
