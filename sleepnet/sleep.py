"""Sleep: N passes over one window, folding it into the fast weights. Pure functions; no model is needed to run them.

One pass is a function `block_pass(weights, hidden, fast_weights) -> (hidden, fast_weights, entries)`; `weights` is any pytree
and holds everything else the pass reads (slow weights, validity of the tokens, surviving KV entries), and
`entries` are what its blocks wrote besides: keys and values, tails of convolutions.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sleepnet.config import SleepConfig
from sleepnet.mesh import platform
from sleepnet.state import FastWeights

Entries = Any
BlockPass = Callable[[Any, jax.Array, FastWeights], tuple[jax.Array, FastWeights, Entries]]

# On a CPU up to this many passes are unrolled, which compiles faster than a loop: equal kernels are compiled once, and nothing is stacked for the gradient
UNROLLED_PASSES = 8


def between_passes(hidden: jax.Array, embedding: jax.Array, gain: Any, config: SleepConfig) -> jax.Array:
    """What the next pass reads, given what the last one wrote.

    `hidden`:    h                                 (the paper's loop)
    `reinject`:  gain · h / rms(h) + embedding     (bounded for any N, and the tokens stay in sight)
    `normed`:    gain · h / rms(h)                 (gain and ε are the final norm's; Ouro, arXiv 2510.25741)

    Args:
      hidden: [B, T, D] output of the last pass.
      embedding: [B, T, D] input of the first pass.
      gain: [D] learned, float32, for `reinject`; the final norm's (scale [D], ε), both float32, for `normed`.
      config: `carry` names one of the three.
    """
    if config.carry == "hidden":
        return hidden
    hidden32 = hidden.astype(jnp.float32)
    if config.carry == "normed":
        scale, epsilon = gain
        turned = jax.lax.rsqrt(jnp.mean(jnp.square(hidden32), axis=-1, keepdims=True) + epsilon)
        return (hidden32 * turned * scale[None, None, :]).astype(hidden.dtype)
    normed = hidden32 * jax.lax.rsqrt(jnp.mean(jnp.square(hidden32), axis=-1, keepdims=True) + 1e-6)
    return (normed * gain[None, None, :]).astype(hidden.dtype) + embedding


def run_passes(
    block_pass: BlockPass,
    weights: Any,
    embedding: jax.Array,
    fast_weights: FastWeights,
    gain: Any,
    *,
    passes: int | jax.Array,
    config: SleepConfig,
    each: bool = False,
    opening: bool = False,
) -> tuple[jax.Array, FastWeights, Entries] | tuple[jax.Array, FastWeights, Entries, jax.Array]:
    """Runs `passes` passes over one window: h and S go from pass to pass, cumulatively.

    Of a value of `passes` one program does for every N, and has no gradient. Else gradients follow `config.gradient`:
      full      through every pass.
      last      through the last `config.gradient_passes`; the values of the passes before enter as constants, and the
                gradient reaches what came before the window as if those passes had left S and h alone.
      implicit  every pass linearised at the last one (memory of one pass): J = ∂pass/∂(h, S) at the end,
                weights get (∂pass/∂weights)ᵀ Σ_{i<N} (Jᵀ)ⁱ g. Exact at a fixed point as N grows.
    With `each`, where every pass has a loss of its own, `last` means one pass back from every pass, and `implicit` has no meaning.

    Args:
      block_pass: one pass, see the module.
      weights: the pass's pytree of everything but h and S.
      embedding: [B, T, D] input of the first pass.
      fast_weights: S at the window's start.
      gain: see `between_passes`.
      passes: N ≥ 1, an int or an int32 scalar.
      config: carry, gradient, remat, reset_fast_weights.
      each: also return what every pass wrote.
      opening: also return what the first pass wrote, which a gradient goes through whatever `config.gradient_passes` is.

    Returns:
      hidden [B, T, D] and fast weights after the last pass, and the KV entries that the last pass wrote; with `each` also the hidden of every
      pass, [N, B, T, D]; with `opening` that of the first.

    Raises:
      ValueError: passes < 1; with `each`, a value of passes, or a gradient that is neither full nor last with gradient_passes = 1;
        with `opening`, the implicit gradient.
    """
    if each and (not isinstance(passes, int) or config.gradient == "implicit" or config.gradient == "last" and config.gradient_passes != 1):
        raise ValueError(f"each needs a fixed number of passes and gradient=full, or last with gradient_passes=1, not {config.gradient} of {passes!r} passes")
    if opening and config.gradient == "implicit":
        raise ValueError("opening needs gradient=full or last: the implicit one linearises every pass, the first among them, at the last")
    if not isinstance(passes, int):
        return _counted(block_pass, (weights, gain, embedding, fast_weights), passes, config, opening)
    if passes < 1:
        raise ValueError(f"passes={passes}: a window needs at least one pass")
    if config.remat:
        block_pass = jax.checkpoint(block_pass)

    def step(bundle, carry):
        """A pass that is not the first: (h, S) → (h, S), and the KV entries."""
        hidden, current, entries = _one_more(block_pass, bundle, *carry, config)
        return (hidden, current), entries

    bundle = (weights, gain, embedding, fast_weights)
    first = lambda bundle: block_pass(bundle[0], bundle[2], bundle[3])
    straight = lambda value, through: through + jax.lax.stop_gradient(value - through)
    if each:
        alone = (lambda carry: jax.tree.map(straight, carry, (embedding, fast_weights))) if config.gradient == "last" else (lambda carry: carry)
        return _every(first, lambda bundle, carry: step(bundle, alone(carry)), bundle, passes)
    if config.gradient == "implicit" and passes > 1:
        return _implicit(first, step, bundle, passes, config)
    free = passes - config.gradient_passes if config.gradient == "last" else 0
    if opening:
        return _opened(first, step, bundle, passes, lambda carry: jax.tree.map(straight, carry, (embedding, fast_weights)), free)
    if free <= 0:
        return _unroll(first, step, bundle, passes)
    constant, _ = _unroll_carry(first, step, jax.lax.stop_gradient(bundle), free)
    return _continue(step, bundle, jax.tree.map(straight, constant, (embedding, fast_weights)), passes - free)


def run_until(
    block_pass: BlockPass,
    weights: Any,
    embedding: jax.Array,
    fast_weights: FastWeights,
    gain: Any,
    *,
    most: int | jax.Array,
    tolerance: float | jax.Array,
    config: SleepConfig,
) -> tuple[jax.Array, FastWeights, Entries, jax.Array]:
    """As `run_passes`, but a sequence sleeps no longer once S has settled: at test time, there are no gradients.

    Sequence b makes passes 1, 2, … until ‖S_j − S_{j−1}‖ < tolerance · ‖S_j‖ for a j > 1, norms over all layers and heads of b, or j = `most`. It
    keeps the h and S of its last pass, so what it does hangs on no other sequence of the batch; the program ends when all have stopped.

    Args:
      block_pass, weights, embedding, fast_weights, gain, config: as in `run_passes`; every leaf that a pass writes has the batch in front.
      most: bound on the passes, at least 1; it and the tolerance may be values, of which one program serves all.
      tolerance: positive.

    Returns:
      hidden, fast weights, KV entries of the last pass, and the passes that each sequence made: int32 [B].

    Raises:
      ValueError: most < 1, or a tolerance that is not positive, where they are no values.
    """
    if isinstance(most, int) and most < 1 or isinstance(tolerance, float) and not tolerance > 0:
        raise ValueError(f"most={most} must be at least 1 and tolerance={tolerance} positive")
    bundle, batch = (weights, gain, embedding, fast_weights), embedding.shape[0]
    row = lambda chosen, leaf: chosen.reshape(-1, *[1] * (leaf.ndim - 1))

    def step(carry):
        out, awake, used = carry
        new = _any_pass(block_pass, bundle, out, jnp.max(used) == 0, config)
        kept = jax.tree.map(lambda a, b: jnp.where(row(awake, a), a, b), new, out)
        return kept, awake & ~((used > 0) & settled(new[1], out[1], tolerance)), used + awake.astype(jnp.int32)

    carry = (_before(block_pass, bundle), jnp.ones((batch,), bool), jnp.zeros((batch,), jnp.int32))
    (hidden, current, entries), _, used = jax.lax.while_loop(lambda carry: jnp.any(carry[1]) & (jnp.max(carry[2]) < most), step, carry)
    return hidden, current, entries, used


def settled(new: FastWeights, old: FastWeights, tolerance: float) -> jax.Array:
    """bool [B]: has S of a sequence changed by less than `tolerance` of its norm?"""
    square = lambda layers: sum(jnp.sum(jnp.square(layer), axis=tuple(range(1, layer.ndim))) for layer in layers)
    change = square([a - b for a, b in zip(new.layers, old.layers)])
    return change < tolerance**2 * square(new.layers)


def _one_more(block_pass, bundle, hidden, current, config):
    """A pass that is not the first, from (h, S)."""
    weights, gain, embedding, start = bundle
    return block_pass(weights, between_passes(hidden, embedding, gain, config), start if config.reset_fast_weights else current)


def _any_pass(block_pass, bundle, out, first, config):
    """A pass from what the last one left; `first` is a value: the window's first reads the embedding and the first S, which `_before` puts there."""
    _, gain, embedding, _ = bundle
    hidden = out[0] if config.carry == "hidden" else jnp.where(first, embedding, between_passes(out[0], embedding, gain, config))
    return block_pass(bundle[0], hidden, bundle[3] if config.reset_fast_weights else out[1])


def _before(block_pass, bundle):
    """(h, S, entries) before the first pass; of a pass's entries there are none yet."""
    weights, _, embedding, start = bundle
    blank = lambda entry: jnp.zeros(entry.shape, entry.dtype)
    return embedding, start, jax.tree.map(blank, jax.eval_shape(block_pass, weights, embedding, start)[2])


def _counted(block_pass, bundle, passes, config, opening=False):
    """A value of passes as one loop, so that one pass is compiled."""
    if not opening:
        return jax.lax.fori_loop(0, passes, lambda i, out: _any_pass(block_pass, bundle, out, i == 0, config), _before(block_pass, bundle))

    def one(i, carry):
        *out, opened = carry
        out = _any_pass(block_pass, bundle, tuple(out), i == 0, config)
        return (*out, jnp.where(i == 0, out[0], opened))

    return jax.lax.fori_loop(0, passes, one, (*_before(block_pass, bundle), bundle[2]))


def _unroll_carry(first, step, bundle, passes):
    """(h, S) after `passes` passes, and the KV entries of the last."""
    hidden, fast_weights, entries = first(bundle)
    if passes == 1:
        return (hidden, fast_weights), entries
    hidden, fast_weights, entries = _continue(step, bundle, (hidden, fast_weights), passes - 1)
    return (hidden, fast_weights), entries


def _unroll(first, step, bundle, passes):
    (hidden, fast_weights), entries = _unroll_carry(first, step, bundle, passes)
    return hidden, fast_weights, entries


def _opened(first, step, bundle, passes, alone, free):
    """`_unroll`, and the hidden of the first pass; the first `free` passes are constants to what follows them, as `alone` makes them."""
    opening, fast_weights, entries = first(bundle)
    if passes == 1:
        return opening, fast_weights, entries, opening
    carry, constant = (opening, fast_weights), jax.lax.stop_gradient(bundle)
    if free > 0:
        carry = jax.lax.stop_gradient(carry)
        carry = alone(_continue(step, constant, carry, free - 1)[:2] if free > 1 else carry)
    return *_continue(step, bundle, carry, passes - max(free, 1)), opening


def _unrolled(passes):
    return platform() == "cpu" and passes < UNROLLED_PASSES


def _continue(step, bundle, carry, passes):
    """`passes` further passes; the last stands outside the scan, since only its KV entries are wanted."""
    if passes > 1:
        carry, _ = jax.lax.scan(lambda c, _: (step(bundle, c)[0], None), carry, length=passes - 1, unroll=_unrolled(passes))
    (hidden, fast_weights), entries = step(bundle, carry)
    return hidden, fast_weights, entries


def _every(first, step, bundle, passes):
    """`_unroll`, and the hidden of every pass: [N, B, T, D]."""
    hidden, fast_weights, entries = first(bundle)
    if passes == 1:
        return hidden, fast_weights, entries, hidden[None]
    between = hidden[None]
    if passes > 2:
        def one(carry, _):
            carry, _ = step(bundle, carry)
            return carry, carry[0]

        (hidden, fast_weights), more = jax.lax.scan(one, (hidden, fast_weights), length=passes - 2, unroll=_unrolled(passes - 1))
        between = jnp.concatenate([between, more])
    (hidden, fast_weights), entries = step(bundle, (hidden, fast_weights))
    return hidden, fast_weights, entries, jnp.concatenate([between, hidden[None]])


def _implicit(first, step, bundle, passes, config):
    """`_unroll` whose backward pass linearises every pass at the last one; see `run_passes`."""
    leaves, tree = jax.tree.flatten(bundle)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, yes in zip(leaves, is_float) if yes]
    others = [leaf for leaf, yes in zip(leaves, is_float) if not yes]

    def join(floats, others):
        floats, others = iter(floats), iter(others)
        return jax.tree.unflatten(tree, [next(floats if yes else others) for yes in is_float])

    @jax.custom_vjp
    def solve(floats, others):
        return _unroll(first, step, join(floats, others), passes)

    def forward(floats, others):
        out = solve(floats, others)
        return out, (floats, others, out[:2])

    def backward(residuals, cotangents):
        floats, others, end = residuals
        _, pull = jax.vjp(lambda floats, end: step(join(floats, others), end), floats, end)
        silent = jax.tree.map(jnp.zeros_like, cotangents[2])
        total, g_end = pull((cotangents[:2], cotangents[2]))

        def term(carry, _):
            total, g_end = carry
            g_floats, g_end = pull((g_end, silent))
            return (jax.tree.map(jnp.add, total, g_floats), g_end), None

        (total, (g_hidden, g_fast_weights)), _ = jax.lax.scan(term, (total, g_end), length=passes - 1)
        weights, gain, embedding, start = join(total, others)
        if config.carry != "reinject":
            embedding = embedding + g_hidden
        start = jax.tree.map(jnp.add, start, g_fast_weights)
        total = [leaf for leaf, yes in zip(jax.tree.leaves((weights, gain, embedding, start)), is_float) if yes]
        return total, None

    solve.defvjp(forward, backward)
    return solve(floats, others)
