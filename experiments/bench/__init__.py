"""Benchmarks, audits, digests; comparisons with plain Python need ``tests/oracles``."""

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[2] / "tests"
if (_TESTS / "oracles").is_dir() and str(_TESTS) not in sys.path:
    sys.path.append(str(_TESTS))
