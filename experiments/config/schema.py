"""Typed schema of a run: every key that the command line takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from virtgym.envs.rescheduling.objective import ObjectiveConfig
from virtgym.envs.scenarios.kinds import GAMES
from virtgym.envs.scenarios.placement import PlacementScenarioConfig
from virtgym.envs.scenarios.reassignment import ReassignmentScenarioConfig
from virtgym.envs.scenarios.rescheduling import ReschedulingScenarioConfig
from virtgym.envs.scenarios.schema import WORDS, ScenarioConfig


@dataclass
class ScenarioNode(ScenarioConfig):
    """A scenario of any kind as it stands in a configuration file, with what builds it.

    Hydra composes before the kind is known, so this has the keys of all kinds: those of ``ScenarioConfig``
    and those that only the schemas of ``GAMES`` have. Keys that the kind does not have are refused and left
    out afterwards.
    """

    _target_: str = "virtgym.envs.scenarios.build_scenario"
    windows: str | None = None
    n_windows: int = PlacementScenarioConfig.n_windows
    rows: list[int] | None = None
    train_rows: list[int] | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    size: str = ReschedulingScenarioConfig.size
    load: str = ReschedulingScenarioConfig.load
    groups: int = ReschedulingScenarioConfig.groups
    snapshot: dict[str, Any] = field(default_factory=dict)
    limit: int = ReschedulingScenarioConfig.limit
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    instance: str | None = None
    assignment: str | None = None
    lower_bound: str | None = None
    processes: int = ReassignmentScenarioConfig.processes
    machines: int = ReassignmentScenarioConfig.machines


def scenario_keys(kind: str) -> tuple[str, ...]:
    """The keys that a scenario of a kind may have."""
    if kind == "replica":
        return REPLICA_KEYS
    owner = GAMES[kind].schema if kind in GAMES else ScenarioConfig
    return tuple(f.name for f in fields(owner))


@dataclass
class RunConfig:
    """Every key of ``virtgym evaluate``, ``virtgym benchmark`` and ``virtgym watch``.

    Attributes:
        scenario: Cluster, load and rules (group ``conf/scenario``).
        policy: The policy of ``evaluate`` or ``watch``, and its parameters (group ``policy``, made of
            ``POLICIES``).
        policies: The policies of ``benchmark``: ``NAME`` or ``NAME(parameter=value,…)``; None =
            ``DEFAULT_POLICIES`` of the scenario's kind.
        env: Arguments of the environment of a cluster, those of ``env.env_options`` (group ``conf/env``).
        seed: One seed.
        seeds: Several; takes precedence over ``seed``.
        launcher: What runs the cells (group ``conf/launcher``).
        workers: Cells that run at once; None = the launcher's own, of ``local`` 1.
        out: Run folder; None = ``runs/<scenario>-<date>-<time>-<suffix>``.
        report: Whether ``benchmark`` writes ``report.html``.
        video: File of the video that ``watch`` makes besides its page; None = none.
    """

    scenario: ScenarioNode = field(default_factory=ScenarioNode)
    policy: dict[str, Any] = field(default_factory=dict)
    policies: list[str] | None = None
    env: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    seeds: list[int] | None = None
    launcher: Any = None
    workers: int | None = None
    out: str | None = None
    report: bool = True
    video: str | None = None


DEFAULT_POLICIES: dict[str, tuple[str, ...]] = {
    "cluster": ("static", "dvfs", "thr-mmt", "ols-mmt", "drs", "dpm", "platform", "dpm_ortools"),
    "replica": ("npa", "dvfs", "thr-mmt", "iqr-mmt", "mad-mmt", "lr-mmt"),
    "placement": (
        *("first_fit", "best_fit", "worst_fit", "balance_fit", "best_host_emptier_node"),
        *("first_host_emptier_node", "move_to_front", "dot_product", "norm_based", "random"),
    ),
    "rescheduling": (
        *("greedy_rescheduling", "annealing", "ortools_rescheduling", "pop", "random", "static"),
    ),
    "reassignment": ("greedy_rescheduling", "annealing", "ortools_rescheduling", "pop"),
}
"""What ``benchmark`` runs on a kind of scenario unless ``policies=`` or its ``rivals`` say otherwise; the
first is what ``evaluate`` runs."""

CELLS = ("launcher", "workers", "out")
"""Keys of every command that runs cells."""

COMMAND_KEYS: dict[str, tuple[str, ...]] = {
    "evaluate": ("scenario", "policy", "env", "experiment", "seed", "seeds", *CELLS),
    "watch": ("scenario", "policy", "env", "experiment", "seed", "out", "video"),
    "benchmark": (
        *("scenario", "policies", "policy", "env", "experiment", "seed", "seeds", *CELLS, "report"),
    ),
    "suite": ("suite", "policies", "seeds", *CELLS, "report"),
    "train": (
        *("scenario", "agent", "experiment", "total_timesteps", "seed", "num_envs", "reward", "wait_scale_s"),
        *("mix", "fallback", "margins", "seeds", "device"),
        *("env", "eval_every", "checkpoint_every", "tensorboard", "tracker", "initial", "import_zip", *CELLS),
    ),
}
"""Keys that each command reads; any other is an error."""

SUITE_KEYS = ("suite", "suite.size", "suite.split", "suite.tasks")
"""What is said of a suite; all else is in its file."""

REPLICA_KEYS: tuple[str, ...] = ("name", *WORDS, "kind", "trace", "cost", "quirks")
"""Keys of a scenario of kind ``replica``: its cluster and rules are the peer's."""
