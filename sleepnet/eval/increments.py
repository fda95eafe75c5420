"""Where a run's increment lies: off the principal directions of what it was added to, beside chance and beside another run's, tensor by tensor.

Of each projection of a mixer, ΔW = W(after) − W(before): off-principal energy over what a random increment has (1: chance; less: along the largest directions), how far the
singular values moved, and the mean angle that the principal directions turned. With --beside the other run's increment is first brought to the same norm.

Examples:
  python -m sleepnet.eval.increments --before=runs/exprl_base --after=runs/mast/rl/seed0/train --beside=runs/mast/sft/seed0/train
  python -m sleepnet.eval.increments --before=depo8_sleep4 --after=runs/tuned --share=0.5
"""
from typing import Any

import numpy as np
from absl import flags
from flax import nnx

from sleepnet import adapters, checkpoint, cli, origin, paths
from sleepnet.errors import UsageError
from sleepnet.methods.forgetting import spectrum
from sleepnet.models import zoo

FLAGS = flags.FlagValues()
flags.DEFINE_string("before", None, "what was added to: a run's folder, or a trained model of the zoo", flag_values=FLAGS)
flags.DEFINE_string("after", None, "a run's folder", flag_values=FLAGS)
flags.DEFINE_string("beside", None, "another run's folder, from the same beginning", flag_values=FLAGS)
flags.DEFINE_float("share", 0.25, "of the directions that count as principal", lower_bound=0.0, upper_bound=1.0, flag_values=FLAGS)
cli.trust_flag(FLAGS)


def measured(before: Any, after: Any, share: float = 0.25, norms: dict[str, float] | None = None) -> dict[str, dict[str, float]]:
    """Projection → off_principal over chance, spectral shift, mean angle in degrees, and the increment's norm; those of a zero increment are left out.

    Args:
      before, after: trees of one model's parameters.
      share: of the directions.
      norms: projection → norm that its increment is brought to.
    """
    old, new, found = origin.named(before), origin.named(after), {}
    for name in old:
        if adapters.channel_axis(name) is None or not (norm := float(np.linalg.norm(delta := np.asarray(new[name]) - np.asarray(old[name])))):
            continue
        delta = delta * ((norms or {}).get(name, norm) / norm)
        found[name] = {
            "off_over_chance": float(spectrum.off_principal(old[name], delta, share)) / spectrum.chance(delta.shape, share), "shift": float(spectrum.shift(old[name], delta)),
            "angle": float(np.degrees(np.mean(spectrum.angles(old[name], delta, share)))), "norm": norm,
        }  # fmt: skip
    return found


def table(found: dict[str, dict[str, float]], beside: dict[str, dict[str, float]] | None = None) -> list[str]:
    """Lines of a Markdown table; `beside` in brackets, and the means at the end."""
    keys = ("off_over_chance", "shift", "angle", "norm")
    lines = ["| projection | off-principal / chance | spectral shift | angle, ° | norm |", "|---|---|---|---|---|"]
    cell = lambda of: [f"{of(found):.4f}" + (f" ({of(beside):.4f})" if beside else "") for of in of]
    for name in found:
        lines.append(f"| {name} | " + " | ".join(cell([lambda side, key=key: side.get(name, {}).get(key, float("nan")) for key in keys])) + " |")  # noqa: B023
    mean = lambda key: lambda side: float(np.mean([each[key] for each in side.values()]))
    return [*lines, "| mean | " + " | ".join(cell([mean(key) for key in keys])) + " |"]


def _params(key: str, where: str) -> Any:
    """Parameters of a run's newest checkpoint, or of the zoo's model."""
    folder = paths.plain(where, key)
    if not (folder / "config.json").exists() and where in zoo.names() and zoo.has_checkpoint(where):
        model = zoo.load(where)[0]
    else:
        model = checkpoint.load_model(folder).model
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    for key in ("before", "after"):
        if getattr(FLAGS, key) is None:
            raise UsageError(f"--{key} is missing: python -m sleepnet.eval.increments --before=RUN --after=RUN")
    if not 0 < FLAGS.share < 1:
        raise UsageError(f"--share={FLAGS.share} must lie between 0 and 1")
    before, after = _params("before", FLAGS.before), _params("after", FLAGS.after)
    shapes = [{name: np.shape(leaf) for name, leaf in origin.named(tree).items()} for tree in (before, after)]
    if shapes[0] != shapes[1]:
        raise UsageError(f"--after={FLAGS.after} is of another shape than --before={FLAGS.before}: give a run that started there")
    found = measured(before, after, FLAGS.share)
    if not found:
        raise UsageError(f"--after={FLAGS.after} has every projection as --before={FLAGS.before} has it: give two runs that differ")
    beside = measured(before, _params("beside", FLAGS.beside), FLAGS.share, {name: each["norm"] for name, each in found.items()}) if FLAGS.beside else None
    print("\n".join(table(found, beside)))


if __name__ == "__main__":
    cli.run(main, FLAGS)
