"""A model's own chain of thought: what it predicts at a token is what it reads next, greedily, and the answer is what follows.

Letters: B examples, T tokens of an example, L of a window, A answers of an example, V vocabulary.
"""
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode, losses
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.mesh import constrain
from sleepnet.tasks.base import PAD, Task


def check(config: ModelConfig, task: Task) -> None:
    """Sees that there is a chain, and that the model can write it.

    Raises:
      UsageError: a task without one, or a model that loops over what it predicts and so has no one-pass form.
    """
    if not task.thinks:
        raise UsageError(f"own_chain: task {task.name} as given has no chain of thought; group, gsm and rule110 have one with chain_of_thought=True, phonebook where it asks for more than one digit, days always")
    if config.memory_blocks.count:
        raise UsageError(f"own_chain: a model with memory_blocks.count={config.memory_blocks.count} can't write token by token, since blocks are read by forward alone; leave own_chain out")
    if config.sparse.count:
        raise UsageError(f"own_chain: a model with sparse.count={config.sparse.count} can't write token by token, since its gate reads the row's beginning first; leave own_chain out")
    if config.sleep.predict_passes != 1:
        raise UsageError(f"own_chain: a model with sleep.predict_passes={config.sleep.predict_passes} can't write token by token in one pass; leave own_chain out")


def written(tokens_BxT: jax.Array, targets_BxT: jax.Array, loss_mask_BxT: jax.Array) -> jax.Array:
    """[B, T] bool: tokens that are the label of the token before them, which a model can write itself."""
    label_BxT = jnp.where(loss_mask_BxT, targets_BxT, PAD)[:, :-1]
    return jnp.pad((label_BxT != PAD) & (tokens_BxT[:, 1:] == label_BxT), ((0, 0), (1, 0)))


def write(model: nnx.Module, tokens_BxT: jax.Array, own_BxT: jax.Array, *, passes: int | jax.Array, predicts: Sequence[bool], halt: float | jax.Array | None = 0.0) -> tuple[jax.Array, jax.Array]:
    """Reads the tokens in the streaming form, a token of `own_BxT` replaced by what was predicted at the token before it.

    Args:
      model: has `init_state`, `wake` and `sleep` as `sleepnet.models.hybrid.Hybrid`.
      tokens_BxT: int32.
      own_BxT: bool; in windows that predict alone.
      passes, predicts, halt: as `Hybrid.forward_until` takes them.

    Returns:
      What was read and what was predicted at each position, both int32 [B, T]: PAD where nothing is predicted, −1 where a logit is no number.
    """
    (graph, params), size = nnx.split(model, nnx.Param), model.config.window
    state, last_B, start, read, predicted = model.init_state(len(tokens_BxT)), jnp.full((len(tokens_BxT),), PAD, jnp.int32), 0, [], []
    for predicting, windows in itertools.groupby(predicts):
        stop = start + len(list(windows)) * size
        given, own = tokens_BxT[:, start:stop], own_BxT[:, start:stop]
        if predicting:
            forced = jnp.pad(jnp.where(own, decode.FREE, given)[:, 1:], ((0, 0), (0, 1)), constant_values=decode.FREE)
            first_B = jnp.where(own[:, 0], last_B, given[:, 0])
            said = decode.write(graph, params, state, first_B, at=0, steps=given.shape[1], law=decode.GREEDY, forced_BxT=forced,
                                passes=passes if model.config.sleep.after_predicting else 1)
            state, last_B, labels = said.state, said.last, said.drawn
            given = jnp.concatenate([first_B[:, None], jnp.maximum(said.tokens[:, :-1], PAD)], axis=1)
        else:
            state, labels = decode.read(graph, params, state, given, at=0, passes=passes, halt=halt)[1], jnp.full_like(given, PAD)
        start, read, predicted = stop, [*read, given], [*predicted, labels]
    return jnp.concatenate(read, axis=1), jnp.concatenate(predicted, axis=1)


@functools.partial(jax.jit, static_argnames=("graph", "predicts", "answers", "marker"))
def grade(graph, params, tokens_BxT, targets_BxT, loss_mask_BxT, answer_BxT, *, passes, predicts, answers, marker, halt):
    """[B, A] int32 each: right tokens, and whether all are right, after the model's own chain; and which tokens are right, bool [B, T].

    With a `marker` the answer is what was predicted where the model wrote that token first; a chain as long as the right one has room, a longer
    one ends without an answer. Without one it is what was predicted at the answer's own place.
    """
    own_BxT = written(tokens_BxT, targets_BxT, loss_mask_BxT)
    read_BxT, predicted_BxT = write(nnx.merge(graph, params), tokens_BxT, own_BxT, passes=passes, predicts=predicts, halt=halt)
    if marker is not None:
        ended_BxT = own_BxT & (read_BxT == marker)
        answered_B = jnp.take_along_axis(predicted_BxT, jnp.argmax(ended_BxT, axis=1)[:, None], axis=1)[:, 0]
        answered_B = jnp.where(jnp.any(ended_BxT, axis=1), answered_B, -1)
        predicted_BxT = jnp.where(answer_BxT >= 0, answered_B[:, None], predicted_BxT)
    hit_BxT = predicted_BxT == targets_BxT
    right, _, exact = losses.tally(hit_BxT, answer_BxT, answers)
    return constrain(right), constrain(exact.astype(jnp.int32)), constrain(hit_BxT)
