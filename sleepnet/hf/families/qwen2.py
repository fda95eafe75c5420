"""Qwen2 and Qwen2.5: Llama with biases of q, k and v."""
from typing import Any

from sleepnet.hf.families import common
from sleepnet.hf.rows import MLP, NORMS, Family, attention
from sleepnet.hf.values import Values


def _model(values: Values) -> dict[str, Any]:
    return {**common.attention_only(values), "qk_norm": "none", "qkv_bias": True}


FAMILY = Family("Qwen2, Qwen2.5: attention, biases of q, k and v", _model, {"A": (*NORMS, *attention("q", "k", "v", bias=("q", "k", "v")), *MLP)})
