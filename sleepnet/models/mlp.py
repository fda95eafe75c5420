"""Gated MLP (SwiGLU; Shazeer, arXiv 2002.05202)."""
import jax
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.linear import projection


class GatedMlp(nnx.Module):
    """`down(silu(gate(x)) · up(x))`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.gate = projection(config.width, config.mlp_width, dtype=config.dtype, rngs=rngs)
        self.up = projection(config.width, config.mlp_width, dtype=config.dtype, rngs=rngs)
        self.down = projection(config.mlp_width, config.width, dtype=config.dtype, rngs=rngs, scale=config.output_scale)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x_BxTxD)) * self.up(x_BxTxD))
