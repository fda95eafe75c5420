"""The chunked rule with momentum under what models do to it: split, repeated, batched, rematerialised, sharded; always against its oracle."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import C, MIDDLE, assert_close, check_sharded, cotangents, in_eight_devices, with_gradients

from sleepnet_kernels import numerics
from sleepnet_kernels.momentum_rule import reference
from sleepnet_kernels.momentum_rule.arg_specs import Shape, arguments
from sleepnet_kernels.momentum_rule.xla_chunked import momentum_rule as chunked

cotangents = functools.partial(cotangents, states=2)
by_chunks = functools.partial(chunked, chunk_size=C)


def oracle(given, shape=MIDDLE):
    return with_gradients(reference.momentum_rule)(given, *cotangents(shape))


def test_two_runs_are_equal_to_the_bit():
    given, call = arguments(MIDDLE), with_gradients(by_chunks)
    one, other = (call(given, *cotangents(MIDDLE)) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert_close(one, oracle(given), numerics.FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_chunk_size_does_not_matter(chunk_size):
    given = arguments(MIDDLE)
    assert_close(with_gradients(chunked, chunk_size=chunk_size)(given, *cotangents(MIDDLE)), oracle(given), numerics.FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, C, 23])
def test_two_calls_in_a_row_are_one(at):
    """The state that is handed over holds the momentum too."""

    def split(*given):
        *tokens, state = given
        first, state = by_chunks(*(x[:, :at] for x in tokens), state)
        second, state = by_chunks(*(x[:, at:] for x in tokens), state)
        return jnp.concatenate([first, second], axis=1), state

    given = arguments(MIDDLE)
    assert_close(with_gradients(split)(given, *cotangents(MIDDLE)), oracle(given), numerics.FLOAT32)


@pytest.mark.slow
def test_eight_passes_match_the_oracle():
    shape = Shape(2, C, 2, 8, 12)
    given = arguments(shape, beta=0.3, correlation=0.9)

    def passes(function):
        def run(*given):
            *tokens, state = given
            for _ in range(8):
                output, state = function(*tokens, state)
            return output, state

        return with_gradients(run)(given, *cotangents(shape))

    assert_close(passes(by_chunks), passes(reference.momentum_rule), numerics.FLOAT32)


@pytest.mark.slow
def test_batched_it_matches_the_oracle_one_at_a_time():
    pair = [arguments(MIDDLE, seed=seed) for seed in (0, 1)]
    together = jax.jit(jax.vmap(with_gradients(by_chunks), in_axes=(0, None, None)))(jax.tree.map(lambda *x: jnp.stack(x), *pair), *cotangents(MIDDLE))
    for i, given in enumerate(pair):
        assert_close({name: x[i] for name, x in together.items()}, oracle(given), numerics.FLOAT32)


@pytest.mark.slow
def test_rematerialised_it_has_the_same_gradients():
    given = arguments(MIDDLE)
    assert_close(with_gradients(jax.checkpoint(by_chunks))(given, *cotangents(MIDDLE)), oracle(given), numerics.FLOAT32)


@pytest.mark.slow
def test_batch_and_heads_may_be_sharded():
    in_eight_devices(__file__)


if __name__ == "__main__":
    check_sharded(by_chunks, arguments(Shape(4, 20, 2, 8, 12)), states=2)
