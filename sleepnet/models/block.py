"""One block of the stack: a mixer and an MLP, each behind a norm and beside a residual."""
import jax
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.attention import Attention
from sleepnet.models.experts import Experts
from sleepnet.models.fast_weight import FastWeightMixer
from sleepnet.models.mlp import GatedMlp
from sleepnet.models.norms import RMSNorm


class Block(nnx.Module):
    """`x + mixer(norm(x))`, then `x + mlp(norm(x))`, or `x + mlp(norm(x)) + experts(norm(x))`."""

    def __init__(self, kind: str, config: ModelConfig, rngs: nnx.Rngs):
        self.mixer_norm = RMSNorm(config.width)
        self.mixer = Attention(config, rngs) if kind == "A" else FastWeightMixer(config, rngs)
        if config.mlp_width:
            self.mlp_norm = RMSNorm(config.width)
            self.mlp = GatedMlp(config, rngs)
        self.has_mlp, self.has_experts = bool(config.mlp_width), False

    def add_experts(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Puts experts beside the MLP."""
        self.experts, self.has_experts = Experts(config, rngs), True

    def feed(self, x_BxTxD: jax.Array) -> jax.Array:
        """The second half."""
        if not self.has_mlp:
            return x_BxTxD
        normed = self.mlp_norm(x_BxTxD)
        return x_BxTxD + (self.mlp(normed) + self.experts(normed) if self.has_experts else self.mlp(normed))
