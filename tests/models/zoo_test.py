"""Named models: their shapes, overrides, and trained ones saved, loaded and refused."""
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import tasks
from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.errors import UsageError
from sleepnet.models import zoo
from sleepnet.models.hybrid import Hybrid

TASK = tasks.get("depo", nodes=5, hops=2, queries=2, names=3, name_tokens=(1, 2), min_nodes=2)
TINY = ModelConfig(vocab_size=TASK.vocab_size, window=TASK.window, width=8, heads=1, head_dim=4, mlp_width=8, sleep=SleepConfig(passes=3))
FRESH = (
    *("paper_rule110", "paper_depo", "paper_looped", "paper_transformer", "paper_gdn", "paper_samba"),
    *("cpu_hybrid", "cpu_hybrid_deep", "cpu_looped", "cpu_transformer", "cpu_full_cache", "cpu_gdn", "cpu_samba"),
)


def shapes(name, **overrides):
    state = nnx.split(nnx.eval_shape(lambda: zoo.create(name, **overrides)), nnx.Param)[1]
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def flat(model):
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No model comes trained, whatever the package ships."""
    monkeypatch.setattr(zoo, "CHECKPOINTS", tmp_path)
    return tmp_path


@pytest.fixture
def trained(empty):
    model = Hybrid(TINY, nnx.Rngs(4))
    zoo.save("tiny", model, TASK, {"made_with": "a command", "exact_accuracy": 0.5}, folder=empty)
    return model


def test_names_are_sorted_and_fresh_without_checkpoints(empty):
    assert zoo.names() == sorted(FRESH) and not any(zoo.has_checkpoint(name) for name in FRESH)


def test_paper_models_have_the_papers_tasks_and_depth(empty):
    rule, depo = zoo.config_of("paper_rule110"), zoo.config_of("paper_depo")
    for config, task in ((rule, tasks.get("rule110", width=24, strings=4, steps=32)), (depo, tasks.get("depo", nodes=75, hops=16, queries=10))):
        assert (config.vocab_size, config.window) == (task.vocab_size, task.window) and config.sleep.passes == 4
    assert (rule.pattern, rule.width, rule.window) == ("AGAG", 256, 24)
    assert (depo.pattern, depo.width, depo.window) == ("AG" * 5, 512, 75)


@pytest.mark.parametrize("name, D, H, K, F, blocks, V, L", [("paper_rule110", 256, 4, 64, 768, 4, 4, 24), ("paper_depo", 512, 8, 64, 1536, 10, 119, 75)])
def test_paper_models_have_these_parameters(empty, name, D, H, K, F, blocks, V, L):
    inner = H * K
    mlp = {"mlp_norm.scale": (D,), "mlp.gate.kernel": (D, F), "mlp.up.kernel": (D, F), "mlp.down.kernel": (F, D)}
    shared = {"mixer_norm.scale": (D,), **{f"mixer.{key}.kernel": (D, inner) for key in "qkv"}, "mixer.out.kernel": (inner, D), **mlp}
    attention = {**shared, "mixer.q_scale": (K,), "mixer.k_scale": (K,)}
    fast = {
        **shared, "mixer.gate.kernel": (D, inner), "mixer.decay.kernel": (D, H), "mixer.beta.kernel": (D, H),
        "mixer.conv": (4, 3 * inner), "mixer.decay_rate": (H,), "mixer.decay_bias": (H,), "mixer.out_scale": (K,),
    }
    wanted = {"embedding": (V, D), "positions": (L, D), "loop_gain": (D,), "final_norm.scale": (D,), "head.kernel": (D, V)}
    for i in range(blocks):
        wanted |= {f"blocks.{i}.{key}": shape for key, shape in (fast if i % 2 else attention).items()}
    assert shapes(name) == wanted


def test_a_trained_model_says_what_it_was_trained_on():
    """In a line: arguments that are not the task's defaults; the window is the model's, and a curriculum is only named."""
    assert zoo.about("group_a5_sleep4") == "trained for 9,000 steps on group(group=A5, length=(2, 4)), by a curriculum"
    assert zoo.about("rule110_ring16_sleep8") == "trained for 6,000 steps on rule110(width=16, strings=1, steps=(1, 6), cells=16), by a curriculum"
    assert zoo.about("cpu_gdn") == "fast weights alone"


def test_overrides_change_the_configuration(empty):
    config = zoo.config_of("cpu_hybrid", width=16, sleep={"passes": 7})
    assert (config.width, config.sleep.passes, config.pattern) == (16, 7, "AG")
    kept = zoo.config_of("paper_rule110", sleep={"eviction": "sliding"}).sleep
    assert (kept.eviction, kept.passes, kept.remat) == ("sliding", 4, True)  # only what was named
    assert zoo.config_of("paper_rule110").sleep.eviction == "hard"  # and for this call alone
    assert shapes("cpu_gdn", width=16, mlp_width=0)["head.kernel"] == (16, 128)


def test_a_seed_is_a_model(empty):
    make = lambda seed: flat(zoo.create("cpu_gdn", seed, width=8, heads=1, head_dim=4, mlp_width=0, vocab_size=5))
    one, same, other = make(0), make(0), make(1)
    assert all((one[key] == same[key]).all() for key in one) and (one["embedding"] != other["embedding"]).any()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: zoo.create("cpu_hybird"), "unknown model 'cpu_hybird'; did you mean 'cpu_hybrid'"),
        (lambda: zoo.has_checkpoint("paper_dep"), "did you mean 'paper_depo'"),
        (lambda: zoo.load("zzz"), "unknown model 'zzz'; known: cpu_full_cache, cpu_gdn, "),
        (lambda: zoo.create("cpu_gdn", widht=8), "unknown config key model.widht; did you mean 'width'"),
        (lambda: zoo.create("cpu_gdn", sleep={"pases": 8}), "unknown config key model.sleep.pases; did you mean 'passes'"),
        (lambda: zoo.load("cpu_gdn"), "cpu_gdn does not come trained; these do: none"),
    ],
)
def test_unknown_names_and_keys_are_refused(empty, call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_a_trained_model_comes_back_bit_for_bit(trained, empty):
    assert zoo.names() == sorted((*FRESH, "tiny")) and zoo.has_checkpoint("tiny")
    model, task = zoo.load("tiny")
    got, wanted = flat(model), flat(trained)
    assert got.keys() == wanted.keys() and model.config == TINY and task == TASK
    for key in wanted:
        np.testing.assert_array_equal(got[key], wanted[key], err_msg=key)
    np.testing.assert_array_equal(flat(zoo.create("tiny", seed=9))["embedding"], wanted["embedding"])
    card = json.loads((empty / "tiny/card.json").read_text())
    assert card["made_with"] == "a command" and card["task"]["hash"] == TASK.spec_hash
    tokens = jnp.asarray(TASK.batch(0, "test", 0, 1)["tokens"][:, :4])
    run = lambda m: jax.jit(lambda t: m.wake(t, m.init_state(1))[0])(tokens)
    np.testing.assert_array_equal(run(model), run(trained))


def test_overrides_that_keep_the_shapes_keep_the_weights(trained):
    model = zoo.create("tiny", sleep={"passes": 9, "eviction": "sliding"}, beta_max=2.0)
    assert model.config.sleep.passes == 9 and model.config.beta_max == 2.0
    np.testing.assert_array_equal(flat(model)["head.kernel"], flat(trained)["head.kernel"])


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"width": 16}, r"tiny comes trained and its blocks.0.mixer.k.kernel has shape \(8, 4\), not \(16, 4\): drop the override"),
        ({"window_positions": False}, r"its positions has shape \(20, 8\), not None"),
        ({"pattern": "AGG"}, r"its blocks.2.mixer.beta.kernel has shape None, not \(8, 1\)"),
    ],
)
def test_overrides_that_change_a_trained_models_shapes_are_refused(trained, overrides, message):
    with pytest.raises(UsageError, match=message):
        zoo.create("tiny", **overrides)


def test_a_task_that_has_changed_since_is_refused(trained, empty):
    path = empty / "tiny/card.json"
    card = json.loads(path.read_text())
    card["task"]["hash"] = "0" * 64
    path.write_text(json.dumps(card))
    with pytest.raises(UsageError, match="model tiny was trained on .* no longer"):
        zoo.load("tiny")
    zoo.create("tiny")  # the weights alone are fine


def test_loading_never_unpickles(trained, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    zoo.load("tiny")
