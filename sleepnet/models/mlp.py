"""Gated MLP (SwiGLU; Shazeer, arXiv 2002.05202)."""
import jax
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.linear import Linear, together


class GatedMlp(nnx.Module):
    """`down(silu(gate(x)) · up(x))`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.gate = Linear(config.width, config.mlp_width, rngs=rngs)
        self.up = Linear(config.width, config.mlp_width, rngs=rngs)
        self.down = Linear(config.mlp_width, config.width, rngs=rngs, scale=config.output_scale, axes=("tensor", None))

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        gate, up = together(x_BxTxD, self.gate, self.up)
        return self.down(jax.nn.silu(gate) * up)
