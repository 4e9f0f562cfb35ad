"""Ray: each cell is a task of a cluster that is there already, or of one that is started here."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import ray

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import one_line

from ...config.launchers import Launcher, RayConfig
from .engine import Call, Engine, LostError

_STORE_BYTES = 200_000_000
"""Memory that a cluster of the command's own sets aside for results, which are small."""

_ASK_S = 1.0
"""How often to ask how large the cluster is, s."""


class RayEngine(Engine):
    """Tasks of a Ray cluster."""

    def __init__(self, launcher: Launcher) -> None:
        self._config = cast(RayConfig, launcher.config)
        self._most, self._there, self._asked_s = launcher.workers, 1, -math.inf
        self._own = not ray.is_initialized()
        if self._own:
            _connect(self._config, launcher.workers)
        # Ray's own retries do not tell a cell's fault from a node's.
        self._run = ray.remote(num_cpus=self._config.cpus, max_retries=0)(_run)

    @property
    def workers(self) -> int:  # type: ignore[override]
        """As many as the cluster has CPUs for now: nodes come and go."""
        if self._most is not None:
            return self._most
        if time.monotonic() > self._asked_s + _ASK_S:
            self._asked_s, cpus = time.monotonic(), ray.cluster_resources().get("CPU", 1.0)
            self._there = max(1, int(cpus / self._config.cpus))
        return self._there

    def submit(self, call: Call, tasks: Sequence[Any]) -> list[Future[Any]]:
        """A task of Ray each."""
        return [self._run.remote(call, task).future() for task in tasks]

    def result(self, future: Future[Any]) -> Any:
        """The result; whatever Ray says in its place is a loss."""
        try:
            return future.result()
        except ray.exceptions.RayError as error:
            raise LostError(f"Ray lost it: {one_line(error)}") from None

    def close(self) -> None:
        """Leave the cluster, which ends what still runs; one that was started here ends."""
        if self._own:
            ray.shutdown()


def _run(call: Call, task: Any) -> Any:
    return call(task)


def _connect(config: RayConfig, workers: int | None) -> None:
    """Join a cluster, or start one.

    Raises:
        ConfigError: If there is none at the address, or it does not answer in time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    shared: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address is None:
        ray.init(
            num_cpus=workers or os.cpu_count(),
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            **shared,
        )
        return
    _knock(config)
    said: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=config.address, **shared)
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
            said.append(error)

    # What listens there may be no Ray, of which Ray itself says nothing for long: a thread can be left.
    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    joining.join(config.timeout_s)
    if joining.is_alive():
        raise _unreachable(config, f"no answer in {config.timeout_s:g} s")
    if said:
        raise _unreachable(config, one_line(said[0]))


def _knock(config: RayConfig) -> None:
    """See whether anything listens at the address: Ray would try for a minute, then end the process."""
    host, colon, port = str(config.address).removeprefix("ray://").rpartition(":")
    if config.address == "auto":
        return
    if not colon or not port.isdecimal():
        raise ConfigError(f"launcher.address={config.address}: must be HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=config.timeout_s).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(config, one_line(error)) from None


def _unreachable(config: RayConfig, why: str) -> ConfigError:
    return ConfigError(
        f"launcher.address={config.address}: no Ray cluster can be reached there ({why}); "
        "start one by: ray start --head"
    )
