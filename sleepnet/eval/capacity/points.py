"""What a run learnt by heart, as one line of JSON, and what that comes to in bits a parameter."""
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet import seeds
from sleepnet.errors import UsageError, nearest
from sleepnet.eval.capacity.fit import Falls
from sleepnet.eval.capacity.forms import FORMS, L_0
from sleepnet.files import write_text

BITS_A_DIGIT = math.log2(10)
YARDSTICK = 2.0  # bits a parameter that language models are commonly found to hold (Allen-Zhu and Li, arXiv 2404.05405)
KNOWN = 0.99
# of what `simulate` makes: the grid of the experiment; θ at r = ℓ = 1 of laws that stay between 0 and ln 10 on it, the power law's C = 1.5, α = .35, β = .3, b = .1
_RANKS, _LENGTHS, _SEEDS = (1, 2, 4, 8, 16, 32), (50, 100, 200, 400, 800, 1600), 5
_MADE = {"power": (1.6, 0.525, 0.45, 1 / 1.5), "saturating": (math.log(20), 0.9, 0.8), "log_linear": (2.0, 0.25, 0.25)}
_A_RANK = 3 * (128 + 256)  # parameters of adapters on the three kernels of an MLP, d = 128, f = 256


@dataclasses.dataclass(frozen=True)
class Point:
    """One run: what it had to learn, with how much, and what it then knew.

    Attributes:
      r: rank of its adapters; None of a run without, which takes no part in the laws.
      l: digits to be known: those of a string, or ten for each entry of a book.
      seed: of the run.
      loss_before, loss_after: cross entropy of these digits, nats a digit, before training and at its end.
      parameters: that were trained.
      recalled_digits: that come back when the model's own digits are fed back: of a book those of whole entries, of a string those before the first wrong one.
      arm: what it was trained by. A law is fitted for each arm.
      curve: (presentations so far, recalled share) over training; a presentation is one time that one text was trained on.
      recalled_below_half: how many of `recalled_digits` have p < ½.

    Raises:
      UsageError: a value that can't be, named.
    """

    r: int | None
    l: int
    seed: int
    loss_before: float
    loss_after: float
    parameters: int
    recalled_digits: int
    arm: str = "points"
    curve: tuple[tuple[float, float], ...] = ()
    recalled_below_half: int | None = None

    def __post_init__(self):
        for key, least in (("l", 1), ("parameters", 1), ("recalled_digits", 0), *([] if self.r is None else [("r", 1)])):
            if type(value := getattr(self, key)) is not int or value < least:
                raise UsageError(f"{key}={value!r} must be a whole number of at least {least}")
        seeds.check("seed", self.seed)
        for key in ("loss_before", "loss_after"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise UsageError(f"{key}={value!r} must be a number of nats of at least 0")
        if self.recalled_digits > self.l:
            raise UsageError(f"recalled_digits={self.recalled_digits} is more than l={self.l}: no more can be recalled than is to be known")
        below = self.recalled_below_half
        if below is not None and (type(below) is not int or not 0 <= below <= self.recalled_digits):
            raise UsageError(f"recalled_below_half={below!r} must be a whole number from 0 to recalled_digits={self.recalled_digits}")
        if not isinstance(self.arm, str) or not re.fullmatch(r"[\w.+-]+", self.arm):
            raise UsageError(f"arm={self.arm!r} must be a name of letters, digits and any of _ . + -")
        object.__setattr__(self, "curve", _curve(self.curve))

    @property
    def fall(self) -> float:
        """ΔL, nats a digit."""
        return self.loss_before - self.loss_after

    @property
    def recall(self) -> float:
        """Share of the digits that were recalled."""
        return self.recalled_digits / self.l

    @property
    def offered(self) -> float:
        """Bits a parameter that there were to know."""
        return bits_per_parameter(self.l, self.parameters)


def bits_per_parameter(digits: int, parameters: int) -> float:
    """digits · log2 10 / parameters: what so many random digits weigh; of recalled digits, what the parameters hold of them."""
    return digits * BITS_A_DIGIT / parameters


def yardstick_digits(parameters: int) -> float:
    """Digits that so many parameters hold at YARDSTICK bits each."""
    return YARDSTICK * parameters / BITS_A_DIGIT


def presentations_to(curve: Iterable[Sequence[float]], share: float = KNOWN) -> float | None:
    """Presentations at the first measured point of a curve that has recalled `share`; nothing is interpolated. None where none has."""
    return next((presentations for presentations, recalled in curve if recalled >= share), None)


def share_below_half(p: np.ndarray, recalled: np.ndarray) -> float | None:
    """Share of the recalled tokens that have p < ½.

    The others could not have been missed: p > ½ makes a token the most probable, so recall there is arithmetic and no finding.

    Args:
      p: [...] probability of the right token.
      recalled: [...] bool.

    Returns:
      The share, None where nothing was recalled.
    """
    return float((p[recalled] < 0.5).mean()) if recalled.any() else None


def falls(points: Iterable[Point]) -> Falls:
    """The points of one arm, as laws are fitted to them; those without a rank are left out."""
    ranked = [point for point in points if point.r is not None]
    columns = ([point.r for point in ranked], [point.l for point in ranked], [point.fall for point in ranked])
    return Falls(*(np.array(column, float) for column in columns), np.array([point.seed for point in ranked], object))


# Files

def read(path: Path) -> list[Point]:
    """The points in a file of JSON lines, each an object with the attributes of `Point` as keys; those with a default may be left out.

    Raises:
      UsageError: a line that is none, with its number; a run that is there twice; no line at all.
      OSError: no such file.
    """
    found: dict[tuple, int] = {}
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            point = _point(json.loads(line))
        except ValueError as error:  # a UsageError is one
            raise UsageError(f"{where}: {error}") from error
        key = (point.arm, point.r, point.l, point.seed)
        if key in found:
            raise UsageError(
                f"{where}: arm={point.arm} r={point.r} l={point.l} seed={point.seed} is on line {found[key]} too; keep one, or give them arms of their own"
            )
        found[key] = number
        out.append(point)
    if not out:
        raise UsageError(f"{path} has no points: give a line of JSON for each run")
    return out


def write(path: Path, points: Iterable[Point]) -> None:
    """Writes what `read` reads."""
    write_text(path, "".join(json.dumps(dataclasses.asdict(point), allow_nan=False) + "\n" for point in points))


def _point(values: Any) -> Point:
    fields = {field.name: field for field in dataclasses.fields(Point)}
    if not isinstance(values, dict):
        raise UsageError(f"{type(values).__name__} where a JSON object should be")
    for name in values:
        if name not in fields:
            raise UsageError(f"unknown key {name!r}{nearest(name, fields)}")
    if missing := [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]:
        raise UsageError(f"{', '.join(missing)} missing")
    return Point(**values)


def _curve(given: Any) -> tuple[tuple[float, float], ...]:
    try:
        curve = tuple((float(presentations), float(recalled)) for presentations, recalled in given)
    except (TypeError, ValueError):
        curve = None
    if curve is None or any(not (a >= 0 and 0 <= b <= 1) for a, b in curve) or any(first[0] >= then[0] for first, then in zip(curve, curve[1:])):
        raise UsageError("curve must be pairs of presentations, increasing, and a recalled share from 0 to 1")
    return curve


# Made up

def simulate(name: str, seed: int = 0, noise: float = 0.02) -> list[Point]:
    """Points that follow a form with known constants, 5 seeds at each rank and length of the experiment: what the fits can tell apart, and what not.

    Args:
      name: of the form.
      seed: of the noise.
      noise: standard deviation of ΔL, nats.
    """
    draw, made = np.random.default_rng(seed), []
    for r, l in itertools.product(_RANKS, _LENGTHS):
        fall = float(FORMS[name].value(_MADE[name], np.log(r), np.log(l)))
        for run in range(_SEEDS):
            after = max(0.0, L_0 - fall - noise * draw.standard_normal())
            made.append(Point(r, l, run, L_0, after, _A_RANK * r, min(l, max(0, round(l * (1 - after / L_0)))), arm=name))
    return made
