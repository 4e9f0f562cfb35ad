"""The rewards of a placement game: one entry each, and what an episode loses that is not played out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..jit.generated import inlined, make_kernel
from ..jit.kernels import kernel
from .buffers import PlacementBuffers, wait_log
from .state import HUAWEI, PLACED, REJECTED, SKIPPED, PlacementParams, PlacementState


@dataclass(frozen=True)
class PlacementReward:
    """One kind of reward.

    Attributes:
        name: Value of ``reward``.
        doc: What a placement pays, with w the wait of the request just placed, s, and T ``wait_scale_s``.
        pay: What it pays, of state, buffers, game, the code of the action (``PLACED`` or ``REJECTED``), the
            waiting accrued before it, s, and T.
        lose: What a request that is never placed costs, of the longest that it could have waited, s, and T.
    """

    name: str
    doc: str
    pay: Callable[[PlacementState, PlacementBuffers, int, int, float, float], Any]
    lose: Callable[[float, float], Any]


ENTRIES: tuple[PlacementReward, ...] = (
    PlacementReward(
        "spane", "-ln(1 + w), as in SPANE; it is fixed before the action it is paid for",
        lambda s, o, b, code, accrued, scale: -wait_log(o, b, s.last_wait[b]),
        lambda wait, scale: np.log1p(wait),
    ),
    PlacementReward(
        "wait", "-w / T, likewise; the sum over a window is -(total wait) / T",
        lambda s, o, b, code, accrued, scale: -s.last_wait[b] / scale,
        lambda wait, scale: wait / scale,
    ),
    PlacementReward(
        "delay",
        "-(what all requests that have arrived wait until the next decision) / T: the same sum as `wait`, "
        "but each part is paid for the placement after which the waiting happens",
        lambda s, o, b, code, accrued, scale: -(s.accrued[b] - accrued) / scale,
        lambda wait, scale: wait / scale,
    ),
    PlacementReward(
        "placed", "1, for the survival games; 0 for a request that is rejected",
        lambda s, o, b, code, accrued, scale: 1.0 if code == PLACED else 0.0,
        lambda wait, scale: 1.0,
    ),
)  # fmt: skip
"""A rejected request pays the same for its wait, minus ``reject_penalty``; a skip pays 0. An episode that
ends with requests undecided, cut off or stuck for ever, pays for all of them: see ``forfeit``."""

REWARDS: tuple[str, ...] = tuple(entry.name for entry in ENTRIES)
"""Names of the rewards; kernels know one by its place."""


def _by_kind(name: str, arguments: str, functions: list[Callable[..., Any]]) -> Any:
    """A kernel that calls one of some functions by the number of the reward, ``kind``."""
    lines = [f"def {name}(kind, {arguments}):"]
    for kind in range(len(functions)):
        lines += [f"    if kind == {kind}:", f"        return {name}_{kind}({arguments})"]
    names = {f"{name}_{kind}": inlined(function) for kind, function in enumerate(functions)}
    return make_kernel("\n".join([*lines, "    return 0.0"]), names)


_pay = _by_kind("pay", "s, o, b, code, accrued, scale", [entry.pay for entry in ENTRIES])
_lose = _by_kind("lose", "wait, scale", [entry.lose for entry in ENTRIES])


@kernel
def reward_of(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    b: int,
    code: int,
    accrued: float,
    kind: int,
    scale: float,
) -> Any:
    """What the action that a code tells of pays; ``accrued`` is the waiting up to it."""
    if code == SKIPPED:
        return 0.0
    reward = _pay(kind, s, o, b, code, accrued, scale)
    return reward - p.reject_penalty if code == REJECTED else reward


@kernel
def forfeit(p: PlacementParams, s: PlacementState, b: int, kind: int, scale: float) -> Any:
    """What an episode pays, at the least, that ends before all requests of its window are decided.

    With it no such episode earns more than any that is played to its end with legal actions, whatever it has
    earned until then: every request pays as if it had waited until all VMs of the window had run one after
    the other from the last arrival on, which none can exceed (a request waits only while a VM runs that has
    an end, or until the next arrival); with ``placed``, all that could have been earned is lost. Where
    requests may be rejected, the penalty of all of them comes on top.

    Args:
        p: Parameters.
        s: State.
        b: The game.
        kind: Place of the reward in ``REWARDS``.
        scale: T, s.

    Returns:
        A reward of at most 0.
    """
    first, end = s.first[b], s.end[b]
    last_s = p.arrival[end - 1]
    for row in range(first, end):
        if p.lifetime[row] < np.inf:
            last_s += p.lifetime[row]
    lost = 0.0
    for row in range(first, end):
        lost += _lose(kind, last_s - p.arrival[row] if p.protocol == HUAWEI else 0.0, scale)
        if p.reject_action >= 0:
            lost += p.reject_penalty
    return -lost
