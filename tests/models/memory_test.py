"""What saves memory changes no gradient: accumulation over microbatches, and computing again in the backward pass."""
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sleepnet import methods
from sleepnet.config import AdaptersConfig, ModelConfig, SleepConfig
from sleepnet.methods.base import Problem
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid
from sleepnet.train.step import Learning, gradients

PREDICTS, LENGTH, ROWS, PASSES = (False, False, True), 3 * 6, 8, 3
CONFIG = ModelConfig(vocab_size=11, window=6, pattern="AG", width=8, heads=1, head_dim=8, mlp_width=0, sleep=SleepConfig(passes=PASSES))


@pytest.fixture(scope="module")
def batch():
    """Rows with other numbers of labels each, two of them with none: a mean of means would be another mean."""
    generator = np.random.default_rng(0)
    tokens, mask = generator.integers(1, 11, (ROWS, LENGTH)), np.zeros((ROWS, LENGTH), bool)
    for row, labels in enumerate((1, 0, 6, 2, 0, 5, 3, 1)):
        mask[row, LENGTH - labels:] = labels > 0
    arrays = {"tokens": tokens, "targets": generator.integers(1, 11, tokens.shape), "answer": np.where(mask, 0, -1)}
    return {**{key: jnp.asarray(value, jnp.int32) for key, value in arrays.items()}, "loss_mask": jnp.asarray(mask)}


def step_of(config, accumulate=1):
    """The jitted (loss, gradient, right, asked) of a config, and the parameters, the same for each."""
    graph, params = nnx.split(Hybrid(config, nnx.Rngs(0)), nnx.Param)
    problem = Problem(graph, types.SimpleNamespace(predicts=PREDICTS, answers=1))
    learning = Learning(methods.get("answers"), problem, AdaptersConfig(), optax.identity(), accumulate)

    def run(params, batch):
        loss, grads, numbers = gradients(learning, params, {}, batch, PASSES)
        return loss, grads, numbers["exact"], numbers["answered"]

    return jax.jit(run), nnx.to_pure_dict(params)


@functools.cache
def compiled(policy, accumulate):
    run, params = step_of(dataclasses.replace(CONFIG, remat=policy), accumulate)
    shape = lambda dtype: jax.ShapeDtypeStruct((ROWS, LENGTH), dtype)
    batch = {**{key: shape(jnp.int32) for key in ("tokens", "targets", "answer")}, "loss_mask": shape(jnp.bool)}
    return run.lower(params, batch).compile(), params


def assert_same(got, wanted):
    """Loss and every gradient by name, relative to its own size; the counts exactly."""
    assert float(got[0]) == pytest.approx(float(wanted[0]), rel=1e-6) and [int(x) for x in got[2:]] == [int(x) for x in wanted[2:]]
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got[1]), jax.tree.leaves(wanted[1]), strict=True):
        assert float(jnp.linalg.norm(a - b)) <= 2e-5 * float(jnp.linalg.norm(b)) + 1e-9, jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def wanted(batch):
    run, params = compiled("none", 1)
    found = run(params, batch)
    assert float(jnp.linalg.norm(found[1]["blocks"][1]["mixer"]["k"]["kernel"])) > 1e-4
    return found


@pytest.mark.slow
def test_the_whole_batch_is_what_jax_says(batch, wanted):
    """Against the loss written out: −log p of every label over their number, the whole batch at once."""
    graph, params = nnx.split(Hybrid(CONFIG, nnx.Rngs(0)), nnx.Param)
    forward = jax.jit(lambda params, tokens: nnx.merge(graph, params).forward(tokens, passes=PASSES, predicts=PREDICTS))
    logits = np.asarray(forward(params, batch["tokens"]), np.float64)
    at = np.nonzero(np.asarray(batch["loss_mask"]))
    loss = np.mean(np.log(np.exp(logits[at]).sum(-1)) - logits[at][np.arange(18), np.asarray(batch["targets"])[at]])
    assert float(wanted[0]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("parts", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_microbatches_add_up_to_the_batch(batch, wanted, parts):
    run, params = compiled("none", parts)
    assert_same(run(params, batch), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["pass", "chunk", "named"])
def test_what_is_computed_again_changes_no_gradient(batch, wanted, policy):
    run, params = compiled(policy, 1)
    assert_same(run(params, batch), wanted)


def test_what_is_computed_again_is_counted():
    train = lambda policy, **sleep: flops.train_flops(dataclasses.replace(CONFIG, remat=policy, sleep=SleepConfig(passes=PASSES, **sleep)), (False,), 6)
    one = flops.pass_flops(CONFIG, 6)
    assert [train(policy) for policy in ("none", "pass", "named", "chunk")] == [9 * one, 12 * one, 12 * one, 12 * one]
    assert train("chunk", gradient="last") == 8 * one and train("pass", gradient="last") == 6 * one
    assert train("none", remat=True) == train("pass")
