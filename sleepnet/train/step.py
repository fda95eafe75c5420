"""One training step as a pure function on a pytree."""
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sleepnet import losses
from sleepnet.mesh import BATCH, constrain, over_data

Batch = Mapping[str, jax.Array]


@partial(jax.tree_util.register_dataclass, data_fields=["params", "opt_state", "step", "bad_step"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes.

    Attributes:
      params: nested dict of float32 arrays.
      opt_state: the optimiser's.
      step: int32 scalar, steps taken.
      bad_step: int32 scalar, the first step with a loss, gradient or update that was not finite, −1 without one. From there on the
        state stands still, so the tensor at fault can be looked up.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    bad_step: jax.Array


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))


def loss_and_logits(
    graph: nnx.GraphDef, params: Any, batch: Batch, passes: int, predicts: tuple[bool, ...], count: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Algorithm 1's loss, and the logits it came from; `count` as `losses.cross_entropy` takes it."""
    logits = nnx.merge(graph, params).forward(batch["tokens"], passes=passes, predicts=predicts)
    return losses.cross_entropy(logits, batch["targets"], batch["loss_mask"], count), logits


def split(batch: Batch, parts: int) -> Batch:
    """[B, …] → [parts, B / parts, …]: part i has the rows i, i + parts, …, so each device goes on with rows that it holds."""
    rows = batch["tokens"].shape[0] // parts
    cut = lambda x: jnp.swapaxes(x.reshape(rows, parts, *x.shape[1:]), 0, 1)
    return {key: constrain(cut(value), None, BATCH, *(None,) * (value.ndim - 1)) for key, value in batch.items()}


def gradients(graph: nnx.GraphDef, params: Any, batch: Batch, passes: int, predicts: tuple[bool, ...], answers: int, accumulate: int):
    """Loss, gradient and the right and the asked answers of a batch, computed in `accumulate` parts; equal to one part up to rounding."""

    def of(params, batch, count):
        value_and_grad = jax.value_and_grad(lambda params: loss_and_logits(graph, params, batch, passes, predicts, count), has_aux=True)
        (loss, logits), grads = value_and_grad(params)
        _, tokens, exact = losses.grade(logits, batch["targets"], batch["answer"], answers)
        return loss, grads, jnp.sum(exact.astype(jnp.float32)), jnp.sum((tokens > 0).astype(jnp.float32))  # exact below 2^24 answers

    def share(params, batch, count):
        if accumulate == 1:
            return of(params, batch, count)
        parts = split(batch, accumulate)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(of, params, jax.tree.map(lambda x: x[0], parts), count))
        return jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, of(params, part, count)), None), zeros, parts)[0]

    loss, grads, exact, answered = over_data(share, params, batch, jnp.sum(batch["loss_mask"].astype(jnp.float32)))
    return loss, grads, exact.astype(jnp.int32), answered.astype(jnp.int32)


def make_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, predicts: tuple[bool, ...], answers: int, accumulate: int = 1
) -> Callable[[TrainState, Batch, int], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles `step(state, batch, passes) → (state, metrics)`; `passes` is static, `state` is donated, `accumulate` as in `gradients`.

    Metrics, one scalar each: loss, gradient_norm (before clipping), exact and answered (answers right, and asked).
    """

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def step(state: TrainState, batch: Batch, passes: int):
        loss, grads, exact, answered = gradients(graph, state.params, batch, passes, predicts, answers, accumulate)
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        moved = TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1, state.bad_step)
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.global_norm(moved.params)) & (state.bad_step < 0)
        stopped = dataclasses.replace(state, bad_step=jnp.where(state.bad_step < 0, state.step, state.bad_step))
        metrics = {"loss": loss, "gradient_norm": norm, "exact": exact, "answered": answered}
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, stopped), metrics

    return step


def first_bad_tensor(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, state: TrainState, batch: Batch, passes: int, predicts: tuple[bool, ...]
) -> str:
    """The name of the first tensor that is not finite: parameters, logits, loss, gradients, updated parameters, each in tree order."""

    @jax.jit
    def compute(state):
        value_and_grad = jax.value_and_grad(lambda p: loss_and_logits(graph, p, batch, passes, predicts), has_aux=True)
        (loss, logits), grads = value_and_grad(state.params)
        updates, _ = optimizer.update(grads, state.opt_state, state.params)
        return loss, logits, grads, optax.apply_updates(state.params, updates)

    loss, logits, grads, moved = compute(state)
    kinds = ("parameter", state.params), ("logits", logits), ("loss", loss), ("gradient of", grads), ("update of", moved)
    for kind, tree in kinds:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not bool(jnp.all(jnp.isfinite(leaf))):
                return f"{kind} {jax.tree_util.keystr(path, simple=True, separator='.')}".strip()
    return "nothing at fault when computed again"
