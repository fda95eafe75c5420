"""The rule with a decay per key channel: the shared table and hostile decays against its oracle, the oracle against numpy, properties."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import (
    C, CASES, MIDDLE, NAMES, PACKED_CASES, RESETS, SHARED, STRONG, Case, assert_close, check,
    check_differentiates, check_sharded, check_split, cotangents, in_eight_devices, told, with_gradients,
)

import sleepnet_kernels
from sleepnet_kernels import numerics
from sleepnet_kernels.gated_delta_rule import xla_chunked as gated
from sleepnet_kernels.gated_delta_rule.arg_specs import arguments as gated_arguments
from sleepnet_kernels.kda_rule import halving, reference
from sleepnet_kernels.kda_rule.arg_specs import Shape, arguments
from sleepnet_kernels.kda_rule.xla_chunked import kda_rule as chunked

HOSTILE = {
    "every third channel forgets at once": Case(told=told(decay=50.0, slow="channels")),
    "every third channel forgets at once, correlated keys": Case(told=told(decay=50.0, slow="channels", correlation=0.9, beta=1.0)),
    "every third token forgets all": Case(told=told(decay=50.0, slow="tokens")),
    "every third token forgets most": Case(told=told(decay=5.0, slow="tokens")),
    "bf16, every third channel forgets at once": Case(dtype="bfloat16", told=told(decay=50.0, slow="channels")),
}
# Shapes that are compiled in the default run.
FAST = {(MIDDLE, "float32")}


def table(cases):
    for name, case in cases.items():
        yield pytest.param(case, id=name, marks=() if (case.shape, case.dtype) in FAST else pytest.mark.slow)


@pytest.mark.parametrize("case", table(CASES | HOSTILE))
def test_matches_the_oracle(case):
    check("kda", case, chunked, chunk_size=C)


@pytest.mark.parametrize("name", RESETS)
def test_from_a_hard_reset_on_all_is_as_in_a_call_of_its_own(name):
    check("kda", PACKED_CASES[name], chunked, by_decay=True, chunk_size=C)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunk_size", [1, 2, 16, 64])
@pytest.mark.parametrize("tokens", [1, 24, 31, 33, 100])
def test_matches_the_oracle_exhaustively(dtype, chunk_size, tokens):
    for case in (told(), told(decay=0.0, beta=1.0, correlation=0.9), told(decay=50.0, slow="channels")):
        check("kda", Case(Shape(2, tokens, 2, 32, 24), dtype, case), chunked, chunk_size=chunk_size)


def numpy_loop(q, k, v, log_decay, beta, initial_state):
    """The equation of the public docstring, one batch entry, head and token at a time, in float64."""
    q, k, v, log_decay, beta, state = (np.asarray(x, np.float64) for x in (q, k, v, log_decay, beta, initial_state))
    output, state = np.zeros(v.shape), state.copy()
    q, k = (np.repeat(x, beta.shape[2] // x.shape[2], axis=2) for x in (q, k))
    for b, t, h in np.ndindex(beta.shape):
        erase = np.eye(k.shape[-1]) - beta[b, t, h] * np.outer(k[b, t, h], k[b, t, h])
        state[b, h] = erase @ np.diag(np.exp(log_decay[b, t, h])) @ state[b, h] + beta[b, t, h] * np.outer(k[b, t, h], v[b, t, h])
        output[b, t, h] = state[b, h].T @ q[b, t, h]
    return output, state


@pytest.mark.parametrize("shape", [MIDDLE, SHARED], ids=str)
def test_the_oracle_executes_the_documented_equation(shape):
    given = arguments(shape)
    for actual, expected in zip(reference.kda_rule(*given.values()), numpy_loop(**given)):
        assert numerics.rms_ratio(actual, expected) < 1e-6


def test_the_oracle_differentiates_like_finite_differences():
    shape = Shape(1, 3, 1, 4, 3)
    given = arguments(shape)
    check_differentiates(reference.kda_rule, numpy_loop, given, shape)


def test_one_decay_for_all_channels_is_the_gated_delta_rule():
    given = arguments(MIDDLE)
    given["log_decay"] = given["log_decay"][..., :1]
    expected = with_gradients(gated.gated_delta_rule, chunk_size=C)(given | {"log_decay": given["log_decay"][..., 0]}, *cotangents(MIDDLE))
    wide = given | {"log_decay": jnp.broadcast_to(given["log_decay"], (*given["log_decay"].shape[:-1], MIDDLE.dk))}
    actual = with_gradients(chunked, chunk_size=C)(wide, *cotangents(MIDDLE))
    # Its decay's gradient is the sum over the channels.
    assert_close(actual | {"d_log_decay": jnp.sum(actual["d_log_decay"], axis=-1)}, expected, numerics.FLOAT32)


@pytest.mark.parametrize("size", [1, 8])
def test_decays_are_products_between_two_tokens(size):
    g = np.random.default_rng(0).uniform(-3, 0, (size, 3))
    levels, since, until = halving.decays(jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(since, np.exp(np.cumsum(g, axis=0)), rtol=1e-6)
    np.testing.assert_allclose(until, [np.exp(g[j + 1:].sum(axis=0)) for j in range(size)], rtol=1e-6)
    for left, right in levels:
        pairs, half = left.shape[:2]
        for p, j, i in np.ndindex(pairs, half, half):
            first, second = 2 * half * p + j, 2 * half * p + half + i
            np.testing.assert_allclose(left[p, j] * right[p, i], np.exp(g[first + 1:second + 1].sum(axis=0)), rtol=1e-6)


def test_a_decay_of_500_nats_beside_none_stays_exact():
    """Differences of cumulated decays would have lost what the other tokens forget, and factors above 1 would have overflowed."""
    given = arguments(MIDDLE, decay=500.0, slow="tokens")
    actual = with_gradients(chunked, chunk_size=C)(given, *cotangents(MIDDLE))
    assert_close(actual, with_gradients(reference.kda_rule)(given, *cotangents(MIDDLE)), numerics.Tolerance(1e-6, 1e-6))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_chunk_size_does_not_matter(chunk_size):
    given = arguments(MIDDLE)
    one, other = (with_gradients(chunked, chunk_size=c)(given, *cotangents(MIDDLE)) for c in (C, chunk_size))
    assert_close(one, other, numerics.FLOAT32)


@pytest.mark.slow
def test_a_split_sequence_equals_one_call():
    given = arguments(Shape(1, 20, 2, 8, 12))
    call = jax.jit(functools.partial(chunked, chunk_size=C))
    check_split(call, given, 9)


@pytest.mark.slow
def test_eight_passes_match_the_oracle():
    shape = Shape(2, C, 2, 8, 12)
    given = arguments(shape, beta=0.9, correlation=0.9)

    def passes(function):
        def run(q, k, v, log_decay, beta, state):
            for _ in range(8):
                output, state = function(q, k, v, log_decay, beta, state)
            return output, state

        return with_gradients(run)(given, *cotangents(shape))

    assert_close(passes(functools.partial(chunked, chunk_size=C)), passes(reference.kda_rule), numerics.FLOAT32)


@pytest.mark.slow
def test_vmap_equals_one_at_a_time():
    pair = [arguments(MIDDLE, seed=seed) for seed in (0, 1)]
    call = with_gradients(chunked, chunk_size=C)
    together = jax.jit(jax.vmap(call, in_axes=(0, None, None)))(jax.tree.map(lambda *x: jnp.stack(x), *pair), *cotangents(MIDDLE))
    for i, given in enumerate(pair):
        assert_close({name: x[i] for name, x in together.items()}, call(given, *cotangents(MIDDLE)), numerics.FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.save_only_these_names("chunk_states", "chunk_inverses")])
def test_remat_changes_no_gradient_and_the_named_residuals_spare_the_walk(policy):
    call = functools.partial(chunked, chunk_size=C)
    given, remat = arguments(MIDDLE), jax.checkpoint(call, policy=policy)
    assert_close(with_gradients(remat)(given, *cotangents(MIDDLE)), with_gradients(call)(given, *cotangents(MIDDLE)), numerics.FLOAT32)
    loss = jax.grad(lambda *x: jnp.sum(remat(*x)[0]), argnums=range(6))
    # Forward, its repetition unless what it saves is named, and backward.
    assert str(jax.make_jaxpr(loss)(*given.values())).count("= scan[") == (3 if policy is None else 2)


def test_two_runs_are_equal_to_the_bit_and_rows_are_their_own():
    given, call = arguments(MIDDLE), with_gradients(chunked, chunk_size=C)
    one, other = (call(given, *cotangents(MIDDLE)) for _ in range(2))
    broken = call(given | {"v": given["v"].at[0].set(jnp.nan)}, *cotangents(MIDDLE))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        np.testing.assert_array_equal(one[name][1], broken[name][1], err_msg=name)
    assert not np.isfinite(broken["output"][0]).all()


def test_zero_tokens_leave_the_state_alone():
    given = arguments(MIDDLE)
    silent = {name: jnp.zeros_like(given[name]) for name in ("k", "v", "log_decay", "beta")}
    call = jax.jit(functools.partial(chunked, chunk_size=C))
    np.testing.assert_array_equal(call(*(given | silent).values())[1], given["initial_state"])


def test_the_future_has_exactly_no_influence():
    given = arguments(MIDDLE)
    d_output, d_final_state = cotangents(MIDDLE)
    gradients = with_gradients(chunked, chunk_size=C)(given, d_output.at[:, 10:].set(0.0), jnp.zeros_like(d_final_state))
    for name in NAMES[:5]:
        # Not a tolerance: a future token that is masked contributes a product with zero.
        np.testing.assert_array_equal(gradients[f"d_{name}"][:, 10:], jnp.zeros_like(given[name][:, 10:]), err_msg=name)


STEP_ROWS = ("moderate decay", "decay 50", *STRONG, "identical keys, beta 1, no decay", "beta 2", "every third channel forgets at once")


@pytest.mark.slow
@pytest.mark.parametrize("name", STEP_ROWS)
def test_as_many_steps_as_tokens_match_the_oracle(name):
    check("kda", (CASES | HOSTILE)[name], token_by_token)


def token_by_token(q, k, v, log_decay, beta, initial_state):
    def token(state, at_t):
        q, k, v, log_decay, beta = at_t
        output, state = sleepnet_kernels.kda_step(q, k, v, log_decay=log_decay, beta=beta, initial_state=state)
        return state, output

    state, output = jax.lax.scan(token, initial_state, tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, log_decay, beta)))
    return jnp.moveaxis(output, 0, 1), state


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"log_decay": (2, 36, 2)}, ValueError, r"kda_rule: log_decay must have shape \[2, 36, 2, 8\], given \[2, 36, 2\]"),
        ({"k": (2, 36, 2, 9)}, ValueError, r"kda_rule: k must have shape \[2, 36, 2, 8\], given \[2, 36, 2, 9\]"),
        ({"initial_state": "bfloat16"}, TypeError, "kda_rule: initial_state must be float32, given bfloat16"),
        ({"k": "bfloat16", "implementation": "xla_chunked"}, ValueError, r"'xla_chunked' can't run .*bfloat16\[2, 36, 2, 8\].*\]: q, k and v must all be"),
        ({"implementation": "pallas_tpu"}, ValueError, "kda_rule: unknown implementation 'pallas_tpu'; known: reference, xla_chunked"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, error, message):
    given = arguments(MIDDLE)
    for name, value in change.items():
        given[name] = jnp.zeros(value) if isinstance(value, tuple) else value if name == "implementation" else given[name].astype(value)
    with pytest.raises(error, match=message):
        sleepnet_kernels.kda_rule(given.pop("q"), given.pop("k"), given.pop("v"), **given)


def test_a_chunk_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="a chunk must be a power of two of tokens, given 12"):
        chunked(*arguments(MIDDLE).values(), chunk_size=12)


@pytest.mark.slow
def test_batch_and_heads_may_be_sharded():
    in_eight_devices(__file__)


if __name__ == "__main__":
    shape = Shape(4, 20, 2, 8, 12)
    check_sharded(functools.partial(chunked, chunk_size=C), arguments(shape))
    check_sharded(functools.partial(gated.gated_delta_rule, chunk_size=C), gated_arguments(shape))
