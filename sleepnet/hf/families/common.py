"""What the configurations of several families say alike."""
from typing import Any

from sleepnet.errors import UsageError
from sleepnet.hf.values import Values

NUMBER = (int, float)


def base(values: Values) -> dict[str, Any]:
    """Keys that every family of the Llama line has: sizes, heads, ε of the norms, the head; nothing added to embeddings, no padding."""
    values.only("hidden_act", "silu", "the MLPs here are SwiGLU")
    values.only("mlp_bias", False, "the MLPs here have no biases")
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    head_dim = values.get("head_dim", width // max(heads, 1))
    return {
        "vocab_size": values.get("vocab_size"), "width": width, "heads": heads, "kv_heads": values.get("num_key_value_heads", heads), "head_dim": head_dim,
        "mlp_width": values.get("intermediate_size"), "norm_epsilon": float(values.get("rms_norm_eps", kind=NUMBER)),
        "tied": values.get("tie_word_embeddings", False, bool), "window_positions": False, "pad_id": -1, "sleep": {"passes": 1, "carry": "normed"},
    }


def attention_only(values: Values) -> dict[str, Any]:
    """… with attention alone, over all that came before, and rotary positions."""
    layers = values.get("num_hidden_layers")
    types = values.get("layer_types", ["full_attention"] * layers, list)
    if values.get("use_sliding_window", False, bool) or set(types) - {"full_attention"}:
        raise UsageError(f"{values.where}: blocks of sliding-window attention are not supported; here all blocks attend alike")
    values.only("pretraining_tp", 1, "sums in another order have other bits")
    return {**base(values), **values.rope(), "pattern": "A" * layers}


def delta(values: Values, heads: int) -> dict[str, Any]:
    """Shapes of the Gated DeltaNet blocks as transformers spells them."""
    return {
        "key_heads": values.get("linear_num_key_heads", heads), "value_heads": values.get("linear_num_value_heads", heads),
        "key_dim": values.get("linear_key_head_dim"), "value_dim": values.get("linear_value_head_dim"), "conv_width": values.get("linear_conv_kernel_dim"),
        "scale_queries": True,
    }
