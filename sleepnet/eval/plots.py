"""Accuracy over difficulty as a picture, one line per N."""
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

KINDS = {"exact": "exact accuracy (whole answers)", "label": "label accuracy (tokens)"}
_MARKERS = "os^Dv*Px"
_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2, 3)))


def plot(rows: Sequence[Mapping[str, Any]], folder: Path, title: str) -> list[Path]:
    """Writes `<split>_<axis>.png` for every axis with more than one value, or for the first axis if there is none.

    Args:
      rows: as `evaluate` returns them.
      folder: where the pictures go; made if missing.
      title: of the pictures.

    Returns:
      The files.
    """
    values = {axis: {row["value"] for row in rows if row["axis"] == axis} for axis in dict.fromkeys(r["axis"] for r in rows)}
    values.pop("all", None)
    axes = [axis for axis in values if len(values[axis]) > 1] or list(values)[:1]
    paths = []
    for axis in axes:
        paths.append(folder / f"{rows[0]['split']}_{axis}.png")
        picture = io.BytesIO()
        draw([row for row in rows if row["axis"] == axis], f"{title}, {rows[0]['split']} split").savefig(picture, format="png", dpi=150)
        _write(paths[-1], picture.getvalue())
    return paths


def draw(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Two panels, exact and label: a line with its 95 % band for each N, baselines dashed. `rows` are of one axis."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (kind, label) in zip(panels, KINDS.items()):
        _lines(panel, rows, kind)
        _guesses(panel, rows, kind)
        _scale(panel, sorted({row["value"] for row in rows}), rows[0]["axis"])
        panel.set_title(label, fontsize="medium")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy (band: 95 %)")
    panels[0].set_ylim(-0.03, 1.03)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _lines(panel, rows, kind) -> None:
    passes = sorted({row["passes"] for row in rows})
    for i, count in enumerate(passes):
        series = sorted((row for row in rows if row["passes"] == count), key=lambda row: row["value"])
        x, y = [row["value"] for row in series], [row[f"{kind}_accuracy"] for row in series]
        low, high = zip(*(row[f"{kind}_interval"] for row in series))
        # cividis is ordered, as N is, and reads the same with every kind of colour vision
        color = colormaps["cividis"](0.9 * i / max(len(passes) - 1, 1))
        panel.plot(x, y, color=color, marker=_MARKERS[i % len(_MARKERS)], markersize=5, label=f"N = {count}")
        if len(x) > 1:
            panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        else:
            panel.vlines(x, low, high, color=color, alpha=0.5)


def _guesses(panel, rows, kind) -> None:
    names = dict.fromkeys(name for row in rows for name in row["baselines"])
    for i, name in enumerate(names):
        points = sorted({(row["value"], row["baselines"][name][kind]) for row in rows if name in row["baselines"]})
        style = {"color": "0.45", "linestyle": _DASHES[i % len(_DASHES)], "linewidth": 1.2, "label": name.replace("_", " ")}
        if len(points) > 1:
            panel.plot(*zip(*points), **style)
        else:
            panel.axhline(points[0][1], **style)


def _scale(panel, values: list[int], axis: str) -> None:
    """A logarithmic axis where the values are powers of two."""
    if len(values) > 2 and all(value > 0 and value & (value - 1) == 0 for value in values):
        panel.set_xscale("log", base=2)
    if len(values) <= 16:
        panel.set_xticks(values, [str(value) for value in values])
        panel.minorticks_off()
    panel.set_xlabel(axis)


def _write(path: Path, content: bytes) -> None:
    """Whole or not there, as `sleepnet.files.write_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
