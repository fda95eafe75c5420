"""Makes a trained run one of the models that come with the package.

Examples:
  python tools/ship_checkpoint.py --workdir=runs/depo --name=my_depo --made_with="python -m sleepnet.train --config=experiments/depo_cpu.py"
  python tools/ship_checkpoint.py --workdir=runs/quickstart/sleep4/seed0/train --name=my_quickstart --made_with="python -m sleepnet.study --config=experiments/quickstart.py (arm sleep4, seed 0)"

Writes its weights and its card, with the score on the test split, into sleepnet/models/checkpoints/; a model of that name is written over.
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
