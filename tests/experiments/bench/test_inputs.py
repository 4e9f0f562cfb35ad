"""Mutated inputs of the commands: an answer, or one line and exit code 2."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest

from virtgym.envs.errors import VirtgymError
from virtgym.experiments.bench.fuzz.inputs import INPUTS, lay, use
from virtgym.experiments.bench.fuzz.runner import draw_attempts

NEEDS = {"study": "optuna", "training": "torch"}
TITLES = [title for title in INPUTS if title not in NEEDS]


@pytest.mark.parametrize("title", TITLES)
def test_inputs_are_valid(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lay(title)
    for command in INPUTS[title].commands:
        use(command)


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_mutations(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, attempt in draw_attempts("inputs", 3, range(first, first + 20)):
        needed = NEEDS.get(attempt.label.partition(",")[0])
        if needed and importlib.util.find_spec(needed) is None:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        text = ""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                attempt.run(folder)
            except VirtgymError as error:
                text = str(error)
            except Exception as error:
                raise AssertionError(f"{number}: {attempt.label}: {error!r}") from error
        assert "\n" not in text, attempt.label
