"""The public op."""
import jax

from sleepnet_kernels import dispatch
from sleepnet_kernels.momentum_rule import reference, xla_chunked
from sleepnet_kernels.momentum_rule.arguments import checked, refuses_other_dtypes

IMPLEMENTATIONS = {
    "reference": dispatch.Implementation(reference.momentum_rule),
    "xla_chunked": dispatch.Implementation(xla_chunked.momentum_rule, refuses_other_dtypes),
}
# Made for one platform: none yet.
KERNELS: dict[str, dispatch.Implementation] = {}


def momentum_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    log_decay: jax.Array,
    log_momentum: jax.Array,
    beta: jax.Array,
    applied: jax.Array | None = None,
    initial_state: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The gated delta rule whose corrections go through a momentum, token after token.

    For each batch entry and head, with S and M of shape [K, V] and R = exp(log_decay_t) S_{t-1}:

        M_t = exp(log_momentum_t) M_{t-1} + beta_t k_t (v_t - R^T k_t)^T        S_t = R + applied_t M_t        o_t = S_t^T q_t

    Without momentum (exp(log_momentum) = 0, applied = 1) this is `gated_delta_rule`. Nothing is scaled or normalised inside.
    Zeros for k, v, beta, both logarithms and `applied` leave S and M as they are, so they serve as padding.

    Args:
      q: queries [B, T, G, K], H a multiple of G: the H / G consecutive heads from h H / G on share head h of q and k.
      k: keys [B, T, G, K], in q's dtype.
      v: values [B, T, H, V], in q's dtype (float32 or bfloat16).
      log_decay: [B, T, H], at most 0, in nats per token; accumulated in float32. Every strength is exact: -inf is a hard reset, after
        which nothing is left of S but what M brings, and gets exactly no gradient.
      log_momentum: the same of M.
      beta: write strength [B, T, H]; used in float32.
      applied: how much of the momentum goes into S at a token, [B, T, H]; ones where None.
      initial_state: S above M, [B, H, 2 K, V] in float32; zeros where None.
      segment_ids: [B, T] in int32, for rows packed with several sequences, as `gated_delta_rule`'s;
        the momentum restarts from zero as S does. None: each row is one sequence.
      implementation: None chooses "xla_chunked", which walks chunk by chunk; "reference" walks token by token. A named one runs
        or raises.

    Returns:
      The output [B, T, H, V] in v's dtype and the final S above M, [B, H, 2 K, V] in float32.

    Raises:
      ValueError: a shape does not fit, log_decay or log_momentum is seen to be positive or NaN or the axis of tokens to be sharded, the
        implementation is unknown, or it can't run these arguments.
      TypeError (as a ValueError too): an argument is not floating point, initial_state is not float32, or segment_ids are not int32.

    Source: after Behrouz, Zhong, Mirrokni, "Titans: Learning to Memorize at Test Time", arXiv:2501.00663, section 3.1, for a memory
    of one matrix; there the error is of S before its decay.
    """
    arguments = checked("momentum_rule", q, k, v, log_decay, log_momentum, beta, applied, initial_state, segment_ids)
    return dispatch.choose("momentum_rule", IMPLEMENTATIONS | KERNELS, implementation, "xla_chunked", *arguments)(*arguments)
