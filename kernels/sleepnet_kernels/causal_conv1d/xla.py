"""The causal convolution as W shifted multiply-adds over the whole sequence, in plain XLA."""
import jax.numpy as jnp

from sleepnet_kernels.segments import by_chunk


def causal_conv1d(x_BxTxC, weight_WxC, initial_state_BxPxC, segment_ids_BxT=None):
    """The public op's mathematics, with one slice of the padded sequence per tap."""
    t, width = x_BxTxC.shape[1], weight_WxC.shape[0]
    extended_BxXxC = jnp.concatenate([initial_state_BxPxC, x_BxTxC], axis=1)
    weight_WxC = weight_WxC.astype(jnp.float32)
    taps_BxTxC, final_state_BxPxC = [extended_BxXxC[:, i : i + t] for i in range(width)], extended_BxXxC[:, t:]
    if segment_ids_BxT is not None:
        # The whole row as one chunk; what is before it belongs to the first segment.
        segments_BxT = by_chunk(segment_ids_BxT, t)[:, 0]
        segments_BxX = jnp.pad(segments_BxT, [(0, 0), (width - 1, 0)])
        taps_BxTxC = [_of(x, segments_BxX[:, i : i + t], segments_BxT) for i, x in enumerate(taps_BxTxC)]
        final_state_BxPxC = _of(final_state_BxPxC, segments_BxX[:, t:], segments_BxT[:, -1:])
    y_BxTxC = sum(x.astype(jnp.float32) * weight_WxC[i][None, None] for i, x in enumerate(taps_BxTxC))
    return y_BxTxC.astype(x_BxTxC.dtype), final_state_BxPxC


def _of(x_BxTxC, segments_BxT, wanted_BxT):
    """Returns x where its segment is the wanted one, zeros elsewhere."""
    return jnp.where((segments_BxT == wanted_BxT)[..., None], x_BxTxC, jnp.zeros_like(x_BxTxC))
