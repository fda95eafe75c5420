"""Both fast-weight rules: every implementation against its oracle, the oracle against plain numpy, then properties.

The table itself is in rule_table.py, for other implementations to go through.
"""
import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import (
    C, CASES, MIDDLE, NAMES, ORACLES, PACKED_CASES, RESETS, SHARED, STRONG, Case,
    assert_close, check, check_differentiates, check_split, cotangents, told, with_gradients,
)

import sleepnet_kernels
from sleepnet_kernels import numerics
from sleepnet_kernels.chunked import default_chunk_size, unit_lower_inverse
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule import reference as delta_reference
from sleepnet_kernels.gated_delta_rule import xla_chunked as delta_chunked
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape, arguments
from sleepnet_kernels.gated_hebbian_rule import api as hebbian_api
from sleepnet_kernels.gated_hebbian_rule import xla_chunked as hebbian_chunked

pytestmark = pytest.mark.usefixtures("shipped_compiler")

RULES = {"delta": delta_api.gated_delta_rule, "hebbian": hebbian_api.gated_hebbian_rule}
CHUNKED = {"delta": delta_chunked.gated_delta_rule, "hebbian": hebbian_chunked.gated_hebbian_rule}
both_rules = pytest.mark.parametrize("rule", list(RULES))


@pytest.fixture(autouse=True)
def strict():
    """Promotion of dtypes and ranks is an error here whatever runs the tests."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@both_rules
@pytest.mark.parametrize("name", list(CASES))
def test_matches_the_oracle(rule, name):
    check(rule, CASES[name], CHUNKED[rule], chunk_size=C)


@both_rules
@pytest.mark.parametrize("name", RESETS)
def test_from_a_hard_reset_on_all_is_as_in_a_call_of_its_own(rule, name):
    check(rule, PACKED_CASES[name], CHUNKED[rule], by_decay=True, chunk_size=C)


@pytest.mark.slow
@both_rules
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 16, 25, 32, 64])
@pytest.mark.parametrize("tokens", [1, 24, 31, 32, 33, 100, 257])
def test_matches_the_oracle_exhaustively(rule, dtype, chunk_size, tokens):
    check(rule, Case(Shape(2, tokens, 2, 32, 24), dtype), CHUNKED[rule], chunk_size=chunk_size)
    check(rule, Case(Shape(2, tokens, 2, 32, 24), dtype, told(decay=0.0, beta=1.0, correlation=0.9)), CHUNKED[rule], chunk_size=chunk_size)


def numpy_loop(rule, q, k, v, log_decay, beta, initial_state):
    """The equation of the public docstring, one batch entry, head and token at a time, in float64."""
    q, k, v, log_decay, beta, state = (np.asarray(x, np.float64) for x in (q, k, v, log_decay, beta, initial_state))
    output, state = np.zeros(v.shape), state.copy()
    q, k = (np.repeat(x, beta.shape[2] // x.shape[2], axis=2) for x in (q, k))
    for b, t, h in np.ndindex(beta.shape):
        erase = np.outer(k[b, t, h], k[b, t, h]) if rule == "delta" else 0.0
        kept = (np.eye(k.shape[-1]) - beta[b, t, h] * erase) @ state[b, h]
        state[b, h] = np.exp(log_decay[b, t, h]) * kept + beta[b, t, h] * np.outer(k[b, t, h], v[b, t, h])
        output[b, t, h] = state[b, h].T @ q[b, t, h]
    return output, state


@both_rules
@pytest.mark.parametrize("shape", [MIDDLE, SHARED], ids=str)
def test_the_oracle_executes_the_documented_equation(rule, shape):
    given = arguments(shape)
    for actual, expected in zip(ORACLES[rule](*given.values()), numpy_loop(rule, **given)):
        assert numerics.rms_ratio(actual, expected) < 1e-6


@both_rules
def test_the_oracle_differentiates_like_finite_differences(rule):
    shape = Shape(1, 3, 1, 4, 3)
    given = arguments(shape)
    check_differentiates(ORACLES[rule], functools.partial(numpy_loop, rule), given, shape)


@both_rules
@pytest.mark.parametrize("name", ["moderate decay", *STRONG])
def test_chunk_size_does_not_matter(rule, name):
    given = arguments(MIDDLE, **dict(CASES[name].told))
    one, other = (with_gradients(CHUNKED[rule], chunk_size=c)(given, *cotangents(MIDDLE)) for c in (C, MIDDLE.t))
    assert_close(one, other, numerics.FLOAT32)


@both_rules
def test_a_split_sequence_equals_one_call(rule):
    given = arguments(Shape(2, 20, 2, 8, 12))
    check_split(functools.partial(CHUNKED[rule], chunk_size=C), given, 9)


@both_rules
def test_eight_passes_match_the_oracle(rule):
    given = arguments(Shape(2, C, 2, 8, 12), beta=0.9, correlation=0.9)

    def passes(function):
        def run(q, k, v, log_decay, beta, state):
            for _ in range(8):
                output, state = function(q, k, v, log_decay, beta, state)
            return output, state

        return with_gradients(run)(given, *cotangents(Shape(2, C, 2, 8, 12)))

    assert_close(passes(functools.partial(CHUNKED[rule], chunk_size=C)), passes(ORACLES[rule]), numerics.FLOAT32)


@pytest.mark.parametrize("rule, dtype", [("delta", "bfloat16"), ("hebbian", "float32")])
def test_vmap_equals_one_at_a_time(rule, dtype):
    pair = [arguments(MIDDLE, dtype, seed=seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    together = jax.jit(jax.vmap(with_gradients(CHUNKED[rule], chunk_size=C), in_axes=(0, None, None)))(stacked, *cotangents(MIDDLE))
    for i, given in enumerate(pair):
        alone = with_gradients(CHUNKED[rule], chunk_size=C)(given, *cotangents(MIDDLE))
        assert_close({name: x[i] for name, x in together.items()}, alone, numerics.tolerance(dtype))


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.save_only_these_names("chunk_states", "chunk_inverses")])
def test_remat_changes_no_gradient_and_the_named_residuals_spare_the_walk(policy):
    call = functools.partial(CHUNKED["delta"], chunk_size=C)
    given = arguments(MIDDLE)
    remat = jax.checkpoint(call, policy=policy)
    assert_close(with_gradients(remat)(given, *cotangents(MIDDLE)), with_gradients(call)(given, *cotangents(MIDDLE)), numerics.FLOAT32)
    loss = jax.grad(lambda *x: jnp.sum(remat(*x)[0]), argnums=range(6))
    walks = str(jax.make_jaxpr(loss)(*given.values())).count("= scan[")
    # Forward, its repetition unless what it saves is named, and backward.
    assert walks == (3 if policy is None else 2)


@both_rules
def test_two_runs_are_equal_to_the_bit(rule):
    given = arguments(MIDDLE)
    one, other = (with_gradients(CHUNKED[rule], chunk_size=C)(given, *cotangents(MIDDLE)) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("implementation", [None, "reference", "xla_chunked"])
@both_rules
def test_zero_tokens_leave_the_state_alone(rule, implementation):
    given = arguments(MIDDLE)
    silent = {name: jnp.zeros_like(given[name]) for name in ("k", "v", "log_decay", "beta")}
    keywords = {"initial_state": given["initial_state"], "implementation": implementation}
    _, state = RULES[rule](given["q"], silent["k"], silent["v"], log_decay=silent["log_decay"], beta=silent["beta"], **keywords)
    np.testing.assert_array_equal(state, given["initial_state"])


@both_rules
def test_the_future_has_exactly_no_influence(rule):
    given = arguments(MIDDLE)
    state = given["initial_state"]

    def past(q, k, v, log_decay, beta):
        return jnp.sum(CHUNKED[rule](q, k, v, log_decay, beta, state, chunk_size=C)[0][:, :10])

    for name, gradient in zip(NAMES, jax.jit(jax.grad(past, argnums=range(5)))(*(given[name] for name in NAMES[:5]))):
        # Not a tolerance: a future token that is masked contributes a product with zero.
        np.testing.assert_array_equal(gradient[:, 10:], jnp.zeros_like(gradient[:, 10:]), err_msg=name)


@both_rules
def test_a_missing_state_is_zeros_and_none_chooses(rule):
    given = arguments(MIDDLE, state=False)
    q, k, v = (given.pop(name) for name in "qkv")
    zeros = jnp.zeros((2, 2, 8, 12))
    # compiled here, both: an op called by itself may have been compiled with other options by a test before
    missing = jax.jit(lambda q, k, v, given: RULES[rule](q, k, v, **given))(q, k, v, given)
    zeros = jax.jit(lambda q, k, v, given: RULES[rule](q, k, v, **given, initial_state=zeros, implementation="xla_chunked"))(q, k, v, given)
    jax.tree.map(np.testing.assert_array_equal, missing, zeros)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 25, 64])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_inverse_by_doubling(size, correlation):
    k = np.asarray(arguments(Shape(1, size, 1, 32, 1), correlation=correlation)["k"], np.float64)[0, :, 0]
    strict_lower = np.tril(k @ k.T, -1)
    expected = np.linalg.inv(np.eye(size) + strict_lower)
    assert numerics.rms_ratio(unit_lower_inverse(jnp.asarray(strict_lower + 7.0 * np.eye(size), jnp.float32)), expected) < 1e-6


@pytest.mark.parametrize("tokens, width, size", [(1, 32, 1), (20, 32, 20), (24, 32, 24), (40, 32, 20), (60, 32, 20), (100, 32, 25), (512, 32, 16), (24, 64, 24), (512, 64, 32)])
def test_short_sequences_are_split_evenly(tokens, width, size):
    assert default_chunk_size(tokens, width) == size


@both_rules
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"k": (2, 36, 2, 9)}, ValueError, r"k must have shape \[2, 36, 2, 8\], given \[2, 36, 2, 9\]"),
        ({"v": (2, 36, 3, 12)}, ValueError, r"v must have a whole multiple of q's 2 heads, given \[2, 36, 3, 12\]"),
        ({"v": (2, 36, 12)}, ValueError, r"v must have shape \[B, T, H, V\], given \[2, 36, 12\]"),
        ({"beta": (2, 36)}, ValueError, r"beta must have shape \[2, 36, 2\], given \[2, 36\]"),
        ({"log_decay": (2, 36, 1)}, ValueError, r"log_decay must have shape \[2, 36, 2\], given \[2, 36, 1\]"),
        ({"initial_state": (2, 2, 12, 8)}, ValueError, r"initial_state must have shape \[2, 2, 8, 12\], given \[2, 2, 12, 8\]"),
        ({"initial_state": "bfloat16"}, TypeError, "initial_state must be float32, given bfloat16"),
        ({"v": "int32"}, TypeError, "v must be floating point, given int32"),
        ({"k": "bfloat16", "implementation": "xla_chunked"}, ValueError, r"'xla_chunked' can't run .*bfloat16\[2, 36, 2, 8\].*\]: q, k and v must all be"),
        ({"implementation": "fast"}, ValueError, "unknown implementation 'fast'; known: pallas_gpu, pallas_tpu, pallas_tpu_interpret, reference, xla_chunked"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(rule, change, error, message):
    given = arguments(MIDDLE)
    for name, value in change.items():
        given[name] = jnp.zeros(value) if isinstance(value, tuple) else value if name == "implementation" else given[name].astype(value)
    with pytest.raises(error, match=message):
        RULES[rule](given.pop("q"), given.pop("k"), given.pop("v"), **given)


def test_the_functions_and_the_folders_of_one_name_are_both_importable():
    assert sleepnet_kernels.gated_delta_rule is delta_api.gated_delta_rule
    assert sleepnet_kernels.gated_hebbian_rule is hebbian_api.gated_hebbian_rule
    importlib.import_module("sleepnet_kernels.gated_delta_rule.reference")
    assert sys.modules["sleepnet_kernels.gated_delta_rule.reference"] is delta_reference
