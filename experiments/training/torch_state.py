"""State of PyTorch as plain arrays, for checkpoints."""

from __future__ import annotations

from typing import Any

import torch

from .learners import Arrays


def by_prefix(arrays: Arrays) -> dict[str, Arrays]:
    """Arrays by what stands before the first ``/`` of their names; names without one are left out."""
    parts: dict[str, Arrays] = {}
    for name, value in arrays.items():
        prefix, found, rest = name.partition("/")
        if found:
            parts.setdefault(prefix, {})[rest] = value
    return parts


def optimizer_arrays(optimizer: Any) -> Arrays:
    """What an optimiser remembers of each parameter: ``NUMBER/NAME``."""
    return {
        f"{i}/{key}": torch.as_tensor(value).numpy().copy()
        for i, slots in optimizer.state_dict()["state"].items()
        for key, value in slots.items()
    }


def restore_optimizer(optimizer: Any, arrays: Arrays) -> None:
    """Give an optimiser of the same parameters what ``optimizer_arrays`` gave."""
    state = {
        int(i): {key: torch.from_numpy(value.copy()) for key, value in slots.items()}
        for i, slots in by_prefix(arrays).items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
