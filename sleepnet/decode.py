"""The decoder: rows say token after token, or read what they are given; a window that is full is slept over on the way.

    state = fork(read(graph, params, state, prompt, at=0, passes=N)[1], G)      the prompt is read and slept over once
    said = write(graph, params, state, first, keys, at=0, steps=T, stop=(END,))

Rows stand at one place of their window, `at` from 0 to L − 1, which is static as all shapes are. After T tokens they stand at (at + T) mod L.
A window that fills within a call ends there by itself, with the call's `passes`; one that you want to end otherwise you end yourself: call `model.sleep`, then
go on at 0. A state that you read up to its border yourself, with `wake`, must be slept over before it comes here.

Letters: B rows, T tokens, L window, V vocabulary.
"""
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet.errors import UsageError
from sleepnet.mesh import constrain_state
from sleepnet.models.inputs import check_tokens
from sleepnet.models.window import PAD
from sleepnet.state import State

_AT_ONCE = 1 << 22  # values of noise: where a window needs no more they are drawn before its first step, since threefry is a loop of its own in each
FREE = -1  # of `forced`: the row speaks for itself; of what was said: no token, since a logit was no number


@dataclasses.dataclass(frozen=True)
class Law:
    """What tokens are drawn from: softmax(logits / temperature), then top-k, then top-p, each made to sum to 1 again. Static.

    Attributes:
      temperature: 0 is the greedy law: the likeliest token is certain, the first of several.
      top_k: tokens less likely than the k-th are left out; 0: none.
      top_p: tokens are left out where those strictly likelier have a probability of top_p or more together; 1: none. Both spare ties.

    Raises:
      UsageError: a value that is none of these.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number(self.temperature) or self.temperature < 0:
            raise UsageError(f"temperature={self.temperature!r} must be a number of at least 0; 0 is greedy")
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 0:
            raise UsageError(f"top_k={self.top_k!r} must be a whole number of at least 0; 0 keeps every token")
        if not number(self.top_p) or not 0 < self.top_p <= 1:
            raise UsageError(f"top_p={self.top_p!r} must be above 0 and at most 1; 1 keeps every token")

    def log_probs(self, logits: jax.Array) -> jax.Array:
        """Log-probabilities [..., V] in float32 of logits [..., V]; −inf for what is left out, NaN throughout where a logit is NaN."""
        x = logits.astype(jnp.float32)
        if self.temperature == 0:
            certain = jnp.log(jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=jnp.float32))
            return jnp.where(jnp.any(jnp.isnan(x), axis=-1, keepdims=True), jnp.nan, certain)
        if self.temperature != 1:
            x = (x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))) / self.temperature
        if 0 < self.top_k < x.shape[-1]:
            x = jnp.where(x >= jax.lax.top_k(x, self.top_k)[0][..., -1:], x, -jnp.inf)
        if self.top_p < 1:
            falling = jnp.sort(x, axis=-1, descending=True)
            sums = jnp.cumsum(jax.nn.softmax(falling, axis=-1), axis=-1)
            kept = 1 + jnp.sum(sums[..., :-1] < self.top_p, axis=-1, keepdims=True)
            x = jnp.where(x >= jnp.take_along_axis(falling, kept - 1, axis=-1), x, -jnp.inf)
        return jax.nn.log_softmax(x, axis=-1)


GREEDY = Law(temperature=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Said:
    """What rows said in T steps.

    Attributes:
      tokens: [B, T] int32, drawn or forced; PAD once a row has finished, −1 where a logit was no number (which the row reads as PAD).
      logps: [B, T] float32, log-probability of each token under the law; 0 once a row has finished, NaN where a logit was no number.
      drawn: [B, T] int32, what the law gave, also where another token was forced.
      valid: [B, T] bool, False once a row has finished; its stop token still counts.
      last: [B] int32, what each row said last and has not read yet: the `first` to go on with.
      state: after all but the last token of each row.
    """

    tokens: jax.Array
    logps: jax.Array
    drawn: jax.Array
    valid: jax.Array
    last: jax.Array
    state: State


def write(
    graph: nnx.GraphDef, params: Any, state: State, first_B: jax.Array, keys_B: jax.Array | None = None, *, at: int, steps: int, law: Law = Law(),
    stop: tuple[int, ...] = (), forced_BxT: jax.Array | None = None, passes: int | jax.Array = 1, halt: float | jax.Array | None = 0.0,
    since: int | jax.Array = 0, done_B: jax.Array | None = None,
) -> Said:
    """Each row reads a token and draws the next from its logits, `steps` times. Call it under `jit`; each (at, steps, law, stop) is a program.

    Token t of a row is drawn with `fold_in(its key, since + t)`, so a row says alone what it says in any batch and on any mesh. A row that has said a stop
    token is finished: from then on it reads PAD, and its fast weights, the entries that it may attend to and its convolutions' tails stay bit for bit, so
    that its state can be read on, its `last` first. Where the batch's window ends, its own does: of a row that has finished, the fast weights are left.

    Args:
      graph, params: `nnx.split(model, nnx.Param)` of a model with `wake` and `sleep` as `sleepnet.models.hybrid.Hybrid`.
      state: rows that stand at `at`. Under `jit`, where that can't be seen, those that do not get logits that are NaN.
      first_B: int32, what each row reads first.
      keys_B: a PRNG key a row; the greedy law needs none.
      at, steps: static; where the rows stand, and T.
      law: static.
      stop: static; tokens that finish a row, forced or not.
      forced_BxT: int32, a token that is said instead of what was drawn, FREE where none is.
      passes, halt: of the sleep over a window that fills: 1, since it predicted; or N, as `Hybrid.sleep` takes them.
      since: tokens that were drawn with these keys before.
      done_B: bool, rows that have finished before; of a call that goes on it is `jnp.isin(said.last, stop)`.

    Raises:
      UsageError: an argument that is none of these.
      ValueError: a token or a state that is not this model's, see `Hybrid.wake`.
    """
    of = lambda: nnx.merge(graph, params)
    config, rows = of().config, jnp.shape(first_B)[0]
    _check_place(at, config.window)
    if not isinstance(steps, int) or steps < 1:
        raise UsageError(f"steps={steps!r} must be a whole number of at least 1")
    if not all(isinstance(token, int) and 0 <= token < config.vocab_size for token in stop):
        raise UsageError(f"stop={stop!r} must be tokens from 0 to {config.vocab_size - 1}")
    if law.temperature and (keys_B is None or keys_B.shape[0] != rows):
        raise UsageError(f"keys: {'none' if keys_B is None else keys_B.shape[0]} for {rows} rows: give one a row, jax.random.split(key, {rows}), or the law GREEDY")
    if forced_BxT is not None and jnp.shape(forced_BxT) != (rows, steps):
        raise UsageError(f"forced has shape {list(jnp.shape(forced_BxT))}, for {rows} rows and {steps} steps")
    check_tokens(first_B[:, None], config.vocab_size)
    state, first_B = _placed(state, jnp.asarray(first_B, jnp.int32), at)
    ends = bool(stop) or done_B is not None
    done_B = jnp.zeros((rows,), bool) if done_B is None else done_B

    def one(carry, given):
        (state, token_B, done_B), (t, forced_B, noise_BxV) = carry, given
        logits_Bx1xV, after = of().wake(jnp.where(done_B, PAD, token_B)[:, None], state, ~done_B[:, None]) if ends else of().wake(token_B[:, None], state)
        state = _keep_tails(done_B, state, after) if ends else after
        if law.temperature and noise_BxV is None:
            noise_BxV = _noise(keys_B, t, config.vocab_size)[0]
        drawn_B, logps_B, said_B = _say(law, logits_Bx1xV[:, 0], noise_BxV, forced_B)
        valid_B, next_B = ~done_B, jnp.maximum(said_B, PAD)
        if ends:
            said_B, drawn_B = (jnp.where(done_B, PAD, token) for token in (said_B, drawn_B))
            logps_B, next_B = jnp.where(done_B, 0.0, logps_B), jnp.where(done_B, token_B, next_B)
            done_B = done_B | valid_B & jnp.isin(said_B, jnp.asarray(stop, jnp.int32))
        return (state, next_B, done_B), (said_B, logps_B, drawn_B, valid_B)

    def window(carry, given, full):
        times, forced = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), given)
        early = law.temperature and len(times) * rows * config.vocab_size <= _AT_ONCE
        noise = _noise(keys_B, times[:, 0], config.vocab_size) if early else None
        (state, *rest), told = jax.lax.scan(one, carry, (times, forced, noise))
        state = of().sleep(state, passes, halt=halt) if full else state
        return (state, *rest), jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), told)

    times_1xT = jnp.arange(steps, dtype=jnp.int32)[None] + jnp.asarray(since, jnp.int32)
    forced_BxT = jnp.full((rows, steps), FREE, jnp.int32) if forced_BxT is None else jnp.asarray(forced_BxT, jnp.int32)
    (state, last_B, _), told = _by_windows(window, (state, first_B, done_B), (times_1xT, forced_BxT), at, config)
    return Said(*told, last=last_B, state=state)


def read(
    graph: nnx.GraphDef, params: Any, state: State, tokens_BxT: jax.Array, *, at: int, passes: int | jax.Array = 1, halt: float | jax.Array | None = 0.0,
) -> tuple[jax.Array, State]:
    """Reads the tokens as they stand, window by window: teacher forcing, with gradients.

    From `init_state` and at 0 the logits are those of `forward` over windows that predict; over windows that `forward` sleeps over it is the state that counts.

    Args:
      graph, params, state, at: as in `write`.
      tokens_BxT: int32, T at least 1.
      passes, halt: of the sleep over each window that fills: 1 where it predicts, else N, as `Hybrid.sleep` takes them (an int for gradients).

    Returns:
      [B, T, V] float32 logits, awake; and the state after the tokens: where they end with their window, it has been slept over.

    Raises:
      UsageError, ValueError: as `write`.
    """
    of = lambda: nnx.merge(graph, params)
    config = of().config
    _check_place(at, config.window)
    check_tokens(tokens_BxT, config.vocab_size)
    state, tokens_BxT = _placed(state, jnp.asarray(tokens_BxT, jnp.int32), at)

    def window(state, tokens_BxT, full):
        logits_BxTxV, state = of().wake(tokens_BxT, state)
        return of().sleep(state, passes, halt=halt) if full else state, logits_BxTxV

    state, logits_BxTxV = _by_windows(window, state, tokens_BxT, at, config)
    return logits_BxTxV, state


def _check_place(at, size):
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < size:
        full = ": the window is full, end it with model.sleep(state, passes) and go on at 0" if isinstance(at, int) and at == size else ""
        raise UsageError(f"at={at!r} must be a static whole number from 0 to {size - 1}{full}")


def _placed(state, tokens, at):
    """The state, its rows over the mesh; and the tokens, none of them one where a traced state stands elsewhere, which makes NaN of all that follows."""
    if not isinstance(state, State):
        return state, tokens
    length = state.window.length
    if isinstance(length, jax.core.Tracer):
        tokens = jnp.where(length == at, tokens, -1)
    elif int(length) != at:
        raise UsageError(f"at={at}, but the rows of this state stand at {int(length)}")
    return constrain_state(state), tokens


def _noise(keys_B, times_T, size):
    """[T, B, V] float32: what `jax.random.categorical` adds to log-probabilities, with the key fold_in(a row's, t)."""
    draw = lambda t, key: jax.random.gumbel(jax.random.fold_in(key, t), (size,), jnp.float32)
    return jax.vmap(lambda t: jax.vmap(lambda key: draw(t, key))(keys_B))(times_T)


def _say(law, logits_BxV, noise_BxV, forced_B):
    """What was drawn, and the log-probability of what is said and that itself."""
    finite_B, laws_BxV = jnp.all(jnp.isfinite(logits_BxV), axis=-1), law.log_probs(logits_BxV)
    if law.temperature:
        drawn_B = jnp.argmax(noise_BxV + laws_BxV, axis=-1)
    else:
        drawn_B = jnp.argmax(logits_BxV, axis=-1)
    drawn_B = jnp.where(finite_B, drawn_B.astype(jnp.int32), FREE)
    said_B = jnp.where(forced_B >= 0, forced_B, drawn_B)
    logps_B = jnp.take_along_axis(laws_BxV, said_B[:, None], axis=-1, mode="fill", fill_value=jnp.nan)[:, 0]
    return drawn_B, jnp.where(finite_B, logps_B, jnp.nan), said_B


def _keep_tails(done_B, before, after):
    """PAD leaves all that a finished row remembers as it is, but for the convolutions' tails, into which it shifts a zero."""
    tails = jax.tree.map(lambda old, new: jnp.where(done_B[:, None, None], old, new), before.window.conv_tails, after.window.conv_tails)
    return dataclasses.replace(after, window=dataclasses.replace(after.window, conv_tails=tails))


def _by_windows(step: Callable, carry: Any, given: Any, at: int, config: Any) -> tuple[Any, Any]:
    """`step(carry, piece of given, does it fill its window) → carry, told` for each window in turn; whole ones are compiled once, unless the cache grows.

    Leaves of `given` and of what is told are [B, T, …]; T is cut where windows end.
    """
    length, start, told = jax.tree.leaves(given)[0].shape[1], 0, []
    while start < length:
        whole = 0 if at or config.full_cache else (length - start) // config.window
        stop = start + whole * config.window if whole > 1 else min(start + config.window - at, length)
        piece = jax.tree.map(lambda a: a[:, start:stop], given)  # noqa: B023
        if whole > 1:
            pieces = jax.tree.map(lambda a: jnp.stack(jnp.split(a, whole, axis=1)), piece)  # noqa: B023
            carry, out = jax.lax.scan(lambda carry, piece: step(carry, piece, True), carry, pieces)
            out = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, *a.shape[3:]), out)
        else:
            carry, out = step(carry, piece, at + stop - start == config.window)
        told.append(out)
        at, start = (at + stop - start) % config.window, stop
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *told)
