"""Lanes of a batch divided among threads: a call in one depends on no other, so results are the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from .checks import need

T = TypeVar("T")


class Threads:
    """So many threads for so many lanes, each with neighbours.

    Args:
        threads: Threads, as the caller of a batch gave them.
        lanes: Lanes.

    Attributes:
        parts: First lane of each thread, and the one after its last.

    Raises:
        ConfigError: If there is to be no thread.
    """

    def __init__(self, threads: int, lanes: int) -> None:
        need(threads >= 1, f"threads={threads}: must be at least 1")
        cuts = np.linspace(0, lanes, min(threads, lanes) + 1).astype(np.int64).tolist()
        self.parts: list[tuple[int, int]] = list(pairwise(cuts))
        self._pool: ThreadPoolExecutor | None = None

    def run(self, call: Callable[[int, int], T]) -> list[T]:
        """Call for every part, in all threads at once; the kernels behind it release the interpreter.

        Args:
            call: Takes the first lane and the one after the last.

        Returns:
            What the calls returned, in the order of lanes.
        """
        if len(self.parts) == 1:
            return [call(*self.parts[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self.parts) - 1)
        others = [self._pool.submit(call, *part) for part in self.parts[1:]]
        return [call(*self.parts[0]), *(other.result() for other in others)]

    def __getstate__(self) -> dict[str, Any]:
        """Threads are begun anew where they are needed."""
        return self.__dict__ | {"_pool": None}
