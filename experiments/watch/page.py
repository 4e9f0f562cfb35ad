"""The page that replays an episode: frames as packed arrays, everything else as JSON, drawn by its script."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.cluster.actions import ACTION_REASONS
from virtgym.envs.cluster.render import WORDS
from virtgym.envs.sim.agenda import Event
from virtgym.envs.sim.models.cost import VM_CLASSES
from virtgym.envs.sim.models.power import ON

from ..report.parts import block, document, json_script, read_part
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
    title = f"virtgym watch: {row['policy']} on {row['scenario']}"
    data = episode_data(tape, row, steps)
    body = f'<section class="group" id="group-0">{_head(row, tape)}{BODY}</section>'
    return document(
        title,
        [str(row["virtgym_version"])],
        body,
        json_script("data-0", data),
        script=read_part(__package__, "watch.js"),
        style=read_part(__package__, "watch.css"),
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


def _head(row: Mapping[str, Any], tape: Tape) -> str:
    hours = float(row["sim_hours"])
    facts = (
        f"{row['n_hosts']:,} hosts",
        f"{row['n_vms']:,} VMs",
        f"seed {row['seed']}",
        f"{hours:,.4g} h in {tape.n:,} intervals",
        f"information {row['information']}",
        f"cost {row['cost']:,.6g} in all",
    )
    listed = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    title = f"{escape(str(row['policy']))} on {escape(str(row['scenario']))}"
    return f'<header class="head"><h2>{title}</h2><ul class="facts">{listed}</ul></header>'


_TILES = "".join(
    f'<div class="tile"><dt>{label}</dt><dd><b id="{ident}">–</b>'
    f'<span class="note" id="{ident}-note"></span></dd></div>'
    for ident, label in (
        ("cost", "cost so far"),
        ("energy", "energy so far, kWh"),
        ("unserved", "unserved work"),
        ("on", "hosts on"),
        ("moves", "migrations so far"),
        ("waiting", "VMs waiting"),
    )
)

_KEY = (
    '<p class="key" id="key"><span>idle <i class="cell ramp"></i> full</span>'
    '<span><i class="cell over"></i>short of CPU</span><span><i class="cell off"></i>off</span>'
    '<span><i class="cell asleep"></i>standby</span><span><i class="cell switching"></i>changing its power '
    'state</span><span><i class="cell failed"></i>failed</span>'
    '<span><i class="line move"></i>migration</span></p>'
)

_PLAYER = f"""
<div class="player" id="player">
<div class="buttons"><button id="back" aria-label="One interval back">◀</button>
<button id="play" aria-label="Play">▶ play</button>
<button id="on-one" aria-label="One interval on">▶</button>
<label>Speed <select id="speed"><option value="1">1 interval/s</option><option value="3" selected>3</option>
<option value="8">8</option><option value="24">24</option><option value="72">72</option></select></label>
<output id="when"></output></div>
<input type="range" id="slider" min="0" max="0" value="0" step="1" aria-label="Interval">
</div>
<dl class="tiles" id="tiles">{_TILES}</dl>
"""

_CLUSTER = """
<div class="stage"><div class="scene" id="scene">
<canvas id="cluster" role="img" aria-label="Hosts and the VMs on them at the chosen interval"></canvas>
<div class="tip" id="tip" hidden></div></div>
<aside class="said"><div id="picked"></div><div id="orders"></div><div id="offers"></div>
<div id="events"></div></aside></div>
"""

_TIME = """
<canvas id="curve" role="img" aria-label="Cost of every interval by term, and hosts on"></canvas>
<p class="key" id="terms-key"></p>
<canvas id="heat" role="img" aria-label="CPU load of every host over time"></canvas>
"""

BODY = "".join(
    (
        _PLAYER,
        block(
            "cluster",
            "The cluster",
            _KEY + _CLUSTER,
            "The start of an interval, as it is (policies see what was measured), and what is decided then.",
        ),
        block(
            "time",
            "The whole episode",
            _TIME,
            "Click to go there. Cost of every interval, load of every host.",
        ),
        block("bill", "What it costs", '<div class="scroller"><table class="plain" id="bill"></table></div>'),
    )
)
