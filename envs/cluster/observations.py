"""What an agent sees: a host table, a VM table and a global vector, written by one kernel call.

Every value is float32 in the range of its column (see ``tables``), clipped where it could leave. Nothing
names a host or VM by its number but ``vm_host``: a network that treats rows alike runs on any cluster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..arrays import F4
from ..jit.handle import make_handle
from ..observation_columns import Column, bounds
from ..sim.simulator import Simulator
from .buffers import MEMORY, Buffers, make_buffers, remember
from .columns import write_constants
from .tables import columns_of, observe_with

EWMA_WEIGHT = 0.2
"""Weight of the newest demand in ``recent_demand``: half of its memory is 3 intervals old."""


class Observer:
    """Writes observations and masks of one simulator into memory of its own.

    Args:
        sim: The simulator; its view is read.
        limit: Decisions allowed in one interval, for the column ``decisions``.
        tables: Whether ``hosts`` and ``vms`` have one row per host and VM, or their rows in one vector.

    Attributes:
        parts: Names of what stands end to end in ``flat``.
    """

    parts = ("hosts", "vms", "globals")

    def __init__(self, sim: Simulator, limit: int, tables: bool = False) -> None:
        self.sim = sim
        self.limit = limit
        self.tables = tables
        self.n_hosts, self.n_vms = sim.view.n_hosts, sim.view.n_vms
        self.full = bool(sim.params.full)
        columns = columns_of(self.full)
        self._split = self.n_hosts * len(columns.hosts)
        self._rest = self._split + self.n_vms * len(columns.vms)
        self.flat = np.zeros(self._rest + len(columns.globals), dtype=np.float32)
        hosts, vms, whole = self._tables_in(self.flat).values()
        write_constants(sim.params, columns.hosts, hosts)
        write_constants(sim.params, columns.vms, vms)
        self._bind(make_buffers(sim.params, hosts, vms, whole, sim.horizon_s, limit))
        self.observe: Any = observe_with(columns, self.full)
        self._last: tuple[int, int] | None = None  # what the buffers show: chosen VM, decisions

    def move_to(self, flat: F4, vm_host: NDArray[np.int32], mask: NDArray[np.bool_]) -> None:
        """Write to other memory from now on; it must hold what ``rows`` does."""
        self.flat = flat
        tables: dict[str, Any] = self._tables_in(flat)
        self._bind(self.buffers._replace(**tables, vm_host=vm_host, mask=mask))

    @property
    def rows(self) -> dict[str, NDArray[Any]]:
        """The memory that is written: what is shown, and last the mask."""
        return {"flat": self.flat, "vm_host": self.buffers.vm_host, "mask": self.buffers.mask}

    @property
    def handles(self) -> tuple[Any, Any]:
        """What the kernels of a batch are given of it."""
        return self.handle, self.handle

    @property
    def kept(self) -> dict[str, NDArray[Any]]:
        """What carries something from one interval to the next."""
        return {name: getattr(self.buffers, name) for name in MEMORY}

    def _tables_in(self, flat: F4) -> dict[str, F4]:
        """The tables of an observation, by their names among the buffers."""
        return {
            "hosts": flat[: self._split].reshape(self.n_hosts, -1),
            "vms": flat[self._split : self._rest].reshape(self.n_vms, -1),
            "globals": flat[self._rest :][None],
        }

    def _bind(self, buffers: Buffers) -> None:
        self.buffers = buffers
        self.handle: Any = make_handle("observer", buffers)

    @staticmethod
    def space(n_hosts: int, n_vms: int, tables: bool = False, full: bool = False) -> spaces.Dict:
        """The observation space of a cluster.

        Args:
            n_hosts: H.
            n_vms: V.
            tables: As for the class.
            full: Whether the cluster uses the full model.
        """
        host_columns, vm_columns, global_columns = columns_of(full)

        def box(columns: tuple[Column, ...], *rows: int) -> spaces.Box:
            shape = (*rows, len(columns))
            lows, highs = (np.broadcast_to(bound, shape) for bound in bounds(columns))
            return spaces.Box(lows, highs) if tables else spaces.Box(lows.ravel(), highs.ravel())

        return spaces.Dict(
            {
                "hosts": box(host_columns, n_hosts),
                "vms": box(vm_columns, n_vms),
                "globals": box(global_columns),
                "vm_host": spaces.Box(0, n_hosts, (n_vms,), np.int32),
            }
        )

    def reset(self) -> None:
        """Forget the episode; the simulator must have been reset before."""
        for name in MEMORY:
            getattr(self.buffers, name).fill(-1.0 if name == "vm_recent" else 0.0)
        self.remember()

    def remember(self) -> None:
        """Take note of the interval that has just ended."""
        view = self.sim.view
        remember(view.kernel_params, view.kernel_state, self.handle, EWMA_WEIGHT)

    def write(self, chosen: int, n_decisions: int, moved: bool = True) -> None:
        """Bring the buffers up to date.

        Args:
            chosen: The chosen VM, -1 = none.
            n_decisions: Decisions in this interval.
            moved: Whether the simulator's state may have changed since the last call.
        """
        view = self.sim.view
        self.observe(view.kernel_params, view.kernel_state, self.handle, chosen, n_decisions, moved)
        self._last = (chosen, n_decisions)

    def copy(self) -> dict[str, NDArray[Any]]:
        """The observation in fresh memory: one copy, and views of that copy."""
        return self.split(self.flat.copy(), self.buffers.vm_host.copy())

    def blank(self) -> dict[str, NDArray[Any]]:
        """An observation of zeros, for those who do not look."""
        return self.split(np.zeros(len(self.flat), np.float32), np.zeros(self.n_vms, np.int32))

    def split(self, flat: F4, vm_host: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """Views of an observation, or of many, by the names of the space.

        Args:
            flat: Rows of hosts, rows of VMs, globals, (..., F).
            vm_host: (..., V).
        """
        hosts, vms = flat[..., : self._split], flat[..., self._split : self._rest]
        many = flat.shape[:-1]
        return {
            "hosts": hosts.reshape(*many, self.n_hosts, -1) if self.tables else hosts,
            "vms": vms.reshape(*many, self.n_vms, -1) if self.tables else vms,
            "globals": flat[..., self._rest :],
            "vm_host": vm_host,
        }

    def mask(self) -> NDArray[np.bool_]:
        """The legal actions, in fresh memory, shape (1 + V + 2H,)."""
        return self.buffers.mask.copy()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the simulator and what is remembered; views do not survive pickling."""
        shown = {"sim": self.sim, "limit": self.limit, "tables": self.tables}
        return {**shown, "memory": self.kept, "last": self._last}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild buffers and handle."""
        self.__init__(saved["sim"], saved["limit"], saved["tables"])  # type: ignore[misc]
        for name, mine in self.kept.items():
            mine[:] = saved["memory"][name]
        if saved["last"] is not None:
            self.write(*saved["last"])
