"""The public op."""
import jax

from sleepnet_kernels import dispatch, rule_arguments
from sleepnet_kernels.delta_rule import reference
from sleepnet_kernels.gated_delta_rule import api as gated_delta

# All but the oracle are the gated rule's, called with zeros for log_decay.
IMPLEMENTATIONS = gated_delta.IMPLEMENTATIONS | {"reference": dispatch.Implementation(reference.delta_rule)}
KERNELS = gated_delta.KERNELS


def delta_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    beta: jax.Array,
    initial_state: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Corrects a fast-weight state towards `v` along `k`, and reads it with `q`, token after token; nothing else is forgotten.

    For each batch entry and head, with S of shape [K, V]:

        S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t

    This is `gated_delta_rule` with log_decay = 0. Nothing is scaled or normalised inside. For a state that stays bounded, keys
    have norm 1 and beta lies in [0, 2].

    Args:
      q: queries [B, T, G, K], H a multiple of G: the H / G consecutive heads from h H / G on share head h of q and k.
      k: keys [B, T, G, K], in q's dtype.
      v: values [B, T, H, V], in q's dtype (float32 or bfloat16).
      beta: write strength [B, T, H]; used in float32.
      initial_state: [B, H, K, V] in float32; zeros where None.
      segment_ids: [B, T] in int32, for rows packed with several sequences, as `gated_delta_rule`'s. None: each row is one sequence.
      implementation: as `gated_delta_rule`'s.

    Returns:
      The output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.

    Raises:
      ValueError: a shape does not fit, the axis of tokens is seen to be sharded, the implementation is unknown, or it can't run
        these arguments.
      TypeError (as a ValueError too): an argument is not floating point, initial_state is not float32, or segment_ids are not int32.

    Source: Schlag, Irie, Schmidhuber, "Linear Transformers Are Secretly Fast Weight Programmers", arXiv:2102.11174, section 4.2.
    """
    arguments = rule_arguments.undecayed("delta_rule", q, k, v, beta, initial_state, segment_ids)
    return dispatch.choose("delta_rule", IMPLEMENTATIONS | KERNELS, implementation, "xla_chunked", *arguments)(*arguments)
