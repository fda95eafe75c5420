"""matplotlib, as every picture here imports it, and a figure as PNG."""
import contextlib
import io
import os
import sys

# a notebook's kernel sets it for the commands it starts, and matplotlib can't be imported where it names what this Python lacks
_told = os.environ.pop("MPLBACKEND", None) if "matplotlib" not in sys.modules else None
try:
    import matplotlib
    from matplotlib import colormaps, style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
finally:
    if _told is not None:
        os.environ["MPLBACKEND"] = _told
if _told:
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _told  # whoever shows pictures in this process still does

__all__ = ["COLOURS", "DASHES", "Axes", "Figure", "colormaps", "png", "style"]
# Okabe and Ito's palette, told apart by colour-blind readers; then again with dashes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
DASHES = ("-", "--", ":", "-.")


def png(figure: Figure, dpi: int, **metadata: str | None) -> bytes:
    """The figure as a PNG file, drawn by Agg whatever the backend is; `metadata` as `Figure.savefig` takes it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata=metadata or None)
    return file.getvalue()
