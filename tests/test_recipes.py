"""The recipes of docs/architecture.md for a package of one's own, carried out as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PAGE = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = re.compile(r"^One (?:file|test), `([\w/]+\.py)`.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPES = {
    text.partition("\n")[0]: FILES.findall(text) for text in PAGE.split("\n### ")[1:] if "`my_pkg/" in text
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_one_file_and_one_test(recipe: str, tmp_path: Path) -> None:
    assert [name.partition("/")[0] for name, _ in RECIPES[recipe]] == ["my_pkg", "tests"]
    for name, text in RECIPES[recipe]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "VIRTGYM_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_there_are_recipes() -> None:
    things = {"A policy", "A detector", "A trace reader", "An observation column", "A reward term"}
    assert things == set(RECIPES)
