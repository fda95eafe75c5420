"""Draws what a life of days keeps, recall of day d after night e, arms side by side, as SVG for a light and a dark page.

Examples:
  python tools/draw_days.py
  python tools/draw_days.py --results=experiments/results/days_tiny --arms=rehearse,fixed,joint --out=runs/pictures

Trains nothing: each panel is the mean over seeds of an arm's outcomes in --results.
"""
import numpy as np
from absl import flags
from draw_readme import ROOT, THEMES, Theme, svg, text

from sleepnet import cli, paths
from sleepnet.errors import UsageError
from sleepnet.eval import continual
from sleepnet.files import write_text
from sleepnet.study import ledger, outcomes

FLAGS = flags.FlagValues()
flags.DEFINE_string("results", str(ROOT / "experiments/results/days_life"), "folder of outcomes", flag_values=FLAGS)
flags.DEFINE_list("arms", ["no_rehearsal", "grow", "wrong_reference", "ft_fixed"], "arms, from left to right", flag_values=FLAGS)
flags.DEFINE_string("out", str(ROOT / "tools/readme"), "folder for the pictures", flag_values=FLAGS)

LABELS = {
    "no_rehearsal": "today's dreams alone", "rehearse": "and dreams of days before", "wrong_reference": "teacher read another day", "ft_questions": "true questions, no sleep",
    "grow": "and dreams of days before", "ft_fixed": "true questions, no sleep", "no_state": "teacher with S = 0", "fixed": "one expert for all nights", "joint": "all days at once", "replay_10": "true questions, 10 % replay", "ft_text": "the text itself",
}  # fmt: skip
LEFT, TOP, GAP, SHADES = 70, 92, 34, 20


def matrix(found: list, arm: str) -> tuple[np.ndarray, int]:
    """Mean R over an arm's runs, and how many they are."""
    runs = outcomes.of_arm(found, arm)
    if not runs:
        raise UsageError(f"--arms={arm}: {FLAGS.results} has no outcome of it")
    return np.mean([continual.of_curve(run.curve, run.config["train"]["eval_every"])[0] for run in runs], axis=0), len(runs)


def cell(T: int) -> tuple[int, int]:
    """Side of a day's square where there are T, and every how many have a number."""
    side = min(24, 180 // T)
    return side, -(-16 // side)


def panel(left: float, R: np.ndarray, seeds: int, label: str, theme: Theme) -> list[str]:
    """A column a day, a row a night; what is darker is recalled more, in steps of a twentieth."""
    T = len(R)
    side, every = cell(T)
    square = lambda i, j: f"M{left + j * side:.1f} {TOP + i * side:.1f}h{side - 1.5:g}v{side - 1.5:g}h-{side - 1.5:g}z"
    parts = [f'<rect x="{left - 1:g}" y="{TOP - 1:g}" width="{T * side + 0.5:g}" height="{T * side + 0.5:g}" fill="{theme.panel}"/>']
    for shade in range(1, SHADES + 1):
        if cells := "".join(square(i, j) for i, j in np.argwhere(np.round(R * SHADES) == shade)):
            parts.append(f'<path d="{cells}" fill="{theme.asleep}" fill-opacity="{shade / SHADES:g}"/>')
    parts += [text(left + (j + 0.5) * side, TOP - 8, str(j + 1), theme.muted, 12, anchor="middle") for j in range(0, T, every)]
    told = f"last: {R[-1].mean():.2f}, {seeds} seed{'s' * (seeds > 1)}"
    return [*parts, text(left, TOP - 26, label, theme.text, 12.5, weight=650), text(left, TOP + T * side + 20, told, theme.muted, 12)]


def picture(theme: Theme, found: list[tuple[str, np.ndarray, int]]) -> str:
    """All panels, nights downward at the left."""
    T = len(found[0][1])
    side, every = cell(T)
    wide = max(T * side, 160) + GAP
    parts = [text(20, 28, "What is known of each day, with no text, after each night", theme.text, 15, weight=650)]
    parts.append(text(20, 48, "whole answers right; columns are days, rows nights; below, the mean of all days after the last", theme.muted, 12.5))
    parts += [text(LEFT - 8, TOP + (i + 0.5) * side + 4, f"night {i + 1}", theme.muted, 12, anchor="end") for i in range(0, T, every)]
    for at, (label, R, seeds) in enumerate(found):
        parts += panel(LEFT + at * wide, R, seeds, label, theme)
    return svg(int(LEFT + len(found) * wide - GAP + 20), TOP + T * side + 38, theme, "Recall of day d after night e, arms side by side", parts)


def main(argv: list[str]) -> None:
    """Writes the pictures."""
    del argv
    out, results = paths.plain(FLAGS.out, "out"), paths.readable(paths.plain(FLAGS.results, "results"), "results")
    every = outcomes.load(results, ledger.read_study(results)[0])
    made = [(LABELS.get(arm, arm), *matrix(every, arm)) for arm in FLAGS.arms]
    for name, theme in THEMES.items():
        write_text(out / f"days-{name}.svg", picture(theme, made))
        print(f"wrote {paths.shown(out / f'days-{name}.svg')}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
