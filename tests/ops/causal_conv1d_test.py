"""The causal convolution: implementations against the oracle, the oracle against numpy, its state, packed rows and its step."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet_kernels import causal_conv1d, causal_conv1d_step, numerics
from sleepnet_kernels.causal_conv1d.arg_specs import SHAPES, arguments

IMPLEMENTATIONS = ["reference", "xla", None]
NAMES = ("x", "weight", "initial_state")
# A shape, and where segments begin in each of its rows.
PACKED = {
    "from 1, none": ((2, 9, 3, 4), ((1,), ())),
    "alone at the end, short at the end": ((2, 9, 3, 4), ((8,), (7,))),
    "as long as the state, as long as a tap more": ((2, 9, 3, 4), ((3, 6), (1, 5))),
    "each token by itself": ((2, 9, 3, 4), (tuple(range(1, 9)), (4,))),
    "shorter than the state in all": ((2, 2, 4, 4), ((1,), ())),
    "one tap": ((2, 9, 3, 1), ((1, 4), (8,))),
    "two taps": ((2, 4, 4, 2), ((1, 3), (2,))),
}


@pytest.fixture(autouse=True)
def strict():
    """Promotion of dtypes and ranks is an error here whatever runs the tests."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@functools.partial(jax.jit, static_argnums=1)
def with_gradients(given, implementation):
    def call(x, weight, initial_state):
        return causal_conv1d(x, weight, initial_state=initial_state, segment_ids=given.get("segment_ids"), implementation=implementation)

    (y, final_state), pullback = jax.vjp(call, *(given[name] for name in NAMES))
    gradients = pullback((cotangent(y), cotangent(final_state)))
    return {"y": y, "final_state": final_state} | {f"d_{name}": g for name, g in zip(NAMES, gradients)}


def cotangent(x):
    return jnp.asarray(np.random.default_rng(3).normal(size=x.shape), x.dtype)


def ids(shape, begins):
    return jnp.asarray([[sum(t >= b for b in positions) for t in range(shape[1])] for positions in begins], jnp.int32)


def one_by_one(given, begins):
    """Convolves each segment by itself in float64, from the state or from zeros, and runs each tap's product backward by hand."""
    x, weight, state = (np.asarray(given[name], np.float64) for name in NAMES)
    dy, d_final = (np.asarray(cotangent(jnp.zeros(a.shape)), np.float64) for a in (x, state))
    results = {"y": np.zeros(x.shape), "final_state": np.zeros(state.shape)}
    results |= {"d_x": np.zeros(x.shape), "d_weight": np.zeros(weight.shape), "d_initial_state": np.zeros(state.shape)}
    width, t = len(weight), x.shape[1]
    for row, positions in enumerate(begins):
        for begin, end in zip((0, *positions), (*positions, t)):
            before = state[row] * (begin == 0)
            inputs = np.concatenate([before, x[row, begin:end]])
            d_inputs = np.zeros(inputs.shape)
            for i in range(width):
                taken = slice(i, i + end - begin)
                results["y"][row, begin:end] += weight[i] * inputs[taken]
                d_inputs[taken] += weight[i] * dy[row, begin:end]
                results["d_weight"][i] += np.sum(inputs[taken] * dy[row, begin:end], axis=0)
            if end == t:
                results["final_state"][row] = inputs[end - begin :]
                d_inputs[end - begin :] += d_final[row]
            results["d_x"][row, begin:end] = d_inputs[width - 1 :]
            results["d_initial_state"][row] += d_inputs[: width - 1] * (begin == 0)
    return results


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


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("name", list(PACKED))
def test_a_segment_equals_a_call_of_its_own(name, implementation):
    shape, begins = PACKED[name]
    given = arguments(shape)
    actual = with_gradients(given | {"segment_ids": ids(shape, begins)}, implementation)
    expected = one_by_one(given, begins)
    for key, x in actual.items():
        assert numerics.rms_ratio(x, expected[key]) <= numerics.FLOAT32.gradient, key


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_no_bit_of_a_segment_reaches_another(implementation, spoiled):
    """Not even NaN, in one segment's inputs and, where it is the first, in the state; the gradient of the weight is over all of them."""
    shape, edges = (2, 9, 3, 4), (0, 2, 7, 9)
    given = arguments(shape) | {"segment_ids": ids(shape, (edges[1:3], (4,)))}
    clean, dirty = with_gradients(given, implementation), dict(given)
    dirty["x"] = given["x"].at[0, edges[spoiled] : edges[spoiled + 1]].set(jnp.nan)
    if spoiled == 0:
        dirty["initial_state"] = given["initial_state"].at[0].set(jnp.nan)
    dirty = with_gradients(dirty, implementation)
    own = np.s_[0, edges[spoiled] : edges[spoiled + 1]]
    assert np.isnan(dirty["y"][own]).any()
    for name in ("y", "d_x"):
        np.testing.assert_array_equal(np.delete(dirty[name][0], own[1], axis=0), np.delete(clean[name][0], own[1], axis=0), err_msg=name)
        np.testing.assert_array_equal(dirty[name][1], clean[name][1], err_msg=name)
    if spoiled < 2:
        np.testing.assert_array_equal(dirty["final_state"], clean["final_state"])
    np.testing.assert_array_equal(dirty["d_initial_state"], clean["d_initial_state"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_steps_as_tokens_equal_one_call(shape, dtype):
    given, steps = arguments(shape, dtype), []
    state = given["initial_state"]
    for t in range(shape[1]):
        y, state = causal_conv1d_step(given["x"][:, t], given["weight"], initial_state=state)
        steps.append(y)
    whole_y, whole_state = causal_conv1d(**given, implementation="reference")
    bound = numerics.tolerance(dtype).output
    assert steps[0].dtype == jnp.dtype(dtype)
    assert numerics.rms_ratio(jnp.stack(steps, axis=1).astype(jnp.float32), whole_y.astype(jnp.float32)) <= bound
    np.testing.assert_array_equal(state, whole_state)


def test_a_step_without_a_state_is_the_last_tap_and_refuses_what_does_not_fit():
    x, weight = jnp.ones((2, 3)), jnp.arange(12.0).reshape(4, 3)
    y, state = causal_conv1d_step(x, weight)
    np.testing.assert_array_equal(y, jnp.stack([weight[3], weight[3]]))
    np.testing.assert_array_equal(state, jnp.zeros((2, 3, 3)).at[:, 2].set(1))
    with pytest.raises(ValueError, match=r"causal_conv1d_step: x must have shape \[B, C\], none of them 0, given \[2, 9, 3\]"):
        causal_conv1d_step(jnp.zeros((2, 9, 3)), weight)
    with pytest.raises(ValueError, match=r"causal_conv1d_step: initial_state must have shape \[2, 3, 3\], given \[2, 2, 3\]"):
        causal_conv1d_step(x, weight, initial_state=jnp.zeros((2, 2, 3)))


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
        ({"segment_ids": jnp.zeros((2, 9))}, TypeError, "segment_ids must be int32, given float32: number the sequences of each row"),
        ({"segment_ids": jnp.zeros((9,), jnp.int32)}, ValueError, r"segment_ids must have shape \[2, 9\], one id a token, given \[9\]"),
        ({"implementation": "fast"}, ValueError, "unknown implementation 'fast'; known: reference, xla"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d(**(arguments((2, 9, 3, 4)) | change))
