"""The two rules without decay: the shared table against oracles of their own, the oracles against closed forms, what is refused."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import CASES, MIDDLE, ORACLES, SHARED, check

import sleepnet_kernels
from sleepnet_kernels import numerics
from sleepnet_kernels.delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape
from sleepnet_kernels.hebbian_rule import api as hebbian_api
from sleepnet_kernels.hebbian_rule.arg_specs import arguments

RULES = {"delta without decay": delta_api.delta_rule, "hebbian without decay": hebbian_api.hebbian_rule}
STEPS = {"delta without decay": sleepnet_kernels.delta_step, "hebbian without decay": sleepnet_kernels.hebbian_step}
both_rules = pytest.mark.parametrize("rule", list(RULES))


def table():
    for name, case in CASES.items():
        # What the table says of decays makes no difference here.
        if "decay" not in name or "no decay" in name or "beta" in name:
            yield pytest.param(name, marks=() if (case.shape, case.dtype) == (MIDDLE, "float32") else pytest.mark.slow)


CALLS = {
    rule: lambda q, k, v, log_decay, beta, state, public=public: public(q, k, v, beta=beta, initial_state=state, implementation="xla_chunked")
    for rule, public in RULES.items()
}


@both_rules
@pytest.mark.parametrize("name", table())
def test_matches_the_oracle(rule, name):
    check(rule, CASES[name], CALLS[rule])


def token_by_token(rule):
    def run(q, k, v, log_decay, beta, initial_state):
        def token(state, at_t):
            q, k, v, beta = at_t
            return STEPS[rule](q, k, v, beta=beta, initial_state=state)[::-1]

        state, output = jax.lax.scan(token, initial_state, tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, beta)))
        return jnp.moveaxis(output, 0, 1), state

    return run


@pytest.mark.slow
@both_rules
def test_as_many_steps_as_tokens_match_the_oracle(rule):
    check(rule, CASES["correlated keys"], token_by_token(rule))


@pytest.mark.parametrize("shape", [MIDDLE, SHARED], ids=str)
def test_the_hebbian_oracle_is_attention_without_softmax(shape):
    given = arguments(shape)
    q, k = (np.repeat(np.asarray(given[name], np.float64), shape.shared, axis=2) for name in "qk")
    v, beta, state = (np.asarray(given[name], np.float64) for name in ("v", "beta", "initial_state"))
    scores = np.tril(np.einsum("bihk,bjhk->bhij", q, k)) * beta.swapaxes(1, 2)[:, :, None]
    expected = np.einsum("bhij,bjhv->bihv", scores, v) + np.einsum("bihk,bhkv->bihv", q, state)
    output, final = ORACLES["hebbian without decay"](given["q"], given["k"], given["v"], None, given["beta"], given["initial_state"])
    assert numerics.rms_ratio(output, expected) < 1e-6
    assert numerics.rms_ratio(final, state + np.einsum("bjh,bjhk,bjhv->bhkv", beta, k, v)) < 1e-6


def test_the_delta_oracle_executes_the_documented_equation():
    given = {name: np.asarray(x, np.float64) for name, x in arguments(MIDDLE).items()}
    state, outputs = given["initial_state"], []
    for t in range(MIDDLE.t):
        k, beta = given["k"][:, t], given["beta"][:, t][..., None, None]
        state = (np.eye(MIDDLE.dk) - beta * k[..., :, None] * k[..., None, :]) @ state + beta * k[..., :, None] * given["v"][:, t][..., None, :]
        outputs.append(np.einsum("bhk,bhkv->bhv", given["q"][:, t], state))
    exact = arguments(MIDDLE)
    output, final = ORACLES["delta without decay"](exact["q"], exact["k"], exact["v"], None, exact["beta"], exact["initial_state"])
    assert numerics.rms_ratio(output, np.stack(outputs, axis=1)) < 1e-6 and numerics.rms_ratio(final, state) < 1e-6


def test_what_was_written_twice_under_a_key_is_what_was_written_last():
    """With beta 1 the delta rule replaces, whatever came between under other keys; the Hebbian one adds."""
    keys = jnp.eye(4)[jnp.asarray([0, 1, 0, 2])][None, :, None]
    values = jnp.arange(12.0).reshape(1, 4, 1, 3) + 1
    beta = jnp.ones((1, 4, 1))
    for rule, expected in (("delta without decay", values[0, 2, 0]), ("hebbian without decay", values[0, 0, 0] + values[0, 2, 0])):
        _, state = RULES[rule](keys, keys, values, beta=beta)
        np.testing.assert_allclose(state[0, 0, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(state[0, 0, 1], values[0, 1, 0], rtol=1e-6)


@both_rules
def test_what_does_not_fit_is_refused_by_name(rule):
    given = arguments(Shape(2, 6, 2, 8, 12))
    q, k, v, beta = (given[name] for name in ("q", "k", "v", "beta"))
    name = RULES[rule].__name__
    with pytest.raises(ValueError, match=rf"{name}: beta must have shape \[2, 6, 2\], given \[2, 6\]"):
        RULES[rule](q, k, v, beta=beta[..., 0])
    with pytest.raises(ValueError, match=rf"{name}: v must have shape \[B, T, H, V\], given \[2, 6, 2\]"):
        RULES[rule](q, k, v[..., 0], beta=beta)
    with pytest.raises(ValueError, match=f"{name}: unknown implementation 'fast'; known: .*reference, xla_chunked"):
        RULES[rule](q, k, v, beta=beta, implementation="fast")
    with pytest.raises(TypeError, match="_step: initial_state must be float32, given bfloat16"):
        STEPS[rule](q[:, 0], k[:, 0], v[:, 0], beta=beta[:, 0], initial_state=given["initial_state"].astype(jnp.bfloat16))
