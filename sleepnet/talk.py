"""A prompt read into a state, and what follows: the one decoder, for a person."""
import argparse
import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet import decode, seeds
from sleepnet.errors import UsageError
from sleepnet.models.hybrid import Hybrid
from sleepnet.state import State, fork


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
      tokens: its ids, the stop token left out.
      logps: log-probability of each under the law it was drawn from.
    """

    tokens: list[int]
    logps: list[float]


def check(model: Hybrid) -> None:
    """Refuses a model that has no token by token: raises UsageError."""
    if model.config.sleep.predict_passes > 1:
        raise UsageError(f"the model loops {model.config.sleep.predict_passes} times where it predicts, which has no token by token here: use its forward")
    if model.config.memory_blocks.count:
        raise UsageError(f"the model has {model.config.memory_blocks.count} memory blocks, which stand before what it predicts: use its forward, or readouts")


def follow(
    model: Hybrid, prompt: Sequence[int], count: int, *, state: State | None = None, law: decode.Law = decode.GREEDY, stop: Sequence[int] = (), passes: int = 1,
    samples: int = 1, seed: int = 0,
) -> list[Answer]:
    """Up to `count` tokens that follow a prompt, as often as `samples` says: it is read once, and the state forked.

    Args:
      prompt: token ids, at least one.
      state: of one sequence that stands at the beginning of a window; that of nothing read if None.
      law: what tokens are drawn from.
      stop: ids that end an answer; those outside the vocabulary never come.
      passes: N of the sleep over a window that fills on the way.
      seed: of what is drawn; sample i is drawn with a key of its own, the same in any number of samples.

    Raises:
      UsageError: no prompt, a token outside the vocabulary, a count below 1, or a model that has no token by token.
    """
    config = model.config
    if not prompt or not all(0 <= token < config.vocab_size for token in prompt):
        raise UsageError(f"the prompt must be at least one token of 0 … {config.vocab_size - 1}, not {list(prompt)[:8]}: give some text")
    check(model)
    if count < 1 or samples < 1:
        raise UsageError(f"count={count} and samples={samples} must be at least 1")
    (graph, params), state = nnx.split(model, nnx.Param), model.init_state(1) if state is None else state
    stop = tuple(sorted({token for token in stop if 0 <= token < config.vocab_size}))
    before = jnp.asarray([list(prompt[:-1])], jnp.int32)
    if before.size:
        state = _read(params, state, before, graph=graph, passes=passes)
    keys = jax.vmap(lambda i: jax.random.fold_in(seeds.key(seed), i))(jnp.arange(samples))
    first, at = jnp.full((samples,), prompt[-1], jnp.int32), before.size % config.window
    said = _write(params, state, first, keys, graph=graph, at=at, steps=count, law=law, stop=stop, passes=passes)
    rows = zip(*(np.asarray(each) for each in (said.tokens, said.logps, said.valid)))
    return [_answer(*row, stop) for row in rows]


@functools.partial(jax.jit, static_argnames=("graph", "passes"))
def _read(params, state, tokens, *, graph, passes):
    return decode.read(graph, params, state, tokens, at=0, passes=passes)[1]


@functools.partial(jax.jit, static_argnames=("graph", "at", "steps", "law", "stop", "passes"))
def _write(params, state, first, keys, *, graph, at, steps, law, stop, passes):
    return decode.write(graph, params, fork(state, len(first)), first, keys, at=at, steps=steps, law=law, stop=stop, passes=passes)


def _answer(tokens, logps, valid, stop):
    if (tokens[valid] == decode.FREE).any():
        raise UsageError("a logit was no number: the model's weights, or what it remembers, are damaged")
    kept = valid & ~np.isin(tokens, stop)
    return Answer(tokens[kept].tolist(), logps[kept].tolist())


def flags(command: argparse.ArgumentParser) -> None:
    """Flags of a command that speaks."""
    command.add_argument("--count", type=int, default=64, help="tokens at most; default %(default)s")
    command.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token again and again; default %(default)s")
    command.add_argument("--top-k", type=int, default=0, help="of the k likeliest alone; 0: of all")
    command.add_argument("--top-p", type=float, default=1.0, help="of the likeliest that have so much probability together; 1: of all")
    command.add_argument("--seed", type=int, default=0, help="of what is drawn")
    command.add_argument("--samples", type=int, default=1, help="answers, from one reading; default %(default)s")
    command.add_argument("--chat", action="store_true", help="as a turn in the model's chat template")


def law(options: argparse.Namespace) -> decode.Law:
    """The law of these flags; raises UsageError as `decode.Law`."""
    return decode.Law(options.temperature, options.top_k, options.top_p)
