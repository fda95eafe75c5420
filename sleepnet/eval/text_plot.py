"""What a text costs by distance from the boundary, as a picture."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sleepnet.files import write_bytes
from sleepnet.pictures import Figure, png

_MARKERS = "os^Dv*Px"
_KINDS = {"won": "nats a token won, of what each window alone lost before training", "saved": "nats a token less than each window alone"}


def plot(rows: Sequence[Mapping[str, Any]], folder: Path, title: str) -> list[Path]:
    """Writes `<split>_distance.png`, a line with its 95 % band for each way of reading; nothing where there is one window, or a cost that is no number."""
    key = "won" if "won" in rows[0] else "saved"
    lines = {}
    for row in rows:
        if row["axis"] == "distance" and row[key] is not None and row[f"{key}_interval"] != [0.0, 0.0]:
            lines.setdefault(row["way"], []).append(row)
    if not lines:
        return []
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    figure.suptitle(f"{title}, {rows[0]['split']} split", fontsize="medium", wrap=True)
    panel = figure.subplots()
    for number, (way, found) in enumerate(lines.items()):
        across = [(row["first"] * row["last"]) ** 0.5 for row in found]
        panel.plot(across, [row[key] for row in found], marker=_MARKERS[number % len(_MARKERS)], color=f"C{number}", label=way)
        panel.fill_between(across, *zip(*(row[f"{key}_interval"] for row in found)), color=f"C{number}", alpha=0.15, linewidth=0)
    panel.axhline(0.0, color="0.5", linewidth=0.8)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel("tokens since the boundary")
    panel.set_ylabel(_KINDS[key], wrap=True)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    path = folder / f"{rows[0]['split']}_distance.png"
    write_bytes(path, png(figure, 200))
    return [path]
