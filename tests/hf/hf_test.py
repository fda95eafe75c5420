"""Released models: each family beside what torch made of it, what must not go unnoticed, both directions bit for bit, and what is refused."""
import json
import re
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hf_goldens import KINDS, WINDOW, copied, named, opened, same, tensors, told
from safetensors.numpy import load_file

from sleepnet import decode, mesh as meshes
from sleepnet.config import MeshConfig
from sleepnet.hf import check, load, plan as plans, workdir
from sleepnet.hf.__main__ import main
from sleepnet.hf.folder import Folder
from sleepnet.models import flops


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_torch(kind):
    found = opened(kind).broken()
    assert found.passed and found.logit > 1, str(found)


@pytest.mark.parametrize("kind", [kind if kind in ("llama", "qwen3_5_text") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "ouro"])
def test_greedy_decoding_and_fast_weights_are_those_of_torch(kind):
    held = opened(kind)
    tokens = jnp.asarray(held.golden["tokens"])

    @jax.jit
    def said(params, tokens):
        logits, state = decode.read(held.graph, params, held.model.init_state(2), tokens, at=0)
        first = jnp.argmax(logits[:, -1], axis=-1).astype(jnp.int32)
        return state.window.fast_weights.layers, first, decode.write(held.graph, params, state, first, at=12, steps=5, law=decode.GREEDY).tokens

    states, first, more = said(held.params, tokens)
    np.testing.assert_array_equal(jnp.concatenate([first[:, None], more], axis=1), held.golden["greedy"])
    assert len(states) == sum(name.startswith("state") for name in held.golden) == held.config.pattern.count("G")
    for index, state in enumerate(states):
        wanted = held.golden[f"state.{index}"]
        np.testing.assert_allclose(state, wanted, atol=5e-5 * np.abs(wanted).max())


# What a mapping must not get wrong unnoticed: parameters by name → others

def scales(names, change):
    return {name: change(leaf) for name, leaf in names.items() if re.search(r"norm\.scale$|[qk]_scale$", name)}


def swapped(one, other):
    return lambda names: {name: names[name.replace(one, other)] for name in names if f"{one}.kernel" in name and name.replace(one, other) in names} | {
        name: names[name.replace(other, one)] for name in names if f"{other}.kernel" in name and name.replace(other, one) in names
    }


def tiled(names):
    """Value heads in an order in which each sits with the other key head's: h mod G in place of h ÷ r."""
    order, changes = np.array([0, 2, 1, 3]), {}
    for name, leaf in names.items():
        part = name.split("blocks.0.mixer.")[-1]
        by_head = {"v.kernel": 6, "gate.kernel": 6, "beta.kernel": 1, "decay.kernel": 1, "decay_rate": 1, "decay_bias": 1}
        if part in by_head and "blocks.0" in name:
            changes[name] = leaf.reshape(*leaf.shape[:-1], 4, by_head[part])[..., order, :].reshape(leaf.shape)
        if part == "out.kernel" and "blocks.0" in name:
            changes[name] = leaf.reshape(4, 6, -1)[order].reshape(leaf.shape)
        if part == "conv":
            changes[name] = jnp.concatenate([leaf[:, :16], leaf[:, 16:].reshape(4, 4, 6)[:, order].reshape(4, 24)], axis=1)
    return changes


BREAKS = {
    "scale of q": ("qwen3_5_text", lambda names: {name: jnp.zeros_like(leaf) for name, leaf in names.items() if name.endswith("q_scale")}),
    "1 + w": ("qwen3_5_text", lambda names: scales(names, lambda leaf: leaf - 1.0)),
    "q and its gate": ("qwen3_5_text", lambda names: {f"blocks.1.mixer.{a}.kernel": names[f"blocks.1.mixer.{b}.kernel"] for a, b in (("q", "gate"), ("gate", "q"))}),
    "b and a": ("qwen3_5_text", swapped("beta", "decay")),
    "heads tiled": ("qwen3_5_text", tiled),
    "taps reversed": ("qwen3_5_text", lambda names: {name: leaf[::-1] for name, leaf in names.items() if name.endswith("mixer.conv")}),
    "biases": ("qwen2", lambda names: {name: jnp.zeros_like(leaf) for name, leaf in names.items() if name.endswith("q.bias")}),
    "gate and up": ("llama", swapped("mlp.gate", "mlp.up")),
    "norms before and behind": ("ouro", lambda names: {name: names[name.replace("mixer_norm", "mixer_post_norm")] for name in names if "mixer_norm" in name}),
    "b and a, by name": ("gated_deltanet", swapped("beta", "decay")),
}
OTHERWISE = {
    "rotary channels halved": ("qwen3_5_text", {"rope_share": 0.25}), "ε": ("llama", {"norm_epsilon": 1e-5}),
    "K^−½": ("gated_deltanet", {"scale_queries": False}), "ε behind the rule": ("olmo_hybrid", {"gate_epsilon": 1e-3}), "beta up to 2": ("olmo_hybrid", {"beta_max": 1.0}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_mapping_is_seen(name):
    kind, change = BREAKS[name]
    changes = change(opened(kind).names)
    assert changes and changes.keys() <= opened(kind).names.keys()
    found = opened(kind).broken(**changes)
    assert found.largest > 30 * found.bar, f"{name}: {found}"


@pytest.mark.parametrize("name", [name if name in ("rotary channels halved", "ε") else pytest.param(name, marks=pytest.mark.slow) for name in OTHERWISE])
def test_a_broken_configuration_is_seen(name):
    kind, changes = OTHERWISE[name]
    found = opened(kind).with_config(**changes)
    assert found.largest > 30 * found.bar, f"{name}: {found}"


def test_where_nothing_is_evicted_windows_make_no_difference():
    """The golden's 12 tokens in windows of 6, with all of the cache kept: what convolutions remember must outlive a window."""
    other, _ = load(check.GOLDENS / "qwen3_5_text", window=6, sleep={"eviction": "none"})
    tokens, (graph, params) = jnp.asarray(opened("qwen3_5_text").golden["tokens"]), nnx.split(other, nnx.Param)
    found = check.difference(jax.jit(lambda params: nnx.merge(graph, params).forward(tokens, predicts=(True, True)))(params), opened("qwen3_5_text").golden["logits"])
    assert found.passed, str(found)


def test_convolutions_remember_where_keys_and_values_do(tmp_path):
    kept = lambda folder, **sleep: plans.config_of(Folder(folder), plans.family_of(Folder(folder))[1], {"sleep": sleep}).sleep.keep_tails
    hybrid, alone = check.GOLDENS / "qwen3_5_text", copied("gated_deltanet", tmp_path / "alone", without_attention, told(attn=None))
    assert [kept(hybrid), kept(hybrid, eviction="sliding"), kept(hybrid, eviction="none"), kept(alone)] == [False, True, True, True]
    assert not kept(hybrid, eviction="none", keep_tails=False) and not kept(check.GOLDENS / "llama", eviction="none")
    assert main(["import", str(hybrid), f"--out={tmp_path / 'in'}"]) == 0
    kept = lambda **sleep: workdir.read(tmp_path / "in", {"sleep": sleep})[0].sleep.keep_tails
    assert not kept() and kept(eviction="none") and not kept(passes=2)


def without_attention(held):
    """The fast-weight block of the golden in place of its attention, too."""
    for name in [name for name in held if name.startswith("model.layers.1.")]:
        del held[name]
    held.update({name.replace(".0.", ".1."): value for name, value in held.items() if name.startswith("model.layers.0.")})


def test_a_raw_carry_is_seen():
    other, _ = load(check.GOLDENS / "ouro", window=WINDOW, sleep={"carry": "hidden"})
    found = check.difference(check.logits_of(other, opened("ouro").golden["tokens"]), opened("ouro").golden["logits"])
    assert found.largest > 30 * found.bar


def test_a_difference_by_hand():
    """Of one place of two tokens: KL(½, ½ ‖ ⅕, ⅘) is log(5/4)."""
    found = check.difference(np.log([[[0.2, 0.8]]]), np.log([[[0.5, 0.5]]]))
    assert found.nats == pytest.approx(np.log(1.25)) and found.largest == pytest.approx(np.log(2.5)) and not found.passed
    assert check.difference(np.ones((1, 1, 2)), np.ones((1, 1, 2)) + 1e-5).passed and check.difference(np.ones((1, 1, 2)), np.ones((1, 1, 2)) + 1e-3, 1e-3).passed


def test_check_ends_with_1_where_logits_are_others(monkeypatch, capsys):
    monkeypatch.setattr(check, "check", lambda *_: (["largest difference 1"], False))
    assert main(["check", "anywhere"]) == 1 and "largest difference 1" in capsys.readouterr().out


@pytest.mark.slow
def test_check_without_torch_looks_at_the_golden_and_token_by_token(monkeypatch, capsys):
    monkeypatch.setattr(check, "has_torch", lambda: False)
    assert main(["check", str(check.GOLDENS / "gated_deltanet"), "--tokens=12"]) == 0
    text = capsys.readouterr().out
    assert "the family's golden, largest difference" in text and "token by token beside all at once" in text and "fast weights of 1 blocks" in text


# Both directions

@pytest.mark.parametrize("kind", KINDS)
def test_import_and_export_give_the_same_bits(kind, tmp_path, capsys):
    assert main(["import", str(check.GOLDENS / kind), f"--out={tmp_path / 'in'}"]) == 0
    assert main(["export", str(tmp_path / "in"), f"--out={tmp_path / 'out'}"]) == 0
    same(tensors(check.GOLDENS / kind), tensors(tmp_path / "out"))
    assert (tmp_path / "out/config.json").read_bytes() == (check.GOLDENS / kind / "config.json").read_bytes()
    one, other = (named(nnx.to_pure_dict(nnx.split(load(path, window=WINDOW)[0], nnx.Param)[1])) for path in (tmp_path / "in", tmp_path / "out"))
    same({name: np.asarray(leaf) for name, leaf in one.items()}, {name: np.asarray(leaf) for name, leaf in other.items()})
    assert not list(tmp_path.glob(".*.part"))
    assert sum(leaf.size for leaf in one.values()) == flops.parameters(opened(kind).config)


def test_a_model_may_lie_in_shards_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "_SHARD", 3000)
    main(["import", str(check.GOLDENS / "llama"), f"--out={tmp_path / 'in'}"])
    main(["export", str(tmp_path / "in"), f"--out={tmp_path / 'out'}"])
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2 and not (tmp_path / "out/model.safetensors").exists()
    same(tensors(check.GOLDENS / "llama"), tensors(tmp_path / "out"))
    index = tmp_path / "out" / "model.safetensors.index.json"
    known = json.loads(index.read_text())
    names = sorted(set(known["weight_map"].values()))
    (tmp_path / "out" / names[0]).rename(tmp_path / "out" / "z.safetensors")
    index.write_text(json.dumps({"weight_map": {name: "z.safetensors" if file == names[0] else file for name, file in reversed(known["weight_map"].items())}}))
    same(tensors(check.GOLDENS / "llama"), tensors(tmp_path / "out"))


def test_no_more_is_held_than_two_files_while_tensors_are_written(tmp_path):
    tensors = ((f"t{i}", np.full(1 << 18, i, np.float32)) for i in range(40))  # of a mebibyte each
    tracemalloc.start()
    files = workdir.shards(tmp_path, "weights", tensors, 4 << 20)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(files.values())) == 10 and most < 12 << 20
    np.testing.assert_array_equal(load_file(tmp_path / files["t39"])["t39"], 39)


def respelled(held):
    """OLMo-Hybrid as transformers 5 has it in memory."""
    for i in "0":
        at = f"model.layers.{i}."
        held[f"{at}linear_attn.conv1d.weight"] = np.concatenate([held.pop(f"{at}linear_attn.{part}_conv1d.weight") for part in "qkv"])
        held[f"{at}input_layernorm.weight"] = held.pop(f"{at}attention_layer_norm.weight")
        held[f"{at}post_attention_layernorm.weight"] = held.pop(f"{at}feedforward_layer_norm.weight")


def with_images(held):
    """Qwen3.5's text part within a model of images."""
    for name in [name for name in held if name.startswith("model.")]:
        held[name.replace("model.", "model.language_model.", 1)] = held.pop(name)
    held |= {"model.visual.patch.weight": np.ones((2, 2), np.float32), "mtp.fc.weight": np.ones(3, np.float32)}


def as_released(held):
    """OLMo-Hybrid's three convolutions cut where q, k and v end; transformers saves them in three equal parts."""
    names = [f"model.layers.0.linear_attn.{part}_conv1d.weight" for part in "qkv"]
    held.update(zip(names, np.split(np.concatenate([held[name] for name in names]), [8, 16])))


SPELLINGS = {
    "olmo_hybrid": (respelled, None), "olmo_hybrid, released": (as_released, None), "qwen3_5_text": (with_images, lambda known: {"model_type": "qwen3_5", "text_config": known, "tie_word_embeddings": True}),
    "llama": (lambda held: held.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}), lambda known: {**known, "rope_parameters": None, "rope_theta": 100.0}),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings_are_read_and_the_one_that_was_read_is_written(name, tmp_path, capsys):
    kind = name.split(",")[0]
    source = copied(kind, tmp_path / "other", *SPELLINGS[name])
    one, other = (nnx.to_pure_dict(nnx.split(load(path)[0], nnx.Param)[1]) for path in (source, check.GOLDENS / kind))
    same({name: np.asarray(leaf) for name, leaf in named(one).items()}, {name: np.asarray(leaf) for name, leaf in named(other).items()})
    main(["import", str(source), f"--out={tmp_path / 'in'}"])
    main(["export", str(tmp_path / "in"), f"--out={tmp_path / 'out'}"])
    there = tensors(source)
    left = [name for name in there if re.search("visual|mtp|inv_freq", name)]
    same({name: there[name] for name in there if name not in left}, tensors(tmp_path / "out"))
    assert not left or "left out" in capsys.readouterr().out


@pytest.mark.parametrize("places", [{"rope_parameters": None, "rope_theta": None}, {"rope_parameters": {"rope_theta": None, "rope_type": "default"}}])
def test_no_rotary_positions_are_those_that_the_file_says_to_be_none(places, tmp_path):
    assert load(copied("olmo_hybrid", tmp_path / "other", None, told(**places)))[0].config.rope_share == 0.0


def test_dtypes_of_files_come_back(tmp_path, capsys):
    def mixed(held):
        return {name: value.astype(np.float16 if "mlp" in name else ml_dtypes.bfloat16) for name, value in held.items()}

    source = copied("llama", tmp_path / "half", mixed)
    main(["import", str(source), f"--out={tmp_path / 'in'}"])
    main(["export", str(tmp_path / "in"), f"--out={tmp_path / 'out'}"])
    same(tensors(source), tensors(tmp_path / "out"))


def test_weights_may_be_kept_in_bfloat16_and_placed_on_a_mesh():
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    model, _ = load(check.GOLDENS / "qwen3_5_text", dtype="bfloat16", window=WINDOW, mesh=mesh)
    held = named(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))
    halves = {name for name, leaf in held.items() if leaf.dtype == jnp.bfloat16}
    assert halves == {name for name in held if name.endswith("kernel") or name == "embedding"} and len(halves) < len(held)
    assert all(leaf.sharding.mesh == mesh for leaf in held.values())


# What is refused

def without(name):
    return lambda held: held.pop(name) is None or held


def with_(name, value):
    return lambda held: {**held, name: value(held.get(name))}


NORM = "model.layers.0.input_layernorm.weight"
REFUSED = {
    "missing": ("llama", without(NORM), None, f"tensor {NORM} is missing"),
    "missing, of a hybrid": ("qwen3_5_text", without("model.layers.0.linear_attn.A_log"), None, "tensor model.layers.0.linear_attn.A_log is missing"),
    "extra": ("llama", with_("model.layers.0.self_attn.q_norm.weight", lambda _: np.ones(4, np.float32)), None, "tensor model.layers.0.self_attn.q_norm.weight belongs to no part of a llama"),
    "misshaped": ("llama", with_("model.embed_tokens.weight", lambda value: value[:-1]), None, r"tensor model.embed_tokens.weight has shape \[31, 8\], config.json asks for \[32, 8\]"),
    "misshaped, of a hybrid": ("qwen3_5_text", with_("model.layers.0.linear_attn.conv1d.weight", lambda value: value[:, :, 1:]), None, r"conv1d.weight has shape \[40, 1, 3\], config.json asks for \[40, 1, 4\]"),
    "not finite": ("qwen3_5_text", with_("model.layers.0.linear_attn.A_log", lambda value: value - np.inf), None, "tensor model.layers.0.linear_attn.A_log holds numbers that are not finite"),
    "not finite, bfloat16": ("llama", with_(NORM, lambda value: (value * np.nan).astype(ml_dtypes.bfloat16)), None, f"tensor {NORM} holds numbers that are not finite"),
    "quantised": ("llama", with_(NORM, lambda value: value.astype(np.int8)), None, f"tensor {NORM} is I8"),
    "unknown family": ("llama", None, told(model_type="lama"), "model_type='lama' is not supported; did you mean 'llama'"),
    "experts": ("llama", None, told(model_type="qwen3_moe"), "model_type='qwen3_moe' is not supported; it needs mixtures of experts"),
    "two lacks": ("llama", None, told(model_type="granitemoehybrid"), "model_type='granitemoehybrid' is not supported; it needs Mamba-2 blocks"),
    "nobody's": ("llama", None, told(model_type="phi"), "model_type='phi' is not supported; known: gated_deltanet, llama, [^;]*$"),
    "no family": ("llama", None, told(model_type=None), "model_type is missing"),
    "no base": ("llama", None, told(rope_parameters={"rope_type": "default"}), "no rotary base"),
    "no base, of a family that may have none": ("olmo_hybrid", None, told(rope_parameters=None), "no rotary base"),
    "rotary words that are none": ("llama", None, told(rope_parameters=[1]), r"rope_parameters=\[1\] must be of type dict"),
    "no heads": ("llama", None, told(num_attention_heads=0, head_dim=None), "model.heads=0 must be at least 1"),
    "scaled base": ("llama", None, told(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}), "rotary type 'llama3' is not supported"),
    "no head": ("qwen3", without("lm_head.weight"), None, "tensor lm_head.weight is missing, and config.json does not say that the head is the embedding: give the tensor, or --tied"),
    "another head": ("llama", with_("lm_head.weight", lambda _: np.ones((32, 8), np.float32)), None, "lm_head.weight is not the embedding, though config.json says so: give --untied"),
    "two words on the head": ("qwen3_5_text", with_images, lambda known: {"model_type": "qwen3_5", "text_config": known, "tie_word_embeddings": False}, "tie_word_embeddings is True on one level and False on the other"),
    "no size": ("llama", None, told(hidden_size=None), "hidden_size is missing"),
    "no ε": ("llama", None, told(rms_norm_eps=None), "rms_norm_eps is missing"),
    "another MLP": ("llama", None, told(hidden_act="gelu"), "hidden_act='gelu' is not supported, only 'silu'"),
    "biases": ("llama", None, told(attention_bias=True), "attention_bias=True is not supported"),
    "sliding windows": ("qwen2", None, told(use_sliding_window=True), "sliding-window attention"),
    "other blocks": ("qwen3_5_text", None, told(layer_types=["linear_attention", "mamba"]), "layer_types has 'mamba'"),
    "too few blocks": ("qwen3_5_text", None, told(layer_types=["linear_attention"]), "layer_types has 1 entries for num_hidden_layers=2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused_in_a_line(name, tmp_path, capsys):
    kind, change, config, line = REFUSED[name]
    source = copied(kind, tmp_path / "other", change, config)
    assert main(["import", str(source), f"--out={tmp_path / 'in'}"]) == 2
    error = capsys.readouterr().err
    assert re.search(line, error) and error.count("\n") == 1 and error.startswith("python -m sleepnet.hf: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_what_is_no_folder_of_a_model_is_refused(tmp_path, capsys):
    def line(*arguments):
        assert main(list(map(str, arguments))) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    source = copied("llama", tmp_path / "source")
    assert "is not empty" in line("import", source, f"--out={source}")
    (tmp_path / "file").write_text("x")
    assert "is not empty" in line("import", source, f"--out={tmp_path / 'file'}")
    assert "is no folder" in line("describe", tmp_path / "nowhere")
    assert "has no config.json" in line("describe", tmp_path)
    assert "export takes what" in line("export", source, f"--out={tmp_path / 'out'}")
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:4000])
    assert "can't be read" in line("describe", source)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    assert "pickled weights are not opened" in line("describe", source)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}))
    assert "weight_map" in line("describe", source)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    assert "b.safetensors is missing" in line("describe", source)
    assert "the vocabulary" not in line("say", check.GOLDENS / "llama", "hello") and "--count=0" in line("say", source, "hello", "--count=0")


def test_a_folder_that_was_not_finished_is_not_there(tmp_path, monkeypatch, capsys):
    def full(path, _):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(workdir, "write_bytes", full)
    assert main(["import", str(check.GOLDENS / "llama"), f"--out={tmp_path / 'in'}"]) == 2
    assert f" {tmp_path / 'in'}: No space left on device" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_span_that_is_none_is_told_in_words(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["import", "model", "--out=out", "--loop=7"])
    assert "argument --loop: '7' is no span of blocks, such as 7:21" in capsys.readouterr().err
