"""A heat map of accuracies: difficulty across, one row for each N or arm, what guessing scores below them."""
import math
from collections.abc import Mapping, Sequence

import numpy as np

from sleepnet.pictures import Figure

_GAP = 0.35  # of a row, between models and guesses
_CELL = 0.62, 0.42  # inches, as wide as a number


def draw(columns: Sequence[str], models: Mapping[str, Sequence[float]], guesses: Mapping[str, Sequence[float]], *, title: str, across: str) -> Figure:
    """Returns the picture; every cell carries its number, a cell without one is left empty.

    Args:
      columns: labels of the difficulty's values, easiest first.
      models: label → accuracy in each column, NaN for none.
      guesses: the same of the baselines.
      title: of the picture.
      across: what the columns are.
    """
    rows = {**models, **guesses}
    tops = [i + (_GAP if i >= len(models) else 0.0) for i in range(len(rows))]
    words = max(map(len, rows))
    width, height = 1.6 + 0.075 * words + _CELL[0] * max(len(columns), 4), 1.15 + _CELL[1] * (tops[-1] + 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for top, row in zip(tops, rows.values()):
        # cividis reads the same with every kind of colour vision
        image = axes.imshow(
            np.ma.masked_invalid([row]), cmap="cividis", vmin=0, vmax=1, aspect="auto", extent=(-0.5, len(columns) - 0.5, top + 0.96, top)
        )
        for x, value in enumerate(row):
            if not math.isnan(value):
                axes.text(x, top + 0.48, cell(value), ha="center", va="center", fontsize=8.5, color="white" if value < 0.55 else "black")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(tops[-1] + 1, 0)
    axes.set_yticks([top + 0.48 for top in tops], list(rows))
    axes.set_xticks(range(len(columns)), columns, rotation=45 if max(map(len, columns)) > 5 else 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(across)
    axes.grid(False)
    if title:
        figure.suptitle(title, fontsize="medium", wrap=True)
    figure.colorbar(image, ax=axes, label="exact accuracy", fraction=0.05, pad=0.02, ticks=(0, 0.5, 1))
    return figure


def cell(value: float) -> str:
    """An accuracy in two digits; what is not quite all, or nothing, does not read as it."""
    if value == 1:
        return "1"
    return f"{min(value, 0.994):.2f}".lstrip("0") if value >= 0.005 else ("0" if value == 0 else "<.01")
