"""Accuracy over difficulty as pictures: curves with a line per N, and heat maps of difficulty × N, both beside the baselines."""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sleepnet.eval import bins, heat
from sleepnet.files import write_bytes
from sleepnet.pictures import Figure, colormaps, png

KINDS = {"exact": "exact accuracy (whole answers)", "label": "label accuracy (tokens)"}
_MARKERS = "os^Dv*Px"
_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2, 3)), (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1)))
_TICKS = 10


def plot(rows: Sequence[Mapping[str, Any]], folder: Path, title: str, words: Mapping[str, str] = {}) -> list[Path]:
    """Writes `<split>_<axis>.png` and `<split>_<axis>_heat.png` for every axis with more than one value, or for the first without.

    Args:
      rows: as `evaluate` returns them.
      folder: where the pictures go; made if missing.
      title: of the pictures.
      words: axis → what it is, as `Task.axis_words`.

    Returns:
      The files.
    """
    rows = bins.pool(rows, bins.spans(rows))
    values = {axis: {row["value"] for row in rows if row["axis"] == axis} for axis in dict.fromkeys(r["axis"] for r in rows)}
    values.pop("all", None)
    axes = [axis for axis in values if len(values[axis]) > 1] or list(values)[:1]
    split, paths = rows[0]["split"], []
    for axis in axes:
        chosen, across = [row for row in rows if row["axis"] == axis], words.get(axis, axis)
        for name, figure in (("", draw(chosen, f"{title}, {split} split", across)), ("_heat", draw_heat(chosen, f"{title}, {split} split", across))):
            paths.append(folder / f"{split}_{axis}{name}.png")
            write_bytes(paths[-1], png(figure, 200))
    return paths


def draw(rows: Sequence[Mapping[str, Any]], title: str, across: str = "") -> Figure:
    """Exact accuracy, and label accuracy beside it where answers have more than one token: a line with its 95 % band for each N,
    baselines dashed. `rows` are of one axis."""
    kinds = dict(KINDS) if any(row["answers"] != row["tokens_graded"] for row in rows) else {"exact": "exact accuracy"}
    figure = Figure(figsize=(2.4 + 3.4 * len(kinds), 3.8), layout="constrained")
    figure.suptitle(title, fontsize="medium", wrap=True)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, (kind, label) in zip(panels, kinds.items()):
        _guesses(panel, rows, kind)
        _lines(panel, rows, kind)
        _scale(panel, sorted({row["value"] for row in rows}), across or rows[0]["axis"])
        panel.set_title(label if len(kinds) > 1 else "", fontsize="medium")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy (band: 95 %)" if len(kinds) > 1 else "exact accuracy (band: 95 %)")
    panels[0].set_ylim(-0.03, 1.03)
    lines = dict(zip(*reversed(panels[0].get_legend_handles_labels())))
    shown = sorted(lines, key=lambda label: not label.startswith("N = "))  # models before guesses
    figure.legend([lines[label] for label in shown], shown, loc="outside right center", frameon=False)
    return figure


def draw_heat(rows: Sequence[Mapping[str, Any]], title: str, across: str = "") -> Figure:
    """Exact accuracy of each N over difficulty, with the baselines below. `rows` are of one axis."""
    values = sorted({row["value"] for row in rows})
    found = {(row["passes"], row["value"]): row for row in rows}
    models = {
        f"N = {passes}": [found[passes, value]["exact_accuracy"] if (passes, value) in found else math.nan for value in values]
        for passes in sorted({row["passes"] for row in rows})
    }
    first = [next(row for row in rows if row["value"] == value)["baselines"] for value in values]
    names = dict.fromkeys(name for told in first for name in told)
    guesses = {name.replace("_", " "): [told[name]["exact"] if name in told else math.nan for told in first] for name in names}
    return heat.draw(list(map(str, values)), models, guesses, title=title, across=across or rows[0]["axis"])


def _lines(panel, rows, kind) -> None:
    passes = sorted({row["passes"] for row in rows})
    for i, count in enumerate(passes):
        series = sorted((row for row in rows if row["passes"] == count), key=lambda row: row["value"])
        x, y = [_place(row["value"]) for row in series], [row[f"{kind}_accuracy"] for row in series]
        low, high = zip(*(row[f"{kind}_interval"] for row in series))
        # cividis is ordered, as N is, and reads the same with every kind of colour vision
        color = colormaps["cividis"](0.9 * i / max(len(passes) - 1, 1))
        panel.plot(x, y, color=color, marker=_MARKERS[i % len(_MARKERS)], markersize=4.5, label=f"N = {count}")
        if len(x) > 1:
            panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        else:
            panel.vlines(x, low, high, color=color, alpha=0.5)


def _guesses(panel, rows, kind) -> None:
    names = dict.fromkeys(name for row in rows for name in row["baselines"])
    for i, name in enumerate(names):
        points = sorted({(_place(row["value"]), row["baselines"][name][kind]) for row in rows if name in row["baselines"]})
        style = {"color": "0.45", "linestyle": _DASHES[i % len(_DASHES)], "linewidth": 1.2, "label": name.replace("_", " ")}
        if len(points) > 1:
            panel.plot(*zip(*points), **style)
        else:
            panel.axhline(points[0][1], **style)


def _place(value: int | bins.Span) -> float:
    return value.middle if isinstance(value, bins.Span) else value


def _scale(panel, values: list, across: str) -> None:
    """A logarithmic axis where the values are powers of two, or spans grow."""
    places = list(map(_place, values))
    binned = any(isinstance(value, bins.Span) for value in values)
    powers = len(values) > 2 and all(value > 0 and float(value).is_integer() and int(value) & (int(value) - 1) == 0 for value in places)
    width = lambda span: span.most - span.least + 1
    growing = binned and places[0] > 0 and width(values[-1]) >= 8 * width(values[0])
    if growing or powers and not binned:
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if not binned:
        shown = values[:: -(-len(values) // _TICKS)] if len(values) > _TICKS and not powers else values
        panel.set_xticks(shown, [str(value) for value in shown])
    panel.minorticks_off()
    panel.set_xlabel(across)
