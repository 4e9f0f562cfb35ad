"""The commands for an operator's own cluster: from what is typed to an answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.inventory.base import Inventory
from virtgym.envs.scenarios.inventory import InventoryGroup, read_group
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.policies.registry import check_task, make_policy

from ..config.compose import compose_run
from .keys import Request, host_values, read_request
from .page import Answer, Table, deliver, open_folder

if TYPE_CHECKING:
    from .ha_check import Check
    from .plan import Plan
    from .size import Size

DEFAULT_POLICY = "drs"
N_NAMED = 5
"""Names that a sentence lists."""


def plan(arguments: Sequence[str]) -> None:
    """Run ``virtgym plan``."""
    from .plan import history_needed, make_plan

    request = read_request("plan", arguments)
    overrides = list(request.overrides)
    if not any(text.partition("=")[0] == "policy" for text in overrides):
        overrides.append(f"policy={DEFAULT_POLICY}")
    run = compose_run("evaluate", overrides)
    spec, seed = run.policies[0], run.seeds[0]
    policy = make_policy(spec.name, **spec.params)
    check_task(spec.name, policy, "cluster", "inventory")
    folder = open_folder("plan", request.own["out"])
    scenario = build_scenario(run.scenario, seed=seed)
    warmup, rounds = request.own["warmup"], request.own["intervals"]
    interval = scenario.config.interval_s
    start = time.perf_counter()
    found = make_plan(
        tail(scenario, history_needed(warmup, interval, scenario.trace.sample_s)),
        policy,
        warmup,
        rounds,
        seed,
    )
    seconds = time.perf_counter() - start
    page = deliver(plan_answer(scenario, found, spec.label, seconds), folder)
    print(f"plan: {folder / 'plan.csv'}")
    print(f"report: {page.resolve()}")


def tail(scenario: Scenario, samples: int) -> Scenario:
    """A scenario with the last samples of its usage."""
    load = scenario.workload
    cut = {name: np.ascontiguousarray(rows[-samples:]) for name, rows in load.signals.items()}
    util = np.ascontiguousarray(load.util[-samples:])
    return replace(scenario, workload=replace(load, util=util, signals=cut))


def plan_rows(scenario: Scenario, found: Plan) -> Table:
    """Rows of ``plan.csv``."""
    hosts, vms = scenario.host_names, scenario.trace.vm_names
    columns = [
        *("vm", "from", "to", "gain", "why", "seconds", "downtime_s", "gain_unit", "start_s"),
        *("from_cpu_before", "from_cpu_after", "to_cpu_before", "to_cpu_after"),
        *("to_memory_after", "imbalance_before", "imbalance_after"),
    ]
    rows = [
        (
            vms[m.vm], hosts[m.source], hosts[m.dest], m.gain, m.why, m.seconds, m.downtime_s, m.gain_unit,
            m.start_s, m.before.source, m.after.source, m.before.dest, m.after.dest, m.after.dest_memory,
            m.before.imbalance, m.after.imbalance,
        )
        for m in found.moves
    ]  # fmt: skip
    return Table(columns, rows)


def plan_answer(scenario: Scenario, found: Plan, label: str, seconds: float) -> Answer:
    """What a plan says."""
    hosts = scenario.host_names
    interval = scenario.config.interval_s
    actions = Table(
        ["action", "host", "at_s"], [(kind, hosts[h], i * interval) for kind, h, i in found.actions]
    )
    n = len(found.moves)
    if n:
        verdict = (
            f"{n:,} move{'s' * (n > 1)} by {label}: {found.seconds:,.0f} s in all, VMs stand still for "
            f"{found.downtime_s:.2f} s together."
        )
    else:
        verdict = f"no beneficial move ({label}{f': {found.nothing}' if found.nothing else ''})"
    said = [
        f"imbalance of CPU {found.imbalance[0]:.3f} -> {found.imbalance[1]:.3f}; hosts on "
        f"{found.hosts_on[0]} -> {found.hosts_on[1]}; power {found.watts[0]:,.0f} -> "
        f"{found.watts[1]:,.0f} W; demand above capacity {found.overload_mhz[0]:,.0f} -> "
        f"{found.overload_mhz[1]:,.0f} MHz",
        f"{scenario.cluster.n_hosts:,} hosts, {scenario.workload.n_vms:,} VMs; planned in {seconds:.2f} s. "
        "Nothing was sent to any platform.",
    ]
    if found.refused:
        said.insert(1, f"{found.refused:,} orders of the policy were not legal and are not part of the plan")
    return Answer(
        f"plan of {scenario.trace.name}",
        verdict,
        said,
        [("moves, in their order", "plan.csv", plan_rows(scenario, found)), ("hosts", "hosts.csv", actions)],
        scenario.trace.notes,
    )


def _inventory(request: Request) -> Inventory:
    run = compose_run("evaluate", request.overrides)
    return read_group(InventoryGroup(**run.scenario["inventory"]))


def size_hosts(arguments: Sequence[str]) -> None:
    """Run ``virtgym size``."""
    from .size import size, usual_host

    request = read_request("size", arguments)
    own = request.own
    inventory = _inventory(request)
    given = None if own["host"] is None else host_values(own["host"])
    host = usual_host(inventory, given)
    folder = open_folder("size", own["out"])
    found = size(
        inventory,
        host,
        failures=own["failures"],
        cpu=own["cpu"],
        cpu_share=own["cpu_share"],
        memory_share=own["memory_share"],
        time_limit_s=own["time_limit_s"],
    )
    page = deliver(size_answer(inventory, found, own), folder)
    print(f"report: {page.resolve()}")


def size_answer(inventory: Inventory, found: Size, own: dict[str, Any]) -> Answer:
    """What a size says."""
    host, sizing = found.host, found.sizing
    kind = f"{host.cores} cores of {host.core_mhz:,.0f} MHz and {host.memory_mib / 1024:,.0f} GiB"
    proof = (
        "fewer are not possible"
        if found.hosts == found.bound
        else f"no fewer than {found.bound} are possible"
    )
    extra = f", {found.failures} of them for failures" if found.failures else ""
    row = {
        "hosts": found.hosts, "bound": found.bound, "failures": found.failures, "hosts_now": found.now,
        "cores": host.cores, "core_mhz": host.core_mhz, "memory_mib": host.memory_mib,
        "vms": len(inventory.vms), "vm_mhz": found.cpu_mhz, "vm_mib": found.memory_mib,
        "seconds": sizing.seconds,
    }  # fmt: skip
    packed = sorted(
        ((vm.name, h + 1) for vm, h in zip(inventory.vms, sizing.vm_host.tolist())), key=itemgetter(1)
    )
    return Answer(
        f"size of {inventory.name}",
        f"{found.hosts} host{'s' * (found.hosts > 1)} of {kind}{extra}; {proof}.",
        [
            f"VMs count with the {100 * own['cpu']:.0f} % quantile of their use and all of their memory; "
            f"hosts are filled to {100 * own['cpu_share']:.0f} % of CPU and "
            f"{100 * own['memory_share']:.0f} % of memory. There are {found.now} hosts now."
        ],
        [("size", "size.csv", Table(list(row), [list(row.values())]))],
        (*found.notes, *inventory.notes),
        [("packing.csv", Table(["vm", "host"], packed))],
    )


def check_ha(arguments: Sequence[str]) -> None:
    """Run ``virtgym ha-check``."""
    from .ha_check import ha_check

    request = read_request("ha-check", arguments)
    own = request.own
    inventory = _inventory(request)
    folder = open_folder("ha-check", own["out"])
    found = ha_check(
        inventory,
        failures=own["failures"],
        memory_overcommit=own["memory_overcommit"],
        sets=own["sets"],
        time_limit_s=own["time_limit_s"],
    )
    page = deliver(ha_answer(inventory, found), folder)
    print(f"report: {page.resolve()}")


def ha_answer(inventory: Inventory, found: Check) -> Answer:
    """What a check says."""
    tried = f"{found.checked:,} set{'s' * (found.checked != 1)} of hosts"
    what = "any host" if found.failures == 1 else f"any {found.failures} hosts"
    if not found.exact:
        what = f"any one host, or the {found.failures} with most memory in use"
    if not found.losses:
        verdict = f"every VM restarts if {what} or any rack fail: {tried} tried."
    else:
        worst = found.losses[0]
        names = ", ".join(worst.left[:N_NAMED]) + (", …" if len(worst.left) > N_NAMED else "")
        sure = "" if worst.proven else " (not proven: another placement might restart more)"
        verdict = (
            f"{len(worst.left)} VM{'s' * (len(worst.left) > 1)} would not restart if "
            f"{', '.join(worst.hosts)} failed: {names}{sure}."
        )
    rows = [
        (", ".join(loss.hosts), loss.domain, loss.vms, len(loss.left), "; ".join(loss.left), loss.proven)
        for loss in found.losses
    ]
    table = Table(["hosts", "domain", "vms", "not_restarted", "names", "proven"], rows)
    return Answer(
        f"restarts of {inventory.name}",
        verdict,
        [
            f"{len(found.losses):,} of {tried} leave VMs down; a VM needs its configured memory and its "
            "reserved CPU." + ("" if found.exact else " Not all sets were tried (sets=N).")
        ],
        [("failures that leave VMs without a host", "ha_check.csv", table)],
        inventory.notes,
    )
