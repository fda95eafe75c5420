"""Experience: G continuations of each prompt, drawn from one forked state by the house's one decoder, within the compiled step.

    state = opened(problem, params, text, passes)                        a prompt is read and slept over once
    said  = drawn(problem, params, state, key, group=G, steps=T, law=…)
    logits = read_again(problem, params, state, said)                    what the policy says of it, with gradients, through the one prompt too

A sample is a function of the key, made of (seed, phase, step), of its prompt's row and of its own number: batch, mesh and microbatches change none.

Letters: B prompts, G continuations of each, T tokens of one, V vocabulary.
"""
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.methods.base import Problem
from sleepnet.models import flops
from sleepnet.state import State, fork
from sleepnet.tasks.base import PAD, Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """What was said.

    Attributes:
      tokens: [B, G, T] int32; PAD behind its end.
      logps: [B, G, T] float32, log-probability of each token under the law that it was drawn from; 0 behind its end.
      valid: [B, G, T] bool, whether a token belongs to it.
      ended: [B, G] bool; False: it was cut at T tokens.
      answers: [B, G] int32, the token that it ended with; −1 where it was cut.
    """

    tokens: jax.Array
    logps: jax.Array
    valid: jax.Array
    ended: jax.Array
    answers: jax.Array

    @property
    def lengths(self) -> jax.Array:
        """[B, G] int32 tokens."""
        return jnp.sum(self.valid.astype(jnp.int32), axis=-1)


def check(task: Task, model: ModelConfig) -> None:
    """Sees that what sleeps is the prompt, and all that follows the model's own.

    Raises:
      UsageError: a task whose answers do not follow a chain that the model can write, or that has more in the windows that predict; a model that can't write.
    """
    if not can_write(task):
        raise UsageError(f"task {task.title} has no chain of thought and answer that are all that stands in its last window: gsm has, with task.arguments.chain_of_thought=True and answer_alone=True")
    if model.sleep.predict_passes != 1:
        raise UsageError(f"model.sleep.predict_passes={model.sleep.predict_passes}: a model that writes reads token by token, in one pass; set it to 1")
    if model.window_positions:
        raise UsageError("model.window_positions=True: chains are shown so that they end with their window and written from its beginning, where such a model knows none; set it to False")
    if model.memory_blocks.count:
        raise UsageError(f"model.memory_blocks.count={model.memory_blocks.count}: blocks are read by forward alone, so that such a model can't write; set it to 0")


def can_write(task: Task) -> bool:
    """Whether all that stands in the task's last window, and in no other that predicts, is a chain of thought and its answer."""
    return task.opening is not None and task.answer_marker is not None and task.predicts.count(True) == 1


def prompt_tokens(task: Task) -> int:
    """Tokens that are read before the model writes."""
    return task.predicts.count(False) * task.window


def room(task: Task) -> int:
    """T: as many tokens as the longest right chain with its answer."""
    return task.seq_len - prompt_tokens(task)


def opened(problem: Problem, params: jax.Array, tokens_BxL: jax.Array, passes: int) -> State:
    """The state behind the prompts, each read and slept over once; `tokens_BxL` may hold what follows them, which is not looked at."""
    blank = nnx.merge(problem.graph, params).init_state(tokens_BxL.shape[0])
    text = tokens_BxL[:, : prompt_tokens(problem.task)]
    return decode.read(problem.graph, params, blank, text, at=0, passes=passes)[1]


def drawn(
    problem: Problem, params: jax.Array, state: State, key: jax.Array, *, group: int, steps: int, law: decode.Law = decode.Law(),
    row: int | jax.Array = 0, number: int | jax.Array = 0,
) -> Experience:  # fmt: skip
    """G continuations of each row of `state`, which stands at the beginning of a window: from the task's opening token to the one behind its marker.

    Continuation g of row b is drawn with the key's b + `row`, g + `number`.
    """
    rows = state.window.tokens.shape[0]
    keys = row_keys(key, rows, group, row, number)
    first = jnp.full((rows * group,), problem.task.opening, jnp.int32)
    said = decode.write(problem.graph, params, fork(state, group), first, keys, at=0, steps=steps, law=law)
    shaped = lambda values: values.reshape(rows, group, steps)
    return cut(shaped(said.tokens), shaped(said.logps), problem.task.answer_marker)


def row_keys(key: jax.Array, rows: int, group: int, row: int | jax.Array = 0, number: int | jax.Array = 0) -> jax.Array:
    """A key for each of G continuations of each of B rows, [B · G]: continuation g of row b has the key's b + `row`, g + `number`."""
    places = lambda size, since: jnp.arange(size, dtype=jnp.uint32) + jnp.asarray(since, jnp.uint32)
    sample = lambda b: jax.vmap(lambda g: jax.random.fold_in(jax.random.fold_in(key, b), g))(places(group, number))
    return jax.vmap(sample)(places(rows, row)).reshape(rows * group)


def cut(tokens: jax.Array, logps: jax.Array, marker: int) -> Experience:
    """Each continuation up to the token behind its first marker; a token that is none, −1 of a logit that was no number, stays and its log-probability is NaN."""
    marks = tokens == marker
    before = jnp.cumsum(marks.astype(jnp.int32), axis=-1) - marks.astype(jnp.int32)  # markers before a token
    after_first = jnp.cumsum((before > 0).astype(jnp.int32), axis=-1)  # 1 at the answer
    valid = after_first <= 1
    is_answer = after_first == 1
    ended = jnp.any(is_answer, axis=-1)
    answers = jnp.where(ended, jnp.sum(jnp.where(is_answer, tokens, 0), axis=-1), -1)
    return Experience(jnp.where(valid, tokens, PAD), jnp.where(valid, logps, 0.0), valid, ended, answers)


def read_again(problem: Problem, params: jax.Array, state: State, said: Experience) -> jax.Array:
    """[B, G, T, V] float32 logits of which each token was drawn, by the reading that has gradients; the prompt's gradient adds up over its G continuations."""
    rows, group, steps = said.tokens.shape
    tokens = jnp.maximum(said.tokens, PAD).reshape(rows * group, steps)
    opening = jnp.full((rows * group, 1), problem.task.opening, jnp.int32)
    sequence = jnp.concatenate([opening, tokens[:, :-1]], axis=1)
    logits = decode.read(problem.graph, params, fork(state, group), sequence, at=0)[0]
    return logits.reshape(rows, group, steps, -1)


def chosen(laws: jax.Array, tokens: jax.Array) -> jax.Array:
    """[..., T] log-probability of each token, of laws [..., T, V] in logarithms."""
    return jnp.take_along_axis(laws, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]


def prompt_flops(model: ModelConfig, task: Task, passes: int) -> int:
    """FLOPs of reading one prompt and sleeping over it, as `opened` does: streaming, a pass awake, and N anew where N > 1."""
    windows = task.predicts.count(False)
    return sum(
        flops.pass_flops(model, model.window, context=flops.kept_entries(model, i) + model.window) + flops.head_flops(model, model.window)
        + (flops.sleep_flops(model, passes, i) if passes > 1 else 0)
        for i in range(windows)
    )  # fmt: skip


def said_flops(model: ModelConfig, task: Task, steps: int) -> int:
    """FLOPs of drawing one continuation."""
    return steps * flops.wake_token_flops(model, task.predicts.count(False))


def again_flops(model: ModelConfig, task: Task, steps: int) -> int:
    """FLOPs of reading one continuation again, without gradients."""
    return flops.pass_flops(model, steps, context=flops.kept_entries(model, task.predicts.count(False)) + model.window) + flops.head_flops(model, steps)
