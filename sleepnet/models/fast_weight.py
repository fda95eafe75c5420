"""The SSM block's mixer: short convolution, gates, fast-weight rule (Gated DeltaNet; Yang et al., arXiv 2412.06464)."""
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from sleepnet_kernels import causal_conv1d, delta_rule, delta_step, gated_delta_rule, gated_delta_step, gated_hebbian_rule
from sleepnet_kernels import gated_hebbian_step, hebbian_rule, hebbian_step, kda_rule, kda_step, momentum_rule, momentum_step

from sleepnet.config import ModelConfig
from sleepnet.mesh import BATCH, constrain, over_batch_and_heads
from sleepnet.models.dynamic_conv import DynamicConv
from sleepnet.models.linear import Linear, together
from sleepnet.models.norms import l2_norm, rms_norm


@dataclasses.dataclass(frozen=True)
class Rule:
    """A fast-weight rule as a mixer calls it: `f(q, k, v, log_decay=, beta=, initial_state=)`.

    Attributes:
      window: over T tokens.
      token: over one, without the axis T; for decoding.
      decays: what has a decay of its own: "head", "channel" (each key channel of each head), or "" for nothing; log_decay is None then.
      momentum: S has a momentum below it; log_decay ends in an axis of three: log_decay, log_momentum and how much of it is applied.
    """

    window: Callable
    token: Callable
    decays: str
    momentum: bool = False


def _undecayed(rule: Callable) -> Callable:
    return lambda q, k, v, *, log_decay, beta, initial_state: rule(q, k, v, beta=beta, initial_state=initial_state)


def _with_momentum(rule: Callable) -> Callable:
    def call(q, k, v, *, log_decay, beta, initial_state):
        log_decay, log_momentum, applied = (log_decay[..., i] for i in range(3))
        return rule(q, k, v, log_decay=log_decay, log_momentum=log_momentum, beta=beta, applied=applied, initial_state=initial_state)

    return call


RULES = {
    "hebbian": Rule(_undecayed(hebbian_rule), _undecayed(hebbian_step), ""),
    "delta": Rule(_undecayed(delta_rule), _undecayed(delta_step), ""),
    "gated_hebbian": Rule(gated_hebbian_rule, gated_hebbian_step, "head"),
    "gated_delta": Rule(gated_delta_rule, gated_delta_step, "head"),
    "kda": Rule(kda_rule, kda_step, "channel"),
    "momentum": Rule(_with_momentum(momentum_rule), _with_momentum(momentum_step), "head", momentum=True),
}


def rule_of(name: str, tokens: int) -> Callable:
    """The rule for so many tokens; decoding takes one at a time, for which there is a form without chunks."""
    if tokens > 1:
        return RULES[name].window

    def one_token(q, k, v, *, log_decay, beta, initial_state):
        q, k, v, log_decay, beta = jax.tree.map(lambda x: x[:, 0], (q, k, v, log_decay, beta))
        read, state = RULES[name].token(q, k, v, log_decay=log_decay, beta=beta, initial_state=initial_state)
        return read[:, None], state

    return one_token


def decay_start(config: ModelConfig, rngs: nnx.Rngs) -> tuple[jax.Array, jax.Array]:
    """The first values of exp(a) and softplus(b), [H] each; their product is what a head forgets per token, in nats.

    `windows`: exp(a) = 1; 1/8 … 1/128 in a whole window, geometric over the heads. S is written N times and must outlive that.
    `mamba2`:  exp(a) 1 … 16, linear over the heads; softplus(b) 0.001 … 0.1, log-uniform (Dao and Gu, arXiv 2405.21060). A head that
               starts with a large product forgets most of S within a window, and whether any other remembers is luck.
    """
    heads = config.heads
    if config.decay_start == "windows":
        return jnp.ones((heads,), jnp.float32), 1.0 / (config.window * jnp.geomspace(8.0, 128.0, heads, dtype=jnp.float32))
    step = jnp.exp(jax.random.uniform(rngs.params(), (heads,), jnp.float32, jnp.log(1e-3), jnp.log(1e-1)))
    return jnp.linspace(1.0, 16.0, heads, dtype=jnp.float32), step


class FastWeightMixer(nnx.Module):
    """`q, k, v = silu(conv(W x))`, q and k of unit length, then the rule, a gated norm and the projection back.

    log_decay = −exp(a) · softplus(W_a x + b)  and  beta = beta_max · sigmoid(W_b x), one of each per head and token. A rule that
    decays by channel has one log_decay for each, a one per head, and W_a of rank head_dim (Kimi Linear, arXiv 2510.26692); each
    channel starts as its head would. A rule without decay has no W_a, a and b. A dynamic convolution is over v alone.
    log_momentum = log σ(W_m x), one per head. Where `valid` is False all are 0: the token neither writes nor decays S.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        inner = config.heads * config.head_dim
        make = lambda outputs: Linear(config.width, outputs, rngs=rngs)
        self.q, self.k, self.v, self.gate = make(inner), make(inner), make(inner), make(inner)
        decays = RULES[config.rule].decays
        if decays == "channel":
            self.decay_in = Linear(config.width, config.head_dim, rngs=rngs, axes=(None, None))
            self.decay = Linear(config.head_dim, inner, rngs=rngs)
        elif decays:
            self.decay = make(config.heads)
        self.beta = make(config.heads)
        if RULES[config.rule].momentum:
            self.momentum = make(config.heads)
        self.out = Linear(inner, config.width, rngs=rngs, scale=config.output_scale, axes=("tensor", None))
        if config.conv == "dynamic":
            self.dynamic_conv = DynamicConv(config, rngs)
        else:
            shape = (config.conv_width, config.conv_channels)
            self.conv = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * config.conv_width**-0.5)
        if decays:
            rate, step = decay_start(config, rngs)
            step = jnp.repeat(step, config.head_dim) if decays == "channel" else step
            self.decay_rate = nnx.Param(jnp.log(rate))
            self.decay_bias = nnx.Param(step + jnp.log(-jnp.expm1(-step)))
        self.out_scale = nnx.Param(jnp.ones((config.head_dim,), jnp.float32))
        self.decays = decays
        self.config = config

    def _log_decay(self, step_BxTxN: jax.Array, mask_BxTx1: jax.Array) -> jax.Array:
        """[B, T, H], or [B, T, H, K] where channels decay on their own, from what was projected."""
        rate = -jnp.exp(self.decay_rate[...])[None, None]
        if self.decays == "channel":
            step_BxTxN, rate, mask_BxTx1 = self.decay(step_BxTxN), rate[..., None], mask_BxTx1[..., None]
        step = jax.nn.softplus(step_BxTxN.astype(jnp.float32) + self.decay_bias[...][None, None])
        step = rearrange(step, "b t (h d) -> b t h d", h=self.config.heads) if self.decays == "channel" else step
        return jnp.where(mask_BxTx1, rate * step, 0.0)

    def __call__(
        self, x_BxTxD: jax.Array, valid_BxT: jax.Array, fast_weights_BxHxKxV: jax.Array, tail_BxWxC: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the output [B, T, D], the fast weights after the T tokens and the convolution's tail."""
        heads = lambda x: rearrange(x, "b t (h d) -> b t h d", h=self.config.heads)
        mask_BxTx1 = valid_BxT[:, :, None]
        forget = [self.decay_in if self.decays == "channel" else self.decay] if self.decays else []
        q, k, v, gate, *step, beta = together(x_BxTxD, self.q, self.k, self.v, self.gate, *forget, self.beta)
        mixed = jnp.concatenate([q, k, v], axis=-1)
        mixed = jnp.where(mask_BxTx1, mixed, jnp.zeros_like(mixed))
        if self.config.conv == "dynamic":
            q, k, v = jnp.split(mixed, 3, axis=-1)
            v, tail_BxWxC = self.dynamic_conv(x_BxTxD, v, tail_BxWxC)
            mixed = jnp.concatenate([q, k, v], axis=-1)
        else:
            mixed, tail_BxWxC = causal_conv1d(mixed, self.conv[...].astype(mixed.dtype), initial_state=tail_BxWxC)
        q, k, v = (constrain(heads(x), BATCH, None, "tensor", None) for x in jnp.split(jax.nn.silu(mixed), 3, axis=-1))
        q, k = l2_norm(q), l2_norm(k)
        k, v = (jnp.where(mask_BxTx1[..., None], a, jnp.zeros_like(a)) for a in (k, v))
        log_decay = self._log_decay(*step, mask_BxTx1) if step else None
        if RULES[self.config.rule].momentum:
            log_momentum = jnp.where(mask_BxTx1, jax.nn.log_sigmoid(self.momentum(x_BxTxD).astype(jnp.float32)), 0.0)
            applied = jnp.broadcast_to(mask_BxTx1, log_decay.shape).astype(jnp.float32)
            log_decay = jnp.stack([log_decay, log_momentum, applied], axis=-1)
        beta = self.config.beta_max * jax.nn.sigmoid(beta.astype(jnp.float32))
        beta = jnp.where(mask_BxTx1, beta, 0.0)
        rule = over_batch_and_heads(rule_of(self.config.rule, x_BxTxD.shape[1]))
        read, fast_weights_BxHxKxV = rule(q, k, v, log_decay=log_decay, beta=beta, initial_state=fast_weights_BxHxKxV)
        read = rms_norm(read, self.out_scale[...]) * jax.nn.silu(heads(gate))
        return self.out(rearrange(read, "b t h d -> b t (h d)")), fast_weights_BxHxKxV, tail_BxWxC
