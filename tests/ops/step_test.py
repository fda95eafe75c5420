"""One token at a time against the oracle: rows of the shared table, what is refused, and that silence changes nothing."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import CASES, MIDDLE, STRONG, check

import sleepnet_kernels
from sleepnet_kernels.gated_delta_rule.arg_specs import arguments

pytestmark = pytest.mark.usefixtures("shipped_compiler")

STEPS = {"delta": sleepnet_kernels.gated_delta_step, "hebbian": sleepnet_kernels.gated_hebbian_step}
ROWS = (
    "moderate decay", "no decay", "decay 50", *STRONG, "identical keys, beta 1, no decay", "correlated keys, beta 1, slow decay", "beta 2",
    "one token", "three heads share a key", "bf16", "bf16, correlated keys",
)
both_rules = pytest.mark.parametrize("rule", list(STEPS))


@functools.cache
def token_by_token(rule):
    def run(q, k, v, log_decay, beta, initial_state):
        def token(state, at_t):
            q, k, v, log_decay, beta = at_t
            output, state = STEPS[rule](q, k, v, log_decay=log_decay, beta=beta, initial_state=state)
            return state, output

        time_major = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, log_decay, beta))
        state, output = jax.lax.scan(token, initial_state, time_major)
        return jnp.moveaxis(output, 0, 1), state

    return run


@both_rules
@pytest.mark.parametrize("name", ROWS)
def test_as_many_calls_as_tokens_match_the_oracle(rule, name):
    check(rule, CASES[name], token_by_token(rule))


def at_first_token(given):
    return {name: x if name == "initial_state" else x[:, 0] for name, x in given.items()}


@both_rules
def test_a_silent_token_leaves_the_state_alone_and_a_missing_state_is_zeros(rule):
    given = at_first_token(arguments(MIDDLE))
    silent = {name: jnp.zeros_like(given[name]) for name in ("k", "v", "log_decay", "beta")}
    _, state = STEPS[rule](given["q"], silent["k"], silent["v"], log_decay=silent["log_decay"], beta=silent["beta"], initial_state=given["initial_state"])
    np.testing.assert_array_equal(state, given["initial_state"])
    output, state = STEPS[rule](given["q"], given["k"], given["v"], log_decay=given["log_decay"], beta=given["beta"])
    np.testing.assert_allclose(state, given["k"][..., None] * (given["beta"][..., None] * given["v"])[:, :, None], rtol=1e-6)
    np.testing.assert_allclose(output, np.einsum("bhk,bhkv->bhv", given["q"], state), rtol=1e-4, atol=1e-6)


@both_rules
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"q": (2, 36, 2, 8)}, ValueError, r"_step: q must have shape \[B, G, K\], given \[2, 36, 2, 8\]"),
        ({"v": (2, 12)}, ValueError, r"_step: v must have shape \[B, H, V\], given \[2, 12\]"),
        ({"k": (2, 2, 9)}, ValueError, r"_step: k must have shape \[2, 2, 8\], given \[2, 2, 9\]"),
        ({"beta": (2, 1)}, ValueError, r"_step: beta must have shape \[2, 2\], given \[2, 1\]"),
        ({"initial_state": (2, 2, 12, 8)}, ValueError, r"_step: initial_state must have shape \[2, 2, 8, 12\], given \[2, 2, 12, 8\]"),
        ({"initial_state": "bfloat16"}, TypeError, "_step: initial_state must be float32, given bfloat16"),
        ({"v": "int32"}, TypeError, "_step: v must be floating point, given int32"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(rule, change, error, message):
    given = at_first_token(arguments(MIDDLE))
    for name, value in change.items():
        given[name] = jnp.zeros(value) if isinstance(value, tuple) else given[name].astype(value)
    with pytest.raises(error, match=message):
        STEPS[rule](given.pop("q"), given.pop("k"), given.pop("v"), **given)
