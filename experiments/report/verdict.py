"""What the numbers say, in plain sentences that do not claim more than they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.stats import MIN_BLOCKS
from .columns import Column, write_number
from .leaderboard import Cell, Leaderboard, Line, compare


class Strong(str):
    """A piece of a sentence that stands out."""

    __slots__ = ()


Sentence = list[str]
"""Pieces of text, some of them ``Strong``."""


@dataclass(frozen=True)
class Tile:
    """One number at a glance.

    Attributes:
        label: What it is.
        value: The number with its unit.
        who: The policy.
        note: Small print.
    """

    label: str
    value: str
    who: str
    note: str


def make_verdict(board: Leaderboard) -> list[Sentence]:
    """The first sentence is the verdict; the others say how far it can be trusted."""
    ranked = board.ranked
    if not ranked:
        return [["No policy is ranked: all are below the line."], _below(board)]
    best = ranked[0]
    if len(ranked) == 1:
        sentences = [_only(best, board)]
    else:
        sentences = [_winner(best, board), _how_sure(board, best)]
    sentences += [_least_energy(best, board), _learned(board), _below(board)]
    return [s for s in sentences if s]


def _text(cell: Cell, column: Column) -> str:
    """Mean with unit and interval, for running text."""
    factor = 100.0 if column.percent else 1.0
    unit = f"\u00a0{column.unit.split()[0]}" if column.unit else ""
    text = f"{write_number(cell.value.estimate * factor)}{unit}"
    if cell.value.known and not cell.constant:
        low, high = (write_number(v * factor) for v in (cell.value.low, cell.value.high))
        text += f" [{low}, {high}]"
    return text


def _name(column: Column) -> str:
    """A heading inside a sentence."""
    return column.label if column.label.isupper() else column.label.lower()


def _saving(line: Line) -> str:
    """What it does to the energy bill against static."""
    delta = line.mean("energy_delta_pct")
    if not math.isfinite(delta):
        return ""
    if abs(delta) < 0.05:
        return "the same energy as static"
    size = f"{abs(delta):.{1 if abs(delta) < 10 else 0}f}\u00a0%"
    return f"{size} {'less' if delta < 0 else 'more'} energy than static"


def _energy(line: Line, board: Leaderboard) -> str:
    column = board.column("energy_kwh")
    if column is None or board.primary.key == "energy_kwh":
        return ""
    return f"{write_number(line.mean('energy_kwh'))}\u00a0kWh"


def _and(parts: Sequence[str]) -> str:
    kept = [p for p in parts if p]
    return ", ".join(kept)


def _only(line: Line, board: Leaderboard) -> Sentence:
    detail = _and([_energy(line, board), _saving(line)])
    start = "The only policy" if len(board.lines) == 1 else "The only policy above the line"
    value = _text(line.cells[board.primary.key], board.primary)
    return [
        f"{start}: ",
        Strong(line.policy),
        f", {board.primary.label} {value}",
        f" ({detail})." if detail else ".",
    ]


def _winner(best: Line, board: Leaderboard) -> Sentence:
    column = board.primary
    detail = _and([_energy(best, board), _saving(best)])
    value = _text(best.cells[column.key], column)
    return [
        f"Lowest {_name(column)}: ",
        Strong(best.policy),
        " with ",
        Strong(value),
        f"; {detail}." if detail else ".",
    ]


def _list(policies: Sequence[str], most: int = 4) -> Sentence:
    pieces: Sentence = []
    for i, policy in enumerate(policies[:most]):
        pieces += [", " if i else "", Strong(policy)]
    if len(policies) > most:
        pieces.append(f" and {len(policies) - most} more")
    return [p for p in pieces if p]


def _how_sure(board: Leaderboard, best: Line) -> Sentence:
    """Which others cannot be told apart from the best."""
    column = board.primary
    others = [line for line in board.ranked[1:] if math.isfinite(line.mean(column.key))]
    if board.n_units < 2:
        near = [o.policy for o in others if o.mean(column.key) == best.mean(column.key)]
        tie: Sentence = ["Equal to ", *_list(near), ". "] if near else []
        return [*tie, "One run per policy: no intervals, small differences may be chance."]
    gaps = {o.policy: compare(board, best.policy, o.policy, column.key) for o in others}
    unclear = [p for p, gap in gaps.items() if not gap.known or gap.low <= 0.0 <= gap.high]
    if unclear:
        reason = (
            f"the 95\u00a0% interval of the paired difference over {board.n_units} {board.units} includes 0"
        )
        return ["Not clearly better than ", *_list(unclear), f": {reason}."]
    if not others:
        return []
    rival = others[0]
    overlap = [o.policy for o in others if _overlap(best.cells[column.key], o.cells[column.key])]
    how = "in paired comparison" if board.n_blocks >= MIN_BLOCKS else _few(board)
    ahead: Sentence = [
        f"Ahead of every other ranked policy {how}; next is ",
        Strong(rival.policy),
        f" at {_text(rival.cells[column.key], column)}.",
    ]
    if overlap:
        ahead += [" Unpaired intervals overlap with ", *_list(overlap), "."]
    if best.cells[column.key].constant:
        ahead.append(" Its runs agree exactly, so this holds for this trace and says nothing about others.")
    return ahead


def _overlap(a: Cell, b: Cell) -> bool:
    if not (a.value.known and b.value.known) or (a.constant and b.constant):
        return False
    return a.value.low <= b.value.high and b.value.low <= a.value.high


def _least_energy(best: Line, board: Leaderboard) -> Sentence:
    if board.primary.key == "energy_kwh" or board.column("energy_kwh") is None:
        return []
    lowest = min(board.ranked, key=lambda line: _or_inf(line.mean("energy_kwh")))
    if lowest.policy == best.policy or not math.isfinite(lowest.mean("energy_kwh")):
        return []
    column = board.primary
    price = f", at {_name(column)} {_text(lowest.cells[column.key], column)}"
    saved = _saving(lowest)
    return [
        "Least energy of those ranked: ",
        Strong(lowest.policy),
        f" with {write_number(lowest.mean('energy_kwh'))}\u00a0kWh",
        f" ({saved}){price}." if saved else f"{price}.",
    ]


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _learned(board: Leaderboard) -> Sentence:
    """Whether the best trained agent beats the best rule; a loss is said as one."""
    key = board.primary.key
    agents = [line for line in board.lines if line.learned and math.isfinite(line.mean(key))]
    rules = [line for line in board.ranked if not line.learned and math.isfinite(line.mean(key))]
    if not agents or not rules:
        return []
    agent, rule = agents[0], rules[0]
    label = _name(board.primary)
    value = f"{write_number(agent.mean(key))} against {write_number(rule.mean(key))}"
    who: Sentence = ["The trained agent ", Strong(agent.policy)]
    if agent.below:
        return [*who, f" is below the line: {agent.gate}."]
    gap = compare(board, agent.policy, rule.policy, key)
    if not gap.known and gap.estimate != 0:
        place = "ahead of" if gap.estimate < 0 else "behind"
        return [
            *who,
            f" is {place} the best rule ",
            Strong(rule.policy),
            f" on {label} ({value}), in one run.",
        ]
    if not gap.known or gap.low <= 0.0 <= gap.high:
        return [
            *who,
            " and the best rule ",
            Strong(rule.policy),
            f" cannot be told apart on {label} ({value}).",
        ]
    if board.n_blocks < MIN_BLOCKS:
        place = "ahead of" if gap.estimate < 0 else "behind"
        end = f" on {label} ({value}) {_few(board)}."
        return [*who, f" is {place} the best rule ", Strong(rule.policy), end]
    verb = "beats" if gap.estimate < 0 else "loses against"
    return [*who, f" {verb} the best rule ", Strong(rule.policy), f" on {label} ({value})."]


def _few(board: Leaderboard) -> str:
    return f"in {board.n_blocks} independent runs, too few (under {MIN_BLOCKS}) to say that one is better"


def _below(board: Leaderboard) -> Sentence:
    """Who is not ranked, and why."""
    pieces: Sentence = []
    for line in (line for line in board.lines if line.below):
        pieces += ["; " if pieces else "Below the line: ", Strong(line.policy), f", {line.gate}"]
    return [*pieces, "."] if pieces else []


def make_tiles(board: Leaderboard) -> list[Tile]:
    """Four numbers at a glance: the best ranked policy by one measure each."""
    wanted = (
        (board.primary.key, f"Lowest {_name(board.primary)}"),
        ("energy_kwh", "Least energy"),
        ("unserved_weighted", "Least weighted work unserved"),
        ("migrations", "Fewest migrations"),
        ("decision_ms_p99", "Fastest decisions (p99)"),
    )
    tiles = []
    for key, label in dict(reversed(wanted)).items():
        column = board.column(key)
        lines = [line for line in board.ranked if math.isfinite(line.mean(key))]
        if column is None or not lines:
            continue
        best = min(lines, key=lambda line: line.mean(key))
        factor = 100.0 if column.percent else 1.0
        unit = f"\u00a0{column.unit}" if column.unit else ""
        value = f"{write_number(best.mean(key) * factor)}{unit}"
        others = sum(line.cells[key].tied or line.mean(key) == best.mean(key) for line in lines) - 1
        note = f"{others} more {'not clearly worse' if board.method else 'equal'}" if others > 0 else ""
        if key == "energy_kwh" and _saving(best):
            note = _saving(best)
        tiles.append(Tile(label, value, best.policy, note))
    return tiles[::-1][:4]
