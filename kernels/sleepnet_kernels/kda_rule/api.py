"""The public op."""
import jax

from sleepnet_kernels import dispatch, rule_arguments
from sleepnet_kernels.kda_rule import reference, xla_chunked

IMPLEMENTATIONS = {
    "reference": dispatch.Implementation(reference.kda_rule),
    "xla_chunked": dispatch.Implementation(xla_chunked.kda_rule, rule_arguments.refuses_other_dtypes),
}
# Made for one platform: none yet.
KERNELS: dict[str, dispatch.Implementation] = {}


def kda_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    log_decay: jax.Array,
    beta: jax.Array,
    initial_state: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Decays each key channel of a fast-weight state, corrects it towards `v` along `k`, and reads it with `q`, token after token.

    For each batch entry and head, with S of shape [K, V]:

        S_t = (I - beta_t k_t k_t^T) diag(exp(log_decay_t)) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t

    With one log_decay for all channels this is `gated_delta_rule`. Nothing is scaled or normalised inside: the caller does
    both. For a state that stays bounded, keys have norm 1 and beta lies in [0, 2]. Zero k, v, beta and log_decay leave the
    state as it is, so they serve as padding.

    Args:
      q: queries [B, T, G, K], H a multiple of G: the H / G consecutive heads from h H / G on share head h of q and k.
      k: keys [B, T, G, K], in q's dtype.
      v: values [B, T, H, V], in q's dtype (float32 or bfloat16).
      log_decay: [B, T, H, K], at most 0, in nats per token; used in float32. Every strength is exact: with -inf nothing is left of
        the channel, and it gets exactly no gradient.
      beta: write strength [B, T, H]; used in float32.
      initial_state: [B, H, K, V] in float32; zeros where None.
      segment_ids: [B, T] in int32, for rows packed with several sequences, as `gated_delta_rule`'s. None: each row is one sequence.
      implementation: None chooses "xla_chunked", which walks chunk by chunk; "reference" walks token by token. A named one runs
        or raises.

    Returns:
      The output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.

    Raises:
      ValueError: a shape does not fit, log_decay is seen to be positive or NaN or the axis of tokens to be sharded, the implementation
        is unknown, or it can't run these arguments.
      TypeError (as a ValueError too): an argument is not floating point, initial_state is not float32, or segment_ids are not int32.

    Source: Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", arXiv:2510.26692, section 3.
    """
    arguments = rule_arguments.checked("kda_rule", q, k, v, log_decay, beta, initial_state, segment_ids, per_channel=True)
    return dispatch.choose("kda_rule", IMPLEMENTATIONS | KERNELS, implementation, "xla_chunked", *arguments)(*arguments)
