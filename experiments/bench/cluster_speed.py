"""Speed of batched clusters, with observations and masks, beside single environments, as ratios.

python -m virtgym.experiments.bench.cluster_speed --sizes 10x50 80x320 --batches 1 16 256 --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.envs.vector import ClusterVectorEnv

SIZES = ("10x50", "80x320", "800x1052")
REPEATS = 3


def scene(size: str, full: bool) -> Scenario:
    """``small`` or ``small_full`` with so many hosts and VMs.

    Args:
        size: ``HOSTSxVMS``.
        full: Whether every sub-model is on.
    """
    hosts, vms = (int(number) for number in size.split("x"))
    changes: dict[str, Any] = {"trace.options.n_vms": vms}
    changes |= {f"hosts.{i}.count": hosts // 2 for i in (0, 1)}
    return build_scenario("small_full" if full else "small", overrides=changes)


def _best(run: Callable[[], int], wall: bool = False) -> float:
    """Intervals per second of the best run; the first one, which compiles, does not count."""
    run()
    best, clock = 0.0, time.perf_counter if wall else time.process_time
    for _ in range(REPEATS):
        start = clock()
        done = run()
        best = max(best, done / (clock() - start))
    return best


def _pick(masks: np.ndarray, rng: np.random.Generator, stops: bool) -> np.ndarray:
    """Stop in every environment, or a random legal action in each."""
    if stops:
        return np.zeros(len(masks), dtype=np.int64)
    return np.asarray(np.argmax(rng.random(masks.shape) * masks, axis=1))


def single(scenario: Scenario, steps: int, stops: bool, **settings: Any) -> float:
    """Steps per second of a single environment."""
    env = ClusterEnv(scenario, **settings)
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def run() -> int:
        for _ in range(steps):
            action = 0 if stops else int(_pick(env.action_masks()[None], rng, stops)[0])
            if env.step(action)[3]:
                env.reset()
        return steps

    return _best(run)


def batched(scenario: Scenario, n: int, steps: int, stops: bool, threads: int = 1, **settings: Any) -> float:
    """Steps per second of a batch, resets among them; by wall time with threads."""
    envs = ClusterVectorEnv(n, scenario, copy=False, threads=threads, **settings)
    rng = np.random.default_rng(0)
    envs.reset(seed=0)

    def run() -> int:
        for _ in range(max(1, steps // n)):
            envs.step(_pick(envs.batch.masks, rng, stops))
        return max(1, steps // n) * n

    return _best(run, wall=threads > 1)


def measure_clusters(
    sizes: tuple[str, ...] = SIZES,
    batches: tuple[int, ...] = (1, 16, 256),
    steps: int = 3000,
    threads: int = 2,
    forms: tuple[str, ...] = ("stop", "unrolled", "candidates"),
    models: tuple[bool, ...] = (False, True),
) -> list[tuple[str, str, float, dict[str, float]]]:
    """Steps per second.

    Args:
        sizes: ``HOSTSxVMS``.
        batches: Sizes of batches.
        steps: Steps of a run on ten hosts; fewer on more.
        threads: Threads of the last column.
        forms: ``stop``: every step is an interval without an order; else random legal actions of a form.
        models: Whether the full model is on.

    Returns:
        Model and size, form, single environment, and batches by their names.
    """
    rows = []
    for full in models:
        for size in sizes:
            scenario = scene(size, full)
            count = max(60, steps * 10 // int(size.split("x")[0]))
            for form in forms:
                stops = form == "stop"
                kind: dict[str, Any] = {} if stops else {"actions": form}
                alone = single(scenario, count // 3, stops, **kind)
                found = {f"B={n}": batched(scenario, n, max(count, 2 * n), stops, **kind) for n in batches}
                if threads > 1:
                    many = max(batches)
                    name = f"B={many}, {threads} threads"
                    found[name] = batched(scenario, many, max(count, 2 * many), stops, threads, **kind)
                rows.append((f"{'full' if full else 'simple'} {size}", form, alone, found))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 256])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=["stop", "unrolled", "candidates"])
    parser.add_argument("--models", nargs="+", default=["simple", "full"], choices=["simple", "full"])
    given = parser.parse_args()
    rows = measure_clusters(
        tuple(given.sizes),
        tuple(given.batches),
        given.steps,
        given.threads,
        tuple(given.forms),
        tuple(model == "full" for model in given.models),
    )
    names = list(rows[0][3])
    table = Table("cluster", "steps", "single /s", *(f"{name} /s" for name in names))
    for what, form, alone, found in rows:
        table.add_row(
            what, form, f"{alone:,.0f}", *(f"{found[n]:,.0f} ({found[n] / alone:.1f} x)" for n in names)
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
