"""OLMo-Hybrid: three Gated DeltaNet blocks behind norms to one of attention before them, without rotary positions; beta up to 2."""
from typing import Any

from sleepnet.hf.families import common
from sleepnet.hf.rows import MLP, SAME, Family, Row, attention, delta_net
from sleepnet.hf.values import Values

_LETTERS = {"linear_attention": "G", "full_attention": "A"}


def _either(first: str, second: str, ours: str) -> tuple[Row, Row]:
    return tuple(Row(f"{name}.weight", f"{ours}.scale", SAME) for name in (first, second))


_BEFORE = (_either("attention_layer_norm", "input_layernorm", "mixer_norm"), _either("feedforward_layer_norm", "post_attention_layernorm", "mlp_norm"))
_BEHIND = (
    _either("post_attention_layernorm", "feedforward_layer_norm", "mixer_post_norm"),  # the second where transformers 5 has saved it again
    Row("post_feedforward_layernorm.weight", "mlp_post_norm.scale", SAME),
)


def _model(values: Values) -> dict[str, Any]:
    values.only("attention_bias", False, "biases of all four projections are not built here")
    shared = common.base(values)
    said = [section["rope_theta"] for section in (values.get("rope_parameters", {}, dict), values.values) if "rope_theta" in section]
    rope = {"rope_share": 0.0} if said and said[0] is None else values.rope()  # null says that there are none; where nothing is said, transformers turns by 10,000
    return {
        **shared, **rope, **common.delta(values, shared["heads"]), "pattern": values.pattern(_LETTERS, values.get("num_hidden_layers")), "qk_norm": "all",
        "attention_norm_place": "post", "gate_epsilon": 1e-5, "beta_max": 2.0 if values.get("linear_allow_neg_eigval", kind=bool) else 1.0,
    }


FAMILY = Family(
    "OLMo-Hybrid: Gated DeltaNet 3 : attention 1, without rotary positions", _model,
    {"G": (*_BEFORE, *delta_net("linear_attn"), *MLP), "A": (*_BEHIND, *attention("q", "k", "v", normed=True), *MLP)},
)
