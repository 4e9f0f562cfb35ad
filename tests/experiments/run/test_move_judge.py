"""Futile migrations and the DRS score, of clusters whose arithmetic is done by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.simulator import Simulator
from virtgym.experiments.run.move_judge import MoveJudge

MakeSim = Callable[..., Simulator]
BINDING = {"memory": "binding"}


def judged(
    make_sim: MakeSim, demand: list[float], homes: list[int], moves: dict[int, tuple[int, int]], **more: Any
) -> list[int]:
    """Futile migrations after every one of 16 intervals; ``moves`` has the order of each interval."""
    options = {"cores": 4, "arrival": "policy", "memory": "ignored", "memory_mib": 16384.0, **more}
    load = {"cpu_mhz": 4000.0, "vcpus": 4, **options.pop("load", {})}
    sim = make_sim(
        demand, n_hosts=3, load=load, horizon_s=6000.0, strict=True, arrival_cpu_overcommit=99.0, **options
    )
    sim.reset()
    vms = np.arange(len(homes), dtype=np.int32)
    sim.apply(Decisions(place_vm=vms, place_host=np.array(homes, dtype=np.int32)))
    judge = MoveJudge(sim)
    found = []
    for k in range(16):
        pairs = np.array([moves[k]] if k in moves else [], dtype=np.int32).reshape(-1, 2)
        sim.step(Decisions(move_vm=pairs[:, 0].copy(), move_host=pairs[:, 1].copy()))
        judge.look()
        found.append(judge.count())
    assert sim.metrics()["migrations"] == len(moves)
    return found


@pytest.mark.parametrize(
    ("why", "demand", "homes", "moves", "more", "futile"),
    [
        ("(0.8, 0.2) becomes (0.5, 0.5)", [0.5, 0.3, 0.2], [0, 0, 1], {1: (1, 1)}, {}, 0),
        ("(0.6, 0.2) becomes (0.2, 0.6)", [0.4, 0.2, 0.2], [0, 0, 1], {1: (0, 1)}, {}, 1),
        ("(0.4, 0.4) becomes (0.3, 0.5)", [0.3, 0.1, 0.4], [0, 0, 1], {1: (1, 1)}, {}, 1),
        ("host 0 is empty then", [0.1, 0.4], [0, 1], {1: (0, 1)}, {}, 0),
        ("empty after the second move", [0.1, 0.1, 0.4], [0, 0, 1], {1: (0, 1), 5: (1, 1)}, {}, 0),
        ("even, and back in the window: both", [0.5, 0.3, 0.2], [0, 0, 1], {1: (1, 1), 5: (1, 0)}, {}, 2),
        ("back after it: the second only", [0.5, 0.3, 0.2], [0, 0, 1], {1: (1, 1), 14: (1, 0)}, {}, 1),
        (
            "CPU no, memory (6, 2) to (4, 4) GiB", [0.3, 0.1, 0.4], [0, 0, 1], {1: (1, 1)},
            {**BINDING, "load": {"mem_mib": [4096.0, 2048.0, 2048.0]}}, 0,
        ),
        (
            "a rule names it", [0.3, 0.1, 0.4], [0, 0, 1], {1: (1, 1)},
            {"rules": Rules(anti_affinity=((0, 1),))}, 0,
        ),
    ],
)  # fmt: skip
def test_a_move_is_futile_if_it_is_undone_or_brought_nothing(
    make_sim: MakeSim, why: str, demand: list[float], homes: list[int], moves: Any, more: Any, futile: int
) -> None:
    assert judged(make_sim, demand, homes, moves, **more)[-1] == futile, why


def test_the_score_is_what_vms_got(make_sim: MakeSim) -> None:
    """Host 0 is asked for 1.25 of what it has: two VMs get 0.8 of it, the third all; nobody else asked."""
    sim = make_sim(
        [0.75, 0.5, 0.5, 0.0], n_hosts=2, load={"cpu_mhz": 4000.0, "vcpus": 4}, cores=4, memory="ignored",
        arrival="policy", arrival_cpu_overcommit=99.0, memory_mib=16384.0,
    )  # fmt: skip
    sim.reset()
    assert np.isnan(sim.metrics()["drs_score"])
    vms = np.arange(4, dtype=np.int32)
    sim.apply(Decisions(place_vm=vms, place_host=np.array([0, 0, 1, 1], dtype=np.int32)))
    sim.advance()
    metrics = sim.metrics()
    assert metrics["drs_score"] == pytest.approx((80.0 + 80.0 + 100.0) / 3)
    assert metrics["drs_score_p05"] == pytest.approx(80.0)
