"""Digests of results, to the bit: run before and after a change that must change nothing, and compare.

    python -m virtgym.experiments.bench.digests --out before.json        # and after the change:
    python -m virtgym.experiments.bench.digests --out after.json --against before.json

The runs cover every scenario, every family of policies, the shipped agent, the replica and short trainings. A
digest covers every column of the result rows and of the per-interval table, but times, versions and hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..run.cell import evaluate

if TYPE_CHECKING:
    import pandas as pd

NOT_RESULTS = (
    "wall_s",
    "vm_intervals_per_s",
    "decision_ms",
    "config_hash",
    "virtgym_version",
    "kind",
    "plan_s",
    "vms_dropped",
    "information",
)
"""Columns that say how, when and by what a result came about; a column that begins so is left out."""

SCENES = ("drs_heavy", "drs_light", "drs_unbalanced", "ha_cold", "ha_hot", "ha_stateless", "nfv_migration")
DETECTORS = ("thr", "mad", "iqr", "ols", "loess", "loess_robust")
LITERATURE = [f"{detector}-{selector}" for detector in DETECTORS for selector in ("mmt", "mc", "mu", "rs")]
BALANCERS = ("drs", "drs_loess", "drs_ortools")
MANAGERS = ("static", "npa", "dvfs", "random", *BALANCERS, "dpm", "dpm_ortools", "platform", "ha")
RULES = (
    "first_fit",
    "best_fit",
    "worst_fit",
    "balance_fit",
    "best_host_emptier_node",
    "first_host_emptier_node",
    "move_to_front",
    "dot_product",
    "norm_based",
    "random",
    "ortools_placement",
    "demo_agent",
)
FULL = {"hosts.0.count": 30, "hosts.1.count": 30, "trace.format": "synthetic", "trace.options.n_vms": 90}
GENERATED = {"trace.format": "synthetic", "trace.options.n_vms": 120}
Run = tuple[str, str, int, dict[str, Any], dict[str, Any]]


def _runs() -> Iterator[Run]:
    for scenario in ("small", "demo", *SCENES):
        yield scenario, "platform", 1, {}, {}
    for policy in (*LITERATURE, *MANAGERS):
        yield "small", policy, 0, {}, {}
    for scenario, policy in (("drs_unbalanced", "drs"), ("drs_light", "dpm"), ("drs_heavy", "drs_loess")):
        yield scenario, policy, 0, {}, {}
    for scenario in ("ha_cold", "ha_hot", "ha_stateless"):
        yield scenario, "ha", 0, {}, {}
    yield "nfv_migration", "nfv_upgrade", 0, {}, {}
    yield "small", "platform", 0, {}, {"power": "dpm_ortools", "balance": "drs_loess"}
    yield "planetlab", "ols-mmt", 0, GENERATED, {}
    yield "planetlab", "loess-mmt", 0, {**GENERATED, "memory": "binding"}, {}
    for policy in ("static", "ols-mmt", "dpm", "platform"):
        yield "planetlab_full", policy, 0, FULL, {}
    for policy in ("lr-mmt", "lrr-mc", "thr-rs", "mad-mu", "iqr-mmt", "npa", "dvfs"):
        yield "planetlab_cloudsim3", policy, 0, GENERATED, {}
    for policy in RULES:
        yield "demo_placement", policy, 0, {"n_windows": 8}, {}
    for scenario in ("placement_fading", "placement_recovering"):
        yield scenario, "first_fit", 0, {"n_windows": 4}, {}
    yield "demo_placement", "first_fit", 3, {"n_windows": 4, "placement.queue_window": 4}, {}


RUNS: list[Run] = list(_runs())
"""Scenario, policy, seed, changes to the scenario, parameters of the policy."""

TRAININGS = (
    ("agent=ppo", "num_envs=16", "total_timesteps=4096", "agent.n_steps=64"),
    ("agent=rollout_iteration", "total_timesteps=20000"),
)


def digest_frame(frame: pd.DataFrame) -> str:
    """Return a digest of a table's values, bit by bit, apart from the columns ``NOT_RESULTS``."""
    digest = hashlib.sha256()
    for name in sorted(frame.columns):
        if str(name).startswith(NOT_RESULTS):
            continue
        values = frame[name].to_numpy()
        digest.update(str(name).encode())
        if values.dtype.kind in "fiub":
            digest.update(np.ascontiguousarray(values).astype(np.float64).tobytes())
        else:
            digest.update("\0".join(str(value) for value in values).encode())
    return digest.hexdigest()[:16]


def _label(run: Run) -> str:
    scenario, policy, seed, overrides, params = run
    more = [f"{k}={v}" for k, v in {**overrides, **{f"policy.{k}": v for k, v in params.items()}}.items()]
    return " ".join([scenario, policy, f"seed={seed}", *more])


def _digest_run(run: Run, instant: bool = False) -> str:
    import pandas as pd

    scenario, policy, seed, overrides, params = run
    if instant and "placement" not in scenario and scenario != "planetlab_cloudsim3":
        overrides = {**overrides, "telemetry.mode": "instant"}
    with tempfile.TemporaryDirectory() as folder:
        rows = evaluate(scenario, policy, seed, overrides=overrides, params=params, out=folder)
        steps = Path(folder) / "steps.parquet"
        table = pd.read_parquet(steps) if steps.exists() else pd.DataFrame()
    rows = rows[
        sorted(column for column in rows.columns if rows[column].notna().any())
    ]  # a new, empty column is no change
    return f"{digest_frame(rows)} {digest_frame(table)}"


def _digest_training(overrides: tuple[str, ...]) -> str:
    from ..cli.commands import main as virtgym

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        code = virtgym(["train", "scenario=demo_placement", "scenario.n_windows=5", f"out={out}", *overrides])
        if code not in (0, None):
            return f"exit code {code}"
        weights = np.load(out / "agent" / "weights.npz")
        digest = hashlib.sha256()
        for name in sorted(weights.files):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()[:16]


def _safely(run: Callable[[Any], str], of: Any) -> str:
    try:
        return run(of)
    except Exception as error:  # an error is a result as well: the same before and after
        return f"{type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> int:
    """Run, print and store the digests; 1 if any differs from those of ``--against``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier run to compare with")
    parser.add_argument("--only", default="", help="runs whose label contains this")
    parser.add_argument("--instant", action="store_true", help="clusters with telemetry.mode=instant")
    parser.add_argument("--trainings", action="store_true", help="short trainings too (needs the extra rl)")
    chosen = parser.parse_args(arguments)
    before: dict[str, str] = json.loads(chosen.against.read_text()) if chosen.against else {}
    found: dict[str, str] = {}
    jobs: list[tuple[str, Callable[[Any], str], Any]] = [
        (_label(run), partial(_digest_run, instant=chosen.instant), run) for run in RUNS
    ]
    if chosen.trainings:
        jobs += [(f"train {' '.join(training)}", _digest_training, training) for training in TRAININGS]
    for label, run, of in jobs:
        if chosen.only not in label:
            continue
        found[label] = _safely(run, of)
        verdict = (
            ""
            if label not in before
            else " equal"
            if before[label] == found[label]
            else f" WAS {before[label]}"
        )
        print(f"{label}: {found[label]}{verdict}", flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1))
    changed = [label for label in found if label in before and before[label] != found[label]]
    print(f"{len(found)} runs, {len(changed)} differ" if before else f"{len(found)} runs")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
