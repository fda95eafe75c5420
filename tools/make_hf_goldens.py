"""Tiny released models, and what torch makes of them: the goldens in sleepnet/hf/goldens/.

Examples:
  python tools/make_hf_goldens.py --out=sleepnet/hf/goldens
  python tools/make_hf_goldens.py --out=runs/goldens --families=llama,qwen3

Needs torch and transformers (5.24 made those that are committed), which nothing else here does. Each family gets a folder as the hub has it, with random
weights, norms, decays and biases, and golden.safetensors: `tokens`, `logits` over the whole sequences, `greedy` (what follows from them, token by token
through the library's own cache), and where there are fast weights `state.i` after the sequences. Metadata: `versions`, `reference` (transformers, or the
family's own equations in torch, where it is remote code), `from_float64` (largest distance of the logits from those in float64).
"""
from pathlib import Path
from typing import Any

from absl import flags

from sleepnet import cli, files, paths
from sleepnet.errors import UsageError

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "folder of the goldens", flag_values=FLAGS)
flags.DEFINE_list("families", None, "which, separated by commas; all if not given", flag_values=FLAGS)

VOCAB, TOKENS, GREEDY, SEED = 32, 12, 6, 0
_LLAMA = dict(
    vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-3,
    tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 100.0}, max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=None,
)
_DELTA = dict(
    layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=4, linear_value_head_dim=6,
    linear_conv_kernel_dim=4,
)
_QWEN = {**_LLAMA, **_DELTA, "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}}
_OURO = {**_LLAMA, "rope_parameters": None, "rope_theta": 100.0, "total_ut_steps": 3, "hidden_act": "silu", "tie_word_embeddings": False, "model_type": "ouro"}
_FLA = dict(
    vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_heads=2, num_v_heads=4, head_dim=4, expand_v=1.5, conv_size=4, norm_eps=1e-3,
    use_gate=True, use_short_conv=True, allow_neg_eigval=True, hidden_act="swish", tie_word_embeddings=False, model_type="gated_deltanet", eos_token_id=1,
    attn={"layers": [1], "num_heads": 2, "num_kv_heads": 1, "qkv_bias": True, "window_size": None, "rope_theta": 100.0},
)
NATIVE = {
    "llama": ("LlamaConfig", _LLAMA), "qwen2": ("Qwen2Config", _LLAMA), "qwen3": ("Qwen3Config", {**_LLAMA, "tie_word_embeddings": False}),
    "qwen3_5_text": ("Qwen3_5TextConfig", _QWEN),
    "olmo_hybrid": ("OlmoHybridConfig", {**_LLAMA, **_DELTA, "head_dim": 2, "rope_parameters": None, "tie_word_embeddings": False}),
}
BY_EQUATIONS = {"ouro": _OURO, "gated_deltanet": _FLA}


def randomised(named, generator) -> None:
    """Every parameter in place: matrices so that all of them matter, norms and biases away from what they start at."""
    import torch

    for name, value in named:
        last = name.split(".")[-1]
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
        if last == "A_log":
            value.copy_(noise * 0.5 - 1.0)
        elif last in ("dt_bias", "bias"):
            value.copy_(noise)
        elif value.ndim == 1:
            value.add_(noise * 0.3)
        elif "conv1d" in name:
            value.copy_(noise * 0.6)
        elif "embed" in name:
            value.copy_(noise)
        else:
            value.copy_(noise * (2.0 / value.shape[1] ** 0.5))


def native(name: str, values: dict[str, Any], generator) -> tuple[Any, dict, dict[str, str]]:
    """(model, golden, what is told of it) of a family that transformers has."""
    import torch
    import transformers

    config = getattr(transformers, name)(**values)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomised([(name, value.data) for name, value in model.named_parameters()], generator)
    tokens = torch.randint(0, VOCAB, (2, TOKENS), generator=generator)
    with torch.no_grad():
        first = model(tokens, use_cache=True)
        golden = {"tokens": tokens.int(), "logits": first.logits.float()}
        cache, last, said = first.past_key_values, first.logits[:, -1:].argmax(-1), []
        for index, layer in enumerate(getattr(cache, "layers", ())):
            if values.get("layer_types", ["full_attention"] * 9)[index] == "linear_attention":
                states = layer.recurrent_states
                golden[f"state.{len([key for key in golden if key.startswith('state')])}"] = (states[0] if isinstance(states, (list, tuple, dict)) else states).float().clone()
        for _ in range(GREEDY):
            said.append(last)
            out = model(last, past_key_values=cache, use_cache=True)
            cache, last = out.past_key_values, out.logits[:, -1:].argmax(-1)
        golden["greedy"] = torch.cat(said, dim=1).int()
        exact = model.double()(tokens, use_cache=False).logits
    model.float()
    told = {"reference": f"transformers {name.removesuffix('Config')}", "from_float64": f"{(golden['logits'].double() - exact).abs().max().item():.3g}"}
    return model, golden, told


def by_equations(kind: str, values: dict[str, Any], generator) -> tuple[dict, dict, dict[str, str]]:
    """(tensors, …) of one whose code is not in transformers: the equations once more, in torch, token by token."""
    import torch
    from hf import equations

    tensors = equations.blank(kind, values)
    randomised(sorted(tensors.items()), generator)
    tokens = torch.randint(0, VOCAB, (2, TOKENS), generator=generator)
    logits, states = equations.run(kind, values, tensors, tokens)
    exact, _ = equations.run(kind, values, {name: value.double() for name, value in tensors.items()}, tokens)
    golden = {"tokens": tokens.int(), "logits": logits} | {f"state.{i}": state for i, state in enumerate(states)}
    said = tokens
    for _ in range(GREEDY):
        said = torch.cat([said, equations.run(kind, values, tensors, said)[0][:, -1:].argmax(-1)], dim=1)
    golden["greedy"] = said[:, TOKENS:].int()
    return tensors, golden, {"reference": "the equations in tools/hf/equations.py", "from_float64": f"{(logits.double() - exact).abs().max().item():.3g}"}


def make(kind: str, out: Path) -> dict[str, str]:
    """Writes one family's folder; returns what is told of it."""
    import torch
    import transformers
    from safetensors.torch import save

    generator, folder = torch.Generator().manual_seed(SEED), out / kind
    folder.mkdir(parents=True, exist_ok=True)
    if kind in NATIVE:
        model, golden, told = native(*NATIVE[kind], generator)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        tensors, golden, told = by_equations(kind, BY_EQUATIONS[kind], generator)
        files.write_bytes(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
        files.write_json(folder / "config.json", BY_EQUATIONS[kind])
    told["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    files.write_bytes(folder / "golden.safetensors", save({name: value.contiguous() for name, value in golden.items()}, metadata=told))
    return told


def main(argv: list[str]) -> None:
    """Writes the families that the flags name."""
    del argv
    if not FLAGS.out:
        raise UsageError("--out is missing: a folder for the goldens")
    known = (*NATIVE, *BY_EQUATIONS)
    if unknown := [kind for kind in FLAGS.families or () if kind not in known]:
        raise UsageError(f"--families={','.join(unknown)}: known are {', '.join(known)}")
    out = paths.plain(FLAGS.out, "out")
    import torch

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for kind in FLAGS.families or known:
        print(kind, make(kind, out))


if __name__ == "__main__":
    cli.run(main, FLAGS)
