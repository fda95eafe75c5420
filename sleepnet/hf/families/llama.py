"""Llama, and what has its shape: SmolLM, TinyLlama, OpenLLaMA."""
from typing import Any

from sleepnet.hf.families import common
from sleepnet.hf.rows import MLP, NORMS, Family, attention
from sleepnet.hf.values import Values


def _model(values: Values) -> dict[str, Any]:
    values.only("attention_bias", False, "a bias of the projection back is not built here")
    return {**common.attention_only(values), "qk_norm": "none"}


FAMILY = Family("Llama: attention, grouped queries", _model, {"A": (*NORMS, *attention("q", "k", "v"), *MLP)})
