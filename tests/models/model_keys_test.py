"""Keys that released models need, one by one: what they say is what the model does, and by default it does what it did."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import build, losses, methods
from sleepnet.config import ModelConfig, RunConfig, SleepConfig, from_dict, parse
from sleepnet.errors import UsageError
from sleepnet.eval import runner
from sleepnet.methods.base import Problem
from sleepnet.models import flops, hybrid
from sleepnet.models.attention import attend
from sleepnet.models.dynamic_conv import DynamicConv
from sleepnet.models.hybrid import Hybrid
from sleepnet.models.rope import rope
from sleepnet.sleep import between_passes

SMALL = ModelConfig(vocab_size=11, window=4, pattern="G", width=8, heads=2, head_dim=4, mlp_width=0, window_positions=False, pad_id=-1)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 10)).astype(np.int32)
TOKENS[:, ::3] = 0


def run(model, tokens, **more):
    graph, params = nnx.split(model, nnx.Param)
    return jax.jit(lambda params, tokens, more: nnx.merge(graph, params).forward(tokens, predicts=(True,) * -(-tokens.shape[1] // model.config.window), **more))(
        params, jnp.asarray(tokens), more
    )


def model_of(**changes):
    return Hybrid(dataclasses.replace(SMALL, **changes), nnx.Rngs(0))


# Padding

def test_without_padding_no_token_is_special():
    """Rows of the embedding change places, and so do the tokens: nothing else may differ."""
    model, order = model_of(pattern="AG"), np.array([5, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10])
    before = run(model, TOKENS)
    model.embedding[...] = model.embedding[...][order]
    np.testing.assert_array_equal(run(model, order[TOKENS].astype(np.int32)), before)
    padded = Hybrid(dataclasses.replace(model.config, pad_id=0), nnx.Rngs(0))
    assert np.abs(run(padded, TOKENS) - before).max() > 0.01


def test_a_mask_says_what_padding_is_and_a_sleep_knows_it_again():
    """A mask on a model without padding is the padding of a model with it, in `forward` as in `wake` and `sleep`."""
    free, padded = model_of(pattern="AG"), model_of(pattern="AG", pad_id=0)
    valid = jnp.asarray(TOKENS != 0)
    np.testing.assert_array_equal(run(free, TOKENS, valid=valid), run(padded, TOKENS))

    @jax.jit
    def streamed(tokens, valid):
        (_, one), (_, other) = free.wake(tokens[:, :4], free.init_state(2), valid[:, :4]), padded.wake(tokens[:, :4], padded.init_state(2))
        one, other = free.sleep(one, 2), padded.sleep(other, 2)
        return one.fast_weights, other.fast_weights

    one, other = streamed(jnp.asarray(TOKENS), valid)
    np.testing.assert_array_equal(one.layers[0], other.layers[0])
    assert np.abs(one.layers[0]).max() > 0.1


@pytest.mark.parametrize("valid", [np.ones((2, 9), bool), np.ones((2, 10), np.int32)])
def test_a_mask_of_another_shape_or_dtype_is_refused(valid):
    with pytest.raises(ValueError, match=r"valid must be bool\[2, 10\], one a token"):
        model_of().forward(jnp.asarray(TOKENS), predicts=(True,) * 3, valid=jnp.asarray(valid))


# Tails

def kept(**changes):
    return model_of(sleep=SleepConfig(passes=1, keep_tails=True), decay_start="mamba2", **changes)  # the other start knows the window


def test_where_tails_are_kept_windows_make_no_difference():
    whole, pieces = (run(kept(window=size), TOKENS) for size in (10, 4))
    np.testing.assert_allclose(whole, pieces, atol=2e-6)
    assert np.abs(run(model_of(sleep=SleepConfig(passes=1), decay_start="mamba2"), TOKENS) - whole).max() > 0.01


@pytest.mark.parametrize("passes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_window_that_is_not_full_leaves_the_tails_behind_its_last_token(passes):
    """Three tokens of a window of eight are a window of three."""
    def streamed(model):
        step = jax.jit(lambda tokens, state: model.wake(tokens, state))
        _, state = step(jnp.asarray(TOKENS[:, :3]), model.init_state(2))
        return step(jnp.asarray(TOKENS[:, 3:6]), model.sleep(state, passes))

    (one, state), (other, short) = streamed(kept(window=8)), streamed(kept(window=3))
    np.testing.assert_allclose(one, other, atol=2e-6)
    assert all(np.abs(tail).max() > 0.01 for tail in state.conv_tails)
    for tail, wanted in zip(state.conv_tails, short.conv_tails, strict=True):
        np.testing.assert_allclose(tail, wanted, atol=2e-6)


# Between passes, and what is predicted

def test_the_final_norm_between_passes_by_hand():
    rng = np.random.default_rng(1)
    hidden, scale = rng.normal(size=(2, 3, 8)), rng.normal(size=8)
    got = between_passes(*(jnp.asarray(x, jnp.float32) for x in (hidden, np.ones_like(hidden))), (jnp.asarray(scale, jnp.float32), jnp.float32(0.25)), SleepConfig(carry="normed"))
    np.testing.assert_allclose(got, scale * hidden / np.sqrt(np.mean(hidden**2, axis=-1, keepdims=True) + 0.25), rtol=1e-5)


def test_a_model_whose_carry_is_normed_has_no_gain():
    assert not hasattr(model_of(sleep=SleepConfig(carry="normed")), "loop_gain") and hasattr(model_of(), "loop_gain")


def test_what_is_predicted_needs_no_logits_of_what_is_not():
    """The hidden state of windows that predict gives the logits of `forward`, and no array has V entries a token."""
    model = model_of(vocab_size=997)
    mask = np.zeros((2, 10), bool)
    mask[:, 9] = True
    hidden, places = jax.jit(lambda tokens: model.predicted(tokens, mask)[0])(jnp.asarray(TOKENS)), model.predicted(jnp.asarray(TOKENS), mask)[1]
    assert places.tolist() == [8, 9] and hidden.shape == (2, 2, 8)
    np.testing.assert_allclose(model.logits(hidden), jax.jit(lambda tokens: model.forward(tokens, mask))(jnp.asarray(TOKENS))[:, 8:], atol=1e-5)
    shapes = str(jax.make_jaxpr(lambda tokens: model.logits(model.predicted(tokens, mask)[0][:, -1:]))(jnp.asarray(TOKENS)))
    assert ",10,997]" not in shapes and ",2,997]" not in shapes and "[2,1,997]" in shapes


@pytest.mark.parametrize("predicts", [(True, False, True), (False, False, True)])
def test_a_loss_on_what_is_predicted_is_that_on_all_logits(predicts):
    """Logits, loss and every gradient; and no array has V entries for each of the T tokens."""
    model, mask = model_of(vocab_size=997, pattern="AG", sleep=SleepConfig(passes=2)), np.repeat(predicts, 4)[None, :10].repeat(2, axis=0)
    graph, params = nnx.split(model, nnx.Param)
    tokens, targets, mask = jnp.asarray(TOKENS), jnp.asarray(np.roll(TOKENS, -1, axis=1)), mask & (TOKENS % 2 == 0)
    count = jnp.float32(mask.sum())

    def whole(params):
        logits = nnx.merge(graph, params).forward(tokens, predicts=predicts)
        return losses.cross_entropy(logits, targets, mask, count), logits

    def alone(params):
        logits, at = nnx.merge(graph, params).predicted_logits(tokens, predicts=predicts)
        assert at.tolist() == np.flatnonzero(np.repeat(predicts, 4)[:10]).tolist()
        return losses.cross_entropy(logits, targets, mask, count, at), logits

    (want, logits), slopes = jax.jit(jax.value_and_grad(whole, has_aux=True))(params)
    (got, told), own = jax.jit(jax.value_and_grad(alone, has_aux=True))(params)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, slopes)
    np.testing.assert_allclose(told, logits[:, np.repeat(predicts, 4)[:10]], atol=1e-6)
    assert "10,997]" in str(jax.make_jaxpr(whole)(params)) and "10,997]" not in str(jax.make_jaxpr(alone)(params))


def test_training_and_grading_spare_the_zeros_of_a_large_vocabulary_alone():
    """What both tell is what they tell with all logits; a small vocabulary keeps the program that it had."""
    model, predicts = model_of(vocab_size=4096, pattern="G"), (False, True, True)
    assert model.spares(predicts) and not model.spares((True, True)) and not model_of(vocab_size=4095, pattern="G").spares(predicts)
    graph, params = nnx.split(model, nnx.Param)
    tokens, targets, answer = jnp.asarray(TOKENS), jnp.asarray(np.roll(TOKENS, -1, axis=1)), jnp.where(jnp.arange(10) < 6, -1, 0)[None].repeat(2, axis=0)
    how = dict(passes=np.int32(2), predicts=predicts, answers=1, halt=None)
    batch = {"tokens": tokens, "targets": targets, "loss_mask": answer >= 0, "answer": answer}
    method, problem = methods.get("answers"), Problem(graph, type("Task", (), {"predicts": predicts, "answers": 1})())
    trained = jax.jit(lambda params: (method.loss(problem, params, batch, 2, method.count(batch))[0], method.tell(problem, batch, method.loss(problem, params, batch, 2, 1.0)[1], 1.0)))
    told = []
    for large in (4096, 4097):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hybrid, "_LARGE", large)
            runner._grade.clear_cache()
            told.append((runner._grade(graph, params, tokens, targets, answer, **how), trained.__wrapped__(params)))
            seen = str(jax.make_jaxpr(trained.__wrapped__)(params)) + str(jax.make_jaxpr(lambda params: runner._grade.__wrapped__(graph, params, tokens, targets, answer, **how))(params))
            assert ("10,4096]" in seen) == (large == 4097)
    runner._grade.clear_cache()
    (graded, trained), (all_graded, all_trained) = told
    np.testing.assert_allclose(graded[0][:, 4:], all_graded[0][:, 4:], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), (graded[1:], trained), (all_graded[1:], all_trained))


# Shapes

SHAPES = {
    "grouped": {"pattern": "AG", "heads": 4, "kv_heads": 2, "key_heads": 2, "value_heads": 4, "key_dim": 6, "value_dim": 10},
    "gate and biases": {"pattern": "AA", "attention_gate": True, "qkv_bias": True, "qk_norm": "all", "kv_heads": 1},
    "post": {"pattern": "GA", "norm_place": "sandwich", "attention_norm_place": "post", "qk_norm": "none", "mlp_width": 12},
    "tied": {"pattern": "AG", "tied": True, "sleep": SleepConfig(carry="normed"), "mlp_width": 12},
    "jet": {"pattern": "G", "conv": "dynamic", "conv_rank": 5, "conv_bias": True, "key_heads": 1, "value_dim": 6}, "kda": {"pattern": "G", "rule": "kda", "key_dim": 6, "value_heads": 4},
    "momentum": {"pattern": "G", "rule": "momentum", "key_dim": 6, "value_dim": 2},
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_counted(name):
    config = dataclasses.replace(SMALL, **SHAPES[name])
    state = nnx.split(nnx.eval_shape(lambda: Hybrid(config, nnx.Rngs(0))), nnx.Param)[1]
    assert flops.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(state))
    held = jax.eval_shape(lambda: Hybrid(config, nnx.Rngs(0)).init_state(1))
    assert sum(leaf.size for leaf in held.window.kv_cache.keys + held.window.kv_cache.values) * 4 == flops.cache_bytes(config)
    assert sum(leaf.size for leaf in held.fast_weights.layers) * 4 == flops.state_bytes(config)


@pytest.mark.parametrize("name", [pytest.param("jet", marks=pytest.mark.slow), "kda", pytest.param("momentum", marks=pytest.mark.slow)])
def test_rules_and_convolutions_take_heads_that_share(name):
    """All at once is token by token."""
    model = model_of(window=10, **{key: value for key, value in SHAPES[name].items() if key != "pattern"})
    wake, state, told = jax.jit(lambda tokens, state: model.wake(tokens, state)), model.init_state(2), []
    for t in range(3):
        logits, state = wake(jnp.asarray(TOKENS[:, t:t + 1]), state)
        told.append(logits)
    np.testing.assert_allclose(np.concatenate(told, axis=1), run(model, TOKENS[:, :3]), atol=5e-6)


def test_taps_that_a_token_makes_have_a_rank_and_a_bias_of_their_own():
    """Jet's: w = W₂ silu(W₁ x) + b, channel by channel; y_t = Σ_i w_t[i] v_{t − W + 1 + i}."""
    config = dataclasses.replace(SMALL, pattern="G", conv="dynamic", conv_rank=3, conv_bias=True)
    layer, rng, W = DynamicConv(config, nnx.Rngs(0)), np.random.default_rng(3), config.conv_width
    layer.taps.bias = nnx.Param(jnp.asarray(rng.normal(size=layer.taps.bias.shape), jnp.float32))
    first, second, bias = (np.asarray(each[...], np.float64) for each in (layer.reduce.kernel, layer.taps.kernel, layer.taps.bias))
    x, v = rng.normal(size=(1, 5, config.width)), rng.normal(size=(1, 5, config.conv_channels))
    assert first.shape == (config.width, 3) and bias.shape == (W * config.conv_channels,)
    reduced = x[0] @ first
    taps = (reduced / (1 + np.exp(-reduced)) @ second + bias).reshape(5, config.conv_channels, W)
    padded = np.concatenate([np.zeros((W - 1, config.conv_channels)), v[0]])
    wanted = [[sum(taps[t, c, i] * padded[t + i, c] for i in range(W)) for c in range(config.conv_channels)] for t in range(5)]
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32), jnp.asarray(v, jnp.float32), None)[0][0], wanted, atol=1e-5)


def test_heads_that_share_keys_are_heads_with_copies_of_them():
    rng = np.random.default_rng(2)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 3, heads, 4)), jnp.float32) for heads in (6, 2, 2))
    valid = jnp.ones((2, 3), bool)
    shared = attend(q, k, v, valid, 0, reach=3, theta=10.0)
    np.testing.assert_allclose(shared, attend(q, *(jnp.repeat(x, 3, axis=2) for x in (k, v)), valid, 0, reach=3, theta=10.0), atol=1e-6)


def test_rope_leaves_channels_beyond_its_share():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 8))
    got = rope(x, jnp.arange(5), 10.0, 0.5)
    np.testing.assert_array_equal(got[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(got[..., :4], rope(x[..., :4], jnp.arange(5), 10.0))
    np.testing.assert_array_equal(rope(x, jnp.arange(5), 10.0, 0.0), x)


REFUSED = [
    ({"heads": 4, "kv_heads": 3}, "model.kv_heads=3 must divide model.heads=4"), ({"key_heads": 3, "value_heads": 4}, "model.key_heads=3 must divide model.value_heads=4"),
    ({"kv_heads": -1}, "model.kv_heads=-1 must be at least 0"), ({"rope_share": 1.5}, "model.rope_share=1.5"), ({"rope_share": 0.25}, "must be an even number"),
    ({"qk_norm": "some"}, "model.qk_norm='some' is not one of head, all, none"), ({"norm_place": "mid"}, "model.norm_place='mid'"),
    ({"attention_norm_place": "mid"}, "model.attention_norm_place='mid'"), ({"norm_epsilon": 0.0}, "model.norm_epsilon=0.0 must be positive"),
    ({"pad_id": -2}, "model.pad_id=-2 must be a token, or -1 for none"), ({"pad_id": 11}, "model.pad_id=11"), ({"weights_dtype": "float16"}, "model.weights_dtype='float16'"),
    ({"pattern": "AG", "sleep": {"keep_tails": True}}, "model.sleep.keep_tails=True with eviction='hard'"), ({"sleep": {"carry": "raw"}}, "sleep.carry='raw'"),
    ({"turn_keys": "windows", "key_dim": 3}, "model.key_dim=3 must be even"), ({"conv_bias": True}, "model.conv_bias=True is of a dynamic convolution"),
    ({"conv_rank": 3}, "model.conv_rank=3 is of a dynamic convolution"), ({"conv": "dynamic", "conv_rank": -1}, "model.conv_rank=-1 must be at least 0"),
]


@pytest.mark.parametrize("changes, line", REFUSED)
def test_what_makes_no_sense_is_refused(changes, line):
    values = {key: value for key, value in dataclasses.asdict(SMALL).items() if key != "sleep"}
    with pytest.raises(UsageError, match=line):
        from_dict(ModelConfig, {**values, **changes}, "model.")


OF_RUNS = [
    ({"weights_dtype": "bfloat16"}, "model.weights_dtype='bfloat16' can't be trained"), ({"pattern": "G", "kv_heads": 1}, "model.kv_heads=1 is of attention blocks"),
    ({"pattern": "A", "key_dim": 2, "sleep": {"passes": 1}}, "model.key_dim=2 is of fast-weight blocks"),
    ({"pattern": "A", "sleep": {"passes": 1, "eviction": "none", "keep_tails": True}}, "model.sleep.keep_tails=True is of fast-weight blocks"),
]


@pytest.mark.parametrize("changes, line", OF_RUNS)
def test_what_makes_no_sense_in_a_run_is_refused(changes, line):
    with pytest.raises(UsageError, match=line):
        parse({"model": changes})


def test_a_task_and_a_model_agree_on_what_padding_is():
    config = RunConfig(model=ModelConfig(pad_id=-1))
    with pytest.raises(UsageError, match="model.pad_id=-1, but task depo pads with 0: set it to 0"):
        build.fit(config.model, build.task_of(config))
