"""``virtgym train seeds=[…]``: agents of one configuration, in a folder each, as ``-m seed=…`` makes them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from virtgym.envs.errors import ConfigError

from ..config.launchers import make_launcher
from ..run.folder import hold_folder
from ..training.compose import TrainRun
from ..training.train import TrainOutcome, train_seeds
from .jobs import train_row
from .sweep import collect_sweep, forget_failures, job_folder, note_job

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SeedsOutcome:
    """What trainings over seeds gave.

    Attributes:
        folder: Where the folders of all seeds lie.
        table: What ``sweep.csv`` says.
        outcomes: The trainings.
    """

    folder: Path
    table: pd.DataFrame
    outcomes: list[TrainOutcome]


def train_over_seeds(run: TrainRun) -> SeedsOutcome:
    """Train an agent for every seed, or what is left of that.

    Args:
        run: The checked training, with ``seeds``.

    Raises:
        ConfigError: If a setting, or what is in a folder, does not fit.
    """
    name = f"{run.agent.name}-{run.scenario['name']}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = Path(run.config["out"] or Path("runs") / name)
    if make_launcher(run.config, folder).config.name != "local" or run.config.get("workers") is not None:
        raise ConfigError(
            "launcher, workers: have no effect on seeds=[…], which train in this process; -m seed=… trains "
            "each on its own"
        )
    with hold_folder(folder):
        return _train_in(folder, run)


def _train_in(folder: Path, run: TrainRun) -> SeedsOutcome:
    forget_failures(folder)
    folders = {seed: job_folder(folder, {"seed": seed}) for seed in run.config["seeds"]}
    outcomes = train_seeds(
        [
            replace(run, config={**run.config, "seed": seed, "seeds": None, "out": str(out)})
            for seed, out in folders.items()
        ]
    )
    for seed, out in folders.items():
        note_job(out, {"swept": {"seed": seed}, "rows": [train_row(out)]})
    return SeedsOutcome(folder, collect_sweep(folder), outcomes)
