"""The smallest study: N = 4 passes of sleep against one pass with as much compute, on one task at a size that a CPU trains."""
from typing import Any

import ml_collections

from sleepnet import presets
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
    config.base = presets.cpu_size(task, arguments, steps=steps, batch_size=batch_size)
    config.arms = list(ARMS)
    config.reference = "sleep4"
    return config
