"""Learning to think in memory blocks (RiM, arXiv 2605.30343, which came without code): read-outs behind each block, all in one pass.

`sleepnet.models.memory_blocks` has the blocks and who sees whom; a model has K = `model.memory_blocks.count` of them, at test too. The layout, the position ids and
the law of λ are our reconstruction. Stage 1, then stage 2 with a new optimiser, are two phases of a study's arm: `experiments/seeds/rim.py`.

Letters: B rows, R read-outs, Q tokens of one, C tokens that sleep.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sleepnet import losses
from sleepnet.errors import UsageError, nearest
from sleepnet.methods import base
from sleepnet.methods.answers import graded
from sleepnet.methods.registry import register
from sleepnet.models import flops

SCHEDULES = ("relative", "constant", "absolute")
ALPHAS = ("rising", "equal", "last")


@register
@dataclasses.dataclass(frozen=True)
class RiM(base.Method):
    """Mean over rows of the cross entropies behind the blocks, that of several tokens being their mean.

    stage 1   Σ_t λ_t(p) CE(c_t | x, m_≤t) / Σ_t λ_t(p)     c_1 … c_T the task's steps, of which the last is the answer (`Task.chain`); T blocks, however many the model has
    stage 2   Σ_k α_k CE(y | x, m_≤k)                       the answer behind every block of the model's K
    stage 0   CE(y | x)                                     no block is read: what a faithful run starts from

    λ: relative   λ_t = clip(1 − p T / t, 0, 1), p = steps taken / `fade_steps`, at most 1: each solution's first steps fade first, its own length being the measure
       absolute   clip(1 − p R / t, 0, 1), R the longest solution's T
       constant   1
       λ_T is 1 whatever p is, unless `fade_answer`
    α: rising     2 k / (K (K + 1))
       equal      1 / K
       last       1 for k = K, else 0: the same tokens without supervision before the end, `pause`
    """

    stage: int = 2  # 0, 1 or 2
    schedule: str = "relative"  # of λ: relative, constant or absolute; read by stage 1
    fade_steps: int = 0  # of training, in which p goes from 0 to 1; read by stage 1, where λ is not constant
    fade_answer: bool = False  # λ_T fades like the others; read by stage 1
    alpha: str = "rising"  # rising, equal or last; read by stage 2
    leaky: bool = False  # a control: each read-out is followed by its last label and sees the read-outs before it

    name = "rim"
    prepares = True
    tells = ("readouts_right",)

    def __post_init__(self):
        if self.stage not in (0, 1, 2):
            raise UsageError(f"method.arguments.stage={self.stage} is not one of 0, 1, 2")
        for key, value, known in (("schedule", self.schedule, SCHEDULES), ("alpha", self.alpha, ALPHAS)):
            if value not in known:
                raise UsageError(f"method.arguments.{key}={value!r} is not one of {', '.join(known)}{nearest(value, known)}")
        fades = self.stage == 1 and self.schedule != "constant"
        if fades and self.fade_steps < 1:
            raise UsageError(f"method.arguments.fade_steps={self.fade_steps} must be at least 1 for schedule={self.schedule!r}: the run's train.steps, or set schedule to 'constant'")
        for key, read in (("fade_steps", fades), ("fade_answer", fades), ("schedule", self.stage == 1), ("alpha", self.stage == 2), ("leaky", self.stage > 0)):
            usual = type(self).__dataclass_fields__[key].default
            if not read and getattr(self, key) != usual:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not read with stage={self.stage}, schedule={self.schedule!r}: leave it at {usual!r}")

    def check(self, config, task):
        if not config.model.memory_blocks.count:
            raise UsageError("method.name='rim' needs model.memory_blocks.count of at least 1, such as 8")
        if self.stage == 1 and not task.chain_shape:
            task.chain(np.zeros((1, task.seq_len), np.int32))
        length = (task.chain_shape[1] if self.stage == 1 else task.seq_len - context(task)) + self.leaky
        if self.stage and length > task.window:
            raise UsageError(f"method.arguments.stage={self.stage}: a read-out of {length} tokens is longer than a window of {task.window}; set task.arguments.window to {length} or more")

    def draw(self, task, config, batch):
        if self.stage != 1:
            return {}
        asked, said = task.chain(batch["tokens"])
        return {"chain_tokens": asked, "chain_targets": said}

    def memory(self, batch_size, params):
        return {"taken": jnp.zeros((), jnp.int32)} if self.stage == 1 and self.schedule != "constant" else ()

    def prepare(self, problem, params, memory, batch, key, passes):
        if self.stage == 0:
            return batch, memory
        if self.stage == 1:
            said_BxRxQ = batch["chain_targets"]
            done = jnp.minimum(memory["taken"].astype(jnp.float32) / self.fade_steps, 1.0) if memory else 0.0
            steps_B = jnp.sum(jnp.any(said_BxRxQ != problem.task.pad, axis=-1).astype(jnp.int32), axis=-1)
            weights_BxR = step_weights(done, steps_B, said_BxRxQ.shape[1], self.schedule, self.fade_answer)
            return {**batch, "weights": weights_BxR}, jax.tree.map(lambda taken: taken + 1, memory)
        blocks = nnx.merge(problem.graph, params).config.memory_blocks.count
        rows = lambda value: jnp.broadcast_to(value, (batch["tokens"].shape[0], *value.shape))
        return {**batch, "weights": rows(jnp.asarray(answer_weights(blocks, self.alpha)))}, memory

    def count(self, batch):
        return jnp.float32(batch["tokens"].shape[0])

    def loss(self, problem, params, batch, passes, count):
        model, begin = nnx.merge(problem.graph, params), context(problem.task)
        if self.stage == 0:
            logits, _ = model.forward_until(batch["tokens"], passes=passes, predicts=problem.task.predicts, blocks=0)
            weights = _mean(batch["loss_mask"])
            return losses.weighted_cross_entropy(logits, batch["targets"], weights, count), {"logits": logits}
        asked, said, label = self._readouts(problem, batch)
        text = followed(asked, said, label) if self.leaky else asked
        logits = model.readouts(batch["tokens"][:, :begin], text, passes=passes, leaky=self.leaky)[:, :, : asked.shape[2]]
        each = batch["weights"][..., None] * _mean(label)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, said)
        return jnp.sum(jnp.where(each > 0, each * entropy, 0.0)) / count, {"logits": logits}

    def _readouts(self, problem, batch):
        """What is read, what must be predicted, and where: [B, R, Q] each."""
        if self.stage == 1:
            return batch["chain_tokens"], batch["chain_targets"], batch["chain_targets"] != problem.task.pad
        begin, count = context(problem.task), batch["weights"].shape[1]
        again = lambda array: jnp.repeat(array[:, None, begin:], count, axis=1)
        return again(batch["tokens"]), again(batch["targets"]), again(batch["loss_mask"])

    def tell(self, problem, batch, seen, count):
        if self.stage == 0:
            numbers = graded(problem, batch, seen["logits"])
            return numbers | {"readouts_right": numbers["exact"] / count}
        _, said, label = self._readouts(problem, batch)
        asked_BxR = jnp.any(label, axis=2)
        right_BxR = jnp.all((jnp.argmax(seen["logits"], axis=-1).astype(jnp.int32) == said) | ~label, axis=2) & asked_BxR
        last_B = jnp.sum(asked_BxR.astype(jnp.int32), axis=1) - 1
        share_B = jnp.sum(jnp.where(right_BxR, _mean(asked_BxR), 0.0), axis=1)
        told = {"readouts_right": jnp.sum(share_B) / count}
        if self.stage == 2:
            final = jnp.pad(seen["logits"][:, -1], ((0, 0), (context(problem.task), 0), (0, 0)))
            return told | graded(problem, batch, final)
        exact = jnp.take_along_axis(right_BxR, last_B[:, None], axis=1)
        return told | {"exact": jnp.sum(exact.astype(jnp.float32)), "answered": jnp.float32(exact.shape[0])}

    def flops(self, model, task, passes):
        if self.stage == 0:
            return base.read_and_learn(dataclasses.replace(model, memory_blocks=type(model.memory_blocks)()), task, passes)
        readouts, length = task.chain_shape if self.stage == 1 else (model.memory_blocks.count, task.seq_len - context(task))
        return flops.readouts_train_flops(model, context(task), readouts, length + self.leaky, passes)


def context(task: base.Task) -> int:
    """C, tokens of the windows that sleep, which stand in front of all that predict."""
    return task.predicts.count(False) * task.window


def _mean(there: jax.Array) -> jax.Array:
    """float32 weights of what is there along the last axis, bool: alike, and 1 together; 0 where nothing is."""
    there = there.astype(jnp.float32)
    return there / jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1.0)


def step_weights(done: jax.Array | float, steps_B: jax.Array, most: int, schedule: str, fade_answer: bool) -> jax.Array:
    """λ_t / Σ λ of each row's read-outs: float32 [B, R], 0 behind its T-th; all 0 where every λ is.

    Args:
      done: p, share of the fading that is done.
      steps_B: T of each row, int32.
      most: R.
      schedule, fade_answer: as `RiM` has them.
    """
    t_1xR, T_Bx1 = jnp.arange(1, most + 1, dtype=jnp.float32)[None], steps_B[:, None].astype(jnp.float32)
    length = {"relative": T_Bx1, "absolute": jnp.float32(most), "constant": jnp.float32(0)}[schedule]
    fading = jnp.where(t_1xR <= T_Bx1, jnp.clip(1 - done * length / t_1xR, 0, 1), 0.0)
    law = fading if fade_answer else jnp.where(t_1xR == T_Bx1, 1.0, fading)
    total = jnp.sum(law, axis=1, keepdims=True)
    return law / jnp.where(total > 0, total, 1.0)


def answer_weights(blocks: int, alpha: str) -> np.ndarray:
    """α_1 … α_K, float32: they sum to 1."""
    k = np.arange(1, blocks + 1)
    return {"rising": 2 * k / (blocks * (blocks + 1)), "equal": np.full(blocks, 1 / blocks), "last": (k == blocks) * 1.0}[alpha].astype(np.float32)


def followed(asked: jax.Array, said: jax.Array, label: jax.Array) -> jax.Array:
    """Each read-out with the label of its last token behind it, [B, R, Q + 1]: where read-outs see those before them, they see those answers."""
    longer = ((0, 0), (0, 0))
    last = jnp.pad(jnp.where(label, said, 0), (*longer, (1, 0)))
    return jnp.where(last > 0, last, jnp.pad(asked, (*longer, (0, 1))))
