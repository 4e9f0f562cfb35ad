"""Networks of S seeds as one: weights stacked, products batched, one Adam over all, each seed by itself.

The memory is shared: weights of a learner's network and what its optimiser remembers are views of the stack,
so that a learner is looked at, saved and restored as if it had learned alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from virtgym.envs.arrays import F4, I8
from virtgym.policies.learned.networks import ScorerNet


class Offers(NamedTuple):
    """Candidates of N observations without padding, one after the other.

    Attributes:
        rows: Their columns, (n, F).
        counts: Candidates of each observation, (N,).
        rest: What an observation has besides, (N, G).
    """

    rows: F4
    counts: I8
    rest: F4


class Batch(NamedTuple):
    """B observations of each seed, as the networks read them; rows are padded to the seed that has most.

    Attributes:
        rows: (S, M, F).
        rest: (S, B, G).
        owner: The observation of each row, of all S (B + 1): the last of a seed owns its padding, (S * M,).
        counts: Rows of each of these, (S * (B + 1),).
        first: Place of each observation's first row in S * M, (S * B,).
    """

    rows: Tensor
    rest: Tensor
    owner: Tensor
    counts: Tensor
    first: Tensor


def make_batch(offers: Offers, starts: I8, which: I8, device: Any) -> Batch:
    """Lay some observations out for the networks; candidate 0 is always offered, and comes first.

    Args:
        offers: All observations.
        starts: First row of each.
        which: Those wanted, of every seed as many, (S, B).
        device: Where the networks are.
    """
    s, b = which.shape
    counts = offers.counts[which]
    ends = counts.cumsum(axis=1)
    most = int(ends[:, -1].max())
    padded = np.concatenate((counts, most - ends[:, -1:]), axis=1)
    owner = np.repeat(np.arange(s * (b + 1)), padded.ravel())
    begins = np.concatenate((np.zeros((s, 1), np.int64), ends), axis=1)  # of observations in their seed
    begins += most * np.arange(s)[:, None]
    from_row = np.concatenate((starts[which], np.zeros((s, 1), np.int64)), axis=1)
    source = (from_row - begins).ravel()[owner] + np.arange(s * most)
    source[owner % (b + 1) == b] = 0
    arrays = (
        *(offers.rows[source].reshape(s, most, -1), offers.rest[which]),
        *(owner, padded.ravel(), begins[:, :-1].ravel()),
    )
    return Batch(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays))


class StackedScorer:
    """The networks ``scorer`` of S seeds, with Adam.

    Args:
        nets: The networks, whose weights become views.
        optimizers: Their optimisers, of which only settings and memory are used.
        max_grad_norm: Gradients of each seed are shortened to this length.
    """

    def __init__(self, nets: Sequence[ScorerNet], optimizers: Sequence[Any], max_grad_norm: float) -> None:
        self.nets, self.optimizers, self.max_grad_norm = list(nets), list(optimizers), max_grad_norm
        first = nets[0]
        self.activation: nn.Module = first.activation
        self.device = next(first.parameters()).device
        shapes = {name: p.shape for name, p in first.named_parameters()}
        ends = np.cumsum([shape.numel() for shape in shapes.values()]).tolist()
        self._slices = dict(zip(shapes, zip([0, *ends[:-1]], ends, shapes.values())))
        memory = torch.zeros((3, len(nets), ends[-1]), device=self.device)
        self.flat, self._mean, self._square = memory
        self.steps = torch.zeros(len(nets))
        self.weights = {
            name: self.flat[:, a:b].view(len(nets), *shape).requires_grad_()
            for name, (a, b, shape) in self._slices.items()
        }
        for i in range(len(nets)):
            self.adopt(i)

    def adopt(self, i: int) -> None:
        """Take over what network and optimiser of a seed are now, and make them views."""
        optimizer = self.optimizers[i]
        with torch.no_grad():
            for name, p in self.nets[i].named_parameters():
                a, b, shape = self._slices[name]
                known = optimizer.state.get(p, {})
                self.steps[i] = float(known.get("step", 0.0))
                places = {"": self.flat, "exp_avg": self._mean, "exp_avg_sq": self._square}
                for key, memory in places.items():
                    mine = memory[i, a:b].view(shape)
                    value = p.data if not key else known.get(key)
                    mine.zero_() if value is None else mine.copy_(value)
                    if not key:
                        p.data = mine
                    else:
                        optimizer.state[p][key] = mine
                optimizer.state[p]["step"] = self.steps[i]

    def _layer(self, name: str, x: Tensor, added: Tensor | None = None) -> Tensor:
        """A layer of each seed of its rows, (S, n, in) to (S, n, out), and what is added to it."""
        weight = self.weights[f"{name}.weight"].transpose(1, 2)
        if f"{name}.bias" in self.weights:
            bias = self.weights[f"{name}.bias"].unsqueeze(1)
            found = torch.baddbmm(bias, x, weight)
            return found if added is None else found.add_(added)
        return torch.bmm(x, weight)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of rows (S, M) and values (S, B)."""
        s, m, _ = batch.rows.shape
        b = batch.rest.shape[1]

        def of_rows(x: Tensor) -> Tensor:
            """What observations have, (S, B, w), for each of their rows; padding gets the last one's."""
            filled = torch.cat((x, x[:, -1:]), dim=1).view(s * (b + 1), -1)
            return filled.index_select(0, batch.owner).view(s, m, -1)

        act = self.activation
        x = act(self._layer("node", batch.rows, of_rows(self._layer("shared", batch.rest))))
        embedded = act(self._layer("hidden", x))
        flat = embedded.view(s * m, -1)
        total = flat.new_zeros((s * (b + 1), flat.shape[1])).index_add(0, batch.owner, flat)
        top = torch.segment_reduce(flat, "max", lengths=batch.counts, unsafe=True)
        mean = total / batch.counts.clamp(min=1).unsqueeze(1)
        context = torch.cat((mean, top), dim=1).view(s, b + 1, -1)[:, :-1]
        pair = act(self._layer("pair", embedded, of_rows(self._layer("context", context))))
        nothing = flat.index_select(0, batch.first).view(s, b, -1)
        hidden = act(self._layer("value_hidden", torch.cat((context, nothing), dim=2)))
        scores = self._layer("score", pair).view(s * m)
        return self._log_softmax(scores, batch).view(s, m), self._layer("value", hidden).squeeze(2)

    def _log_softmax(self, scores: Tensor, batch: Batch) -> Tensor:
        lengths = batch.counts
        top = torch.segment_reduce(scores.detach().unsqueeze(1), "max", lengths=lengths, unsafe=True)
        shifted = scores - top.squeeze(1).index_select(0, batch.owner)
        odds = scores.new_zeros(len(lengths)).index_add(0, batch.owner, shifted.exp())
        return shifted - odds.clamp(min=1e-38).log().index_select(0, batch.owner)

    def step(self, loss: Tensor, rates: Sequence[float], active: Tensor) -> None:
        """Move the networks along the gradient of a loss, each as its own Adam would.

        Args:
            loss: The sum of the seeds' losses.
            rates: Step sizes, (S,).
            active: Which seeds are to move, (S,) of bool.
        """
        group = self.optimizers[0].param_groups[0]
        (beta1, beta2), eps = group["betas"], group["eps"]
        weights = list(self.weights.values())
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        grad = torch.cat([g.reshape(len(self.nets), -1) for g in found], dim=1)
        norm = grad.norm(dim=1, keepdim=True)
        grad *= (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        with torch.no_grad():
            if not (every := bool(active.all())):
                kept = self.flat[~active], self._mean[~active], self._square[~active]
            self.steps += active
            self._mean.lerp_(grad, 1.0 - beta1)
            self._square.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
            bias1, bias2 = (1.0 - beta ** self.steps.double() for beta in (beta1, beta2))
            size = (torch.tensor(rates, dtype=torch.float64) / bias1).float().unsqueeze(1).to(self.device)
            root = bias2.sqrt().float().unsqueeze(1).to(self.device)
            self.flat -= size * self._mean / (self._square.sqrt() / root + eps)
            if not every:
                self.flat[~active], self._mean[~active], self._square[~active] = kept
