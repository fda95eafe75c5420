"""Learning from the answers alone, as Lee et al. train (arXiv 2605.26099, Algorithm 1): cross entropy where the task has labels."""
import dataclasses

import jax.numpy as jnp

from sleepnet import losses
from sleepnet.methods import base
from sleepnet.methods.registry import register


@register
@dataclasses.dataclass(frozen=True)
class Answers(base.Method):
    """loss = mean over labels of −log softmax(logits)[target]."""

    name = "answers"
    any_source = True

    def loss(self, problem, params, batch, passes, count):
        logits, at = problem.predicted(params, batch["tokens"], passes)
        return losses.cross_entropy(logits, batch["targets"], batch["loss_mask"], count, at), {"logits": logits, "at": at}

    def tell(self, problem, batch, seen, count):
        return graded(problem, batch, seen["logits"], seen["at"]) if "answer" in batch else {}  # a text asks nothing

    def flops(self, model, task, passes):
        return base.read_and_learn(model, task, passes)


def graded(problem: base.Problem, batch, logits, at=None):
    """{exact, answered}: answers right and answers asked, float32 and exact below 2^24; `logits` of the places `at`, all if None."""
    _, tokens, exact = losses.grade(logits, *(losses.places(batch[key], at) for key in ("targets", "answer")), problem.task.answers)
    return {"exact": jnp.sum(exact.astype(jnp.float32)), "answered": jnp.sum((tokens > 0).astype(jnp.float32))}
