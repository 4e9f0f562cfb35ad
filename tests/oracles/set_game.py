"""A toy game of candidates whose best return is known: what learners of sets must reach."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from virtgym.policies.learned.architecture import Layout

LAYOUT = Layout.current("candidates")
OFFERED = LAYOUT.rows.index("offered")
IDLE, INVEST, WASTE = [i for i in range(len(LAYOUT.rows)) if i != OFFERED][:3]


class SetGame(gym.Env[Any, Any]):
    """Six intervals; in each, some candidates stand in slots drawn anew, and the others are padding.

    Candidate 0 passes the interval and costs 1, or nothing in an interval that was invested in before. To
    invest costs 0.5 beside it and holds for the rest of the episode; to waste costs 1. A choice other than 0
    takes no time. The best is to invest at once: the return is -0.5 against -6 of idleness.

    Args:
        n_slots: K.
    """

    best = -0.5

    def __init__(self, n_slots: int = 7) -> None:
        self.n = n_slots
        rows, rest = n_slots * len(LAYOUT.rows), len(LAYOUT.columns[-1])
        self.observation_space = spaces.Dict(
            {
                "candidates": spaces.Box(0, 1, (rows,), np.float32),
                "globals": spaces.Box(0, 1, (rest,), np.float32),
            }
        )
        self.action_space = spaces.Discrete(n_slots)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        self.time, self.invested, self.choices = 0, False, 0
        return self._offer(), {}

    def _offer(self) -> Any:
        self.kinds = np.full(self.n, -1)
        self.kinds[0] = IDLE
        self.kinds[self.np_random.choice(np.arange(1, self.n), 3, replace=False)] = [INVEST, WASTE, WASTE]
        table = np.zeros((self.n, len(LAYOUT.rows)), np.float32)
        for k in np.flatnonzero(self.kinds >= 0):
            table[k, [OFFERED, self.kinds[k]]] = 1.0
        rest = np.zeros(len(LAYOUT.columns[-1]), np.float32)
        rest[0] = self.invested
        return {"candidates": table.ravel(), "globals": rest}

    def action_masks(self) -> NDArray[np.bool_]:
        """Which slots hold a candidate, (K,)."""
        return self.kinds >= 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Choose a candidate."""
        kind = int(self.kinds[action])
        assert kind >= 0
        reward = {IDLE: 0.0, INVEST: -0.5, WASTE: -1.0}[kind]
        self.invested |= kind == INVEST
        self.choices += 1
        passes = kind == IDLE or self.choices == 3
        if passes:
            reward -= 0.0 if self.invested else 1.0
            self.time, self.choices = self.time + 1, 0
        return self._offer(), reward, False, self.time == 6, {"duration": float(passes)}
