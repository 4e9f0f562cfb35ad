"""Errors that a user can cause, and that the command line turns into one line and exit code 2."""

from __future__ import annotations


class VirtgymError(ValueError):
    """Base of all errors a user can cause; its text is one line: what, where and what is allowed."""


class ConfigError(VirtgymError):
    """An impossible or misspelt configuration value; the text names the key."""


class TraceError(VirtgymError):
    """A malformed trace; the text names the file and, where there is one, the line."""


class IllegalDecision(VirtgymError):
    """A decision that the simulator refused in strict mode; the text gives the reason."""
