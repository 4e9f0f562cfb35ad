"""Who was moved when, from where to where: pictures of the migrations of one episode of each policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.errors import VirtgymError

from ..analysis.run_data import Group, HeatFile
from .figures import axis, new_figure, time_axis
from .heat import one_each, read_moves
from .leaderboard import Leaderboard
from .parts import add_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_POLICIES, N_VMS, N_HOSTS, N_POINTS = 6, 60, 40, 4000
"""Policies that are shown; VMs of a timeline, those that moved most; hosts of a map; points of a picture."""

Moves = NDArray[np.int64]
"""Interval, VM, source and destination, shape (n, 4)."""

NONE: Moves = np.zeros((0, 4), dtype=np.int64)


def move_choices(group: Group, board: Leaderboard, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Timeline and map of the best policies that migrated VMs; their figures are added to ``figures``."""
    found: list[dict[str, Any]] = []
    for file in one_each(group.heats, [line.policy for line in board.lines]):
        moves, interval_s, n = _moves(file)
        if not len(moves):
            continue
        key = f"who-{len(found)}"
        add_figure(figures, key, _timeline(moves, interval_s / 3600.0, n))
        picture, most = _map(moves)
        add_figure(figures, f"{key}-map", picture)
        found.append(
            {
                "key": key,
                "map": f"{key}-map",
                "name": file.policy,
                "choice": (key, file.policy),
                "text": _text(moves, file),
                "most": most,
            }
        )
        if len(found) == N_POLICIES:
            break
    return found


def _moves(file: HeatFile) -> tuple[Moves, float, int]:
    """The migrations in a file, the length of an interval, s, and how many; none if it cannot be read."""
    try:
        return read_moves(file.path) or (NONE, 1.0, 1)
    except VirtgymError:  # told where the heat map would be
        return NONE, 1.0, 1


def _text(moves: Moves, file: HeatFile) -> str:
    n, vms = len(moves), len(np.unique(moves[:, 1]))
    hosts = len(np.unique(_done(moves)[:, 2:]))
    parts = [f"Seed {file.seed}: {n:,} migrations of {vms:,} VMs"]
    parts += [f"the {N_VMS} VMs that moved most are drawn"] if vms > N_VMS else []
    parts += [f"the map has the {N_HOSTS} of {hosts:,} hosts with most of them"] if hosts > N_HOSTS else []
    return "; ".join(parts) + "."


def _done(moves: Moves) -> Moves:
    """Migrations that came to another host."""
    done: Moves = moves[(moves[:, 3] >= 0) & (moves[:, 3] != moves[:, 2])]
    return done


def _most(values: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The n values that occur most, most first; ties by value."""
    found, counts = np.unique(values, return_counts=True)
    return found[np.lexsort((found, -counts))][:n]


def _timeline(moves: Moves, interval_h: float, n: int) -> go.Figure:
    vms = _most(moves[:, 1], N_VMS)
    drawn = moves[np.isin(moves[:, 1], vms)][:N_POINTS]
    row = {int(vm): i for i, vm in enumerate(vms)}
    hours = max(n, int(moves[:, 0].max()) + 1) * interval_h
    names = [f"VM {vm}" for vm in vms]
    every = max(1, len(names) // 15)
    figure = new_figure(
        xaxis={**time_axis(hours), "range": [-0.02 * hours, 1.02 * hours]},
        yaxis=axis(
            "",
            autorange="reversed",
            tickmode="array",
            tickvals=list(range(0, len(names), every)),
            ticktext=names[::every],
        ),
    )
    figure.add_scatter(
        x=(drawn[:, 0] * interval_h).round(4).tolist(),
        y=[row[int(vm)] for vm in drawn[:, 1]],
        mode="markers",
        marker={"size": 7, "symbol": "line-ns-open", "line": {"width": 2}},
        text=[f"VM {vm}: host {a} to {_where(a, b)}" for _, vm, a, b in drawn.tolist()],
        hovertemplate="%{x:.1f} h, %{text}<extra></extra>",
        meta={"ink": "p0", "priority": 0},
    )
    return figure


def _where(source: int, to: int) -> str:
    return f"host {to}" if to >= 0 and to != source else "nowhere: broken off"


def _map(moves: Moves) -> tuple[go.Figure, int]:
    """Migrations between hosts: a row is a source, a column a destination; and the most of any two."""
    done = _done(moves)
    hosts = np.sort(_most(done[:, 2:].ravel(), N_HOSTS))
    place = {int(h): i for i, h in enumerate(hosts)}
    table = np.zeros((len(hosts), len(hosts)), dtype=np.int64)
    for a, b in done[:, 2:].tolist():
        if a in place and b in place:
            table[place[a], place[b]] += 1
    names: Sequence[str] = [str(h) for h in hosts]
    most = max(1, int(table.max(initial=0)))
    figure = new_figure(
        xaxis=axis("to host", type="category", showgrid=False),
        yaxis=axis("from host", type="category", autorange="reversed", showgrid=False),
    )
    figure.add_heatmap(
        z=[[int(n) if n else None for n in row] for row in table],
        x=names,
        y=names,
        zmin=1.0 - 0.002 * (most - 1) if most > 1 else 0,  # 1 in the first colour of the scale
        zmax=most,
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="host %{y} to host %{x}: %{z}<extra></extra>",
        meta={"ink": "p0", "priority": 0},
    )
    return figure, most
