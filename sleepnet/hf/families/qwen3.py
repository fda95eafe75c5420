"""Qwen3, dense: Llama with q and k normalised per head."""
from typing import Any

from sleepnet.hf.families import common
from sleepnet.hf.rows import MLP, NORMS, Family, attention
from sleepnet.hf.values import Values


def _model(values: Values) -> dict[str, Any]:
    values.only("attention_bias", False, "a bias of the projection back is not built here")
    return common.attention_only(values)


FAMILY = Family("Qwen3: attention, q and k normalised per head", _model, {"A": (*NORMS, *attention("q", "k", "v", normed=True), *MLP)})
