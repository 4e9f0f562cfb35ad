"""Speed of the placement game, every way of playing it on one machine in one run, by first fit.

python -m virtgym.experiments.bench.placement_speed
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from oracles.plain_placement import PlainRequest, play_plain
from oracles.plain_placement_fast import FastPlacement, play_first_fit, prepare_requests
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.env import PlacementEnv
from virtgym.envs.placement.games import PlacementGames
from virtgym.envs.traces.formats.synthetic_requests import generate_requests
from virtgym.envs.vector import PlacementVectorEnv
from virtgym.policies.placement.rules import run_windows

STEPPED = "plain Python for speed, stepped, with mask"
BUILT_IN = "plain Python for speed, first fit built in"
"""What ratios are against."""

REPEATS = 12
"""The best of so many runs counts. Time is processor time: all runs in one thread, so on an idle machine that
is wall time, and on a busy one what others do in between does not count."""


@kernel
def _first_legal(mask: NDArray[np.bool_], actions: NDArray[np.int64]) -> None:
    for b in range(len(actions)):
        actions[b] = 0
        for a in range(mask.shape[1]):
            if mask[b, a]:
                actions[b] = a
                break


def rate_of(run: Callable[[], int], clock: Callable[[], float] = time.process_time) -> float:
    """Decisions per second of the best run by a clock; the first run, which compiles, does not count."""
    run()
    best = 0.0
    for _ in range(REPEATS):
        start = clock()
        decisions = run()
        best = max(best, decisions / (clock() - start))
    return best


def _single(steps: int) -> Callable[[], int]:
    env = gym.make("virtgym/Placement-v0")
    inner = env.unwrapped
    assert isinstance(inner, PlacementEnv)
    env.reset(seed=0)

    def run() -> int:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(int(inner.action_masks().argmax()))
            if terminated or truncated:
                env.reset()
        return steps

    return run


def _batch(n: int, steps: int, observation: str = "basic") -> Callable[[], int]:
    envs = PlacementVectorEnv(n, observation=observation)
    envs.task.prepare()
    envs.reset(seed=0)
    actions = np.zeros(n, dtype=np.int64)

    def run() -> int:
        for _ in range(steps // n):
            _first_legal(envs.task.observer.buffers.mask, actions)
            envs.step(actions)
        return steps // n * n

    return run


def _stable_baselines(n: int, steps: int) -> Callable[[], int] | None:
    """The batch as SB3 sees it, if that is installed."""
    try:
        from virtgym.envs.sb3 import PlacementVecEnv
    except ImportError:
        return None
    envs = PlacementVecEnv(n, flat=True)
    envs.task.prepare()
    envs.seed(0)
    envs.reset()
    actions = np.zeros(n, dtype=np.int64)

    def run() -> int:
        for _ in range(steps // n):
            _first_legal(envs.task.observer.buffers.mask, actions)
            envs.step(actions)
        return steps // n * n

    return run


def measure_placement(scale: float = 1.0) -> dict[str, float]:
    """Decisions per second of each way to play, with observation and mask unless it says otherwise.

    Args:
        scale: Factor on how long it takes, about 20 s at 1.

    Returns:
        Decisions per second by name.
    """
    requests = generate_requests(np.random.default_rng(0), 8192)
    games = PlacementGames(requests)
    starts = np.arange(0, 7000, max(1, round(50 / scale)))
    lengths = games.window_lengths(starts)
    table = np.column_stack([requests.cores, requests.memory_gib, requests.arrival_s, requests.lifetime_s])
    rows = [PlainRequest(*row) for row in table.tolist()]
    some = np.linspace(0, len(starts) - 1, max(2, round(10 * scale))).astype(int)
    few = [(int(starts[i]), int(lengths[i])) for i in some]

    prepared = prepare_requests(rows)
    windows = [prepared[a : a + n] for a, n in few]
    n_decisions = sum(n for _, n in few)

    def plain() -> int:
        return sum(len(play_plain(rows[a : a + n], "first_fit").waits) for a, n in few)

    def stepped() -> int:
        for window in windows:
            game, over = FastPlacement(window), False
            while not over:
                over = game.step(game.mask.index(True))
        return n_decisions

    def built_in() -> int:
        for window in windows:
            play_first_fit(window)
        return n_decisions

    def kernel() -> int:
        return int(run_windows(games, starts, "first_fit", lengths=lengths)[1].sum())

    rates = {
        "plain Python to be read, with mask": rate_of(plain),
        STEPPED: rate_of(stepped),
        BUILT_IN: rate_of(built_in),
        "rules in the kernel, no observation, no mask": rate_of(kernel),
        "gym.make, one environment": rate_of(_single(round(20_000 * scale))),
    }
    for n in (16, 256, 1024):
        rates[f"batch of {n}"] = rate_of(_batch(n, max(n, round(200_000 * scale))))
    steps = max(256, round(200_000 * scale))
    rates["batch of 256, observation=slots"] = rate_of(_batch(256, steps, "slots"))
    stable = _stable_baselines(256, steps)
    if stable is not None:
        rates["batch of 256 for Stable-Baselines3"] = rate_of(stable)
    return rates


def main() -> int:
    """Measure, and print decisions per second, and their ratios to plain Python written for speed."""
    rates = measure_placement()
    print(f"{'decisions per second':50s}{'':12s}{'/ stepped':>12s}{'/ built in':>12s}")
    for name, rate in rates.items():
        print(f"{name:50s}{rate:12,.0f}{rate / rates[STEPPED]:12.1f}{rate / rates[BUILT_IN]:12.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
