"""The page that replays an episode: frames as packed arrays, everything else as JSON, drawn by its script."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.cluster.actions import ACTION_REASONS
from virtgym.envs.cluster.render import WORDS
from virtgym.envs.sim.agenda import Event
from virtgym.envs.sim.models.cost import VM_CLASSES
from virtgym.envs.sim.models.power import ON

from ..report.parts import PagePart, document, read_part, render
from .tape import ORDER_KINDS, Tape

if TYPE_CHECKING:
    import pandas as pd

SERIES = ("time_s", "energy_kwh", "unserved_weighted", "power_w", "hosts_on", "migrations", "vms_waiting")
"""Columns of the per-interval table that the page shows, besides the cost and its terms."""

_JS_TYPES = {"int16": "Int16Array", "int32": "Int32Array", "uint8": "Uint8Array", "float32": "Float32Array"}


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """An array ready for JSON: the script's type of it, its shape, and its bytes, compressed."""
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    text = base64.b64encode(zlib.compress(data, 9)).decode("ascii")
    return {"type": _JS_TYPES[array.dtype.name], "shape": list(array.shape), "data": text}


def render_episode(tape: Tape, row: Mapping[str, Any], steps: pd.DataFrame) -> str:
    """The whole page as text.

    Args:
        tape: The episode.
        row: Its result row.
        steps: Its per-interval table.
    """
    title = f"{row['policy']} on {row['scenario']}"
    html = render("watch/episode.html", title=title, facts=_facts(row, tape), tiles=TILES)
    return document(
        f"virtgym watch: {title}",
        [str(row["virtgym_version"])],
        [PagePart(html, episode_data(tape, row, steps))],
        script=read_part("watch/watch.js"),
        style=read_part("watch/watch.css"),
    )


def episode_data(tape: Tape, row: Mapping[str, Any], steps: pd.DataFrame) -> dict[str, Any]:
    """What the script replays, ready for JSON."""
    sim = tape.cluster.sim
    p, config = sim.params, sim.config
    shown = [name for name in steps.columns if name in SERIES or name.split("_")[0] == "cost"]
    offers = tape.offers
    return {
        "n": tape.n,
        "interval_s": p.interval_s,
        "policy": str(row["policy"]),
        "host_types": [kind.name for kind in config.host_types],
        "host_type": p.host_type.tolist(),
        "host_cpu_mhz": _rounded(p.host_cpu_mhz),
        "host_mem_mib": _rounded(p.host_mem_mib),
        "vm_vcpus": p.vm_vcpus.tolist(),
        "vm_mem_mib": _rounded(p.vm_mem_mib),
        "vm_class": p.vm_class.tolist(),
        "classes": VM_CLASSES,
        "power_words": [{ON: "on", **WORDS}[state] for state in range(len(WORDS) + 1)],
        "kinds": ORDER_KINDS,
        "reasons": [ACTION_REASONS[code] for code in range(len(ACTION_REASONS))],
        "series": {name: _rounded(steps[name].to_numpy(dtype=np.float64)) for name in shown},
        "notes": [[k, text] for event in config.events for k, text in _told(event, p.interval_s)],
        "frames": {name: pack(array) for name, array in tape.frames.items()},
        "orders": pack(tape.orders),
        "measure": tape.measure,
        "slots": tape.slots,
        "offers": pack(offers.rows),
        "values": pack(offers.values),
    }


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Six digits of numbers, which is more than anybody sees; no number is None."""
    return [float(f"{x:.6g}") if np.isfinite(x) else None for x in values.tolist()]


def _told(event: Event, interval_s: float) -> list[tuple[int, str]]:
    """What an operator does by hand, and in the sight of which interval."""
    parts = [f"maintenance of host {h}" for h in event.maintenance]
    parts += [f"end of the maintenance of host {h}" for h in event.end_maintenance]
    if event.migrate is not None:
        parts.append(f"VM {event.migrate.vm} to host {event.migrate.host}")
    if event.empty is not None:
        parts.append(f"host {event.empty} to be emptied")
    frame = int(np.ceil(event.at_s / interval_s - 1e-9))
    return [(frame, f"operator: {part}") for part in parts]


def _facts(row: Mapping[str, Any], tape: Tape) -> list[str]:
    return [
        f"{row['n_hosts']:,} hosts",
        f"{row['n_vms']:,} VMs",
        f"seed {row['seed']}",
        f"{float(row['sim_hours']):,.4g} h in {tape.n:,} intervals",
        f"information {row['information']}",
        f"cost {row['cost']:,.6g} {tape.cluster.sim.config.cost.unit} in all",
    ]


TILES = (
    ("cost", "cost so far"),
    ("energy", "energy so far, kWh"),
    ("unserved", "unserved work"),
    ("on", "hosts on"),
    ("moves", "migrations so far"),
    ("waiting", "VMs waiting"),
)
"""Numbers that the script keeps up to date, by the ids of their places."""
