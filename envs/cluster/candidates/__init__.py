"""The ``candidates`` form of actions: a padded set of macro-actions, offered anew after each choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy

if TYPE_CHECKING:
    from .plugins import CANDIDATES, register_candidate
    from .settings import CandidateSettings

__all__ = ["CANDIDATES", "CandidateSettings", "register_candidate"]

__getattr__ = lazy(
    __name__,
    {"CANDIDATES": "plugins", "CandidateSettings": "settings", "register_candidate": "plugins"},
)
