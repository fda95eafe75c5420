"""Draws what a taught model computes asleep, pass by pass, beside the true automaton, as SVG for a light and a dark page; wrong cells are marked.

Examples:
  python tools/draw_taught.py
  python tools/draw_taught.py --passes=129 --example=7 --out=runs/pictures
  python tools/draw_taught.py --workdir=runs/rule110_taught/taught/seed1/train

Trains nothing. Each column is what the model's own head reads from one pass over the window; the last is what it answers awake, from S alone.
"""
import numpy as np
from absl import flags
from draw_readme import ROOT, THEMES, Theme, line, svg, text

from sleepnet import cli, paths
from sleepnet.errors import UsageError
from sleepnet.files import write_text
from sleepnet.tasks.rule110.layout import ONE

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", "rule110_taught", "a trained model of the zoo on rule110, one row a window", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "folder of a run, instead of --model", flag_values=FLAGS)
flags.DEFINE_integer("passes", 65, "N of the sleep: as many columns", flag_values=FLAGS)
flags.DEFINE_integer("example", 0, "of the test split", flag_values=FLAGS)
flags.DEFINE_string("out", str(ROOT / "tools/readme"), "folder for the pictures", flag_values=FLAGS)

LEFT, TOP, WIDE, HIGH, GAP = 20, 62, 690, 144, 58
WRONG = {"light": "#cf222e", "dark": "#ff7b72"}


def computed(model, task, passes: int, example: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each pass says and what is true, [N, width] bool, and which cells the model has right awake, [cells] bool."""
    if task.name != "rule110" or task.strings != 1 or not task.follow_passes:
        raise UsageError(f"task {task.title} is not rule110 with strings=1 and follow_passes=True: give another --model or --workdir")
    asked = task.at(passes)
    batch = asked.batch(0, "test", example, 1)
    logits, hidden = model.forward_each(batch["tokens"], passes=passes, predicts=asked.predicts)
    said = np.asarray(model.pass_logits(hidden)).argmax(-1)[:, 0] == ONE
    true = asked.steps_of(batch, passes - 1)[0, :, : task.width] == ONE
    return said, true, (np.asarray(logits).argmax(-1) == batch["targets"])[batch["loss_mask"]]


def panel(top: float, rows: np.ndarray, wrong: np.ndarray, colour: str, theme: Theme, mark: str) -> list[str]:
    """Columns of cells, time to the right: living ones filled, wrong ones marked."""
    count, width = rows.shape
    x, y = WIDE / count, HIGH / width
    squares = lambda where: "".join(f"M{LEFT + i * x:.1f} {top + j * y:.1f}h{x - 0.6:.1f}v{y - 0.6:.1f}h-{x - 0.6:.1f}z" for i, j in np.argwhere(where))
    return [
        f'<rect x="{LEFT}" y="{top}" width="{WIDE}" height="{HIGH}" fill="{theme.panel}"/>', f'<path d="{squares(rows)}" fill="{colour}"/>',
        f'<path d="{squares(wrong)}" fill="none" stroke="{mark}" stroke-width="1.6"/>',
    ]


def picture(theme: Theme, mark: str, said: np.ndarray, true: np.ndarray, right: np.ndarray, trained: int) -> str:
    """The two automata, one over the other."""
    wrong, count = said != true, len(said)
    below = TOP + HIGH + GAP
    awake = f"awake, from S alone: {int(right.sum())} of {right.size} cells right"
    parts = [
        text(LEFT, 28, f"Asleep: what {count} passes over one window say", theme.text, 15, weight=650),
        text(LEFT, 48, f"pass j says the row after j − 1 steps; {int(wrong.sum())} of {wrong.size:,} cells wrong; {awake}", theme.muted, 12.5),
        *panel(TOP, said, wrong, theme.asleep, theme, mark),
        text(LEFT, below - 14, f"Rule 110 itself, the same {true.shape[1]} cells on a ring", theme.text, 15, weight=650),
        *panel(below, true, np.zeros_like(wrong), theme.awake, theme, mark),
    ]
    if trained < count:
        at = LEFT + WIDE * trained / count
        parts += [line([(at, TOP - 4), (at, TOP + HIGH + 6)], theme.text, 1.4, dash="4 3"), text(at + 5, TOP + HIGH + 18, f"trained up to here, N ≤ {trained} →", theme.muted, 12.5)]
    return svg(LEFT * 2 + WIDE, int(below + HIGH + 20), theme, f"Rule 110 computed asleep in {count} passes, beside the automaton itself", parts)


def main(argv: list[str]) -> None:
    """Writes the pictures."""
    del argv
    out = paths.plain(FLAGS.out, "out")
    if FLAGS.workdir:
        from sleepnet.checkpoint import load_model

        loaded = load_model(FLAGS.workdir)
        model, task = loaded.model, loaded.task
    else:
        from sleepnet.models import zoo

        model, task = zoo.load(FLAGS.model)
    if FLAGS.passes < 2:
        raise UsageError(f"--passes={FLAGS.passes} must be at least 2")
    found = computed(model, task, FLAGS.passes, FLAGS.example)
    for name, theme in THEMES.items():
        write_text(out / f"taught-{name}.svg", picture(theme, WRONG[name], *found, trained=model.config.sleep.passes))
        print(f"wrote {paths.shown(out / f'taught-{name}.svg')}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
