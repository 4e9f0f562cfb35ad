"""The training loop of docs/training.md runs as it is printed, but for its size, on what it should."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
PART = re.compile(r"^## A training loop of your own$.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_loop_runs_as_printed(capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    found = PART.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    size = "ENVS, STEPS, UPDATES = "
    text, n = re.subn(f"^{size}8, 288, 20", f"{size}2, 300, 2", found[1], flags=re.MULTILINE)
    assert n == 1
    space: dict[str, Any] = {}
    exec(compile(text, str(PAGE), "exec"), space)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("update 1: mean return of a day -")
    assert second.startswith("update 2: mean return of a day -")
    # A day of 288 intervals ended once in each environment, and the step that resets it is left out.
    resets = torch.stack(space["resets"]).numpy()
    assert resets.sum() == 2
    durations = torch.stack(space["durations"]).numpy()
    np.testing.assert_array_equal(durations[~resets], 1.0)
    np.testing.assert_array_equal(durations[resets], 0.0)
    assert (torch.stack(space["advantages"]).numpy()[resets] == 0.0).all()
    assert len(space["action"]) == 2 * 300 - 2
    assert space["masks"].gather(1, space["action"][:, None]).all()
