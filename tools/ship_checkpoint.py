"""Makes a trained run one of the models that come with the package.

  python tools/ship_checkpoint.py --workdir=runs/study/sleep4/seed0/train --name=depo8_sleep4 --made_with="python -m sleepnet.study …"
"""
from absl import flags

from sleepnet import cli

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of the run", flag_values=FLAGS)
flags.DEFINE_string("name", None, "what sleepnet.models.zoo is to call it", flag_values=FLAGS)
flags.DEFINE_string("made_with", None, "the command that trained it, for its card", flag_values=FLAGS)
cli.trust_flag(FLAGS)
flags.DEFINE_integer("examples", 2048, "of the test split, for the score on its card", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Grades the run's newest checkpoint and writes it into the package."""
    del argv
    from sleepnet.checkpoint import load_model
    from sleepnet.errors import UsageError
    from sleepnet.eval.runner import evaluate
    from sleepnet.models import zoo

    for flag in ("workdir", "name", "made_with"):
        if not FLAGS[flag].value:
            raise UsageError(f"--{flag} is missing")
    loaded = load_model(FLAGS.workdir)
    passes = loaded.config.model.sleep.passes
    rows = evaluate(loaded.model, loaded.task, passes=[passes], examples=FLAGS.examples, batch_size=256)
    score = {f"{row['axis']}={row['value']}": row["exact_accuracy"] for row in rows}
    card = {"made_with": FLAGS.made_with, "step": loaded.step, "seed": loaded.config.seed, "passes": passes, "exact_accuracy": score}
    folder = zoo.save(FLAGS.name, loaded.model, loaded.task, card)
    print(f"wrote {folder}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes, exact {score}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
