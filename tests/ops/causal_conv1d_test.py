"""The causal convolution: implementations against the oracle, the oracle against numpy, and its state."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet_kernels import causal_conv1d, numerics
from sleepnet_kernels.causal_conv1d.arg_specs import SHAPES, arguments

IMPLEMENTATIONS = ["reference", "xla", None]


@pytest.fixture(autouse=True)
def strict():
    """Promotion of dtypes and ranks is an error here whatever runs the tests."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def with_gradients(given, implementation):
    def call(x, weight, initial_state):
        return causal_conv1d(x, weight, initial_state=initial_state, implementation=implementation)

    (y, final_state), pullback = jax.vjp(jax.jit(call), *given.values())
    rng = np.random.default_rng(3)
    gradients = pullback(tuple(jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in (y, final_state)))
    return {"y": y, "final_state": final_state} | {f"d_{name}": g for name, g in zip(given, gradients)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_oracle(shape, dtype):
    given = arguments(shape, dtype)
    actual = with_gradients(given, "xla")
    expected = with_gradients({name: x.astype(jnp.float32) for name, x in given.items()}, "reference")
    bound = numerics.tolerance(dtype).gradient
    for name, x in actual.items():
        assert x.dtype == jnp.dtype(dtype)
        assert numerics.rms_ratio(x.astype(jnp.float32), expected[name]) <= bound, name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_executes_the_documented_equation(shape, implementation):
    given = arguments(shape)
    y, final_state = causal_conv1d(**given, implementation=implementation)
    x, weight, state = (np.asarray(a, np.float64) for a in given.values())
    width, inputs = len(weight), np.concatenate([state, x], axis=1)
    expected = np.stack([np.sum(weight * inputs[:, t : t + width], axis=1) for t in range(x.shape[1])], axis=1)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(final_state, np.asarray(inputs[:, x.shape[1] :], np.float32))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_split_sequence_equals_one_call(implementation, cut):
    given = arguments((3, 17, 6, 4))
    call = functools.partial(causal_conv1d, weight=given["weight"], implementation=implementation)
    whole = call(given["x"], initial_state=given["initial_state"])
    first, state = call(given["x"][:, :cut], initial_state=given["initial_state"])
    second, state = call(given["x"][:, cut:], initial_state=state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole[0], atol=1e-6)
    np.testing.assert_array_equal(state, whole[1])


def test_a_missing_state_is_zeros():
    given = arguments((2, 9, 3, 4))
    zeros = causal_conv1d(given["x"], given["weight"], initial_state=jnp.zeros((2, 3, 3)))
    jax.tree.map(np.testing.assert_array_equal, causal_conv1d(given["x"], given["weight"]), zeros)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": jnp.zeros((2, 9))}, ValueError, r"x must have shape \[B, T, C\], none of them 0, given \[2, 9\]"),
        ({"weight": jnp.zeros((4, 5))}, ValueError, r"weight must have shape \[4, 3\], given \[4, 5\]"),
        ({"initial_state": jnp.zeros((2, 4, 3))}, ValueError, r"initial_state must have shape \[2, 3, 3\], given \[2, 4, 3\]"),
        ({"initial_state": jnp.zeros((2, 3, 3), jnp.bfloat16)}, TypeError, "initial_state must be float32 like x, given bfloat16"),
        ({"x": jnp.zeros((2, 9, 3), jnp.int32)}, TypeError, "x must be floating point, given int32"),
        ({"implementation": "fast"}, ValueError, "unknown implementation 'fast'; known: reference, xla"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d(**(arguments((2, 9, 3, 4)) | change))
