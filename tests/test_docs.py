"""The documentation runs as it is printed: commands, notebooks, and the reference made from the code."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from virtgym.envs.errors import VirtgymError
from virtgym.experiments.cli import main
from virtgym.experiments.reference.keys import keys_of, meanings
from virtgym.experiments.reference.pages import PAGES

REPO = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPO / "docs" / "tutorials").glob("*.ipynb"))
PAGES_OF_CODE = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?(?P<fails><!-- fails -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
"""A block of code. A comment before it, which no page shows, says why it is not run, or that it fails."""
LANGUAGES = ("sh", "python", "yaml", "toml", "text")
RUN = (REPO / "docs" / "start.md",)
"""Pages whose blocks of commands are run, in their order, in one folder."""
LONG = {"agent.ipynb", "sweep.ipynb"}
"""Notebooks that train, or start processes and search."""
docs = pytest.mark.docs
"""What takes its time: ``make docs`` runs it, the suite does not."""


def blocks(page: Path, language: str, skipped: bool = False) -> list[re.Match[str]]:
    """Blocks of a language in a page, those that are run or those that are not."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [b for b in found if b["language"] == language and bool(b["why"]) == skipped]


def short(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


MOSTLY_LONG = [p if p.name == "README.md" else pytest.param(p, marks=docs) for p in PAGES_OF_CODE]
every_page = pytest.mark.parametrize("page", PAGES_OF_CODE, ids=short)


@every_page
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    assert {block["language"] for block in found} <= {*LANGUAGES}
    rest = BLOCK.sub("", text)
    assert "```" not in re.sub(r"^ +```.*?^ +```$", "", rest, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\n\n    \S.*", rest) == [], "code that no fence says the language of"
    for block in found:
        if block["language"] == "yaml":
            yaml.safe_load(block["text"])
        if block["language"] == "toml":
            tomllib.loads(block["text"])


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What links may lead to within a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    """Within the repository; ``make docs`` looks at those to pages that are made from the code, too."""
    for groups in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        link = "".join(groups)
        if re.match(r"\w+:", link) or "reference/" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def check_commands(text: str, code: int) -> None:
    """See that every line of a block of commands could run: none is, but for those that only show."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)  # variables of the environment
        program, rest = (words[0], words[1:]) if words else ("", [])
        if program == "virtgym":
            check_command(rest, code, line)
        elif program == "make":
            targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert {word for word in rest if "=" not in word} <= {*targets}, line
        elif "-m" in rest[:1] and program.startswith("python"):
            assert rest[1] in ("pytest", "venv") or importlib.util.find_spec(rest[1]), line
        elif program.endswith("pip"):
            project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            extras = {name for part in re.findall(r"\[([\w,]+)\]", line) for name in part.split(",")}
            assert extras <= {*project["optional-dependencies"]}, line
        else:
            assert program in ("", "export", "cd", "git", "eval"), f"no way to check: {line}"


def check_command(words: list[str], code: int, line: str) -> None:
    """See that a command of virtgym says what there is to say."""
    command, rest = words[0], words[1:]
    if command in ("evaluate", "benchmark", "train", "watch"):
        rest = [first_of(word) for word in rest if word != "-m"]
        shows = {"--cfg", "--info"} & {*rest}
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            found = main([command, *rest, *([] if shows else ["--cfg", "job"])])
        assert found == code, f"{line}: {told.getvalue()[-500:]}"
    elif command in ("tune", "forecast"):
        from virtgym.experiments.cli.forecast import compose_forecast
        from virtgym.experiments.tune.plan import compose_tune

        try:
            (compose_tune if command == "tune" else compose_forecast)(rest)
        except VirtgymError as error:
            if not MISSING.search(str(error)):
                raise
    else:
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            found = main([*words, "--help"] if words[:2] == ["traces", "fetch"] else words)
        missing = MISSING.search(told.getvalue())
        assert found == code or (found == 2 and missing), f"{line}: {told.getvalue()}"


MISSING = re.compile(r"no such (file|folder)|cannot be read|No such file")
"""What may go wrong with a command of files and folders that its reader has."""


def first_of(word: str) -> str:
    """An override with the first of several values."""
    from virtgym.experiments.config.overrides import split_outer

    key, equals, value = word.partition("=")
    found = re.match(r"range\((\d+)", value)
    return f"{key}=0" if found else f"{key}{equals}{split_outer(value)[0]}" if equals else word


@pytest.mark.parametrize("page", MOSTLY_LONG, ids=short)
def test_commands_can_be_run(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    if page in RUN:
        pytest.skip("its commands are run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "nothing"))  # notes the path: a command adds where it stands
    for block in blocks(page, "sh"):
        check_commands(block["text"], 2 if block["fails"] else 0)


@pytest.mark.parametrize("page", MOSTLY_LONG, ids=short)
def test_programs_run_as_printed(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        if "torch" in block["text"] or "stable_baselines3" in block["text"]:
            pytest.importorskip("stable_baselines3")
        with contextlib.redirect_stdout(io.StringIO()):
            text = re.sub(r"\.learn\([\d_]+\)", ".learn(1)", block["text"])
            exec(compile(text, page.name, "exec"), space)


def run_commands(text: str, code: int = 0) -> None:
    """Run the lines of a block that call virtgym; others are set-up."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["virtgym"]:
            continue
        if "benchmark" in words and "-m" not in words:
            # A line that runs on one day runs on ten.
            words = [re.sub(r"^seeds=\[0,1,2.*\]$", "seeds=[0]", word) for word in words]
        if "train" in words:  # nor does a longer training
            words = [word for word in words if not word.startswith(("total_timesteps=", "eval_every="))]
            words += ["total_timesteps=288", "eval_every=288"]
        assert main(words[1:]) == code, line


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_run_as_printed(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page, "sh")
    assert found
    for block in found:
        if "virtgym train" in block["text"]:
            pytest.importorskip("torch")
        run_commands(block["text"], 2 if block["fails"] else 0)


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, marks=docs) if path.name in LONG else path for path in NOTEBOOKS],
    ids=lambda path: path.name,
)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: Any) -> None:
    if notebook.name == "agent.ipynb":
        pytest.importorskip("sb3_contrib")
    if notebook.name == "sweep.ipynb":
        pytest.importorskip("optuna")
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


def test_the_reference_of_views_has_what_policies_read() -> None:
    """The fields that the policies of the package read, but the engine's own lists."""
    text = PAGES["view"]()
    read = {
        f"view.{part}.{name}"
        for path in (REPO / "policies" / "dpm").glob("*.py")
        for part, name in re.findall(r"\bview\.(state|params)\.(\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(read) > 5
    assert not {name for name in read if f"`{name}`" not in text}
    assert "heap_time" not in text


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
