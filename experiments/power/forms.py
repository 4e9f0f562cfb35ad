"""Forms of a host's power over its load, and their least-squares fit to metered watts.

    linear   P(u) = P0 + D u
    mse      P(u) = P0 + D (2 s u - (s u)^r),  1 <= r <= 2    (Fan, Weber & Barroso, ISCA 2007; OpenDC's MSE)
    table    straight lines between 11 points, each not below the one before
    *_busy   any of these, and B for every host that does anything (u > 0); ``busy`` is the linear one

s is 1 unless it is to be fitted. Hosts of several types have curves in proportion to what they draw at most
now. A fit minimises the relative errors of the sum over all hosts, robustly: a residual beyond 1.5 usual ones
(1.4826 times the median of their absolute values, of the plain fit) counts with its absolute value
(``soft_l1``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import HostType
from virtgym.envs.sim.models.power import PowerCurve

from ..analysis.stats import draw_counts
from .loads import GRID

POINTS = 11
"""Points of a fitted table."""
FORMS = ("linear", "mse", "table", "busy", "mse_busy", "table_busy")
"""Forms that can be fitted."""

_TURN = 1.5
_USUAL = 1.4826


@dataclass(frozen=True)
class Hosts:
    """What is known of a metered group of hosts.

    Attributes:
        at: Hosts at each load of ``loads.GRID``, weighted by type, (S, G).
        busy: Hosts that do anything, weighted likewise, (S,).
    """

    at: F8
    busy: F8

    def take(self, keep: I8 | slice) -> Hosts:
        """Some of the steps."""
        return Hosts(self.at[keep], self.busy[keep])


@dataclass(frozen=True)
class Fit:
    """A fitted form.

    Attributes:
        form: One of ``FORMS``.
        names: Names of the parameters, (K,).
        values: Parameters, (K,).
    """

    form: str
    names: tuple[str, ...]
    values: F8

    def curve(self) -> F8:
        """Power of a host at the loads of ``GRID``, W, without what any load adds."""
        return shape(self.form, self.values)

    @property
    def busy_w(self) -> float:
        """What any load adds, W."""
        return float(self.values[self.names.index("busy_w")]) if "busy_w" in self.names else 0.0

    def watts(self, hosts: Hosts) -> F8:
        """Power of a group of hosts in each step, W, (S,)."""
        return np.asarray(hosts.at @ self.curve() + self.busy_w * hosts.busy)

    def host_type(self, kind: HostType, weight: float) -> HostType:
        """A host type that draws so, ``weight`` times as much."""
        known = dict(zip(self.names, self.values))
        weight = float(weight)  # what is written is plain data
        busy_w = round(weight * self.busy_w, 4)
        curve = self.curve() * weight
        if is_table(self.form):
            points = tuple(round(float(w), 4) for w in curve[:: (len(GRID) - 1) // (POINTS - 1)])
            return replace(kind, power_w=points, curve=PowerCurve(busy_w=busy_w))
        idle = round(weight * float(known["idle_w"]), 4)
        peak = round(weight * float(known["idle_w"] + known["range_w"]), 4)
        if not is_mse(self.form):
            return replace(kind, curve=PowerCurve("linear", idle, peak, busy_w=busy_w))
        exponent, scale = round(float(known["exponent"]), 6), round(float(known.get("scale", 1.0)), 6)
        return replace(kind, curve=PowerCurve("fan", idle, peak, exponent, busy_w, scale))


def is_table(form: str) -> bool:
    """Whether a form is a table."""
    return form.startswith("table")


def is_mse(form: str) -> bool:
    """Whether a form has an exponent."""
    return form.startswith("mse")


def parameters(form: str, scale: bool) -> tuple[tuple[str, ...], F8, F8]:
    """Names, least and largest values of a form's parameters; of a table what each point adds."""
    names: tuple[str, ...] = ("idle_w",)
    names += tuple(f"step_{j}_w" for j in range(1, POINTS)) if is_table(form) else ("range_w",)
    low, high = [0.0] * len(names), [np.inf] * len(names)
    if is_mse(form):
        names, low, high = (*names, "exponent"), [*low, 1.0], [*high, 2.0]
        if scale:
            names, low, high = (*names, "scale"), [*low, 0.5], [*high, 2.0]
    if form.endswith("busy"):
        names, low, high = (*names, "busy_w"), [*low, 0.0], [*high, np.inf]
    return names, np.array(low), np.array(high)


def _basis(form: str) -> F8:
    """Power at the loads of ``GRID`` for each linear parameter, (G, K): of a table what a point adds."""
    if is_table(form):
        rising = np.clip(GRID[:, None] * (POINTS - 1) - np.arange(POINTS - 1), 0.0, 1.0)
        return np.hstack([np.ones((len(GRID), 1)), rising])
    return np.stack([np.ones_like(GRID), GRID], axis=1)


def shape(form: str, values: F8) -> F8:
    """Power at the loads of ``GRID``, W, (G,), without what any load adds."""
    if not is_mse(form):
        basis = _basis(form)
        return np.asarray(basis @ values[: basis.shape[1]])
    idle, spread, exponent = values[:3]
    scale = values[3] if len(values) - form.endswith("busy") > 3 else 1.0
    u = np.minimum(1.0, scale * GRID)
    return np.asarray(idle + spread * (2.0 * u - u**exponent))


def told(form: str, names: tuple[str, ...], values: F8) -> tuple[tuple[str, ...], F8]:
    """Parameters, (…, K), as a host type has them: points of a table, the peak in place of the range."""
    found = values.copy()
    if is_table(form):
        found[..., :POINTS] = np.cumsum(values[..., :POINTS], axis=-1)
        return (*(f"power_w[{j}]" for j in range(POINTS)), *names[POINTS:]), found
    found[..., 1] += values[..., 0]
    return ("idle_w", "peak_w", *names[2:]), found


def fit(form: str, hosts: Hosts, watts: F8, scale: bool = False) -> tuple[Fit, F8, F8]:
    """Fit a form.

    Args:
        form: One of ``FORMS``.
        hosts: The hosts, S steps.
        watts: What they drew, W, above 0, (S,).
        scale: Whether the MSE form's scale of load is fitted, too.

    Returns:
        The fit; the Jacobian of the relative errors, (S, K), and the relative errors, (S,), both times the
        root of the weight that the step has in the end.
    """
    try:
        from scipy.optimize import least_squares
    except ModuleNotFoundError:
        raise ConfigError("a fit of power needs scipy: pip install 'virtgym[power]'") from None

    names, low, high = parameters(form, scale)
    inverse = 1.0 / watts
    basis = None if is_mse(form) else hosts.at @ _basis(form) * inverse[:, None]
    busy = hosts.busy * inverse if form.endswith("busy") else None
    if basis is not None and busy is not None:
        basis = np.hstack([basis, busy[:, None]])

    def errors(x: F8) -> F8:
        if basis is not None:
            return np.asarray(basis @ x - 1.0)
        drawn = hosts.at @ shape(form, x) * inverse
        return np.asarray((drawn if busy is None else drawn + x[-1] * busy) - 1.0)

    jacobian: Any = "2-point" if basis is None else lambda _x: basis
    begin = _begin(names, hosts, watts)
    plain = least_squares(errors, begin, jacobian, (low, high), x_scale="jac")
    turn = max(1e-6, _TURN * _USUAL * float(np.median(np.abs(plain.fun))))
    found = least_squares(
        errors,
        np.clip(plain.x, low, high),
        jacobian,
        (low, high),
        x_scale="jac",
        loss="soft_l1",
        f_scale=turn,
    )
    root = (1.0 + (found.fun / turn) ** 2) ** -0.25
    slopes = basis if basis is not None else _slopes(errors, found.x)
    return Fit(form, names, found.x), slopes * root[:, None], found.fun * root


def _begin(names: tuple[str, ...], hosts: Hosts, watts: F8) -> F8:
    """Where a fit starts: half of the mean power is idle, the other half follows load."""
    each = float(np.median(watts)) / max(1e-9, float(hosts.at.sum(axis=1).mean()))
    values = {"idle_w": 0.5 * each, "range_w": each, "exponent": 1.4, "scale": 1.0, "busy_w": 0.1 * each}
    return np.array([values.get(name, each / POINTS) for name in names])


def _slopes(errors: Callable[[F8], F8], x: F8) -> F8:
    """Central differences, (S, K)."""
    size = 1e-5 * np.maximum(1e-3, np.abs(x))
    return np.stack([(errors(x + e) - errors(x - e)) / (2.0 * e.max()) for e in np.diag(size)], axis=1)


def resampled_fits(
    found: Fit, slopes: F8, errors: F8, blocks: I8, rng: np.random.Generator, n_resamples: int, scale: bool
) -> F8:
    """Parameters of block-bootstrap resamples, (R, K), each by one Gauss-Newton step from the fit.

    Args:
        found: The fit.
        slopes: As ``fit`` returns them.
        errors: Likewise.
        blocks: Block of each step, (S,), from 0.
        rng: Source of the resamples.
        n_resamples: Number of resamples, R.
        scale: As for ``fit``.
    """
    n, k = int(blocks.max()) + 1, len(found.values)
    grams, sides = np.zeros((n, k, k)), np.zeros((n, k))
    for block in range(n):
        here = blocks == block
        grams[block] = slopes[here].T @ slopes[here]
        sides[block] = slopes[here].T @ errors[here]
    counts = draw_counts(n, rng, n_resamples)
    _, low, high = parameters(found.form, scale)
    free = (found.values > low + 1e-9) & (found.values < high - 1e-9)
    values = np.repeat(found.values[None], n_resamples, axis=0)
    gram = np.tensordot(counts, grams, axes=1)[:, free][:, :, free]
    side = (counts @ sides)[:, free]
    step = np.stack([np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(gram, side)])
    values[:, free] -= step
    return np.clip(values, low, high)
