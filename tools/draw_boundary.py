"""Draws what each way of reading wins back of what an emptied cache loses, by tokens since the boundary, as SVG for a light and a dark page.

Examples:
  python tools/draw_boundary.py
  python tools/draw_boundary.py --outcome=runs/smollm2/sleep/eval/test.jsonl --out=runs/pictures

Measures nothing: --outcome is what `python -m sleepnet.eval --before` has written of runs on text.
"""
import json

from absl import flags
from draw_readme import BOTTOM, LEFT, RIGHT, ROOT, THEMES, TOP, Theme, line, svg, text

from sleepnet import cli, paths
from sleepnet.errors import UsageError
from sleepnet.eval.text import ALONE, BEFORE
from sleepnet.files import write_text

FLAGS = flags.FlagValues()
flags.DEFINE_string("outcome", str(ROOT / "experiments/results/smollm2_sleep/seed0.jsonl"), "outcome of sleepnet.eval", flag_values=FLAGS)
flags.DEFINE_string("out", str(ROOT / "tools/readme"), "folder for the pictures", flag_values=FLAGS)

LABELS = {f"{BEFORE}, full cache": "full cache, as released", f"{BEFORE}, sliding cache": "sliding cache, as released"}


def ways(rows: list[dict]) -> dict[str, list[dict]]:
    """Way of reading → its rows, the whole behind the first window first, then by distance; windows alone are not drawn."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        if row["axis"] in ("behind", "distance") and not row["way"].endswith(ALONE):
            found.setdefault(row["way"], []).append(row)
    if not found or any(row.get("won") is None for lines in found.values() for row in lines):
        raise UsageError(f"--outcome={FLAGS.outcome} does not say what is won: grade with `python -m sleepnet.eval --before`, and at least two windows")
    return found


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, six at most and 0 among them."""
    step = next(size for size in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if high / size - low / size <= 5)
    return [step * count for count in range(int(low // step), int(-(-high // step)) + 1)]


def picture(theme: Theme, found: dict[str, list[dict]]) -> str:
    """A line with its 95 % band a way of reading, over distance, which is drawn by its logarithm; beside it the mean of all."""
    bins = [row for row in next(iter(found.values())) if row["axis"] == "distance"]
    ends = [end for rows in found.values() for row in rows[1:] for end in row["won_interval"]]
    marks = ticks(min(0.0, *ends), max(ends))
    up = lambda nats: BOTTOM - (BOTTOM - TOP) * (nats - marks[0]) / (marks[-1] - marks[0])
    across = lambda number: LEFT + (RIGHT - LEFT) * (number + 0.5) / len(bins)
    parts = [text(20, 30, "What is won back of what an emptied cache loses", theme.text, 14.5, weight=650)]
    for mark in marks:
        parts += [line([(LEFT, up(mark)), (RIGHT, up(mark))], theme.muted if mark == 0 else theme.edge, 1), text(LEFT - 8, up(mark) + 4.5, f"{mark:.2g}", theme.muted, 12, anchor="end")]
    for number, row in enumerate(bins):
        told = str(row["first"]) if row["first"] == row["last"] else f"–{row['last']}"
        parts.append(text(across(number), BOTTOM + 18, told, theme.muted, 12, anchor="middle"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 37, "tokens since the boundary", theme.muted, 12.5, anchor="middle"))
    parts.append(f'<text transform="translate(18 {(TOP + BOTTOM) / 2:g}) rotate(-90)" fill="{theme.muted}" font-size="12.5" text-anchor="middle">nats a token</text>')
    colours = iter([theme.asleep, theme.awake, theme.right, theme.sun])
    for number, (way, (whole, *rows)) in enumerate(sorted(found.items(), key=lambda item: -item[1][0]["won"])):
        released = way.startswith(BEFORE)
        colour = (theme.muted if "full" in way else theme.cache) if released else next(colours)
        band = [(across(k), up(row["won_interval"][1])) for k, row in enumerate(rows)] + [(across(k), up(row["won_interval"][0])) for k, row in reversed([*enumerate(rows)])]
        parts.append(f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in band)}" fill="{colour}" fill-opacity="0.18"/>')
        parts.append(line([(across(k), up(row["won"])) for k, row in enumerate(rows)], colour, 2.2, dash="5 4" if released else ""))
        top = TOP + 4 + 58 * number
        low, high = whole["won_interval"]
        parts.append(line([(RIGHT + 6, top - 5), (RIGHT + 24, top - 5)], colour, 2.2, dash="5 4" if released else ""))
        parts.append(text(RIGHT + 32, top, LABELS.get(way, way), theme.text if released else colour, 13.5, weight=650))
        parts.append(text(RIGHT + 32, top + 17, f"all: {whole['won']:.3f} ({low:.3f} … {high:.3f})", theme.text, 12.5))
        if not released:
            parts.append(text(RIGHT + 32, top + 33, f"of it by what S holds: {whole['saved']:.3f}", theme.muted, 12.5))
    files = next(iter(found.values()))[0]["documents"]
    parts.append(text(20, BOTTOM + 62, f"Less than the released model with each window alone; {files} held-out files, bands 95 % by resampling them.", theme.muted, 12.5))
    return svg(800, BOTTOM + 80, theme, "Nats a token won back by tokens since the boundary, for each way of reading", parts)


def main(argv: list[str]) -> None:
    """Writes the pictures."""
    del argv
    outcome, out = paths.plain(FLAGS.outcome, "outcome"), paths.plain(FLAGS.out, "out")
    if not outcome.is_file():
        raise UsageError(f"--outcome={FLAGS.outcome}: there is no such file")
    _, *rows = [json.loads(row) for row in outcome.read_text(encoding="utf-8").splitlines()]
    found = ways(rows)
    for name, theme in THEMES.items():
        write_text(out / f"boundary-{name}.svg", picture(theme, found))
        print(f"wrote {paths.shown(out / f'boundary-{name}.svg')}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
