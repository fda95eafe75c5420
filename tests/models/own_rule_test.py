"""A fast-weight rule of one's own, by module and name: it is computed, counted, checked, and refused with the reason."""
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import rules
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid

# the gated delta rule as its definition has it, one token after the other
MODULE = '''
import jax
import jax.numpy as jnp
from sleepnet.rules import Rule

def serial(q, k, v, *, log_decay, beta, initial_state):
    def token(S, x):
        q, k, v, g, b = x
        S = jnp.exp(g)[..., None, None] * S
        S = S + jnp.einsum("bh,bhk,bhv->bhkv", b, k, v - jnp.einsum("bhkv,bhk->bhv", S, k))
        return S, jnp.einsum("bhkv,bhk->bhv", S, q)
    given = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (q, k, v, log_decay, beta))
    state, read = jax.lax.scan(token, initial_state, given)
    return jnp.moveaxis(read, 0, 1), state

def forgetful(q, k, v, *, beta, initial_state):
    return v, initial_state.astype(jnp.bfloat16)

SERIAL = Rule(window=serial, flops=7)
FORGETFUL = Rule(window=forgetful, decays="", flops=1, overwrites=False)
NUMBER = 3
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "rules_of_mine.py").write_text(MODULE)
    (tmp_path / "rules_that_need.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    rules._elsewhere.cache_clear()
    sys.modules.pop("rules_of_mine", None)


def config(rule, **more):
    return ModelConfig(vocab_size=6, window=5, pattern="AG", width=16, heads=2, head_dim=4, rule=rule, **more)


@pytest.mark.slow  # two models compile
def test_the_gated_delta_rule_written_anew_is_the_same_model():
    tokens = jax.random.randint(jax.random.key(1), (2, 15), 0, 6)
    mask = jnp.zeros((2, 15), bool).at[:, 10:].set(True)
    found = []
    for rule in ("gated_delta", "rules_of_mine:SERIAL"):
        graph, params = nnx.split(Hybrid(config(rule), nnx.Rngs(0)), nnx.Param)
        model = lambda params: nnx.merge(graph, params)  # noqa: B023
        score = lambda params: (lambda logits: ((logits**2).sum(), logits))(model(params).forward(tokens, mask))  # noqa: B023
        wake = jax.jit(lambda params, tokens, state: model(params).wake(tokens, state))  # noqa: B023
        (_, logits), grads = jax.jit(jax.value_and_grad(score, has_aux=True))(params)
        state, steps = model(params).init_state(2), []
        for t in range(5):
            step, state = wake(params, tokens[:, t : t + 1], state)
            steps.append(step)
        found.append((logits, grads, jnp.concatenate(steps, 1), state.window.fast_weights))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4, rtol=2e-4), *found)
    assert flops.pass_flops(config("gated_delta"), 5) == flops.pass_flops(config("rules_of_mine:SERIAL"), 5)


def test_what_a_rule_returns_is_checked():
    model = Hybrid(config("rules_of_mine:FORGETFUL"), nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"'rules_of_mine:FORGETFUL' returned float32\[1, 5, 2, 4\] and bfloat16\[1, 2, 4, 4\]; it must .* float32\[1, 2, 4, 4\]"):
        model.wake(jnp.zeros((1, 5), jnp.int32), model.init_state(1))


@pytest.mark.parametrize(
    "rule, more, message",
    [
        ("gated_delt", {}, "model.rule='gated_delt' is unknown; did you mean 'gated_delta'"),
        ("rules_of_mine:SERIEL", {}, "the module rules_of_mine has no 'SERIEL'"),
        ("rules_of_mine:NUMBER", {}, "is a int, not a sleepnet.rules.Rule"),
        (":SERIAL", {}, "model.rule=':SERIAL' must be a known name, or 'module:NAME'"),
        ("rules_of_yours:SERIAL", {}, "no module rules_of_yours; run where it can be imported"),
    ],
)
def test_a_rule_that_is_not_there_is_named(rule, more, message):
    with pytest.raises(UsageError, match=message):
        config(rule, **more)


def test_what_a_module_lacks_is_its_own_error():
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        config("rules_that_need:ANY")


def test_every_rule_says_where_its_functions_are():
    for rule in rules.RULES.values():
        assert all(callable(rules.find(where)) for where in (rule.window, rule.token))


@pytest.mark.parametrize("more, message", [({"decays": "heads"}, "decays='heads' is not one of"), ({"decays": "channel", "momentum": True}, "set decays to 'head'")])
def test_a_rule_that_cannot_be_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        rules.Rule(window="x:y", flops=1, **more)
