"""What may change: cut and put together again is the model itself; what is frozen keeps its bytes; names match rules; factors never reach Muon."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import adapters, build, optim, sharding, tasks
from sleepnet.config import AdaptersConfig, OptimConfig, RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.lineage import digest
from sleepnet.origin import named
from sleepnet.train.step import learning_of, make_step

KINDS = {
    "named": AdaptersConfig("named", r"blocks\.1\.mlp"),
    "entries": AdaptersConfig("entries", r"mlp\.|head", share=0.3),
    "low_rank": AdaptersConfig("low_rank", r"blocks\.1\.mlp|blocks\.0\.mixer\.q", rank=3),
}
VALUES = {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "sleep": {"passes": 1}},
    "optim": {"warmup": 1}, "train": {"steps": 8, "batch_size": 4},
}  # fmt: skip


def run_of(**adapted) -> RunConfig:
    return from_dict(RunConfig, {**VALUES, **({"adapters": adapted} if adapted else {})})


@pytest.fixture(scope="module")
def params():
    """Parameters by the names of a model of two blocks."""
    generator, shapes = np.random.default_rng(0), {"mlp.down": (48, 32), "mlp.gate": (32, 48), "mlp.up": (32, 48), "mixer.q": (32, 16), "mixer.decay": (32, 2)}
    array = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    blocks = {at: {"mixer": {}, "mlp": {}, "mlp_norm": {"scale": array(32)}} for at in (0, 1)}
    for at in blocks:
        for name, shape in shapes.items():
            part, layer = name.split(".")
            blocks[at][part][layer] = {"kernel": array(*shape)}
    return {"blocks": blocks, "embedding": array(11, 32), "head": {"kernel": array(32, 11)}}


@pytest.mark.parametrize("kind", [AdaptersConfig(), *KINDS.values()], ids=["all", *KINDS])
def test_cut_and_put_together_is_the_same_to_the_bit(params, kind):
    params = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(-0.0), params)
    trainable, frozen = adapters.split(kind, params, 7)
    both = adapters.whole(kind, trainable, frozen)
    assert jax.tree.structure(both) == jax.tree.structure(params)
    for name, leaf in named(both).items():
        same = np.array_equal if kind.kind == "low_rank" else lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes()  # −0 + 0 = +0
        assert same(leaf, named(params)[name]), name


def test_merged_is_beside():
    """(W + s A B) x is W x + s A (B x), and a newborn one changes nothing."""
    generator = np.random.default_rng(0)
    W, x = generator.normal(size=(10, 7)).astype(np.float32), generator.normal(size=(4, 10)).astype(np.float32)
    config = AdaptersConfig("low_rank", "kernel", rank=2, alpha=5.0)
    trainable, frozen = adapters.split(config, {"kernel": jnp.asarray(W)}, 0)
    assert not np.any(trainable["kernel"]["low_rank_b"]) and np.std(trainable["kernel"]["low_rank_a"]) > 0.1
    np.testing.assert_array_equal(adapters.whole(config, trainable, frozen)["kernel"], W)
    B = generator.normal(size=(2, 7)).astype(np.float32)
    trainable["kernel"]["low_rank_b"] = jnp.asarray(B)
    beside = x @ W + 2.5 * ((x @ np.asarray(trainable["kernel"]["low_rank_a"])) @ B)
    np.testing.assert_allclose(x @ np.asarray(adapters.whole(config, trainable, frozen)["kernel"]), beside, atol=1e-5)


def test_what_is_drawn_is_of_the_seed_and_the_name(params):
    for kind in ("entries", "low_rank"):
        one, again, other = (digest(adapters.split(KINDS[kind], params, seed)[1 if kind == "entries" else 0]) for seed in (3, 3, 4))
        assert one == again != other
    places = named(adapters.split(KINDS["entries"], params, 3)[1]["places"])
    assert all(len(set(at.tolist())) == len(at) == max(1, round(0.3 * named(params)[name].size)) for name, at in places.items())


@pytest.mark.parametrize("adapted", [{"kind": kind, "names": "mlp|head"} for kind in KINDS], ids=KINDS)
def test_the_rest_keeps_its_bytes_and_has_no_state(adapted):
    config = run_of(**adapted)
    task = tasks.get(config.task.name, **config.task.arguments)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        learning = learning_of(config, task)
        whole = nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1])
        trainable, frozen = adapters.split(config.adapters, whole, config.seed)
        before, sizes = digest(frozen), sum(leaf.size for leaf in jax.tree.leaves(trainable))
        state, step = learning.begin(trainable, 4), make_step(learning)
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
        assert sum(leaf.size for leaf in moments) <= 2 * sizes + 16  # two moments at most; Muon's coefficients
        start = jax.tree.map(np.asarray, state.params)
        for at in range(3):
            batch = {key: jnp.asarray(value) for key, value in task.batch(0, "train", 4 * at, 4).items() if key in ("tokens", "targets", "loss_mask", "answer")}
            state, numbers = step(state, frozen, batch, None, 1)
            assert np.isfinite(float(numbers["loss"]))
    assert digest(frozen) == before and digest(state.params) != digest(start)
    after, whole = named(adapters.whole(config.adapters, state.params, frozen)), named(whole)
    for name, leaf in whole.items():
        changed = np.asarray(after[name]) != np.asarray(leaf)
        if adapted["kind"] == "entries" and name in named(frozen["places"]):
            at = named(frozen["places"])[name]
            assert not np.delete(changed.reshape(-1), at).any()
        elif not any(adapters.base_name(key)[0] == name for key in named(state.params)):
            assert np.asarray(after[name]).tobytes() == np.asarray(leaf).tobytes(), name


def test_a_gradient_of_the_whole_is_the_gradient_of_the_part(params):
    """Of factors by the chain rule: dA = s dW Bᵀ, dB = s Aᵀ dW."""
    config = KINDS["low_rank"]
    trainable, frozen = adapters.split(config, params, 1)
    trainable = jax.tree.map(lambda leaf: leaf + 0.1, trainable)
    energy = lambda params: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params))
    grads = jax.grad(lambda trainable: energy(adapters.whole(config, trainable, frozen)))(trainable)
    dense = named(jax.grad(energy)(adapters.whole(config, trainable, frozen)))
    scale = config.alpha / config.rank
    for name, leaf in named(trainable).items():
        base, part = adapters.base_name(name)
        other = named(trainable)[f"{base}.{'low_rank_b' if part == 'low_rank_a' else 'low_rank_a'}"]
        want = dense[base] @ other.T if part == "low_rank_a" else other.T @ dense[base]
        np.testing.assert_allclose(named(grads)[name], scale * want, rtol=1e-4, atol=1e-4)


def test_factors_lie_as_their_matrix_and_never_reach_muon(params):
    config = dataclasses.replace(KINDS["low_rank"], names="kernel", rank=1)
    for rank in (1, 12):
        names = "mlp" if rank > 1 else "kernel"
        trainable, _ = adapters.split(dataclasses.replace(config, names=names, rank=rank), params, 0)
        for name, leaf in named(trainable).items():
            base, part = adapters.base_name(name)
            first, second = sharding.axes_of(base, (2, 2))
            assert sharding.axes_of(name, leaf.shape) == ((first, None) if part == "low_rank_a" else (None, second)), name
            assert sharding.axes_of(f"opt_state.1.mu.{name}", leaf.shape) == sharding.axes_of(name, leaf.shape)
        assert not jax.tree.leaves(optim.matrices(trainable)), names
        optim.optimizer(OptimConfig(), 5).init(trainable)
    entries, _ = adapters.split(KINDS["entries"], params, 0)
    assert all(sharding.axes_of(name, leaf.shape) == (None,) for name, leaf in named(entries).items()) and not jax.tree.leaves(optim.matrices(entries))


@pytest.mark.parametrize("values, message", [
    ({"kind": "low_rank"}, "adapters.kind='low_rank' needs adapters.names"),
    ({"kind": "named", "names": "blocks.7"}, r"adapters.names='blocks.7' matches no parameter of the model; did you mean 'blocks.1' or 'blocks.0'"),
    ({"kind": "low_rank", "names": "norm"}, "adapters.names='norm' matches no matrix of the model; they are called blocks.0.mixer"),
    ({"kind": "low_rank", "names": r"blocks\.1\.mpl"}, r"matches no matrix of the model; did you mean 'blocks.1.mlp'"),
    ({"kind": "low_rank", "names": "mixer.decay.kernel", "rank": 40}, r"adapters.rank=40 is more than blocks.0.mixer.decay.kernel has, \(32, 2\): set it to 2"),
    ({"kind": "named", "names": "("}, r"adapters.names='\(' is no regular expression"),
    ({"kind": "named", "names": "mlp", "rank": 3}, "adapters.rank=3 with adapters.kind='named', which does not read it"),
    ({"names": "mlp"}, "adapters.names='mlp' with adapters.kind='all', which does not read it"),
    ({"kind": "entries", "names": "mlp", "share": 1.0}, r"adapters.share=1.0 must lie between 0 and 1"),
    ({"kind": "lora", "names": "mlp"}, "adapters.kind='lora' is not one of all, named, entries, low_rank"),
])
def test_what_can_not_be_is_refused_with_the_key(params, values, message):
    with pytest.raises(UsageError, match=message):
        adapters.split(from_dict(AdaptersConfig, values, "adapters."), params, 0)


def test_chosen_heads_alone_act(params):
    """Two heads of 32 × 16 queries, the second chosen: the first acts as it was whatever is stored, has no gradient, and all channels are some head's."""
    name = "blocks.1.mixer.q.kernel"
    config = AdaptersConfig("heads", r"mixer\.q", share=0.5)
    chosen = adapters.head_channels([f"{name}#1"], 2, params)
    assert list(chosen) == [name] and chosen[name].tolist() == [False] * 8 + [True] * 8
    trainable, frozen = adapters.split(config, params, 0, chosen)
    assert set(named(trainable)) == {"blocks.0.mixer.q.kernel", name} and digest(adapters.whole(config, trainable, frozen)) == digest(params)
    moved = jax.tree.map(lambda leaf: leaf + 1, trainable)
    before, after = named(params), named(adapters.whole(config, moved, frozen))
    for key in before:
        if key != name:
            assert np.asarray(after[key]).tobytes() == np.asarray(before[key]).tobytes(), key
    np.testing.assert_array_equal(after[name], np.where(chosen[name], before[name] + 1, before[name]))
    grads = named(jax.grad(lambda trainable: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(adapters.whole(config, trainable, frozen))))(trainable))
    np.testing.assert_array_equal(grads[name], np.broadcast_to(chosen[name], (32, 16)))
    assert not np.asarray(grads["blocks.0.mixer.q.kernel"]).any()
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (trainable, frozen))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(lambda p: adapters.split(config, p, 0), params))  # what a run that goes on asks its folder for


def test_heads_of_what_is_put_out_lie_along_its_rows():
    out = {"blocks": {0: {"mixer": {"out": {"kernel": jnp.arange(12.0).reshape(4, 3)}}}}}
    config = AdaptersConfig("heads", "mixer", share=0.5)
    trainable, frozen = adapters.split(config, out, 0, adapters.head_channels(["blocks.0.mixer.out.kernel#0"], 2, out))
    after = adapters.whole(config, jax.tree.map(jnp.zeros_like, trainable), frozen)["blocks"][0]["mixer"]["out"]["kernel"]
    assert after.tolist() == [[0, 0, 0], [0, 0, 0], [6, 7, 8], [9, 10, 11]]
    with pytest.raises(UsageError, match="matches no projection of a mixer"):
        adapters.split(dataclasses.replace(config, names="mlp"), {"blocks": {0: {"mlp": {"up": {"kernel": jnp.ones((2, 2))}}}}}, 0)
