"""Rows of a bound that count arrivals: whoever fills the gaps of many hosts moves many VMs.

Sums over hosts let one large VM fill the gaps of ten hosts. In truth each of the ten receives a VM of its
own, or its gap stays empty. From a cluster that is packed already, gaps are many and small, and that is what
migrations are for. For each host h that holds something now, for one resource:

    r_h <= y_h                               h receives something, 0...1
    come_h <= cap_h r_h                      what comes
    stay_h + come_h <= now_h y_h + (cap_h - now_h) r_h
    sum_h come_h + cap_t e_t >= sum_i size_i m_it
    sum_h r_h <= sum_i m_it                  who receives, receives one VM at least

(A host over its limit that receives something comes down to its limit: cap_h - now_h is below 0 then.)
``now`` adds up what may stay. A group that lives on several hosts brings members along wherever it stays: it
counts as coming there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from virtgym.envs.arrays import B1, F8, I8

from .model import sums
from .programme import Rows

INF = np.inf


class Held(NamedTuple):
    """The hosts that hold something now, K, and the columns of the programme (``consolidation_bounds``)."""

    type_of: I8  # (K,) type of each
    keep: I8  # (K,) columns y
    stay: I8  # columns s
    stay_at: I8  # and their hosts, 0...K - 1
    stay_item: I8  # and their items
    pure: B1  # and whether all of the item is there now
    move: I8  # columns m
    move_item: I8  # and their items
    move_type: I8  # and their types
    open: I8  # columns e
    open_type: I8  # and their types


class Resource(NamedTuple):
    """CPU or memory."""

    size: F8  # (I,) of each item
    cap: F8  # (K,) limits of the hosts that hold something
    open_cap: F8  # limits of the hosts of the columns e


def count_arrivals(rows: Rows, held: Held, n_types: int) -> I8:
    """Add the columns r and say that who receives, receives one VM at least.

    Args:
        rows: The programme.
        held: The hosts.
        n_types: Types of hosts.

    Returns:
        Columns r, (K,).
    """
    n = len(held.keep)
    each = np.arange(n)
    receives = rows.columns(n, 0.0, 1.0)
    rows.rows(n, -INF, 0.0, (each, receives, 1.0), (each, held.keep, -1.0))
    mixed = ~held.pure
    k, columns, at = int(mixed.sum()), held.stay[mixed], held.stay_at[mixed]
    if k:
        rows.rows(k, -INF, 0.0, (np.arange(k), columns, 1.0), (np.arange(k), receives[at], -1.0))
    rows.rows(
        n_types, -INF, 0.0, (held.type_of, receives, 1.0),
        (held.move_type, held.move, -1.0), (held.type_of[at], columns, -1.0),
    )  # fmt: skip
    return receives


def fill_gaps(rows: Rows, held: Held, resource: Resource, receives: I8, n_types: int) -> None:
    """Say what comes to each host and what of its gap that may use.

    Args:
        rows: The programme.
        held: The hosts.
        resource: CPU or memory.
        receives: Columns r, (K,).
        n_types: Types of hosts.
    """
    n, (size, cap, open_cap) = len(held.keep), resource
    each, mixed = np.arange(n), ~held.pure
    pure_at, pure_size = held.stay_at[held.pure], size[held.stay_item[held.pure]]
    now = sums(pure_at, pure_size, n)
    unit = float(cap.mean())  # columns in mean hosts: solvers want numbers near 1
    come = rows.columns(n)
    came = held.stay_at[mixed], held.stay[mixed], size[held.stay_item[mixed]]
    rows.rows(n, -INF, 0.0, (each, come, unit), came, (each, receives, -cap))
    rows.rows(
        n, -INF, 0.0, (held.stay_at, held.stay, size[held.stay_item]), (each, come, unit),
        (each, held.keep, -now), (each, receives, now - cap),
    )  # fmt: skip
    rows.rows(
        n_types, -INF, 0.0, (held.move_type, held.move, size[held.move_item]),
        (held.type_of, come, -unit), (held.open_type, held.open, -open_cap),
    )  # fmt: skip
