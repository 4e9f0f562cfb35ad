"""The one way to compile a kernel: Numba's ``njit``, with a cache that knows what a kernel is made of.

Numba's own cache looks at the file of a kernel alone and runs a stale one when a kernel that it calls from
another file has changed. Here the key is a digest of the *closure* of a kernel: its byte code, the constants
that it names, and the same of every function that it can reach. It is taken from what is loaded, not from
files. An edit compiles again what can reach the edited function; comments, docstrings, moved lines nothing.

Files lie where Numba puts them: in the ``__pycache__`` beside the source, in the user's cache folder where
that cannot be written to, or under ``NUMBA_CACHE_DIR``. Importing a kernel reads and writes no file.
"""

# numba describes its internals with few or no types
# mypy: disable-error-code="no-untyped-call, untyped-decorator, no-any-return, misc, override"

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar, Protocol, TypeVar, overload

import numba
import numpy as np
from numba import typeof, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic as Intrinsic
from numba.core.runtime.nrt import rtsys

from . import handle, records
from .loading import KernelFile, LoadedResult

KEPT = 3
"""Digests of one kernel that are kept on disk: going back to another branch, or undoing, compiles nothing."""

FOREIGN = {"numpy", "numba", "llvmlite", *sys.stdlib_module_names}
"""Packages whose functions have no place in a closure: their versions have (Numba's cache notes its own)."""

SPEAKING = "virtgym: compiling kernels, up to a minute; kept for the next run"


Function = TypeVar("Function", bound=Callable[..., object])
R = TypeVar("R")


class Decorator(Protocol):
    """What compiles a function."""

    def __call__(self, function: Function, /) -> Dispatcher[Function]:
        """Compile ``function``."""
        ...


@overload
def kernel(function: Function, /, **options: Any) -> Dispatcher[Function]: ...
@overload
def kernel(**options: Any) -> Decorator: ...
def kernel(function: Any = None, /, **options: Any) -> Any:
    """Compile a function at its first call, or load it; ``@kernel`` or ``@kernel(nogil=True)``.

    Args:
        function: The function.
        **options: As of ``numba.njit``, but for ``cache``.

    Returns:
        Numba's dispatcher; without a function a decorator.
    """
    if function is None:
        return functools.partial(kernel, **options)
    njit: Any = numba.njit  # its stub knows fewer options
    function.__signature__ = inspect.signature(function)  # which Numba works out three times
    compiled: Any = njit(function, no_cfunc_wrapper=True, **options)  # called by Python and by kernels only
    if hasattr(compiled, "py_func"):  # a plain function under NUMBA_DISABLE_JIT
        compiled._cache = ClosureCache(compiled)
        compiler = compiled._compiler
        compiler.fold_argument_types = functools.partial(_fold_types, compiler.fold_argument_types)
    return compiled


def of_records(compiled: Dispatcher[Callable[..., R]]) -> Dispatcher[Callable[..., R]]:
    """Let a kernel take every record, and every handle, that has the fields which its own records name.

    A sub-model's kernel reads a small record of its own, and so can be read and tested alone; the engine
    passes the cluster's parameters and state in its place. Types only: Numba looks fields up by name, and a
    test compares the fields of these records with the cluster's.
    """
    return compiled


def _fold_types(fold: Any, args: Any, kws: Any) -> Any:
    """Types that a kernel is compiled for when another calls it: one for all numbers of a kind.

    Numba by itself compiles it again for an int32, for an int64 and for each constant.
    """
    signature, folded = fold(tuple(map(_widen, args)), {name: _widen(kind) for name, kind in kws.items()})
    return signature, tuple(map(_widen, folded))


def _widen(kind: Any) -> Any:
    if isinstance(kind, types.Omitted) and isinstance(kind.value, bool | int | float):
        return typeof(kind.value)
    if isinstance(kind, types.IntegerLiteral | types.BooleanLiteral):
        kind = kind.literal_type
    return types.int64 if kind in (types.int8, types.int16, types.int32) else kind


def compile_callback(function: Callable[..., Any], signature: Any) -> Any:
    """Compile a function at once, or load it, as a C function whose ``address`` others may call."""
    callback: Any = CFunc(function, (signature.args, signature.return_type), locals={}, options={})
    callback._cache = ClosureCache(function)
    callback.compile()
    return callback


class ClosureCache(FunctionCache):
    """Numba's cache of a function on disk, keyed by the digest of its closure; no file is read before use."""

    spoken = False
    _cleaned: ClassVar[set[Path]] = set()

    def __init__(self, function: Any) -> None:
        self._function = function
        self._py_func = getattr(function, "py_func", function)
        self._name = repr(self._py_func)
        self.enable()

    @functools.cached_property
    def _impl(self) -> LoadedResult:
        return LoadedResult(self._py_func)

    @functools.cached_property
    def _cache_path(self) -> str:
        return self._impl.locator.get_cache_path()

    @functools.cached_property
    def _cache_file(self) -> KernelFile:
        digest = digest_closure(self._function)
        module = Path(self._py_func.__code__.co_filename).stem
        name = f"{module}.{self._py_func.__qualname__}-{digest[:16]}.{sys.implementation.cache_tag}"
        return KernelFile(self._cache_path, name.replace("<", "").replace(">", ""), digest)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled for a signature, or None: then Numba compiles, and the user hears of it once."""
        # Numba refreshes its registries first, hundreds of modules: what is compiled does so by itself
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
        if found is None and not ClosureCache.spoken:
            ClosureCache.spoken = True
            print(SPEAKING, file=sys.stderr, flush=True)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled; the first time in a folder, drop what old digests left there."""
        super().save_overload(sig, data)
        folder = Path(self._cache_path)
        if folder not in self._cleaned:
            self._cleaned.add(folder)
            _drop_stale(folder)


def _drop_stale(folder: Path) -> None:
    """Keep the latest ``KEPT`` digests of every kernel in a folder. Another process may do the same."""
    indices: dict[str, list[tuple[float, Path]]] = {}
    for path in folder.glob("*.nbi"):
        try:
            indices.setdefault(path.name.rsplit("-", 2)[0], []).append((path.stat().st_mtime, path))
        except FileNotFoundError:
            continue
    for found in indices.values():
        for _, index in sorted(found)[:-KEPT]:
            for path in [index, *folder.glob(f"{index.stem}.*.nbc")]:
                path.unlink(missing_ok=True)


def digest_closure(function: Any) -> str:
    """Digest of a kernel and of everything that it can reach, the same in every process.

    Args:
        function: A function, compiled or not.

    Returns:
        Hexadecimal digits.
    """
    compiler = _source_digest(handle.__file__) + _source_digest(records.__file__)
    result = hashlib.blake2b(compiler, digest_size=20)
    numbers = {function: 0}
    reached = [function]
    for each in reached:  # grows on the way
        text, called = _describe(each)
        result.update(text)
        for other in called:
            if other not in numbers:
                numbers[other] = len(reached)
                reached.append(other)
            result.update(b"%d," % numbers[other])
    return result.hexdigest()


@functools.cache
def _describe(function: Any) -> tuple[bytes, tuple[Any, ...]]:
    """What a function says itself, and the functions that it names."""
    parts: list[str] = []
    called: list[Any] = []
    if isinstance(function, Dispatcher):
        _add(function.targetoptions, (), parts, called)
        function = function.py_func
    elif isinstance(function, Intrinsic):
        function = function._defn
    code = function.__code__
    names = sorted(_add_code(code, function.__doc__, parts, called))
    _add((function.__defaults__, function.__kwdefaults__), names, parts, called)
    for name in names:
        if name in function.__globals__:
            parts.append(name)
            _add(function.__globals__[name], names, parts, called)
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        parts.append(name)
        _add(cell.cell_contents, names, parts, called)
    return "\n".join(parts).encode(), tuple(called)


def _add_code(code: CodeType, doc: str | None, parts: list[str], called: list[Any]) -> set[str]:
    """Add what a code object does, but for its docstring; returns the names that it and inner ones use."""
    parts.append(f"{code.co_name} {code.co_argcount} {code.co_flags} {code.co_code.hex()}")
    parts.append(" ".join((*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)))
    names = set(code.co_names)
    for position, constant in enumerate(code.co_consts):
        if isinstance(constant, CodeType):
            names |= _add_code(constant, None, parts, called)
        elif position or doc is None or constant != doc:
            _add(constant, (), parts, called)
    return names


def _add(value: Any, names: Any, parts: list[str], called: list[Any]) -> None:
    """Add a value that a kernel names; ``names`` are what else its code names, attributes among them."""
    own = isinstance(value, FunctionType) and _root(value) not in FOREIGN
    if own or isinstance(value, Dispatcher | Intrinsic):
        called.append(value)
    elif isinstance(value, ModuleType):
        parts.append(value.__name__)
        if value.__name__.partition(".")[0] not in FOREIGN:
            for name in names:
                if hasattr(value, name):
                    _add(getattr(value, name), (), parts, called)
    elif isinstance(value, tuple | list):
        parts.append(f"{type(value).__name__} of {len(value)}")
        for item in value:
            _add(item, names, parts, called)
    elif isinstance(value, set | frozenset):
        parts.append(repr(sorted(value, key=repr)))
    elif isinstance(value, dict):
        _add(sorted(value.items(), key=repr), names, parts, called)
    elif isinstance(value, np.ndarray):
        parts.append(f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}")
    elif isinstance(value, type):
        parts.append(f"{value.__module__}.{value.__qualname__}")
        if issubclass(value, tuple) and hasattr(value, "_fields"):
            parts.append(" ".join(value._fields))
        elif _root(value) not in FOREIGN:
            parts.append(_source_digest(sys.modules[value.__module__].__file__).hex())
    elif isinstance(value, FunctionType | BuiltinFunctionType | np.ufunc):
        parts.append(f"{_root(value)} {value.__name__}")
    else:
        parts.append(f"{type(value).__name__} {value!r}")


def _root(value: Any) -> str:
    return (getattr(value, "__module__", None) or "").partition(".")[0]


@functools.cache
def _source_digest(path: str | None) -> bytes:
    return hashlib.sha256(Path(path).read_bytes() if path else b"").digest()
