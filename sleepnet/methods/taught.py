"""Sleep that is taught pass by pass: a label at every pass, beside the answer's (ours; the paper judges passes by the answer alone)."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet import costs, losses
from sleepnet.errors import UsageError, nearest
from sleepnet.methods import base
from sleepnet.methods.answers import graded
from sleepnet.methods.registry import register

ASKED = ("task", "passes")
LABELS = ("steps", "wrong_reference", "reversed", "last")


@register
@dataclasses.dataclass(frozen=True)
class Taught(base.Method):
    """loss = mean over labels of −log p(answer) + weight · mean over windows that sleep, passes j and their labelled tokens of −log p_j(step j − 1).

    p_j is what the model's own norm and head read from what pass j wrote, and step i what stands at that token after i steps of the computation,
    `sleepnet.tasks.base.Task.steps_of`: the first pass says what it reads, each further one goes a step on. No parameter is added, and awake nothing changes.
    """

    weight: float = 1.0  # λ of the passes' labels
    fade_from: int = 0  # step of the run from which λ falls, linearly
    fade_until: int = 0  # step of the run from which it is 0; 0: λ never falls
    # what is asked awake. task: what its targets say. passes: what holds after the N − 1 steps that the passes took, whatever N a step of training has
    asked: str = "task"
    # controls. wrong_reference: the steps of the batch's next row; reversed: the last step at the first pass; last: the last step at every pass
    labels: str = "steps"

    name = "taught"
    prepares = True
    tells = ("pass_loss", "pass_right")

    def __post_init__(self):
        for key, value, known in (("asked", self.asked, ASKED), ("labels", self.labels, LABELS)):
            if value not in known:
                raise UsageError(f"method.arguments.{key}={value!r} is not one of {', '.join(known)}{nearest(value, known)}")
        if not self.weight >= 0:
            raise UsageError(f"method.arguments.weight={self.weight} must be at least 0; without labels at the passes use method.name=answers")
        if self.fade_until and not 0 <= self.fade_from < self.fade_until:
            raise UsageError(f"method.arguments.fade_from={self.fade_from} must be at least 0 and less than fade_until={self.fade_until}")

    def check(self, config, task):
        task.steps_of(task.batch(0, "train", 0, 1), max(costs.all_passes(config)) - 1)
        if all(task.predicts) or "G" not in config.model.pattern:
            raise UsageError(f"method.name='taught' teaches passes of a sleep: task {task.title} with model.pattern={config.model.pattern!r} has none")
        sleep = config.model.sleep
        if sleep.gradient == "implicit" or sleep.gradient == "last" and sleep.gradient_passes != 1:
            raise UsageError(f"model.sleep.gradient={sleep.gradient!r} with a loss at every pass must be 'full', or 'last' with model.sleep.gradient_passes=1")

    def memory(self, batch_size):
        return {"step": jnp.zeros((), jnp.int32)} if self.fade_until else ()

    def draw(self, task, config, batch):
        return {"steps": task.steps_of(batch, max(costs.all_passes(config)) - 1)}

    def prepare(self, problem, params, memory, batch, key, passes):
        steps = batch["steps"]
        targets, mask = batch["targets"], batch["loss_mask"]
        if self.asked == "passes":
            targets = jnp.where(mask, steps[:, passes - 1], targets)
        weight = jnp.full(steps.shape[:1], self.weight, jnp.float32)
        if self.fade_until:
            left = (self.fade_until - memory["step"]) / (self.fade_until - self.fade_from)
            weight, memory = weight * jnp.clip(left, 0.0, 1.0), {"step": memory["step"] + 1}
        steps = _shown(self.labels, steps[:, :passes][:, :, asleep(problem.task)])
        return {**batch, "targets": targets, "steps": steps, "weight": weight, "share": _shares(steps)}, memory

    def loss(self, problem, params, batch, passes, count):
        logits, pass_logits = problem.forward_each(params, batch["tokens"], passes)
        steps = jnp.swapaxes(batch["steps"], 0, 1)
        own = losses.weighted_cross_entropy(pass_logits, steps, jnp.swapaxes(batch["share"], 0, 1), 1.0)
        loss = losses.cross_entropy(logits, batch["targets"], batch["loss_mask"], count) + batch["weight"][0] * own
        right = (jnp.argmax(pass_logits, axis=-1).astype(jnp.int32) == steps) * jnp.swapaxes(batch["share"], 0, 1)
        return loss, {"logits": logits, "pass_logits": pass_logits, "pass_loss": own, "pass_right": jnp.sum(right)}

    def tell(self, problem, batch, seen, count):
        return graded(problem, batch, seen["logits"]) | {key: seen[key] for key in self.tells}

    def flops(self, model, task, passes):
        places = task.window * task.predicts.count(False) * passes
        return base.read_and_learn(model, task, passes) + 6 * model.width * model.vocab_size * places


def asleep(task) -> np.ndarray:
    """Positions of the tokens in windows that sleep, int [T']."""
    return np.flatnonzero(~np.repeat(task.predicts, task.window)[: task.seq_len])


def _shown(labels: str, steps: jax.Array) -> jax.Array:
    """[B, N, T'] labels of the passes; PAD where there is none."""
    if labels == "wrong_reference":
        return jnp.roll(steps, 1, axis=0)
    if labels == "reversed":
        return steps[:, ::-1]
    return steps if labels == "steps" else jnp.broadcast_to(steps[:, -1:], steps.shape)


def _shares(steps: jax.Array) -> jax.Array:
    """[B, N, T'] float32 that sum to 1 over a batch: labels of one pass alike, passes alike."""
    there = (steps > 0).astype(jnp.float32)
    of_pass = jnp.sum(there, axis=(0, 2), keepdims=True)
    return there / jnp.maximum(of_pass, 1.0) / jnp.maximum(jnp.sum((of_pass > 0).astype(jnp.float32)), 1.0)
