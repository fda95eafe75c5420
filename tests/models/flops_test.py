"""The analytic cost of a model against the compiler's own count and against the model itself."""
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from sleepnet_kernels.delta_rule.reference import delta_rule
from sleepnet_kernels.gated_delta_rule.reference import gated_delta_rule
from sleepnet_kernels.gated_hebbian_rule.reference import gated_hebbian_rule
from sleepnet_kernels.hebbian_rule.reference import hebbian_rule
from sleepnet_kernels.kda_rule.reference import kda_rule
from sleepnet_kernels.momentum_rule.reference import momentum_rule

from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid

WIDE = ModelConfig(vocab_size=256, window=64, pattern="AA", width=256, heads=4, head_dim=64, mlp_width=512)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def abstract(config):
    return nnx.split(nnx.eval_shape(lambda: Hybrid(config, nnx.Rngs(0))), nnx.Param)


def compiled_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def compiled_forward(config, seq_len, predicts):
    graph, params = abstract(config)
    tokens = jax.ShapeDtypeStruct((1, seq_len), jnp.int32)
    return compiled_flops(lambda params, tokens: nnx.merge(graph, params).forward(tokens, passes=1, predicts=predicts), params, tokens)


@pytest.mark.parametrize("config, seq_len", [(WIDE, 64), (dataclasses.replace(WIDE, mlp_width=0), 160)])
def test_forward_agrees_with_the_compiler(config, seq_len):
    predicts = (True,) * -(-seq_len // config.window)
    assert flops.forward_flops(config, predicts, seq_len) == pytest.approx(compiled_forward(config, seq_len, predicts), rel=0.1)


def test_training_agrees_with_the_compiler():
    graph, params = abstract(WIDE)
    tokens = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    loss = lambda params, tokens: jnp.sum(nnx.merge(graph, params).forward(tokens, passes=1, predicts=(True,)))
    counted = flops.train_flops(WIDE, (True,), 64)
    assert counted == 3 * flops.forward_flops(WIDE, (True,), 64)
    assert counted == pytest.approx(compiled_flops(jax.grad(loss), params, tokens), rel=0.15)


# the oracle, and the projections to beta and decays at width 64, one head of 64
RULES = {
    "hebbian": (hebbian_rule, 64), "delta": (delta_rule, 64), "gated_hebbian": (gated_hebbian_rule, 2 * 64),
    "gated_delta": (gated_delta_rule, 2 * 64), "kda": (kda_rule, 64 + 64 * 64 + 64 * 64),
    "momentum": (momentum_rule, 3 * 64),
}


@pytest.mark.parametrize("name", RULES)
def test_the_rule_agrees_with_its_oracle(name):
    (rule, projected), size = RULES[name], 64
    vector, scalar = jax.ShapeDtypeStruct((1, 1, 1, size), jnp.float32), jax.ShapeDtypeStruct((1, 1, 1), jnp.float32)
    state = jax.ShapeDtypeStruct((1, 1, 2 * size if name == "momentum" else size, size), jnp.float32)
    gates = {"kda": (vector, scalar), "momentum": (scalar,) * 4}.get(name, (scalar, scalar))
    # before fusion, which computes the decay twice
    one_token = jax.jit(rule).lower(vector, vector, vector, *gates, state).cost_analysis()["flops"]
    with_rule = ModelConfig(vocab_size=4, window=8, pattern="G", heads=1, head_dim=size, rule=name)
    projections = 2 * (5 * 64 * size + projected)
    assert flops.pass_flops(with_rule, 1) - projections - 2 * 4 * 3 * size - 2 * 3 * 64 * 128 == pytest.approx(one_token, rel=0.05)


def test_a_dynamic_convolution_by_hand():
    fixed = ModelConfig(vocab_size=4, window=8, pattern="G", width=64, heads=2, head_dim=16)
    made, three, one = 64 * 8 + 8 * 32 * 4, 4 * 3 * 32, 4 * 32
    dynamic = dataclasses.replace(fixed, conv="dynamic")
    assert flops.pass_flops(dynamic, 1) - flops.pass_flops(fixed, 1) == 2 * (made + one - three)
    assert flops.parameters(dynamic) - flops.parameters(fixed) == made - three
    wider = dataclasses.replace(dynamic, conv_rank=24, conv_bias=True)
    assert flops.parameters(wider) - flops.parameters(dynamic) == 16 * (64 + 32 * 4) + 32 * 4


def test_one_attention_block_by_hand():
    config = ModelConfig(vocab_size=11, window=6, pattern="A", width=8, heads=2, head_dim=4, mlp_width=16)
    projections, scores, mlp = 4 * 6 * 8 * 8, 2 * 6 * 6 * 8, 3 * 6 * 8 * 16
    assert flops.pass_flops(config, 6) == 2 * (projections + scores + mlp)
    assert flops.forward_flops(config, (True,), 6) == 2 * (projections + scores + mlp + 6 * 8 * 11)
    sliding = dataclasses.replace(config, sleep=SleepConfig(eviction="sliding"))
    assert flops.pass_flops(sliding, 6) == 2 * (projections + 2 * 6 * 11 * 8 + mlp)

    full = dataclasses.replace(config, sleep=SleepConfig(passes=1, eviction="none"))
    three = 2 * (3 * projections + 2 * (6 + 12 + 18) * 6 * 8 + 3 * mlp) + 2 * 6 * 8 * 11
    assert flops.forward_flops(full, (False, False, True), 18) == three
    assert flops.train_flops(full, (False, False, True), 18) == 3 * three
    assert flops.wake_token_flops(full, 2) - flops.wake_token_flops(full) == 2 * 2 * 12 * 8
    assert flops.wake_token_flops(config, 2) == flops.wake_token_flops(config), "what was evicted costs nothing"
    assert flops.cache_bytes(full, 2) == 3 * flops.cache_bytes(config, 2) == 4 * 2 * 18 * 8


@pytest.mark.parametrize("pattern", ["A", "G", "AGAG"])
def test_passes_are_linear_and_waking_does_not_depend_on_them(pattern):
    make = lambda **sleep: ModelConfig(vocab_size=11, window=6, pattern=pattern, sleep=SleepConfig(**sleep))
    one = flops.sleep_flops(make(), 1)
    assert [flops.sleep_flops(make(), n) for n in (2, 5, 16)] == [2 * one, 5 * one, 16 * one]
    assert flops.sleep_flops(make(passes=3)) == 3 * one
    assert len({flops.wake_token_flops(make(passes=n)) for n in (1, 4, 64)}) == 1
    predicting = flops.forward_flops(make(), (True,), 4)
    assert flops.forward_flops(make(), (False, False, True), 16, 5) == 2 * 5 * one + predicting


def test_only_the_looped_span_is_repeated():
    whole = ModelConfig(vocab_size=11, window=6, pattern="AGA")
    middle = dataclasses.replace(whole, sleep=SleepConfig(loop_start=1, loop_stop=2))
    span = flops.pass_flops(whole, 6, blocks=(1, 2))
    assert flops.sleep_flops(middle, 4) == flops.sleep_flops(whole, 1) + 3 * span
    twice = dataclasses.replace(middle, sleep=dataclasses.replace(middle.sleep, predict_passes=2))
    assert flops.forward_flops(twice, (True,), 6) == flops.forward_flops(middle, (True,), 6) + span


def test_writing_onto_the_first_s_costs_the_rule_once_more_but_for_what_is_read():
    make = lambda **sleep: ModelConfig(vocab_size=11, window=6, pattern="AGAG", heads=2, head_dim=8, sleep=SleepConfig(**sleep))
    one, again = flops.sleep_flops(make(), 1), 2 * 6 * (7 - 2) * 2 * 8 * 8  # blocks, tokens, decay, k·S and write of a gated delta rule, heads, K, V
    assert flops.sleep_flops(make(rewrite=True), 4) == 4 * (one + again)
    assert flops.sleep_flops(make(rewrite=True), 1) == one
    assert flops.train_flops(make(rewrite=True), (False,), 6, 4) == 12 * (one + again)
    assert flops.forward_flops(make(rewrite=True), (False, True), 8, 4) == 4 * (one + again) + flops.forward_flops(make(), (True,), 2)


def test_gradients_change_what_training_costs():
    def train(**sleep):
        return flops.train_flops(ModelConfig(vocab_size=11, window=6, sleep=SleepConfig(**sleep)), (False,), 6, 4)

    one = flops.sleep_flops(ModelConfig(window=6), 1)
    assert train() == 12 * one
    assert train(remat=True) == 16 * one
    assert train(gradient="last", gradient_passes=1) == 6 * one
    assert train(gradient="last", gradient_passes=9) == train()
    assert train(gradient="implicit") == 13 * one


ODD = ModelConfig(vocab_size=7, window=5, pattern="AGG", heads=3, head_dim=6, mlp_width=0, window_positions=False)


@pytest.mark.parametrize("config", [WIDE, ODD, *(dataclasses.replace(ODD, rule=rule) for rule in RULES), dataclasses.replace(ODD, conv="dynamic")])
def test_parameters_and_state_are_the_models(config):
    graph, params = abstract(config)
    assert flops.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    state = jax.eval_shape(lambda: Hybrid(config, nnx.Rngs(0)).init_state(1))
    assert flops.state_bytes(config) == sum(leaf.size * leaf.dtype.itemsize for leaf in state.fast_weights.layers)


def test_a_wrong_number_of_windows_is_refused():
    with pytest.raises(ValueError, match="16 tokens are 3 windows of 6"):
        flops.forward_flops(ModelConfig(vocab_size=11, window=6), (False, True), 16)
