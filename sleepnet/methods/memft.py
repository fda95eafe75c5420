"""Learning by heart: cross entropy whose tokens are weighed by how well they are known (MemFT, arXiv 2605.30260).

The paper's code is public; the equations are its, the names ours. Its curriculum over a book is an order of the data: `share_rise` of the task.
"""
import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from sleepnet import losses
from sleepnet.errors import UsageError, nearest
from sleepnet.methods import base
from sleepnet.methods.answers import graded
from sleepnet.methods.registry import register

LN2 = math.log(2)
KINDS = ("over_threshold", "sliding", "random_mask", "focal", "top_share")
# of weights="sliding": sharpness of b, digits of a window, of its decay; what is left behind it; steps that a must stand; growth a step; the most
SHARPNESS, WINDOW, DECAY, BEHIND, PATIENCE, GROWTH, MOST = 10.0, 50.0, 20.0, 0.01, 3, 0.5, 4.0
_NOTHING = 1e-5  # sum of weights below which a batch counts as having none


@register
@dataclasses.dataclass(frozen=True)
class MemFT(base.Method):
    """loss = Σ_t w_t ℓ_t / Σ_t w_t over the labels of a batch, ℓ_t = −log p(target_t), the weights from a pass over the batch that no gradient goes through.

    weights: over_threshold   w = 1 where ℓ > −log threshold, else 0 (OT)
             sliding          of one string: b_t = sigmoid(10 (ℓ_t − ln 2)); a the first wrong digit; W = 50 x digits from a on weigh b_t e^(−max(t − a, 0) / 20),
                              those behind .01 b_t; without a wrong digit w = b. x = 1, and grows by .5 a step, to 4 at most, once a has stood for 3 more steps (SW)
    controls: random_mask     as many tokens as over_threshold takes, drawn anew each step
              focal           (1 − p)²
              top_share       the half of the labels with the larger losses
    """

    weights: str = "over_threshold"  # which of the above
    threshold: float = 0.5  # p*, above which a token counts as known; read by over_threshold and random_mask
    when_empty: str = "mean"  # of a batch without a token of weight: mean (the plain loss), or skip (no step: parameters and moments stay)

    name = "memft"
    prepares = True
    tells = ("active_share",)

    def __post_init__(self):
        if self.weights not in KINDS:
            raise UsageError(f"method.arguments.weights={self.weights!r} is not one of {', '.join(KINDS)}{nearest(self.weights, KINDS)}")
        if not 0 < self.threshold < 1:
            raise UsageError(f"method.arguments.threshold={self.threshold} must lie between 0 and 1")
        if self.when_empty not in ("mean", "skip"):
            raise UsageError(f"method.arguments.when_empty={self.when_empty!r} is not one of mean, skip")

    def check(self, config, task):
        if self.weights == "sliding" and getattr(task, "kind", "") != "string":
            raise UsageError(f"method.arguments.weights='sliding' follows one string: it needs task.name='phonebook' with task.arguments.kind='string', not {task.title}")

    def memory(self, batch_size, params):
        if self.weights != "sliding":
            return ()
        return {"first_wrong": jnp.full((), -1, jnp.int32), "stood": jnp.zeros((), jnp.int32), "growth": jnp.ones((), jnp.float32)}

    def prepare(self, problem, params, memory, batch, key, passes):
        logits, mask = problem.forward(params, batch["tokens"], passes), batch["loss_mask"]
        known = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        if self.weights == "sliding":
            wrong = mask & (jnp.argmax(logits, axis=-1).astype(jnp.int32) != batch["targets"])
            weights, memory = sliding(known, wrong, mask, memory)
        else:
            weights = self._weights(known, mask, key)
        weights = jnp.where(mask, weights, 0.0)
        active = jnp.sum((weights > 0).astype(jnp.float32), axis=1) / jnp.sum(mask.astype(jnp.float32))
        if self.when_empty == "mean":
            weights = jnp.where(jnp.sum(weights) > _NOTHING, weights, mask.astype(jnp.float32))
        return {**batch, "weights": weights, "active_share": active}, memory

    def _weights(self, known, mask, key):
        over = unknown(known, mask, self.threshold)
        if self.weights == "over_threshold":
            return over.astype(jnp.float32)
        if self.weights == "focal":
            return jnp.square(1 - jnp.exp(-known))
        if self.weights == "top_share":
            return (ranks(-known, mask) * 2 < jnp.sum(mask.astype(jnp.int32))).astype(jnp.float32)
        drawn = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), mask.shape[1:]))(jnp.arange(mask.shape[0], dtype=jnp.uint32))
        return (ranks(drawn, mask) < jnp.sum(over.astype(jnp.int32))).astype(jnp.float32)

    def count(self, batch):
        total = jnp.sum(batch["weights"])
        return jnp.where(total > 0, total, 1.0)

    def moves(self, batch):
        return jnp.sum(batch["weights"]) > _NOTHING if self.when_empty == "skip" else None

    def loss(self, problem, params, batch, passes, count):
        logits = problem.forward(params, batch["tokens"], passes)
        return losses.weighted_cross_entropy(logits, batch["targets"], batch["weights"], count), {"logits": logits}

    def tell(self, problem, batch, seen, count):
        return graded(problem, batch, seen["logits"]) | {"active_share": jnp.sum(batch["active_share"])}

    def flops(self, model, task, passes):
        return base.read_and_learn(model, task, passes) + base.read(model, task, passes)


def unknown(known: jax.Array, mask: jax.Array, threshold: float) -> jax.Array:
    """Labels, where `mask` has any, of probability below `threshold`, bool [B, T], by `known`, their −log p."""
    return (known > -math.log(threshold)) & mask


def ranks(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, T] int32: how many labels of the batch have a smaller value than this one, those in front of it first where equal; labels before all else."""
    flat = jnp.where(mask, values, jnp.inf).reshape(-1)
    order = jnp.argsort(flat, stable=True)
    return jnp.zeros(flat.shape, jnp.int32).at[order].set(jnp.arange(flat.size, dtype=jnp.int32)).reshape(values.shape)


def sliding(known: jax.Array, wrong: jax.Array, mask: jax.Array, memory: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weights of a string's digits, and the memory after them; see `MemFT`.

    Args:
      known: [B, T] float32, −log p of each label.
      wrong: [B, T] bool, labels that are not the likeliest token. All rows are the same string: the first is looked at.
      mask: [B, T] bool, where labels are.
      memory: first_wrong (a, −1 without one), stood (further steps that it has been there) and growth (x).
    """
    digit = jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1
    b = jax.nn.sigmoid(SHARPNESS * (known - LN2))
    first = jnp.where(jnp.any(wrong[0]), digit[0, jnp.argmax(wrong[0])], -1)
    stood = jnp.where((first == memory["first_wrong"]) & (first >= 0), memory["stood"] + 1, 0)
    growth = jnp.where(stood == 0, 1.0, jnp.where(stood >= PATIENCE, jnp.minimum(memory["growth"] + GROWTH, MOST), memory["growth"]))
    beyond = (digit - first).astype(jnp.float32)
    weights = jnp.where(beyond < WINDOW * growth, b * jnp.exp(-jnp.maximum(beyond, 0.0) / DECAY), BEHIND * b)
    return jnp.where(first < 0, b, weights), {"first_wrong": first, "stood": stood, "growth": growth}
