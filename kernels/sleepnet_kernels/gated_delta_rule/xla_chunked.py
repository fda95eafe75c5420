"""The gated delta rule in chunks, in plain XLA: runs on every platform."""
from sleepnet_kernels.chunked import chunked_rule, default_chunk_size
from sleepnet_kernels.rule_arguments import shared_heads


def gated_delta_rule(q, k, v, log_decay, beta, initial_state, segment_ids=None, *, chunk_size: int | None = None):
    """The public op's mathematics over chunks of `chunk_size` tokens; None picks one from the shapes."""
    chunk_size = default_chunk_size(q.shape[1], q.shape[-1]) if chunk_size is None else chunk_size
    q, k = shared_heads(q, k, v)
    return chunked_rule(q, k, v, log_decay, beta, initial_state, segment_ids, delta=True, chunk_size=chunk_size)
