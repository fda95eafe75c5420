"""Fast-weight kernels: one recurrence a folder, one oracle each, many implementations."""
from sleepnet_kernels.causal_conv1d.api import causal_conv1d
from sleepnet_kernels.causal_conv1d.step import causal_conv1d_step
from sleepnet_kernels.delta_rule.api import delta_rule
from sleepnet_kernels.delta_rule.step import delta_step
from sleepnet_kernels.gated_delta_rule.api import gated_delta_rule
from sleepnet_kernels.gated_delta_rule.step import gated_delta_step
from sleepnet_kernels.gated_hebbian_rule.api import gated_hebbian_rule
from sleepnet_kernels.gated_hebbian_rule.step import gated_hebbian_step
from sleepnet_kernels.hebbian_rule.api import hebbian_rule
from sleepnet_kernels.hebbian_rule.step import hebbian_step
from sleepnet_kernels.kda_rule.api import kda_rule
from sleepnet_kernels.kda_rule.step import kda_step
from sleepnet_kernels.momentum_rule.api import momentum_rule
from sleepnet_kernels.momentum_rule.step import momentum_step

__all__ = [
    "causal_conv1d", "causal_conv1d_step", "delta_rule", "delta_step", "gated_delta_rule", "gated_delta_step", "gated_hebbian_rule",
    "gated_hebbian_step", "hebbian_rule", "hebbian_step", "kda_rule", "kda_step", "momentum_rule", "momentum_step",
]
