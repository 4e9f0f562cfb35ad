"""Every field that a kernel names exists: a misspelt one fails here, not when Numba compiles the kernel."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from virtgym.envs.cluster.buffers import Buffers
from virtgym.envs.cluster.candidates.buffers import CandidateBuffers
from virtgym.envs.cluster.candidates.columns import CandidateRow, Measures
from virtgym.envs.jit.records import Place, Record
from virtgym.envs.sim.models.admission import HostPool, Reservations
from virtgym.envs.sim.state.accumulators import Totals
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import DRIVEN, ClusterParams
from virtgym.policies.planning.memory import PlanMemory

REPO = Path(__file__).resolve().parents[3]

Fields = dict[str, Any]

STATE: Fields = get_type_hints(ClusterState)
PARAMS: Fields = {**get_type_hints(ClusterParams), **{name: STATE[name] for name in DRIVEN}, "fn_renew": int}
WHOLE: dict[str, Fields] = {"ClusterParams": PARAMS, "ClusterState": STATE}
"""What stands for a cluster with every sub-model, by the hint that says so."""
UNTYPED: dict[tuple[str, str], Fields] = {
    ("envs/sim", "p"): PARAMS,
    ("envs/sim", "s"): STATE,
    ("envs/sim", "room"): STATE,
    ("envs/sim/models", "t"): dict.fromkeys(Totals.places, float),
    ("envs/cluster", "b"): get_type_hints(Buffers),
    ("envs/cluster/candidates", "c"): get_type_hints(CandidateBuffers),
    ("envs/cluster/candidates", "m"): dict.fromkeys(Measures.places, float),
    ("envs/cluster/candidates", "row"): dict.fromkeys(CandidateRow.places, float),
    ("policies/planning", "p"): PARAMS,
    ("policies/planning", "s"): STATE,
    ("policies/planning", "w"): get_type_hints(PlanMemory) | STATE,
}
"""What is handed to kernels that take any record with the fields they name, by folder and name."""


def is_kernel(node: ast.AST) -> bool:
    """Whether a function is decorated with ``kernel``."""
    named = [d.func if isinstance(d, ast.Call) else d for d in getattr(node, "decorator_list", ())]
    return any(isinstance(d, ast.Name) and d.id == "kernel" for d in named)


def fields_of(kind: Any) -> Fields | None:
    """Fields of a record by name, with their types; None for what is no record."""
    if kind is ClusterParams:
        return PARAMS
    if isinstance(kind, type) and issubclass(kind, Record):
        return dict.fromkeys(kind.places, float)
    if isinstance(kind, type) and (issubclass(kind, PlanMemory) or hasattr(kind, "_fields")):
        return get_type_hints(kind)
    return None


class Reader(ast.NodeVisitor):
    """Follows what is read of the parameters of one kernel."""

    def __init__(self, where: str, node: ast.FunctionDef, names: dict[str, Any]) -> None:
        self.where = where
        self.bad: list[str] = []
        self.seen = 0
        self.known: dict[str, Any] = {}
        for arg in node.args.args:
            hint = ast.unparse(arg.annotation) if arg.annotation is not None else "Any"
            kind = WHOLE.get(hint) or eval(hint, {**names, "Any": Any})
            if kind is Any:
                owns = (o for (at, name), o in UNTYPED.items() if where.startswith(at) and name == arg.arg)
                kind = next(owns, Any)
            self.known[arg.arg] = kind
        for statement in node.body:
            self.visit(statement)

    def kind(self, node: ast.AST) -> Any:
        """Type of an expression as far as records go; None = not known."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            fields = self._fields(self.kind(node.value))
            return None if fields is None else fields.get(node.attr)
        if isinstance(node, ast.Subscript):
            whole = self.kind(node.value)
            return whole if isinstance(whole, type) and issubclass(whole, Record) else None
        return None

    @staticmethod
    def _fields(kind: Any) -> Fields | None:
        return kind if isinstance(kind, dict) else fields_of(kind)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Check one ``x.field``."""
        owner = self.kind(node.value)
        if owner is not None:
            fields = self._fields(owner)
            self.seen += fields is not None
            if node.attr not in (fields or ()) and not (
                hasattr(np.ndarray, node.attr) and fields is not owner
            ):
                self.bad.append(f"{self.where}:{node.lineno} {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Follow a record that gets another name."""
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts))
            for to, value in pairs:
                if isinstance(to, ast.Name):
                    self.known[to.id] = self.kind(value)


def readers(path: Path, text: str | None = None) -> Iterator[Reader]:
    """A reader for every kernel of a module."""
    where = path.relative_to(REPO).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8") if text is None else text)
    kernels = [node for node in tree.body if isinstance(node, ast.FunctionDef) and is_kernel(node)]
    if kernels:
        module = importlib.import_module("virtgym." + where.removesuffix(".py").replace("/", "."))
        names = dict(vars(module))
        for node in tree.body:  # what is imported for types only
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                exec(compile(ast.Module(node.body, []), where, "exec"), names)
        for node in kernels:
            yield Reader(where, node, names)


MODULES = [
    path
    for folder in ("envs", "policies", "experiments")
    for path in sorted((REPO / folder).rglob("*.py"))
    if "@kernel" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_every_field_that_a_kernel_names_exists(path: Path) -> None:
    assert [bad for reader in readers(path) for bad in reader.bad] == []


def test_the_check_looks_at_what_kernels_read() -> None:
    assert sum(reader.seen for path in MODULES for reader in readers(path)) > 3000


@pytest.mark.parametrize(
    ("module", "right", "wrong"),
    [
        ("policies/dpm/kernels.py", "w.rules.relief", "w.rules.releif"),
        ("policies/drs/balance.py", "st.cpu2", "st.cpu3"),
        ("policies/solvers/search.py", "w.tally.bank", "w.taly.bank"),
        ("envs/sim/engine/clock.py", "s.totals.arrivals", "s.totals.arivals"),
        ("envs/sim/engine/rates.py", "rates.numa_loss", "rates.numa_los"),
        ("envs/sim/models/carbon.py", "p.carbon_g_kwh", "p.carbon_kwh"),
        ("envs/placement/game.py", "s.cursor", "s.curser"),
    ],
)
def test_a_misspelt_field_is_found(module: str, right: str, wrong: str) -> None:
    path = REPO / module
    text = path.read_text(encoding="utf-8")
    assert right in text
    assert any(reader.bad for reader in readers(path, text.replace(right, wrong)))


def test_records_of_sub_models_are_parts_of_the_cluster() -> None:
    """``ClusterParams`` and ``ClusterState`` stand for them, so no field has another name there."""
    parts = set()
    for path in MODULES:
        where = path.relative_to(REPO).as_posix()
        if where.startswith("envs/sim/models"):
            for reader in readers(path):
                parts |= {kind for kind in reader.known.values() if hasattr(kind, "_fields")}
    assert parts
    parts -= {HostPool, Reservations}  # made anew for every question, from what counts then
    whole = PARAMS.keys() | STATE.keys()
    assert {(kind.__name__, name) for kind in parts for name in kind._fields if name not in whole} == set()


def test_places_say_what_they_are() -> None:
    def all_records(kind: type[Record]) -> Iterator[type[Record]]:
        for sub in kind.__subclasses__():
            yield sub
            yield from all_records(sub)

    places = [place for kind in all_records(Record) for place in kind.places.values()]
    assert all(isinstance(place, Place) and place.meaning for place in places)
