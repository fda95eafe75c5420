"""One block of the stack: a mixer and an MLP, each between norms and beside a residual."""
import jax
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.attention import Attention
from sleepnet.models.experts import Experts
from sleepnet.models.fast_weight import FastWeightMixer
from sleepnet.models.mlp import GatedMlp
from sleepnet.models.norms import RMSNorm


class Block(nnx.Module):
    """`x + mixer(norm(x))`, then `x + mlp(norm(x))`, or `x + mlp(norm(x)) + experts(norm(x))`; with `norm_place` post `x + norm(mixer(x))`, with sandwich both norms."""

    def __init__(self, kind: str, config: ModelConfig, rngs: nnx.Rngs, has_mlp: bool = True):
        self.before, self.behind = config.norms_of(kind)
        if self.before:
            self.mixer_norm = RMSNorm(config.width, config)
        self.mixer = Attention(config, rngs) if kind == "A" else FastWeightMixer(config, rngs)
        if self.behind:
            self.mixer_post_norm = RMSNorm(config.width, config)
        self.has_mlp, self.has_experts = bool(config.mlp_width) and has_mlp, False
        if self.has_mlp:
            if self.before:
                self.mlp_norm = RMSNorm(config.width, config)
            self.mlp = GatedMlp(config, rngs)
            if self.behind:
                self.mlp_post_norm = RMSNorm(config.width, config)

    def add_experts(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Puts experts beside the MLP."""
        self.experts, self.has_experts = Experts(config, rngs), True

    def inputs(self, x_BxTxD: jax.Array) -> jax.Array:
        """What the mixer reads."""
        return self.mixer_norm(x_BxTxD) if self.before else x_BxTxD

    def join(self, x_BxTxD: jax.Array, mixed_BxTxD: jax.Array) -> jax.Array:
        """The residual with what the mixer gave, and the second half."""
        x_BxTxD = x_BxTxD + (self.mixer_post_norm(mixed_BxTxD) if self.behind else mixed_BxTxD)
        if not self.has_mlp:
            return x_BxTxD
        normed = self.mlp_norm(x_BxTxD) if self.before else x_BxTxD
        fed = self.mlp(normed) + self.experts(normed) if self.has_experts else self.mlp(normed)
        return x_BxTxD + (self.mlp_post_norm(fed) if self.behind else fed)
