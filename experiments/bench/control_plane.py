"""The managers of a platform on real days: energy, service, migrations and decision times, in one table.

    python -m virtgym.experiments.bench.control_plane DAY [DAY ...] [--policies NAME ...] [--memory binding]
                                                              [--telemetry instant]
    python -m virtgym.experiments.bench.control_plane --scenes

A day is a folder of a PlanetLab trace for ``scenario=planetlab`` (800 hosts). Every policy runs once per day:
none of them draws anything. Under the table stands, for every day, how ESV and energy compare with
``ols-mmt``. ``--scenes`` runs the textbook scenes of DRS and DPM instead, over several seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from virtgym.envs.errors import VirtgymError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.policies import Policy, make_policy

from ..analysis.stats import stratified_bootstrap
from ..config.overrides import PolicySpec, parse_policy
from ..run.rollout import make_env, rollout

DEFAULT_POLICIES: tuple[str, ...] = (
    *("static", "npa", "dvfs"),
    *("thr-mmt", "mad-mmt", "iqr-mmt", "ols-mmt", "loess-mmt", "loess_robust-mmt"),
    *("drs", "drs_loess", "drs(level=5)", "drs_loess(level=5)"),
    *("dpm", "dpm_ortools", "platform", "platform(power=dpm_ortools)"),
)
SCENES: dict[str, tuple[str, ...]] = {
    "drs_unbalanced": ("static", "drs", "drs_loess", "drs_ortools", "platform"),
    "drs_light": ("static", "drs", "dpm", "dpm_ortools", "platform"),
    "drs_heavy": ("static", "drs", "drs(level=5)", "dpm", "dpm_ortools", "platform"),
}
"""The textbook scenes and who shows something there."""
REFERENCE = "ols-mmt"

Row = dict[str, float | str]
Column = tuple[str, str, Callable[[float], str]]

COLUMNS: tuple[Column, ...] = (
    ("cost", "cost", "{:.1f}".format),
    ("unserved_weighted", "weighted unserved, %", lambda x: f"{100 * x:.3f}"),
    ("energy_kwh", "energy, kWh", "{:.1f}".format),
    ("migrations", "migrations", "{:,.0f}".format),
    ("slatah", "SLATAH, %", lambda x: f"{100 * x:.3f}"),
    ("pdm", "PDM, %", lambda x: f"{100 * x:.4f}"),
    ("slav", "SLAV · 10⁶", lambda x: f"{1e6 * x:.3f}"),
    ("esv", "ESV · 10³", lambda x: f"{1e3 * x:.4f}"),
    ("sla_unserved", "unserved, %", lambda x: f"{100 * x:.3f}"),
    ("thrash", "thrash", "{:.0f}".format),
    ("active_hosts", "hosts on", "{:.1f}".format),
    ("imbalance_cpu", "imbalance", "{:.3f}".format),
    ("decision_ms_p50", "p50, ms", "{:.2f}".format),
    ("decision_ms_p99", "p99, ms", "{:.1f}".format),
)


def day_rows(
    day: str | Path, policies: Sequence[str], memory: str = "ignored", telemetry: str = "past"
) -> list[Row]:
    """One row per policy for a day.

    Args:
        day: Folder of the day's trace.
        policies: Names, with parameters in parentheses.
        memory: ``scenario.memory``.
        telemetry: ``scenario.telemetry.mode``.

    Raises:
        ConfigError: For an unknown policy or parameter.
        TraceError: For a trace that cannot be read.
    """
    made = [(spec, _make(spec)) for spec in map(parse_policy, policies)]
    trace = {"path": str(day), "format": "planetlab"}
    overrides = {"trace": trace, "memory": memory, "telemetry": {"mode": telemetry}}
    scenario = build_scenario("planetlab", overrides=overrides)
    rows: list[Row] = []
    for spec, policy in made:
        metrics = rollout(make_env(scenario, policy), policy, heat=False).metrics
        rows.append({"day": Path(day).name, "policy": spec.label, **metrics})
    return rows


def scene_rows(scene: str, policies: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """One row per policy for a scene: means over seeds of the trace, energy with its interval.

    Args:
        scene: Name of the scenario.
        policies: Names, with parameters in parentheses.
        seeds: Seeds, at least one.
    """
    rows: list[Row] = []
    for text in policies:
        spec = parse_policy(text)
        runs = []
        for seed in seeds:
            scenario = build_scenario(scene, seed=seed)
            policy = _make(spec)
            runs.append(rollout(make_env(scenario, policy), policy, seed, heat=False).metrics)
        row: Row = {"day": scene, "policy": spec.label}
        row |= {key: float(np.nanmean([run[key] for run in runs])) for key, _, _ in COLUMNS}
        if len(seeds) > 1:
            energy = [[run["energy_kwh"] for run in runs]]
            spread = stratified_bootstrap(energy, np.random.default_rng(0))
            row["interval"] = f"{spread.low:.2f} – {spread.high:.2f}"
        rows.append(row)
    return rows


def _make(spec: PolicySpec) -> Policy:
    return make_policy(spec.name, **spec.params)


def to_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    extra = any("interval" in row for row in rows)
    heads = ["day", "policy", *(head for _, head, _ in COLUMNS), *(["energy, 95 %"] if extra else [])]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [show(float(row[key])) for key, _, show in COLUMNS]
        end = [str(row.get("interval", ""))] if extra else []
        lines.append(f"| {row['day']} | `{row['policy']}` | {' | '.join([*cells, *end])} |")
    return "\n".join(lines)


def compare_lines(rows: Sequence[Row]) -> list[str]:
    """For every day and policy that switches hosts by forecasts: ESV and energy against ``ols-mmt``'s."""
    lines = []
    for day in dict.fromkeys(row["day"] for row in rows):
        here = {str(row["policy"]): row for row in rows if row["day"] == day}
        if REFERENCE not in here:
            continue
        base = here[REFERENCE]
        for name, row in here.items():
            if name.startswith(("dpm", "platform")):
                theirs, ours = float(base["esv"]), float(row["esv"])
                ratio = f"1/{theirs / ours:.0f}" if ours > 0.0 < theirs else f"{1e3 * ours:.4g} · 10⁻³"
                energy = float(row["energy_kwh"]) / float(base["energy_kwh"]) - 1.0
                lines.append(f"{day} {name}: ESV {ratio}, energy {100 * energy:+.1f} %")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="The managers of a platform on real days and in scenes.")
    parser.add_argument("days", nargs="*", help="folders of PlanetLab days")
    parser.add_argument("--policies", nargs="+", default=list(DEFAULT_POLICIES), metavar="NAME")
    parser.add_argument("--memory", choices=("ignored", "binding"), default="ignored")
    parser.add_argument("--telemetry", choices=("past", "instant"), default="past")
    parser.add_argument("--scenes", action="store_true", help="the textbook scenes of DRS and DPM")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of a scene (default 5)")
    given = parser.parse_args(arguments)
    if not given.days and not given.scenes:
        print("name at least one day, or --scenes", file=sys.stderr)
        return 2
    if given.seeds < 1:
        print(f"--seeds={given.seeds}: must be at least 1", file=sys.stderr)
        return 2
    try:
        rows: list[Row] = []
        for scene, policies in SCENES.items() if given.scenes else ():
            rows += scene_rows(scene, policies, range(given.seeds))
        for day in given.days:
            rows += day_rows(day, given.policies, given.memory, given.telemetry)
    except VirtgymError as error:
        print(error, file=sys.stderr)
        return 2
    print(to_markdown(rows))
    for line in compare_lines(rows):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
