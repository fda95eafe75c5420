"""The laws of `forms` fitted to measured points by least squares, and how sure their constants are."""
import dataclasses
import math

import numpy as np
from scipy import optimize

from sleepnet.errors import UsageError
from sleepnet.eval.capacity.forms import FORMS, Form

SEEDS_TO_RESAMPLE = 5
EVALUATIONS = 500  # of one initial point
_SAME = 1e-4  # relative difference of squared errors below which two starts have found the same fit
_FLAT = 1e-4  # curvature below which the power law is its logarithmic limit
_EDGE = 1e-5
_TIGHT = 1e-10


@dataclasses.dataclass(frozen=True)
class Falls:
    """What was measured: a point an index, all [n].

    Attributes:
      r: ranks.
      l: digits.
      fall: ΔL, nats a digit.
      seed: of the run.
    """

    r: np.ndarray
    l: np.ndarray
    fall: np.ndarray
    seed: np.ndarray

    def __len__(self) -> int:
        return len(self.fall)

    def __getitem__(self, which: np.ndarray) -> "Falls":
        return Falls(self.r[which], self.l[which], self.fall[which], self.seed[which])

    @property
    def cells(self) -> list[tuple[float, float]]:
        """The (r, l) that were measured, in order."""
        return sorted(set(zip(self.r.tolist(), self.l.tolist())))

    def of_cell(self, cell: tuple[float, float]) -> np.ndarray:
        """[n] bool: the points of one (r, l)."""
        return (self.r == cell[0]) & (self.l == cell[1])

    def noise(self) -> float | None:
        """Standard deviation over the seeds of a cell, pooled: what no form can predict. None where each cell has one seed."""
        groups = [self.fall[self.of_cell(cell)] for cell in self.cells]
        free = len(self) - len(groups)
        return math.sqrt(sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / free) if free else None


@dataclasses.dataclass(frozen=True)
class Fit:
    """A form with its constants.

    Attributes:
      form: whose.
      theta: as the form's functions take it.
      middle: mean of ln r and of ln ℓ, which θ is told at.
      edges: constants that the search has driven to a bound (C: the power law is its logarithmic limit).
      starts, agreeing: initial points tried; those that ended at this fit. One of many is a fit to distrust.
      r2: 1 − Σ (ΔL − fit)² / Σ (ΔL − mean)² over the points it was fitted to.
      error: root of the mean squared error over them, nats.
    """

    form: Form
    theta: tuple[float, ...]
    middle: tuple[float, float]
    edges: tuple[str, ...]
    starts: int
    agreeing: int
    r2: float
    error: float

    @property
    def constants(self) -> dict[str, float]:
        """By name, as the formula has them; C = ∞ and b = −∞ in the logarithmic limit."""
        return dict(zip(self.form.constants, map(float, self.form.tell(self.theta, *self.middle))))

    def predict(self, r: np.ndarray, l: np.ndarray) -> np.ndarray:
        """ΔL, nats, at ranks and lengths of one shape."""
        return self.form.value(self.theta, np.log(np.asarray(r, float)) - self.middle[0], np.log(np.asarray(l, float)) - self.middle[1])


def fit(name: str, points: Falls, start: Fit | None = None, evaluations: int = EVALUATIONS) -> Fit:
    """The constants that make Σ (ΔL − form)² least, from several initial points.

    Args:
      name: of the form.
      points: what was measured; those of all seeds weigh alike.
      start: a fit to search from, instead of a grid over α and β with the rest as a linear regression has it.
      evaluations: of the form, from each initial point at most.

    Raises:
      UsageError: too few points to settle the constants, a ΔL that never changes, or a search that did not converge.
    """
    form = FORMS[name]
    _enough(form, points)
    x, y = np.log(points.r), np.log(points.l)
    middle = start.middle if start else (float(x.mean()), float(y.mean()))
    x, y = x - middle[0], y - middle[1]
    begin = [np.array(start.theta)] if start else form.starts(x, y, points.fall)
    with np.errstate(over="ignore", invalid="ignore"):  # a step that is too long is taken back
        theta, agreeing = _search(form, x, y, points.fall, begin, evaluations)
    if form.name == "power" and theta[3] * np.ptp(theta[1] * x - theta[2] * y) < _FLAT:
        theta = np.array([*theta[:3], 0.0])
    edges = tuple(name for name, value, low, high in zip(form.bounded, theta, form.low, form.high) if min(value - low, high - value) < _EDGE)
    left = points.fall - form.value(theta, x, y)
    total = float(((points.fall - points.fall.mean()) ** 2).sum())
    return Fit(form, tuple(map(float, theta)), middle, edges, len(begin), agreeing, 1 - float((left**2).sum()) / total, rms(left))


def rms(errors: np.ndarray) -> float:
    """Root of the mean square."""
    return math.sqrt(float((np.asarray(errors) ** 2).mean()))


def _enough(form: Form, points: Falls) -> None:
    cells, need = len(points.cells), len(form.constants) + 1
    if cells < need:
        raise UsageError(f"{form.name}: {cells} different (r, l) can't settle {need - 1} constants; give points at {need} or more")
    for letter, values in (("r", points.r), ("l", points.l)):
        if len(set(values.tolist())) < 2:
            raise UsageError(f"{form.name}: all points have {letter}={values[0]:g}, so its exponent can't be settled; give points at 2 or more {letter}")
    if np.ptp(points.fall) == 0:
        raise UsageError(f"{form.name}: the loss falls by {points.fall[0]:g} at every point: there is no law to fit")


def _search(form: Form, x: np.ndarray, y: np.ndarray, fall: np.ndarray, starts: list[np.ndarray], evaluations: int) -> tuple[np.ndarray, int]:
    """(θ, how many starts ended there)."""
    low, high = np.array(form.low, float), np.array(form.high, float)
    found = [
        optimize.least_squares(
            lambda theta: form.value(theta, x, y) - fall, np.clip(start, low + 1e-6, high - 1e-6), lambda theta: form.slopes(theta, x, y), (low, high),
            x_scale="jac", ftol=_TIGHT, xtol=_TIGHT, gtol=_TIGHT, max_nfev=evaluations,
        )
        for start in starts
    ]
    least = min(result.cost for result in found) * (1 + _SAME) + 1e-20
    settled = [result for result in found if result.status > 0 and result.cost <= least]
    if not settled:
        raise UsageError(
            f"{form.name}: no search from {len(found)} initial points converged within {evaluations} evaluations; give points at more ranks and lengths"
        )
    return min(settled, key=lambda result: result.cost).x, len(settled)


@dataclasses.dataclass(frozen=True)
class Intervals:
    """95 % intervals of a form's constants: percentiles over fits to resampled points.

    Attributes:
      over: what was drawn with replacement, `seeds` (all points of a seed together) or `points`.
      fits, failed: resamples that gave constants, and those that did not converge or had too few points.
      constants: name → (low, high).
    """

    over: str
    fits: int
    failed: int
    constants: dict[str, tuple[float, float]]


def intervals(best: Fit, points: Falls, resamples: int = 200, seed: int = 0) -> Intervals:
    """Bootstrap of a fit's constants (Efron, Ann. Stat. 7, 1979), a function of its arguments alone.

    Whole seeds are drawn where there are SEEDS_TO_RESAMPLE or more, since the points of a seed share data and start; with fewer, points, as if they
    were independent. Either is too narrow: of few seeds, or where a form is wrong. Each refit starts at `best`.

    Raises:
      UsageError: fewer than half of the refits gave constants.
    """
    draw, kept = np.random.default_rng(seed), []
    names = sorted(set(points.seed.tolist()))
    over = "seeds" if len(names) >= SEEDS_TO_RESAMPLE else "points"
    for _ in range(resamples):
        if over == "seeds":
            chosen = np.concatenate([np.flatnonzero(points.seed == names[i]) for i in draw.integers(len(names), size=len(names))])
        else:
            chosen = draw.integers(len(points), size=len(points))
        try:
            kept.append(list(fit(best.form.name, points[chosen], best).constants.values()))
        except UsageError:
            continue
    if 2 * len(kept) < resamples:
        raise UsageError(f"{best.form.name}: {resamples - len(kept)} of {resamples} resamples gave no constants, so they have no interval; give more points")
    low, high = np.percentile(np.array(kept), (2.5, 97.5), axis=0, method="nearest")  # C may be infinite
    return Intervals(over, len(kept), resamples - len(kept), {name: (float(a), float(b)) for name, a, b in zip(best.form.constants, low, high)})
