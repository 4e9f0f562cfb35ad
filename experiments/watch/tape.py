"""An episode on tape: where every VM was at every interval, what was ordered, and between what was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from virtgym.envs.cluster.actions import ACTION_REASONS
from virtgym.envs.cluster.candidates.form import CandidateForm
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import ORDERS, Decisions
from virtgym.envs.sim.models.power import OFF, STANDBY
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING
from virtgym.policies.base import Policy

FULL = 200
"""Code of a VM's load at which all its vCPUs are busy."""
DRAINING, IN_MAINTENANCE, SHORT = 1, 2, 4
"""Bits of ``host_flags``; the last: short of CPU some time in the interval that has ended."""
MIGRATION_STEP = 8
"""``vm_state`` is the state of the VM plus so much times that of its migration."""

MOST_BYTES = 60_000_000
"""Of all frames, before they are packed: 32 days of 800 hosts and 1,052 VMs."""
MOST_OFFERS = 250_000
"""Candidates of the whole episode that are kept; where there are more, the best of each choice."""

ORDER_KINDS = tuple(ORDERS)


class Offers(NamedTuple):
    """Candidates that were offered, by choice."""

    rows: NDArray[np.int32]  # (N, 7) interval, choice in it, slot, host, VMs moved, orders, 1 = chosen
    values: NDArray[np.float32]  # (N,) what the policy makes of it, -inf = not rated


class Tape(gym.Wrapper[Any, Any, Any, Any]):
    """``virtgym/Cluster-v0`` that notes what happens in it; results are the same.

    Frame t is the cluster at the start of interval t, before anything is decided; orders and candidates of t
    are those of this interval. The last frame is the end.

    Args:
        env: The environment.
        policy: Who plays. One with ``explain()`` is asked what its last choice was made by; one with a
            ``listener`` says so itself.
        *seen: Called at every frame with the number of intervals that have passed, and of all.

    Attributes:
        n: Intervals that have passed.
        measure: What values of candidates are: ``probability``, ``value``, or empty.
        slots: What stands in every slot of candidates.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        policy: Policy,
        *seen: Callable[[int, int], None],
    ) -> None:
        super().__init__(env)
        self._policy: Any = policy
        self._seen = seen
        inner = cast(ClusterEnv, env.unwrapped)
        self._limit = inner.max_decisions_per_interval
        self._check_size(inner.sim)
        if hasattr(self._policy, "listener"):
            self._policy.listener = lambda form, values, k: self.hear(form, values, k, "value")

    @property
    def cluster(self) -> ClusterEnv:
        """The environment itself."""
        return cast(ClusterEnv, self.env.unwrapped)

    def _check_size(self, sim: Simulator) -> None:
        self._capacity = math.ceil(sim.horizon_s / sim.params.interval_s - 1e-9)
        sample = self._snapshot(sim, np.zeros(sim.view.n_hosts, dtype=np.bool_))
        size = sum(array.nbytes for array in sample.values())
        if size * (self._capacity + 1) > MOST_BYTES:
            fits = max(1, MOST_BYTES // size - 1) * sim.params.interval_s
            raise ConfigError(
                f"watch: {self._capacity:,} intervals of {sim.view.n_hosts:,} hosts and {sim.view.n_vms:,} "
                f"VMs are too much for a page; scenario.horizon_s={fits:.0f} would do"
            )

    def reset(self, **options: Any) -> Any:
        """Begin a new tape."""
        found = super().reset(**options)
        sim = self.cluster.sim
        self.n = self._choice = 0
        self._orders: list[tuple[int, int, int, int, int]] = []
        self._offers: list[tuple[int, ...]] = []
        self._values: list[float] = []
        self.measure = ""
        self.slots: list[str] = []
        self._short_s = sim.state.host_sat_s.copy()
        first = self._snapshot(sim, np.zeros(sim.view.n_hosts, dtype=np.bool_))
        self._frames = {
            name: np.zeros((self._capacity + 1, *array.shape), array.dtype) for name, array in first.items()
        }
        self._keep_frame(first)
        return found

    def step(self, action: Any) -> Any:
        """Take a step, and note what it ordered."""
        env = self.cluster
        if env.knobs is not None and not isinstance(action, Decisions):
            action = env.knobs.plan(action, env.sim.view)
        given = self._orders_of(action)
        chooses = env.actions == "candidates" and not isinstance(action, Decisions)
        if chooses and hasattr(self._policy, "explain"):
            measure, values = self._policy.explain()
            self.hear(env.form, values[0], int(action), measure)
        found = super().step(action)
        info = found[4]
        codes = dict.fromkeys(given, 0)
        if isinstance(action, Decisions):
            codes |= {(one.kind, one.vm, one.host): one.code for one in env.sim.refusals}
        elif "illegal_action" in info:
            code = next(k for k, text in ACTION_REASONS.items() if text == info["illegal_action"])
            codes = dict.fromkeys(given, code)
        for (kind, vm, host), code in codes.items():
            self._orders.append((self.n, ORDER_KINDS.index(kind), vm, host, code))
        if info["duration"]:
            self.n += 1
            self._choice = 0
            short = env.sim.state.host_sat_s > self._short_s
            self._short_s = env.sim.state.host_sat_s.copy()
            self._keep_frame(self._snapshot(env.sim, short))
        return found

    def _orders_of(self, action: Any) -> list[tuple[str, int, int]]:
        """Kind, VM and host of what an action orders."""
        env = self.cluster
        if isinstance(action, Decisions):
            return list(action.subjects())
        if env.actions == "candidates":
            offered = 0 <= action < env.candidates.n and bool(env.action_masks()[action])
            return list(env.form.decisions(int(action)).subjects()) if offered else []
        if not 0 <= action < env.codec.n:
            return []
        kind, index = env.codec.decode(int(action))
        state = env.sim.state
        if kind == "host" and env.chosen_vm >= 0:
            waits = state.vm_state[env.chosen_vm] == PENDING
            return [("place" if waits else "move", env.chosen_vm, index)]
        if kind == "power":
            asleep = state.host_power_state[index] in (OFF, STANDBY) or state.host_drain[index]
            return [("power_on" if asleep else "power_off", -1, index)]
        return []

    def hear(self, form: CandidateForm, values: Any, chosen: int, measure: str) -> None:
        """Note what was offered for a choice.

        Args:
            form: What offers.
            values: What the policy makes of every candidate, (K,).
            chosen: The candidate that is chosen.
            measure: What the values are.
        """
        if not self.slots:
            self.slots = form.names
        self.measure = measure
        c, state = form.candidates, self.cluster.sim.state
        offered = np.flatnonzero(c.mask)
        most = max(8, MOST_OFFERS // (self._capacity * self._limit))
        best = offered[np.argsort(-np.asarray(values, dtype=np.float64)[offered], kind="stable")][:most]
        for k in dict.fromkeys([*best.tolist(), chosen]):
            orders = form.decisions(k)
            hosts = [*orders.power_off, *orders.suspend, *orders.power_on, *state.vm_host[orders.move_vm]]
            host = int(hosts[0]) if hosts else -1
            moved, n = len(orders.move_vm), len(orders)
            self._offers.append((self.n, self._choice, k, host, moved, n, int(k == chosen)))
            self._values.append(float(values[k]))
        self._choice += 1

    def _snapshot(self, sim: Simulator, short: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The cluster now."""
        s, p = sim.state, sim.params
        index = np.int16 if len(p.host_type) < 2**15 else np.int32
        load = np.divide(s.vm_demand_mhz, p.vm_cpu_mhz)
        flags = DRAINING * (s.host_drain != 0) + IN_MAINTENANCE * (s.host_maintenance != 0) + SHORT * short
        found: dict[str, NDArray[Any]] = {
            "vm_host": s.vm_host.astype(index),
            "vm_dest": s.vm_dest.astype(index),
            "vm_state": (s.vm_state + MIGRATION_STEP * s.vm_mig).astype(np.uint8),
            "vm_load": np.rint(np.clip(load, 0.0, 1.0) * FULL).astype(np.uint8),
            "host_power": s.host_power_state.astype(np.uint8),
            "host_cpu": _per_cent(s.host_ask_mhz / p.host_cpu_mhz),
            "host_mem": _per_cent(s.host_mem_mib / p.host_mem_mib),
            "host_flags": flags.astype(np.uint8),
        }
        if p.has_standby:
            found["vm_secondary"] = s.vm_secondary.astype(index)
        return found

    def _keep_frame(self, frame: dict[str, NDArray[Any]]) -> None:
        for name, array in frame.items():
            self._frames[name][self.n] = array
        for seen in self._seen:
            seen(self.n, self._capacity)

    @property
    def frames(self) -> dict[str, NDArray[Any]]:
        """What changes, by name, (n + 1, hosts or VMs)."""
        return {name: array[: self.n + 1] for name, array in self._frames.items()}

    @property
    def orders(self) -> NDArray[np.int32]:
        """Interval, index into ``ORDER_KINDS``, VM (-1 = none), host, and code of why it was refused."""
        return np.array(self._orders, dtype=np.int32).reshape(-1, 5)

    @property
    def offers(self) -> Offers:
        """The candidates between which was chosen."""
        rows = np.array(self._offers, dtype=np.int32).reshape(-1, 7)
        return Offers(rows, np.array(self._values, dtype=np.float32))


def _per_cent(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(np.clip(100.0 * share, 0.0, 255.0)).astype(np.uint8)
