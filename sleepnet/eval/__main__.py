"""Grades a trained model by difficulty and by the passes N it sleeps with; no training config is needed.

Examples:
  python -m sleepnet.eval --model=depo8_sleep4
  python -m sleepnet.eval --model=depo8_sleep4 --passes=16 --halt=0.05 --examples=512
  python -m sleepnet.eval --workdir=runs/depo --passes=1,4,16 --examples=10000
  python -m sleepnet.eval --workdir=runs/rule110_thought --own_chain
  python -m sleepnet.eval --workdir=runs/text/once --beside=runs/text/sleep,runs/text/full

--model is one that comes with the package, see `python -m sleepnet.models list`. --workdir is a run's folder, of which the newest checkpoint is
graded; `python -m sleepnet.train --help` makes these two. With --halt each sequence sleeps until its S has settled, at most N passes. With
--own_chain, of a task with a chain of thought, answers are graded also after one that the model writes itself. A model with memory blocks is graded
behind each of them, too; --blocks=16 lets it read as many.

Says on its first line what is graded: how big it is, and what it was trained on. Then a table: one row per difficulty value, one column per N,
accuracy of whole answers (exact) and of their tokens (label) with 95 % intervals, beside what guessing scores. Writes the same to --out: as JSON
lines, and for each difficulty as curves and as a heat map of difficulty × N. Where a difficulty takes many values, the table and the pictures
take neighbours together.

A run on text has no answers: what it is graded by is nats a token and bits a byte on the beginnings of held-out documents, by distance from the last
boundary and by place in the document, for each N, beside each window alone; --beside names other runs that read the same text, --before adds what the
model was before it was trained, such as a released one, and what each way of reading wins of what that loses at the boundary.
"""
from pathlib import Path

from absl import flags

from sleepnet import cli, paths, seeds
from sleepnet.errors import UsageError

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of a training run; or give --model", flag_values=FLAGS)
flags.DEFINE_string("model", None, "name of a model that comes with the package; or give --workdir", flag_values=FLAGS)
flags.DEFINE_list(
    "passes", None, "test-time N, comma-separated. By default the N of the model, and with --model also 1,2,4,8", flag_values=FLAGS
)
flags.DEFINE_float(
    "halt", 0.0, "a sequence's sleep ends once S changes by less than this share in a pass, and N bounds it; 0: never", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_bool("own_chain", False, "of a task with a chain of thought: grade also what follows the model's own", flag_values=FLAGS)
flags.DEFINE_integer("blocks", None, "of a model with memory blocks: K; its own by default", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("chains", 0, "of a task with a chain of thought and all else asleep (gsm): chains drawn of each example, for pass@1, 4, 16, 64; 0: none", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float("temperature", 1.0, "of what --chains draws from", flag_values=FLAGS)
flags.DEFINE_integer("examples", 2048, "examples to read; of a text documents", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 64, "examples read at a time; changes memory and speed alone", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "of the examples", lower_bound=0, upper_bound=seeds.MOST, flag_values=FLAGS)
flags.DEFINE_enum("split", "test", ["test", "validation", "train"], "which examples; no two splits share one, but of what is to be known by heart", flag_values=FLAGS)
flags.DEFINE_list("beside", [], "of a text: folders of other runs, which read the same documents with their own N", flag_values=FLAGS)
flags.DEFINE_integer("windows", None, "of a text: windows of each document, those of training by default", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool("before", False, "of a text: also what the model was that --workdir started from, with each window alone, a sliding and a full cache", flag_values=FLAGS)
cli.trust_flag(FLAGS)
flags.DEFINE_string("out", None, "folder for the results. By default WORKDIR/eval, or runs/eval/NAME with --model", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Evaluates what the flags name."""
    del argv
    if not FLAGS.workdir and not FLAGS.model:
        raise UsageError("give one of --workdir=FOLDER or --model=NAME")
    if FLAGS.workdir and FLAGS.model:
        raise UsageError("give either --workdir=FOLDER or --model=NAME, not both")
    passes = _passes(FLAGS.passes)
    # After the flags are checked: JAX takes seconds to start
    from rich.console import Console

    from sleepnet.decode import Law
    from sleepnet.eval import plots, report, runner
    from sleepnet.tasks.base import Task

    law = Law(FLAGS.temperature)

    console = Console(highlight=False)
    model, task, source = _load()
    name = FLAGS.model or paths.plain(FLAGS.workdir).resolve().name
    out = paths.plain(FLAGS.out or (Path(FLAGS.workdir) / "eval" if FLAGS.workdir else Path("runs", "eval", FLAGS.model)), "out")
    out.mkdir(parents=True, exist_ok=True)  # before hours of reading, not after
    if passes is None:
        passes = sorted({model.config.sleep.passes, *((1, 2, 4, 8) if FLAGS.model else ())})
    print(f"{FLAGS.model or FLAGS.workdir}: {report.size(model.config)}; {_history(task, source)}")
    if not isinstance(task, Task):
        _text(model, task, name, passes, out, console)
        return
    if told := next((flag for flag in ("beside", "windows", "before") if FLAGS[flag].value), ""):
        raise UsageError(f"--{told} is of a text, which task {task.name} is not: leave it out")
    with cli.bar("examples, all N") as update:
        rows = runner.evaluate(
            model,
            task,
            passes=passes,
            examples=FLAGS.examples,
            batch_size=FLAGS.batch_size,
            seed=FLAGS.seed,
            split=FLAGS.split,
            halt=FLAGS.halt,
            own_chain=FLAGS.own_chain,
            blocks=FLAGS.blocks,
            chains=FLAGS.chains,
            law=law,
            progress=update,
        )
    written = out / f"{FLAGS.split}.jsonl"
    report.write_rows(written, rows, **source, task=task.spec(), seed=FLAGS.seed, examples=FLAGS.examples)
    pictures = plots.plot(rows, out, f"{name} on {task.name}", task.axis_words)
    report.show(rows, model.config, console)
    for path in (written, *pictures):
        print(f"wrote {paths.shown(path)}")


def _text(model, task, name, passes, out, console) -> None:
    """`main` for a run on text."""
    from sleepnet.checkpoint import load_model
    from sleepnet.eval import report, text, text_plot, text_report
    from sleepnet.files import read_json

    for flag in ("own_chain", "halt", "blocks", "chains"):
        if FLAGS[flag].value:
            raise UsageError(f"--{flag} is of answers, and a text has none: leave it out")
    models, folders = {name: (model, passes)}, {name: FLAGS.workdir} if FLAGS.workdir else {}
    for folder in FLAGS.beside:
        other = load_model(folder)
        if other.task.spec().get("corpus") != task.spec()["corpus"]:
            raise UsageError(f"--beside={folder} was trained on another text than {name}: {other.task.title}, not {task.title}")
        called = paths.plain(folder).resolve().name
        called = called if called not in models else folder
        models[called], folders[called] = (other.model, [other.model.config.sleep.passes]), folder
    windows, before = FLAGS.windows or task.windows, _before(task) if FLAGS.before else None
    with cli.bar("examples, all N") as update:
        rows = text.evaluate(
            models, task, documents=FLAGS.examples, windows=windows, batch_size=FLAGS.batch_size, split=FLAGS.split,
            before=before, progress=update,
        )
    written = out / f"{FLAGS.split}.jsonl"
    results = {called: read_json(path, "train to the end") for called, folder in folders.items() if (path := paths.plain(folder) / "result.json").exists()}
    report.write_rows(written, [{"task": task.spec(), "windows": windows, "models": results}, *rows])
    text_report.show(rows, console)
    for path in (written, *text_plot.plot(rows, out, name)):
        print(f"wrote {paths.shown(path)}")


def _before(task):
    """What --workdir started from, as it was.

    Raises:
      UsageError: that was fresh parameters, or there is no --workdir.
    """
    from sleepnet import start
    from sleepnet.checkpoint import load_model

    config = load_model(FLAGS.workdir).config if FLAGS.workdir else None
    if config is None or not config.start:
        raise UsageError(f"--before asks for what {FLAGS.workdir or FLAGS.model} started from, and that were fresh parameters: leave it out")
    return start.model(config, task)


def _passes(given: list[str] | None) -> list[int] | None:
    """--passes as increasing numbers.

    Raises:
      UsageError: one that is no number, or is below 1.
    """
    if given is None:
        return None
    try:
        numbers = sorted({int(number) for number in given})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise UsageError(f"--passes={','.join(given)} must be whole numbers of at least 1, such as --passes=1,2,4")
    return numbers


def _load():
    """The model, its task and where it came from."""
    if FLAGS.model:
        from sleepnet.models import zoo

        return *zoo.load(FLAGS.model), {"model": FLAGS.model}
    from sleepnet.checkpoint import load_model

    loaded = load_model(FLAGS.workdir)
    return loaded.model, loaded.task, {"workdir": FLAGS.workdir, "step": loaded.step}


def _history(task, source) -> str:
    """In words, how long the model was trained, and on what."""
    if FLAGS.model:
        from sleepnet.models import zoo

        return zoo.about(FLAGS.model)
    return f"trained for {source['step']:,} steps on {task.title}"


if __name__ == "__main__":
    cli.run(main, FLAGS)
