"""What a memory says to a question of the task `hinted`, and what a frozen solver makes of it. Both read and sleep over a context once; then their states are forked.

Letters: B contexts, G hints of each, S slots of each that the solver reads, R tokens of a slot, V vocabulary.
"""
import dataclasses

import jax
import jax.numpy as jnp

from sleepnet import decode
from sleepnet.methods.base import Problem
from sleepnet.methods.rl import experience
from sleepnet.state import State, fork
from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.depo.layout import ANS
from sleepnet.tasks.hinted import ABSTAIN, END, GIVE

_QUESTION = 2  # tokens of a question: what is asked, and of which name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hints:
    """What was said behind the decisions.

    Attributes:
      tokens: [B, G, R] int32; PAD behind <end>, and everywhere where no hint is given.
      valid: [B, G, R] bool, whether a token was drawn; <end> is one of them.
      slots: [B, G, R] int32, as the solver reads it: without <end>, at the right of the slot.
    """

    tokens: jax.Array
    valid: jax.Array
    slots: jax.Array

    @property
    def lengths(self) -> jax.Array:
        """[B, G] float32: |m|, tokens that the solver reads."""
        return jnp.sum((self.slots != PAD).astype(jnp.float32), axis=-1)


def asked(problem: Problem, params: jax.Array, tokens: jax.Array, passes: int) -> tuple[State, jax.Array]:
    """The state behind context and question, and log-probabilities [B, 2] of abstaining and of giving a hint: of these two alone, which are all there is to decide."""
    state = experience.opened(problem, params, tokens, passes)
    begin = experience.prompt_tokens(problem.task)
    logits, state = decode.read(problem.graph, params, state, tokens[:, begin : begin + _QUESTION], at=0)
    return state, jax.nn.log_softmax(jnp.stack([logits[:, -1, ABSTAIN], logits[:, -1, GIVE]], axis=-1).astype(jnp.float32), axis=-1)


def drawn(problem: Problem, params: jax.Array, state: State, key: jax.Array, gives: jax.Array, law: decode.Law) -> Hints:
    """A hint for each True of `gives` [B, G], from the state behind the question; hint g of row b is drawn with the key's b, g."""
    rows, group = gives.shape
    keys, given = experience.row_keys(key, rows, group), gives.reshape(-1)
    first = jnp.where(given, GIVE, ABSTAIN).astype(jnp.int32)
    said = decode.write(problem.graph, params, fork(state, group), first, keys, at=_QUESTION, steps=problem.task.room, law=law, stop=(END,), done_B=~given)
    shaped = lambda values: values.reshape(rows, group, -1)
    tokens, valid = shaped(said.tokens), shaped(said.valid)
    return Hints(tokens, valid, in_slot(tokens, valid & (tokens != END)))


def in_slot(tokens: jax.Array, shown: jax.Array) -> jax.Array:
    """The first tokens of each row, those `shown` [..., R], moved to its end, PAD before them."""
    length = jnp.sum(shown.astype(jnp.int32), axis=-1, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, tokens.ndim - 1) - (tokens.shape[-1] - length)
    return jnp.where(place >= 0, jnp.take_along_axis(jnp.maximum(tokens, PAD), jnp.maximum(place, 0), axis=-1), PAD)


def with_empty(slots: jax.Array) -> jax.Array:
    """[B, 1 + S, R]: before each context's slots an empty one, that of who abstains."""
    return jnp.concatenate([jnp.full_like(slots[:, :1], PAD), slots], axis=1)


def read_again(problem: Problem, params: jax.Array, state: State, tokens: jax.Array) -> jax.Array:
    """[B, G, R, V] float32 logits of which each token of the hints [B, G, R] was drawn, by the reading that has gradients; `state` as `asked` gives it."""
    rows, group, room = tokens.shape
    before = jnp.full((rows, group, 1), GIVE, jnp.int32)
    sequence = jnp.concatenate([before, jnp.maximum(tokens, PAD)[..., :-1]], axis=-1).reshape(rows * group, room)
    return decode.read(problem.graph, params, fork(state, group), sequence, at=_QUESTION)[0].reshape(rows, group, room, -1)


def answers(problem: Problem, solver: jax.Array, tokens: jax.Array, slots: jax.Array, passes: int) -> jax.Array:
    """What the solver answers, greedily, with each of the slots [B, S, R] before its question, [B, S] int32; −1 where a logit was no number."""
    rows, many, _ = slots.shape
    begin = experience.prompt_tokens(problem.task)
    question = jnp.broadcast_to(tokens[:, None, begin : begin + _QUESTION], (rows, many, _QUESTION))
    text = jnp.concatenate([slots, question, jnp.full((rows, many, 1), ANS, jnp.int32)], axis=-1).reshape(rows * many, -1)
    state = fork(experience.opened(problem, solver, tokens, passes), many)
    logits = decode.read(problem.graph, solver, state, text, at=0)[0][:, -1]
    said = jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), jnp.argmax(logits, axis=-1).astype(jnp.int32), -1)
    return said.reshape(rows, many)


def nearest(task: Task, tokens: jax.Array, known: jax.Array) -> jax.Array:
    """Which of the texts `known` [M, T] is nearest to each of `tokens` [B, T], int32 [B]: the one that asks the same and tells most of the same pairs, else that tells most of them; the first of several."""
    begin = experience.prompt_tokens(task)
    pairs = lambda text: text[:, begin - 2 * task.nodes : begin].reshape(len(text), task.nodes, 2)
    question = lambda text: text[:, begin : begin + _QUESTION]

    def one(given):
        told, ask = given
        alike = jnp.sum(jnp.any(jnp.all(pairs(known)[:, :, None] == told[None, None], axis=-1), axis=-1).astype(jnp.int32), axis=-1)
        same = jnp.all(question(known) == ask[None], axis=-1).astype(jnp.int32)
        return jnp.argmax(same * (task.nodes + 1) + alike).astype(jnp.int32)

    return jax.lax.map(one, (pairs(tokens), question(tokens)))


def asked_flops(model, task, passes: int) -> int:
    """FLOPs of a memory's reading of one context and its question."""
    return experience.prompt_flops(model, task, passes) + experience.again_flops(model, task, _QUESTION)


def solver_flops(model, task, passes: int, slots: int) -> int:
    """FLOPs of a solver's reading of one context, and of its question with so many slots."""
    return experience.prompt_flops(model, task, passes) + slots * experience.again_flops(model, task, task.room + _QUESTION + 1)
