"""The documentation runs as it is printed: commands, notebooks, and the reference made from the code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from virtgym.experiments.cli import main
from virtgym.experiments.reference.keys import keys_of, meanings
from virtgym.experiments.reference.pages import PAGES

REPO = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPO / "docs" / "tutorials").glob("*.ipynb"))
BLOCK = re.compile(r"^```sh( fails)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = (REPO / "docs" / "start.md",)
"""Pages whose blocks of commands are run, in their order, in one folder."""


def run_commands(text: str, code: int = 0) -> None:
    """Run the lines of a block that call virtgym; others are set-up."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["virtgym"]:
            continue
        if "benchmark" in words and "-m" not in words:
            # A line that runs on one day runs on ten.
            words = [re.sub(r"^seeds=\[0,1,2.*\]$", "seeds=[0]", word) for word in words]
        if "train" in words and not any(word.startswith("total_timesteps=") for word in words):
            words += ["total_timesteps=288", "eval_every=288"]  # nor does a longer training
        assert main(words[1:]) == code, line


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_run_as_printed(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert found
    for fails, text in found:
        if "virtgym train" in text:
            pytest.importorskip("torch")
        run_commands(text, 2 if fails else 0)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    space: dict[str, Any] = {"__name__": "notebook"}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        assert cell["outputs"] or "%%" not in text, f"{notebook.name}: commit it with its outputs"
        magic, _, body = text.partition("\n")
        if magic.startswith("%%writefile "):
            Path(magic.split()[1]).write_text(body, encoding="utf-8")
        elif magic == "%%bash":
            run_commands(body)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, notebook.name, "exec"), space)


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_the_reference_says_something(page: str) -> None:
    text = PAGES[page]()
    assert text.startswith("# ")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows or page == "api"
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        # A name's third cell says what it implies, and may be empty; a key's last is its meaning.
        assert all(cells[1:2]) if len(cells) == 3 and not cells[2] else cells[-1].strip("| "), row


def test_meanings_come_from_the_class_that_has_the_field() -> None:
    class Base:
        """Something.

        Attributes:
            first: The first,
                in two lines.
            second: The second.
        """

    class Derived(Base):
        """More.

        Attributes:
            second: Another.
        """

    assert meanings(Derived) == {"first": "The first, in two lines.", "second": "Another."}


def test_keys_are_those_of_a_scenario() -> None:
    from virtgym.envs.scenarios.schema import ScenarioConfig

    keys = {key.name: key for key in keys_of(ScenarioConfig, "scenario.")}
    assert keys["scenario.numa.latency_ratio"].default == "2.05"
    assert keys["scenario.hosts[].memory_mib"].meaning == "Physical memory, MiB."
    assert keys["scenario.carbon.hourly_g_per_kwh"].kind == "list of number"
