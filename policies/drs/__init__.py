"""Distributed resource scheduling."""
