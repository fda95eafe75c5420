"""How much adapters know by heart: recall against bits a parameter, and the Parametric Memory Law against two rivals, with errors held out.

Examples:
  python -m sleepnet.eval.capacity --simulate=saturating --out=runs/law
  python -m sleepnet.eval.capacity --points=runs/law/points.jsonl --out=runs/law_small_box --fit_r=4 --fit_l=200
  python -m sleepnet.eval.capacity --outcomes=experiments/results/memft_law --out=runs/law --fit_r=4 --fit_l=200

--outcomes reads what a study has left behind, its workdir or the folder of its --results: a point of each finished run that was to know a phone book or a
string by heart, written to OUT/points.jsonl. An arm's name without words such as r4 and l200 is the arm that a law is fitted for.

--simulate makes up points that follow one of the forms, with noise, and writes them to OUT/points.jsonl: what such a grid can tell apart. The second
example reads what the first has written.

A line of --points is a run, as a JSON object: r (rank of its adapters, null without), l (digits to be known: a string's, or ten an entry of a book),
seed, loss_before and loss_after (nats a digit), parameters (that were trained), recalled_digits (of whole entries, or of a string before the first
wrong digit, its own digits fed back); and, where known, arm (a law is fitted for each), curve (pairs of presentations and recalled share) and
recalled_below_half (how many of the recalled have p < ½).

A base that has seen numbers may be sure of wrong digits, so that its loss is above ln 10 and falls to there without anything being known: --before=chance
counts from ln 10, which is what the saturating form supposes.

The forms of ΔL = loss_before − loss_after: power C r^α l^−β + b (the law), saturating ln 10 (1 − exp(−κ r^α l^−β)), log_linear a + α ln r − β ln l.
Each is fitted to all points (constants with 95 % intervals, R²), and to the box r ≤ --fit_r, l ≤ --fit_l alone, of which it predicts the rest. The law
is falsified if its held-out error is more than twice the saturating form's at 3 or 4 of the 4 corners small or large r × short or long l; in
the corner that is the box, each (r, l) is predicted from the others there.

Prints tables and the verdict, and writes law.json and pictures, for light and for dark pages: recall over bits a parameter (band: range of the seeds),
and for each arm the three forms, fitted inside the box, over the points. Exit status 2 if no arm's points settle the law; what was recalled is
written all the same.
"""
import dataclasses
from pathlib import Path

from absl import flags

from sleepnet import cli, paths, seeds
from sleepnet.errors import UsageError

_FORMS = ["power", "saturating", "log_linear"]
FLAGS = flags.FlagValues()
flags.DEFINE_string("points", None, "file of JSON lines, a run each; or give --outcomes or --simulate", flag_values=FLAGS)
flags.DEFINE_string("outcomes", None, "a study's workdir, or a folder of finished runs' outcomes; or give --points or --simulate", flag_values=FLAGS)
flags.DEFINE_enum("simulate", None, _FORMS, "the form that made-up points follow; or give --points or --outcomes", flag_values=FLAGS)
cli.trust_flag(FLAGS)
flags.DEFINE_string("out", None, "folder for the results", flag_values=FLAGS)
flags.DEFINE_enum("before", "measured", ["measured", "chance"], "where a loss falls from: what was measured, or ln 10, where a base was sure of wrong digits", flag_values=FLAGS)
flags.DEFINE_integer("fit_r", 8, "largest rank of the points that are fitted to predict the rest", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("fit_l", 400, "most digits of the points that are fitted to predict the rest", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("resamples", 200, "fits behind an interval", lower_bound=20, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "of the resamples, and of the noise of made-up points", lower_bound=0, upper_bound=seeds.MOST, flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Judges the points that the flags name."""
    del argv
    if sum(map(bool, (FLAGS.points, FLAGS.outcomes, FLAGS.simulate))) != 1:
        raise UsageError("give one of --points=FILE, --outcomes=FOLDER and --simulate=FORM")
    out = paths.given(FLAGS.out, "out")
    if out is None:
        raise UsageError("give --out=FOLDER for the results")
    # After the flags are checked: scipy and matplotlib take a second to start
    from rich.console import Console
    from rich.measure import Measurement

    from sleepnet.eval.capacity import outcomes, pictures, points, report
    from sleepnet.eval.capacity.forms import L_0
    from sleepnet.files import write_bytes, write_json

    if FLAGS.points:
        found, written = points.read(paths.plain(FLAGS.points, "points")), []
    else:
        found = outcomes.points(paths.plain(FLAGS.outcomes, "outcomes")) if FLAGS.outcomes else points.simulate(FLAGS.simulate, FLAGS.seed)
        written = [out / "points.jsonl"]
        points.write(written[0], found)
    if FLAGS.before == "chance":
        found = [dataclasses.replace(point, loss_before=L_0) for point in found]
    out.mkdir(parents=True, exist_ok=True)
    box = (FLAGS.fit_r, FLAGS.fit_l)
    arms = [report.judge(arm, runs, *box, FLAGS.resamples, FLAGS.seed) for arm, runs in report.by_arm(found).items()]
    rows = report.recall_rows(found)
    common = {"before": FLAGS.before, "fit_r": box[0], "fit_l": box[1], "resamples": FLAGS.resamples, "seed": FLAGS.seed}
    write_json(out / "law.json", report.plain(arms, rows, **common))
    written.append(out / "law.json")
    for name, content in pictures.draw(found, arms, *box).items():
        write_bytes(out / f"{name}.png", content)
        written.append(out / f"{name}.png")

    console = Console(highlight=False)

    def show(table):
        console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
        console.print(table)

    show(report.recall_table(rows))
    judged = [one for one in arms if one.verdict]
    for one in arms:
        if any(not law.refused for law in one.laws.values()):
            show(report.law_table(one, *box))
        for line in ([f"{one.arm}: {one.verdict.sentence}"] if one.verdict else []) + [f"{one.arm}: {remark}" for remark in one.remarks]:
            console.print(line, markup=False, soft_wrap=True)
    for path in written:
        print(f"wrote {paths.shown(path)}")
    if not judged:
        told = next(law.refused for law in arms[0].laws.values() if law.refused)
        raise UsageError(f"no arm's points settle the law; {arms[0].arm}: {told}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
