"""Ouro: attention alone, run several times over the same tokens, the final norm between two of them."""
from typing import Any

from sleepnet.hf.families import common
from sleepnet.hf.rows import MLP, SAME, Family, Row, attention
from sleepnet.hf.values import Values

_NORMS = (
    Row("input_layernorm.weight", "mixer_norm.scale", SAME), Row("input_layernorm_2.weight", "mixer_post_norm.scale", SAME),
    Row("post_attention_layernorm.weight", "mlp_norm.scale", SAME), Row("post_attention_layernorm_2.weight", "mlp_post_norm.scale", SAME),
)


def _model(values: Values) -> dict[str, Any]:
    values.only("attention_bias", False, "a bias of the projection back is not built here")
    loop = {"passes": 1, "predict_passes": values.get("total_ut_steps"), "carry": "normed"}
    return {**common.attention_only(values), "qk_norm": "none", "norm_place": "sandwich", "sleep": loop}


FAMILY = Family(
    "Ouro: attention alone, all blocks several times over", _model, {"A": (*_NORMS, *attention("q", "k", "v"), *MLP)},
    left_out=((r"early_exit_gate\.", "the gate that ends the loop early: all passes are run"), (r"rotary_emb\.inv_freq$", "rotary frequencies, which follow from the base")),
    note="it loops where it predicts, so that only whole sequences can be read, not token by token",
)
