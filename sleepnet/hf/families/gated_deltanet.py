"""Gated DeltaNet as flash-linear-attention has it, with attention in some blocks."""
import math
from typing import Any

from sleepnet.errors import UsageError
from sleepnet.hf.families.common import NUMBER
from sleepnet.hf.rows import MLP, SAME, Family, Row, attention, delta_net
from sleepnet.hf.values import Values

_NORMS = (Row("attn_norm.weight", "mixer_norm.scale", SAME), Row("mlp_norm.weight", "mlp_norm.scale", SAME))
_KEYS = {"layers", "num_heads", "num_kv_heads", "qkv_bias", "window_size", "rope_theta"}


def _model(values: Values) -> dict[str, Any]:
    for key in ("use_gate", "use_short_conv"):
        values.only(key, True, "the blocks here have both")
    values.only("conv_bias", False, "the convolutions here have none")
    if values.get("hidden_act", "swish", str) not in ("swish", "silu"):
        raise UsageError(f"{values.where}: hidden_act={values.get('hidden_act', kind=str)!r} is not supported, only 'swish': the MLPs here are SwiGLU")
    width, layers, heads, head_dim = (values.get(key) for key in ("hidden_size", "num_hidden_layers", "num_heads", "head_dim"))
    epsilon = float(values.get("norm_eps", kind=NUMBER))
    return {
        "vocab_size": values.get("vocab_size"), "width": width, "mlp_width": _mlp_width(values, width), "pattern": "G" * layers,
        "heads": heads, "head_dim": head_dim, "key_heads": heads, "value_heads": values.get("num_v_heads", heads),
        "key_dim": head_dim, "value_dim": int(head_dim * values.get("expand_v", kind=NUMBER)), "conv_width": values.get("conv_size"),
        "scale_queries": True, "beta_max": 2.0 if values.get("allow_neg_eigval", False, bool) else 1.0, "norm_epsilon": epsilon, "gate_epsilon": epsilon,
        "tied": values.get("tie_word_embeddings", False, bool), "window_positions": False, "pad_id": -1, "sleep": {"passes": 1, "carry": "normed"},
        **_attention(values, width, layers),
    }


def _mlp_width(values: Values, width: int) -> int:
    if given := values.get("intermediate_size", 0):
        return given
    return 256 * math.ceil(int(width * values.get("hidden_ratio") * 2 / 3) / 256)


def _attention(values: Values, width: int, layers: int) -> dict[str, Any]:
    if not (given := values.get("attn", {}, dict)):
        return {}
    if unknown := set(given) - _KEYS:
        raise UsageError(f"{values.where}: attn.{min(unknown)} is not supported; these are: {', '.join(sorted(_KEYS))}")
    inner = Values(given, f"{values.where}: attn")
    inner.only("window_size", None, "blocks of sliding-window attention are not built here")
    places, heads = set(inner.get("layers", kind=list)), inner.get("num_heads")
    if heads < 1 or width % heads:
        raise UsageError(f"{values.where}: attn.num_heads={heads} does not divide hidden_size={width}")
    return {
        "pattern": "".join("A" if i in places else "G" for i in range(layers)), "heads": heads, "head_dim": width // heads,
        "kv_heads": inner.get("num_kv_heads", heads), "qkv_bias": inner.get("qkv_bias", False, bool), "qk_norm": "none", **inner.rope(),
    }


FAMILY = Family(
    "Gated DeltaNet of flash-linear-attention, with attention in some blocks", _model,
    {"G": (*_NORMS, *delta_net("attn"), *MLP), "A": (*_NORMS, *attention("q", "k", "v", under="attn", bias=("q", "k", "v")), *MLP)},
    ends=(Row("embeddings.weight", "embedding", SAME), Row("norm.weight", "final_norm.scale", SAME)),
)
