"""The placement protocols once more, in plain Python with dicts and a heap: slow, short, and independent.

Tests compare the kernels with it, benchmarks measure their distance from it. It shares no code with them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["PLAIN_RULES", "PlainPlacement", "PlainRequest", "plain_window_length", "play_plain"]


class PlainRequest(NamedTuple):
    """One VM."""

    cores: float
    memory_gib: float
    arrival_s: float
    lifetime_s: float


@dataclass
class PlainPlacement:
    """One game.

    Args:
        requests: The window.
        protocol: ``huawei_placement``, ``fading`` or ``recovering``.
        n_hosts: Hosts, two nodes each.
        cores: Cores of a node.
        memory_gib: Memory of a node, GiB.
        double_above_gib: A VM with more memory is spread over both nodes of a host, GiB.
        overcommit: Virtual cores per core.
        allow_reject: Whether ``reject`` is allowed.
        window: How many of the requests that wait may be placed next.
    """

    requests: Sequence[PlainRequest]
    protocol: str = "huawei_placement"
    n_hosts: int = 5
    cores: float = 40.0
    memory_gib: float = 90.0
    double_above_gib: float = 10.0
    overcommit: float = 1.0
    allow_reject: bool = False
    window: int = 1
    free: dict[int, list[float]] = field(init=False)
    running: list[tuple[float, int, int]] = field(init=False, default_factory=list)
    waits: list[float] = field(init=False, default_factory=list)
    hosts: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.cores *= self.overcommit
        self.free = {node: [self.cores, self.memory_gib] for node in range(2 * self.n_hosts)}
        self.clock = self.requests[0].arrival_s
        self.open = list(range(len(self.requests)))  # neither placed nor rejected
        self.next = 0  # the pending one
        self.over = False

    def is_double(self, vm: PlainRequest) -> bool:
        """Whether a VM takes half of itself on both nodes of a host."""
        return vm.memory_gib > self.double_above_gib

    def parts(self, vm: PlainRequest, node: int) -> dict[int, tuple[float, float]]:
        """What a VM takes from which node."""
        if not self.is_double(vm):
            return {node: (vm.cores, vm.memory_gib)}
        first = node - node % 2
        half = (vm.cores / 2, vm.memory_gib / 2)
        return {first: half, first + 1: half}

    def feasible(self, vm: PlainRequest) -> list[int]:
        """Nodes that can take a VM."""
        return [
            node
            for node in self.free
            if all(
                self.free[n][0] >= c and self.free[n][1] >= m for n, (c, m) in self.parts(vm, node).items()
            )
        ]

    def room(self, node: int) -> float:
        """r of a node."""
        return min(self.free[node][0] / self.cores, self.free[node][1] / self.memory_gib)

    def host_room(self, node: int) -> float:
        """R of the host of a node."""
        return self.room(node - node % 2) + self.room(node - node % 2 + 1)

    def place(self, node: int) -> None:
        """Place the pending VM, then let time pass until the next can be placed."""
        vm = self.requests[self.next]
        if node not in self.feasible(vm):
            raise ValueError(f"node {node} cannot take request {self.next}")
        for n, (cores, memory) in self.parts(vm, node).items():
            self.free[n][0] -= cores
            self.free[n][1] -= memory
        heapq.heappush(self.running, (self.clock + vm.lifetime_s, self.next, node))
        self.hosts[self.next] = node
        self.decided()

    def reject(self) -> None:
        """Turn the pending VM away, then let time pass until there is another decision."""
        if not self.allow_reject:
            raise ValueError("rejecting is not allowed")
        self.decided()

    def skip(self) -> None:
        """Turn to the next VM of the queue window that can be placed now."""
        self.next = self.later()[0]

    def decided(self) -> None:
        """Go on after a decision about the pending VM."""
        self.waits.append(self.clock - self.requests[self.next].arrival_s)
        self.open.remove(self.next)
        if not self.open:
            self.over = True
        elif self.window > 1:
            self.wait_for_any()
        else:
            self.next = self.open[0]
            self.wait_for(self.requests[self.next])

    def later(self) -> list[int]:
        """VMs of the queue window behind the pending one that have arrived and can be placed now."""
        return [i for i in self.open[: self.window] if i > self.next and self.ready(i)]

    def ready(self, i: int) -> bool:
        """Whether a VM has arrived and can be placed now."""
        return self.requests[i].arrival_s <= self.clock and bool(self.feasible(self.requests[i]))

    def legal(self) -> list[int]:
        """Numbers of all legal actions."""
        nodes, extra = self.feasible(self.requests[self.next]), len(self.free)
        if self.allow_reject:
            nodes.append(extra)
            extra += 1
        return [*nodes, extra] if self.window > 1 and self.later() else nodes

    def act(self, action: int) -> None:
        """Carry out an action by its number."""
        if action < len(self.free):
            self.place(action)
        elif self.allow_reject and action == len(self.free):
            self.reject()
        else:
            self.skip()

    def release(self, until: float) -> None:
        """Let go what ends by then."""
        while self.protocol != "fading" and self.running and self.running[0][0] <= until:
            _, index, node = heapq.heappop(self.running)
            for n, (cores, memory) in self.parts(self.requests[index], node).items():
                self.free[n][0] += cores
                self.free[n][1] += memory

    def wait_for(self, vm: PlainRequest) -> None:
        """Advance to the decision about a VM."""
        self.release(vm.arrival_s)
        if self.feasible(vm):
            self.clock = max(self.clock, vm.arrival_s)
        elif self.protocol != "huawei_placement":
            self.clock = max(self.clock, vm.arrival_s)
            self.over = not self.allow_reject
        else:
            while not self.feasible(vm):
                self.clock = self.running[0][0]
                self.release(self.clock)

    def wait_for_any(self) -> None:
        """Advance to the next decision about a VM of the queue window."""
        arrivals = [self.requests[i].arrival_s for i in self.open[: self.window]]
        self.release(arrivals[0])
        self.clock = max(self.clock, arrivals[0])
        while not any(self.ready(i) for i in self.open[: self.window]):
            events = [time for time in arrivals if time > self.clock] + [end for end, *_ in self.running[:1]]
            self.clock = min(events)
            self.release(self.clock)
        self.next = next(i for i in self.open[: self.window] if self.ready(i))


def _first_fit(game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
    return nodes[0]


def _best_fit(game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
    return min(nodes, key=game.host_room if game.is_double(vm) else game.room)


def _worst_fit(game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
    return max(nodes, key=game.host_room if game.is_double(vm) else game.room)


def _balance_fit(game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
    if game.is_double(vm):
        return nodes[0]
    gaps = {node: abs(game.room(node) - game.room(node ^ 1)) for node in nodes}
    host = max(nodes, key=lambda node: gaps[node]) // 2
    return max((node for node in nodes if node // 2 == host), key=game.room)


def _best_host_emptier_node(game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
    if game.is_double(vm):
        return _best_fit(game, vm, nodes)
    return min(nodes, key=lambda node: (game.host_room(node), -game.room(node), node))


def _first_host_emptier_node(game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
    if game.is_double(vm):
        return nodes[0]
    return max((node for node in nodes if node // 2 == nodes[0] // 2), key=game.room)


Rule = Callable[[PlainPlacement, PlainRequest, list[int]], int]

PLAIN_RULES: dict[str, Rule] = {
    "first_fit": _first_fit,
    "best_fit": _best_fit,
    "worst_fit": _worst_fit,
    "balance_fit": _balance_fit,
    "best_host_emptier_node": _best_host_emptier_node,
    "first_host_emptier_node": _first_host_emptier_node,
}
"""The rules that draw nothing at random."""


def play_plain(requests: Sequence[PlainRequest], rule: str, **settings: Any) -> PlainPlacement:
    """Play one window to its end.

    Args:
        requests: The window.
        rule: One of ``PLAIN_RULES``.
        **settings: As for ``PlainPlacement``.
    """
    game = PlainPlacement(requests, **settings)
    choose = PLAIN_RULES[rule]
    while not game.over:
        vm = requests[game.next]
        game.place(choose(game, vm, game.feasible(vm)))
    return game


def plain_window_length(requests: Sequence[PlainRequest], extra: int = 40, **settings: Any) -> int:
    """Requests of the window that begins with the first request of a stream."""
    game = PlainPlacement(requests, **settings)
    while True:
        vm = requests[game.next]
        nodes = game.feasible(vm)
        before = {node: list(free) for node, free in game.free.items()}
        for n, (cores, memory) in game.parts(vm, nodes[0]).items():
            before[n] = [before[n][0] - cores, before[n][1] - memory]
        if game.next + 1 == len(requests):
            return len(requests)
        after = requests[game.next + 1]
        then = PlainPlacement(requests, **settings)
        then.free = before
        if not then.feasible(after):
            return min(game.next + 1 + extra, len(requests))
        game.place(nodes[0])
