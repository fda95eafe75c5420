"""A factor's pictures as small PNG files: accuracy by difficulty, accuracy over training FLOPs, and train-N × test-N."""
import itertools
import math
from typing import Any

from sleepnet.eval import heat
from sleepnet.pictures import COLOURS, DASHES, Figure, png, style
from sleepnet.study import outcomes as results
from sleepnet.study.ablations.tables import where
from sleepnet.study.outcomes import Outcome
from sleepnet.study.overview import hardest
from sleepnet.study.spec import StudySpec

_DPI = 90
_MARKERS = "os^Dv<>P*X"


def draw(spec: StudySpec, found: list[Outcome]) -> dict[str, bytes]:
    """Caption → PNG; no train-N × test-N where every run was graded with its own N alone."""
    axis, value = hardest(spec, found)
    shown = [arm.name for arm in spec.arms if results.of_arm(found, arm.name)]
    looks = dict(zip(shown, ({"color": c, "linestyle": d} for d, c in itertools.cycle(itertools.product(DASHES, COLOURS)))))
    images = {}
    with style.context(["default", {"font.size": 8, "axes.grid": True, "grid.alpha": 0.25}]):
        if axis != "all":
            images[f"Exact accuracy by {axis}; a line a run, each with its own N"] = _difficulty(found, looks, axis)
        images[f"Exact accuracy {where(axis, value)} over training FLOPs; a point a run"] = _over_flops(found, looks, axis, value)
        if any(len({row["passes"] for row in outcome.rows}) > 1 for outcome in found):
            images[f"Exact accuracy {where(axis, value)}: trained with one N (down), graded with another (across); mean over seeds"] = _matrix(
                spec, found, axis, value
            )
    return images


def _difficulty(found: list[Outcome], looks: dict[str, Any], axis: str) -> bytes:
    figure, axes = _figure()
    values = results.axes(found)[axis]
    for outcome in found:
        scores = [row["exact_accuracy"] if (row := outcome.row(outcome.passes, axis, value)) else math.nan for value in values]
        axes.plot(range(len(values)), scores, label=outcome.arm, marker=".", **looks[outcome.arm])
    floor = [max((score["exact"] for score in results.baselines(found, axis, value).values()), default=math.nan) for value in values]
    axes.plot(range(len(values)), floor, color="0.5", ls=(0, (1, 1.5)), label="best guess")
    axes.set_xticks(range(len(values)), list(map(str, values)))
    axes.set_xlabel(axis)
    return _png(figure, axes)


def _over_flops(found: list[Outcome], looks: dict[str, Any], axis: str, value: Any) -> bytes:
    figure, axes = _figure()
    markers = dict(zip(looks, itertools.cycle(_MARKERS)))
    for outcome in found:
        if row := outcome.row(outcome.passes, axis, value):
            score, (low, high) = row["exact_accuracy"], row["exact_interval"]
            axes.errorbar(
                [outcome.chain_flops], [score], yerr=[[max(score - low, 0.0)], [max(high - score, 0.0)]], label=outcome.arm,
                color=looks[outcome.arm]["color"], marker=markers[outcome.arm], linestyle="",
            )
    axes.set_xscale("log")
    axes.set_xlabel("training FLOPs")
    return _png(figure, axes)


def _matrix(spec: StudySpec, found: list[Outcome], axis: str, value: Any) -> bytes:
    passes = sorted({row["passes"] for outcome in found for row in outcome.rows})
    models = {}
    for arm in spec.arms:
        runs = results.of_arm(found, arm.name)
        scores = [results.score(runs, n, axis, value) for n in passes]
        if len(list(filter(None, scores))) > 1:
            models[arm.label] = [score.mean if score else math.nan for score in scores]
    guess = max((score["exact"] for score in results.baselines(found, axis, value).values()), default=math.nan)
    return png(heat.draw(list(map(str, passes)), models, {"best guess": [guess] * len(passes)}, title="", across="test N"), _DPI)


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel("exact accuracy, test")
    axes.set_ylim(-0.02, 1.02)
    return figure, axes


def _png(figure: Figure, axes: Any) -> bytes:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))  # one entry an arm, however many seeds
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False)
    return png(figure, _DPI)
