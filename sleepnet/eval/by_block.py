"""Answers of a model with memory blocks, read out behind each of them.

Letters: B examples of a batch, E of the evaluation, T tokens of an example, A answers of an example, K memory blocks.
"""
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet import losses
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.mesh import constrain
from sleepnet.tasks.base import Task


def chosen(config: ModelConfig, task: Task, blocks: int | None) -> ModelConfig:
    """The model with K = `blocks`, its own if None.

    Raises:
      UsageError: a model without memory blocks, or without a K; or a question longer than a window, which no read-out has room for.
    """
    if blocks is None and not config.memory_blocks.count:
        return config
    count = config.memory_blocks.count if blocks is None else blocks
    if not config.memory_blocks.count:
        raise UsageError(f"blocks={blocks} of a model without memory blocks: leave it out, or train one with model.memory_blocks.count")
    if count < 1:
        raise UsageError(f"blocks={blocks} must be at least 1")
    if task.predicts.count(True) > 1:
        raise UsageError(f"task {task.title} asks in {task.predicts.count(True)} windows: behind a memory block there is room for one")
    return dataclasses.replace(config, memory_blocks=dataclasses.replace(config.memory_blocks, count=count))


@functools.partial(jax.jit, static_argnames=("graph", "context", "answers", "blocks"))
def grade(graph, params, tokens_BxT, targets_BxT, answer_BxT, *, passes, context, answers, blocks):
    """int32 [B, K, A]: whether an answer is right, read out behind each block."""
    again = lambda array: jnp.repeat(array[:, None, context:], blocks, axis=1)
    logits = nnx.merge(graph, params).readouts(tokens_BxT[:, :context], again(tokens_BxT), passes=passes)
    flat = lambda array: array.reshape(-1, *array.shape[2:])
    targets = jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), again(targets_BxT), -1)
    exact = losses.grade(flat(logits), flat(targets), flat(again(answer_BxT)), answers)[2]
    return constrain(exact.astype(jnp.int32).reshape(len(tokens_BxT), blocks, answers))


def told(exact_ExKxA: np.ndarray, chosen_ExA: np.ndarray) -> dict[str, Any]:
    """Of the chosen answers: the share that is right behind each block, and behind any of them."""
    exact_KxN = np.moveaxis(exact_ExKxA, 1, 0)[:, chosen_ExA]
    shares = exact_KxN.mean(axis=1) if exact_KxN.shape[1] else np.zeros(len(exact_KxN))
    return {"exact_by_block": [float(share) for share in shares], "any_block": float(exact_KxN.any(axis=0).mean()) if exact_KxN.shape[1] else 0.0}
