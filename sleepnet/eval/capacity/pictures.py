"""Recall over bits a parameter, and the laws over the points that they were fitted to and those that they predict."""
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from sleepnet.eval.capacity.fit import Falls
from sleepnet.eval.capacity.forms import FORMS, L_0
from sleepnet.eval.capacity.points import YARDSTICK, Point
from sleepnet.eval.capacity.report import ArmLaws, Law, by_arm
from sleepnet.pictures import COLOURS, DASHES, Axes, Figure, colormaps, png, style

_MARKERS = "os^Dv*Px"
_BETWEEN = 60  # points of a line


def draw(points: Sequence[Point], arms: Sequence[ArmLaws], most_r: float, most_l: float) -> dict[str, bytes]:
    """Name → PNG, each with -light and -dark: `recall`, and `law_ARM` for every arm with a form that was fitted."""
    images = {}
    for theme in ("light", "dark"):
        dark = theme == "dark"
        with style.context(["dark_background" if dark else "default", {"font.size": 9, "axes.grid": True, "grid.alpha": 0.25}]):
            images[f"recall-{theme}"] = png(draw_recall(points), 150)
            for one in arms:
                if any(not law.refused for law in one.laws.values()):
                    images[f"law_{one.arm}-{theme}"] = png(draw_laws(one, most_r, most_l, dark), 150)
    return images


def draw_recall(points: Sequence[Point]) -> Figure:
    """Recalled share over the bits a parameter that there were to know: a line an arm through means over seeds, a band over their range; dashed what
    YARDSTICK bits a parameter would recall."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    looks = itertools.cycle(itertools.product(DASHES, COLOURS))
    for i, ((arm, runs), (dash, colour)) in enumerate(zip(by_arm(points).items(), looks)):
        there: dict[float, dict[int, list[float]]] = {}
        for run in runs:
            there.setdefault(float(f"{run.offered:.9g}"), {}).setdefault(run.seed, []).append(run.recall)
        x = sorted(there)
        scores = [[statistics.fmean(values) for values in there[offered].values()] for offered in x]  # one for each seed
        axes.plot(x, list(map(statistics.fmean, scores)), dash, color=colour, marker=_MARKERS[i % len(_MARKERS)], markersize=4.5, label=arm)
        low, high = list(map(min, scores)), list(map(max, scores))
        if len(x) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
        else:
            axes.vlines(x, low, high, color=colour, alpha=0.5)
    offered = [point.offered for point in points]
    x = np.sort([YARDSTICK, *np.geomspace(min(min(offered), YARDSTICK), max(max(offered), 2 * YARDSTICK), _BETWEEN)])
    axes.plot(x, np.minimum(1, YARDSTICK / x), color="0.5", lw=1.2, ls=(0, (1, 1.5)), label=f"{YARDSTICK:g} bits a parameter")
    axes.set_xscale("log")
    axes.set_xticks(*_ticks(*axes.get_xlim()))
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("bits a parameter that there are to know")
    axes.set_ylabel("recalled share of the digits (band: seeds)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_laws(one: ArmLaws, most_r: float, most_l: float, dark: bool = False) -> Figure:
    """ΔL over r, a colour for each ℓ, a panel for each form fitted inside the box: full points and lines inside, hollow and dashed what it predicts."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    positive = one.points[one.points.fall > 0]
    hidden = len(one.points) - len(positive)
    figure.suptitle(f"{one.arm}, fitted to r ≤ {most_r:g}, ℓ ≤ {most_l:g}" + (f"; {hidden} points with ΔL ≤ 0 are not shown" if hidden else ""), fontsize="medium")
    lengths = sorted(set(one.points.l.tolist()))
    # cividis is ordered, as ℓ is; its dark end can't be seen on black, its light one on white
    ends = (0.3, 1.0) if dark else (0.0, 0.85)
    colours = {l: colormaps["cividis"](ends[0] + (ends[1] - ends[0]) * i / max(len(lengths) - 1, 1)) for i, l in enumerate(lengths)}
    panels = figure.subplots(1, len(one.laws), sharex=True, sharey=True)
    for panel, law in zip(panels, one.laws.values()):
        for l, colour in colours.items():
            _points(panel, positive, l, colour, most_r, most_l)
            if not law.refused:
                _line(panel, law, l, colour, np.unique(one.points.r), most_r, most_l)
        panel.axhline(L_0, color="0.5", lw=1, ls=(0, (1, 1.5)), label="ln 10")
        _scale(panel, law, positive, np.unique(one.points.r))
    panels[0].set_ylabel("ΔL, nats a digit")
    ink = "white" if dark else "black"
    panels[0].plot([], [], "o-", color=ink, label="fitted")
    panels[0].plot([], [], "o--", color=ink, mfc="none", label="predicted")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(lengths) + 3, frameon=False)
    return figure


def _points(panel: Axes, positive: Falls, l: float, colour: Any, most_r: float, most_l: float) -> None:
    of = positive.l == l
    inside = of & (positive.r <= most_r) & (l <= most_l)
    for which, fill in ((inside, colour), (of & ~inside, "none")):
        panel.plot(positive.r[which], positive.fall[which], "o", color=colour, mfc=fill, markersize=4)


def _line(panel: Axes, law: Law, l: float, colour: Any, ranks: np.ndarray, most_r: float, most_l: float) -> None:
    panel.plot([], [], color=colour, label=f"ℓ = {l:g}")
    inside, edge = law.held_out.inside, min(max(most_r, ranks[0]), ranks[-1])
    for low, high, dash in ((ranks[0], edge, "-" if l <= most_l else "--"), (edge, ranks[-1], "--")):
        if low < high:
            r = np.geomspace(low, high, _BETWEEN)
            fall = inside.predict(r, np.full_like(r, l))
            panel.plot(r, np.where(fall > 0, fall, np.nan), dash, color=colour, lw=1.3)


def _scale(panel: Axes, law: Law, positive: Falls, ranks: np.ndarray) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    low, high = (min(positive.fall.min(), L_0 / 10) / 1.4, max(positive.fall.max(), L_0) * 1.4) if len(positive) else (L_0 / 14, L_0 * 1.4)
    panel.set_ylim(low, high)
    panel.set_yticks(*_ticks(low, high))
    panel.set_xticks(ranks, [f"{r:g}" for r in ranks])
    panel.minorticks_off()
    panel.set_xlabel("rank r")
    told = "not fitted" if law.refused else f"R² in the box {law.held_out.inside.r2:.3f}, held-out error {law.held_out.error:.3f} nats"
    panel.set_title(f"{law.form.replace('_', '-')}: {FORMS[law.form].formula}\n{told}", fontsize="small")


def _ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round numbers on a logarithmic axis: decades, over few of them also their twos and fives."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**decade for decade in decades for step in ((1, 2, 5) if high < 300 * low else (1,))]
    shown = [tick for tick in found if low <= tick <= high]
    return shown, [f"{tick:g}" for tick in shown]
