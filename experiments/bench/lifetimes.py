"""What knowing lifetimes is worth: rules by departure with true, predicted and noisy lifetimes.

python -m virtgym.experiments.bench.lifetimes [--requests CSV (--windows NPY | --rows A B)] [--seeds 0 1]

Two measures: the waiting time of ``huawei_placement`` (windows of the file, windows that begin at equal
distances in some of its rows, or those of generated streams), and the usage time of hosts over its lower
bound where there are hosts enough for nobody to wait. The model is learned of the rows before them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from virtgym.envs.arrays import F8, I8
from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.games import PlacementConfig
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.traces import read_requests
from virtgym.envs.traces.requests import RequestTrace
from virtgym.policies import make_policy
from virtgym.policies.placement.lifetime_model import LifetimeModel, learn_lifetimes
from virtgym.policies.placement.lifetimes import LIFETIME_RULES, noisy_lifetimes

from ..analysis.lifetime_quality import auc, chance_within, quality, reliability, usage_ratio
from ..analysis.stats import independent_blocks, mean_statistic, paired_samples, trimmed_statistic
from ..run.placement_rollout import play_windows
from ..training.forecasts.lifetimes import JUDGED_S

BASES = ("first_fit", "best_fit", "balance_fit", "best_host_emptier_node", "first_host_emptier_node")
NOISES = (0.5, 1.0, 2.0, 4.0)
KNOWLEDGE: tuple[dict[str, Any], ...] = (
    {"lifetimes": "true"},
    {"lifetimes": "true", "ties": "first_host"},
    *({"lifetimes": "noisy", "noise": noise} for noise in NOISES),
    {"lifetimes": "predicted"},
    {"lifetimes": "predicted", "ties": "first_host"},
)
MANY = 60
"""Hosts that are enough for nobody to wait."""
USAGE_ROWS = 2000
"""Requests of a window of usage time."""


def entries() -> Iterator[tuple[str, Any]]:
    """Rules, with what they know."""
    for rule in BASES:
        yield rule, make_policy(rule)
    for rule in LIFETIME_RULES:
        for known in KNOWLEDGE:
            label = " ".join(str(value) for value in known.values())
            yield f"{rule} {label}", make_policy(rule, **known)


def waits(requests: RequestTrace, windows: I8) -> tuple[dict[str, F8], I8]:
    """Total wait of every window under every rule, s, and the requests of every window."""
    found = {}
    for name, policy in entries():
        batch = PlacementBatch(len(windows), PlacementSettings(requests, PlacementConfig()))
        played = play_windows(policy, batch, windows, rng=np.random.default_rng(0))
        found[name] = played.total_wait_s
    return found, played.n_placed


def usages(requests: RequestTrace, windows: I8) -> dict[str, F8]:
    """Usage time over its lower bound of every window under every rule."""
    config = PlacementConfig(protocol="recovering", n_hosts=MANY, max_requests=USAGE_ROWS)
    found = {}
    for name, policy in entries():
        batch = PlacementBatch(len(windows), PlacementSettings(requests, config))
        played = play_windows(policy, batch, windows, rng=np.random.default_rng(0))
        found[name] = usage_ratio(requests, played.log, config)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", help="a request trace; default: generated streams")
    parser.add_argument("--windows", help="rows of first requests, .npy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, nargs=2, help="windows begin at equal distances in these rows")
    parser.add_argument("--n", type=int, default=40, help="windows of these rows, or of a generated stream")
    parser.add_argument("--usage", type=int, default=8, help="windows of usage time")
    given = parser.parse_args(argv)
    if given.requests:
        first, last = given.rows or (0, 0)
        rows = np.linspace(float(first), float(last), given.n) if given.rows else np.load(given.windows)
        streams = [(read_requests(given.requests), rows.astype(np.int64))]
    else:
        streams = [
            (
                read_requests(None, "synthetic", n=16000, seed=seed),
                np.linspace(10_000, 14_000, given.n).astype(np.int64),
            )
            for seed in given.seeds
        ]
    console = Console(width=140)
    for requests, windows in streams:
        last = given.rows[1] if given.rows else len(requests.cores)
        _tell_quality(console, requests, range(int(windows.min()), last))
        spread = np.linspace(windows.min(), last - USAGE_ROWS - 1, given.usage).astype(np.int64)
        waited, length = waits(requests, windows)
        title = f"{requests.name}: total wait, s, trimmed mean"
        _tell(console, title, waited, windows, length, trimmed_statistic)
        used, length = usages(requests, spread), np.full(len(spread), USAGE_ROWS)
        title = f"{requests.name}: usage time over lower bound"
        _tell(console, title, used, spread, length, mean_statistic)


def _tell(console: Console, title: str, values: dict[str, F8], first: I8, length: I8, statistic: Any) -> None:
    best = min(BASES, key=lambda name: float(statistic(values[name])))
    rng = np.random.default_rng(0)
    blocks = independent_blocks(first, length, np.stack([each - values[best] for each in values.values()]))
    runs = {k: v[None] for k, v in values.items()}
    samples = paired_samples(runs, rng, {"s": statistic}, blocks=blocks)["s"]
    told = f"ratio to {best}; {len(first)} windows in {int(blocks.max()) + 1} blocks"
    table = Table(title=f"{title} ({told})", title_justify="left")
    for head in ("rule", "value", "ratio", "95 %", "mean"):
        table.add_column(head, justify="left" if head == "rule" else "right")
    for name, each in values.items():
        ratio = samples[name] / samples[best]
        low, high = np.percentile(ratio, (2.5, 97.5))
        value = float(statistic(each))
        table.add_row(
            name, f"{value:,.4g}" if value < 100 else f"{value:,.0f}",
            f"{value / float(statistic(values[best])):.3f}",
            f"{low:.3f} to {high:.3f}", f"{float(each.mean()):,.4g}",
        )  # fmt: skip
    console.print(table)


def _tell_quality(console: Console, requests: RequestTrace, rows: range) -> None:
    model = learn_lifetimes(requests, range(rows.start))
    table = Table(
        title=f"{requests.name}: leaving within T, learned of {rows.start} requests", title_justify="left"
    )
    for head in ("known", "T, s", "age, s", "share", "AUC", "calibration error"):
        table.add_column(head, justify="left" if head == "known" else "right")
    for time_s in JUDGED_S:
        for age_s in (0.0, 3600.0):
            found = quality(model, requests, rows, time_s, age_s)
            shown = (found["share"], found["auc"], found["calibration"])
            table.add_row("predicted", f"{time_s:g}", f"{age_s:g}", *(f"{value:.3f}" for value in shown))
    true = requests.lifetime_s[rows.start : rows.stop]
    for noise in NOISES:
        guess = noisy_lifetimes(requests.lifetime_s, noise, 0)[rows.start : rows.stop]
        for time_s in JUDGED_S:
            within = true <= time_s
            share, area = float(within.mean()), auc(-guess, within)
            table.add_row(f"noisy {noise:g}", f"{time_s:g}", "0", f"{share:.3f}", f"{area:.3f}", "")
    console.print(table)
    _tell_reliability(console, model, requests, rows)


def _tell_reliability(console: Console, model: LifetimeModel, requests: RequestTrace, rows: range) -> None:
    table = Table(title="chance to leave within T: predicted / observed, by tenth", title_justify="left")
    for head in ("T, s", *map(str, range(1, 11))):
        table.add_column(head, justify="right")
    group, chance = model.predict(requests)
    here = slice(rows.start, rows.stop)
    for time_s in JUDGED_S:
        parts = reliability(chance_within(chance, time_s)[group[here]], requests.lifetime_s[here] <= time_s)
        table.add_row(f"{time_s:g}", *(f"{said:.2f} / {seen:.2f}" for said, seen in parts))
    console.print(table)


if __name__ == "__main__":
    main()
