"""Keeping the skill: how a day is read and answered for, which a night of facts would wear away, is held to what it was.

Days that never were: today's text with each name and each digit another one. The model without experts reads such a day, asks itself, and answers; the student, that has
read it, too, is to answer alike:

    loss = mean over words of KL(model without experts ‖ student), each with the S that reading left it

No text is kept for it, and no true answer is told. What reading leaves is a constant: no gradient goes through it. Ours; as the paper's (arXiv 2606.03979) nights tell
nothing against it. Letters: B rows, R readings, T tokens.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.methods.base import Problem
from sleepnet.methods.divergence import generalised
from sleepnet.methods.night import dreams
from sleepnet.models import experts
from sleepnet.state import fork


def never_was(task: Any, key: jax.Array, text_RxT: jax.Array) -> jax.Array:
    """[R, T] int32, days with other names and digits, drawn for each reading."""
    def one(row, text):
        own = jax.random.fold_in(key, row)
        digits, names = (jax.random.permutation(jax.random.fold_in(own, which), many) for which, many in ((0, 10), (1, task.names)))
        return task.renamed(text, lambda number: digits[number], lambda number: names[number])

    return jax.vmap(one)(jnp.arange(len(text_RxT), dtype=jnp.uint32), text_RxT)


def prepared(problem: Problem, params: Any, key: jax.Array, text_RxT: jax.Array, each: int, passes: int, law: decode.Law, other_B: jax.Array | None) -> dict[str, jax.Array]:
    """What the loss reads, rows first: B = R · `each` questions, those of `other_B` in other words."""
    task, base, rows = problem.task, experts.prune(params), len(text_RxT) * each
    text = never_was(task, jax.random.fold_in(key, 0), text_RxT)
    blank = nnx.merge(problem.graph, params).init_state(len(text))
    heard = lambda who: fork(decode.read(problem.graph, who, blank, text, at=0, passes=passes)[1], each)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, 1), row))(jnp.arange(rows, dtype=jnp.uint32))
    state = heard(base)
    sequence, learnt = dreams.put(task, *dreams.write(problem, base, state, keys, None, law), jnp.ones((), bool), other_B)
    told = jax.nn.log_softmax(decode.read(problem.graph, base, state, sequence, at=0)[0], axis=-1)
    weights = learnt.astype(jnp.float32) / jnp.maximum(jnp.sum(learnt.astype(jnp.float32)), 1.0)
    return {"skill_sequence": sequence, "skill_weights": weights, "skill_law": told, **dreams.laid(heard(params), "skill_state")}


def loss(problem: Problem, params: Any, batch: Any) -> jax.Array:
    """This part's share, float32."""
    logits = decode.read(problem.graph, params, dreams.taken(problem, params, batch, "skill_state"), batch["skill_sequence"], at=0)[0]
    apart = generalised(batch["skill_law"], jax.nn.log_softmax(logits, axis=-1), 0.0)
    return jnp.sum(jnp.where(batch["skill_weights"] > 0, batch["skill_weights"] * apart, 0.0))
