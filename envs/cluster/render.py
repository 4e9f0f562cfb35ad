"""Pictures of a cluster: text for a terminal, and a host x time heat strip with Pillow.

The strip keeps one column per interval and is drawn as it grows: a frame costs a few milliseconds however
long the episode is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..arrays import U1
from ..sim.models.power import BOOTING, FAILED, OFF, ON, RESUMING, SHUTTING_DOWN, STANDBY, SUSPENDING
from ..sim.simulator import Simulator

WIDTH, HEIGHT = 1000, 620
LEFT, RIGHT = 150, 980  # x of the plots, px
TOP, BOTTOM = 96, 426  # y of the strip, px
POWER = (444, 494)  # top and bottom of the power curve, px
UNSERVED = (506, 542)  # top and bottom of the bars of unserved demand, px
LEGEND_Y = 586
UNSERVED_FULL = 0.05
"""Unserved share at which a bar is full."""

INK, FAINT, GRID, PAPER = (28, 33, 40), (105, 113, 124), (214, 218, 224), (255, 255, 255)
FUTURE, OFF_COLOUR, CHANGING, SHORT = (238, 240, 243), (40, 44, 52), (139, 108, 173), (232, 32, 60)
POWER_COLOUR, POWER_FILL = (58, 82, 139), (214, 222, 238)
STOPS = np.array(
    [
        (58, 82, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ],
    dtype=np.float64,
)
"""Viridis without its dark end, which would look like a host that is off."""

STANDBY_COLOUR, FAILED_COLOUR = (116, 124, 140), (241, 138, 32)

IN_TRANSIT = (BOOTING, SHUTTING_DOWN, SUSPENDING, RESUMING)
WORDS: dict[int, str] = {
    OFF: "off",
    BOOTING: "booting",
    SHUTTING_DOWN: "shutting down",
    STANDBY: "standby",
    SUSPENDING: "suspending",
    RESUMING: "resuming",
    FAILED: "failed",
}
"""What a host that is not on is called."""

MARKS: dict[int, str] = {
    OFF: "·",
    BOOTING: "↑",
    SHUTTING_DOWN: "↓",
    STANDBY: "z",
    SUSPENDING: "↓",
    RESUMING: "↑",
    FAILED: "x",
}
"""The same in one character."""

ROWS_IN_TEXT = 40
BLOCKS = "▁▂▃▄▅▆▇█"


class _Now(NamedTuple):
    """The numbers of the header."""

    hosts_on: int
    n_hosts: int
    power_w: float
    load: float
    waiting: int


def _look(sim: Simulator) -> _Now:
    s, p = sim.state, sim.params
    on = s.host_power_state == ON
    capacity = float(p.host_cpu_mhz[on].sum())
    load = float(s.host_ask_mhz[on].sum()) / capacity if capacity > 0 else 0.0
    power = float(s.host_power_now_w.sum())
    return _Now(int(on.sum()), sim.config.n_hosts, power, load, int(s.counters.pending))


def _clock(time_s: float) -> str:
    minutes = round(time_s / 60)
    return f"day {minutes // 1440 + 1}, {minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _watts(power_w: float) -> str:
    return f"{power_w / 1000:.1f} kW" if power_w >= 10_000 else f"{power_w:,.0f} W"


def _loads(sim: Simulator) -> NDArray[np.float64]:
    return sim.state.host_ask_mhz / sim.params.host_cpu_mhz


class History:
    """The strip of an episode so far.

    Args:
        sim: The simulator, at time 0.
    """

    def __init__(self, sim: Simulator) -> None:
        self.n_columns = max(1, math.ceil(sim.horizon_s / sim.params.interval_s - 1e-9))
        kinds = sim.params.host_type
        self.order = np.argsort(kinds, kind="stable")
        names = [kind.name for kind in sim.config.host_types]
        counts = np.bincount(kinds, minlength=len(names))
        self.groups = [(name, int(n)) for name, n in zip(names, counts) if n > 0]
        n_hosts = sim.config.n_hosts
        self.n_rows = min(n_hosts, BOTTOM - TOP)
        # More hosts than pixels: neighbours share a row, which shows the mean of their colours.
        self.edges = np.arange(self.n_rows) * n_hosts // self.n_rows
        self.sizes = np.diff(np.append(self.edges, n_hosts))
        self.strip = np.empty((self.n_rows, self.n_columns, 3), dtype=np.uint8)
        self.power_w = np.zeros(self.n_columns)
        self.unserved = np.zeros(self.n_columns)
        self.full = bool(sim.params.full)
        self.span_h = sim.horizon_s / 3600.0
        self.n_done = 0
        self._base: Image.Image | None = None

    def open(self, sim: Simulator) -> None:
        """Note what an interval begins with, all its orders given."""
        self._load = _loads(sim)
        self._power_state = sim.state.host_power_state.copy()
        self._sat_s = sim.state.host_sat_s.copy()

    def close(self, sim: Simulator, step: Mapping[str, float]) -> None:
        """Draw the column of the interval that has passed.

        Args:
            sim: The simulator at its end.
            step: The interval's ``step_metrics``.
        """
        if self.n_done >= self.n_columns:
            return
        short = (sim.state.host_sat_s > self._sat_s) & (self._power_state == ON)
        colours = _colour(self._load, self._power_state, short)[self.order]
        sums = np.add.reduceat(colours, self.edges, axis=0)
        self.strip[:, self.n_done] = np.rint(sums / self.sizes[:, None])
        hosts_kwh = step["energy_kwh"] / sim.params.pue  # the header shows what hosts draw, and so the curve
        self.power_w[self.n_done] = hosts_kwh * 3.6e6 / sim.params.interval_s
        self.unserved[self.n_done] = step["sla_unserved"]
        self.n_done += 1

    def __getstate__(self) -> dict[str, Any]:
        """The background is drawn again when it is needed."""
        return {**self.__dict__, "_base": None}

    def background(self) -> Image.Image:
        """What does not change: axes, labels, legend. A fresh copy."""
        if self._base is None:
            self._base = _draw_background(self)
        return self._base.copy()


def _colour(
    load: NDArray[np.float64], state: NDArray[np.int8], short: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Colours of hosts, shape (H, 3), 0...255."""
    x = np.clip(load, 0.0, 1.0) * (len(STOPS) - 1)
    a = np.minimum(x.astype(np.int64), len(STOPS) - 2)
    share = (x - a)[:, None]
    colours: NDArray[np.float64] = STOPS[a] * (1.0 - share) + STOPS[a + 1] * share
    colours[state == OFF] = OFF_COLOUR
    colours[np.isin(state, IN_TRANSIT)] = CHANGING
    colours[state == STANDBY] = STANDBY_COLOUR
    colours[short] = SHORT
    colours[state == FAILED] = FAILED_COLOUR
    return colours


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _tick_hours(span_h: float) -> float:
    """Distance of the ticks of the time axis, h."""
    for step in (0.25, 0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0, 48.0):
        if span_h / step <= 12:
            return step
    return 24.0 * math.ceil(span_h / 24.0 / 12.0)


def _draw_background(history: History) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_hosts_axis(draw, history)
    for label, (top, bottom) in (("power", POWER), ("unserved", UNSERVED)):
        draw.rectangle((LEFT, top, RIGHT - 1, bottom - 1), fill=FUTURE)
        draw.text((20, (top + bottom) // 2), label, font=_font(13), fill=INK, anchor="lm")
        draw.text((LEFT - 12, bottom), "0", font=_font(12), fill=FAINT, anchor="rs")
    full = f"{100 * UNSERVED_FULL:.0f} %"
    draw.text((LEFT - 12, UNSERVED[0]), full, font=_font(12), fill=FAINT, anchor="rt")
    _draw_time_axis(draw, history.span_h)
    _draw_legend(image, draw, history.full)
    return image


def _draw_hosts_axis(draw: ImageDraw.ImageDraw, history: History) -> None:
    """Names and sizes of the groups of hosts."""
    draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), fill=FUTURE)
    total = sum(n for _, n in history.groups)
    first = 0
    for name, n in history.groups:
        top = TOP + first * (BOTTOM - TOP) / total
        bottom = TOP + (first + n) * (BOTTOM - TOP) / total
        draw.line((LEFT - 6, top + 2, LEFT - 6, bottom - 2), fill=FAINT, width=2)
        middle = (top + bottom) / 2
        if bottom - top >= 34:
            draw.text((LEFT - 12, middle - 8), name[:18], font=_font(13), fill=INK, anchor="rm")
            draw.text((LEFT - 12, middle + 9), f"{n} hosts", font=_font(12), fill=FAINT, anchor="rm")
        elif bottom - top >= 12:
            draw.text((LEFT - 12, middle), f"{name[:14]} ({n})", font=_font(12), fill=INK, anchor="rm")
        first += n


def _draw_legend(image: Image.Image, draw: ImageDraw.ImageDraw, full: bool) -> None:
    x = LEFT
    entries = [("off", OFF_COLOUR), ("booting or shutting down", CHANGING), ("short of CPU", SHORT)]
    if full:
        entries[1:1] = [("standby", STANDBY_COLOUR), ("failed", FAILED_COLOUR)]
    for label, colour in entries:
        draw.rectangle((x, LEGEND_Y, x + 16, LEGEND_Y + 16), fill=colour)
        draw.text((x + 23, LEGEND_Y + 8), label, font=_font(13), fill=INK, anchor="lm")
        x += 23 + int(draw.textlength(label, font=_font(13))) + 24
    draw.text((x, LEGEND_Y + 8), "CPU load  0 %", font=_font(13), fill=INK, anchor="lm")
    x += int(draw.textlength("CPU load  0 %", font=_font(13))) + 8
    wide = 70 if full else 160
    ramp = _colour(np.linspace(0, 1, wide), np.full(wide, ON, dtype=np.int8), np.zeros(wide, dtype=np.bool_))
    bar = np.broadcast_to(ramp.astype(np.uint8), (17, wide, 3))
    image.paste(Image.fromarray(np.ascontiguousarray(bar)), (x, LEGEND_Y))
    draw.text((x + wide + 8, LEGEND_Y + 8), "100 %", font=_font(13), fill=INK, anchor="lm")


def draw_frame(sim: Simulator, history: History, step: Mapping[str, float], name: str) -> U1:
    """Draw the episode so far.

    Args:
        sim: The simulator.
        history: Its strip.
        step: The last interval's ``step_metrics``, empty before the first.
        name: Name of the scenario.

    Returns:
        Picture, shape (620, 1000, 3).
    """
    image = history.background()
    draw = ImageDraw.Draw(image)
    edge = LEFT + round((RIGHT - LEFT) * history.n_done / history.n_columns)
    if edge > LEFT:
        done = np.ascontiguousarray(history.strip[:, : history.n_done])
        size = (edge - LEFT, BOTTOM - TOP)
        image.paste(Image.fromarray(done).resize(size, Image.Resampling.NEAREST), (LEFT, TOP))
        _draw_curves(image, draw, history, edge)
    _draw_gaps(draw, history, edge)
    _draw_header(draw, sim, step, name)
    return np.array(image)


def draw_nodes(head: str, cores: NDArray[np.float64], memory: NDArray[np.float64]) -> U1:
    """Draw what is used of the nodes of a placement game: a column per node, cores beside memory.

    Args:
        head: Line of text above.
        cores: Share of the cores in use, by node, (2N,).
        memory: The same of memory.

    Returns:
        Picture, shape (620, 1000, 3).
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((20, 18), head, font=_font(18), fill=INK)
    draw.text((20, 50), "left: cores, right: memory, of each node in use", font=_font(13), fill=FAINT)
    left, wide, low = 20, (RIGHT - 20) / len(cores), LEGEND_Y
    for a, shares in enumerate(zip(cores.tolist(), memory.tolist())):
        for k, (share, colour) in enumerate(zip(shares, (POWER_COLOUR, STOPS[3]))):
            x = left + wide * (a + 0.1 + 0.4 * k)
            draw.rectangle((x, TOP, x + 0.38 * wide, low), fill=FUTURE)
            top = low - (low - TOP) * min(max(share, 0.0), 1.0)
            draw.rectangle((x, top, x + 0.38 * wide, low), fill=tuple(int(c) for c in colour))
        if wide >= 40 and a % 2 == 0:
            draw.text((left + wide * a, low + 6), f"host {a // 2}", font=_font(12), fill=FAINT)
    return np.array(image)


def _draw_gaps(draw: ImageDraw.ImageDraw, history: History, edge: int) -> None:
    """Lines between groups, and between hosts where there is room for them."""
    total = sum(n for _, n in history.groups)
    height = (BOTTOM - TOP) / total
    if height >= 8:
        for row in range(1, total):
            y = TOP + round(row * height)
            draw.line((LEFT, y, edge, y), fill=PAPER)
    first = 0
    for _, n in history.groups[:-1]:
        first += n
        y = TOP + round(first * height)
        draw.line((LEFT, y, RIGHT, y), fill=PAPER, width=3)


def _draw_curves(image: Image.Image, draw: ImageDraw.ImageDraw, history: History, edge: int) -> None:
    """Power as an area, on a scale that holds its maximum; unserved demand as bars."""
    columns = np.arange(edge - LEFT) * history.n_done // (edge - LEFT)
    scale = _round_up(float(history.power_w[: history.n_done].max()))
    power = _area(history.power_w[columns] / scale, POWER, POWER_FILL, POWER_COLOUR)
    image.paste(Image.fromarray(power), (LEFT, POWER[0]))
    unserved = _area(history.unserved[columns] / UNSERVED_FULL, UNSERVED, SHORT, SHORT)
    image.paste(Image.fromarray(unserved), (LEFT, UNSERVED[0]))
    draw.text((LEFT - 12, POWER[0]), _watts(scale), font=_font(12), fill=FAINT, anchor="rt")


def _round_up(x: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7, 10 times a power of ten."""
    if x <= 0.0:
        return 1.0
    unit: float = 10.0 ** math.floor(math.log10(x))
    return next(unit * k for k in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0) if unit * k >= x * (1 - 1e-9))


def _area(share: NDArray[np.float64], rows: tuple[int, int], fill: Any, line: Any) -> U1:
    """A filled curve of shares 0...1, shape (height, width, 3)."""
    height = rows[1] - rows[0]
    top = height - np.rint(np.clip(share, 0.0, 1.0) * height)[None, :]
    y = np.arange(height)[:, None]
    picture = np.where((y >= top)[..., None], fill, FUTURE)
    edge = (y >= top) & (y < top + 2)
    picture[edge] = line
    return picture.astype(np.uint8)


def _draw_time_axis(draw: ImageDraw.ImageDraw, span_h: float) -> None:
    step = _tick_hours(span_h)
    bottom = UNSERVED[1]
    for i in range(int(span_h / step + 1e-9) + 1):
        x = LEFT + (RIGHT - LEFT) * i * step / span_h
        draw.line((x, BOTTOM, x, BOTTOM + 5), fill=FAINT)
        draw.line((x, bottom, x, bottom + 5), fill=FAINT)
        draw.text((x, bottom + 8), f"{i * step:g} h", font=_font(12), fill=FAINT, anchor="mt")
    draw.line((LEFT, bottom, RIGHT, bottom), fill=GRID)


def _draw_header(draw: ImageDraw.ImageDraw, sim: Simulator, step: Mapping[str, float], name: str) -> None:
    now = _look(sim)
    draw.text((20, 18), name, font=_font(22), fill=INK)
    draw.text((20, 50), _clock(sim.time_s), font=_font(15), fill=FAINT)
    tiles = (
        ("hosts on", f"{now.hosts_on} / {now.n_hosts}"),
        ("power", _watts(now.power_w)),
        ("load of hosts on", f"{100 * now.load:.0f} %"),
        ("unserved", f"{100 * step.get('sla_unserved', 0.0):.2f} %"),
        ("migrations", f"{step.get('migrations', 0.0):.0f}"),
        ("VMs waiting", f"{now.waiting}"),
    )
    for i, (label, value) in enumerate(tiles):
        x = 260 + i * 124
        draw.text((x, 18), label, font=_font(13), fill=FAINT)
        is_bad = (label == "unserved" and step.get("sla_unserved", 0.0) >= 5e-5) or (
            label[:3] == "VMs" and now.waiting
        )
        draw.text((x, 38), value, font=_font(22), fill=SHORT if is_bad else INK)


def _block(load: float, state: int, short: bool) -> str:
    if state != ON:
        return MARKS[state]
    return "!" if short else BLOCKS[min(7, int(8 * load))]


def write_text(sim: Simulator, step: Mapping[str, float], name: str) -> str:
    """Describe the cluster now.

    Args:
        sim: The simulator.
        step: The last interval's ``step_metrics``, empty before the first.
        name: Name of the scenario.

    Returns:
        Lines of text: one of numbers; then one per host, or with many hosts one character per host.
    """
    now = _look(sim)
    head = (
        f"{name}  {_clock(sim.time_s)}  hosts on {now.hosts_on}/{now.n_hosts}  power {_watts(now.power_w)}  "
        f"load {100 * now.load:.0f} %  unserved {100 * step.get('sla_unserved', 0.0):.2f} %  "
        f"migrations {step.get('migrations', 0.0):.0f}  waiting {now.waiting}"
    )
    body = _text_rows(sim) if now.n_hosts <= ROWS_IN_TEXT else _text_blocks(sim)
    return "\n".join([head, *body]) + "\n"


def _text_rows(sim: Simulator) -> list[str]:
    s = sim.state
    names = [sim.config.host_types[k].name for k in sim.params.host_type.tolist()]
    wide = max(len(name) for name in names)
    lines = []
    for h, (name, load) in enumerate(zip(names, _loads(sim).tolist())):
        state = int(s.host_power_state[h])
        if state == ON:
            full = min(20, round(20 * load))
            what = f"{'█' * full}{'░' * (20 - full)} {100 * load:3.0f} %  {int(s.host_n_vms[h]):3d} VMs"
            what += "  short of CPU" if s.host_sat_now[h] > 0 else ""
            what += "  draining" if s.host_drain[h] else ""
        else:
            what = WORDS[state]
        lines.append(f"{h:4d} {name:<{wide}} {what}")
    return lines


def _text_blocks(sim: Simulator) -> list[str]:
    s = sim.state
    marks = [
        _block(load, state, short)
        for load, state, short in zip(
            _loads(sim).tolist(), s.host_power_state.tolist(), (s.host_sat_now > 0).tolist()
        )
    ]
    legend = f"load of each host: {BLOCKS} 0...100 %, ! short of CPU, · off, ↑ booting, ↓ shutting down"
    lines = [legend + (", z standby, x failed" if sim.params.full else "")]
    kinds = sim.params.host_type
    for k, kind in enumerate(sim.config.host_types):
        mine = [marks[h] for h in np.flatnonzero(kinds == k).tolist()]
        if mine:
            lines.append(f"{kind.name} ({len(mine)})")
            lines += ["  " + "".join(mine[i : i + 100]) for i in range(0, len(mine), 100)]
    return lines
