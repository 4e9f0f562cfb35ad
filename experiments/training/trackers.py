"""Where the curves of a training go besides ``progress.csv``: TensorBoard, Weights & Biases, MLflow.

W&B and MLflow are set up as they always are, by their own variables (``WANDB_MODE=offline``,
``MLFLOW_TRACKING_URI=file:…``). A training that goes on writes to the run that it had begun.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError

from ..config.yamlio import flat

if TYPE_CHECKING:
    from .folder import TrainFolder

NEEDS: dict[str, tuple[str, str]] = {
    "tensorboard": ("tensorboard", "rl"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}
"""Trackers: what must be installed, and the extra that brings it."""

PROJECT = "virtgym"
"""Project of W&B, experiment of MLflow."""


def tracker_names(given: Any) -> list[str]:
    """The trackers that ``tracker=`` names; by default TensorBoard, where it is installed.

    Args:
        given: None, a name, or several.

    Raises:
        ConfigError: If there is none of a name, or what it needs is not installed.
    """
    if given is None:
        return [name for name in ("tensorboard",) if _there(name)]
    names = [str(name) for name in (given if isinstance(given, (list, tuple)) else [given])]
    for name in names:
        known = [*NEEDS, "none"]
        if name not in known:
            raise ConfigError(f"tracker={name}: must be one of {', '.join(known)}{hint(name, known)}")
        if name != "none" and not _there(name):
            package, extra = NEEDS[name]
            raise ConfigError(
                f"tracker={name}: needs {package}, which is not installed; pip install 'virtgym[{extra}]'"
            )
    if "none" in names and len(names) > 1:
        raise ConfigError(f"tracker=[{','.join(names)}]: none stands alone")
    return [name for name in dict.fromkeys(names) if name != "none"]


def _there(name: str) -> bool:
    return importlib.util.find_spec(NEEDS[name][0]) is not None


class Tracker(Protocol):
    """Takes the points of curves."""

    def open(self, name: str) -> None:
        """Begin, or go on with, the run of a training of this name."""

    def write(self, timesteps: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""

    def close(self, over: bool) -> None:
        """Write out what is buffered; ``over``: the training has ended as it should."""


class TensorBoard:
    """TensorBoard's event files.

    Args:
        folder: Where they go.
        begun: Decisions at which this process begins: what an earlier one wrote after them is void.
    """

    def __init__(self, folder: Path, begun: int) -> None:
        self._folder, self._begun = folder, begun

    def open(self, name: str) -> None:
        """As ``Tracker.open``."""
        from torch.utils.tensorboard import SummaryWriter

        make: Any = SummaryWriter
        self._writer = make(str(self._folder), purge_step=self._begun or None)

    def write(self, timesteps: int, values: Mapping[str, float]) -> None:
        """As ``Tracker.write``."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, timesteps)

    def close(self, over: bool) -> None:
        """As ``Tracker.close``."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases.

    Args:
        folder: The training's, in which it keeps what it has not sent.
        ident: Its name there; the same goes on.
        config: The training's configuration.
    """

    def __init__(self, folder: Path, ident: str, config: Mapping[str, Any]) -> None:
        self._folder, self._ident, self._config = folder, ident, config

    def open(self, name: str) -> None:
        """As ``Tracker.open``.

        Raises:
            ConfigError: If W&B cannot be reached, or does not know the user.
        """
        import wandb

        settings: dict[str, Any] = {"project": PROJECT, "id": self._ident, "resume": "allow"}
        settings |= {"dir": str(self._folder), "config": dict(self._config), "reinit": "create_new"}
        try:
            quiet = wandb.Settings(silent=True, console="off")
            self._run: Any = wandb.init(name=name, settings=quiet, **settings)
        except (wandb.Error, OSError) as error:
            why = " ".join(str(error).split())
            raise ConfigError(f"tracker=wandb: {why} (without a network: WANDB_MODE=offline)") from None
        self._run.define_metric("*", step_metric="timesteps")

    def write(self, timesteps: int, values: Mapping[str, float]) -> None:
        """As ``Tracker.write``."""
        self._run.log({**values, "timesteps": timesteps})

    def close(self, over: bool) -> None:
        """As ``Tracker.close``."""
        self._run.finish(exit_code=0 if over else 1)


class Mlflow:
    """A run of MLflow.

    Args:
        ident: Name by which it is found when the training goes on.
        config: The training's configuration.
    """

    def __init__(self, ident: str, config: Mapping[str, Any]) -> None:
        self._ident, self._config = ident, config

    def open(self, name: str) -> None:
        """As ``Tracker.open``.

        Raises:
            ConfigError: If its store cannot be used.
        """
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._client: Any = MlflowClient()
            known = self._client.get_experiment_by_name(PROJECT)
            where = known.experiment_id if known else self._client.create_experiment(PROJECT)
            before = self._client.search_runs([where], f"tags.training = '{self._ident}'", max_results=1)
            if before:
                self._run = before[0].info.run_id
                self._client.set_terminated(self._run, "RUNNING")
                return
            made = self._client.create_run(where, run_name=name, tags={"training": self._ident})
            self._run = made.info.run_id
            params = [Param(key, str(value)[:500]) for key, value in sorted(flat(self._config).items())]
            for at in range(0, len(params), 100):
                self._client.log_batch(self._run, params=params[at : at + 100])
        except (MlflowException, OSError) as error:
            raise ConfigError(f"tracker=mlflow: {' '.join(str(error).split())}") from None

    def write(self, timesteps: int, values: Mapping[str, float]) -> None:
        """As ``Tracker.write``."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, timesteps) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, over: bool) -> None:
        """As ``Tracker.close``."""
        self._client.set_terminated(self._run, "FINISHED" if over else "KILLED")


class Trackers:
    """Several trackers as one.

    Args:
        trackers: They.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._open: list[Tracker] = []

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: TrainFolder, begun: int) -> Trackers:
        """The trackers of a training.

        Args:
            config: Its configuration.
            folder: Its folder.
            begun: Decisions at which this process begins.

        Raises:
            ConfigError: As of ``tracker_names``.
        """
        ident = folder.ident
        made: dict[str, Tracker] = {
            "tensorboard": TensorBoard(folder.path / "tensorboard", begun),
            "wandb": Wandb(folder.path, ident, config),
            "mlflow": Mlflow(ident, config),
        }
        names = tracker_names(config["tracker"])
        return cls([made[n] for n in names if n != "tensorboard" or config["tensorboard"]])

    def open(self, name: str) -> None:
        """Begin all of them."""
        for tracker in self._trackers:
            tracker.open(name)
            self._open.append(tracker)

    def write(self, timesteps: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """Add a point to each curve."""
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        for tracker in self._open:
            tracker.write(timesteps, named)

    def close(self, over: bool) -> None:
        """End all of them."""
        while self._open:
            self._open.pop().close(over)
