"""What learners of chances have in common: networks of ``policies.rescheduling.odds``, and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from virtgym.policies.learned.architecture import TOWERS, Layout
from virtgym.policies.learned.storage import Member
from virtgym.policies.rescheduling.odds import odds_architecture

from ..learners import Arrays, need_same
from ..rescheduling_task import TRAINING, ReschedulingTrainTask, seeds_of
from ..settings.own import SearchGuideConfig
from ..torch_state import as_numpy, by_prefix, optimizer_arrays, restore_optimizer

Known = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Inputs (n, features), chances (n,), and what each weighs (n,)."""


class OddsNet(nn.Module):
    """The networks, to be trained.

    Args:
        towers: Their names.
        sizes: Widths of each, from the features to the one that it gives.
    """

    def __init__(self, towers: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__()
        for tower in towers:
            layers = (nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))
            self.add_module(tower, nn.ModuleList(layers))

    def logits(self, tower: str, x: torch.Tensor) -> torch.Tensor:
        """Of the chances, (n,)."""
        layers = list(getattr(self, tower))
        for layer in layers[:-1]:
            x = torch.relu(layer(x))
        found: torch.Tensor = layers[-1](x)
        return found.squeeze(1)


class OddsLearner:
    """Learns from searches that its own networks lead.

    Args:
        task: What is to be learned.
        config: Settings.
        network: A key of ``TOWERS``.
        layout: What the networks read.

    Attributes:
        games: The games of a search, on the snapshots of ``TRAINING``.
        rng: What the searches draw from.
    """

    def __init__(
        self, task: ReschedulingTrainTask, config: SearchGuideConfig, network: str, layout: Layout
    ) -> None:
        torch.set_num_threads(1)
        self.task, self.config, self.layout = task, config, layout
        self.games = task.env(seeds_of(task.scenario, TRAINING)).games
        seeds = task.seeds(2)
        torch.manual_seed(seeds[0])
        self.architecture = odds_architecture(layout, network, tuple(config.hidden))
        self.towers = TOWERS[network]
        self.net = OddsNet(self.towers, (sum(layout.sizes), *self.architecture.hidden, 1))
        self.optimizer = torch.optim.Adam(self.net.parameters(), config.learning_rate)
        self.rng = np.random.default_rng(seeds[1])
        self.timesteps = 0

    def begin(self) -> float:
        """Begin a snapshot of the training; its objective."""
        self.games.begin(snapshot=int(self.rng.integers(len(self.games.snapshots))))
        self.timesteps += 2 * self.games.limit
        return float(self.games.state.objective[0])

    def learn(self, known: Sequence[Known]) -> float:
        """Steps of the optimiser on what is known of each tower, by likelihood; the loss of the last."""
        loss = torch.zeros(())
        for _ in range(self.config.n_epochs):
            loss = torch.zeros(())
            for name, (x, chance, weight) in zip(self.towers, known):
                logits = self.net.logits(name, x)
                error = nn.functional.binary_cross_entropy_with_logits(logits, chance, reduction="none")
                loss = loss + (weight * error).sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return loss.item()

    def snapshot(self) -> tuple[Member, ...]:
        """The networks as they are now."""
        weights = {name: as_numpy(value) for name, value in self.net.state_dict().items()}
        return (Member(self.architecture, self.layout, weights, "logits"),)

    def load_member(self, member: Member) -> None:
        """Begin with the weights of another.

        Raises:
            ConfigError: If it is of another architecture, or reads other features.
        """
        need_same(member, self.architecture, self.layout)
        self.net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in member.weights.items()})

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Networks, optimiser and generator."""
        found: Arrays = {f"net/{k}": as_numpy(v) for k, v in self.net.state_dict().items()}
        found |= {f"optimizer/{k}": v for k, v in optimizer_arrays(self.optimizer).items()}
        return found, {"timesteps": self.timesteps, "rng": self.rng.bit_generator.state}

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        parts = by_prefix(arrays)
        self.net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in parts["net"].items()})
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        self.timesteps = int(state["timesteps"])
        self.rng.bit_generator.state = state["rng"]
