"""The smallest study: N = 4 passes of sleep against one pass with as much compute, on one task at a size that a CPU trains."""
from typing import Any

import ml_collections

from sleepnet import config as run_config
from sleepnet.study import spec


ARMS = (
    dict(name="sleep4", label="N = 4 passes of sleep", overrides={"model.sleep.passes": 4}),
    dict(name="once_matched", label="N = 1, as much compute (more steps)", overrides={"model.sleep.passes": 1}, match="sleep4"),
)


def pair(task: str, *, title: str, question: str, steps: int, batch_size: int, arguments: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns a study of the arms `sleep4` (the reference) and `once_matched`, one attention and one fast-weight block each.

    Args:
      task, arguments: name and arguments of what both train and are graded on.
      title, question: of the report.
      steps, batch_size: of `sleep4`.
    """
    config = spec.default()
    config.title, config.question = title, question
    config.seeds = (0,)
    config.base = base(task, steps, batch_size, arguments)
    config.arms = list(ARMS)
    config.reference = "sleep4"
    return config


def base(task: str, steps: int, batch_size: int, arguments: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns the run that both arms start from."""
    config = run_config.default()
    config.task.name = task
    config.task.arguments = arguments
    config.model.pattern = "AG"
    config.optim.learning_rate = 1.5e-2
    config.optim.adam_rate = 2.25e-3
    config.optim.decay = 0.4
    config.train.steps = steps
    config.train.batch_size = batch_size
    config.train.save_every = 250
    config.train.eval_every = 250
    config.train.keep = 1
    config.eval.examples = 4096
    return config
