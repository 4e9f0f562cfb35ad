"""Nothing lies about: what is defined is named somewhere else."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PRODUCT = ("envs", "policies", "experiments")

CALLED_BY_LIBRARIES = {
    "readinto",  # io.RawIOBase
    "emit",  # logging.Handler
    "launch",  # Hydra's launcher
    "on_files",  # a hook of MkDocs
    "step_async",  # the VecEnv of Stable-Baselines3, as the next ones
    "get_images",
    "make_q_net",
    "_update_current_progress_remaining",
    "find_class",  # pickle.Unpickler
    "load_overload",  # Numba's cache of kernels, as the next ones
    "_load_data",
    "get_pointer_to_function",
}

HARMLESS = {
    "property",
    "staticmethod",
    "classmethod",
    "kernel",
    "cache",
    "functools",
    "dataclass",
    "lean_kernel",
}
"""Decorators that do not register what they decorate anywhere."""


def definitions(path: Path) -> list[str]:
    """Names of functions, methods and classes that nothing registers."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith(
            ("__", "test_", "visit_")
        ):
            continue
        marks = {re.split(r"[.(]", ast.unparse(mark))[0] for mark in node.decorator_list}
        if marks <= HARMLESS:
            names.append(node.name)
    return names


def test_every_function_is_named_where_it_is_not_defined() -> None:
    texts = [
        path.read_text(encoding="utf-8")
        for pattern in ("**/*.py", "**/*.yaml", "**/*.md", "*.toml", "Makefile")
        for path in REPO.glob(pattern)
        if not {".venv", "build"} & set(path.relative_to(REPO).parts)
    ]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    paths = [path for folder in PRODUCT for path in (REPO / folder).rglob("*.py")]
    assert len(paths) > 200
    dead = [
        f"{path.relative_to(REPO)}: {name}"
        for path in paths
        for name in definitions(path)
        if words[name] < 2 and name not in CALLED_BY_LIBRARIES
    ]
    assert dead == []
