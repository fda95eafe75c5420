"""The gated Hebbian rule takes the gated delta rule's arguments."""
from sleepnet_kernels.gated_delta_rule.arg_specs import BENCHMARK_SHAPES, SLEEP_SHAPES, Shape, arguments

__all__ = ["BENCHMARK_SHAPES", "SLEEP_SHAPES", "Shape", "arguments"]
