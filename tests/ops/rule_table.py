"""The table of cases that every implementation of the fast-weight rules goes through, and how a row of it is checked.

Outputs, final state and every gradient are compared by name. Arguments vary within a few shapes so that little is compiled.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet_kernels import numerics
from sleepnet_kernels.gated_delta_rule import reference as delta_reference
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape, arguments
from sleepnet_kernels.gated_hebbian_rule import reference as hebbian_reference

ORACLES = {"delta": delta_reference.gated_delta_rule, "hebbian": hebbian_reference.gated_hebbian_rule}
NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")
C = 8
# Five chunks are not unrolled, which compiles faster; the last one is padded.
MIDDLE = Shape(2, 36, 2, 8, 12)
SHARED = Shape(2, 36, 6, 8, 12, shared=3)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: a shape, what `arguments` is told, and the dtype of q, k and v."""

    shape: Shape = MIDDLE
    dtype: str = "float32"
    told: tuple = ()


def told(**keywords):
    return tuple(keywords.items())


CASES = {
    "moderate decay": Case(),
    "no decay": Case(told=told(decay=0.0)),
    "decay 50": Case(told=told(decay=50.0)),
    "decay .005": Case(told=told(decay=0.005)),
    "decay 5": Case(told=told(decay=5.0)),
    "identical keys, beta 1, no decay": Case(told=told(decay=0.0, beta=1.0, correlation=1.0)),
    "correlated keys": Case(told=told(decay=0.0, correlation=0.9)),
    "correlated keys, beta 1, slow decay": Case(told=told(decay=0.01, beta=1.0, correlation=0.9)),
    "beta 2": Case(told=told(beta=1.999)),
    "one token": Case(Shape(2, 1, 2, 8, 12)),
    "a chunk less one": Case(Shape(2, C - 1, 2, 8, 12)),
    "a chunk": Case(Shape(2, C, 2, 8, 12)),
    "a chunk and one": Case(Shape(2, C + 1, 2, 8, 12)),
    "100 tokens, wide keys": Case(Shape(1, 100, 1, 12, 8)),
    "three heads share a key": Case(SHARED),
    "three heads share a key, correlated, beta 1": Case(SHARED, told=told(decay=0.01, beta=1.0, correlation=0.9)),
    "bf16": Case(dtype="bfloat16"),
    "bf16, no decay": Case(dtype="bfloat16", told=told(decay=0.0)),
    "bf16, decay 5": Case(dtype="bfloat16", told=told(decay=5.0)),
    "bf16, correlated keys": Case(dtype="bfloat16", told=told(decay=0.0, correlation=0.9)),
    "bf16, three heads share a key": Case(SHARED, dtype="bfloat16"),
    "bf16, 100 tokens": Case(Shape(1, 100, 1, 12, 8), dtype="bfloat16"),
}


@functools.cache
def with_gradients(function, **static):
    """Returns a jitted function: arguments and cotangents -> output, final state and every gradient, by name."""

    def evaluate(given, d_output, d_final_state):
        call = functools.partial(function, **static)
        (output, final_state), pullback = jax.vjp(call, *(given[name] for name in NAMES))
        gradients = pullback((d_output.astype(output.dtype), d_final_state))
        return {"output": output, "final_state": final_state} | {f"d_{name}": g for name, g in zip(NAMES, gradients)}

    return jax.jit(evaluate)


def cotangents(shape, seed=7):
    rng = np.random.default_rng(seed)
    d_output = jnp.asarray(rng.normal(size=(shape.b, shape.t, shape.h, shape.dv)), jnp.float32)
    return d_output, jnp.asarray(rng.normal(size=(shape.b, shape.h, shape.dk, shape.dv)), jnp.float32)


def assert_close(actual, expected, tolerance):
    ratios = {name: numerics.rms_ratio(actual[name].astype(jnp.float32), expected[name].astype(jnp.float32)) for name in expected}
    bounds = {name: tolerance.gradient if name.startswith("d_") else tolerance.output for name in expected}
    assert not {name: ratio for name, ratio in ratios.items() if not ratio <= bounds[name]}, ratios


def check(rule, case, function, **static):
    """Compares `function`, told `static`, with the oracle of the rule."""
    given = arguments(case.shape, case.dtype, **dict(case.told))
    actual = with_gradients(function, **static)(given, *cotangents(case.shape))
    for name in NAMES:
        assert actual[f"d_{name}"].dtype == given[name].dtype
    # The oracle sees the rounded operands but no rounded result.
    exact = {name: x.astype(jnp.float32) for name, x in given.items()}
    expected = with_gradients(ORACLES[rule])(exact, *(x.astype(case.dtype).astype(jnp.float32) for x in cotangents(case.shape)[:1]), cotangents(case.shape)[1])
    correlated = dict(case.told).get("correlation", 0.0) > 0
    assert_close(actual, expected, numerics.tolerance(case.dtype, correlated_keys=correlated))
