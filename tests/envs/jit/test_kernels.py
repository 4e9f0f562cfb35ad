"""A kernel is compiled again when something that it can reach has changed, and else not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from numba.core.caching import NullCache

from virtgym.envs.jit.generated import inlined, make_kernel
from virtgym.envs.jit.kernels import KEPT, SPEAKING, digest_closure, kernel

PROBE = """
import json, sys
import numpy as np
from virtgym.envs.jit import waterlevel
from virtgym.envs.sim.models import fair_share, power, scheduling

vms = np.arange(3, dtype=np.int32)
claims = scheduling.cpu_claims([scheduling.CpuControl()], np.zeros(3, np.int32), np.full(3, 2, np.int32))
claims.vm_claim_mhz[:] = 1500.0
grants = scheduling.cpu_grants(1, 3)
scheduling.schedule_host(vms, 2000.0, 1000.0, 0.0, claims, grants, scheduling.scheduling_scratch(3))
power.power_at(np.array([100.0, 200.0]), 0.5)
ends = np.zeros(1, np.int32)
fair_share.max_min_rates(ends, ends, np.ones(1), np.ones(1), np.zeros(1))
used = (
    scheduling.schedule_host, waterlevel.sort_breakpoints, waterlevel.find_bracket, power.power_at,
    fair_share.max_min_rates,
)
hits = [each.__name__ for each in used if each.stats.cache_hits]
misses = [each.__name__ for each in used if each.stats.cache_misses]
print(json.dumps([hits, misses]))
"""

Run = Callable[[], tuple[set[str], set[str], str]]


@pytest.fixture
def copy(repo_dir: Path, tmp_path: Path) -> Path:
    """A checkout of its own, without anything compiled."""
    for folder in ("envs", ".typing"):
        shutil.copytree(
            repo_dir / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("*.nb?")
        )
    return tmp_path


@pytest.fixture
def run(copy: Path) -> Run:
    """Use some kernels in a new process: those found in the cache, those compiled, and what was said."""
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}

    def probe() -> tuple[set[str], set[str], str]:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**env, "PYTHONPATH": str(copy / ".typing")},
            cwd=copy,
            text=True,
            capture_output=True,
            check=True,
        )
        hits, misses = json.loads(done.stdout)
        return set(hits), set(misses), done.stderr

    return probe


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def compiled(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.nb?")}


def test_an_edit_compiles_what_depends_on_it_and_nothing_else(copy: Path, run: Run) -> None:
    _, misses, said = run()
    assert misses == {"schedule_host", "sort_breakpoints", "find_bracket", "power_at", "max_min_rates"}
    assert said.count(SPEAKING) == 1
    _, misses, said = run()
    assert (misses, said) == (set(), "")
    edit(copy / "envs" / "jit" / "waterlevel.py", "SHORT = 24\n", "SHORT = 24 + 1\n")
    hits, misses, said = run()
    assert misses == {"schedule_host", "sort_breakpoints"}
    assert hits >= {"find_bracket", "power_at", "max_min_rates"}
    assert said.count(SPEAKING) == 1
    edit(copy / "envs" / "jit" / "waterlevel.py", "SHORT = 24 + 1\n", "SHORT = 24\n\n# moved by a comment\n")
    edit(
        copy / "envs" / "sim" / "models" / "power.py",
        '"""Power of a running host at a load.',
        '"""Power of a host at a load.',
    )
    _, misses, said = run()
    assert (misses, said) == (set(), "")  # what was compiled before the edit is still there


def test_importing_leaves_the_folder_as_it_is(copy: Path) -> None:
    index = copy / "envs" / "sim" / "__pycache__" / "old.kernel-1.py311.nbi"
    index.parent.mkdir(exist_ok=True)
    index.write_text("")
    before = sorted(copy.rglob("*"))
    env = {**os.environ, "PYTHONPATH": str(copy / ".typing"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", "import virtgym.envs.sim.simulator"], env=env, check=True)
    assert sorted(copy.rglob("*")) == before


def test_without_a_folder_to_write_to_the_user_has_one(copy: Path, run: Run) -> None:
    """A file stands where the folder would be made: whoever runs the tests may write everywhere."""
    for folder in (copy / "envs" / "jit" / "__pycache__", copy / "envs" / "sim" / "models" / "__pycache__"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("")
    home = copy / "home"
    first = f"import os\nos.environ['XDG_CACHE_HOME'] = {str(home)!r}\n"
    (copy / "envs" / "jit" / "__init__.py").write_text(first)
    assert len(run()[1]) == 5
    assert compiled(home)
    assert run()[1] == set()


LOW, HIGH = 1.0, 2.0


def _low(x: float) -> float:
    return x + LOW


def _high(x: float) -> float:
    return x + HIGH


_inner: Any = kernel(_low)


@kernel
def _outer(x: float, y: float = 1.0) -> Any:
    return _inner(x) * y


@kernel
def _even(n: int) -> Any:
    return n == 0 or _odd(n - 1)


@kernel
def _odd(n: int) -> Any:
    return n != 0 and _even(n - 1)


@kernel
def _scale(x: Any, by: int = 2, turn: bool = False) -> Any:
    return -x * by if turn else x * by


@kernel
def _use(small: Any, tiny: Any, large: int) -> Any:
    some = (
        _scale(small[0])
        + _scale(tiny[0], large)
        + _scale(large, 3, True)
        + _scale(7, small[1], turn=large > 2)
    )
    return some, _scale(0.5), _scale(np.float64(large), by=small[0])


def test_kernels_compile_another_once_for_all_numbers_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for dispatcher in (_scale, _use):  # what comes from a file is not compiled, and has no signatures
        monkeypatch.setattr(dispatcher, "_cache", NullCache())
    small, tiny = np.array([-5, 2**31 - 1], np.int32), np.array([3], np.int8)
    some = -10 + 12 - 12 - 7 * (2**31 - 1)
    assert _use(small, tiny, 4) == (some, 1.0, -20.0)
    kinds = {str(signature) for signature in _scale.signatures}
    assert kinds == {"(int64, int64, bool)", "(float64, int64, bool)"}


def rebuilt(dispatcher: Any, **names: Any) -> Any:
    """The same kernel in a world where some names mean something else."""
    function = dispatcher.py_func
    made = FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__, (1.0,))
    made.__doc__ = function.__doc__
    return kernel(made)


def test_a_closure_is_what_can_be_reached() -> None:
    same = digest_closure(rebuilt(_outer))
    assert digest_closure(_outer) == same == digest_closure(rebuilt(_outer, LOW=5.0, unused=3))
    others = [
        rebuilt(_outer, _inner=kernel(_high)),
        rebuilt(_outer, _inner=rebuilt(_inner, LOW=1.5)),
        rebuilt(_outer, _inner=rebuilt(_inner, LOW=1)),
        rebuilt(_outer, _inner=kernel(fastmath=True)(_low)),
        kernel(nogil=True)(_outer.py_func),
    ]
    assert len({same, *map(digest_closure, others)}) == 1 + len(others)


def test_kernels_that_call_each_other_have_digests_of_their_own() -> None:
    assert digest_closure(_even) != digest_closure(_odd)
    assert digest_closure(rebuilt(_even, _odd=kernel(_high))) != digest_closure(_even)


@pytest.mark.parametrize("value", [3, 3.0, True, "3", (3,), [3], {3}, {"a": 3}, np.arange(3), np.float32(3)])
def test_constants_of_every_kind_count(value: Any) -> None:
    assert digest_closure(rebuilt(_inner, LOW=value)) != digest_closure(_inner)


def test_few_old_digests_stay_on_disk(tmp_path: Path) -> None:
    for number in range(KEPT + 2):
        source = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport mine\nmine.f(1.0)"
        (tmp_path / "mine.py").write_text(
            f"from virtgym.envs.jit.kernels import kernel\n@kernel\ndef f(x): return x + {10**number}.5\n"
        )
        subprocess.run([sys.executable, "-c", source], check=True)
    names = compiled(tmp_path)
    assert len(names) == 2 * KEPT


def test_the_digest_of_a_generated_kernel_covers_its_entries() -> None:
    def generate(entry: Callable[[float], float]) -> Any:
        return make_kernel("def twice(x):\n    return 2.0 * entry(x)", {"entry": inlined(entry)})

    one, same, other = (
        generate(entry) for entry in (lambda x: x + 1.0, lambda x: x + 1.0, lambda x: x + 2.0)
    )
    assert digest_closure(one) == digest_closure(same) != digest_closure(other)
    assert (one(1.0), other(1.0)) == (4.0, 6.0)
