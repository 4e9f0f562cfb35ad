"""Forecasts of a trained network: the mean, the deviation to expect, and upper quantiles."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike

from virtgym.envs.arrays import F8, I8
from virtgym.envs.errors import ConfigError

from ..learned.architecture import Architecture, Layout
from ..learned.storage import Agent, load_agent
from .forecasters import Forecaster
from .inputs import DEVIATION, LOWEST, MEAN, OUTPUTS, SAMPLES, SERIES, WINDOW
from .quantile_net import forecast_quantiles, make_quantile_net

LAYOUT = Layout("forecast", (SAMPLES, SERIES))
"""What the network reads."""


def quantile_architecture(width: int) -> Architecture:
    """The network of a forecaster.

    Args:
        width: Of its two hidden layers.
    """
    n_samples, _, n_series = LAYOUT.sizes
    return Architecture("quantiles", n_samples, 0, n_series, n_extra=OUTPUTS, hidden=(width, width))


class LearnedForecaster(Forecaster):
    """A trained network, or several, whose outputs are averaged.

    A series of few samples is forecast as training saw such series: its scale is drawn towards the usual one
    of its level, by ``quantile_net.PRIOR_SAMPLES`` samples, and the network is told how many there are. One
    without a sample is forecast to be 0, and so is one that has been 0 all the time.

    Args:
        agent: What its folder holds.
        name: What to call it in messages.

    Raises:
        ConfigError: If it is no forecaster, or reads other inputs than this version makes.
    """

    def __init__(self, agent: Agent, name: str = "forecaster") -> None:
        if agent.task != "forecast":
            raise ConfigError(
                f"{name}: is an agent for {agent.task}; forecasters come from virtgym train agent=forecaster"
            )
        for member in agent.members:
            if member.layout != LAYOUT or member.architecture.n_extra != OUTPUTS:
                raise ConfigError(f"{name}: reads or gives other numbers than forecasters of this version")
        self.agent = agent
        self._nets = [make_quantile_net(member.weights) for member in agent.members]

    @property
    def samples(self) -> int | None:
        """The window of its statistics."""
        return WINDOW

    def outputs(self, history: ArrayLike, steps: int = 1, counts: ArrayLike | None = None) -> F8:
        """Mean, deviation and quantiles of every series, (outputs, V); arguments as of ``predict``."""
        past, known = self._checked(history, steps, counts)
        out = np.zeros((OUTPUTS, past.shape[1]))
        if len(past):
            self._write(past, steps, known, out)
        return out

    def _write(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        for net in self._nets:
            forecast_quantiles(history, counts, steps, net, out)
        if len(self._nets) > 1:
            out /= len(self._nets)

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        every = np.zeros((OUTPUTS, len(out)))
        self._write(history, steps, counts, every)
        out[:] = every[MEAN]

    def deviation(self, history: ArrayLike, steps: int = 1, counts: ArrayLike | None = None) -> F8:
        """Standard deviation to expect of the error, as training saw it."""
        return np.asarray(self.outputs(history, steps, counts)[DEVIATION])

    def upper(self, history: ArrayLike, steps: int = 1, counts: ArrayLike | None = None) -> F8:
        """Quantiles from ``inputs.QUANTILES[1]`` on."""
        return self.outputs(history, steps, counts)[LOWEST + 1 :]


def load_forecaster(folder: str | os.PathLike[str]) -> LearnedForecaster:
    """Make a forecaster of its folder; no code in it is run.

    Args:
        folder: The folder.

    Raises:
        ConfigError: If the folder holds no forecaster; one line that names it.
    """
    return LearnedForecaster(load_agent(folder), os.fspath(folder))
