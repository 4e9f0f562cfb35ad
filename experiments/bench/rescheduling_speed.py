"""Speed of the rescheduling environment, every way of playing it on one machine in one run, by random moves.

python -m virtgym.experiments.bench.rescheduling_speed

A move is two steps, the choice of a VM and that of its node, with observation and mask after each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from oracles.plain_rescheduling import PlainMover
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.splitmix import draw_below
from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.rescheduling.generate import generate_snapshot
from virtgym.envs.vector import ReschedulingVectorEnv

from .placement_speed import rate_of

PLAIN = "plain Python, with mask"
"""What ratios are against."""

PUBLISHED = 675.0
"""Steps per second of the environment of VMR2L: 650 to 700, on a machine of this class."""


@kernel
def _some_legal(
    mask: NDArray[np.bool_], n_vms: int, keys: NDArray[np.uint64], actions: NDArray[np.int64]
) -> None:
    """A legal action of each environment, looked for from a random one on: a VM, or a node for it."""
    last = mask.shape[1] - 1
    for b in range(len(actions)):
        start, n = (0, n_vms) if mask[b, last] else (n_vms, last - n_vms)
        first = draw_below(keys, 0, n)
        actions[b] = last
        for i in range(n):
            a = start + (first + i if first + i < n else first + i - n)
            if mask[b, a]:
                actions[b] = a
                break


def _single(steps: int, copy: bool) -> Callable[[], int]:
    env = ReschedulingEnv("rescheduling", limit=10**9, copy=copy)
    env.reset(seed=0)
    keys, actions = np.zeros(1, np.uint64), np.zeros(1, np.int64)
    mask, n_vms = env.task.observer.buffers.mask, env.games.params.n_vms

    def run() -> int:
        for _ in range(2 * steps):
            _some_legal(mask, n_vms, keys, actions)
            if env.step(actions[0])[2]:
                env.reset()
            env.action_masks()
        return steps

    return run


def _batch(n: int, steps: int, limit: int, copy: bool = False, threads: int = 1) -> Callable[[], int]:
    envs = ReschedulingVectorEnv(n, "rescheduling", limit=limit, copy=copy, threads=threads, snapshots=4)
    envs.reset(seed=0)
    keys, actions = np.zeros(1, np.uint64), np.zeros(n, np.int64)
    mask, n_vms = envs.task.observer.buffers.mask, envs.games.params.n_vms

    def run() -> int:
        for _ in range(2 * steps // n):
            _some_legal(mask, n_vms, keys, actions)
            envs.step(actions)
            envs.action_masks()
        return steps // n * n

    return run


def measure_rescheduling(scale: float = 1.0) -> dict[str, float]:
    """Moves per second of each way to play the Medium snapshot, with observation and mask.

    Args:
        scale: Factor on how long it takes, about 20 s at 1.

    Returns:
        Moves per second by name.
    """
    mover = PlainMover(generate_snapshot(0))

    def plain() -> int:
        return mover.play(max(2, round(200 * scale)))

    steps = max(64, round(20_000 * scale))
    rates = {
        PLAIN: rate_of(plain),
        "one environment, views": rate_of(_single(steps, False)),
        "one environment, copies": rate_of(_single(steps, True)),
    }
    for n in (1, 16, 64):
        rates[f"batch of {n}, views"] = rate_of(_batch(n, max(n, 10 * steps), 10**9))
    rates["batch of 16, views, episodes of 50 moves"] = rate_of(_batch(16, max(16, 10 * steps), 50))
    for n in (64, 256):  # of two threads the processor time says nothing
        rates[f"batch of {n}, views, two threads, wall time"] = rate_of(
            _batch(n, 20 * steps, 10**9, threads=2), time.perf_counter
        )
    rates["batch of 16, copies"] = rate_of(_batch(16, steps, 10**9, True))
    return rates


def main() -> int:
    """Measure, and print moves per second and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on how long it takes")
    rates = measure_rescheduling(parser.parse_args().scale)
    print(f"{'moves per second':44s}{'':12s}{'/ plain':>10s}{'/ published':>12s}")
    for name, rate in rates.items():
        print(f"{name:44s}{rate:12,.0f}{rate / rates[PLAIN]:10.1f}{2 * rate / PUBLISHED:12.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
