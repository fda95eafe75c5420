"""Damage over what is forgotten, as a picture: a line an arm, a panel for what is near and one for what is far."""
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.files import write_bytes
from sleepnet.pictures import Figure, png

_MARKERS = "os^Dv*Px"
_PANELS = {"damage": "near: the rest, as hard or harder than least", "damage_far": "far: the rest, easier than least"}


def plot(found: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]], path: Path) -> Path:
    """Writes `draw`'s picture.

    Raises:
      UsageError: the file's name does not end in .png.
    """
    if path.suffix != ".png":
        raise UsageError(f"--plot={path} must end in .png")
    write_bytes(path, png(draw(found), 110))
    return path


def draw(found: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> Figure:
    """A picture of `sleepnet.eval.unlearning.read`: at each look the mean over an arm's seeds of what is forgotten and of the damage, as far as all of them go, and a faint line a seed."""
    keys = [key for key in _PANELS if any(key in run for runs in found.values() for run in runs.values())]
    figure = Figure(figsize=(2.4 + 4.2 * len(keys), 4.2), layout="constrained")
    for panel, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys):
        for number, (arm, runs) in enumerate(found.items()):
            told = [run for run in runs.values() if key in run]
            style = {"color": f"C{number % 10}", "marker": _MARKERS[number // 10 % len(_MARKERS)], "markersize": 3.5}
            for run in told:
                panel.plot(run["forgotten"], run[key], color=style["color"], alpha=0.2, linewidth=0.8)
            looks = min((len(run["forgotten"]) for run in told), default=0)
            mean = lambda name: np.mean([run[name][:looks] for run in told], axis=0)
            if told:
                panel.plot(mean("forgotten"), mean(key), label=arm, **style)
        panel.set_title(_PANELS[key], fontsize="medium")
        panel.set_xlabel("share forgotten")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy lost on the rest")
    lines = {label: line for panel in figure.axes for line, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(list(lines.values()), list(lines), loc="outside right center", frameon=False)
    return figure
