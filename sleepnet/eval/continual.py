"""What is kept of one day after another: the usual measures of continual learning, as pure functions of a matrix of accuracies.

R[i, j] is the accuracy on day j after day i, i and j from 1 to T; b[j] that on day j before the first day; R*[j] that of a model which learnt all days at once.

    ACC            mean_j R[T, j]                                       Lopez-Paz and Ranzato, arXiv 1706.08840
    BWT            mean_{j<T} (R[T, j] − R[j, j]); negative: forgetting  the same
    FWT            mean_{j>1} (R[j−1, j] − b[j])                         the same; b there at random parameters, here before the stream
    forgetting     mean_{j<T} max_{l<T} (R[l, j] − R[T, j])              Chaudhry et al., arXiv 1801.10112
    intransigence  mean_j (R*[j] − R[j, j])                              the same, there of one day
    anytime        mean_i mean_{j≤i} R[i, j]                             names vary

The library Avalanche says forgetting for R[j, j] − R[T, j], without a maximum, which is −BWT here, and subtracts the accuracy at initialisation for its forward transfer.
"""
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.eval import heat
from sleepnet.pictures import Figure

SOURCES = {
    "ACC": "mean of the last row (Lopez-Paz and Ranzato 2017)",
    "BWT": "last row less diagonal, last day left out; negative is forgetting (Lopez-Paz and Ranzato 2017)",
    "FWT": "each day just before it is told, less before the first (Lopez-Paz and Ranzato 2017)",
    "forgetting": "best of earlier rows less last row (Chaudhry et al. 2018)",
    "intransigence": "all days at once, less diagonal (Chaudhry et al. 2018)",
    "anytime": "mean over rows of the days told so far",
}
_LEVEL = 0.95


def measures(R: np.ndarray, *, before: np.ndarray | None = None, joint: np.ndarray | None = None) -> dict[str, float]:
    """Name → value of each measure that can be told; see the module.

    Args:
      R: [..., T, T] accuracies, rows after each day, columns of each day; leading axes are several matrices.
      before: [..., T], b: without it there is no FWT.
      joint: [..., T], R*: without it there is no intransigence.

    Raises:
      UsageError: other shapes, or a number that is none from 0 to 1.
    """
    R = _accuracies("R", R, 2)
    T = R.shape[-1]
    if R.shape[-2] != T:
        raise UsageError(f"R has {R.shape[-2]} rows and {T} columns: there must be one of each for a day")
    final, own = R[..., -1, :], np.diagonal(R, axis1=-2, axis2=-1)
    found = {"ACC": final.mean(-1)}
    if T > 1:
        found["BWT"] = (final - own)[..., :-1].mean(-1)
        if before is not None:
            ahead = np.diagonal(R, offset=1, axis1=-2, axis2=-1)
            found["FWT"] = (ahead - _like("before", before, T)[..., 1:]).mean(-1)
        found["forgetting"] = (R[..., :-1, :-1].max(-2) - final[..., :-1]).mean(-1)
    if joint is not None:
        found["intransigence"] = (_like("joint", joint, T) - own).mean(-1)
    found["anytime"] = np.stack([R[..., i, : i + 1].mean(-1) for i in range(T)]).mean(0)
    return {name: value if R.ndim > 2 else float(value) for name, value in found.items()}


def intervals(R: np.ndarray, answers: int, *, before: np.ndarray | None = None, joint: np.ndarray | None = None, resamples: int = 2000, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Name → (value, low, high) of one run: 95 %, by a parametric bootstrap in which each accuracy is a share of `answers` independent ones.

    The same questions are asked after each day, which makes differences between rows surer than is told here.

    Args and raises: as `measures`; `answers`, of each day, is at least 1.
    """
    if answers < 1:
        raise UsageError(f"answers={answers} must be at least 1")
    value, generator = measures(R, before=before, joint=joint), np.random.default_rng(seed)
    again = lambda share: None if share is None else generator.binomial(answers, np.broadcast_to(share, (resamples, *np.shape(share)))) / answers
    drawn = measures(again(np.asarray(R)), before=again(before), joint=again(joint))
    ends = {name: np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]) for name, values in drawn.items()}
    # max is biased upwards where noise chooses; the interval holds the value nevertheless
    return {name: (value[name], float(min(low, value[name])), float(max(high, value[name]))) for name, (low, high) in ends.items()}


def over_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Name → (mean, least, most) over several runs, of the measures that all of them have."""
    shared = [name for name in SOURCES if runs and all(name in run for run in runs)]
    return {name: (float(np.mean(values)), min(values), max(values)) for name in shared for values in [[run[name] for run in runs]]}


def of_curve(lines: Iterable[Mapping[str, Any]], every: int) -> tuple[np.ndarray, np.ndarray | None]:
    """R and, where a line of step 0 has it, b: of the lines of a run's validation, one day being `every` steps.

    Args:
      lines: with `step` and `exact_accuracy_day1`, …, as `metrics.jsonl` and an outcome's curve have them; later ones of a step count.
      every: steps of a day.

    Raises:
      UsageError: the end of a day has no line, or one without a day.
    """
    by = {line["step"]: {int(found[1]): value for key, value in line.items() if (found := re.fullmatch(r"exact_accuracy_day(\d+)", key))} for line in lines if "step" in line}
    T = max((max(days) for days in by.values() if days), default=0)
    if not T:
        raise UsageError("no validation by day: the task must be graded by day, and train.eval_every be set to the steps of a day")
    row = lambda step: [by[step][day] for day in range(1, T + 1)]
    missing = [step for step in range(every, T * every + 1, every) if set(by.get(step, ())) != set(range(1, T + 1))]
    if missing:
        raise UsageError(f"no validation of all {T} days at step {missing[0]}: set train.eval_every to {every}, the steps of a day, and train.steps to {T * every}")
    return np.array([row(every * i) for i in range(1, T + 1)]), np.array(row(0)) if len(by.get(0, ())) == T else None


def of_metrics(path: Any, every: int) -> tuple[np.ndarray, np.ndarray | None]:
    """`of_curve` of a run's metrics.jsonl."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return of_curve([line for line in lines if line.get("split") == "validation"], every)


def picture(R: np.ndarray, *, title: str = "", before: np.ndarray | None = None) -> Figure:
    """A heat map: a column for each day, a row after each of them."""
    rows = {} if before is None else {"before": list(map(float, before))}
    rows |= {f"after day {i}": list(map(float, row)) for i, row in enumerate(np.asarray(R), 1)}
    return heat.draw([str(j) for j in range(1, len(R[0]) + 1)], rows, {}, title=title, across="accuracy on day")


def _accuracies(name: str, values: Any, axes: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim < axes or not array.size or not np.all((array >= 0) & (array <= 1)):
        raise UsageError(f"{name} must be accuracies from 0 to 1 with at least {axes} axes, not of shape {list(array.shape)}" + " with others" * bool(array.ndim >= axes and array.size))
    return array


def _like(name: str, values: Any, T: int) -> np.ndarray:
    array = _accuracies(name, values, 1)
    if array.shape[-1] != T:
        raise UsageError(f"{name} has {array.shape[-1]} days, R has {T}")
    return array
