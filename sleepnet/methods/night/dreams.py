"""Dreams: what a model says when it is asked to ask, a key and a value word by word, and how that is put to a model that is to know it.

Letters: B rows, n words of a dream behind the word that asks (key, value, END), T words of a question with its answer.
"""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.config import ModelConfig
from sleepnet.methods.base import Problem
from sleepnet.models import flops
from sleepnet.state import State
from sleepnet.tasks.base import Task


def write(problem: Problem, params: Any, state: State, keys_B: jax.Array, forced_BxT: jax.Array | None, law: decode.Law) -> tuple[jax.Array, jax.Array]:
    """[B, n] int32 words, PAD behind END, and [B, n] bool which of them count, of rows that stand at the begin of a window; see `decode.write`."""
    task, rows = problem.task, keys_B.shape[0]
    said = decode.write(
        problem.graph, params, state, jnp.full((rows,), task.ask, jnp.int32), keys_B, at=0, steps=task.question_tokens - 1, law=law, stop=(task.end,), forced_BxT=forced_BxT
    )  # fmt: skip
    return jnp.maximum(said.tokens, 0), said.valid


def asked(task: Task, words: jax.Array) -> jax.Array:
    """[B, n] bool: which words of a dream are its key."""
    return jnp.arange(words.shape[-1], dtype=jnp.int32)[None] < task.key_length(words[..., :1])


def put(task: Task, words: jax.Array, valid: jax.Array, keys_count: jax.Array, other_B: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Dreams as questions that are answered.

    Args:
      words, valid: as `write` gives them.
      keys_count: bool scalar, whether words of keys are to be learnt, too.
      other_B: bool, rows that are asked in other words, in which no word of a key counts; None: none.

    Returns:
      [B, T] int32 what is read, T = n, or n + 1 where some are asked in other words; [B, T] bool where the word behind is to be learnt.
    """
    plain = jnp.concatenate([jnp.full_like(words[:, :1], task.ask), words[:, :-1]], axis=1), valid & (~asked(task, words) | keys_count)
    if other_B is None:
        return plain
    place = jnp.arange(words.shape[1] + 1, dtype=jnp.int32)[None]
    gap = 1 + task.key_length(words[:, :1])  # where the word stands that gives
    line = jnp.concatenate([jnp.full_like(words[:, :1], task.about), words], axis=1)
    moved = jnp.where(place == gap, task.give, jnp.where(place < gap, line, jnp.roll(line, 1, axis=1)))
    learnt = (place >= gap) & jnp.roll(jnp.pad(valid, ((0, 0), (0, 1))), 1, axis=1)
    sequence, counted = (jnp.pad(each, ((0, 0), (0, 1))) for each in plain)
    return jnp.where(other_B[:, None], moved, sequence), jnp.where(other_B[:, None], learnt, counted)


def laid(state: State, name: str) -> dict[str, jax.Array]:
    """A state that stands at the begin of a window as what a batch can hold, rows first, by names that begin with `name`; see `taken`."""
    return {f"{name}_{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state)) if leaf.ndim}


def taken(problem: Problem, params: Any, batch: Mapping[str, jax.Array], name: str) -> State:
    """The state of these rows of a batch; inverse of `laid`."""
    rows = batch[f"{name}_0"].shape[0]
    leaves, tree = jax.tree.flatten(nnx.merge(problem.graph, params).init_state(rows))
    return jax.tree.unflatten(tree, [batch[f"{name}_{number}"] if leaf.ndim else leaf for number, leaf in enumerate(leaves)])


def text_flops(model: ModelConfig, task: Task, passes: int) -> int:
    """FLOPs of reading a day's text, asleep with N passes."""
    once = flops.pass_flops(model, model.window, context=model.window + model.survivors)
    return task.first_asked // model.window * (once + (flops.sleep_flops(model, passes) if passes > 1 else 0))


def scored_flops(model: ModelConfig, words: int) -> int:
    """FLOPs of reading so many words of a question, with their logits."""
    return flops.pass_flops(model, words, context=model.window + model.survivors) + flops.head_flops(model, words)
