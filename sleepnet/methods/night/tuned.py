"""Learning from the answers alone, day after day: what sparse experts are measured against. Replay, and all days taking turns, are the task's."""
import dataclasses

import jax.numpy as jnp

from sleepnet.adapters import LOW_RANK
from sleepnet.errors import UsageError
from sleepnet.methods.answers import Answers
from sleepnet.methods.registry import register


@register
@dataclasses.dataclass(frozen=True)
class Tuned(Answers):
    """loss = mean over labels of −log softmax(logits)[target]; the optimiser begins each day anew, its rates too.

    With `fresh` the adapter begins each day as it was born, W + 0: a LoRA of its own for every task (Hu et al., arXiv 2106.09685). A model that is told the task's
    number and takes its LoRA knows each day as this one does at that day's end: by R[j, j], and forgets nothing.
    """

    fresh: bool = False  # each day has an adapter of its own

    name = "tuned"
    any_source = False

    def check(self, config, task):
        if getattr(task, "kind", "") != "stream" or "day" not in task.difficulty_axes:
            raise UsageError("method.name='tuned' lives through days: it needs a task with them, such as task.name='skills' with task.arguments.kind='stream'")
        if self.fresh and config.adapters.kind != "low_rank":
            raise UsageError(f"method.arguments.fresh=True begins a LoRA each day, and adapters.kind={config.adapters.kind!r} is none: set it to 'low_rank'")
        size, first = config.train.batch_size, config.train.first_example
        if task.per_day % size or first % task.per_day:
            raise UsageError(f"task.arguments.per_day={task.per_day} must be a multiple of train.batch_size={size} and divide train.first_example={first}: the optimiser begins with a day")

    def every(self, config, task):
        return task.per_day // config.train.batch_size

    def night(self, params, memory):
        return _born(params) if self.fresh else params


def _born(tree):
    """B = 0 in each LoRA."""
    return {key: _born(value) if isinstance(value, dict) else jnp.zeros_like(value) if key == LOW_RANK[1] else value for key, value in tree.items()}
