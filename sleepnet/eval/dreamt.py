"""What a model dreams of, all text gone: it asks itself, S = 0, a key and a value word by word; how many of the keys, and of the whole facts, are of each day that it lived through.

A life keeps a day by dreaming of it (see `sleepnet.methods.night.seeding`, `rehearse`), so what is no longer dreamt of will be forgotten.

Examples:
  python -m sleepnet.eval.dreamt --workdir=runs/days/grow/seed0/train
  python -m sleepnet.eval.dreamt --workdir=runs/days/grow/seed0/train --dreams=16384 --temperature=0.8
"""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from sleepnet import checkpoint, cli, decode, paths
from sleepnet.errors import UsageError
from sleepnet.methods.base import Problem
from sleepnet.methods.night import dreams
from sleepnet.tasks.days.task import Days

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "a run's folder, of a life of days", flag_values=FLAGS)
flags.DEFINE_integer("dreams", 4096, "how many", flag_values=FLAGS)
flags.DEFINE_float("temperature", 1.0, "of the law that they are drawn from", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "of the draws", flag_values=FLAGS)
cli.trust_flag(FLAGS)


def drawn(model: nnx.Module, task: Any, count: int, law: decode.Law, seed: int = 0) -> np.ndarray:
    """[count, n] int32 words of dreams with S = 0: key, value, END, then PAD."""
    graph, params = nnx.split(model, nnx.Param)

    @jax.jit
    def some(params, key):
        blank = nnx.merge(graph, params).init_state(count)
        return dreams.write(Problem(graph, task), params, blank, jax.random.split(key, count), None, law)[0]

    return np.asarray(some(params, jax.random.key(seed)))


def by_day(words: np.ndarray, facts: np.ndarray, key_words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all dreams the share whose key is one of a day's, and whose words are a whole fact of it, [D] each.

    Args:
      words: [B, n] int32.
      facts: [D, F, n] int32, each as a dream would have it.
      key_words: [B, 1] int32, how many words of a dream are its key.
    """
    same = words[:, None, None] == facts[None]
    in_key = np.arange(words.shape[1])[None] < key_words
    keys = (same | ~in_key[:, None, None]).all(axis=-1).any(axis=-1)
    return keys.mean(axis=0), same.all(axis=-1).any(axis=-1).mean(axis=0)


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    if FLAGS.workdir is None:
        raise UsageError("--workdir is missing: give the folder of a run that lived through days")
    if FLAGS.dreams < 1:
        raise UsageError(f"--dreams={FLAGS.dreams} must be at least 1")
    loaded = checkpoint.load_model(paths.plain(FLAGS.workdir, "workdir"))
    task = loaded.task
    if not isinstance(task, Days) or task.kind != "stream":
        raise UsageError(f"{FLAGS.workdir} learnt {task.title}, which asks for no facts of days: give a run on task days with kind='stream'")
    words = drawn(loaded.model, task, FLAGS.dreams, decode.Law(FLAGS.temperature), FLAGS.seed)
    keys, whole = by_day(words, np.asarray(task.recalled), np.asarray(task.key_length(jnp.asarray(words[:, :1]))))
    print("| day | its keys | its facts, whole |\n|---|---|---|")
    for day, values in enumerate(zip(keys, whole), 1):
        print(f"| {day} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    print(f"| all | {keys.sum():.3f} | {whole.sum():.3f} |\n\n{FLAGS.dreams:,} dreams with S = 0; dreamt of alike, each of {len(keys)} days would have {1 / len(keys):.3f}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
