"""What deciding when costs and brings over the price of a hint, as a picture: a line for each form of learning it."""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.files import write_bytes
from sleepnet.pictures import Figure, png

_MARKERS = "os^Dv*Px"
_PANELS = {"learned_reward": "reward", "regret": "regret: what an oracle of the decision would have more", "auroc": "AUROC of giving one against: the solver fails by itself"}


def plot(found: Mapping[str, Mapping[int, tuple[float, list[Mapping[str, Any]]]]], path: Path) -> Path:
    """Writes `draw`'s picture.

    Raises:
      UsageError: the file's name does not end in .png, or as `draw`.
    """
    if path.suffix != ".png":
        raise UsageError(f"--plot={path} must end in .png")
    write_bytes(path, png(draw(found), 110))
    return path


def draw(found: Mapping[str, Mapping[int, tuple[float, list[Mapping[str, Any]]]]]) -> Figure:
    """A picture of `sleepnet.eval.hints.read`: over c the mean over seeds at the last look, a mark a seed. Arms whose names differ in their last digits alone are a line.

    Raises:
      UsageError: no two arms are one form at different c, or two are at one c.
    """
    forms: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    drawn: dict[tuple[str, float], str] = {}
    for arm, runs in found.items():
        for cost, looks in runs.values():
            if (other := drawn.setdefault((re.sub(r"\d+$", "", arm), cost), arm)) != arm:
                raise UsageError(f"--plot draws {other} and {arm} as one form, and both have c = {cost:g}: give one of them another name")
            forms.setdefault(re.sub(r"\d+$", "", arm), {}).setdefault(cost, []).append(looks[-1])
    forms = {name: by_cost for name, by_cost in forms.items() if len(by_cost) > 1}
    if not forms:
        raise UsageError("--plot draws over c, and no two arms differ in it alone: name them alike up to their last digits, score05 and score1")
    figure = Figure(figsize=(14.4, 4.2), layout="constrained")
    for panel, (key, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items()):
        for number, (form, by_cost) in enumerate(sorted(forms.items())):
            costs = sorted(by_cost)
            panel.plot(costs, [np.mean([look[key] for look in by_cost[cost]]) for cost in costs], color=f"C{number}", label=form)
            for cost in costs:
                panel.plot([cost] * len(by_cost[cost]), [look[key] for look in by_cost[cost]], _MARKERS[number % len(_MARKERS)], color=f"C{number}", markersize=4, alpha=0.6)
        panel.set_title(title, fontsize="medium")
        panel.set_xticks(sorted({cost for by_cost in forms.values() for cost in by_cost}))
        panel.set_xlabel("c, what a token of a hint costs")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
