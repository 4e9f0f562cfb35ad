"""What every sub-model is worth in the suite's tasks: the cost with it switched off, policy by policy.

    python -m virtgym.experiments.bench.suite_effects [--policies static dpm] [--seeds 3]

For every task and every sub-model that is on in it, a policy plays the task with and without it on the
validation seeds. A sub-model that changes no task's cost by 5 % or more cannot be studied with the suite: the
last lines name those that do, and those that do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from virtgym.envs.scenarios.scenario import build_scenario, load_scenario_config
from virtgym.policies import make_policy

from ..run.rollout import make_env, rollout
from ..suite.tasks import Task, load_suite

ENOUGH = 0.05
"""Relative change of cost that counts."""


def switches(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Overrides that switch off each sub-model that a scenario has on, by its name.

    Args:
        raw: The scenario as its file has it.
    """
    groups = ("overhead", "cpu", "numa", "io", "standby", "admission", "failures", "working_sets")
    found: dict[str, dict[str, Any]] = {
        g: {f"{g}.enabled": False} for g in groups if (raw.get(g) or {}).get("enabled")
    }
    if raw.get("memory") == "multiplexed":
        found["memory tiers"] = {"memory": "ignored"}
    if (raw.get("migration") or {}).get("mode") == "precopy":
        found["precopy"] = {"migration.mode": "fixed"}
    if raw.get("carbon"):
        found["carbon"] = {"cost.carbon": 0.0}
    found["telemetry"] = {"telemetry.mode": "instant"}
    times = {f"hosts.{i}.{k}_time_s": 0.0 for i in range(len(raw["hosts"])) for k in ("boot", "shutdown")}
    found["boot times"] = times
    if any("cpu_level" in group for group in raw["hosts"]):
        found["compatibility"] = {f"hosts.{i}.cpu_level": None for i in range(len(raw["hosts"]))}
    return found


def cost(task: Task, policy: str, seeds: Sequence[int], overrides: Mapping[str, Any]) -> float:
    """Mean cost of a policy in a task."""
    costs = []
    for seed in seeds:
        scenario = build_scenario(task.scenario, seed=seed, overrides=overrides)
        made = make_policy(policy)
        costs.append(rollout(make_env(scenario, made), made, seed, heat=False).metrics["cost"])
    return float(np.mean(costs))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m virtgym.experiments.bench.suite_effects")
    parser.add_argument("--suite", default="virtgym-1", help="name of the suite")
    parser.add_argument("--policies", nargs="+", default=["static", "dpm"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="validation seeds (default: 3)")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="some tasks only")
    options = parser.parse_args(argv)
    suite = load_suite(options.suite)
    seeds = suite.validation.seeds[: options.seeds]
    largest: dict[str, float] = {}
    print(f"| task | sub-model | {' | '.join(options.policies)} |\n|---|---|{'---|' * len(options.policies)}")
    for task in suite.tasks:
        if task.kind != "cluster" or (options.tasks and task.name not in options.tasks):
            continue
        whole = {policy: cost(task, policy, seeds, {}) for policy in options.policies}
        print(f"| {task.name} | all on | {' | '.join(f'{v:.1f}' for v in whole.values())} |", flush=True)
        for name, overrides in switches(load_scenario_config(task.scenario)).items():
            changes = [cost(task, p, seeds, overrides) / whole[p] - 1.0 for p in options.policies]
            largest[name] = max(largest.get(name, 0.0), *map(abs, changes))
            shown = " | ".join(f"{100 * change:+.1f} %" for change in changes)
            print(f"| {task.name} | {name} off | {shown} |", flush=True)
    enough = [name for name, change in largest.items() if change >= ENOUGH]
    print(f"\nchange some task's cost by 5 % or more when off: {', '.join(enough)}")
    print(f"do not: {', '.join(name for name in largest if name not in enough) or 'none'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
