"""Experts: as the equation says; at birth they change no logit; asleep they are not there; the newest alone learns; a model can be started with them."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sleepnet import adapters, optim, seeds, sharding, start as starts
from sleepnet.config import AdaptersConfig, ExpertsConfig, ModelConfig, OptimConfig, RunConfig, SleepConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.models import experts, flops
from sleepnet.models.hybrid import Hybrid
from sleepnet.origin import named
from sleepnet.study import resolve
from studies import spec

E, D, R = 3, 8, 2
PLAIN = ModelConfig(vocab_size=11, window=6, pattern="AA", width=D, heads=1, head_dim=4, mlp_width=8, sleep=SleepConfig(passes=1))
WITH = dataclasses.replace(PLAIN, experts=ExpertsConfig(count=E, rank=R, alpha=3.0, blocks=(1,)))
NEWEST = AdaptersConfig("newest_expert")
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 11, (3, 12)), jnp.int32)


def params_of(config):
    return nnx.to_pure_dict(nnx.split(Hybrid(config, seeds.rngs(5)), nnx.Param)[1])


@pytest.fixture(scope="module")
def logits_of():
    """Logits of the model with experts, by its parameters: one program."""
    graph = nnx.split(nnx.eval_shape(lambda: Hybrid(WITH, seeds.rngs(5))), nnx.Param)[0]
    return jax.jit(lambda params: nnx.merge(graph, params).forward(TOKENS, predicts=(True, True)))


def learnt(params, seed=0):
    """As if all experts had learnt, those asleep too."""
    generator = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), jnp.float32)
    return experts._changed(params, change=lambda leaves: {name: leaf if name == "born" else draw(leaf) for name, leaf in leaves.items()})


def leaves_of(params):
    return params["blocks"][1]["experts"]


def same(one, other):
    return all(np.asarray(named(one)[name]).tobytes() == np.asarray(named(other)[name]).tobytes() for name in named(one)) and named(one).keys() == named(other).keys()


def test_the_rest_is_what_it_is_without_experts(logits_of):
    plain, params = params_of(PLAIN), params_of(WITH)
    assert {name for name in named(params) if name not in named(plain)} == {f"blocks.1.experts.{name}" for name in ("born", "gate", "gate_bias", "low_in", "low_out")}
    assert all(np.asarray(leaf).tobytes() == np.asarray(named(params)[name]).tobytes() for name, leaf in named(plain).items())
    graph = nnx.split(nnx.eval_shape(lambda: Hybrid(PLAIN, seeds.rngs(5))), nnx.Param)[0]
    want = jax.jit(lambda params: nnx.merge(graph, params).forward(TOKENS, predicts=(True, True)))(plain)
    for asleep in (params, learnt(params), experts.prune(learnt(experts.grow(experts.grow(params))))):
        np.testing.assert_array_equal(logits_of(asleep), want)


def test_the_equation_by_hand():
    leaves, x = leaves_of(learnt(experts.grow(experts.grow(params_of(WITH))))), np.random.default_rng(1).normal(size=(2, 3, D)).astype(np.float32)
    graph, shapes = nnx.split(experts.Experts(WITH, seeds.rngs(0)), nnx.Param)
    assert jax.tree.structure(nnx.to_pure_dict(shapes)) == jax.tree.structure(leaves)
    got = nnx.merge(graph, leaves)(jnp.asarray(x))
    want, f = 0.0, {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}
    for e in range(2):  # the third sleeps
        inner = x @ f["low_in"][e]
        want += (1 / (1 + np.exp(-(x @ f["gate"][e] + f["gate_bias"][e]))))[..., None] * 1.5 * ((inner / (1 + np.exp(-inner))) @ f["low_out"][e])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_growing_changes_no_logit_and_pruning_is_as_if_it_had_never_been(logits_of):
    params = params_of(WITH)
    for night in range(1, E + 1):
        before, params = logits_of(params), experts.grow(params)
        np.testing.assert_array_equal(logits_of(params), before)
        assert leaves_of(params)["born"].tolist() == [1, 2, 3][:night] + [0] * (E - night) and experts.left(params) == E - night
        # the newest learns: the model before it stays what it was
        one = np.asarray(experts.newest(leaves_of(params)))
        assert one.tolist() == [e == night - 1 for e in range(E)]
        said = jnp.asarray(np.where(one[:, None, None], np.random.default_rng(night).normal(size=(E, R, D)), leaves_of(params)["low_out"]), jnp.float32)
        params = experts._changed(params, change=lambda leaves: {**leaves, "low_out": said})  # noqa: B023
        assert not np.array_equal(logits_of(params), before)
        np.testing.assert_array_equal(logits_of(experts.without_newest(params)), before)
        np.testing.assert_array_equal(logits_of(experts.prune(params, night)), before)
    with pytest.raises(UsageError, match="all 3 experts are born: allocate more, model.experts.count"):
        experts.grow(params)
    # the one in the middle gone: the other two alone, in a model that has no third
    two = experts._changed(params, change=lambda leaves: {name: leaf[jnp.array([0, 2])] for name, leaf in leaves.items()})
    smaller = dataclasses.replace(WITH, experts=dataclasses.replace(WITH.experts, count=2))
    graph = nnx.split(nnx.eval_shape(lambda: Hybrid(smaller, seeds.rngs(5))), nnx.Param)[0]
    want = jax.jit(lambda params: nnx.merge(graph, params).forward(TOKENS, predicts=(True, True)))(two)
    pruned = experts.prune(params, 2)
    np.testing.assert_allclose(logits_of(pruned), want, atol=1e-5)
    again = experts.grow(pruned)
    assert leaves_of(again)["born"].tolist() == [1, 4, 3] and not np.any(leaves_of(again)["low_out"][1])
    np.testing.assert_array_equal(logits_of(again), logits_of(pruned))


def test_asleep_they_have_no_gradient_and_say_nothing(logits_of):
    params = learnt(experts.grow(params_of(WITH)))
    loss = lambda params: jnp.sum(jnp.sin(logits_of(params)))
    grads = jax.grad(loss)(params)
    for name, leaf in leaves_of(grads).items():
        assert not np.any(leaf[1:]) and (name == "born" or np.any(leaf[0])), name
    trainable, frozen = adapters.split(NEWEST, learnt(experts.grow(params), 3), 0)
    grads = jax.grad(lambda trainable: loss(adapters.whole(NEWEST, trainable, frozen)))(trainable)
    for name, leaf in leaves_of(grads).items():
        assert not np.any(leaf[0]) and not np.any(leaf[2]) and (name == "born" or np.any(leaf[1])), name


@pytest.mark.parametrize("kind", ["newest_expert", "all"])
def test_only_the_newest_moves_whatever_the_optimiser_does(kind):
    """With moments of the night before and weight decay, which move what has no gradient."""
    config, params = AdaptersConfig(kind), learnt(experts.grow(experts.grow(params_of(WITH))))
    trainable, frozen = adapters.split(config, params, 0)
    assert same(adapters.whole(config, trainable, frozen), params)
    optimizer = optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale(-0.1))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, trainable), optimizer.init(trainable), trainable)
    after = adapters.moved(config, trainable, optax.apply_updates(trainable, updates))
    assert kind != "all" or all(np.all(named(after)[name] != leaf) for name, leaf in named(trainable).items() if ".experts." not in name)
    for name, leaf in leaves_of(trainable).items():
        changed = (np.asarray(leaves_of(after)[name]) != np.asarray(leaf)).reshape(E, -1)
        if name == "born":
            assert not changed.any()
        elif kind == "newest_expert":
            assert changed[1].all() and np.asarray(leaves_of(after)[name])[[0, 2]].tobytes() == np.asarray(leaf)[[0, 2]].tobytes()
        else:
            assert changed.all()
    if kind == "newest_expert":
        assert set(named(trainable)) == {name for name in named(params) if ".experts." in name} and not jax.tree.leaves(optim.matrices(trainable))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            optim.optimizer(OptimConfig(), 5).init(trainable)


def test_what_they_cost_and_where_they_lie():
    config = dataclasses.replace(WITH, experts=ExpertsConfig(4, 3))
    params = params_of(config)
    assert flops.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    graph, leaves = nnx.split(experts.Experts(config, seeds.rngs(0)), nnx.Param)
    x = jnp.ones((1, 64, D))
    counted = jax.jit(lambda leaves: nnx.merge(graph, leaves)(x)).lower(leaves).compile().cost_analysis()["flops"]
    more = flops.pass_flops(config, 64) - flops.pass_flops(PLAIN, 64)
    assert more / 2 == pytest.approx(counted, rel=0.25)  # of two blocks; the compiler counts gates and masks too
    want = {"low_in": (None, "fsdp", None), "low_out": (None, None, "fsdp"), "gate": (None, "fsdp"), "gate_bias": (None,), "born": (None,)}
    for name, leaf in leaves_of(params).items():
        for where in ("", "opt_state.1.mu."):
            assert sharding.axes_of(f"{where}blocks.1.experts.{name}", leaf.shape) == want[name]


def test_a_run_can_start_with_experts_that_its_start_has_not():
    fresh, plain = params_of(WITH), params_of(PLAIN)
    other = jax.tree.map(lambda leaf: leaf + 1, plain)
    got = starts._fitting("start", "there", jax.eval_shape(lambda: fresh), other, lambda: fresh)
    assert same({"blocks": {1: {"experts": leaves_of(got)}}}, {"blocks": {1: {"experts": leaves_of(fresh)}}})
    assert all(np.array_equal(leaf, named(got)[name]) for name, leaf in named(other).items())
    more = dataclasses.replace(WITH, experts=ExpertsConfig(5, R, blocks=(1,)))
    with pytest.raises(UsageError, match=r"does not fit: blocks.1.experts.born has shape \(3,\) there and \(5,\) here"):
        starts._fitting("start", "there", jax.eval_shape(lambda: params_of(more)), fresh, lambda: params_of(more))


def test_of_a_chain_one_phase_may_gain_them_and_none_may_change_them():
    phase = lambda name, count, **more: dict(name=name, overrides={"train.steps": 5, **({"model.experts.count": count} if count else {}), **more})
    chain = lambda *phases: resolve.chains(spec([dict(name="arm", label="", phases=phases)]))["arm"]
    assert [run.model.experts.count for run in chain(phase("a", 0), phase("b", 2), phase("c", 2))] == [0, 2, 2]
    for later in (phase("c", 3), phase("c", 0), phase("c", 2, **{"model.experts.rank": 4})):
        with pytest.raises(UsageError, match=r"arm 'arm', phase 'c' sets model.experts.(count|rank)=.*: a model stays what it is from phase to phase"):
            chain(phase("a", 0), phase("b", 2), later)


@pytest.mark.parametrize("values, message", [
    ({"model": {"experts": {"count": 2, "blocks": [2]}}}, r"model.experts.blocks=\(2,\) are not all among the 2 blocks"),
    ({"model": {"experts": {"count": 2}, "mlp_width": 0}}, "model.experts.count=2 stand beside MLPs, of which model.mlp_width=0 has none"),
    ({"model": {"experts": {"rank": 4}}}, "model.experts.rank=4 with model.experts.count=0"), ({"model": {"experts": {"count": 1, "blocks": [0, 0]}}}, "names a block twice"),
    ({"adapters": {"kind": "newest_expert"}}, "adapters.kind='newest_expert' needs experts: set model.experts.count"),
    ({"adapters": {"kind": "newest_expert", "names": "mlp"}, "model": {"experts": {"count": 1}}}, "adapters.names='mlp' with adapters.kind='newest_expert'"),
])  # fmt: skip
def test_what_can_not_be_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        from_dict(RunConfig, values)
