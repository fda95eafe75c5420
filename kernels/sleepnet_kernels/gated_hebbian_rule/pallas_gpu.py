"""The gated hebbian rule as Mosaic kernels for Hopper GPUs, forward and backward."""
from sleepnet_kernels.mosaic_gpu import mosaic_gpu_rule, refuses, refuses_device
from sleepnet_kernels.rule_arguments import shared_heads

__all__ = ["gated_hebbian_rule", "refuses", "refuses_device"]


def gated_hebbian_rule(q, k, v, log_decay, beta, initial_state, segment_ids=None, *, interpret=None):
    """The public op's mathematics; `interpret` as in `mosaic_gpu_rule`. Call it through the op, which refuses `segment_ids`."""
    del segment_ids
    return mosaic_gpu_rule(*shared_heads(q, k, v), v, log_decay, beta, initial_state, delta=False, interpret=interpret)
