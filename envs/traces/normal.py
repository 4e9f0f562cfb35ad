"""Quantiles of the normal distribution, to the bit those of Cephes (Moshier), which SciPy has, too."""

from __future__ import annotations

import math

import numpy as np

from ..arrays import F8

_NEAR_TAIL = 0.13533528323661269189  # exp(-2): below it, and above 1 less it, are the tails
_ROOT_2PI = 2.50662827463100050242

# Numerator and denominator of rational approximations, highest power first: of the middle; of the tails for
# sqrt(-2 log y) below 8 and from there on.
_MIDDLE = (
    (-59.9633501014107895267, 98.0010754185999661536, -56.6762857469070293439, 13.9312609387279679503,
     -1.23916583867381258016),
    (1.0, 1.95448858338141759834, 4.67627912898881538453, 86.3602421390890590575, -225.462687854119370527,
     200.260212380060660359, -82.0372256168333339912, 15.9056225126211695515, -1.18331621121330003142),
)  # fmt: skip
_TAIL = (
    (4.05544892305962419923, 31.5251094599893866154, 57.1628192246421288162, 44.0805073893200834700,
     14.6849561928858024014, 2.18663306850790267539, -1.40256079171354495875e-1, -3.50424626827848203418e-2,
     -8.57456785154685413611e-4),
    (1.0, 15.7799883256466749731, 45.3907635128879210584, 41.3172038254672030440, 15.0425385692907503408,
     2.50464946208309415979, -1.42182922854787788574e-1, -3.80806407691578277194e-2,
     -9.33259480895457427372e-4),
)  # fmt: skip
_FAR_TAIL = (
    (3.23774891776946035970, 6.91522889068984211695, 3.93881025292474443415, 1.33303460815807542389,
     2.01485389549179081538e-1, 1.23716634817820021358e-2, 3.01581553508235416007e-4,
     2.65806974686737550832e-6, 6.23974539184983293730e-9),
    (1.0, 6.02427039364742014255, 3.67983563856160859403, 1.37702099489081330271, 2.16236993594496635890e-1,
     1.34204006088543189037e-2, 3.28014464682127739104e-4, 2.89247864745380683936e-6,
     6.79019408009981274425e-9),
)  # fmt: skip


def _ratio(x: F8, parts: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[F8, F8]:
    """Both polynomials at x, by Horner's rule."""
    found = []
    for factors in parts:
        value = np.full_like(x, factors[0])
        for factor in factors[1:]:
            value = value * x + factor
        found.append(value)
    return found[0], found[1]


def normal_quantiles(shares: F8) -> F8:
    """Where the distribution function of the standard normal is so much.

    Args:
        shares: Above 0, below 1, (n,).
    """
    y = np.asarray(shares, dtype=np.float64)
    high = y > 1.0 - _NEAR_TAIL
    y = np.where(high, 1.0 - y, y)
    found = np.empty_like(y)
    middle = y > _NEAR_TAIL
    inner = y[middle] - 0.5
    square = inner * inner
    top, bottom = _ratio(square, _MIDDLE)
    found[middle] = (inner + inner * (square * top / bottom)) * _ROOT_2PI
    # math.log, as C does it: NumPy's own may differ in the last bit.
    root = np.sqrt(-2.0 * np.array([math.log(v) for v in y[~middle].tolist()]))
    first = root - np.array([math.log(v) for v in root.tolist()]) / root
    inverse = 1.0 / root
    near, far = _ratio(inverse, _TAIL), _ratio(inverse, _FAR_TAIL)
    second = np.where(root < 8.0, inverse * near[0] / near[1], inverse * far[0] / far[1])
    found[~middle] = np.where(high[~middle], first - second, second - first)
    return found
