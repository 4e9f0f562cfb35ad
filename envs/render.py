"""Pictures of a cluster."""

from __future__ import annotations
from typing import Any
import numpy as np
from .sim.simulator import Simulator


class History:
    def __init__(self, sim: Simulator) -> None: ...
    def record(self, sim: Simulator) -> None: ...


def draw_frame(sim: Simulator, history: History, last: Any, name: str) -> Any:
    return np.zeros((10, 10, 3), np.uint8)


def write_text(sim: Simulator, last: Any) -> str:
    return ""
