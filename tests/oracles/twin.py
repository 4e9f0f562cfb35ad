"""A slow, plain-Python twin of the simulator: objects, lists and ``heapq``, no arrays, no kernels.

It is written from the documented model (docs/simulator.md) and shares no code with ``virtgym.envs.sim``. The
tests run it beside the simulator over random episodes, and the speed benchmark uses it as the answer to "how
fast would this be in plain Python?". It integrates in another way than the simulator on purpose: every host
and every VM remembers when its rates last changed, and adds rate times duration when they change again.

Events at one instant: copies end, VMs depart, hosts come on, hosts go off, VMs arrive, the trace is read;
then decisions, and the waiting VMs try again.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

from oracles.twin_parts import PlainHost, PlainVm
from virtgym.envs.sim.config import ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.workload import Workload

__all__ = ["PlainSimulator"]

COPY_END, DEPARTURE, BOOT_END, SHUTDOWN_END, ARRIVAL, SAMPLE = range(6)
SLACK = 1.0 + 1e-9
TIE = 1e-9
THRASH_INTERVALS = 12


class PlainSimulator:
    """The simulator in plain Python: the same inputs and the same results, slowly.

    Args:
        config: The cluster.
        workload: The load.
        horizon_s: End of the episode, s; None = the length of the demand signal.
    """

    def __init__(self, config: ClusterConfig, workload: Workload, horizon_s: float | None = None) -> None:
        self.config, self.workload = config, workload
        self.horizon_s = workload.span_s if horizon_s is None else horizon_s
        self.now_s = 0.0
        self.hosts = [PlainHost(i, config.host_types[int(k)]) for i, k in enumerate(config.host_type_of)]
        columns = (workload.vm_cpu_mhz, workload.vm_vcpus, workload.vm_mem_mib, workload.vm_arrival_s)
        rows = zip(*(column.tolist() for column in (*columns, workload.vm_departure_s)))
        self.vms = [PlainVm(i, *row) for i, row in enumerate(rows)]
        self.util: list[list[float]] = workload.util.tolist()
        self.queue: list[tuple[float, int, int]] = []
        self.count = dict.fromkeys(
            (
                "started",
                "done",
                "aborted",
                "boots",
                "shutdowns",
                "arrivals",
                "departures",
                "failed",
                "thrash",
            ),
            0,
        )
        self.moved_mib = 0.0
        self.imbalance = [0.0, 0.0]  # of CPU and memory, now
        self.imbalance_s = [0.0, 0.0]  # integrals
        for host in self.hosts:
            host.state = "on" if config.hosts_start_on else "off"
        for k in range(1, len(self.util)):
            heapq.heappush(self.queue, (k * workload.sample_s, SAMPLE, k))
        for vm in self.vms:
            heapq.heappush(self.queue, (vm.arrival_s, ARRIVAL, vm.index))
        self.sample = self.util[0]
        self._run_events(0.0)
        for host in self.hosts:
            self._update(host)

    # --- time ---------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the horizon is reached."""
        return self.now_s >= self.horizon_s - 1e-9

    def step(self, decisions: Decisions | None = None) -> list[int]:
        """Apply orders and run one interval; returns the code of every order (``decisions.REASONS``)."""
        codes = self.apply(decisions) if decisions is not None else []
        self.advance(self.config.interval_s)
        return codes

    def run(self) -> None:
        """Run to the horizon without a decision."""
        self.advance(math.inf)

    def advance(self, duration_s: float) -> None:
        """Let time pass, at most to the horizon."""
        end = min(self.now_s + duration_s, self.horizon_s)
        interval = self.config.interval_s
        while self.now_s < end:
            n = round(self.now_s / interval)
            on_grid = abs(self.now_s - n * interval) <= 1e-9 * interval
            if on_grid:
                self._retry()
            stop = min(end, (n + 1 if on_grid else math.ceil(self.now_s / interval)) * interval)
            self._note_imbalance()
            self._run_events(stop)
            self._integrate_imbalance(stop)
            self.now_s = stop
        for host in self.hosts:
            host.settle(self.now_s)
        for vm in self.vms:
            vm.settle(self.now_s)

    def _run_events(self, until_s: float) -> None:
        handlers = (
            self._end_copy,
            self._depart,
            self._end_boot,
            self._end_shutdown,
            self._arrive,
            self._read_trace,
        )
        while self.queue and self.queue[0][0] <= until_s:
            time_s, kind, item = heapq.heappop(self.queue)
            if kind == SAMPLE:
                self._integrate_imbalance(time_s)
            self.now_s = time_s
            handlers[kind](item)

    def _read_trace(self, k: int) -> None:
        self.sample = self.util[k]
        for vm in self.vms:
            if vm.state in ("waiting", "running"):
                vm.settle(self.now_s)
                vm.demand = self.sample[vm.index] * vm.cpu_mhz
                if vm.state == "waiting":
                    vm.missing = vm.demand
        for host in self.hosts:
            if host.state != "off":
                self._update(host)
        self._note_imbalance()

    # --- rates --------------------------------------------------------------------------------------------

    def _update(self, host: PlainHost) -> None:
        """Set the rates of a host and of its residents after anything about it changed."""
        host.settle(self.now_s)
        copies = [vm for vm in host.incoming if vm.copying]
        share = self.config.migration.dest_cpu_share
        asked = sum(vm.ask() for vm in host.residents) + sum(share * vm.ask() for vm in copies)
        on = host.state == "on"
        host.short = on and asked > host.capacity() * SLACK
        host.was_on = on
        host.was_active = on and bool(host.residents or host.incoming)
        host.power_w = self._power(host, asked / host.capacity())
        scale = host.capacity() / asked if host.short else 1.0
        for vm in host.residents:
            vm.settle(self.now_s)
            granted = vm.ask() * scale
            vm.losing = self.config.migration.cpu_loss * granted if vm.copying else 0.0
            vm.missing = vm.demand - granted + vm.losing

    @staticmethod
    def _power(host: PlainHost, load: float) -> float:
        kind = host.kind
        idle, peak = kind.table_w[0], kind.table_w[-1]
        if host.state == "on":
            return peak if host.full_power else host.power_at(load)
        if host.state == "booting":
            return (idle + peak) / 2 if kind.boot_power_w is None else kind.boot_power_w
        if host.state == "stopping":
            return idle if kind.shutdown_power_w is None else kind.shutdown_power_w
        return 0.0

    def _note_imbalance(self) -> None:
        """Standard deviations over the hosts that are on; sampled at decisions and samples."""
        on = [h for h in self.hosts if h.state == "on"]
        share = self.config.migration.dest_cpu_share
        loads: tuple[list[float], list[float]] = ([], [])
        for h in on:
            asked = sum(vm.ask() for vm in h.residents) + sum(
                share * vm.ask() for vm in h.incoming if vm.copying
            )
            loads[0].append(min(1.0, asked / h.capacity()))
            loads[1].append(h.memory() / h.kind.memory_mib)
        self.imbalance = [_deviation(load) for load in loads]
        self.imbalance_from_s = self.now_s

    def _integrate_imbalance(self, until_s: float) -> None:
        if hasattr(self, "imbalance_from_s"):
            for i in range(2):
                self.imbalance_s[i] += self.imbalance[i] * (until_s - self.imbalance_from_s)
            self.imbalance_from_s = until_s

    # --- VMs ----------------------------------------------------------------------------------------------

    def _arrive(self, index: int) -> None:
        vm = self.vms[index]
        self.count["arrivals"] += 1
        vm.since_s = self.now_s
        vm.state = "waiting"
        vm.demand = vm.missing = self.sample[index] * vm.cpu_mhz
        if vm.departure_s < math.inf:
            heapq.heappush(self.queue, (vm.departure_s, DEPARTURE, index))
        if self.config.arrival != "policy" and not self._admit(vm):
            self.count["failed"] += 1

    def _retry(self) -> None:
        if self.config.arrival == "policy":  # it had its first chance: who still has no host is counted once
            for vm in self.vms:
                if vm.state != "absent" and not vm.judged:
                    vm.judged = True
                    self.count["failed"] += vm.state == "waiting" and vm.dest is None
            return
        for vm in self.vms:
            if vm.state == "waiting" and vm.dest is None:
                self._admit(vm)

    def _admit(self, vm: PlainVm) -> bool:
        running = [h for h in self.hosts if self._why_not_accept(h) == 0]
        host = self._best(vm, running)
        if host is None and self.config.auto_boot:
            host = self._best(vm, [h for h in self.hosts if h.state == "off" and not h.closed])
            if host is not None:
                self._boot(host)
        if host is None:
            return False
        self._place(vm, host)
        return True

    def _best(self, vm: PlainVm, hosts: list[PlainHost]) -> PlainHost | None:
        best, least = None, math.inf
        for host in hosts:
            if self._why_not_arrive(vm, host) == 0 and self._cost(vm, host) < least - TIE:
                best, least = host, self._cost(vm, host)
        return best

    def _cost(self, vm: PlainVm, host: PlainHost) -> float:
        rule = self.config.arrival
        free = host.capacity() - host.nominal()
        if rule in ("best_fit", "worst_fit"):
            return free if rule == "best_fit" else -free
        if rule == "pabfd":
            now, then = host.nominal() / host.capacity(), (host.nominal() + vm.cpu_mhz) / host.capacity()
            idle = 0.0 if host.residents or host.incoming else host.kind.table_w[0]
            return host.power_at(then) - host.power_at(now) + idle
        return 0.0

    def _place(self, vm: PlainVm, host: PlainHost) -> None:
        if host.state == "on":
            self._start(vm, host)
        else:
            vm.dest = host
            host.incoming.append(vm)

    def _start(self, vm: PlainVm, host: PlainHost) -> None:
        vm.settle(self.now_s)
        vm.state, vm.host, vm.dest = "running", host, None
        host.residents.append(vm)
        self._update(host)

    def _start_copy(self, vm: PlainVm) -> None:
        assert vm.host is not None
        assert vm.dest is not None
        vm.copying, vm.copying_since_s = True, self.now_s
        heapq.heappush(self.queue, (self.now_s + vm.mem_mib / self._mib_per_s(), COPY_END, vm.index))
        self._update(vm.host)
        self._update(vm.dest)

    def _mib_per_s(self) -> float:
        return self.config.fixed_migration.bandwidth_mbps * 1e6 / (8 * 2**20)

    def _end_copy(self, index: int) -> None:
        vm = self.vms[index]
        if not vm.copying:  # departed on the way
            return
        source, dest = vm.host, vm.dest
        assert source is not None
        assert dest is not None
        vm.settle(self.now_s)
        source.residents.remove(vm)
        dest.incoming.remove(vm)
        vm.copying, vm.dest, vm.host = False, None, dest
        dest.residents.append(vm)
        self._update(source)
        self._update(dest)
        self.count["done"] += 1
        self.moved_mib += vm.mem_mib
        self._stop_if_drained(source)

    def _depart(self, index: int) -> None:
        vm = self.vms[index]
        vm.settle(self.now_s)
        self.count["departures"] += 1
        self.count["aborted"] += vm.state == "running" and vm.dest is not None
        host, dest = vm.host, vm.dest
        if vm.copying:  # what has been sent was sent
            self.moved_mib += (self.now_s - vm.copying_since_s) * self._mib_per_s()
        vm.state, vm.copying, vm.host, vm.dest = "gone", False, None, None
        vm.demand = vm.missing = vm.losing = 0.0
        if dest is not None:
            dest.incoming.remove(vm)
            self._update(dest)
        if host is not None:
            host.residents.remove(vm)
            self._update(host)
            self._stop_if_drained(host)

    # --- hosts --------------------------------------------------------------------------------------------

    def _boot(self, host: PlainHost) -> None:
        self.count["boots"] += 1
        host.draining = False
        host.state = "booting" if host.kind.boot_time_s > 0 else "on"
        self._update(host)
        if host.state == "booting":
            heapq.heappush(self.queue, (self.now_s + host.kind.boot_time_s, BOOT_END, host.index))

    def _end_boot(self, index: int) -> None:
        host = self.hosts[index]
        host.state = "on"
        self._update(host)
        for vm in list(host.incoming):
            if vm.state == "waiting":
                host.incoming.remove(vm)
                self._start(vm, host)
            else:
                self._start_copy(vm)

    def _stop_if_drained(self, host: PlainHost) -> None:
        if not host.draining or host.residents or host.incoming:
            return
        host.draining = False
        self.count["shutdowns"] += 1
        host.state = "stopping" if host.kind.shutdown_time_s > 0 else "off"
        self._update(host)
        if host.state == "stopping":
            heapq.heappush(self.queue, (self.now_s + host.kind.shutdown_time_s, SHUTDOWN_END, host.index))

    def _end_shutdown(self, index: int) -> None:
        self.hosts[index].state = "off"
        self._update(self.hosts[index])

    # --- orders -------------------------------------------------------------------------------------------

    def apply(self, decisions: Decisions) -> list[int]:
        """Carry out orders now; returns the code of every order in the order of the fields, 0 = done."""
        d = decisions
        codes = [self._order_maintenance(int(h), True) for h in d.maintenance]
        codes += [self._order_maintenance(int(h), False) for h in d.end_maintenance]
        codes += [self._order_power_on(int(h)) for h in d.power_on]
        codes += [self._order_full_power(int(h)) for h in d.full_power]
        codes += [self._order_place(int(v), int(h)) for v, h in zip(d.place_vm, d.place_host)]
        codes += [self._order_move(int(v), int(h)) for v, h in zip(d.move_vm, d.move_host)]
        return codes + [self._order_power_off(int(h)) for h in d.power_off]

    def _fits_memory(self, vm: PlainVm, host: PlainHost) -> bool:
        return host.memory() + vm.mem_mib <= host.kind.memory_mib * SLACK

    def _why_not_arrive(self, vm: PlainVm, host: PlainHost) -> int:
        if not self._fits_memory(vm, host):
            return 6
        if host.nominal() + vm.cpu_mhz > host.capacity() * self.config.arrival_cpu_overcommit * SLACK:
            return 12
        slow = vm.cpu_mhz / vm.vcpus > host.kind.core_mhz * SLACK
        return 13 if self.config.arrival_core_speed and slow else 0

    @staticmethod
    def _why_not_accept(host: PlainHost) -> int:
        if host.state not in ("on", "booting"):
            return 5
        if host.draining:
            return 7
        return 14 if host.closed else 0

    def _known(self, items: list[Any], index: int) -> bool:
        return 0 <= index < len(items)

    def _order_maintenance(self, h: int, closed: bool) -> int:
        if not self._known(self.hosts, h):
            return 1
        self.hosts[h].closed = closed
        return 0

    def _order_power_on(self, h: int) -> int:
        if not self._known(self.hosts, h):
            return 1
        host = self.hosts[h]
        if host.state == "on" and host.draining:
            host.draining = False
            return 0
        if host.state != "off":
            return 9
        self._boot(host)
        return 0

    def _order_full_power(self, h: int) -> int:
        if not self._known(self.hosts, h):
            return 1
        self.hosts[h].full_power = True
        self._update(self.hosts[h])
        return 0

    def _order_place(self, v: int, h: int) -> int:
        if not (self._known(self.vms, v) and self._known(self.hosts, h)):
            return 1
        vm, host = self.vms[v], self.hosts[h]
        if vm.state != "waiting" or vm.dest is not None:
            return 8
        code = self._why_not_accept(host) or self._why_not_arrive(vm, host)
        if code == 0:
            self._place(vm, host)
        return code

    def _order_move(self, v: int, h: int) -> int:
        if not self._known(self.vms, v):
            return 1
        vm = self.vms[v]
        if vm.state != "running":
            return 2
        if vm.dest is not None:
            return 3
        if not self._known(self.hosts, h):
            return 1
        host = self.hosts[h]
        if host is vm.host:
            return 4
        code = self._why_not_accept(host)
        if code == 0 and self.config.memory == "binding" and not self._fits_memory(vm, host):
            code = 6
        if code == 0:
            self._move(vm, host)
        return code

    def _move(self, vm: PlainVm, dest: PlainHost) -> None:
        recent = self.now_s - vm.moved_s <= THRASH_INTERVALS * self.config.interval_s
        self.count["thrash"] += dest is vm.left and recent
        self.count["started"] += 1
        vm.left, vm.moved_s, vm.dest = vm.host, self.now_s, dest
        dest.incoming.append(vm)
        if dest.state == "on":
            self._start_copy(vm)

    def _order_power_off(self, h: int) -> int:
        if not self._known(self.hosts, h):
            return 1
        host = self.hosts[h]
        if host.state != "on":
            return 11
        if host.draining:
            return 7
        if host.incoming or any(vm.dest is None for vm in host.residents):
            return 10
        host.draining = True
        self._stop_if_drained(host)
        return 0

    # --- results ------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """The metrics of ``virtgym.envs.sim.metrics`` that this model gives, under the same names."""
        seconds = max(self.now_s, 1e-300)
        requested = sum(vm.requested for vm in self.vms)
        energy = sum(h.energy_j for h in self.hosts) / 3.6e6
        slatah = _mean([h.short_s / h.active_s for h in self.hosts if h.active_s > 0])
        pdm = _mean([vm.lost / vm.requested for vm in self.vms if vm.requested > 0])
        down = sum(vm.down_s for vm in self.vms)
        lives = [min(vm.departure_s, self.now_s) - vm.arrival_s for vm in self.vms if vm.state != "absent"]
        return {
            "energy_kwh": energy,
            "migrations": float(self.count["started"]),
            "slatah": slatah,
            "pdm": pdm,
            "slav": slatah * pdm,
            "esv": energy * slatah * pdm,
            "sla_unserved": sum(vm.missed for vm in self.vms) / requested if requested > 0 else 0.0,
            "active_hosts": sum(h.on_s for h in self.hosts) / seconds,
            "host_shutdowns": float(self.count["shutdowns"]),
            "imbalance_cpu": self.imbalance_s[0] / seconds,
            "imbalance_mem": self.imbalance_s[1] / seconds,
            "downtime_s": down,
            "vm_availability": 1.0 - down / sum(lives) if sum(lives) > 0 else math.nan,
            "failed_placements": float(self.count["failed"]),
            "migration_data_gib": self.moved_mib / 1024.0,
            "thrash": float(self.count["thrash"]),
        }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _deviation(values: list[float]) -> float:
    mean = _mean(values)
    return math.sqrt(_mean([(x - mean) ** 2 for x in values]))
