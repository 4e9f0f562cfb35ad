"""The group ``launcher``: what runs the cells of a command, and how many at once."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from virtgym.envs.checks import hint, need, one_of
from virtgym.envs.errors import ConfigError


@dataclass
class LauncherConfig:
    """Keys of every launcher.

    Attributes:
        name: Which one it is.
        retries: How often a cell is run again that was lost, or failed by no fault of the user's.
    """

    name: str = ""
    retries: int = 1


@dataclass
class LocalConfig(LauncherConfig):
    """Processes of this machine."""

    name: str = "local"


@dataclass
class JoblibConfig(LauncherConfig):
    """Joblib's pool of processes."""

    name: str = "joblib"


@dataclass
class RayConfig(LauncherConfig):
    """A Ray cluster.

    Attributes:
        address: ``HOST:PORT`` of its head, ``auto`` for the one that this machine is a node of, or
            ``ray://HOST:PORT``; None = one that is started on this machine for the command.
        cpus: CPUs that Ray sets aside for a cell.
        timeout_s: How long to wait for an answer of the cluster, s.
    """

    name: str = "ray"
    address: str | None = None
    cpus: float = 1.0
    timeout_s: float = 30.0


@dataclass
class SlurmConfig(LauncherConfig):
    """Slurm, by submitit.

    Attributes:
        cluster: ``slurm``, or ``local``: the same jobs as processes of this machine, to try it out.
        partition: Where the jobs go; None = Slurm's default.
        account: Whom they are charged to.
        qos: Quality of service.
        time: Longest time of a job, minutes; cells that it does not come to go into other jobs.
        mem: Memory of a job, like ``4G``; None = Slurm's default.
        cpus: CPUs of a job.
        setup: Lines of shell before a job, like ``module load python``.
        options: Other options of ``sbatch``, like ``{constraint: avx2}``.
    """

    name: str = "slurm"
    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int = 60
    mem: str | None = None
    cpus: int = 1
    setup: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def submitit(self) -> dict[str, Any]:
        """What submitit is asked for."""
        if self.cluster == "local":
            return {"timeout_min": self.time}
        given = {key: getattr(self, key) for key in ("partition", "account", "qos", "mem", "setup")}
        # A job that Slurm runs again would find its cells begun.
        options = {"no-requeue": True, **self.options}
        given |= {"additional_parameters": options, "cpus_per_task": self.cpus}
        asked = {f"slurm_{key}": value for key, value in given.items() if value not in (None, [])}
        return {"timeout_min": self.time, **asked}


LAUNCHERS: dict[str, type[LauncherConfig]] = {
    "local": LocalConfig,
    "joblib": JoblibConfig,
    "ray": RayConfig,
    "slurm": SlurmConfig,
}
"""Settings by name."""

_PACKAGES = {"ray": "ray", "slurm": "submitit"}
"""What a launcher needs that is not always there; the extra has the launcher's name."""


@dataclass(frozen=True)
class Launcher:
    """What runs the cells of a command.

    Attributes:
        config: Which engine, and its settings.
        workers: Most cells at once; None = what suits the engine.
        home: Folder of the command, where an engine may keep files of its own.
    """

    config: LauncherConfig
    workers: int | None = None
    home: Path = Path()

    @property
    def here(self) -> bool:
        """Whether all is done in this process."""
        return self.config.name == "local" and (self.workers or 1) <= 1


def store_launchers() -> None:
    """Tell Hydra the types of every key."""
    from hydra.core.config_store import ConfigStore

    for name, kind in LAUNCHERS.items():
        ConfigStore.instance().store(group="launcher", name=f"{name}_schema", node=kind)


def make_launcher(config: Mapping[str, Any], home: Path | str) -> Launcher:
    """Check the launcher of a composed command.

    Args:
        config: The command's, with the keys ``launcher`` and ``workers``.
        home: Folder of the command.

    Raises:
        ConfigError: For an impossible value, or a package that is not installed.
    """
    given = dict(config.get("launcher") or {"name": "local"})
    kind, workers = LAUNCHERS.get(str(given.get("name"))), config.get("workers")
    if kind is None:
        known = ", ".join(LAUNCHERS)
        raise ConfigError(f"launcher.name={given.get('name')}: must be one of {known}")
    allowed = [f.name for f in fields(kind)]
    for key in given:
        need(key in allowed, f"launcher.{key}: {kind.name} has no such key{hint(key, allowed)}")
    made = kind(**given)
    need(workers is None or (type(workers) is int and workers >= 1), f"workers={workers}: must be at least 1")
    need(made.retries >= 0, f"launcher.retries={made.retries}: must be at least 0")
    if isinstance(made, RayConfig):
        need(0.0 < made.cpus < math.inf, f"launcher.cpus={made.cpus}: must be positive")
        need(made.timeout_s > 0.0, f"launcher.timeout_s={made.timeout_s}: must be positive")
    if isinstance(made, SlurmConfig):
        clusters = ("slurm", "local")
        one_of("launcher.cluster", made.cluster, clusters)
        need(made.time >= 1, f"launcher.time={made.time}: must be at least 1 (minutes)")
        need(made.cpus >= 1, f"launcher.cpus={made.cpus}: must be at least 1")
    package = _PACKAGES.get(made.name, "")
    if package and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"launcher={made.name}: needs {package}, which is not installed: "
            f"pip install 'virtgym[{made.name}]'"
        )
    return Launcher(made, workers, Path(home))
