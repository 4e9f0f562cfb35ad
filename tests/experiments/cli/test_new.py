"""``virtgym new``: every skeleton is a package that is found, listed, used and tested as it stands."""

from __future__ import annotations

import importlib
import inspect
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from virtgym.envs import registry
from virtgym.experiments.cli import main
from virtgym.experiments.cli.listing import KINDS as LISTED
from virtgym.experiments.cli.listing import LISTED as THINGS
from virtgym.experiments.cli.new import KINDS, read_skeleton

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own to stand in; what a test registers is forgotten."""
    for paths in THINGS.values():
        for path in paths:
            importlib.import_module(path.partition(":")[0])
    for each in registry.REGISTRIES:
        monkeypatch.setattr(each, "_entries", dict(each._entries))
    monkeypatch.setattr(registry, "_loaded", {registry.GROUP})
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "nothing"))  # notes the path: a command adds where it stands
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("mine_")]:
        del sys.modules[name]


def plug_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Pretend that the package in a folder is installed, as its project says."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = [
        metadata.EntryPoint(key, value, registry.GROUP)
        for key, value in project["entry-points"][registry.GROUP].items()
    ]
    real = metadata.entry_points

    def entry_points(**asked: Any) -> Any:
        return points if asked.get("group") == registry.GROUP else real(**asked)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.syspath_prepend(str(folder / "src"))


@every_kind
def test_a_skeleton_is_a_plug_in_that_is_listed_and_passes_its_test(
    kind: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"mine_{kind}"
    assert main(["new", kind, name]) == 0
    told = capsys.readouterr().out
    assert f"{name}/src/{name}/__init__.py\n" in told
    assert f"pip install -e {name}" in told
    plug_in(monkeypatch, elsewhere / name)
    assert main(["list", KINDS[kind], "-v"]) == 0
    assert f"{name} " in capsys.readouterr().out
    monkeypatch.syspath_prepend(str(elsewhere / name / "tests"))
    (elsewhere / "out").mkdir()
    tests: Any = importlib.import_module(f"test_{name}")
    sys.modules.pop(f"test_{name}")
    (test,) = (thing for key, thing in vars(tests).items() if key.startswith("test_"))
    test(*([elsewhere / "out"] if inspect.signature(test).parameters else []))


@every_kind
def test_the_commands_of_a_skeleton_compose(
    kind: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"mine_{kind}"
    main(["new", kind, name])
    plug_in(monkeypatch, elsewhere / name)
    for line in read_skeleton(kind, name).use.splitlines():
        command, *words = shlex.split(line)[1:]
        assert command != "train" or "agent=ppo" in words
        if command in ("evaluate", "benchmark"):
            assert main([command, *words, "--cfg", "job"]) == 0, line
        capsys.readouterr()


def test_kinds_are_what_can_be_listed_and_have_a_skeleton_each() -> None:
    assert set(KINDS.values()) <= set(LISTED)
    import virtgym.experiments.cli as cli

    folder = Path(str(cli.__file__)).parent / "skeletons"
    assert {path.stem for path in folder.glob("*.txt")} == set(KINDS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["polcy", "calm"], "kind=polcy: did you mean policy? allowed: policy, detector"),
        (["policy"], "new policy: takes a kind and a name, like policy calm"),
        (["policy", "Calm"], "new policy Calm: must be a name of a package"),
        (["policy", "../x"], "new policy ../x: must be a name of a package"),
        (["policy", "class"], "new policy class: must be a name of a package"),
        (["policy", "numpy"], "new policy numpy: there is a package of this name"),
        (["policy", "dpm"], "new policy dpm: there is a policy of this name"),
        (["reader", "planetlab"], "new reader planetlab: there is a trace format of this name"),
        (["policy", "there"], "new policy there: there is something of this name here"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], told: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "there").mkdir()
    assert main(["new", *words]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in elsewhere.iterdir() if path.name != "cache"] == ["there"]
