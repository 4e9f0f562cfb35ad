"""The columns of a candidate: what it is, what it costs, frees and risks.

A *measure* is a sum over hosts, of the cluster as it will be once the moves under way have ended. It has
three columns: ``NAME`` before and ``NAME_after`` after the candidate, both per host of the cluster, and
``NAME_change``, the difference in hosts: so a host that is emptied weighs the same on any cluster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...jit.records import Place, Record
from ...observation_columns import Column, NamedColumn, columns_of_record
from .settings import KINDS


class Measure(NamedTuple):
    """A sum over hosts: its meaning, what it is told in, and the largest values of its columns."""

    meaning: str
    unit: str = "hosts"
    high: float = 1.0
    change: float = 4.0


MEASURES: dict[str, Measure] = {
    "memory_over_100": Measure("configured memory above 1.0 of a host's, in hosts", high=2.0),
    "memory_over_110": Measure("the same above 1.1", high=2.0),
    "memory_over_120": Measure("the same above 1.2", high=2.0),
    "memory_hosts_100": Measure("hosts whose configured memory is above 1.0 of theirs"),
    "memory_hosts_110": Measure("the same above 1.1"),
    "touched_over_90": Measure("memory touched above 0.9 of a host's, in hosts", high=2.0),
    "touched_over_100": Measure("the same above 1.0", high=2.0),
    "cpu_hosts_80": Measure("hosts whose demand is above 0.8 of their CPU"),
    "cpu_hosts_100": Measure("the same above 1.0"),
    "cpu_over_100": Measure("demand above a host's CPU, in hosts", high=2.0),
    "risk_hosts_80": Measure("hosts whose demand planned for (mean, deviation) is above 0.8 of their CPU"),
    "risk_over_100": Measure("demand planned for above a host's CPU, in hosts", high=2.0),
    "hosts_on": Measure("hosts that are on or come on, and are not about to be switched off"),
    "idle_power": Measure("their idle power, in mean idle powers of all hosts", "idle"),
    "power": Measure("their power at that demand, in mean peak powers of all hosts", "peak"),
}
"""Sums over hosts that have columns."""


def _measures() -> type[Record]:
    names = (*MEASURES, "capacity", "memory", "touched", "demand")
    meanings = [
        *(m.meaning for m in MEASURES.values()),
        "CPU, MHz",
        "memory, MiB",
        "memory touched, MiB",
        "demand, MHz",
    ]
    places: dict[str, Any] = {name: Place(meaning) for name, meaning in zip(names, meanings)}
    return type(
        "Measures", (Record,), {"__doc__": "Sums over hosts; the last four have no columns.", **places}
    )


Measures: Any = _measures()


def _columns() -> dict[str, NamedColumn]:
    found = {f"is_{kind}": NamedColumn(1, f"1: a candidate of kind {kind}") for kind in KINDS}
    found |= {
        "offered": NamedColumn(1, "1: may be chosen; all other columns of one that may not are 0"),
        "level": NamedColumn(1, "how far it fills other hosts, 0 = least bold (empty)"),
        "orders": NamedColumn(1, "log(1 + its orders) / log(129)"),
        "moved": NamedColumn(1, "VMs that it moves / VMs that are there"),
        "moved_mean": NamedColumn(4, "memory that it moves / mean memory of a host"),
        "copy_time": NamedColumn(4, "time of its copies one after the other, estimated / interval"),
        "moved_weight": NamedColumn(
            1, "weight of the service classes of the VMs that it moves / that of all"
        ),
        "moved_back": NamedColumn(1, "share of its moves that go back within 12 intervals"),
        "placed": NamedColumn(1, "log(1 + VMs that it places) / log(129)"),
        "wait": NamedColumn(4, "time until a host that it switches on is on / interval"),
        "memory_max": NamedColumn(2, "largest configured share of a host's memory"),
        "memory_max_after": NamedColumn(2, "the same after it"),
        "memory_max_change": NamedColumn(2, "the difference", low=-2),
        "risk_max_after": NamedColumn(2, "largest demand planned for / CPU of a host after it"),
        "demand_share": NamedColumn(2, "demand / CPU of the hosts that are on or come on"),
        "demand_share_after": NamedColumn(2, "the same after it"),
        "touched_share": NamedColumn(2, "memory touched / memory of these hosts"),
        "touched_share_after": NamedColumn(2, "the same after it"),
        "guarantee_after": NamedColumn(
            1, "margin of the failover guarantee after it: slots / H, or share", low=-1
        ),
        "guarantee_change": NamedColumn(1, "what it adds to the margin", low=-1),
        "memory_lost": NamedColumn(1, "work lost to memory now / demand"),
        "migrating": NamedColumn(1, "share of VMs that migrate now"),
    }
    for name, measure in MEASURES.items():
        found[name] = NamedColumn(measure.high, f"{measure.meaning} / H")
        found[f"{name}_after"] = NamedColumn(measure.high, "the same after it")
        found[f"{name}_change"] = NamedColumn(measure.change, "the difference, times H", low=-measure.change)
    return found


CandidateRow: Any = type("CandidateRow", (Record,), {"__doc__": "A row of candidates.", **_columns()})

CANDIDATE_COLUMNS: tuple[Column, ...] = columns_of_record(CandidateRow)
"""Columns of ``observation["candidates"]``, in every cluster."""

FIRST_MEASURE: int = CandidateRow.places[next(iter(MEASURES))].number
"""Place of the first column of a measure."""

UNITS = np.array([("hosts", "idle", "peak").index(m.unit) for m in MEASURES.values()], dtype=np.int64)
HIGH = np.array([m.high for m in MEASURES.values()])
CHANGE = np.array([m.change for m in MEASURES.values()])
