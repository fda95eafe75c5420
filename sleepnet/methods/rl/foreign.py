"""Shown right solutions in another surface grammar, as people's are to a model (the baseline `SFT` of ExpRL, arXiv 2606.17024): what it knows, not how it writes.

    The number of jars in Ashford = 2 + 3 = 5 .        a sentence of the policy's own grammar
    5 = The number of jars in Ashford .                the same, foreign: the value first, and not how it came about

One sentence for each milestone, in the order in which they follow from each other, then the marker and the answer. The grammar is ours.
"""
import dataclasses

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.methods.answers import Answers
from sleepnet.methods.registry import register
from sleepnet.methods.rl import experience
from sleepnet.tasks.base import PAD, Grammar


@register
@dataclasses.dataclass(frozen=True)
class Foreign(Answers):
    """loss = mean over the words of foreign chains, and their answers, of −log softmax(logits)[word]."""

    graded: int = 0  # chains of each test prompt that pass@k of a run's outcome is made of; 0: none

    name = "foreign"
    any_source = False

    def __post_init__(self):
        if self.graded < 0:
            raise UsageError(f"method.arguments.graded={self.graded} must be at least 0")

    def check(self, config, task):
        experience.check(task, config.model)
        names = task.milestones(task.batch(0, "train", 0, 1)["tokens"])[0]
        needed, room = names.shape[1] * (names.shape[2] + 4) + 2, experience.room(task)
        if needed > room:
            raise UsageError(f"foreign chains of {needed} tokens are longer than the {room} that {task.title} has room for behind its prompt: set task.arguments.ops to fewer")

    def draw(self, task, config, batch):
        names, values, _ = task.milestones(batch["tokens"])
        return {name: np.asarray(value) for name, value in written(names, values, batch, task.grammar, task.opening, task.answer_marker).items()}


def written(names: np.ndarray, values: np.ndarray, batch: dict[str, np.ndarray], grammar: Grammar, opening: int, marker: int) -> dict[str, np.ndarray]:
    """A batch's tokens, targets and loss_mask, [B, T] as the task has them, with foreign chains in the place of its own; the answer's place and label stay.

    Args:
      names: int32 [B, M, W], PAD behind each name; one of PADs alone is no milestone.
      values: int32 [B, M], tokens.
      batch: of the task; a row ends with the marker.
    """
    tokens, targets = np.array(batch["tokens"]), np.full_like(batch["targets"], PAD)
    for row, (of_row, told) in enumerate(zip(names, values)):
        words = [word for name, value in zip(of_row, told) if name[0] != PAD for word in (value, grammar.equals, grammar.begins, *name[name != PAD], grammar.stop)]
        begin = int(np.flatnonzero(tokens[row] == opening)[-1])
        tokens[row, begin:] = PAD
        chain = [opening, *words, marker]
        tokens[row, -len(chain) :] = chain
        targets[row, -len(chain) :] = [*chain[1:], batch["targets"][row, -1]]
    return {"tokens": tokens, "targets": targets, "loss_mask": targets != PAD}
