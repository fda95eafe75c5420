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


def loss_and_logits(graph: nnx.GraphDef, params: Any, batch: Batch, passes: int, predicts: tuple[bool, ...]) -> tuple[jax.Array, jax.Array]:
    """Algorithm 1's loss, and the logits it came from."""
    logits = nnx.merge(graph, params).forward(batch["tokens"], passes=passes, predicts=predicts)
    return losses.cross_entropy(logits, batch["targets"], batch["loss_mask"]), logits


def make_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, predicts: tuple[bool, ...], answers: int
) -> Callable[[TrainState, Batch, int], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles `step(state, batch, passes) → (state, metrics)`; `passes` is static, `state` is donated.

    Metrics, one scalar each: loss, gradient_norm (before clipping), exact and answered (answers right, and asked).
    """

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def step(state: TrainState, batch: Batch, passes: int):
        value_and_grad = jax.value_and_grad(lambda params: loss_and_logits(graph, params, batch, passes, predicts), has_aux=True)
        (loss, logits), grads = value_and_grad(state.params)
        norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        moved = TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1, state.bad_step)
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.global_norm(moved.params)) & (state.bad_step < 0)
        stopped = dataclasses.replace(state, bad_step=jnp.where(state.bad_step < 0, state.step, state.bad_step))
        _, tokens, exact = losses.grade(logits, batch["targets"], batch["answer"], answers)
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "exact": jnp.sum(exact.astype(jnp.int32)),
            "answered": jnp.sum((tokens > 0).astype(jnp.int32)),
        }
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
