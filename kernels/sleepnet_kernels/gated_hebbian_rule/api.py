"""The public op."""
import functools

import jax

from sleepnet_kernels import dispatch, rule_arguments
from sleepnet_kernels.gated_hebbian_rule import pallas_gpu, pallas_tpu, reference, xla_chunked

IMPLEMENTATIONS = {
    "reference": dispatch.Implementation(reference.gated_hebbian_rule),
    "xla_chunked": dispatch.Implementation(xla_chunked.gated_hebbian_rule, rule_arguments.refuses_other_dtypes),
}
# Made for one platform, or for testing what is.
KERNELS = {
    "pallas_tpu": dispatch.Implementation(pallas_tpu.gated_hebbian_rule, rule_arguments.refuses_other_dtypes, platform="tpu"),
    "pallas_gpu": dispatch.Implementation(
        pallas_gpu.gated_hebbian_rule, pallas_gpu.refuses, platform="gpu", refuses_device=pallas_gpu.refuses_device, chosen=False
    ),
    "pallas_tpu_interpret": dispatch.Implementation(
        functools.partial(pallas_tpu.gated_hebbian_rule, interpret=True), rule_arguments.refuses_other_dtypes
    ),
}


def gated_hebbian_rule(
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
    """Decays a fast-weight state, adds `v` under `k`, and reads it with `q`, token after token.

    For each batch entry and head, with S of shape [K, V]:

        S_t = exp(log_decay_t) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t

    This is Mamba-2's recurrence with k = B, q = C, beta = dt and log_decay = dt A. Nothing is scaled or normalised inside.
    Zero k, v, beta and log_decay leave the state as it is, so they serve as padding.

    Args:
      q: queries [B, T, G, K], H a multiple of G: the H / G consecutive heads from h H / G on share head h of q and k.
      k: keys [B, T, G, K], in q's dtype.
      v: values [B, T, H, V], in q's dtype (float32 or bfloat16).
      log_decay: [B, T, H], at most 0, in nats per token; accumulated in float32. Every strength is exact: -inf is a hard reset, after
        which nothing is left of S, and gets exactly no gradient.
      beta: write strength [B, T, H]; used in float32.
      initial_state: [B, H, K, V] in float32; zeros where None.
      segment_ids: [B, T] in int32, for rows packed with several sequences: the state restarts from exactly zero wherever an id
        differs from the previous token's (so ids need not rise, and one that comes back begins anew). The initial state is the
        first segment's, the final state the last one's. While every segment's own numbers are finite, none reaches another by
        a single bit, in the gradients neither. None: each row is one sequence.
      implementation: None chooses by the platform lowered for: "pallas_tpu" on a TPU, elsewhere "xla_chunked", which walks chunk
        by chunk; "pallas_gpu" takes bfloat16 on a Hopper GPU, "reference" walks token by token, and "pallas_tpu_interpret" runs the
        TPU's kernel on any platform, slowly, to test it. A named one runs or raises.

    Returns:
      The output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.

    Raises:
      ValueError: a shape does not fit, log_decay is seen to be positive or NaN or the axis of tokens to be sharded, the implementation
        is unknown, or it can't run these arguments.
      TypeError (as a ValueError too): an argument is not floating point, initial_state is not float32, or segment_ids are not int32.

    Source: Dao, Gu, "Transformers are SSMs", arXiv:2405.21060, section 6 (state space dual, scalar decay).
    """
    arguments = rule_arguments.checked("gated_hebbian_rule", q, k, v, log_decay, beta, initial_state, segment_ids)
    return dispatch.choose("gated_hebbian_rule", IMPLEMENTATIONS | KERNELS, implementation, "xla_chunked", *arguments)(*arguments)
