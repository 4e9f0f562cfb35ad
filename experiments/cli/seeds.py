"""``virtgym train seeds=[…]``: agents of one configuration, in a folder each, as ``-m seed=…`` makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from virtgym.envs.errors import ConfigError

from ..config.launchers import make_launcher
from ..run.folder import default_out, hold_folder
from ..training.compose import TrainRun
from ..training.train import train_seeds
from .jobs import train_row
from .sweep import collect_sweep, forget_failures, job_folder, note_job


def train_over_seeds(run: TrainRun) -> int:
    """Train an agent for every seed, or what is left of that, and print the table over them.

    Args:
        run: The checked training, with ``seeds``.

    Raises:
        ConfigError: If a setting, or what is in a folder, does not fit.
    """
    folder = Path(run.config["out"] or default_out(f"{run.agent.name}-{run.scenario['name']}"))
    if make_launcher(run.config, folder).config.name != "local" or run.config.get("workers") is not None:
        raise ConfigError(
            "launcher, workers: have no effect on seeds=[…], which train in this process; -m seed=… trains "
            "each on its own"
        )
    with hold_folder(folder):
        return _train_in(folder, run)


def _train_in(folder: Path, run: TrainRun) -> int:
    forget_failures(folder)
    folders = {seed: job_folder(folder, {"seed": seed}) for seed in run.config["seeds"]}
    train_seeds(
        [
            replace(run, config={**run.config, "seed": seed, "seeds": None, "out": str(out)})
            for seed, out in folders.items()
        ]
    )
    for seed, out in folders.items():
        note_job(out, {"swept": {"seed": seed}, "rows": [train_row(out)]})
    print(collect_sweep(folder).to_string(index=False))
    print(f"seeds: {folder / 'sweep.csv'}")
    return 0
