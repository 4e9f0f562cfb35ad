"""State of PyTorch as plain arrays, for checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError

from .learners import Arrays


def by_prefix(arrays: Arrays) -> dict[str, Arrays]:
    """Arrays by what stands before the first ``/`` of their names; names without one are left out."""
    parts: dict[str, Arrays] = {}
    for name, value in arrays.items():
        prefix, found, rest = name.partition("/")
        if found:
            parts.setdefault(prefix, {})[rest] = value
    return parts


def as_numpy(tensor: Any) -> NDArray[Any]:
    """A copy of a tensor, wherever it is."""
    found: NDArray[Any] = torch.as_tensor(tensor).detach().cpu().numpy().copy()
    return found


def find_device(name: str) -> str:
    """Where networks learn.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If there is no CUDA device.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device=cuda: PyTorch finds no CUDA device on this machine; use device=cpu or auto")
    return "cuda" if there and name != "cpu" else "cpu"


def optimizer_arrays(optimizer: Any) -> Arrays:
    """What an optimiser remembers of each parameter: ``NUMBER/NAME``."""
    return {
        f"{i}/{key}": as_numpy(value)
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
