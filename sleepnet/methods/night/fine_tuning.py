"""Fine-tuning, day after day: what a night is measured against. The model reads no day asleep; it learns the day's text itself, or its questions, by heart.

With `anchor` what mattered to earlier days is held: elastic weight consolidation in its online form (Kirkpatrick et al., arXiv 1612.00796; Schwarz et al.,
arXiv 1805.06370, nothing forgotten). With `threshold` words that are known count no more: MemFT's first law (arXiv 2605.30260), see `sleepnet.methods.memft`.
Replay, and all days taking turns, are the task's. Letters: B rows, T tokens, P what may change.
"""
import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sleepnet import decode, losses
from sleepnet.errors import UsageError
from sleepnet.methods.memft import unknown
from sleepnet.methods.night.by_night import ByNight, part_of, with_part
from sleepnet.methods.registry import register
from sleepnet.models import flops
from sleepnet.tasks.base import PAD

LEARNS = ("text", "questions")


@register
@dataclasses.dataclass(frozen=True)
class FineTuning(ByNight):
    """loss = mean over words of −log softmax(logits)[word] + anchor / 2 · Σ_P F (θ − θ*)², read with S = 0, in one pass.

    F grows with each night by the mean over `sampled` rows of its last step of the squared gradient of Σ_T log softmax(logits)[word]; θ* are the parameters
    at this night's beginning. With `threshold` the mean is over words of a smaller probability; over all where there are none.
    """

    learns: str = "text"  # the day's text, every word of it behind the first; or its questions, of which all that has labels
    anchor: float = 0.0  # how much P is held where it was; 0: not at all
    sampled: int = 16  # rows that F is made of
    threshold: float = 0.0  # probability from which on a word counts as known, and is not learnt; 0: all are

    name = "fine_tuning"
    prepares = True

    def __post_init__(self):
        if self.learns not in LEARNS:
            raise UsageError(f"method.arguments.learns={self.learns!r} is not one of {', '.join(LEARNS)}")
        if not self.anchor >= 0:
            raise UsageError(f"method.arguments.anchor={self.anchor} must be at least 0")
        if self.sampled < 1:
            raise UsageError(f"method.arguments.sampled={self.sampled} must be at least 1")
        if not 0 <= self.threshold < 1:
            raise UsageError(f"method.arguments.threshold={self.threshold} must be 0, or lie between 0 and 1")

    def check(self, config, task):
        super().check(config, task)
        if task.order == "mixed" and self.grow:
            raise UsageError("task.arguments.order='mixed' has no night of one day: set method.arguments.grow=False, one expert for all")
        if self.anchor and self.sampled > config.train.batch_size:
            raise UsageError(f"method.arguments.sampled={self.sampled} is more than train.batch_size={config.train.batch_size}: set it to that or less")

    def memory(self, batch_size, params):
        if not self.anchor:
            return ()
        nothing = jax.tree.map(jnp.zeros_like, params)
        return {"start": params, "matters": nothing, "today": nothing, "step": jnp.zeros((), jnp.int32)}

    def prepare(self, problem, params, memory, batch, key, passes):
        task = problem.task
        tokens, words, mask = self._read(task, batch)
        batch = {**batch, "read": tokens, "words": words, "learnt": self._unknown(problem, params, tokens, words, mask)}
        if not self.anchor:
            return batch, memory
        every, step = task.per_day // tokens.shape[0], memory["step"]
        here = part_of(memory["start"], params)
        added = jax.tree.map(jnp.add, memory["matters"], memory["today"])
        begun = {"start": here, "matters": added, "today": jax.tree.map(jnp.zeros_like, here)}
        held = jax.lax.cond(step % every == 0, lambda: begun, lambda: {key: memory[key] for key in begun})

        def squares():
            of = lambda here, row: self._likelihood(problem, with_part(params, here), *jax.tree.map(lambda leaf: leaf[None], row))
            rows = tuple(leaf[: self.sampled] for leaf in (tokens, words, mask))
            return jax.tree.map(lambda each: jnp.mean(jnp.square(each), axis=0), jax.vmap(jax.grad(of), in_axes=(None, 0))(here, rows))

        today = jax.lax.cond(step % every == every - 1, squares, lambda: held["today"])
        return batch, {**held, "today": today, "step": step + 1}

    def _read(self, task, batch):
        """[B, T] int32 what is read, [B, T] int32 what is to be said, [B, T] bool where."""
        if self.learns == "questions":
            return tuple(batch[key][:, task.first_asked :] for key in ("tokens", "targets", "loss_mask"))
        text = batch["tokens"][:, : task.first_asked]
        words = jnp.pad(text[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
        return text, words, words != PAD

    def _unknown(self, problem, params, tokens, words, mask):
        """[B, T] bool, where words are to be learnt: those that are not known, or all where there are none."""
        if not self.threshold:
            return mask
        surprise = optax.softmax_cross_entropy_with_integer_labels(self._logits(problem, params, tokens), words)
        over = unknown(surprise, mask, self.threshold)
        return jnp.where(jnp.any(over), over, mask)

    def _logits(self, problem, params, tokens):
        """[B, T, V], read with S = 0, in one pass."""
        blank = nnx.merge(problem.graph, params).init_state(tokens.shape[0])
        return decode.read(problem.graph, params, blank, tokens, at=0)[0]

    def _likelihood(self, problem, params, tokens, words, mask):
        logits = self._logits(problem, params, tokens)
        return -losses.cross_entropy(logits, words, mask, jnp.ones((), jnp.float32))

    def count(self, batch):
        return jnp.sum(batch["learnt"].astype(jnp.float32))

    def loss(self, problem, params, batch, passes, count):
        logits = self._logits(problem, params, batch["read"])
        loss = losses.cross_entropy(logits, batch["words"], batch["learnt"], count)
        if self.anchor:
            held = problem.memory
            apart = jax.tree.map(lambda F, new, old: jnp.sum(F * jnp.square(new - old)), held["matters"], part_of(held["start"], params), held["start"])
            share = jnp.sum(batch["learnt"].astype(jnp.float32)) / count
            loss += share * self.anchor / 2 * sum(jax.tree.leaves(apart))
        return loss, {"logits": logits}

    def tell(self, problem, batch, seen, count):
        return {}

    def keeps(self, task, trained):
        read = task.first_asked if self.learns == "text" else task.seq_len - task.first_asked
        return self._replayed(task, read) + bool(self.anchor) * 4 * trained  # F

    def flops(self, model, task, passes):
        n = task.first_asked if self.learns == "text" else task.seq_len - task.first_asked
        window = min(n, model.window)
        once = -(-n // model.window) * flops.pass_flops(model, window, context=model.window + model.survivors) + flops.head_flops(model, n)
        return (3 + bool(self.threshold)) * once + bool(self.anchor) * 3 * once * self.sampled // task.per_day
