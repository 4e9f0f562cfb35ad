"""Hostile overrides: every key of a scenario of each kind and of every policy, with values of no meaning.

Each ends in a result or in one line that names the key; none in a traceback, a hang or without memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from virtgym.experiments.config.compose import compose_run
from virtgym.policies.registry import POLICIES, policy_class, policy_task
from virtgym.policies.schema import parameter_types

from .runner import Attempt, Rng, run_command

HOSTILE: tuple[str, ...] = (
    *("5", "null", "{}", "[[1,2],[3]]", "-1", "0", "nan", "inf", "-inf", "1e11", "100000000000", "1e308"),
    *("1e-300", "99999999999999999999", "true", "abc", "''", "'a\0b'", "[]", "[1,a,null]", "{a: {b: 1}}"),
    *("-0.0", "2147483648", "'../../x'", "'${oc.env:HOME}'", "'${nothing}'", "'???'", "0.5", "[-1]", "1e-9"),
    f"'{'x' * 5000}'",
)
"""Values that no key means, or few."""

BASES: Mapping[str, tuple[str, ...]] = {
    "small": ("policy=static", "scenario.horizon_s=3600"),
    "planetlab_full": (
        *("policy=static", "scenario.horizon_s=1800", "scenario.trace.options.n_vms=20"),
        "scenario.trace.options.n_samples=12",
    ),
    "demo_placement": ("policy=first_fit", "scenario.n_windows=2", "scenario.trace.options.n=4000"),
    "rescheduling": ("policy=static", "scenario.snapshot.from=small@600", "scenario.limit=2"),
    "planetlab_cloudsim3": (
        *("policy=static", "scenario.trace.options.n_vms=20", "scenario.trace.options.n_samples=12"),
    ),
}
"""What makes a short run of a scenario of each kind."""


def leaf_keys(tree: Any, prefix: str = "") -> list[str]:
    """Dotted keys of all leaves of nested mappings and lists, the empty ones included.

    Args:
        tree: Plain data.
        prefix: Put before each.
    """
    inner = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    found = [key for name, value in inner for key in leaf_keys(value, f"{prefix}{name}.")]
    return found or [prefix[:-1]]


def hostile_overrides() -> Iterator[tuple[str, list[str]]]:
    """Arguments of ``virtgym evaluate``, each with one key that has a hostile value.

    Yields:
        A label and the arguments; every key comes once before any comes again.
    """
    cases: list[tuple[str, list[str]]] = []
    for name, base in BASES.items():
        short = [f"scenario={name}", *base]
        config = compose_run("evaluate", short).scenario
        extra = [] if "quirks" not in config else ["profiles.web.protected", "quirks.stale_power"]
        extra += [
            "rules.anti_affinity",
            "rules.must",
            "trace",
            "trace.options.seed",
            "placement.queue_window",
        ]
        cases += [(f"scenario.{key}", short) for key in (*leaf_keys(config), *extra)]
    for name in POLICIES:
        kind = policy_class(name)
        task = {"placement": "demo_placement", "rescheduling": "rescheduling"}.get(policy_task(kind), "small")
        short = [f"scenario={task}", *BASES[task][1:], f"policy={name}"]
        cases += [(f"policy.{key}", short) for key in parameter_types(kind)]
    for key in ("seed", "out", "policy", "scenario"):
        cases.append((key, ["scenario=small", *BASES["small"]]))
    for turn in range(len(HOSTILE)):
        for at, (key, short) in enumerate(cases):
            value = HOSTILE[(turn + at) % len(HOSTILE)]
            shown = value if len(value) < 40 else f"{value[:20]}…"
            yield f"{short[0][9:]} {short[-1]} {key}={shown!r}", [*short, f"{key}={value}"]


@functools.cache
def _cases() -> tuple[tuple[str, list[str]], ...]:
    return tuple(hostile_overrides())


def draw(rng: Rng) -> Attempt:
    """Draw one of the overrides, to be run by the command line."""
    label, arguments = _cases()[int(rng.integers(len(_cases())))]

    def run(folder: Path) -> None:
        os.chdir(folder)
        run_command(["evaluate", "out=run", *arguments])

    return Attempt(label, run)
