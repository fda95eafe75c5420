"""The delta rule without decay takes the gated delta rule's arguments but log_decay."""
from sleepnet_kernels.gated_delta_rule import arg_specs
from sleepnet_kernels.gated_delta_rule.arg_specs import BENCHMARK_SHAPES, Shape

__all__ = ["BENCHMARK_SHAPES", "Shape", "arguments"]


def arguments(*told, **more):
    """Returns random arguments by name, told as those of the gated delta rule."""
    return {name: x for name, x in arg_specs.arguments(*told, **more).items() if name != "log_decay"}
