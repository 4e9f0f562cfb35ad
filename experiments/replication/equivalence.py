"""The replica with every quirk off against the main simulator: the same day, the same decisions.

Two programs that share no code, written from two texts, must give the same physics:

    python -m virtgym.experiments.replication.equivalence DAY_FOLDER [POLICY ...]

The main simulator runs a baseline and its decisions are logged; the replica, all quirks off, replays them.
Two differences are by definition. The main simulator starts with every host on and counts the unused ones
that a policy switches off at time 0; for the replica they were never on, so they are left out of
``host_shutdowns`` here. And a copy costs its destination a tenth of what the VM runs at on its source in the
main simulator, of what it could run at on the destination in the replica (as in the peer): some 1e-7 of the
energy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from virtgym.envs.errors import VirtgymError
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.policies import make_policy

from .metrics import DecisionLog
from .quirks import Quirks
from .replica import run_replica

COMPARED: tuple[str, ...] = (
    "energy_kwh",
    "migrations",
    "slatah",
    "pdm",
    "slav",
    "esv",
    "sla_unserved",
    "active_hosts",
    "host_shutdowns",
)
"""Metrics that both programs have."""


def run_and_log(scenario: Scenario, policy_name: str, seed: int = 0) -> tuple[dict[str, float], DecisionLog]:
    """Run a baseline in the main simulator.

    Args:
        scenario: A ``planetlab`` scenario.
        policy_name: The baseline.
        seed: Seed of the policy.

    Returns:
        Its metrics, and its decisions for the replica.
    """
    policy: Any = make_policy(policy_name)
    simulator = scenario.simulator(arrival=getattr(policy, "arrival", None), strict=True)
    policy.reset(simulator.view, np.random.default_rng(seed))
    initial = simulator.state.vm_host.copy()
    rounds, vms, hosts = [], [], []
    step = 0
    unused = 0
    while not simulator.done:
        orders = policy.plan(simulator.view)
        if step == 0:
            unused = int((simulator.state.host_n_vms[orders.power_off] == 0).sum())
        rounds.append(np.full(len(orders.move_vm), step, dtype=np.int64))
        vms.append(np.asarray(orders.move_vm, dtype=np.int32))
        hosts.append(np.asarray(orders.move_host, dtype=np.int32))
        simulator.step(orders)
        step += 1
    log = DecisionLog(
        initial=initial, round=np.concatenate(rounds), vm=np.concatenate(vms), dest=np.concatenate(hosts)
    )
    metrics = simulator.metrics()
    metrics["host_shutdowns"] -= unused
    return metrics, log


def compare_with_simulator(scenario: Scenario, policy_name: str) -> pd.DataFrame:
    """Compare the two programs on one day under one baseline's decisions.

    Returns:
        One row per metric of ``COMPARED``: both values and the relative difference.
    """
    ours, log = run_and_log(scenario, policy_name)
    percent = np.round(scenario.workload.util.T * 100.0)
    replay_name = "dvfs" if policy_name == "dvfs" else "thr-mmt"  # decides nothing in a replay
    quirks = Quirks.none()
    theirs: Mapping[str, float] = vars(run_replica(percent, replay_name, quirks, decisions=log))
    rows = []
    for name in COMPARED:
        other = float(theirs["sla_overall" if name == "sla_unserved" else name])
        gap = abs(ours[name] - other) / abs(other) if other else abs(ours[name])
        rows.append({"metric": name, "simulator": ours[name], "replica": other, "relative_difference": gap})
    return pd.DataFrame(rows)


def main(argv: list[str] | None = None) -> int:
    """Print the comparison as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("day", help="a PlanetLab day folder")
    parser.add_argument("policies", nargs="*", default=["ols-mmt", "thr-mmt", "dvfs"])
    options = parser.parse_args(argv)
    try:
        for name in options.policies:
            for memory in ("ignored", "binding"):
                overrides = {"trace.path": options.day, "memory": memory}
                scenario = build_scenario("planetlab", overrides=overrides)
                print(f"\n{name}, memory {memory}\n")
                print(compare_with_simulator(scenario, name).to_string(index=False))
    except VirtgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
