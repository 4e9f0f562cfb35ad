"""Agents from strangers: refused in one line, in little memory, and no code of theirs runs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from oracles.fuzz.agents import hostile_agents
from virtgym.envs.errors import ConfigError
from virtgym.policies.learned.agent import load_policy


def test_there_are_many_kinds_with_names_of_their_own() -> None:
    labels = [label for label, _ in hostile_agents()]
    assert len(labels) == len(set(labels)) >= 250


@pytest.mark.parametrize(
    "start", ["hidden", "n_", "columns", "format", "members", "agent.json", "zip", "array", ""]
)
def test_hostile_agents_are_refused_in_one_line(start: str, tmp_path: Path) -> None:
    """All kinds, some at a time; ``""`` takes those that the other names leave."""
    starts = ("hidden", "n_", "columns", "format", "members", "agent.json", "zip", "array")
    tracemalloc.start()
    try:
        for i, (label, make) in enumerate(hostile_agents()):
            if not (label.startswith(start) if start else not label.startswith(starts)):
                continue
            folder = tmp_path / str(i)
            make(folder)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(ConfigError) as caught:
                load_policy(folder)
            text = str(caught.value)
            assert str(folder) in text, label
            assert "\n" not in text, label
            assert len(text) < 600, label
            assert tracemalloc.get_traced_memory()[1] - before < 64 << 20, label
    finally:
        tracemalloc.stop()
