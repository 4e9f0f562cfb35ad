"""Our networks as policies of Stable-Baselines3 (PPO, A2C, DQN) and of sb3-contrib (MaskablePPO).

    PPO(ActorCriticNetPolicy, PlacementVecEnv(256, flat=True), policy_kwargs={"network": "equivariant"})

Environments with ``observation="slots"`` need ``"observation": "slots"`` in ``policy_kwargs``, too; clusters
played by candidates ``"observation": "candidates", "network": "scorer"``.
Observations may be flat or the Dict of the environment. Legal actions are read off the observation (its
column ``fits`` or ``offered``), so that plain PPO, A2C and DQN never choose, and never bootstrap from, an
illegal one; MaskablePPO takes the environment's masks, which also cover actions besides the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor
from torch.nn.functional import log_softmax

from virtgym.envs.errors import ConfigError

from ..ties import choose_first_best
from .architecture import PARTS, Architecture, Layout
from .networks import MASKED, Network, build_network, fits_mask


def flatten_observation(observation: Any) -> Tensor:
    """A flat observation of a Dict one; a flat one stays."""
    if isinstance(observation, dict):
        task = next(task for task, parts in PARTS.items() if parts[0] in observation)
        parts = [part for part in (*PARTS[task], "window") if part in observation]
        return torch.cat([torch.as_tensor(observation[part]) for part in parts], dim=-1)
    return torch.as_tensor(observation)


def describe_network(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    network: str = "equivariant",
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    queue_window: int = 1,
    observation: str = "basic",
) -> tuple[Architecture, Layout]:
    """The architecture for an environment, and the columns that it reads.

    Args:
        observation_space: Its observations, flat or a Dict.
        action_space: Its actions.
        network: One of those in ``NETWORKS``.
        hidden: Widths of hidden layers.
        activation: One of ``ACTIVATIONS``.
        queue_window: The environment's, which a flat observation does not tell.
        observation: Likewise: one of ``architecture.SEEN``.

    Raises:
        ConfigError: If the environment is of another kind, or the network is impossible.
    """
    if not isinstance(action_space, spaces.Discrete):
        raise ConfigError(f"action space {action_space}: these networks score the actions of a Discrete one")
    layout = Layout.current(observation, queue_window)
    n_nodes = layout.n_rows(int(spaces.flatdim(observation_space)))
    n_extra = int(action_space.n) - n_nodes
    fixed = n_nodes if network == "mlp" else 0
    if n_extra < 0:
        raise ConfigError(
            f"action space {action_space}: has fewer actions than the {n_nodes} rows "
            f"of an observation={observation}"
        )
    made = Architecture(network, *layout.sizes, fixed, n_extra, tuple(hidden), activation)
    return made, layout


def legal_actions(observation: Tensor, n_actions: int, layout: Layout) -> Tensor | None:
    """Legal actions (B, n) as far as an observation tells; None where actions are not just the nodes.

    A game that is over has no legal action: then all count, so that no distribution is empty.
    """
    fits = fits_mask(observation, layout)
    if fits.shape[1] != n_actions:
        return None
    return fits | ~fits.any(dim=1, keepdim=True)


def _first_best(scores: Tensor) -> Tensor:
    """The best action of each row, the lowest of equals, (B,)."""
    values = scores.detach().cpu().numpy()
    chosen = choose_first_best(values, np.ones(values.shape, np.bool_))
    return torch.as_tensor(chosen, device=scores.device)


class _Described:
    """What all three kinds of policy share: settings that describe our network, kept for saving."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        network: str = "equivariant",
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        queue_window: int = 1,
        observation: str = "basic",
        **kwargs: Any,
    ) -> None:
        self._described, self.layout = describe_network(
            observation_space, action_space, network, hidden, activation, queue_window, observation
        )
        self._seen = {"queue_window": queue_window, "observation": observation}
        made: Any = super().__init__  # SB3's class, which comes after this one
        made(observation_space, action_space, lr_schedule, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        a = self._described
        own: dict[str, Any] = {"network": a.network, "hidden": a.hidden, "activation": a.activation}
        return {**super()._get_constructor_parameters(), **own, **self._seen}  # type: ignore[misc]


class _NetMixin(_Described):
    """What both kinds of actor-critic policy share; ``net`` gives logits and values."""

    net: Network
    layout: Layout
    action_space: Any

    def _log_odds(self, scores: Tensor, observation: Tensor, masks: Any = None) -> Tensor:
        """Log-probabilities (B, actions), very low where illegal."""
        if masks is None:
            legal = legal_actions(observation, scores.shape[1], self.layout)
        else:
            legal = torch.as_tensor(masks, dtype=torch.bool, device=scores.device).reshape(scores.shape)
        if legal is not None:
            scores = torch.where(legal, scores, MASKED)
        return log_softmax(scores, dim=1)

    def _act(
        self, observation: Any, deterministic: bool = False, masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        flat = flatten_observation(observation)
        scores, values = self.net(flat)
        log_odds = self._log_odds(scores, flat, masks)
        if deterministic:
            actions = _first_best(log_odds)
        else:
            actions = torch.multinomial(log_odds.exp(), 1).squeeze(1)
        log_prob = log_odds.gather(1, actions.unsqueeze(1)).squeeze(1)
        return actions, values.unsqueeze(1), log_prob

    def _judge(self, observation: Any, actions: Tensor, masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        flat = flatten_observation(observation)
        scores, values = self.net(flat)
        log_odds = self._log_odds(scores, flat, masks)
        log_prob = log_odds.gather(1, actions.long().reshape(-1, 1)).squeeze(1)
        entropy = -(log_odds.exp() * log_odds).sum(dim=1)
        return values.unsqueeze(1), log_prob, entropy

    def _build(self, lr_schedule: Any) -> None:
        self.net = build_network(self._described)
        kind: Any = self.optimizer_class  # type: ignore[attr-defined]
        self.optimizer = kind(self.net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[attr-defined]

    def predict_values(self, obs: Any) -> Tensor:
        """Values (B, 1) of observations."""
        return self.net.values(flatten_observation(obs)).unsqueeze(1)


class ActorCriticNetPolicy(_NetMixin, ActorCriticPolicy):
    """Policy of PPO and A2C that never chooses an illegal action.

    Args:
        observation_space: Of the environment.
        action_space: Its actions.
        lr_schedule: Learning rate by remaining progress.
        network: ``equivariant``, ``scorer`` or ``mlp``.
        hidden: Widths of hidden layers.
        activation: ``relu`` or ``tanh``.
        queue_window: The environment's.
        observation: The environment's.
        **kwargs: As of SB3's policy.
    """

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log-probabilities (B,)."""
        return self._act(obs, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self._act(observation, deterministic)[0]

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities (B,) and entropies (B,)."""
        return self._judge(obs, actions)

    def get_distribution(self, obs: Any) -> Any:
        """The distribution over actions, as SB3's object."""
        flat = flatten_observation(obs)
        logits: Any = {"action_logits": self._log_odds(self.net.scores(flat), flat)}
        return self.action_dist.proba_distribution(**logits)


class MaskableNetPolicy(_NetMixin, MaskableActorCriticPolicy):
    """Policy of MaskablePPO; without masks it reads them off the observation.

    Args:
        observation_space: Of the environment.
        action_space: Its actions.
        lr_schedule: Learning rate by remaining progress.
        network: ``equivariant``, ``scorer`` or ``mlp``.
        hidden: Widths of hidden layers.
        activation: ``relu`` or ``tanh``.
        queue_window: The environment's.
        observation: The environment's.
        **kwargs: As of sb3-contrib's policy.
    """

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log-probabilities (B,)."""
        return self._act(obs, deterministic, action_masks)

    def _predict(self, observation: Any, deterministic: bool = False, action_masks: Any = None) -> Tensor:
        return self._act(observation, deterministic, action_masks)[0]

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities (B,) and entropies (B,)."""
        return self._judge(obs, actions, action_masks)

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """The distribution over actions, as sb3-contrib's object."""
        flat = flatten_observation(obs)
        logits = self._log_odds(self.net.scores(flat), flat, action_masks)
        return self.action_dist.proba_distribution(action_logits=logits)


class NetQNetwork(QNetwork):
    """Action values, very low where illegal: neither played nor bootstrapped from.

    Args:
        architecture: The network.
        layout: Columns of its observations.
        observation_space: Of the environment.
        action_space: Its actions.
    """

    def __init__(
        self,
        architecture: Architecture,
        layout: Layout,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
    ) -> None:
        # Not QNetwork's own constructor: that would build a network of its own.
        BasePolicy.__init__(self, observation_space, action_space)
        self.layout = layout
        self.net = build_network(architecture)

    def forward(self, obs: Any) -> Tensor:
        """Values (B, actions)."""
        flat = flatten_observation(obs)
        scores = self.net.scores(flat)
        legal = legal_actions(flat, scores.shape[1], self.layout)
        return scores if legal is None else torch.where(legal, scores, MASKED)

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return _first_best(self(observation))


class QNetPolicy(_Described, DQNPolicy):
    """Policy of DQN.

    Args:
        observation_space: Of the environment.
        action_space: Its actions.
        lr_schedule: Learning rate by remaining progress.
        network: ``equivariant``, ``scorer`` or ``mlp``.
        hidden: Widths of hidden layers.
        activation: ``relu`` or ``tanh``.
        queue_window: The environment's.
        observation: The environment's.
        **kwargs: As of SB3's policy.
    """

    def make_q_net(self) -> QNetwork:
        """A network of values, freshly initialised."""
        assert isinstance(self.action_space, spaces.Discrete)
        return NetQNetwork(self._described, self.layout, self.observation_space, self.action_space)


def sample_legal(
    observation: Any, n_actions: int, rng: np.random.Generator, layout: Layout
) -> NDArray[np.int64]:
    """A uniformly drawn legal action of each observation, (B,)."""
    flat = flatten_observation(observation)
    legal = legal_actions(flat, n_actions, layout)
    odds = rng.random((len(flat), n_actions))
    if legal is not None:
        odds = np.where(legal.numpy(), odds, -1.0)
    drawn: NDArray[np.int64] = odds.argmax(axis=1)
    return drawn
