"""Mutated inputs of the commands: an answer, or one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oracles.fuzz.inputs import INPUTS, draw, lay, use
from oracles.fuzz.runner import answer_of

SLOW = ("predictor", "guide", "destroyer", "moves", "sweep", "study", "training")
"""What a command has to write or learn first."""
TITLES = [title for title in INPUTS if title not in SLOW]


@pytest.mark.parametrize("title", TITLES)
def test_inputs_are_valid(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, command in enumerate(INPUTS[title].commands):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        lay(title)
        use(command)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_mutations(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(first, first + 10):
        attempt = draw(np.random.default_rng([3, number]), TITLES)
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        answer_of(attempt, folder, number)
