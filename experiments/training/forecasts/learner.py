"""Learning to forecast from pasts drawn from days of training.

The mean is learned by squares, the deviation by likelihood, quantiles by pinball loss.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from virtgym.envs.arrays import F4, F8
from virtgym.envs.errors import ConfigError
from virtgym.policies.forecast.inputs import DEVIATION, INPUTS, LOWEST, MEAN, OUTPUTS, QUANTILES, RECENT
from virtgym.policies.forecast.learned import LAYOUT, quantile_architecture
from virtgym.policies.forecast.quantile_net import describe_many
from virtgym.policies.learned.storage import Member

from ..learners import Arrays
from ..settings.own import ForecasterConfig
from ..torch_state import as_numpy, by_prefix, optimizer_arrays, restore_optimizer
from .task import ForecastTrainTask

SMALL = 0.05
"""Deviation, as a share of nominal CPU, from which on an error counts in shares of nominal CPU; below, errors
count ever more in shares of the deviation."""
QUANTILE_WEIGHT = 4.0
"""Weight of the quantiles' loss beside that of the mean."""
DEVIATION_WEIGHT = 0.5
"""The same of the deviation's."""
LEAST = 1e-3
"""Least deviation in the likelihood, in scales."""
UPDATES = 16
"""Minibatches of a chunk."""


class QuantileMlp(nn.Module):
    """The network of ``policies.forecast.quantile_net``, to be trained.

    Args:
        width: Of its hidden layers.
        rng: Draws the first weights.
    """

    def __init__(self, width: int, rng: np.random.Generator) -> None:
        super().__init__()
        sizes = (len(INPUTS), width, width, OUTPUTS)
        self.quantile = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))
        with torch.no_grad():
            for weights in self.parameters():
                bound = 1.0 / np.sqrt(weights.shape[-1])
                weights.copy_(torch.from_numpy(rng.uniform(-bound, bound, tuple(weights.shape))))

    def forward(self, inputs: Tensor) -> Tensor:
        """Mean, deviation and rising quantiles, (B, outputs): less the anchor, and in scales."""
        x = inputs
        for i, layer in enumerate(self.quantile):
            x = layer(x).relu() if i < len(self.quantile) - 1 else layer(x)
        lowest = x[:, LOWEST, None]
        steps = _rise(x[:, LOWEST + 1 :]).cumsum(dim=1)
        return torch.cat((x[:, MEAN, None], _rise(x[:, DEVIATION, None]), lowest, lowest + steps), dim=1)


def _rise(x: Tensor) -> Tensor:
    return 0.5 * (x + (x * x + 1.0).sqrt())


class ForecastLearner:
    """Draws pasts of VMs and learns what followed; everything random comes from one generator.

    Args:
        task: The load.
        config: The settings.
    """

    def __init__(self, task: ForecastTrainTask, config: ForecasterConfig) -> None:
        if len(config.hidden) != 2 or len(set(config.hidden)) != 1:
            raise ConfigError(f"agent.hidden={config.hidden}: a forecaster has two layers of the same width")
        torch.set_num_threads(1)
        self.task, self.config = task, config
        self.timesteps = 0
        self._rng = np.random.default_rng(task.seeds(1)[0])
        self._architecture = quantile_architecture(config.hidden[0])  # refuses what is too large
        self._net = QuantileMlp(config.hidden[0], self._rng).to(task.device)
        self._optimizer = torch.optim.Adam(self._net.parameters(), config.learning_rate)
        self._vms = [np.flatnonzero(load.last > load.first) for load in task.loads]
        self._prior = np.float32(_usual_spread(task))

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """Learn from ``UPDATES`` minibatches: always so many, or results would depend on who asks when."""
        size = self.config.batch_size
        inputs, place, truth = self._draw(UPDATES * size)
        scale = place[:, 1]
        there = scale > 0.0  # of who was always idle, 0 is forecast
        z = np.where(there, (truth - place[:, 0]) / np.where(there, scale, 1.0), 0.0)
        columns = torch.from_numpy(inputs), _column(z), _column(np.where(there, scale / (scale + SMALL), 0.0))
        left = 1.0 - self.timesteps / max(1, self.task.total_timesteps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (left if self.config.schedule == "linear" else 1.0)
        placed = [c.to(self.task.device) for c in columns]
        losses = [self._update(*(c[i : i + size] for c in placed)) for i in range(0, len(inputs), size)]
        self.timesteps += len(inputs)
        names = ("loss_mean", "loss_deviation", "loss_quantiles")
        return dict(zip(names, np.mean(losses, axis=0).tolist()))

    def _draw(self, n: int) -> tuple[F4, F8, F8]:
        """Inputs (n, inputs), anchors and scales (n, 2), and what followed (n,)."""
        rng, c = self._rng, self.config
        inputs, place, truth = np.zeros((n, len(INPUTS)), np.float32), np.zeros((n, 2)), np.zeros(n)
        sizes = np.array([len(vms) for vms in self._vms], dtype=np.float64)
        which = rng.choice(len(sizes), n, p=sizes / sizes.sum())
        for d, (load, vms) in enumerate(zip(self.task.loads, self._vms)):
            at = np.flatnonzero(which == d)
            m = len(at)
            v = vms[rng.integers(0, max(1, len(vms)), m)]
            first, last = load.first[v], load.last[v]
            steps = np.minimum(rng.integers(1, c.horizon + 1, m), last - first)
            now = first + (rng.random(m) * (last - steps - first + 1)).astype(np.int64)
            known = now + 1 - first
            few = np.minimum(known, rng.integers(1, RECENT + 1, m))
            known = np.where(rng.random(m) < c.young, few, known)
            rows, places = np.zeros((m, len(INPUTS)), np.float32), np.zeros((m, 2))
            describe_many(load.util, now + 1, known, v, steps, float(self._prior), rows, places)
            inputs[at], place[at], truth[at] = rows, places, load.util[now + steps, v]
        return inputs, place, truth

    def _update(self, inputs: Tensor, truth: Tensor, weight: Tensor) -> list[float]:
        said = self._net(inputs)
        short = truth - said[:, LOWEST:]
        levels = torch.tensor(QUANTILES, device=said.device)
        pinball = (weight * torch.maximum(levels * short, (levels - 1.0) * short)).mean()
        error = truth - said[:, MEAN, None]
        squares = ((weight * error) ** 2).mean()
        # The likelihood of a normal error: least at the true variance, whatever the distribution is.
        deviation = said[:, DEVIATION, None].clamp(min=LEAST)
        likelihood = (weight * (deviation.log() + 0.5 * (error.detach() / deviation) ** 2)).mean()
        self._optimizer.zero_grad()
        (squares + DEVIATION_WEIGHT * likelihood + QUANTILE_WEIGHT * pinball).backward()
        nn.utils.clip_grad_norm_(self._net.parameters(), self.config.max_grad_norm)
        self._optimizer.step()
        return [squares.item(), likelihood.item(), pinball.item()]

    def snapshot(self) -> tuple[Member, ...]:
        """The network as it is now."""
        weights = {name: as_numpy(value) for name, value in self._net.state_dict().items()}
        return (Member(self._architecture, LAYOUT, {**weights, "prior": np.array([self._prior])}),)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Network, optimiser and generator."""
        found: Arrays = {f"net/{k}": as_numpy(v) for k, v in self._net.state_dict().items()}
        found |= {f"optimizer/{k}": v for k, v in optimizer_arrays(self._optimizer).items()}
        return found, {"timesteps": self.timesteps, "rng": self._rng.bit_generator.state}

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        parts = by_prefix(arrays)
        self._net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in parts["net"].items()})
        restore_optimizer(self._optimizer, parts.get("optimizer", {}))
        self.timesteps = int(state["timesteps"])
        self._rng.bit_generator.state = state["rng"]


def _column(values: F8) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None]


def _usual_spread(task: ForecastTrainTask) -> float:
    """Standard deviation of a VM over its mean: the median of the VMs that do anything."""
    found = []
    for load in task.loads:
        at = np.arange(len(load.util))[:, None]
        alive = (at >= load.first) & (at <= load.last)
        n = np.maximum(alive.sum(axis=0), 1)
        mean = np.where(alive, load.util, 0.0).sum(axis=0) / n
        squares = np.where(alive, (load.util - mean) ** 2, 0.0).sum(axis=0) / n
        found.append(np.sqrt(squares[mean > 0.0]) / mean[mean > 0.0])
    every = np.concatenate(found)
    return float(np.median(every)) if len(every) else 1.0


def make_forecast_learner(task: ForecastTrainTask, config: ForecasterConfig) -> ForecastLearner:
    """Make the learner of a forecaster.

    Args:
        task: The load.
        config: The settings.
    """
    return ForecastLearner(task, config)
