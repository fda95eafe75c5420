"""A study's pictures as PNG: validation over FLOPs and over steps; test accuracy by difficulty, as curves and as a heat map."""
import itertools
import math
import statistics
from typing import Any

from sleepnet.eval import heat
from sleepnet.pictures import COLOURS, DASHES, Axes, Figure, png, style
from sleepnet.study import outcomes as results
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report import kept
from sleepnet.study.spec import StudySpec
from sleepnet.tasks.registry import task_class

_MARKERS = "os^Dv<>P*X"
_TICKS = 12
_OVER = {"flops": "training FLOPs", "steps": "training steps"}


def draw(spec: StudySpec, found: list[Outcome], dark: bool = False) -> dict[str, bytes]:
    """Name → PNG. No curves for runs that never looked at the validation split."""
    looks = dict(zip(
        (arm.name for arm in spec.arms),
        ({"linestyle": dash, "color": colour} for dash, colour in itertools.cycle(itertools.product(DASHES, COLOURS))),
    ))
    images = {}
    with style.context(["dark_background" if dark else "default", {"font.size": 9, "axes.grid": True, "grid.alpha": 0.25}]):
        if any(outcome.curve for outcome in found):
            for over in _OVER:
                images[f"validation_over_{over}"] = _curves(spec, found, looks, over)
        for axis, values in results.axes(found).items():
            images[f"accuracy_by_{axis}"] = _difficulty(spec, found, looks, axis, values)
            images[f"heat_by_{axis}"] = _heat(spec, found, axis, values)
        images |= kept.figures(spec, found)
    return images


def _curves(spec: StudySpec, found: list[Outcome], looks: dict[str, Any], over: str) -> bytes:
    figure, axes = _figure()
    for arm in spec.arms:
        curves = [{line["step"]: line for line in outcome.curve} for outcome in results.of_arm(found, arm.name) if outcome.curve]
        if not curves:
            continue
        steps = sorted(set.intersection(*map(set, curves)))
        key = {"steps": "step", "flops": "flops"}[over]
        past = results.of_arm(found, arm.name)[0].past_flops if over == "flops" else 0
        x = [past + curves[0][step][key] for step in steps]
        scores = [[curve[step]["exact_accuracy"] for curve in curves] for step in steps]
        axes.plot(x, [statistics.fmean(values) for values in scores], label=arm.label, marker=".", **looks[arm.name])
        if len(curves) > 1:
            low, high = [min(values) for values in scores], [max(values) for values in scores]
            axes.fill_between(x, low, high, color=looks[arm.name]["color"], alpha=0.2, lw=0)
    _floor(axes, found)
    axes.set_xlabel(_OVER[over])
    axes.set_ylabel("exact accuracy, validation")
    axes.set_ylim(-0.02, 1.02)
    return _png(figure, axes)


def _difficulty(spec: StudySpec, found: list[Outcome], looks: dict[str, Any], axis: str, values: list[Any]) -> bytes:
    figure, axes = _figure()
    shown = [arm for arm in spec.arms if results.of_arm(found, arm.name)]
    for i, arm in enumerate(shown):
        runs = results.of_arm(found, arm.name)
        scores = [results.score(runs, runs[0].passes, axis, value) for value in values]
        places = [j for j, score in enumerate(scores) if score]
        mean = [scores[j].mean for j in places]
        # rounding may put an interval's end a hair on the wrong side of the mean
        below = [max(0.0, scores[j].mean - scores[j].low) for j in places]
        above = [max(0.0, scores[j].high - scores[j].mean) for j in places]
        shift = 0.04 * (i - (len(shown) - 1) / 2)
        look = {"marker": _MARKERS[i % len(_MARKERS)], "capsize": 3, **looks[arm.name]}
        axes.errorbar([j + shift for j in places], mean, yerr=[below, above], label=arm.label, **look)
    floor = [max((b["exact"] for b in results.baselines(found, axis, value).values()), default=math.nan) for value in values]
    axes.plot(range(len(values)), floor, color="0.5", lw=1.5, ls=(0, (1, 1.5)), label="best baseline")
    every = -(-len(values) // _TICKS)
    axes.set_xticks(range(0, len(values), every), [str(value) for value in values[::every]])
    axes.set_xlabel(_words(spec, axis))
    axes.set_ylabel("exact accuracy, test (bars: 95 % or seeds)")
    axes.set_ylim(-0.02, 1.02)
    return _png(figure, axes)


def _heat(spec: StudySpec, found: list[Outcome], axis: str, values: list[Any]) -> bytes:
    """Each arm with each of its test-time N, and every baseline."""
    models = {}
    for arm in spec.arms:
        runs = results.of_arm(found, arm.name)
        for passes in sorted({row["passes"] for outcome in runs for row in outcome.rows}):
            scores = [results.score(runs, passes, axis, value) for value in values]
            models[f"{arm.name}, N = {passes}"] = [score.mean if score else math.nan for score in scores]
    told = [results.baselines(found, axis, value) for value in values]
    names = dict.fromkeys(name for there in told for name in there)
    guesses = {name.replace("_", " "): [there[name]["exact"] if name in there else math.nan for there in told] for name in names}
    return png(heat.draw(list(map(str, values)), models, guesses, title="", across=_words(spec, axis)), 150)


def _words(spec: StudySpec, axis: str) -> str:
    return task_class(spec.base.task.name).axis_words.get(axis, axis)


def _floor(axes: Axes, found: list[Outcome]) -> None:
    scores = [baseline["exact"] for baseline in results.baselines(found).values()]
    if scores:
        axes.axhline(max(scores), color="0.5", lw=1, ls=(0, (1, 2)), label="best baseline")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure, axes: Axes) -> bytes:
    # below the axes: labels are sentences
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return png(figure, 150)
