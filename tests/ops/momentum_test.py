"""The rule with momentum: outputs, both states and every gradient by name against its oracle, the oracle against numpy, then properties."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import C, MIDDLE, PACKED_CASES, RESETS, SHARED, STRONG, Case, check, told

import sleepnet_kernels
from sleepnet_kernels import numerics
from sleepnet_kernels.gated_delta_rule.reference import gated_delta_rule
from sleepnet_kernels.momentum_rule import reference
from sleepnet_kernels.momentum_rule.arg_specs import Shape, arguments
from sleepnet_kernels.momentum_rule.xla_chunked import momentum_rule as chunked

ROWS = {
    "moderate decay": told(), "no decay": told(decay=0.0), "decay 50": told(decay=50.0), "momentum forgets at once": told(forgets=50.0),
    "momentum forgets slowly": told(forgets=0.05, beta=0.1), "identical keys": told(correlation=1.0, beta=0.3, forgets=1.0),
    "correlated keys, no decay": told(correlation=0.9, beta=0.3, decay=0.0), **{name: case.told for name, case in STRONG.items()},
}
SHAPES = [Shape(2, 1, 2, 8, 12), Shape(2, C - 1, 2, 8, 12), Shape(2, C + 1, 2, 8, 12), Shape(1, 100, 1, 12, 8), SHARED]


@pytest.mark.parametrize("row", ROWS)
def test_matches_the_oracle(row):
    check("momentum", Case(told=ROWS[row]), chunked, chunk_size=C)


@pytest.mark.parametrize("name", RESETS)
def test_from_a_hard_reset_on_all_is_as_in_a_call_of_its_own(name):
    check("momentum", PACKED_CASES[name], chunked, by_decay=True, chunk_size=C)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_oracle_at_other_shapes(shape):
    for chunk_size in (C, 5):
        check("momentum", Case(shape), chunked, chunk_size=chunk_size)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_matches_the_oracle_in_bfloat16(row):
    check("momentum", Case(dtype="bfloat16", told=ROWS[row]), chunked, chunk_size=C)


def test_the_oracle_executes_the_documented_equation():
    given = {name: np.asarray(x, np.float64) for name, x in arguments(MIDDLE).items()}
    S, M = np.split(given["initial_state"], 2, axis=2)
    outputs = []
    for t in range(MIDDLE.t):
        q, k, v = (given[name][:, t] for name in "qkv")
        decay, momentum, beta, applied = (given[name][:, t][..., None, None] for name in ("log_decay", "log_momentum", "beta", "applied"))
        R = np.exp(decay) * S
        error = v - np.einsum("bhkv,bhk->bhv", R, k)
        M = np.exp(momentum) * M + beta * np.einsum("bhk,bhv->bhkv", k, error)
        S = R + applied * M
        outputs.append(np.einsum("bhkv,bhk->bhv", S, q))
    output, state = reference.momentum_rule(*arguments(MIDDLE).values())
    assert numerics.rms_ratio(output, np.stack(outputs, axis=1)) < 1e-6
    assert numerics.rms_ratio(state, np.concatenate([S, M], axis=2)) < 1e-6


def test_without_momentum_it_is_the_gated_delta_rule():
    given = arguments(MIDDLE, forgets=80.0) | {"applied": jnp.ones((2, 36, 2))}
    output, state = jax.jit(functools.partial(chunked, chunk_size=C))(*given.values())
    plain = {name: given[name] for name in ("q", "k", "v", "log_decay", "beta")}
    expected, final = gated_delta_rule(*plain.values(), given["initial_state"][:, :, :8])
    assert numerics.rms_ratio(output, expected) < 1e-6 and numerics.rms_ratio(state[:, :, :8], final) < 1e-6


def test_silent_tokens_leave_both_states_alone():
    given = arguments(MIDDLE)
    silent = {name: jnp.zeros_like(x) for name, x in given.items() if name not in ("q", "initial_state")}
    _, state = jax.jit(functools.partial(chunked, chunk_size=C))(*(given | silent).values())
    np.testing.assert_array_equal(state, given["initial_state"])


def token_by_token(*given):
    def token(state, at_t):
        q, k, v, log_decay, log_momentum, beta, applied = at_t
        gates = {"log_decay": log_decay, "log_momentum": log_momentum, "beta": beta, "applied": applied}
        return sleepnet_kernels.momentum_step(q, k, v, **gates, initial_state=state)[::-1]

    state, output = jax.lax.scan(token, given[-1], tuple(jnp.moveaxis(x, 1, 0) for x in given[:-1]))
    return jnp.moveaxis(output, 0, 1), state


@pytest.mark.parametrize("row", ["moderate decay", *STRONG])
def test_as_many_steps_as_tokens_match_the_oracle(row):
    check("momentum", Case(told=ROWS[row]), token_by_token)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"initial_state": (2, 2, 8, 12)}, ValueError, r"momentum_rule: initial_state must have shape \[2, 2, 16, 12\], given \[2, 2, 8, 12\]"),
        ({"log_momentum": (2, 36)}, ValueError, r"momentum_rule: log_momentum must have shape \[2, 36, 2\], given \[2, 36\]"),
        ({"initial_state": "bfloat16"}, TypeError, "momentum_rule: initial_state must be float32, given bfloat16"),
        ({"implementation": "fast"}, ValueError, "momentum_rule: unknown implementation 'fast'; known: reference, xla_chunked"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, error, message):
    given = arguments(MIDDLE)
    for name, value in change.items():
        given[name] = jnp.zeros(value) if isinstance(value, tuple) else value if name == "implementation" else given[name].astype(value)
    with pytest.raises(error, match=message):
        sleepnet_kernels.momentum_rule(given.pop("q"), given.pop("k"), given.pop("v"), **given)
