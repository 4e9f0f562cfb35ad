"""Readers of exports, one a file; each has a ``sniff``."""
