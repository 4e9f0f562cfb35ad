"""The tables of a cluster's observation: which columns they have, and the kernel that writes all of them.

Every cluster has ``HOST_COLUMNS``, ``VM_COLUMNS`` and ``GLOBAL_COLUMNS``. Where a cluster uses the full model
(``params.full``: any sub-model beyond the simple cluster is on), the columns of ``FULL_HOST_COLUMNS``,
``FULL_VM_COLUMNS`` and ``FULL_GLOBAL_COLUMNS`` follow them; all of them, whatever sub-models are on, so that
an agent may be taken from one full cluster to another. Columns of one's own come last.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from ..checks import need, need_choice
from ..jit.generated import make_kernel
from ..jit.kernels import kernel
from ..observation_columns import Column
from ..registry import Registry
from ..sim.state.cluster_state import ClusterState
from ..sim.state.parameters import ClusterParams
from .actions import write_host_mask, write_power_mask, write_vm_mask
from .buffers import Buffers, add_up, add_up_full
from .candidates.columns import CANDIDATE_COLUMNS
from .columns import ConstantColumn, GlobalColumn, RowColumn, make_writer
from .global_columns import FULL_GLOBAL_COLUMNS, GLOBAL_COLUMNS
from .host_columns import FULL_HOST_COLUMNS, HOST_COLUMNS
from .vm_columns import FULL_VM_COLUMNS, VM_COLUMNS


class Columns(NamedTuple):
    """The columns of each table."""

    hosts: tuple[Column, ...]
    vms: tuple[Column, ...]
    globals: tuple[Column, ...]


_SIMPLE = Columns(HOST_COLUMNS, VM_COLUMNS, GLOBAL_COLUMNS)
_FULL = Columns(
    HOST_COLUMNS + FULL_HOST_COLUMNS, VM_COLUMNS + FULL_VM_COLUMNS, GLOBAL_COLUMNS + FULL_GLOBAL_COLUMNS
)

COLUMNS = Registry(
    "column",
    lambda thing: isinstance(thing, Column),
    "a RowColumn, ConstantColumn or GlobalColumn of virtgym.envs.cluster.columns",
)
"""Every column by ``TABLE/NAME``."""


def register_column(table: str, column: Column) -> None:
    """Add a column to a table of every cluster that is made from now on.

    Args:
        table: ``hosts``, ``vms`` or ``globals``.
        column: A ``RowColumn`` or ``ConstantColumn``, for ``globals`` a ``GlobalColumn``.

    Raises:
        ConfigError: If there is no such table, the entry is of another kind, or the name ships.
    """
    need_choice(f"column {column.name}", "table", table, Columns._fields)
    COLUMNS.register(f"{table}/{column.name}", column.doc, _fitting(table, column))


def _fitting(table: str, column: Column) -> Column:
    """A column that is of the kind that a table has."""
    of_table = isinstance(column, GlobalColumn if table == "globals" else RowColumn | ConstantColumn)
    need(of_table, f"column {column.name}: a {type(column).__name__} has no place in {table}")
    return column


for _table, _columns in _FULL._asdict().items():
    for _column in _columns:
        register_column(_table, _column)
for _column in CANDIDATE_COLUMNS:
    COLUMNS.register(f"candidates/{_column.name}", _column.doc, _column)


def columns_of(full: bool) -> Columns:
    """Columns of hosts, of VMs and of the globals: those that ship, then one's own.

    Args:
        full: Whether the cluster uses the full model.
    """
    own: dict[str, tuple[Column, ...]] = dict.fromkeys(Columns._fields, ())
    for entry in COLUMNS.entries():
        table = entry.name.partition("/")[0]
        if table == "candidates":  # these have one writer, and none of one's own
            continue
        need_choice(f"column {entry.name}", "table", table, Columns._fields)
        column = COLUMNS.find(entry.name).factory if isinstance(entry.factory, str) else entry.factory
        if not any(column is other for other in getattr(_FULL, table)):
            own[table] += (_fitting(table, column),)
    return Columns(*(shipped + more for shipped, more in zip(_FULL if full else _SIMPLE, own.values())))


def column_index(columns: tuple[Column, ...], name: str) -> int:
    """Place of a column by its name."""
    return [column.name for column in columns].index(name)


@kernel
def _write_mask(p: ClusterParams, s: ClusterState, b: Buffers, chosen: int, n_decisions: int) -> None:
    """Note the choice, and write which actions are legal; the columns about a choice repeat the mask."""
    n_hosts, n_vms = p.host_type.shape[0], p.vm_vcpus.shape[0]
    b.choice.vm, b.choice.host, b.choice.decisions = chosen, -1, n_decisions
    targets = b.mask[1 + n_vms : 1 + n_vms + n_hosts]
    b.mask[0] = True
    if chosen < 0:
        write_vm_mask(p, s, b.mask[1 : 1 + n_vms])
        targets[:] = False
    else:
        b.choice.host = s.vm_host[chosen]
        b.mask[1 : 1 + n_vms] = False
        write_host_mask(p, s, chosen, targets)
    if chosen < 0:
        write_power_mask(p, s, b.mask[1 + n_vms + n_hosts :])
    else:
        b.mask[1 + n_vms + n_hosts :] = False


_OBSERVE = """def {name}(p, s, b, chosen, n_decisions, moved):
    if moved:
        add_up(p, s, b)
        hosts(p, s, b, b.hosts)
        vms(p, s, b, b.vms)
        globals(p, s, b, b.globals)
    write_mask(p, s, b, chosen, n_decisions)
    hosts_often(p, s, b, b.hosts)
    vms_often(p, s, b, b.vms)
    globals_often(p, s, b, b.globals)
"""


@functools.cache
def observe_with(columns: Columns, full: bool) -> Any:
    """The kernel that writes observation and mask.

    Args:
        columns: What ``columns_of`` gives.
        full: Whether the cluster uses the full model.

    Returns:
        A kernel of parameters, state, buffers, the chosen VM (-1 = none), the decisions in this interval, and
        whether the state has changed since the last call; if not, only what is written often is written.
    """
    model = "full" if full else "simple"
    names: dict[str, Any] = {"add_up": add_up_full if full else add_up, "write_mask": _write_mask}
    for table, entries in columns._asdict().items():
        names[table] = make_writer(f"write_{table}_{model}", entries, often=False)
        names[f"{table}_often"] = make_writer(f"write_{table}_often_{model}", entries, often=True)
    return make_kernel(_OBSERVE.format(name=f"observe_{model}"), names)
