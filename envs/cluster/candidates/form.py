"""The ``candidates`` form of one environment: buffers, plug-ins, observation, and carrying out."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ...jit.handle import make_handle
from ...observation_columns import bounds, box
from ...sim.decisions import ORDERS, Decisions
from ...sim.simulator import Simulator
from ..buffers import MEMORY, make_buffers, remember
from ..observations import EWMA_WEIGHT
from .buffers import CANDIDATE_MEMORY, make_candidate_buffers
from .columns import CANDIDATE_COLUMNS
from .globals import global_columns, write_globals_with
from .loads import remember_demand
from .offer import lay_orders, offer, take_candidate
from .plugins import flatten
from .settings import KINDS, CandidateSettings


class CandidateForm:
    """Offers candidates of one simulator, and carries the chosen one out.

    Args:
        sim: The simulator; what its view shows is read.
        settings: What is offered.
        plugins: What fills the last slots, of ``make_plugins``.
        limit: Choices allowed in one interval, for the column ``decisions``.
        tables: Whether ``candidates`` has a row per candidate, or its rows in one vector.

    Attributes:
        parts: Names of what stands end to end in ``flat``.
    """

    parts = ("candidates", "globals")

    def __init__(
        self,
        sim: Simulator,
        settings: CandidateSettings,
        plugins: list[Any],
        limit: int,
        tables: bool = False,
    ) -> None:
        self.sim = sim
        self.settings = settings
        self.plugins = plugins
        self.limit = limit
        self.tables = tables
        full = bool(sim.params.full)
        split = settings.n * len(CANDIDATE_COLUMNS)
        columns = global_columns(full)
        self.flat = np.zeros(split + len(columns), dtype=np.float32)
        rows, whole = self.flat[:split].reshape(settings.n, -1), self.flat[split:]
        hosts = np.zeros((sim.view.n_hosts, 0), np.float32)
        vms = np.zeros((sim.view.n_vms, 0), np.float32)
        self.buffers = make_buffers(sim.params, hosts, vms, whole[None], sim.horizon_s, limit)
        self.candidates = make_candidate_buffers(sim.params, sim.state, settings, rows)
        self._bind()
        self.observe: Any = write_globals_with(columns, full)
        self._split = split

    def _bind(self) -> None:
        self._b: Any = make_handle("observer", self.buffers)
        self._c: Any = make_handle("candidates", self.candidates)

    @property
    def names(self) -> list[str]:
        """What stands in every slot: its kind, or the name of the plan or of the kind of one's own."""
        named = iter((*self.settings.plans, *self.settings.own))
        kinds = [KINDS[kind] for kind in self.settings.slot_kinds]
        return [next(named, kind) if kind in ("plan", "own") else kind for kind in kinds]

    @property
    def rows(self) -> dict[str, NDArray[Any]]:
        """The memory that is written: what is shown, and last the mask."""
        return {"flat": self.flat, "mask": self.candidates.mask}

    def move_to(self, flat: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Write to other memory from now on; it must hold what ``rows`` does."""
        self.flat = flat
        features = flat[: self._split].reshape(self.settings.n, -1)
        self.candidates = self.candidates._replace(features=features, mask=mask)
        self.buffers = self.buffers._replace(globals=flat[self._split :][None])
        self._bind()

    @property
    def handles(self) -> tuple[Any, Any]:
        """What the kernels of a batch are given of it."""
        return self._b, self._c

    @property
    def kept(self) -> dict[str, NDArray[Any]]:
        """What carries something from one interval to the next."""
        kept = {name: getattr(self.buffers, name) for name in MEMORY}
        return kept | {name: getattr(self.candidates, name) for name in CANDIDATE_MEMORY}

    @staticmethod
    def space(settings: CandidateSettings, tables: bool = False) -> spaces.Dict:
        """The observation space: the same for clusters of any size and model."""
        low, high = (np.broadcast_to(bound, (settings.n, len(bound))) for bound in bounds(CANDIDATE_COLUMNS))
        rows = spaces.Box(low, high) if tables else spaces.Box(low.ravel(), high.ravel())
        return spaces.Dict({"candidates": rows, "globals": box(global_columns(True))})

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode of what is plugged in; the simulator must have been reset before."""
        for plugin in self.plugins:
            if hasattr(plugin, "reset"):
                plugin.reset(self.sim.view, np.random.default_rng(rng.integers(2**31 - 1)))

    def reset(self) -> None:
        """Forget the episode; the simulator must have been reset before."""
        for name in MEMORY:
            getattr(self.buffers, name).fill(-1.0 if name == "vm_recent" else 0.0)
        self.candidates.vm_mean.fill(-1.0)
        self.candidates.vm_variance.fill(0.0)
        self.remember()

    def remember(self) -> None:
        """Take note of the interval that has just ended."""
        view = self.sim.view
        remember(view.kernel_params, view.kernel_state, self._b, EWMA_WEIGHT)
        remember_demand(view.kernel_params, view.kernel_state, self._c)

    def write(self, chosen: int, n_decisions: int, moved: bool = True) -> None:
        """Offer anew, by what the view shows now.

        Args:
            chosen: Nothing here; as of ``Observer.write``.
            n_decisions: Choices in this interval.
            moved: Whether the simulator's state may have changed since the last call.
        """
        view = self.sim.view
        p, s = view.kernel_params, view.kernel_state
        self.observe(p, s, self._b, n_decisions)
        if not moved:
            return
        offer(p, s, self._c)
        self.lay_plugins()

    def lay_plugins(self) -> None:
        """Offer what is plugged in, after the kernel has offered the others."""
        view = self.sim.view
        p, s = view.kernel_params, view.kernel_state
        first = self.settings.n - len(self.plugins)
        for k, plugin in enumerate(self.plugins, first):
            orders = plugin(view)
            if orders is not None and len(orders):
                lay_orders(p, s, self._c, k, *flatten(orders))

    def copy(self) -> dict[str, NDArray[Any]]:
        """The observation in fresh memory."""
        return self.split(self.flat.copy())

    def blank(self) -> dict[str, NDArray[Any]]:
        """An observation of zeros, for those who do not look."""
        return self.split(np.zeros(len(self.flat), np.float32))

    def split(self, flat: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Views of an observation, or of many, (..., F), by the names of the space."""
        rows = flat[..., : self._split]
        shaped = rows.reshape(*flat.shape[:-1], self.settings.n, -1) if self.tables else rows
        return {"candidates": shaped, "globals": flat[..., self._split :]}

    def mask(self) -> NDArray[np.bool_]:
        """The candidates that may be chosen, in fresh memory, (K,)."""
        return self.candidates.mask.copy()

    def take(self, k: int) -> int:
        """Carry candidate k out on the simulator; no time passes. ``show`` updates a full model's view.

        Returns:
            How many of its orders were refused, -1 where it is not offered.
        """
        sim = self.sim
        return int(take_candidate(sim.kernel_params, sim.kernel_state, sim.shown[1], self._c, k))

    def decisions(self, k: int) -> Decisions:
        """The orders of candidate k as they stand in the buffers."""
        c = self.candidates
        rows = slice(int(c.order_first[k]), int(c.order_first[k] + c.order_count[k]))
        kind, vm, host = c.order_kind[rows], c.order_vm[rows], c.order_host[rows]
        lists: dict[str, Any] = {}
        for number, names in enumerate(ORDERS.values()):
            parts = (vm, host) if len(names) == 2 else (host,)
            lists |= {name: part[kind == number].copy() for name, part in zip(names, parts)}
        return Decisions(**lists)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the simulator and what is remembered; views do not survive pickling."""
        names = ("sim", "settings", "plugins", "limit", "tables")
        return {**{name: getattr(self, name) for name in names}, "memory": self.kept, "flat": self.flat}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild buffers and handles."""
        memory, flat = saved.pop("memory"), saved.pop("flat")
        self.__init__(**saved)  # type: ignore[misc]
        self.flat[:] = flat
        for name, mine in self.kept.items():
            mine[:] = memory[name]
