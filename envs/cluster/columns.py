"""What a column of the cluster's observation is: one entry with its writer, and the kernels made of entries.

A writer is a small function that kernels call; it gives a number (or a truth value), which is clipped to the
column's range. The kernel that writes a table is generated from the entries, so a column's place stands
nowhere but in the order of the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit.generated import inlined, make_kernel
from ..observation_columns import Column
from ..sim.state.cluster_state import ClusterState
from ..sim.state.parameters import ClusterParams
from .buffers import Buffers

RowFunction = Callable[[ClusterParams, ClusterState, Buffers, int], Any]
"""Of parameters, state, buffers, and the number of the host or VM."""

GlobalFunction = Callable[[ClusterParams, ClusterState, Buffers], Any]


@dataclass(frozen=True)
class RowColumn(Column):
    """A column of hosts or VMs.

    Attributes:
        write: Gives the value.
        when: Kernel that says whether there is one; the value is 0 where there is none. None = always.
        often: Whether it is written at every look, so also after a choice that changes nothing else.
    """

    write: RowFunction
    when: RowFunction | None = None
    _: KW_ONLY
    often: bool = False


@dataclass(frozen=True)
class GlobalColumn(Column):
    """An element of the global vector; attributes as of ``RowColumn``."""

    write: GlobalFunction
    when: GlobalFunction | None = None
    _: KW_ONLY
    often: bool = False


@dataclass(frozen=True)
class ConstantColumn(Column):
    """A column of hosts or VMs that never changes: ``values`` gives one per row, or one for all."""

    values: Callable[[ClusterParams], Any]


def write_constants(p: ClusterParams, columns: Sequence[Column], table: NDArray[np.float32]) -> None:
    """Write the constant columns of a table, shape (rows, columns)."""
    for place, column in enumerate(columns):
        if isinstance(column, ConstantColumn):
            table[:, place] = np.clip(column.values(p), column.low, column.high)


def make_writer(name: str, columns: Sequence[Column], often: bool) -> Any:
    """Generate the kernel that writes some columns of a table.

    Args:
        name: Name of the kernel; one of the same columns is found in the cache under this name.
        columns: All columns of the table, in order.
        often: Which of them: those that are written at every look, or the others.

    Returns:
        A kernel of parameters, state, buffers and the table.
    """
    lines = [f"def {name}(p, s, b, table):", "    for i in range(len(table)):", "        row = table[i]"]
    names: dict[str, Any] = {}
    guards: dict[Any, str] = {}  # what the answer of each is called
    chosen = [
        (place, column)
        for place, column in enumerate(columns)
        if isinstance(column, RowColumn | GlobalColumn) and column.often == often
    ]
    arguments = "p, s, b" if any(isinstance(column, GlobalColumn) for column in columns) else "p, s, b, i"
    for number, guard in enumerate(dict.fromkeys(column.when for _, column in chosen)):
        if guard is not None:
            names[f"when_{number}"] = guard
            guards[guard] = f"has_{number}"
            lines.append(f"        has_{number} = when_{number}({arguments})")
    for guard in dict.fromkeys(column.when for _, column in chosen):
        places = [pair for pair in chosen if pair[1].when is guard]
        if guard is not None:
            lines.append(f"        if not {guards[guard]}:")
            lines += [f"            row[{place}] = 0.0" for place, _ in places]
            lines.append("        else:")
        indent = " " * (12 if guard is not None else 8)
        for place, column in places:
            names[f"write_{place}"] = inlined(column.write)
            value = f"1.0 * write_{place}({arguments})"  # of a truth value, too
            low, high = float(column.low), float(column.high)
            lines.append(f"{indent}row[{place}] = min(max({value}, {low!r}), {high!r})")
    return make_kernel("\n".join(lines), names)
