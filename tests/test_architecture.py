"""The rules of the house: one direction of dependency, small rooms, everything reachable and documented."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from virtgym.experiments.reference.pages import API

REPO = Path(__file__).resolve().parent.parent
FOLDERS = ("envs", "policies", "conf", "experiments")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
SLACK = 1.1
"""A tenth more is let pass: a rule that a formatter's line break can violate is a nuisance."""

TORCH = {"torch", "stable_baselines3", "sb3_contrib"}
TORCH_ROOMS = ("policies/learned/", "experiments/training/", "envs/sb3.py", "envs/sb3_lanes.py")


def sources(*folders: str) -> list[Path]:
    """Python files of the package below some folders."""
    return sorted(path for folder in folders for path in (REPO / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(("virtgym", *(parts[:-1] if parts[-1] == "__init__" else parts)))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Absolute names of all modules that a file imports, wherever in it, with the line."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base]) if base else ".".join(up)
            found += [(base, node.lineno), *((f"{base}.{alias.name}", node.lineno) for alias in node.names)]
    return tuple(found)


def offenders(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    """``file:line module`` for every import of a forbidden module or of something inside one."""
    return sorted(
        {
            f"{name_of(path)}:{line} {name}"
            for path in paths
            for name, line in imports(path)
            if any(name == bad or name.startswith(bad + ".") for bad in forbidden)
        }
    )


FOUNDATIONS = (
    "virtgym.envs.arrays",
    "virtgym.envs.errors",
    "virtgym.envs.checks",
    "virtgym.envs.lazy",
    "virtgym.envs.jit",
)
"""What the simulator may import from above it."""


def test_the_simulator_core_knows_nothing_of_learning_nor_of_tables() -> None:
    foreign = ("gymnasium", "hydra", "omegaconf", "pandas", "ortools", "matplotlib", "plotly", *TORCH)
    assert offenders(sources("envs/sim"), foreign) == []


def test_one_direction_of_dependency() -> None:
    above_sim = [p for p in sources("envs") if "sim" not in p.relative_to(REPO).parts]
    above_sim = [p for p in above_sim if not module_of(p).startswith(FOUNDATIONS)]
    outside = tuple(module_of(p) for p in above_sim if module_of(p) != "virtgym.envs")
    assert offenders(sources("envs/sim"), outside) == []
    assert offenders(sources("envs/jit"), ("virtgym.envs.sim", *outside)) == []
    models = ("state", "engine", "audit", "simulator", "config", "workload", "metrics")
    assert offenders(sources("envs/sim/models"), tuple(f"virtgym.envs.sim.{name}" for name in models)) == []
    assert offenders(sources("envs/sim/state"), ("virtgym.envs.sim.engine", "virtgym.envs.sim.audit")) == []
    declared = [p for p in sources("envs/sim/state") if p.stem not in ("build", "faults")]
    assert offenders(declared, ("virtgym.envs.sim.config", "virtgym.envs.sim.workload")) == []
    assert (
        offenders(sources("envs/sim/engine"), ("virtgym.envs.sim.audit", "virtgym.envs.sim.simulator")) == []
    )
    assert offenders(sources("envs"), ("virtgym.policies", "virtgym.experiments")) == []
    assert offenders(sources("policies"), ("virtgym.experiments",)) == []
    assert offenders(sources("conf"), ("virtgym.policies", "virtgym.experiments")) == []


ORDER = ("config", "run", "analysis", "report", "training", "watch", "cli")
"""Folders of ``experiments``: each may import those before it."""


def test_experiments_are_built_in_one_order() -> None:
    for place, folder in enumerate(ORDER):
        later = tuple(f"virtgym.experiments.{name}" for name in ORDER[place + 1 :])
        assert offenders(sources(f"experiments/{folder}"), later) == [], folder


MAX_FILES = 20


def test_a_folder_is_a_subject_that_can_be_overlooked() -> None:
    folders = {p.parent for p in sources(*FOLDERS, "tests")}
    assert {name_of(f): n for f in folders if (n := len(list(f.glob("*.py")))) > MAX_FILES} == {}


def test_no_private_name_is_imported_from_another_module() -> None:
    private = [
        f"{name_of(path)}:{node.lineno} {alias.name}"
        for path in sources(*FOLDERS)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("virtgym"))
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


def test_no_bare_import_of_a_folder() -> None:
    assert offenders(sources(*FOLDERS, "tests"), FOLDERS) == []


def test_torch_stays_in_its_rooms() -> None:
    elsewhere = [p for p in sources(*FOLDERS) if not name_of(p).startswith(TORCH_ROOMS)]
    assert offenders(elsewhere, tuple(TORCH)) == []


def test_importing_the_core_does_not_import_torch() -> None:
    code = (
        "import sys, virtgym.envs, virtgym.policies, virtgym.experiments.cli\n"
        f"print(sorted({TORCH!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_package_is_installed() -> None:
    with open(REPO / "pyproject.toml", "rb") as file:
        setup = tomllib.load(file)["tool"]["setuptools"]
    found = {module_of(path) for path in sources(*FOLDERS) if path.name == "__init__.py"}
    assert set(setup["packages"]) == found | {"virtgym"}
    folders = {f"virtgym.{folder}": folder for folder in FOLDERS}
    assert setup["package-dir"] == folders | {"virtgym": ".typing/virtgym"}
    homeless = [name_of(p) for p in sources(*FOLDERS) if not (p.parent / "__init__.py").exists()]
    assert homeless == []


def test_every_folder_is_typed_and_linked() -> None:
    for folder in FOLDERS:
        assert (REPO / folder / "py.typed").exists(), folder
        link = REPO / ".typing" / "virtgym" / folder
        assert os.readlink(link) == f"../../{folder}"
        assert link.resolve() == REPO / folder
    assert {p.name for p in (REPO / ".typing" / "virtgym").iterdir()} == {*FOLDERS, "__main__.py"}


def public(path: Path) -> list[str] | None:
    """The names in ``__all__``, or None without one."""
    for node in tree_of(path).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def is_public(path: Path) -> bool:
    return not any(part.startswith("_") and part != "__init__.py" for part in path.parts)


FACES = {"experiments/evaluate.py", "experiments/rollout.py"}
"""Modules that show names of others; every other face is the ``__init__.py`` of a folder."""


def test_every_module_has_a_docstring_and_only_faces_list_names() -> None:
    modules = [p for p in sources(*FOLDERS) if is_public(p.relative_to(REPO)) and p.stat().st_size > 0]
    assert [name_of(p) for p in modules if not ast.get_docstring(tree_of(p))] == []
    listed = {name_of(p) for p in sources(*FOLDERS) if public(p) is not None and p.name != "__init__.py"}
    assert listed == FACES


MAX_NAMES = 47


def test_the_public_face_is_what_users_are_shown() -> None:
    faces = {path: names for path in sources(*FOLDERS) if (names := public(path)) is not None}
    texts = [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), *REPO.glob("experiments/cli/skeletons/*.txt")]
    texts += REPO.glob("conf/**/*.yaml")
    words = set(re.findall(r"\w+", " ".join(path.read_text(encoding="utf-8") for path in texts)))
    inner = sorted({name for names in faces.values() for name in names} - words)
    assert inner == [], "nobody outside is told of these: import them from their modules"
    assert sum(map(len, faces.values())) <= MAX_NAMES
    assert {module_of(path) for path in faces} == {*API, "virtgym.experiments.cli"}


def shown_names() -> list[tuple[str, str]]:
    """Module and names of all that documents, notebooks, skeletons and configurations import or name."""
    paths = [REPO / "README.md", *REPO.glob("docs/**/*.md"), *REPO.glob("docs/**/*.ipynb")]
    paths += [*REPO.glob("experiments/cli/skeletons/*.txt"), *REPO.glob("conf/**/*.yaml")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    found = re.findall(r"from (virtgym[\w.]*) import ((?:\w+, )*\w+)", text)
    named = re.findall(r"\b(virtgym(?:\.\w+)+)\.(\w+)", text)
    return sorted({*found, *((m, n) for m, n in named if m.split(".")[1] in FOLDERS)})


@pytest.mark.parametrize(("module", "names"), shown_names())
def test_what_documents_name_is_there(module: str, names: str) -> None:
    if module.startswith(
        tuple(f"virtgym.{room.removesuffix('.py').replace('/', '.')}" for room in TORCH_ROOMS)
    ):
        pytest.importorskip("sb3_contrib")
    found = importlib.import_module(module)
    for name in names.split(", "):
        assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module} has no {name}"


def test_what_an_extra_brings_is_asked_for_where_it_is_used() -> None:
    guarded = {"scipy", "pooch"}  # of extras of single commands, beside the rooms above
    for path in sources(*FOLDERS):
        tree = tree_of(path)
        tried = {part for node in ast.walk(tree) if isinstance(node, ast.Try) for part in node.body}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & guarded or node in tried, name_of(path)


ENGINES = ("ray", "submitit", "mkdocs")
"""Packages of extras that single modules import at once."""


def needs_an_extra(path: Path) -> bool:
    return name_of(path).startswith(TORCH_ROOMS)


@pytest.mark.parametrize("path", sources(*FOLDERS), ids=name_of)
def test_public_names_exist_and_doctests_pass(path: Path) -> None:
    if path.name == "__main__.py":
        pytest.skip("an entry point")
    if needs_an_extra(path):
        pytest.importorskip("torch")
        pytest.importorskip("stable_baselines3")
    try:
        module = importlib.import_module(module_of(path))
    except ModuleNotFoundError as error:
        if error.name not in ENGINES:
            raise
        pytest.skip(f"{error.name} is not installed")
    names = public(path) or []
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(set(names)) == len(names)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_found_by_its_import_name(folder: str) -> None:
    package = importlib.import_module(f"virtgym.{folder}")
    found = {module.name for module in pkgutil.walk_packages(package.__path__, f"virtgym.{folder}.")}
    assert found | {f"virtgym.{folder}"} == {module_of(path) for path in sources(folder)}


def test_files_are_rooms_and_functions_do_one_thing() -> None:
    long: list[str] = []
    for path in sources(*FOLDERS):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES * SLACK:
            long.append(f"{name_of(path)}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > MAX_FUNCTION_LINES * SLACK:
                    long.append(f"{name_of(path)}:{node.lineno} {node.name}: {size} lines")
    assert long == []


def test_nothing_names_the_machine_it_was_written_on() -> None:
    texts = sources(*FOLDERS) + sorted((REPO / "conf").rglob("*.yaml"))
    texts += [p for pattern in ("*.md", "*.toml", "docs/**/*.md") for p in REPO.glob(pattern)]
    home = "/".join(("", "work", ""))
    assert [name_of(p) for p in texts if home in p.read_text(encoding="utf-8")] == []
