"""What the laws are worth where they were not fitted: small adapters and short strings predict large and long ones, corner by corner."""
import dataclasses
import math

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.eval.capacity.fit import Falls, Fit, fit, rms

MOST_R, MOST_L = 8, 400  # of the points that a form is fitted to
TIMES, CORNERS = 2.0, 3  # an error this many times the rival's, at so many of four corners, falsifies


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A form fitted to the points with r ≤ most_r and ℓ ≤ most_l.

    Attributes:
      inside: the fit; its `error` and `r2` are of the points that it was fitted to.
      error: root of the mean squared error over all other points, nats.
      r2: 1 − Σ (ΔL − prediction)² / Σ (ΔL − mean)² over them, with their own mean: below 0, worse than one number for all. None where they do not differ.
      corners: "small r, short l", "small r, long l", "large r, short l", "large r, long l" → the error there, None where nothing was measured.
        In the first, where the fit has seen all points, each (r, l) is predicted from the others there.
      points: the same → how many.
    """

    inside: Fit
    error: float
    r2: float | None
    corners: dict[str, float | None]
    points: dict[str, int]


def corners(points: Falls, most_r: float = MOST_R, most_l: float = MOST_L) -> dict[str, np.ndarray]:
    """Corner → [n] bool, the points in it; the first is what a form is fitted to."""
    small, short = points.r <= most_r, points.l <= most_l
    return {
        "small r, short l": small & short, "small r, long l": small & ~short,
        "large r, short l": ~small & short, "large r, long l": ~small & ~short,
    }


def hold_out(name: str, points: Falls, most_r: float = MOST_R, most_l: float = MOST_L) -> HeldOut:
    """Fits a form inside r ≤ most_r and ℓ ≤ most_l and predicts the rest.

    Raises:
      UsageError: nothing to predict, or as `fit`: too few points inside, also without one (r, l) of them, or no convergence.
    """
    there = corners(points, most_r, most_l)
    first, *others = there
    if there[first].all():
        raise UsageError(f"{name}: no point has r > {most_r:g} or l > {most_l:g}, so nothing is held out; give larger ones, or a smaller box to fit in")
    try:
        inside = fit(name, points[there[first]])
        found = {first: rms(_left_out(name, points[there[first]]))}
    except UsageError as error:
        raise UsageError(f"fitted to r ≤ {most_r:g} and l ≤ {most_l:g}, one (r, l) left out at a time: {error}") from error
    outside = points[~there[first]]
    wrong = inside.predict(outside.r, outside.l) - outside.fall
    total = float(((outside.fall - outside.fall.mean()) ** 2).sum())
    for corner in others:
        chosen = points[there[corner]]
        found[corner] = rms(inside.predict(chosen.r, chosen.l) - chosen.fall) if len(chosen) else None
    counts = {corner: int(which.sum()) for corner, which in there.items()}
    return HeldOut(inside, rms(wrong), 1 - float((wrong**2).sum()) / total if total else None, found, counts)


def _left_out(name: str, points: Falls) -> np.ndarray:
    """[n] the error of each point as the fit to all other cells predicts it."""
    wrong = np.empty(len(points))
    for cell in points.cells:
        of = points.of_cell(cell)
        wrong[of] = fit(name, points[~of]).predict(points.r[of], points.l[of]) - points.fall[of]
    return wrong


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the corners say of the power law.

    Attributes:
      falsified: None where points are missing at corners that could decide.
      worse: corners where it errs more than TIMES the saturating form.
      times: corner → how many times it errs; infinite where the saturating form makes no error, None where nothing was measured.
      sentence: the same in words.
    """

    falsified: bool | None
    worse: tuple[str, ...]
    times: dict[str, float | None]
    sentence: str


def verdict(power: HeldOut, saturating: HeldOut) -> Verdict:
    """The law is falsified if its held-out error is more than 2 × the saturating form's at 3 or 4 of the 4 corners."""
    times = {}
    for corner, error in power.corners.items():
        other = saturating.corners[corner]
        times[corner] = None if error is None else error / other if other else (math.inf if error else 1.0)
    worse = tuple(corner for corner, ratio in times.items() if ratio is not None and ratio > TIMES)
    missing = [corner for corner, ratio in times.items() if ratio is None]
    falsified = True if len(worse) >= CORNERS else False if len(worse) + len(missing) < CORNERS else None
    told = f"its held-out error is more than {TIMES:g} × the saturating form's at {len(worse)} of {len(times) - len(missing)} corners"
    lead = {True: "The law is falsified: ", False: "The law is not falsified: ", None: "Undecided: "}[falsified]
    gap = f", and nothing was measured at {' and '.join(missing)}" if missing else ""
    return Verdict(falsified, worse, times, f"{lead}{told}{gap}.")
