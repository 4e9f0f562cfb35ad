"""Load a compiled kernel from disk without what Numba needs only to compile another.

By itself Numba imports hundreds of modules first, SciPy's linear algebra among them, and reads the bitcode of
every kernel: a second for a command that computes for a tenth of it.
"""

# numba describes its internals with few or no types
# mypy: disable-error-code="no-untyped-call, no-any-return, misc, override, import-untyped"

from __future__ import annotations

import pickle
import re
import sys
from typing import Any

from llvmlite import binding
from numba.core.caching import CompileResultCacheImpl, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.environment import Environment, _rebuild_env, lookup_environment


class LoadedLibrary(JITCodeLibrary):
    """Machine code of a kernel; its bitcode is read when another is compiled that calls it."""

    _bitcode: bytes | None = None
    _parsed: Any = None
    _callbacks: frozenset[bytes] = frozenset()

    @property
    def _shared_module(self) -> Any:
        if self._bitcode is not None:
            self._parsed, self._bitcode = binding.parse_bitcode(self._bitcode), None
            self._codegen._engine._load_defined_symbols(self._parsed)
        return self._parsed

    @_shared_module.setter
    def _shared_module(self, module: Any) -> None:
        self._parsed = module

    @classmethod
    def _unserialize(cls, codegen: Any, state: Any) -> Any:
        name, kind, data = state
        if kind != "object":
            return super()._unserialize(codegen, state)
        library = cls(codegen, name)
        code, library._bitcode = data
        library._callbacks = frozenset(re.findall(rb"cfunc\.\w+", code))
        library.enable_object_caching()
        library._set_compiled_object(code)
        library._finalize_final_module()
        return library

    def get_pointer_to_function(self, name: str) -> Any:
        """Address of a function of it, 0 = it has no such callback."""
        if name.startswith("cfunc.") and name.encode() not in self._callbacks:
            return 0
        return self._codegen._engine.get_function_address(name)


class LoadedResult(CompileResultCacheImpl):
    """What was compiled, as a ``LoadedLibrary``."""

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Load it, under Numba's lock."""
        codegen = target_context.codegen()
        plain, codegen._library_class = codegen._library_class, LoadedLibrary
        try:
            return super().rebuild(target_context, payload)
        finally:
            codegen._library_class = plain


class KernelFile(IndexDataCacheFile):
    """Numba's files of a kernel, read without importing the modules of all functions that are compiled in."""

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            return _Unpickler(file).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _environment if name == "_rebuild_env" else super().find_class(module, name)


def _environment(module: str, constants: Any, name: str) -> Any:
    """Numba's ``_rebuild_env``; a function's globals serve Numba's object mode, which kernels do not use."""
    known = lookup_environment(name)
    if known is not None or module in sys.modules:
        return _rebuild_env(module, constants, name)
    made = Environment({"__name__": module})
    made.consts[:] = constants
    made.env_name = name
    Environment._memo[name] = made
    return made
