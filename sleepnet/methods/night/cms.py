"""The sender of Behrouz et al. (arXiv 2606.03979), a continuum memory system: a faster level of MLP, which the day moves and the night resets.

The level is a low-rank expert of the lowest block. A window of the day's text moves it by gradient descent on the loss of the next word, nothing else; all slower levels
stand still. Behind the night it is as it was: it never is among the model's parameters. Letters: R readings of the day, T its tokens, L of a window.
"""
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sleepnet import decode, losses
from sleepnet.config import ModelConfig
from sleepnet.methods.base import Problem
from sleepnet.methods.night import dreams, isolated
from sleepnet.tasks.base import PAD, Task

LEVEL = r"^blocks\.0\.mlp\.(gate|up|down)\.kernel$"


def lived(problem: Problem, params: Any, text_RxT: jax.Array, rank: int, rate: float, moves: int) -> Any:
    """The model as the day leaves it: each window in turn moves the level `moves` times by `rate` · gradient of `surprise`."""
    factors, whole = isolated.born(params, rank, LEVEL)
    window = problem.task.window
    for first in range(0, text_RxT.shape[1], window):
        here = text_RxT[:, first : first + window]
        factors = isolated.learnt(lambda factors: surprise(problem, whole(factors), here), factors, optax.sgd(rate), moves)  # noqa: B023
    return whole(factors)


def surprise(problem: Problem, params: Any, words_RxL: jax.Array) -> jax.Array:
    """Mean over words of a window, but the first, of −log p given those before, S = 0; float32 scalar."""
    behind = jnp.pad(words_RxL[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
    logits = decode.read(problem.graph, params, nnx.merge(problem.graph, params).init_state(len(words_RxL)), words_RxL, at=0)[0]
    return losses.cross_entropy(logits, behind, behind != PAD, jnp.maximum(jnp.sum((behind != PAD).astype(jnp.float32)), 1.0))


def lived_flops(model: ModelConfig, task: Task, moves: int) -> int:
    """FLOPs of `lived`, a reading."""
    return task.first_asked // model.window * moves * 3 * dreams.scored_flops(model, model.window)
