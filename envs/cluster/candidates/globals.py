"""The global vector beside candidates: one set of columns for every cluster, whatever it models."""

from __future__ import annotations

import functools
from typing import Any

from ...jit.generated import make_kernel
from ...observation_columns import Column
from ..buffers import add_up, add_up_full
from ..columns import ConstantColumn, make_writer
from ..global_columns import FULL_GLOBAL_COLUMNS
from ..tables import columns_of


@functools.cache
def global_columns(full: bool) -> tuple[Column, ...]:
    """The columns; in a simple cluster those of the full model are 0.

    Args:
        full: Whether the cluster uses the full model.
    """
    columns = columns_of(True).globals
    if full:
        return columns
    return tuple(
        ConstantColumn(c.name, c.high, c.doc, low=c.low, values=_nothing)
        if any(c is other for other in FULL_GLOBAL_COLUMNS)
        else c
        for c in columns
    )


def _nothing(p: Any) -> float:
    return 0.0


_WRITE = """def {name}(p, s, b, n_decisions):
    b.choice.vm, b.choice.host, b.choice.decisions = -1, -1, n_decisions
    add_up(p, s, b)
    seldom(p, s, b, b.globals)
    often(p, s, b, b.globals)
"""


@functools.cache
def write_globals_with(columns: tuple[Column, ...], full: bool) -> Any:
    """The kernel that writes them: of parameters, state, observer's buffers and the choices so far.

    Args:
        columns: Of ``global_columns``.
        full: Whether the cluster uses the full model.
    """
    model = "full" if full else "simple"
    names: dict[str, Any] = {
        "add_up": add_up_full if full else add_up,
        "seldom": make_writer(f"write_candidate_globals_{model}", columns, often=False),
        "often": make_writer(f"write_candidate_globals_often_{model}", columns, often=True),
    }
    return make_kernel(_WRITE.format(name=f"write_globals_{model}"), names)
