"""Rules that know, or guess, when VMs leave: hosts whose VMs end together become empty, and whole, again.

With E(h) the time until the last VM of host h leaves, 0 on an empty host, and L the lifetime of the request,
every rule takes the feasible node of the least cost, among equals that of ``best_host_emptier_node`` or of
``first_host_emptier_node`` (``ties``). Times are compared in steps of a factor of two from a minute on, z(t):

- ``nilas`` (non-invasive lifetime-aware scheduling, LAVA, MLSys 2025): z(how much longer the host would be
  in use, max(0, L - E)), of predicted lifetimes the expectation; an empty host costs z(L).
- ``lifetime_alignment`` (Barbalho et al., MLSys 2023): abs(z(L) - z(E)).
- ``departure_classes`` (classification by departure, Ren & Tang, SPAA 2016): 0 on a host whose last VM
  leaves in the same class of time, 1 on an empty one, 1 + the distance of the classes elsewhere.

What is known of lifetimes is ``lifetimes``: ``predicted``, of the requests before the window (or by a
trained model), again at every decision, given how long a VM has run; ``true``; or ``noisy``, the true one
times exp(noise · z) with z standard normal. A VM that outlives its noisy lifetime is taken to stay as long
again as it has run. The last two read the future, and their rows say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need, one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.games import PlacementGames
from virtgym.envs.placement.state import PLAYING, PROTOCOLS, PlacementParams, PlacementState, fits

from .lifetime_model import (
    EDGES_S,
    LifetimeModel,
    learn_lifetimes,
    load_lifetimes,
    rest_table,
    survival_table,
)
from .policies import PlacementPolicy

LIFETIME_RULES = ("nilas", "lifetime_alignment", "departure_classes")
"""Names of the rules; the kernel knows a rule by its place here."""
NILAS, ALIGNMENT, CLASSES_OF_DEPARTURE = 0, 1, 2
KNOWN = ("predicted", "true", "noisy")
"""What may be known of lifetimes."""
TIES = ("best_host", "first_host")
"""Which of hosts that cost the same is taken."""
N_AHEAD, AHEAD_S = 20, 3e6
"""Times ahead at which distributions are compared, and the last of them, s."""
MINUTE_S = 60.0


class LifetimeTable(NamedTuple):
    """What is known of the lifetimes of R requests."""

    guess: F8  # (R,) lifetime, s; empty = by group
    group: I8  # (R,) group of each request
    rest: F8  # (G, K) expected remaining lifetime at the bounds of the classes, s
    survive: F8  # (G, K) chance to come to them
    edges: F8  # (K,) these bounds, s
    ahead: F8  # (J,) times ahead at which hosts are looked at, s
    span: F8  # (J,) what each of them stands for, s
    last: F8  # (N,) scratch: time until the last VM of a host leaves, s
    gone: F8  # (N, J) scratch: chance that all VMs of a host have left by then
    by_best: int  # whether the fullest host comes first among equals, else the lowest number


@kernel
def _between(values: F8, edges: F8, age: float) -> Any:
    """A value at an age, of those at the bounds of the classes; the last one beyond them."""
    k = np.searchsorted(edges, age, side="right") - 1
    if k + 1 >= edges.shape[0]:
        return values[k]
    part = (age - edges[k]) / (edges[k + 1] - edges[k])
    return values[k] + (values[k + 1] - values[k]) * part


@kernel
def remaining_s(t: LifetimeTable, row: int, age: float) -> Any:
    """How much longer the VM of a request stays that has run for some time, s."""
    if t.guess.shape[0] > 0:
        left = t.guess[row] - age
        return left if left > 0.0 or age == 0.0 else age
    return _between(t.rest[t.group[row]], t.edges, age)


@kernel
def _survival(t: LifetimeTable, group: int, age: float) -> Any:
    """Chance to come to an age."""
    return _between(t.survive[group], t.edges, age)


@kernel
def look_ahead(t: LifetimeTable, host: int, row: int, age: float) -> None:
    """Take a running VM into the chance that its host is empty."""
    group = t.group[row]
    now = max(_survival(t, group, age), 1e-12)
    for j in range(t.ahead.shape[0]):
        t.gone[host, j] *= max(0.0, 1.0 - _survival(t, group, age + t.ahead[j]) / now)


@kernel
def longer_s(t: LifetimeTable, host: int, row: int) -> Any:
    """How much longer a host is expected to be in use: E[max(0, L - E)] = ∫ P(L > t) P(E <= t) dt, s."""
    total = 0.0
    for j in range(t.ahead.shape[0]):
        total += _survival(t, t.group[row], t.ahead[j]) * t.gone[host, j] * t.span[j]
    return total


@kernel
def _steps(time_s: float) -> Any:
    """z: steps of a factor of two from a minute on; 0 for no time."""
    return np.floor(np.log2(1.0 + time_s / MINUTE_S))


@kernel
def lifetime_node(p: PlacementParams, s: PlacementState, b: int, rule: int, t: LifetimeTable) -> Any:
    """The node that a rule takes for the pending request of a game, -1 = none.

    Of running VMs it reads when they began, which is known, and by ``remaining_s`` when they may end.
    """
    row, now = s.cursor[b], s.clock[b]
    spread = rule == NILAS and t.guess.shape[0] == 0
    t.last[:] = 0.0
    t.gone[:] = 1.0
    for i in range(s.heap_size[b]):
        item = s.heap_item[b, i]
        vm = item // p.n_nodes
        host = (item - vm * p.n_nodes) >> 1
        age = max(0.0, now - (s.heap_time[b, i] - p.lifetime[vm]))
        if spread:
            look_ahead(t, host, vm, age)
        else:
            t.last[host] = max(t.last[host], remaining_s(t, vm, age))
    own = remaining_s(t, row, 0.0)
    best, least, fullest, most = -1, np.inf, np.inf, -np.inf
    for a in range(p.n_nodes):
        if not fits(p, s, b, row, a):
            continue
        last = t.last[a >> 1]
        if spread:
            cost = _steps(longer_s(t, a >> 1, row))
        elif rule == NILAS:
            cost = _steps(max(0.0, own - last))
        elif rule == ALIGNMENT:
            cost = abs(_steps(own) - _steps(last))
        else:
            cost = 1.0
            if last > 0.0:
                apart = abs(_steps(own) - _steps(last))
                cost = 0.0 if apart == 0.0 else 1.0 + apart
        here = min(s.free_cores[b, a] / p.node_cores, s.free_memory[b, a] / p.node_memory)
        there = min(s.free_cores[b, a ^ 1] / p.node_cores, s.free_memory[b, a ^ 1] / p.node_memory)
        whole = here + there if t.by_best else float(a >> 1)
        if cost < least or (
            cost == least and (whole < fullest or (whole == fullest and here > most and not p.double[row]))
        ):
            best, least, fullest, most = a, cost, whole, here
    return best


@kernel
def lifetime_nodes(p: PlacementParams, s: PlacementState, rule: int, t: LifetimeTable, out: I8) -> None:
    """What a rule does in each of B games, into ``out``, (B,); 0 where the game is over."""
    for b in range(len(out)):
        out[b] = 0
        if s.status[b] == PLAYING:
            a = lifetime_node(p, s, b, rule, t)
            out[b] = a if a >= 0 else p.reject_action


def noisy_lifetimes(lifetime_s: F8, noise: float, seed: int) -> F8:
    """Lifetimes times exp(noise · z), with z standard normal, s, (R,)."""
    z = np.random.default_rng(seed).standard_normal(len(lifetime_s))
    return np.asarray(lifetime_s * np.exp(noise * z))


@dataclass
class LifetimePolicy(PlacementPolicy):
    """Placement by when VMs leave.

    Attributes:
        rule: One of ``LIFETIME_RULES``.
        lifetimes: What is known of them: ``predicted``, ``true`` or ``noisy``.
        noise: Standard deviation of the logarithm of noisy lifetimes.
        noise_seed: Seed of the noise.
        predictor: File of a trained model; None = of the requests before the window, as they were known then.
        ties: Host among equals: ``best_host``, the fullest, or ``first_host``, the lowest number; there the
            emptier node.
    """

    rule: str = "nilas"
    lifetimes: str = "predicted"
    noise: float = 1.0
    noise_seed: int = 0
    predictor: str | None = None
    ties: str = "best_host"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ConfigError: For an impossible value.
        """
        one_of("policy.rule", self.rule, LIFETIME_RULES)
        one_of("policy.lifetimes", self.lifetimes, KNOWN)
        one_of("policy.ties", self.ties, TIES)
        need(0.0 <= self.noise <= 10.0, f"policy.noise={self.noise}: must be from 0 to 10")
        need(self.noise_seed >= 0, f"policy.noise_seed={self.noise_seed}: must be at least 0")
        if self.predictor is not None and self.lifetimes != "predicted":
            raise ConfigError(f"policy.predictor: is not read with policy.lifetimes={self.lifetimes}")

    @property
    def kind(self) -> str:
        """See ``registry.KINDS``."""
        return "rule" if self.lifetimes == "predicted" else "oracle"

    @property
    def information(self) -> str:
        """What it knows."""
        return "past" if self.lifetimes == "predicted" else "oracle"

    def reset(self, games: PlacementGames, rng: np.random.Generator) -> None:
        """Bind games; see ``PlacementPolicy``."""
        super().reset(games, rng)
        if PROTOCOLS[games.params.protocol] == "fading":
            raise ConfigError(f"policy={self.rule}: with protocol=fading no VM leaves")
        self._rule = LIFETIME_RULES.index(self.rule)
        self._known = -1
        if self.lifetimes != "predicted":
            true = games.params.lifetime
            noise = self.noise if self.lifetimes == "noisy" else 0.0
            self._bind(noisy_lifetimes(true, noise, self.noise_seed) if noise else true.copy(), None)
        elif self.predictor is not None:
            self._bind(np.empty(0), load_lifetimes(self.predictor))

    def choose(self) -> I8:
        """The node of each bound game, (B,); 0 for a game that is over."""
        games = self.games
        if self.lifetimes == "predicted" and self.predictor is None:
            self._learn(int(games.state.first.min()))
        nodes = np.empty(games.n_games, dtype=np.int64)
        lifetime_nodes(games.kernel_params, games.kernel_state, self._rule, self._table, nodes)
        return nodes

    def _learn(self, first: int) -> None:
        """Learn of the rows before the earliest window seen so far: no other knows more of its past."""
        if 0 <= self._known <= first:
            return
        self._known = first
        self._bind(np.empty(0), learn_lifetimes(stream_of(self.games), range(first)))

    def _bind(self, guess: F8, model: LifetimeModel | None) -> None:
        p = self.games.params
        group, rest = np.zeros(0, dtype=np.int64), np.zeros((1, len(EDGES_S) - 1))
        survive = rest
        if model is not None:
            group, chance = model.predict(stream_of(self.games))
            rest, survive = rest_table(chance), survival_table(chance)
        last, gone = np.zeros(p.n_nodes // 2), np.zeros((p.n_nodes // 2, N_AHEAD))
        bounds = np.concatenate([[0.0], np.geomspace(MINUTE_S, AHEAD_S, N_AHEAD)])
        ahead, by_best = 0.5 * (bounds[1:] + bounds[:-1]), int(self.ties == "best_host")
        table = LifetimeTable(
            guess, group, rest, survive, EDGES_S[:-1].copy(), ahead, np.diff(bounds), last, gone, by_best
        )
        self._arrays = table  # the handle does not keep them alive
        self._table: Any = make_handle("lifetime table", table)


class Stream(NamedTuple):
    """Requests as games hold them, whole again."""

    cores: F8
    memory_gib: F8
    arrival_s: F8
    lifetime_s: F8


def stream_of(games: PlacementGames) -> Stream:
    """The requests of games."""
    p = games.params
    both = np.where(p.double, 2.0, 1.0)
    return Stream(p.cores * both, p.memory * both, p.arrival, p.lifetime)
