"""The placement protocol in plain Python, written for speed: what the kernels are measured against.

Whole numbers, tuples, lists and a heap; all about a request is worked out beforehand. ``FastPlacement`` is
stepped from outside and shows a mask, as environments do; ``play_first_fit`` has the rule built in, and is as
fast as this gets. Neither writes observations. ``plain_placement`` is the same game to read; tests hold them
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from oracles.plain_placement import PlainRequest

__all__ = ["FastPlacement", "FastRequest", "play_first_fit", "prepare_requests"]

FastRequest = tuple[float, float, bool, float, float]
"""Cores and GiB asked of a node, whether of both of a host, arrival and lifetime, s; ints where whole."""

Running = tuple[float, int, float, float, bool]
"""End of a VM, s, its node (the left one), what it takes of a node, and whether it takes it of both."""


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def prepare_requests(requests: Sequence[PlainRequest], double_above_gib: float = 10.0) -> list[FastRequest]:
    """Bring requests into the form that is played.

    Args:
        requests: A stream of requests with finite lifetimes.
        double_above_gib: A VM with more memory is spread over both nodes of a host, GiB.
    """
    prepared: list[FastRequest] = []
    for cores, memory, arrival, lifetime in requests:
        double = memory > double_above_gib
        parts = 2 if double else 1
        size = _whole(cores / parts), _whole(memory / parts)
        prepared.append((*size, double, _whole(arrival), _whole(lifetime)))
    return prepared


class FastPlacement:
    """One game of ``huawei_placement``, stepped from outside.

    Args:
        window: Its requests.
        n_hosts: Hosts, two nodes each.
        cores: Cores of a node.
        memory_gib: Memory of a node, GiB.
    """

    __slots__ = ("clock", "cores", "mask", "memory", "next", "running", "waited", "window")

    def __init__(
        self, window: Sequence[FastRequest], n_hosts: int = 5, cores: float = 40, memory_gib: float = 90
    ) -> None:
        self.window = window
        self.cores, self.memory = [cores] * (2 * n_hosts), [memory_gib] * (2 * n_hosts)
        self.running: list[Running] = []
        self.clock, self.waited, self.next = window[0][3], 0.0, 0
        self.mask = self._fitting(window[0])

    def _fitting(self, request: FastRequest) -> list[bool]:
        """On which nodes a request fits."""
        c, m, double = request[:3]
        fit = [cores >= c and memory >= m for cores, memory in zip(self.cores, self.memory)]
        if double:
            for a in range(0, len(fit), 2):
                fit[a] = fit[a + 1] = fit[a] and fit[a + 1]
        return fit

    def step(self, action: int) -> bool:
        """Place the pending request, go on to the next and its mask; returns whether all are placed."""
        c, m, double, arrival, lifetime = self.window[self.next]
        self.waited += self.clock - arrival
        if double:
            action &= -2
        self._add(action, -c, -m, double)
        heappush(self.running, (self.clock + lifetime, action, c, m, double))
        self.next += 1
        if self.next == len(self.window):
            return True
        request = self.window[self.next]
        now = request[3]
        while True:
            while self.running and self.running[0][0] <= now:
                self._add(*heappop(self.running)[1:])
            self.mask = self._fitting(request)
            if True in self.mask:
                break
            self.clock = now = self.running[0][0]
        if self.clock < now:
            self.clock = now
        return False

    def _add(self, a: int, c: float, m: float, double: bool) -> None:
        self.cores[a] += c
        self.memory[a] += m
        if double:
            self.cores[a + 1] += c
            self.memory[a + 1] += m


def _first_node(request: FastRequest, free_cores: list[float], free_memory: list[float]) -> int:
    """The lowest node on which a request fits, -1 = none."""
    c, m, double = request[:3]
    for a, free in enumerate(free_cores):
        if free >= c and free_memory[a] >= m:
            if not double:
                return a
            if a % 2 == 0 and free_cores[a + 1] >= c and free_memory[a + 1] >= m:
                return a
    return -1


def play_first_fit(
    window: Sequence[FastRequest], n_hosts: int = 5, cores: float = 40, memory_gib: float = 90
) -> float:
    """Play one window of ``huawei_placement`` by first fit.

    Args:
        window: Its requests.
        n_hosts: Hosts, two nodes each.
        cores: Cores of a node.
        memory_gib: Memory of a node, GiB.

    Returns:
        Sum of the waits, s.
    """
    free_cores, free_memory = [cores] * (2 * n_hosts), [memory_gib] * (2 * n_hosts)
    running: list[Running] = []
    clock, waited = window[0][3], 0.0
    for request in window:
        c, m, double, now, lifetime = request
        while True:
            while running and running[0][0] <= now:
                _, a, gone_c, gone_m, both = heappop(running)
                free_cores[a] += gone_c
                free_memory[a] += gone_m
                if both:
                    free_cores[a + 1] += gone_c
                    free_memory[a + 1] += gone_m
            a = _first_node(request, free_cores, free_memory)
            if a >= 0:
                break
            clock = now = running[0][0]
        if clock < now:
            clock = now
        free_cores[a] -= c
        free_memory[a] -= m
        if double:
            free_cores[a + 1] -= c
            free_memory[a + 1] -= m
        heappush(running, (clock + lifetime, a, c, m, double))
        waited += clock - request[3]
    return waited
