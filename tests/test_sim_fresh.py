"""Stale compiled kernels are dropped, fresh ones stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virtgym.envs.sim.fresh import drop_stale_kernels


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel of the simulator, a caller of it in policies, and both compiled a second later."""
    for name, text in (
        ("envs/sim/cpu.py", "@njit"),
        ("envs/sim/errors.py", "plain"),
        ("policies/rounds.py", "njit"),
    ):
        path = tmp_path / name
        (path.parent / "__pycache__").mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1000, 1000))
        index = path.parent / "__pycache__" / f"{path.stem}.f-1.py311.nbi"
        index.write_text("")
        os.utime(index, (1001, 1001))
    return tmp_path


def test_fresh_kernels_stay(tree: Path) -> None:
    assert drop_stale_kernels(tree) == 0


def test_a_changed_kernel_drops_its_callers(tree: Path) -> None:
    os.utime(tree / "envs/sim/cpu.py", (1002, 1002))
    assert drop_stale_kernels(tree) == 3
    assert not list(tree.rglob("*.nbi"))


def test_a_changed_caller_leaves_the_simulator_alone(tree: Path) -> None:
    os.utime(tree / "policies/rounds.py", (1002, 1002))
    assert drop_stale_kernels(tree) == 1


def test_a_file_without_kernels_drops_nothing(tree: Path) -> None:
    os.utime(tree / "envs/sim/errors.py", (1002, 1002))
    assert drop_stale_kernels(tree) == 0
