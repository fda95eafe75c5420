"""Three laws of what a low-rank adapter takes off the loss of digits to be known by heart.

    power        ΔL = C r^α ℓ^(−β) + b               C > 0; the Parametric Memory Law
    saturating   ΔL = L_0 (1 − exp(−κ r^α ℓ^(−β)))    κ > 0; L_0 = ln 10, what a digit costs that is not known, is never passed
    log_linear   ΔL = a + α ln r − β ln ℓ

r is the adapter's rank, ℓ the number of digits, ΔL the loss before less the loss after, in nats a digit; in the first two α, β ≥ 0.

As C → ∞ with α C and β C held, the power law becomes the log-linear one. Data that bend down, as those that saturate do, drive it there, where its
own constants have no values. So it is searched as m + (exp(s (p ln r − q ln ℓ)) − 1) / s with s ≥ 0, which is regular there: C = 1/s, α = s p, β = s q.
"""
import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

L_0 = math.log(10)
_LEAST_LOG, _MOST_LOG = -20.0, 7.0  # of κ at the middle of the points: nothing learnt, everything known
_STARTS = (0.1, 0.4, 1.0)  # of α and of β


@dataclasses.dataclass(frozen=True)
class Form:
    """A law as a function of θ, x = ln r and y = ln ℓ, both less their means over the points.

    Attributes:
      name, formula: for a reader.
      constants: their names, in the formula's order.
      value: (θ, x, y) → ΔL [n].
      slopes: (θ, x, y) → d ΔL / d θ, [n, len(θ)].
      low, high: bounds of θ.
      tell: (θ, mean of ln r, mean of ln ℓ) → the constants.
      starts: (x, y, ΔL) → initial θ; of the log-linear form the solution itself.
      bounded: the constant that each entry of θ drives to its end where it meets a bound.
    """

    name: str
    formula: str
    constants: tuple[str, ...]
    value: Callable[..., np.ndarray]
    slopes: Callable[..., np.ndarray]
    low: tuple[float, ...]
    high: tuple[float, ...]
    tell: Callable[..., tuple[float, ...]]
    starts: Callable[..., list[np.ndarray]]
    bounded: tuple[str, ...]


def _power(theta, x, y):
    m, p, q, s = theta
    z = p * x - q * y
    return m + (z if s == 0 else np.expm1(s * z) / s)


def _power_slopes(theta, x, y):
    _, p, q, s = theta
    z = p * x - q * y
    w = s * z
    near = np.abs(w) < 1e-3  # where the difference below cancels
    over_s = z * z * np.where(near, 0.5 + w / 3 + w * w / 8, (w * np.exp(w) - np.expm1(w)) / np.where(near, 1.0, w) ** 2)
    return np.stack([np.ones_like(x), np.exp(w) * x, -np.exp(w) * y, over_s], 1)


def _power_constants(theta, x, y):
    m, p, q, s = theta
    if s == 0:
        return math.inf, 0.0, 0.0, -math.inf
    return math.exp(s * (q * y - p * x)) / s, s * p, s * q, m - 1 / s


def _power_starts(x, y, fall):
    """Best C and b for each α and β; the regression on logarithms where no C > 0 is."""
    found = []
    for alpha, beta in itertools.product(_STARTS, _STARTS):
        shape = np.exp(alpha * x - beta * y)
        scale, b = _regression(fall, shape, np.ones_like(shape))
        if scale > 0:
            found.append(np.array([b + scale, alpha * scale, beta * scale, 1 / scale]))
        else:
            found.append(np.array([*_log_linear_starts(x, y, fall)[0], 1e-2]))
    return found


def _saturating(theta, x, y):
    return -L_0 * np.expm1(-np.exp(theta[0] + theta[1] * x - theta[2] * y))


def _saturating_slopes(theta, x, y):
    u = theta[0] + theta[1] * x - theta[2] * y
    steep = L_0 * np.exp(u - np.exp(u))
    return np.stack([steep, steep * x, -steep * y], 1)


def _saturating_starts(x, y, fall):
    share = min(max(float(fall.mean()) / L_0, 0.01), 0.99)
    return [np.array([math.log(-math.log1p(-share)), *exponents]) for exponents in itertools.product(_STARTS, _STARTS)]


def _log_linear(theta, x, y):
    return theta[0] + theta[1] * x - theta[2] * y


def _log_linear_starts(x, y, fall):
    return [_regression(fall, np.ones_like(x), x, -y)]


def _regression(fall, *columns):
    return np.linalg.lstsq(np.stack(columns, 1), fall, rcond=None)[0]


_NONE = np.inf
FORMS = {
    form.name: form
    for form in (
        Form(
            "power", "C r^α ℓ^−β + b", ("C", "alpha", "beta", "b"), _power, _power_slopes, (-_NONE, 0, 0, 0),
            (_NONE,) * 4, _power_constants, _power_starts,
            ("b", "alpha", "beta", "C"),
        ),
        Form(
            "saturating", "ln 10 (1 − exp(−κ r^α ℓ^−β))", ("kappa", "alpha", "beta"), _saturating, _saturating_slopes,
            (_LEAST_LOG, 0, 0), (_MOST_LOG, _NONE, _NONE),
            lambda theta, x, y: (math.exp(theta[0] - theta[1] * x + theta[2] * y), theta[1], theta[2]), _saturating_starts,
            ("kappa", "alpha", "beta"),
        ),
        Form(
            "log_linear", "a + α ln r − β ln ℓ", ("a", "alpha", "beta"), _log_linear, lambda theta, x, y: np.stack([np.ones_like(x), x, -y], 1),
            (-_NONE,) * 3, (_NONE,) * 3, lambda theta, x, y: (theta[0] - theta[1] * x + theta[2] * y, theta[1], theta[2]), _log_linear_starts,
            ("a", "alpha", "beta"),
        ),
    )
}
