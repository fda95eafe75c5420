"""Sleep that is taught pass by pass: a label at every pass, beside the answer's (ours; the paper judges passes by the answer alone)."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet import losses
from sleepnet.errors import UsageError, nearest
from sleepnet.methods import base
from sleepnet.methods.answers import graded
from sleepnet.methods.registry import register

LABELS = ("steps", "wrong_reference", "reversed", "heads")


@register
@dataclasses.dataclass(frozen=True)
class Taught(base.Method):
    """loss = mean over answers' labels of −log p(target) + weight · mean over passes j and labelled tokens that sleep of −log p_j(step j − 1).

    p_j is what the model's own norm and head read from what pass j wrote, and step i what stands at that token after i steps of the computation,
    `sleepnet.tasks.base.Task.steps_of`: the first pass says what it reads, each further one goes a step on. No parameter is added, and awake nothing
    changes: logits are those of `answers`, bit for bit.

    labels: steps            the above
    controls: wrong_reference  the steps of the batch's next row
              reversed         the last step at the first pass, the first at the last
              heads            all steps 0 … `heads` at the last pass alone, each read through a fixed shuffle of the channels with signs of its own:
                               the same labels as further heads of one pass (multi-task learning, for N = 1)
    """

    weight: float = 1.0  # λ of the passes' labels
    fade_from: int = 0  # step of the run from which λ falls, linearly
    fade_until: int = 0  # step of the run from which it is 0; 0: λ never falls
    labels: str = "steps"  # which of the above
    heads: int = 0  # read by labels=heads

    name = "taught"
    prepares = True
    tells = ("pass_loss", "pass_right")

    def __post_init__(self):
        if self.labels not in LABELS:
            raise UsageError(f"method.arguments.labels={self.labels!r} is not one of {', '.join(LABELS)}{nearest(self.labels, LABELS)}")
        if not self.weight >= 0:
            raise UsageError(f"method.arguments.weight={self.weight} must be at least 0; without labels at the passes use method.name=answers")
        if self.fade_until and not 0 <= self.fade_from < self.fade_until:
            raise UsageError(f"method.arguments.fade_from={self.fade_from} must be at least 0 and less than fade_until={self.fade_until}")
        if (self.labels == "heads") != (self.heads > 0):
            raise UsageError(f"method.arguments.heads={self.heads} must be at least 1 with labels='heads', and 0 without")

    def _most(self, config) -> int:
        """The most steps that a label tells."""
        return self.heads or max(config.all_passes) - 1

    def check(self, config, task):
        if "G" not in config.model.pattern or all(task.predicts):
            raise UsageError(f"method.name='taught' teaches passes of a sleep: task {task.title} with model.pattern={config.model.pattern!r} has none")
        if task.most_steps is not None and self._most(config) > task.most_steps:
            what = f"at most {task.most_steps} steps" if task.most_steps else "no steps"
            raise UsageError(f"method.name='taught' with N = {self._most(config) + 1} needs {self._most(config)} steps of a computation, of which task {task.title} "
                             f"has {what} to tell: use fewer passes (model.sleep.passes, train.random_passes), or method.name='answers'")
        least = task.least_passes
        if self.labels == "steps" and min(config.all_passes) < least:
            raise UsageError(f"model.sleep.passes={min(config.all_passes)} is too few for task {task.title}: a pass a step, and one that reads, are {least}; "
                             f"use N = {least} or more (model.sleep.passes, train.random_passes)")
        sleep = config.model.sleep
        if sleep.gradient == "implicit" or sleep.gradient == "last" and sleep.gradient_passes != 1:
            raise UsageError(f"model.sleep.gradient={sleep.gradient!r} with a loss at every pass must be 'full', or 'last' with model.sleep.gradient_passes=1")

    def memory(self, batch_size, params):
        return {"step": jnp.zeros((), jnp.int32)} if self.fade_until else ()

    def draw(self, task, config, batch):
        return {"steps": task.steps_of(batch, self._most(config))}

    def prepare(self, problem, params, memory, batch, key, passes):
        steps = batch["steps"][:, :, asleep(problem.task)]
        weight = jnp.full(steps.shape[:1], self.weight, jnp.float32)
        if self.fade_until:
            left = (self.fade_until - memory["step"].astype(jnp.float32)) / (self.fade_until - self.fade_from)
            weight, memory = weight * jnp.clip(left, 0.0, 1.0), {"step": memory["step"] + 1}
        steps = steps if self.heads else _shown(self.labels, steps[:, :passes])
        return {**batch, "steps": steps, "weight": weight, "share": shares(steps)}, memory

    def loss(self, problem, params, batch, passes, count):
        logits, hidden = problem.forward_each(params, batch["tokens"], passes)
        read = problem.pass_logits(params, shuffled(hidden[-1], self.heads) if self.heads else hidden)
        steps, share = (jnp.swapaxes(batch[key], 0, 1) for key in ("steps", "share"))
        own = losses.weighted_cross_entropy(read, steps, share, 1.0)
        right = jnp.sum(jnp.where(jnp.argmax(read, axis=-1).astype(jnp.int32) == steps, share, 0.0))
        loss = losses.cross_entropy(logits, batch["targets"], batch["loss_mask"], count) + batch["weight"][0] * own
        return loss, {"logits": logits, "pass_logits": read, "pass_loss": own, "pass_right": right}

    def tell(self, problem, batch, seen, count):
        return graded(problem, batch, seen["logits"]) | {key: seen[key] for key in self.tells}

    def flops(self, model, task, passes):
        read = task.window * task.predicts.count(False) * (self.heads + 1 if self.heads else passes)
        return base.read_and_learn(model, task, passes) + 3 * 2 * model.width * model.vocab_size * read


def asleep(task) -> np.ndarray:
    """Positions of the T' tokens in windows that sleep."""
    return np.flatnonzero(~np.repeat(task.predicts, task.window)[: task.seq_len])


def _shown(labels: str, steps: jax.Array) -> jax.Array:
    """[B, N, T'] labels of the passes; PAD where there is none."""
    return {"steps": steps, "wrong_reference": jnp.roll(steps, 1, axis=0), "reversed": steps[:, ::-1]}[labels]


def shares(steps: jax.Array) -> jax.Array:
    """[B, N, T'] float32 weights of labels, [B, N, T'] int32 with PAD for none, that sum to 1 over a batch: all labels of a pass alike, all passes that have some alike."""
    there = (steps > 0).astype(jnp.float32)
    of_pass = jnp.sum(there, axis=(0, 2), keepdims=True)
    return there / jnp.maximum(of_pass, 1.0) / jnp.maximum(jnp.sum((of_pass > 0).astype(jnp.float32)), 1.0)


def shuffled(hidden: jax.Array, heads: int) -> jax.Array:
    """[heads + 1, …, D]: hidden [..., D] as each head reads it, its channels in an order and with signs that are the head's own; no parameters."""
    draws, width = np.random.default_rng(0), hidden.shape[-1]
    orders = np.stack([draws.permutation(width) for _ in range(heads + 1)])
    signs = draws.choice([-1.0, 1.0], (heads + 1, width)).astype(np.float32)
    signs = jnp.asarray(signs, hidden.dtype).reshape(heads + 1, *[1] * (hidden.ndim - 1), width)
    return jnp.stack([hidden[..., order] for order in orders]) * signs
