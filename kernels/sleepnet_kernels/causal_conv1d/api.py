"""The public op."""
import jax

from sleepnet_kernels import dispatch
from sleepnet_kernels.causal_conv1d import reference, xla
from sleepnet_kernels.causal_conv1d.arguments import checked
from sleepnet_kernels.segments import checked_segment_ids

IMPLEMENTATIONS = {
    "reference": dispatch.Implementation(reference.causal_conv1d),
    "xla": dispatch.Implementation(xla.causal_conv1d),
}


def causal_conv1d(
    x: jax.Array,
    weight: jax.Array,
    *,
    initial_state: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Convolves each channel with its own W past inputs, the present one included.

        y_t = sum_i weight[i] * x_{t - (W - 1) + i}        i = 0 .. W - 1

    Inputs from before the sequence come from `initial_state`. There is no activation and no bias inside.

    Args:
      x: [B, T, C], floating point.
      weight: [W, C]; the last tap weighs the present token. Products and sums are in float32.
      initial_state: [B, W - 1, C] in x's dtype, the last inputs before x; zeros where None.
      segment_ids: [B, T] in int32, for rows packed with several sequences: inputs from before the last token whose id differs from
        the previous token's count as exactly zero, in the final state too. The initial state is the first segment's. None: each
        row is one sequence.
      implementation: None chooses; "reference" walks token by token, "xla" adds W shifted products. A named one runs or raises.

    Returns:
      y [B, T, C] in x's dtype, and the final state [B, W - 1, C]: the last W - 1 inputs, those of the initial state included
      where T < W - 1, zeros for those of another segment than the last.

    Raises:
      ValueError: a shape does not fit, the axis of tokens is seen to be sharded, or the implementation is unknown.
      TypeError (as a ValueError too): an argument is not floating point, initial_state is not in x's dtype, or segment_ids are not int32.

    Source: the short convolution of Gu, Dao, "Mamba", arXiv:2312.00752, section 3.4.
    """
    arguments = checked("causal_conv1d", x, weight, initial_state)
    if segment_ids is not None:
        arguments += (checked_segment_ids("causal_conv1d", segment_ids, arguments[0].shape[:2]),)
    return dispatch.choose("causal_conv1d", IMPLEMENTATIONS, implementation, "xla", *arguments)(*arguments)
