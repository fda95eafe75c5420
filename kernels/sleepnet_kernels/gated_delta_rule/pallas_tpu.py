"""The gated delta rule as a Mosaic kernel for TPUs, forward and backward."""
from sleepnet_kernels.mosaic import Blocks, mosaic_rule
from sleepnet_kernels.rule_arguments import shared_heads


def gated_delta_rule(q, k, v, log_decay, beta, initial_state, segment_ids=None, *, blocks: Blocks | None = None, interpret=False):
    """The public op's mathematics; `blocks` and `interpret` as in `mosaic_rule`."""
    q, k = shared_heads(q, k, v)
    return mosaic_rule(q, k, v, log_decay, beta, initial_state, segment_ids, delta=True, blocks=blocks, interpret=interpret)
