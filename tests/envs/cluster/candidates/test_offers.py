"""Candidates: legal by the simulator's own checks, and described as a plain recomputation describes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oracles.full_cluster import EVERYTHING
from virtgym.envs.cluster.candidates.columns import CANDIDATE_COLUMNS
from virtgym.envs.cluster.candidates.settings import KINDS, PLACE, CandidateSettings
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.scenarios import build_scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guarantee import margin_now
from virtgym.envs.sim.models.admission import SLOTS
from virtgym.envs.sim.models.power import BOOTING, ON, RESUMING, STANDBY, curve_power
from virtgym.envs.sim.models.precopy import MBIT_PER_MIB, PULL
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED, MIG_NONE

NAMES = [column.name for column in CANDIDATE_COLUMNS]
RULED: dict[str, Any] = {
    "rules.affinity": [{"vms": [0, 1]}, {"vms": [2, 3, 4]}],
    "rules.anti_affinity": [{"vms": [5, 6, 7]}, {"vms": [7, 8, 2]}],
    "rules.must": [{"vms": [9, 10, 5], "hosts": [0, 1, 2, 3]}, {"vms": [3], "hosts": [2, 3, 4]}],
}
SHORT: dict[str, Any] = {"trace.options.n_samples": 24}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "small": ("small", SHORT),
    "arrivals": ("small", {**SHORT, "arrival": "policy", "trace.options.churn": 0.6}),
    "rules": ("small", {**SHORT, **RULED, "arrival": "policy", "trace.options.churn": 0.4}),
    "simple admission": ("small", {**SHORT, "admission.enabled": True, "admission.host_failures": 2}),
    "ha_cold": ("ha_cold", {**SHORT, "failures.mtbf_h": 4.0, "recovery.restart": "policy"}),
    "ha_hot": ("ha_hot", SHORT),
    "percentage": (
        "ha_cold",
        {**SHORT, "admission.rule": "percentage", "admission.cpu_share": 0.4, "admission.mem_share": 0.3},
    ),
    "dedicated": ("ha_cold", {**SHORT, "admission.rule": "dedicated", "admission.hosts": [1, 7]}),
    "everything": (EVERYTHING, {}),
    "memory": ("suite/memory", SHORT),
    "telecom": ("suite/telecom", SHORT),
}
every_case = pytest.mark.parametrize("case", CASES)


def make(case: str, seed: int = 0, **options: Any) -> ClusterEnv:
    scenario, overrides = CASES[case]
    built = build_scenario(scenario, seed=seed, overrides=overrides)
    options.setdefault("max_decisions_per_interval", 3)
    return ClusterEnv(built, actions="candidates", tables=True, **options)


def choose(env: ClusterEnv, rng: np.random.Generator) -> int:
    return 0 if rng.random() < 0.3 else int(rng.choice(np.flatnonzero(env.action_masks())))


@every_case
def test_no_order_of_a_candidate_is_refused_and_no_promise_broken(
    case: str, broken_rules: Callable[..., set[Any]]
) -> None:
    kinds: set[str] = set()
    for seed in range(2):
        rng = np.random.default_rng(seed)
        env = make(case, seed)
        env.reset(seed=seed)
        form, over = env.form, False
        while not over:
            mask = env.action_masks()
            assert mask[0]
            rules = env.view.config.rules
            broken = broken_rules(rules, homes(env.sim.state))
            for k in np.flatnonzero(mask).tolist():
                twin = env.sim.fork()
                orders = form.decisions(k)
                assert twin.apply(orders) == [], (case, k)
                assert twin.state.totals.guarantee_broken == env.sim.state.totals.guarantee_broken
                assert broken_rules(rules, homes(twin.state)) <= broken, (case, k)
                kinds.add(KINDS[form.candidates.kind[k]])
            action = choose(env, rng)
            _, _, _, over, info = env.step(action)
            assert "illegal_action" not in info, (case, action, info)
    assert len(kinds) > 1


def homes(state: Any) -> Any:
    """Where every VM is, or comes to; -1 = nowhere."""
    found = np.where(state.vm_dest >= 0, state.vm_dest, state.vm_host)
    if len(state.copy_phase):
        found = np.where(state.copy_phase == PULL, state.vm_host, found)
    return np.where(np.isin(state.vm_state, (ABSENT, DEPARTED)), -1, found)


def ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole > 0 else 0.0


class Recount:
    """What a row should say, by plain Python over a fork that has carried the orders out."""

    def __init__(self, env: ClusterEnv) -> None:
        self.env, self.settings = env, env.candidates
        self.mean = np.full(env.view.n_vms, -1.0)
        self.variance = np.zeros(env.view.n_vms)

    def remember(self) -> None:
        state, weight = self.env.view.state, self.settings.weight
        for v in range(self.env.view.n_vms):
            demand = float(state.vm_demand_mhz[v])
            if state.vm_state[v] in (ABSENT, DEPARTED):
                self.mean[v], self.variance[v] = -1.0, 0.0
            elif self.mean[v] < 0:
                self.mean[v], self.variance[v] = demand, 0.0
            else:
                miss = demand - self.mean[v]
                self.mean[v] += weight * miss
                self.variance[v] = (1 - weight) * (self.variance[v] + weight * miss**2)

    def measures(self, state: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Sums over hosts, and the largest shares, with the demand that is shown."""
        view = self.env.view
        p, shown = view.params, view.state
        there = homes(state)
        total = dict.fromkeys(
            [
                n.removesuffix("_change")
                for n in NAMES
                if n.endswith("_change") and n.removesuffix("_change") in NAMES
            ],
            0.0,
        )
        total.pop("memory_max")
        other = {
            "demand": 0.0,
            "capacity": 0.0,
            "used": 0.0,
            "memory": 0.0,
            "memory_max": 0.0,
            "risk_max": 0.0,
        }
        for h in range(view.n_hosts):
            mirrors = float(shown.host_mirror_mib[h]) if p.has_standby else 0.0
            mem, used, cpu, risk = mirrors, mirrors, 0.0, 0.0
            for v in np.flatnonzero(there == h).tolist():
                most = p.vm_vcpus[v] * p.host_core_mhz[h]
                now = float(shown.vm_demand_mhz[v])
                planned = now
                if self.mean[v] >= 0:
                    planned = max(now, self.mean[v] + self.settings.risk * self.variance[v] ** 0.5)
                mem += p.vm_mem_mib[v]
                used += shown.vm_touched_mib[v] if p.has_tiers else p.vm_mem_mib[v]
                cpu += min(now, most)
                risk += min(planned, most)
            shares = mem / p.host_mem_mib[h], used / p.host_mem_mib[h]
            load, planned = cpu / p.host_cpu_mhz[h], risk / p.host_cpu_mhz[h]
            for level in (100, 110, 120):
                total[f"memory_over_{level}"] += max(0.0, shares[0] - level / 100)
            for level in (100, 110):
                total[f"memory_hosts_{level}"] += shares[0] > level / 100
            for level in (90, 100):
                total[f"touched_over_{level}"] += max(0.0, shares[1] - level / 100)
            total["cpu_hosts_80"] += load > 0.8
            total["cpu_hosts_100"] += load > 1.0
            total["cpu_over_100"] += max(0.0, load - 1.0)
            total["risk_hosts_80"] += planned > 0.8
            total["risk_over_100"] += max(0.0, planned - 1.0)
            other["demand"] += cpu
            other["used"] += used
            other["memory_max"] = max(other["memory_max"], shares[0])
            other["risk_max"] = max(other["risk_max"], planned)
            if state.host_power_state[h] in (ON, BOOTING, RESUMING) and not state.host_drain[h]:
                kind = p.host_type[h]
                total["hosts_on"] += 1
                total["idle_power"] += p.power_w[kind, 0]
                total["power"] += curve_power(p, kind, load)
                other["capacity"] += p.host_cpu_mhz[h]
                other["memory"] += p.host_mem_mib[h]
        idle, peak = p.power_w[p.host_type, 0].mean(), p.power_w[p.host_type].max(axis=1).mean()
        total["idle_power"] /= idle
        total["power"] /= peak
        return total, other

    def row(self, k: int) -> dict[str, float]:
        env = self.env
        view, form = env.view, env.form
        p, shown = view.params, view.state
        orders = form.decisions(k)
        fork = env.sim.fork()
        fork.apply(orders)
        before, more_before = self.measures(shown)
        after, more_after = self.measures(fork.state)
        want = {f"is_{kind}": float(form.candidates.kind[k] == i) for i, kind in enumerate(KINDS)}
        n_hosts = view.n_hosts
        for name in before:
            want[name], want[f"{name}_after"] = before[name] / n_hosts, after[name] / n_hosts
            want[f"{name}_change"] = after[name] - before[name]
        alive = ~np.isin(shown.vm_state, (ABSENT, DEPARTED))
        movers, to = np.asarray(orders.move_vm), np.asarray(orders.move_host)
        recent = 12 * p.interval_s >= view.time_s - shown.vm_last_move_s[movers]
        slow = [
            p.resume_s[h] if shown.host_power_state[h] == STANDBY else p.host_boot_s[h]
            for h in orders.power_on.tolist()
            if not shown.host_drain[h]
        ]
        weights = p.vm_weight
        want |= {
            "offered": 1.0,
            "orders": np.log1p(len(orders)) / np.log(129),
            "moved": len(movers) / max(1, alive.sum()),
            "moved_mean": p.vm_mem_mib[movers].sum() / p.host_mem_mib.mean(),
            "copy_time": sum(map(self.copy_s, movers, to)) / p.interval_s,
            "moved_weight": ratio(weights[movers].sum(), weights[alive].sum()),
            "moved_back": ratio(float(((shown.vm_last_from[movers] == to) & recent).sum()), len(movers)),
            "placed": np.log1p(len(orders.place_vm)) / np.log(129),
            "wait": max(slow, default=0.0) / p.interval_s,
            "memory_max": more_before["memory_max"],
            "memory_max_after": more_after["memory_max"],
            "memory_max_change": more_after["memory_max"] - more_before["memory_max"],
            "risk_max_after": more_after["risk_max"],
            "demand_share": ratio(more_before["demand"], more_before["capacity"]),
            "demand_share_after": ratio(more_after["demand"], more_after["capacity"]),
            "touched_share": ratio(more_before["used"], more_before["memory"]),
            "touched_share_after": ratio(more_after["used"], more_after["memory"]),
            "migrating": float((alive & (shown.vm_mig != MIG_NONE)).sum()) / max(1, alive.sum()),
            "memory_lost": 0.0,
        }
        if p.has_tiers:
            lost = shown.vm_granted_mhz * (np.maximum(1.0, shown.vm_mem_slowdown) - 1.0)
            want["memory_lost"] = ratio(float(lost.sum()), float(shown.vm_demand_mhz[alive].sum()))
        want["guarantee_after"] = want["guarantee_change"] = 0.0
        if p.has_admission:
            unit = n_hosts if p.admission_rule == SLOTS else 1.0
            margins = [margin_now(sim.kernel_params, sim.kernel_state) / unit for sim in (env.sim, fork)]
            want["guarantee_after"], want["guarantee_change"] = margins[1], margins[1] - margins[0]
        return want

    def copy_s(self, v: int, h: int) -> float:
        p, shown = self.env.view.params, self.env.view.state
        if not p.has_precopy:
            return float(p.vm_mem_mib[v] / p.mig_mib_s)
        source = shown.vm_host[v]
        rate = min(p.host_nic_mbps[source], p.host_nic_mbps[h], p.copy_max_mbps) / MBIT_PER_MIB
        return float(p.copy_init_s + p.vm_mem_mib[v] / rate / (1 - min(0.9, shown.vm_dirty_mib_s[v] / rate)))


@every_case
def test_rows_say_what_a_recount_after_the_orders_says(case: str) -> None:
    rng = np.random.default_rng(3)
    env = make(case, 3)
    observation, _ = env.reset(seed=3)
    recount, over = Recount(env), False
    recount.remember()
    columns = {column.name: column for column in CANDIDATE_COLUMNS}
    compared = 0
    while not over:
        for k, offered in enumerate(env.action_masks().tolist()):
            row = dict(zip(NAMES, observation["candidates"][k].tolist()))
            if not offered:
                assert not any(row.values())
                continue
            if k and rng.random() < 0.7:
                continue
            want = recount.row(k)
            row.pop("level")
            assert row.keys() == want.keys()
            for name, value in want.items():
                told = np.clip(value, columns[name].low, columns[name].high)
                assert row[name] == pytest.approx(told, abs=2e-5), (case, k, name)
            compared += 1
        observation, _, _, over, info = env.step(choose(env, rng))
        if info["duration"]:
            recount.remember()
    assert compared > 30


def test_nothing_changes_nothing() -> None:
    env = make("everything")
    observation, _ = env.reset(seed=0)
    row = dict(zip(NAMES, observation["candidates"][0].tolist()))
    assert row["is_nothing"] == row["offered"] == 1.0
    assert [name for name in NAMES if name.endswith("_change") and row[name]] == []
    for name in NAMES:
        if f"{name}_after" in row:
            assert row[name] == row[f"{name}_after"]
    assert row["orders"] == row["moved"] == row["copy_time"] == 0.0


def test_the_number_of_a_host_means_nothing() -> None:
    """A cluster with its hosts in another order offers the same candidates, with their hosts renamed."""
    found: list[Any] = []
    for order in ("grouped", "interleaved"):
        scenario = build_scenario("small", seed=5, overrides={"host_order": order, "arrival": "policy"})
        env = ClusterEnv(scenario, actions="candidates", tables=True)
        env.reset(seed=1)
        kinds = env.view.params.host_type
        # the k-th host of a type is the same host in both orders
        names = np.concatenate([np.flatnonzero(kinds == kind) for kind in np.unique(kinds)])
        rng = np.random.default_rng(7)
        v = np.arange(env.view.n_vms, dtype=np.int32)
        to = names[np.sort(rng.integers(len(names), size=(len(v), 2)), axis=1)[:, 0]]
        env.step(Decisions(place_vm=v, place_host=to.astype(np.int32)))
        found.append((env.form, names))
    (a, one), (b, two) = found
    np.testing.assert_allclose(a.candidates.features, b.candidates.features, atol=1e-6)
    renamed = dict(zip(one.tolist(), two.tolist()))
    assert renamed != {h: h for h in renamed}
    compared = 0
    for k in np.flatnonzero(a.mask()).tolist():
        first, second = a.decisions(k), b.decisions(k)
        for name in ("move_host", "power_off", "power_on"):
            assert [renamed[h] for h in getattr(first, name).tolist()] == getattr(second, name).tolist()
            compared += len(getattr(first, name))
        assert first.move_vm.tolist() == second.move_vm.tolist()
    assert compared > 3


def test_settings_say_how_many_and_networks_carry_over() -> None:
    small = make("small").observation_space
    full = make("everything").observation_space
    assert small == full
    few: dict[str, Any] = {"relieve": 1, "empty_least": 1, "empty_power": 0, "place": 0}
    settings = CandidateSettings(**few, fills=(1.0,), touched_fills=(), cpu_fills=(0.8,))
    env = make("arrivals", candidates=dataclasses.asdict(settings))
    env.reset(seed=0)
    assert env.action_space.n == settings.n == 14  # type: ignore[attr-defined]
    assert not (env.form.candidates.kind == PLACE).any()
    assert CandidateSettings.of(settings.plain()) == settings


def test_what_comes_later_says_nothing_now() -> None:
    """Two days that are equal up to now, and differ from the period that is not measured yet on."""
    first, second = make("small", 2), make("small", 2)
    util = np.array(second.scenario.workload.util)
    half = len(util) // 2
    rng = np.random.default_rng(0)
    util[half:] = rng.random(util[half:].shape)
    workload = dataclasses.replace(second.scenario.workload, util=util)
    second = ClusterEnv(
        dataclasses.replace(second.scenario, workload=workload),
        actions="candidates",
        tables=True,
        max_decisions_per_interval=1,
    )
    first = ClusterEnv(first.scenario, actions="candidates", tables=True, max_decisions_per_interval=1)
    rows = []
    for env in (first, second):
        env.reset(seed=0)
        told = [env.form.candidates.features.copy()]
        for _ in range(half):
            told.append(env.step(0)[0]["candidates"])
        rows.append(told)
    for one, two in zip(*rows):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.step(0)[0]["candidates"], second.step(0)[0]["candidates"])
