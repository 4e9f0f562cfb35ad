"""The replica's kernels against a plain-Python twin, written for reading: every decision, every joule."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from virtgym.experiments.replication import Quirks, run_replica

TOTAL, CORE = (3720.0, 5320.0), (1860.0, 2660.0)
WATTS = (
    (86.0, 89.4, 92.6, 96.0, 99.5, 102.0, 106.0, 108.0, 112.0, 114.0, 117.0),
    (93.7, 97.0, 101.0, 105.0, 110.0, 116.0, 121.0, 125.0, 129.0, 133.0, 135.0),
)
TYPES = ((2500.0, 870.0), (2000.0, 1740.0), (1000.0, 1740.0), (500.0, 613.0))
SAFETY = {"thr": 0.8, "mad": 2.5, "iqr": 1.5, "lr": 1.2, "lrr": 1.2}


def power(kind: int, util: float) -> float:
    """Power of a host, W."""
    a, b = math.floor(util * 10), math.ceil(util * 10)
    low, high = WATTS[kind][a], WATTS[kind][b]
    return low + (high - low) / 10 * (util - a / 10) * 100


def line(y: list[float], weights: list[float]) -> tuple[float, np.ndarray]:
    """Weighted line through the ten newest values: prediction one step ahead and residuals."""
    x = np.arange(1.0, 11.0)
    values = np.array(y[:10][::-1])
    slope, level = np.polyfit(x, values, 1, w=np.sqrt(weights))
    return float(level + slope * 11), values - (level + slope * x)


def predict(y: list[float], kind: str, weighted: bool) -> float:
    """Prediction of lr or lrr."""
    if not weighted:
        return line(y, [1.0] * 10)[0]
    weights = [(1 - ((9 - i) / 9) ** 3) ** 3 for i in range(10)]
    value, residuals = line(y, weights)
    scale = 6 * float(np.median(np.abs(residuals)))
    if kind == "lrr" and scale > 0:
        bisquare = np.where(np.abs(residuals) < scale, (1 - (residuals / scale) ** 2) ** 2, 0.0)
        value = line(y, list(np.array(weights) * bisquare))[0]
    return value


def java_order(vms: list[int], table: int) -> list[int]:
    """Positions of ``vms`` in the iteration order of a Java HashMap with keys ``2-<vm>``."""

    def bucket(vm: int) -> int:
        code = 0
        for char in f"2-{vm}":
            code = (31 * code + ord(char)) % 2**32
        return (code ^ (code >> 16)) % table

    return sorted(range(len(vms)), key=lambda i: (bucket(vms[i]), i))


class Twin:
    """One day, step by step."""

    def __init__(self, percent: np.ndarray, policy: str, q: Quirks, n_hosts: int) -> None:
        """Place all VMs."""
        n = percent.shape[0]
        self.q, self.n, self.n_hosts = q, n, n_hosts
        self.detector, self.select = policy.split("-")
        samples = percent.T / 100
        self.x = np.vstack([samples, samples[-1:]])
        block = math.ceil(n / 4)
        self.mhz = [TYPES[i // block][0] for i in range(n)]
        self.ram = [TYPES[i // block][1] for i in range(n)]
        self.lists: list[list[int]] = [[] for _ in range(n_hosts)]
        self.table = [16] * n_hosts
        self.where = [-1] * n
        self.moving = [False] * n
        self.past: list[list[float]] = []
        self.use, self.need = [0.0] * n_hosts, [0.0] * n_hosts
        self.on, self.bad = [False] * n_hosts, [False] * n_hosts
        self.shown, self.since = [q.never_used_counts_as_shutdown] * n_hosts, [0.0] * n_hosts
        self.entry: dict[int, tuple[float, float, float]] = {}
        self.joules = self.asked = self.got = self.short_sum = 0.0
        self.shorts = self.stops = self.dropped = 0
        self.vm_asked, self.vm_lost = [0.0] * n, [0.0] * n
        self.host_on, self.host_bad = [0.0] * n_hosts, [0.0] * n_hosts
        self.log: list[tuple[int, int, int]] = []
        for v in range(n):
            self.where[v] = self.first_host(v)
            self.append(self.where[v], v)
        self.initial = list(self.where)

    def append(self, h: int, v: int) -> None:
        """Put ``v`` at the end of a list."""
        self.lists[h].append(v)
        if len(self.lists[h]) + 1 > 0.75 * self.table[h]:
            self.table[h] *= 2

    def first_host(self, v: int) -> int:
        """Power-aware best fit by nominal sizes."""
        best, best_cost = -1, math.inf
        for h in range(self.n_hosts):
            used = sum(self.mhz[w] for w in self.lists[h])
            ram = sum(self.ram[w] for w in self.lists[h])
            if CORE[h % 2] < self.mhz[v] or TOTAL[h % 2] - used < self.mhz[v] or 4096 - ram < self.ram[v]:
                continue
            cost = power(h % 2, (used + self.mhz[v]) / TOTAL[h % 2]) - power(h % 2, 0.0)
            if cost < best_cost:
                best, best_cost = h, cost
        return best

    def set_demand(self, t: float) -> None:
        """Demand of every VM."""
        a = min(int(t // 300), 288)
        b = min(a + 1, 288)
        dt = t - a * 300 if self.q.interpolated_demand else 0.0
        u = self.x[a] + (self.x[b] - self.x[a]) / 300 * dt
        self.r = [float(u[v]) * self.mhz[v] for v in range(self.n)]

    def share(self, h: int) -> None:
        """Share one host."""
        total, core, vms = TOTAL[h % 2], CORE[h % 2], self.lists[h]
        capped = [min(self.r[v], core) for v in vms]
        incoming = [self.where[v] != h for v in vms]
        weights = [0.1 * c if i else c for c, i in zip(capped, incoming)]
        left, fits = total, True
        for w in weights:
            fits = fits and left >= w
            left -= w
        factor = 1.0
        if not fits:
            asked = 0.0
            for i in java_order(vms, self.table[h]):
                asked += weights[i]
            factor = total / asked
        use = need = 0.0
        for v, w, coming in zip(vms, weights, incoming):
            leaving = self.moving[v] and not coming
            a = w if fits else w * factor
            whole_share = a
            if leaving:
                a *= 0.9
            if not fits and self.q.floor_mips:
                a = float(math.floor(a))
            if leaving:
                use += a / 0.9 if self.q.sla_counts_incoming_full or not fits else whole_share
            else:
                use += a
            need += self.r[v]
            if not coming:
                lost = 0.0
                if leaving:
                    lost = max(self.r[v] - a, 0.0) if self.q.pdm_counts_contention else a / 9
                self.entry[v] = (self.r[v], a, lost)
        self.use[h], self.need[h] = use, need
        self.on[h] = use > 0 if self.q.idle_hosts_are_off else bool(vms)
        if self.q.sla_counts_incoming_full:
            self.bad[h] = use < need
        else:
            self.bad[h] = sum(weights) > total * (1 + 1e-9)

    def util(self, h: int) -> float:
        """Utilisation of a host."""
        u = self.use[h] / TOTAL[h % 2]
        return 1.0 if 1 < u < 1.01 else u

    def advance(self, t: float, dt: float) -> None:
        """Account ``dt`` seconds and share anew at ``t``."""
        if dt > 0:
            self.account(dt)
        self.set_demand(t)
        frame = 0.0
        for h in range(self.n_hosts):
            was_on, before = self.on[h], power(h % 2, self.util(h))
            self.share(h)
            if was_on and dt > 0:
                after = power(h % 2, self.util(h))
                frame += (before + (after - before) / 2) * dt if self.q.mean_power else before * dt
        self.joules += frame

    def account(self, dt: float) -> None:
        """Left rectangles of all histories."""
        for v in range(self.n):
            if self.where[v] < 0:
                continue
            r, a, lost = self.entry[v]
            self.asked += r * dt
            self.got += a * dt
            self.vm_asked[v] += r * dt
            self.vm_lost[v] += lost * dt
            if a < r:
                self.shorts += 1
                self.short_sum += (r - a) / r
        for h in range(self.n_hosts):
            if self.on[h]:
                self.host_on[h] += dt
                self.host_bad[h] += dt * self.bad[h]

    def close(self, t: float) -> None:
        """Count shutdowns."""
        for h in range(self.n_hosts):
            if self.on[h] != self.shown[h]:
                self.shown[h] = self.on[h]
                self.stops += not self.on[h]

    def overloaded(self, h: int, vms: list[int]) -> bool:
        """The detector."""
        total, k = TOTAL[h % 2], len(self.past) - 1
        req = sum(self.r[v] for v in vms) / total
        if self.detector == "thr":
            return req > 0.8
        y = [0.0] * min(k + 1, 30)
        for v in vms:
            for i in range(len(y)):
                y[i] += self.past[k - i][v] / total
        while len(y) > 1 and y[-1] == 0:
            y.pop()
        safety, n = SAFETY[self.detector], len(y)
        if n < (10 if self.detector in ("lr", "lrr") else 12):
            return req > 0.7
        if self.detector == "mad":
            return req > 1 - safety * float(np.median(np.abs(np.array(y) - np.median(y))))
        if self.detector == "iqr":
            ordered = sorted(y)
            low, high = math.floor(0.25 * (n + 1) + 0.5), math.floor(0.75 * (n + 1) + 0.5)
            return req > 1 - safety * (ordered[high - 1] - ordered[low - 1])
        return safety * predict(y, self.detector, not self.q.unweighted_regression) >= 1

    def find(self, v: int, excluded: set[int]) -> int:
        """The cheapest host that takes ``v``."""
        best, best_cost = -1, math.inf
        for h in range(self.n_hosts):
            total, vms, r = TOTAL[h % 2], self.plan_lists[h], self.r[v]
            if h in excluded or CORE[h % 2] < r or self.free[h] < r:
                continue
            if not self.q.memory_ignored and sum(self.ram[w] for w in vms) + self.ram[v] > 4096:
                continue
            empty = self.granted[h] == 0 if self.q.idle_hosts_are_off else not vms
            if not empty and self.overloaded(h, [*vms, v]):
                continue
            now = self.util(h) if self.q.stale_power else self.granted[h] / total
            idle = 0.0 if self.q.free_power_on or vms else power(h % 2, 0.0)
            cost = power(h % 2, (self.granted[h] + r) / total) + idle - power(h % 2, now)
            if cost < best_cost:
                best, best_cost = h, cost
        return best

    def put(self, v: int, h: int) -> None:
        """Place ``v`` in the plan."""
        self.plan_lists[h].append(v)
        self.granted[h] += self.r[v]
        self.free[h] -= self.r[v]
        if len(self.plan_lists[h]) + 1 > 0.75 * self.table[h]:
            self.table[h] *= 2

    def optimise(self) -> list[tuple[int, int]]:
        """One round."""
        q, hosts = self.q, range(self.n_hosts)
        self.plan_lists = [list(vms) for vms in self.lists]
        self.granted = list(self.use)
        self.free = []
        for h in hosts:
            left = TOTAL[h % 2]
            for v in self.lists[h]:
                left -= min(self.r[v], CORE[h % 2])
            self.free.append(max(left, 0.0))
        crowd = {h for h in hosts if self.overloaded(h, self.lists[h])}
        queue = []
        for h in sorted(crowd):
            vms = self.plan_lists[h]
            while vms:
                key: Any = self.ram.__getitem__
                if self.select == "mu":
                    key = lambda v: self.r[v] / self.mhz[v]  # noqa: E731
                v = min(vms, key=key)
                vms.remove(v)
                queue.append(v)
                if not self.overloaded(h, vms):
                    break
        moves, guarded = [], set()
        for v in sorted(queue, key=lambda v: -self.r[v]):
            h = self.find(v, crowd)
            if h >= 0:
                self.put(v, h)
                moves.append((v, h))
                if not q.double_moves:
                    guarded.add(h)
        off = {h for h in hosts if (self.util(h) == 0 if q.idle_hosts_are_off else not self.lists[h])}
        closed = crowd | off
        ceiling = 1.0 if q.no_underload_threshold else 0.3
        for h in sorted((h for h in hosts if h not in closed), key=self.util):
            if self.util(h) >= ceiling or h in guarded:
                continue
            closed.add(h)
            placed: list[tuple[int, int, float, float]] = []
            vms = sorted(self.plan_lists[h], key=lambda v: -self.r[v])
            for v in vms:
                target = self.find(v, closed)
                if target < 0:
                    break
                placed.append((v, target, self.granted[target], self.free[target]))
                self.put(v, target)
            if len(placed) == len(vms):
                moves += [(v, target) for v, target, _, _ in placed]
                guarded |= {target for _, target, _, _ in placed}
            else:
                for _, target, granted, free in reversed(placed):
                    self.plan_lists[target].pop()
                    self.granted[target], self.free[target] = granted, free
        return moves

    def round(self, t: float, k: int) -> float:
        """One interval; returns its last instant."""
        self.past.append(self.r)
        if self.q.drop_zero_demand:
            for v in range(self.n):
                if self.where[v] >= 0 and self.r[v] == 0:
                    self.lists[self.where[v]].remove(v)
                    self.share(self.where[v])
                    self.where[v] = -1
                    self.dropped += 1
        moves = self.optimise()
        self.log += [(k, v, h) for v, h in moves]
        for v, h in moves:
            self.moving[v] = True
            self.append(h, v)
        for v, h in moves:
            self.share(h)
            self.share(self.where[v])
        self.close(t)
        clock = t
        for delay in sorted({self.ram[v] / 62.5 for v, _ in moves}):
            self.advance(t + delay, t + delay - clock)
            clock = t + delay
            touched = set()
            for v, h in moves:
                if self.ram[v] / 62.5 == delay:
                    touched |= {h, self.where[v]}
                    self.lists[self.where[v]].remove(v)
                    if v in self.lists[h]:
                        self.lists[h].remove(v)
                    self.append(h, v)
                    self.where[v], self.moving[v] = h, False
            for h in touched:
                self.share(h)
            self.close(clock)
        return clock

    def run(self) -> None:
        """The day."""
        clock = t = 0.0
        if self.q.skip_first_sample:
            if not self.q.free_edges:
                self.advance(t, 0.0)
                self.close(t)
            t = 0.1 + 300
        for k in range(287 if self.q.skip_first_sample else 288):
            self.advance(t, 0.0 if self.q.free_edges and k == 0 else t - clock)
            clock = self.round(t, k)
            t += 300
        if not self.q.free_edges:
            self.advance(86400.0, 86400.0 - clock)
            self.close(86400.0)

    def pdm(self) -> float:
        """Degradation by migration."""
        if self.q.pooled_pdm:
            return sum(self.vm_lost) / self.asked
        return float(np.mean([lost / asked for lost, asked in zip(self.vm_lost, self.vm_asked) if asked]))

    def slatah(self) -> float:
        """Violating time."""
        if self.q.pooled_slatah:
            return sum(self.host_bad) / sum(self.host_on)
        return float(np.mean([bad / on for bad, on in zip(self.host_bad, self.host_on) if on]))


def make_day(seed: int, n_vms: int = 26) -> np.ndarray:
    """Integer percentages with zeros, plateaus and bursts, so that hosts are empty, busy and overloaded."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(1.2, 22.0, size=(n_vms, 1))
    wave = 1 + 0.6 * np.sin(np.arange(288) / 288 * 2 * np.pi + rng.uniform(0, 6, size=(n_vms, 1)))
    noise = np.repeat(rng.normal(1.0, 0.35, size=(n_vms, 96)), 3, axis=1)
    percent = np.clip(np.rint(level * wave * noise), 0, 100)
    percent[rng.random(percent.shape) < 0.01] = 0
    return percent.astype(np.int16)


NONE = Quirks.none()
CASES = [
    ("thr-mmt", Quirks()),
    ("lr-mmt", Quirks()),
    ("mad-mu", Quirks()),
    ("iqr-mmt", Quirks()),
    ("lr-mu", replace(Quirks(), unweighted_regression=False)),
    ("lrr-mmt", replace(Quirks(), unweighted_regression=False)),
    ("thr-mu", NONE),
    ("lr-mmt", NONE),
    ("iqr-mu", NONE),
    ("lrr-mu", replace(NONE, memory_ignored=True)),
    ("thr-mmt", replace(NONE, memory_ignored=True, double_moves=True)),
]


def random_quirks(seed: int) -> Quirks:
    """Each switch by a coin."""
    coins = np.random.default_rng(seed).random(len(fields(Quirks))) < 0.5
    return Quirks(**{field.name: bool(coin) for field, coin in zip(fields(Quirks), coins)})


MIXED = [(policy, random_quirks(i)) for i, policy in enumerate(["lr-mmt", "mad-mmt", "thr-mu", "lrr-mu"])]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("policy", "quirks"), CASES + MIXED)
def test_every_decision_and_number(policy: str, quirks: Quirks, seed: int) -> None:
    day = make_day(seed)
    twin = Twin(day, policy, quirks, n_hosts=14)
    twin.run()
    result = run_replica(day, policy, quirks, record=True, n_hosts=14)
    log = result.decisions
    assert log is not None
    assert log.initial.tolist() == twin.initial
    assert list(zip(log.round.tolist(), log.vm.tolist(), log.dest.tolist())) == twin.log
    assert result.migrations == len(twin.log) > (100 if quirks.memory_ignored else 0)
    assert result.energy_kwh == pytest.approx(twin.joules / 3.6e6, rel=1e-12)
    assert result.host_shutdowns == twin.stops
    assert result.vms_left_at_end == twin.n - twin.dropped
    assert result.slatah == pytest.approx(twin.slatah(), rel=1e-9)
    assert result.pdm == pytest.approx(twin.pdm(), rel=1e-9)
    assert result.sla_overall == pytest.approx((twin.asked - twin.got) / twin.asked, rel=1e-7)
    assert result.sla_average == pytest.approx(twin.short_sum / twin.shorts, rel=1e-9)
    assert result.sla_overall > 0
