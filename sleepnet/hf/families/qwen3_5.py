"""Qwen3.5 and 3.6, dense, their text part: three Gated DeltaNet blocks to one of gated attention; norms multiply by 1 + w."""
from typing import Any

from sleepnet.hf.families import common
from sleepnet.hf.rows import MLP, NORMS, Q_AND_GATE, QKV, SAME, TAPS, TRANSPOSED, Family, Row, attention
from sleepnet.hf.values import Values

_LETTERS = {"linear_attention": "G", "full_attention": "A"}
_DELTA = (
    Row("linear_attn.in_proj_qkv.weight", ("mixer.q.kernel", "mixer.k.kernel", "mixer.v.kernel"), QKV),
    *(
        Row(f"linear_attn.{theirs}.weight", f"mixer.{ours}.kernel", TRANSPOSED)
        for theirs, ours in {"in_proj_z": "gate", "in_proj_b": "beta", "in_proj_a": "decay", "out_proj": "out"}.items()
    ),
    Row("linear_attn.conv1d.weight", "mixer.conv", TAPS),
    Row("linear_attn.A_log", "mixer.decay_rate", SAME),
    Row("linear_attn.dt_bias", "mixer.decay_bias", SAME),
    Row("linear_attn.norm.weight", "mixer.out_scale", SAME),
)
_GATED = Row("self_attn.q_proj.weight", ("mixer.q.kernel", "mixer.gate.kernel"), Q_AND_GATE)


def _model(values: Values) -> dict[str, Any]:
    values.only("attention_bias", False, "a bias of the projection back is not built here")
    values.only("attn_output_gate", True, "its q_proj holds the gate")
    layers, shared = values.get("num_hidden_layers"), common.base(values)
    if values.values.get("layer_types") is None:
        every = values.get("full_attention_interval", 4)
        pattern = "".join("G" if (i + 1) % every else "A" for i in range(layers))
    else:
        pattern = values.pattern(_LETTERS, layers)
    return {
        **shared, **values.rope(default_share=0.25), **common.delta(values, shared["heads"]), "pattern": pattern, "norm_offset": True,
        "gate_epsilon": shared["norm_epsilon"], "attention_gate": True,
    }


FAMILY = Family(
    "Qwen3.5, Qwen3.6 (dense, text): Gated DeltaNet 3 : gated attention 1", _model,
    {"G": (*NORMS, *_DELTA, *MLP), "A": (*NORMS, _GATED, *attention("k", "v", normed=True), *MLP)},
    section="text_config", prefixes=("model.language_model.", "model."),
    left_out=(
        (r"^mtp\.", "multi-token prediction"), (r"^model\.visual\.", "the image encoder"),
        (r"rotary_emb\.inv_freq$", "rotary frequencies, which follow from the base"),
    ),
)
TEXT = Family(FAMILY.title, FAMILY.model, FAMILY.blocks, prefixes=("model.", "model.language_model."), left_out=FAMILY.left_out)
