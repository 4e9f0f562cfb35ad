"""PyTorch networks: permutation-equivariant scorers of nodes or of candidates, and a plain MLP.

All read flat observations, rows end to end and then what they share, and give one score per action (logits or
action values) and one value per observation.

``equivariant`` reads a placement observation (B, 2N · node columns + request columns + global columns) and
treats nodes alike. With x_a the columns of node a, x_a' those of its sibling (the other node of the host), u
the request with the cluster's columns, and σ the activation::

    e_a   = σ(W₂ σ(W₁ [x_a, x_a'] + V u + b₁) + b₂)
    c     = [mean over a of e_a, maximum over a of e_a]
    score = w · σ(W₃ [e_a, e_a'] + U c + b₃) + b₄
    value = v · σ(W₄ [c, u] + b₅) + b₆

so that permuting hosts, or swapping the nodes of a host, permutes scores likewise and leaves the value (deep
sets: Zaheer et al., NeurIPS 2017). It runs on any number of hosts. Weights are split by input block: u and c
are multiplied once per observation and not once per node.

``scorer`` reads a set of candidates (B, K · candidate columns + global columns), of which those that are all
0 are padding: they take no part and score 0. It is the same with one candidate in the place of a pair::

    e_k   = σ(W₂ σ(W₁ x_k + V u + b₁) + b₂)
    score = w · σ(W₃ e_k + U c + b₃) + b₄
    value = v · σ(W₄ [c, e_0] + b₅) + b₆

with mean and maximum over the candidates that are offered; candidate 0 is to do nothing. It runs on any
number of candidates, so on clusters of any size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .architecture import LEGAL, Architecture, Layout

MASKED = -1e8
"""Score of an illegal action: finite, so that a product with 0 stays 0."""


def fits_mask(observation: Tensor, layout: Layout) -> Tensor:
    """Which rows may be chosen, read off the observation, (B, rows) of bool.

    Args:
        observation: Flat observations.
        layout: Their columns; the one of ``LEGAL`` says it.
    """
    n_row = layout.sizes[0]
    n = layout.n_rows(observation.shape[1]) * n_row
    return observation[:, layout.rows.index(LEGAL[layout.task]) : n : n_row] > 0.5


class Network(nn.Module):
    """Base of all networks.

    Args:
        architecture: Kind and sizes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.activation: nn.Module = nn.ReLU() if architecture.activation == "relu" else nn.Tanh()

    def linear(self, name: str) -> nn.Linear:
        """A layer as the architecture describes it."""
        shapes = self.architecture.shapes()
        n_out, n_in = shapes[f"{name}.weight"]
        return nn.Linear(n_in, n_out, bias=f"{name}.bias" in shapes)

    def initialise(self, output: str, gain: float = 0.01) -> None:
        """Orthogonal weights and no biases; scores begin nearly equal.

        Args:
            output: Prefix of the layers that give scores.
            gain: Their gain.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                last = name.startswith(output) or name.startswith("extra.") or name == "extra"
                top = name == "value" or name == f"value.{len(self.architecture.hidden)}"
                nn.init.orthogonal_(module.weight, gain if last else 1.0 if top else math.sqrt(2.0))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, actions) and values (B,) of flat observations."""
        raise NotImplementedError

    def scores(self, observation: Tensor) -> Tensor:
        """Scores alone."""
        return self.forward(observation)[0]

    def values(self, observation: Tensor) -> Tensor:
        """Values alone."""
        return self.forward(observation)[1]


class MlpNet(Network):
    """Two towers of dense layers, one for scores and one for the value, on a fixed number of hosts.

    Args:
        architecture: Sizes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        n = len(architecture.hidden) + 1
        self.policy = nn.ModuleList(self.linear(f"policy.{i}") for i in range(n))
        self.value = nn.ModuleList(self.linear(f"value.{i}") for i in range(n))
        self.initialise(f"policy.{n - 1}")

    def _climb(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in list(layers)[:-1]:
            x = self.activation(layer(x))
        top: Tensor = layers[-1](x)
        return top

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values."""
        return self._climb(self.policy, observation), self._climb(self.value, observation).squeeze(1)

    def scores(self, observation: Tensor) -> Tensor:
        """Scores alone: one tower."""
        return self._climb(self.policy, observation)

    def values(self, observation: Tensor) -> Tensor:
        """Values alone: the other."""
        return self._climb(self.value, observation).squeeze(1)


class EquivariantNet(Network):
    """The permutation-equivariant scorer.

    Args:
        architecture: Sizes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.node = self.linear("node")
        self.shared = self.linear("shared")
        self.hidden = self.linear("hidden")
        self.pair = self.linear("pair")
        self.context = self.linear("context")
        self.score = self.linear("score")
        self.value_hidden = self.linear("value_hidden")
        self.value = self.linear("value")
        if architecture.n_extra:
            self.extra_hidden = self.linear("extra_hidden")
            self.extra = self.linear("extra")
        self.initialise("score")

    @staticmethod
    def _with_sibling(x: Tensor) -> Tensor:
        """[x_a, x_sibling(a)] of every node: (B, 2N, F) to (B, 2N, 2F)."""
        b, m, f = x.shape
        swapped = x.view(b, m // 2, 2, f).flip(2).reshape(b, m, f)
        return torch.cat((x, swapped), dim=2)

    def _encode(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of nodes (B, 2N, w), context (B, 2w), and request with globals (B, …)."""
        a = self.architecture
        split = observation.shape[1] - a.n_request - a.n_globals
        nodes = observation[:, :split].reshape(len(observation), -1, a.n_node)
        rest = observation[:, split:]
        first = self.activation(self.node(self._with_sibling(nodes)) + self.shared(rest).unsqueeze(1))
        embedded = self.activation(self.hidden(first))
        context = torch.cat((embedded.mean(dim=1), embedded.max(dim=1).values), dim=1)
        return embedded, context, rest

    def _score(self, embedded: Tensor, context: Tensor, rest: Tensor) -> Tensor:
        pair = self.pair(self._with_sibling(embedded)) + self.context(context).unsqueeze(1)
        scores: Tensor = self.score(self.activation(pair)).squeeze(2)
        if self.architecture.n_extra:
            hidden = self.activation(self.extra_hidden(torch.cat((context, rest), dim=1)))
            scores = torch.cat((scores, self.extra(hidden)), dim=1)
        return scores

    def _value(self, context: Tensor, rest: Tensor) -> Tensor:
        value: Tensor = self.value(self.activation(self.value_hidden(torch.cat((context, rest), dim=1))))
        return value.squeeze(1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values, from the same embeddings."""
        embedded, context, rest = self._encode(observation)
        return self._score(embedded, context, rest), self._value(context, rest)

    def scores(self, observation: Tensor) -> Tensor:
        """Scores alone."""
        return self._score(*self._encode(observation))

    def values(self, observation: Tensor) -> Tensor:
        """Values alone."""
        _, context, rest = self._encode(observation)
        return self._value(context, rest)


class _Offered(NamedTuple):
    """The candidates of a batch that are no padding, packed one after the other."""

    embedded: Tensor  # (n, w) e
    context: Tensor  # (B, 2w) c
    place: Tensor  # (n,) in the batch's B * K rows
    owner: Tensor  # (n,) the observation
    n_rows: int  # K


class ScorerNet(EquivariantNet):
    """The scorer of candidates: the layers of the equivariant network, each read by itself.

    Only what is offered is multiplied: most rows are padding.

    Args:
        architecture: Sizes.
    """

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values, from the same embeddings."""
        offered = self._embed(observation)
        return self._score_offered(offered), self._value_offered(offered)

    def scores(self, observation: Tensor) -> Tensor:
        """Scores alone."""
        return self._score_offered(self._embed(observation))

    def values(self, observation: Tensor) -> Tensor:
        """Values alone."""
        return self._value_offered(self._embed(observation))

    def _embed(self, observation: Tensor) -> _Offered:
        a, b = self.architecture, len(observation)
        split = observation.shape[1] - a.n_globals
        n_rows = split // a.n_node
        table = observation[:, :split].view(b, n_rows, a.n_node)  # most is padding: nothing is copied
        offered = table.abs().amax(dim=2) > 0.0  # padding is all 0; ``any`` takes longer than the layers
        owner, row = offered.nonzero(as_tuple=True)
        place = owner * n_rows + row
        shared = self.shared(observation[:, split:]).index_select(0, owner)
        embedded = self.activation(self.hidden(self.activation(self.node(table[owner, row]) + shared)))
        count = offered.sum(dim=1)
        total = embedded.new_zeros((b, embedded.shape[1])).index_add(0, owner, embedded)
        top = torch.segment_reduce(embedded, "max", lengths=count, unsafe=True)
        top = torch.where(count.unsqueeze(1) > 0, top, 0.0)
        context = torch.cat((total / count.clamp(min=1).unsqueeze(1), top), dim=1)
        return _Offered(embedded, context, place, owner, n_rows)

    def _score_offered(self, offered: _Offered) -> Tensor:
        b = len(offered.context)
        shared = self.context(offered.context).index_select(0, offered.owner)
        found = self.score(self.activation(self.pair(offered.embedded) + shared)).squeeze(1)
        scores: Tensor = found.new_zeros(b * offered.n_rows).index_copy(0, offered.place, found)
        return scores.view(b, offered.n_rows)

    def _value_offered(self, offered: _Offered) -> Tensor:
        first = (offered.place % offered.n_rows == 0).nonzero()[:, 0]
        nothing = offered.embedded.new_zeros((len(offered.context), offered.embedded.shape[1]))
        own = offered.embedded.index_select(0, first)
        nothing = nothing.index_copy(0, offered.owner.index_select(0, first), own)
        return self._value(offered.context, nothing)


def build_network(architecture: Architecture) -> Network:
    """The network that an architecture describes, freshly initialised."""
    kinds: dict[str, type[Network]] = {"equivariant": EquivariantNet, "scorer": ScorerNet, "mlp": MlpNet}
    return kinds[architecture.network](architecture)
