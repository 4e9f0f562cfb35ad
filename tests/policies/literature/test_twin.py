"""The consolidation kernel against a plain-Python twin of the whole round, on random states."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import BOOTING, OFF, ON
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE, PENDING, RUNNING
from virtgym.envs.sim.workload import Workload
from virtgym.policies.forecast.regression import tricube_weights
from virtgym.policies.literature.parts import ADDITIVE, DETECTORS
from virtgym.policies.literature.policy import ConsolidationPolicy

SLACK = 1 + 1e-9
MASK = 2**64 - 1


class Twin:
    """The round as docs/policies.md words it: lists, dictionaries and a scan of all hosts for every VM."""

    def __init__(self, policy: ConsolidationPolicy, view: ClusterView, seed: int) -> None:
        self.policy, self.view, self.p = policy, view, view.params
        self.rng = np.random.default_rng(seed)
        self.detector = DETECTORS.find(policy.detector).factory
        self.safety = self.detector.safety if policy.safety is None else policy.safety
        self.window = self.detector.window if policy.window is None else policy.window
        self.additive = self.detector.kind == ADDITIVE
        self.taps = [float(x) for x in self.detector.taps(self.window, policy.horizon_steps)]
        self.seed = 0
        self.history: list[list[float]] = [[] for _ in range(view.n_vms)]

    # What is known at the start of the round.

    def look(self) -> None:
        s = self.view.state
        self.demand = [float(x) for x in s.vm_demand_mhz]
        self.home = [-1] * self.view.n_vms
        self.at: list[list[int]] = [[] for _ in range(self.view.n_hosts)]
        self.waiting = False
        for v in range(self.view.n_vms):
            if s.vm_state[v] not in (RUNNING, PENDING):
                continue
            self.history[v].append(self.demand[v])
            settled = s.vm_state[v] == RUNNING and s.vm_mig[v] == MIG_NONE
            self.home[v] = int(s.vm_host[v] if settled else s.vm_dest[v])
            if self.home[v] >= 0:
                self.at[self.home[v]].append(v)
            else:
                self.waiting = True
        n = self.view.n_hosts
        self.ask = [0.0] * n
        self.sig = [0.0] * n
        self.row: list[list[float]] = [[] for _ in range(n)]
        for h in range(n):
            for v in self.at[h]:
                self.ask[h] += min(self.demand[v], self.p.vm_vcpus[v] * self.p.host_core_mhz[h])
                self.sig[h] += self.signal(v)
            self.row[h] = self.summed(self.at[h])
        self.free = [math.inf] * n
        if self.p.memory_binding:
            self.free = [self.p.host_mem_mib[h] * (1 + 5e-10) - s.host_mem_mib[h] for h in range(n)]
        self.moved: set[int] = set()
        self.orders: list[tuple[int, int]] = []
        self.booted: list[int] = []

    def factor(self) -> float:
        return 1 / self.safety if self.detector.forecasts else self.safety

    def signal(self, v: int) -> float:
        if len(self.taps) == 1:
            return self.demand[v]
        if len(self.history[v]) < len(self.taps):
            return float(self.demand[v] * (self.factor() / self.policy.fallback_threshold))
        total = 0.0
        for tap, y in zip(self.taps, self.history[v][-len(self.taps) :]):
            total += tap * y
        return total

    def summed(self, vms: list[int]) -> list[float]:
        """Summed history of some VMs, as long as the youngest's (and the window)."""
        n = min([self.window, *(len(self.history[v]) for v in vms)])
        total = [0.0] * n
        for v in vms:
            total = [a + b for a, b in zip(total, self.history[v][-n:])]
        return total

    def overloaded(self, h: int, sig: float, row: list[float]) -> bool:
        capacity = float(self.p.host_cpu_mhz[h])
        if self.additive:
            limit = self.factor() * capacity
            return sig >= limit if self.detector.forecasts else sig > limit
        if len(row) < self.detector.min_samples(self.window):
            return sig > self.policy.fallback_threshold * capacity
        if self.policy.detector == "loess_robust":
            return self.safety * robust(row, self.policy.horizon_steps) >= capacity
        values = np.array(row)
        if self.policy.detector == "mad":
            spread = np.median(np.abs(values - np.median(values)))
        else:
            ordered = np.sort(values)
            spread = ordered[_nth(0.75, len(row))] - ordered[_nth(0.25, len(row))]
        return bool(sig > capacity - self.safety * spread)

    # Drain.

    def drain(self) -> None:
        for h in range(self.view.n_hosts):
            if h not in self.over:
                continue
            sig, stay = self.sig[h], list(self.at[h])
            while True:
                v = self.select(stay)
                if v < 0:
                    break
                stay.remove(v)
                self.moved.add(v)
                sig -= self.signal(v)
                if not self.overloaded(h, sig, self.summed(stay)):
                    break

    def select(self, stay: list[int]) -> int:
        s = self.view.state
        able = [v for v in stay if s.vm_state[v] == RUNNING and s.vm_mig[v] == MIG_NONE]
        if not able:
            return -1
        if self.policy.selector == "rs":
            self.seed = (self.seed + 0x9E3779B97F4A7C15) & MASK
            z = ((self.seed ^ (self.seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            return able[int(((z ^ (z >> 31)) >> 1) % len(able))]
        if self.policy.selector == "mu":
            return min(able, key=lambda v: (self.demand[v] / self.p.vm_cpu_mhz[v], v))
        if self.policy.selector == "mc":
            n = min([30, *(len(self.history[v]) for v in stay)])
            if 2 <= len(stay) < n:
                r2 = correlations(np.array([self.history[v][-n:] for v in stay]))
                best, most = -1, -1.0
                for v, x in zip(stay, r2):
                    if v in able and x > most + 1e-9:
                        best, most = v, x
                return best
        sign = {"smaller": 1, "larger": -1, "index": 0}[self.policy.mmt_ties]
        return min(able, key=lambda v: (self.p.vm_mem_mib[v], sign * self.demand[v], v))

    # Place.

    def power(self, h: int, x: float) -> float:
        table = self.p.power_w[self.p.host_type[h]]
        a = min(int(x), len(table) - 1)
        return float(table[a] + (table[a + 1] - table[a]) * (x - a) if a < len(table) - 1 else table[a])

    def scale(self, h: int) -> float:
        return float((self.p.power_w.shape[1] - 1) / self.p.host_cpu_mhz[h])

    def increase(self, h: int, demand: float) -> float:
        table = self.p.power_w[self.p.host_type[h]]
        slopes = [*(b - a for a, b in itertools.pairwise(table)), 0.0, 0.0]
        x, step = self.ask[h] * self.scale(h), demand * self.scale(h)
        a = min(int(x), len(table) - 1)
        near = min(step, a + 1 - x if a < len(table) - 1 else math.inf)
        if step - near > 1:
            return self.power(h, x + step) - self.power(h, x)
        return float(slopes[a] * near + slopes[a + 1] * (step - near))

    def cost(self, v: int, h: int) -> float:
        """What the placer minimises; inf where the host may not receive the VM."""
        s, d = self.view.state, self.demand[v]
        state, active = s.host_power_state[h], bool(self.at[h] or self.received[h])
        bare = not active and s.host_n_vms[h] + s.host_n_in[h] == 0
        if state not in (OFF, BOOTING, ON) or s.host_drain[h] or h in self.over or not (active or bare):
            return math.inf
        room = self.p.host_cpu_mhz[h] * SLACK
        if self.ask[h] + d > room or d / self.p.vm_vcpus[v] > self.p.host_core_mhz[h] * SLACK:
            return math.inf
        if self.p.vm_mem_mib[v] > self.free[h] or self.overloaded(h, *self.with_vm(h, v)):
            return math.inf
        if self.policy.placer != "pabfd":
            left = room - self.ask[h] - d
            fit = {"first_fit": 0.0, "best_fit": left, "worst_fit": -left}[self.policy.placer]
            return float(fit if active else fit + 1e12)
        if active:
            return self.increase(h, d)
        boot = self.p.host_boot_s[h] * self.p.host_boot_w[h] / self.policy.amortise_s
        return float(self.power(h, d * self.scale(h)) + (boot if state == OFF else 0.0))

    def with_vm(self, h: int, v: int) -> tuple[float, list[float]]:
        n = min(len(self.row[h]), len(self.history[v]))
        row = [a + b for a, b in zip(self.row[h][len(self.row[h]) - n :], self.history[v][-n:])]
        return self.sig[h] + self.signal(v), row

    def find(self, v: int, among: list[int]) -> int:
        costs = [(self.cost(v, h), h) for h in among]
        best = min(costs, default=(math.inf, -1))
        return best[1] if best[0] < math.inf else -1

    def put(self, v: int, h: int) -> None:
        self.sig[h], self.row[h] = self.with_vm(h, v)
        self.ask[h] += self.demand[v]
        self.free[h] -= self.p.vm_mem_mib[v]
        self.received[h] += 1
        self.orders.append((v, h))

    def by_demand(self, vms: Any) -> list[int]:
        return sorted(vms, key=lambda v: (-self.demand[v], v))

    # The round.

    def limit(self) -> float:
        return math.inf if self.policy.max_migrations is None else self.policy.max_migrations

    def evacuate(self, h: int) -> None:
        vms = self.by_demand(self.at[h])
        if self.received[h] or len(self.orders) + len(vms) > self.limit():
            return
        names = ("ask", "sig", "row", "free", "received", "orders")
        before = {name: copy.deepcopy(getattr(self, name)) for name in names}
        hosts = [x for x in range(self.view.n_hosts) if x != h and (self.at[x] or self.received[x])]
        increase = 0.0
        for v in vms:
            target = self.find(v, [x for x in hosts if x not in self.gone])
            if target < 0:
                break
            power = self.power(target, self.ask[target] * self.scale(target))
            self.put(v, target)
            increase += self.power(target, self.ask[target] * self.scale(target)) - power
        else:
            own = self.power(h, self.ask[h] * self.scale(h))
            if not (self.policy.require_saving and increase >= own):
                self.gone.add(h)
                return
        for name, value in before.items():
            setattr(self, name, value)

    def plan(self) -> Decisions:
        self.seed = int(self.rng.integers(0, 2**62)) if self.policy.selector == "rs" else 0
        self.look()
        s, n = self.view.state, self.view.n_hosts
        self.received = [0] * n
        self.gone: set[int] = set()
        self.over = {h for h in range(n) if self.at[h] and self.overloaded(h, self.sig[h], self.row[h])}
        self.drain()
        for v in self.by_demand(self.moved):
            if len(self.orders) >= self.limit():
                break
            h = self.find(v, list(range(n)))
            if h >= 0:
                if s.host_power_state[h] == OFF and not self.received[h]:
                    self.booted.append(h)
                self.put(v, h)
        last = self.p.power_w.shape[1] - 1
        calm = [
            h
            for h in range(n)
            if s.host_power_state[h] == ON and not s.host_drain[h] and s.host_n_in[h] == 0
            and self.at[h] and s.host_n_vms[h] == len(self.at[h])
            and h not in self.over and not self.received[h]
            and self.ask[h] * self.scale(h) < self.policy.underload_threshold * last
        ]  # fmt: skip
        for h in (
            sorted(calm, key=lambda h: (self.ask[h] * self.scale(h), h)) if self.policy.underload else []
        ):
            self.evacuate(h)
        left = {v for v, _ in self.orders}
        off = [
            h
            for h in range(n)
            if s.host_power_state[h] == ON and not s.host_drain[h] and s.host_n_in[h] == 0
            and not self.received[h] and not self.waiting and all(v in left for v in self.at[h])
        ]  # fmt: skip
        moves = np.array(self.orders, dtype=np.int32).reshape(-1, 2)
        return Decisions(
            power_on=np.array(self.booted, dtype=np.int32),
            move_vm=moves[:, 0],
            move_host=moves[:, 1],
            power_off=np.array(off, dtype=np.int32),
        )


def _nth(share: float, n: int) -> int:
    return min(max(math.floor(share * (n + 1) + 0.5) - 1, 0), n - 1)


def robust(row: list[float], horizon: int) -> float:
    """Robust local regression by NumPy's least squares."""
    n = len(row)
    y, design = np.array(row), np.column_stack([np.ones(n), np.arange(1, n + 1)])
    weights = tricube_weights(n)
    for _ in range(2):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        residuals = y - design @ coefficients
        scale = 6 * np.median(np.abs(residuals))
        if scale <= 1e-9 * np.abs(y).max():
            break
        weights = tricube_weights(n) * np.clip(1 - (residuals / scale) ** 2, 0, None) ** 2
    return float(coefficients @ [1, n + horizon])


def correlations(windows: Any) -> list[float]:
    """R squared of each row regressed on the others, by NumPy's least squares."""
    result = []
    for i, y in enumerate(windows):
        x = np.column_stack([np.ones(len(y)), np.delete(windows, i, axis=0).T])
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        total = float(((y - y.mean()) ** 2).sum())
        result.append(1 - float(residual @ residual) / total if total > 0 else 0.0)
    return result


def random_policy(rng: np.random.Generator) -> ConsolidationPolicy:
    """A random combination of parts and parameters."""
    detector = str(rng.choice(list(DETECTORS)))
    return ConsolidationPolicy(
        detector=detector,
        selector=str(rng.choice(["mmt", "mc", "mu", "rs"])),
        placer=str(rng.choice(["pabfd", "pabfd", "pabfd", "first_fit", "best_fit", "worst_fit"])),
        safety=None if rng.random() < 0.5 else float(rng.uniform(0.5, 1.5)),
        fallback_threshold=float(rng.uniform(0.5, 0.9)),
        window=None if rng.random() < 0.3 else int(rng.integers(4, 14)),
        underload=bool(rng.random() < 0.9),
        underload_threshold=1.0 if rng.random() < 0.6 else float(rng.uniform(0.1, 1.0)),
        max_migrations=None if rng.random() < 0.7 else int(rng.integers(0, 8)),
        horizon_steps=int(rng.integers(1, 4)),
        mmt_ties=str(rng.choice(["smaller", "larger", "index"])),
        require_saving=bool(rng.random() < 0.3),
        amortise_s=float(rng.choice([600.0, 3600.0])),
    )


def crowd(seed: int, memory: str, boot_s: float) -> Simulator:
    """Some 12 hosts of two kinds under 40 VMs of few sizes and whole percentages: many ties."""
    rng = np.random.default_rng(seed)
    tables = ((80.0, 85.0, 92.0, 96.0, 104.0), (90.0, 96.0, 105.0, 118.0, 130.0))
    kinds = tuple(
        HostType(
            f"kind {i}",
            2,
            1500.0 + 800.0 * i,
            4096.0,
            tables[i],
            boot_time_s=boot_s,
            shutdown_time_s=boot_s / 4,
        )
        for i in range(2)
    )
    config = ClusterConfig(
        kinds,
        rng.integers(0, 2, 12).astype(np.int32),
        memory=memory,
        arrival="pabfd",
        arrival_cpu_overcommit=4.0,
    )
    n, samples = 40, 40
    level = rng.beta(0.8, 2.0, n)
    util = np.clip(np.round(100 * (level + 0.2 * rng.standard_normal((samples, n)))), 0, 100) / 100
    gone = np.where(rng.random(n) < 0.7, np.inf, rng.integers(5, 40, n) * 300.0)
    born = np.where(rng.random(n) < 0.8, 0.0, rng.integers(0, 4, n) * 300.0)
    sizes = rng.integers(0, 4, n)
    mhz, mem = (
        np.array([2300.0, 2000.0, 1000.0, 500.0])[sizes],
        np.array([870.0, 1740.0, 1740.0, 613.0])[sizes],
    )
    load = Workload("crowd", 300.0, util, mhz, np.ones(n, dtype=np.int32), mem, born, gone)
    return Simulator(config, load, strict=True)


def check(kernel: Decisions, twin: Decisions, what: str) -> None:
    """Equal orders, in equal order."""
    for name in ("power_on", "move_vm", "move_host", "power_off"):
        np.testing.assert_array_equal(getattr(kernel, name), getattr(twin, name), f"{name} of {what}")


def compare(sim: Simulator, policy: ConsolidationPolicy, seed: int) -> Iterator[Decisions]:
    """Run a policy beside its twin and yield what both decided."""
    sim.strict = True
    view = sim.reset()
    policy.reset(view, np.random.default_rng(seed))
    twin = Twin(policy, view, seed)
    while not sim.done:
        plan = policy.plan(view)
        check(plan, twin.plan(), f"{policy} at {sim.time_s} s")
        yield plan
        sim.step(plan)


@pytest.mark.parametrize("memory", ["ignored", "binding"])
@pytest.mark.parametrize("boot_s", [0.0, 240.0, 700.0])
def test_the_kernel_decides_as_its_twin_does_in_a_crowd(memory: str, boot_s: float) -> None:
    moves = boots = offs = 0
    for seed in range(5):
        policy = random_policy(np.random.default_rng([seed, int(boot_s)]))
        for plan in compare(crowd(seed, memory, boot_s), policy, seed):
            moves, boots = moves + len(plan.move_vm), boots + len(plan.power_on)
            offs += len(plan.power_off)
    assert moves > 50
    assert offs > 10


@pytest.mark.parametrize("detector", list(DETECTORS))
@pytest.mark.parametrize("selector", ["mmt", "mc", "mu", "rs"])
def test_the_kernel_decides_as_its_twin_does_for_every_policy(detector: str, selector: str) -> None:
    policy = ConsolidationPolicy(detector=detector, selector=selector)
    assert sum(len(plan.move_vm) for plan in compare(crowd(7, "ignored", 0.0), policy, 3)) > 20


@pytest.mark.parametrize("memory", ["ignored", "binding"])
def test_the_kernel_decides_as_its_twin_does_in_random_episodes(random_episode: Any, memory: str) -> None:
    states = moves = 0
    for seed in range(60):
        episode = random_episode(seed, memory=memory, arrival="pabfd")
        sim = Simulator(episode.config, episode.workload, horizon_s=episode.horizon_s)
        policy = random_policy(np.random.default_rng(seed))
        for plan in compare(sim, policy, seed):
            states, moves = states + 1, moves + len(plan.move_vm)
    assert states >= 300
    assert moves > 30
