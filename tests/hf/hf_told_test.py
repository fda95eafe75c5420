"""What the commands for released models tell a reader: what a folder holds, how far a family is from torch, what follows a text."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hf_goldens import KINDS, copied, opened, same, tensors
from safetensors.numpy import load_file

from sleepnet.errors import UsageError
from sleepnet.hf import check, load, plan as plans, say
from sleepnet.hf.__main__ import main
from sleepnet.hf.tokens import stops_of


def test_describe_reads_no_weight(tmp_path, capsys):
    source = copied("qwen3_5_text", tmp_path / "other", lambda held: {name: value * np.nan for name, value in held.items()})
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (source / "modeling_x.py").write_text("raise SystemExit")
    assert main(["describe", str(source)]) == 0
    text = capsys.readouterr().out
    for wanted in ("Qwen3.5", "gated_delta, 4 × 6 over 2 × 4 of keys", "attention, 4 × 8 over 2 of keys", "apache-2.0", "modeling_x.py: code that comes with the model is not run"):
        assert wanted in text, wanted


# What config.json says of real ones; the parameters that transformers counts in each, the bytes of S by hand
REAL = {
    "SmolLM2-135M": (134_515_008, 0, dict(
        model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152, rms_norm_eps=1e-5,
        rope_theta=100000, rope_scaling=None, rope_interleaved=False, tie_word_embeddings=True, hidden_act="silu", attention_bias=False, pretraining_tp=1, torch_dtype="bfloat16",
    )),
    "Qwen3-0.6B": (596_049_920, 0, dict(
        model_type="qwen3", hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128, vocab_size=151936,
        rms_norm_eps=1e-6, rope_theta=1000000, rope_scaling=None, sliding_window=None, use_sliding_window=False, max_window_layers=28, tie_word_embeddings=True, hidden_act="silu",
    )),
    "Qwen3.5-0.8B": (752_393_024, 18 * 16 * 128 * 128 * 4, dict(model_type="qwen3_5", tie_word_embeddings=True, vision_config={"depth": 12}, text_config=dict(
        model_type="qwen3_5_text", hidden_size=1024, intermediate_size=3584, num_hidden_layers=24, num_attention_heads=8, num_key_value_heads=2, head_dim=256, vocab_size=248320,
        rms_norm_eps=1e-6, full_attention_interval=4, linear_num_key_heads=16, linear_num_value_heads=16, linear_key_head_dim=128, linear_value_head_dim=128,
        linear_conv_kernel_dim=4, attn_output_gate=True, tie_word_embeddings=True, hidden_act="silu",
        rope_parameters={"mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
    ))),
}


@pytest.mark.parametrize("name", REAL)
def test_a_config_json_alone_is_described(name, tmp_path, capsys):
    parameters, state, known = REAL[name]
    (tmp_path / "config.json").write_text(json.dumps(known))
    assert main(["describe", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f" {parameters:,}\n" in text and f" {state:,} bytes a sequence" in text and "config.json alone: there are no weights in the folder" in text
    assert main(["import", str(tmp_path), f"--out={tmp_path / 'in'}"]) == 2 and "model.safetensors is missing: fetch the model's weights" in capsys.readouterr().err


def test_what_was_imported_is_checked_beside_what_it_came_from(tmp_path, monkeypatch):
    source, asked = copied("llama", tmp_path / "hub"), []
    assert main(["import", str(source), f"--out={tmp_path / 'in'}"]) == 0
    monkeypatch.setattr(check, "has_torch", lambda: True)
    monkeypatch.setattr(check, "logits_of", lambda model, tokens: np.ones((2, 4, 32)))
    monkeypatch.setattr(check, "stepped", lambda model, tokens, size=1: (np.ones((2, 4, 32)), model.init_state(2)))
    monkeypatch.setattr(check, "torch_logits", lambda folder, tokens: asked.append(folder) or np.ones((2, 4, 32)))
    lines, good = check.check(tmp_path / "in", tokens=4)
    assert good and lines[0].startswith("beside transformers") and asked == [source]
    monkeypatch.setattr(check, "golden", lambda kind: check.Difference(0.0, 1.0, 0.0, 1.0))
    shutil.rmtree(source)
    assert "give the folder of safetensors that it came from: the family's golden" in check.check(tmp_path / "in", tokens=4)[0][0]


def test_families_are_told_with_torchs_own_distance(monkeypatch, capsys):
    monkeypatch.setattr(check, "golden", lambda kind: check.Difference(2e-6, 5.0, 0.0, 1.0 if kind != "ouro" else 1e-6))
    assert main(["families"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("`")[1] for row in rows[2:]] == KINDS and all("2.0e-06" in row for row in rows[2:])
    assert [row for row in rows if "missed" in row] == [row for row in rows if "`ouro`" in row]


def test_a_tiny_model_goes_all_the_way(tmp_path, capsys):
    steps = (
        ["tiny", tmp_path / "tiny"], ["import", tmp_path / "tiny", f"--out={tmp_path / 'in'}", "--window=8"], ["describe", tmp_path / "in"],
        ["say", tmp_path / "in", "twelve bytes", "--count=7", "--passes=2"], ["export", tmp_path / "in", f"--out={tmp_path / 'out'}"],
    )
    for step in steps:
        assert main(list(map(str, step))) == 0, (step, capsys.readouterr().err)
    same(tensors(tmp_path / "tiny"), tensors(tmp_path / "out"))
    model, tokenizer = load(tmp_path / "in")
    assert tokenizer.decode(tokenizer.encode("schläft")) == "schläft" and model.config.window == 8


def test_every_family_has_a_golden():
    assert {name.removesuffix("_text") for name in plans.names()} == {name.removesuffix("_text") for name in KINDS}


def test_stop_tokens_are_the_models_own(tmp_path):
    assert stops_of(check.GOLDENS / "llama") == (1,)
    shutil.copytree(check.GOLDENS / "llama", tmp_path / "a")
    (tmp_path / "a/generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert stops_of(tmp_path / "a") == (3, 4)


def test_a_prompt_that_is_none_is_refused():
    model = opened("ouro").model
    with pytest.raises(UsageError, match="loops 3 times"):
        say.greedy(model, [1], 2)
    with pytest.raises(UsageError, match="at least one token of 0 … 31"):
        say.greedy(model, [], 2)
    with pytest.raises(UsageError, match="at least one token"):
        say.greedy(model, [32], 2)


def test_packages_that_text_needs_are_named_and_missed_only_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    folder = copied("llama", tmp_path / "source")
    (folder / "tokenizer.json").write_text("{}")
    _, tokenizer = load(folder)
    with pytest.raises(UsageError, match=r"tokenizer.json needs the package tokenizers: pip install 'sleepnet\[hf\]'"):
        tokenizer.encode("text")
    with pytest.raises(UsageError, match="has no chat template: leave --chat out"):
        say.chat(folder, "text")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(UsageError, match=r"--chat needs the package jinja2: pip install 'sleepnet\[hf\]'"):
        say.chat(folder, "text")


@pytest.mark.hf
def test_the_goldens_are_what_their_tool_makes(tmp_path):
    """Asked for by `pytest -m hf` alone; it needs torch and transformers, and fails without them."""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, str(root / "tools/make_hf_goldens.py"), f"--out={tmp_path}"], check=True, capture_output=True)
    for kind in KINDS:
        same(tensors(check.GOLDENS / kind), tensors(tmp_path / kind))
        one, other = (load_file(path / kind / "golden.safetensors") for path in (check.GOLDENS, tmp_path))
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=5e-4)
