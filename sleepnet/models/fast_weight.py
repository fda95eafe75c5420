"""The SSM block's mixer: short convolution, gates, fast-weight rule (Gated DeltaNet; Yang et al., arXiv 2412.06464)."""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from sleepnet_kernels import causal_conv1d

from sleepnet import rules
from sleepnet.config import ModelConfig
from sleepnet.mesh import BATCH, constrain, over_batch_and_heads
from sleepnet.models.dynamic_conv import DynamicConv
from sleepnet.models.linear import Linear, together
from sleepnet.models.norms import l2_norm, rms_norm


def _called(rule: rules.Rule, function: Callable) -> Callable:
    """`function` with the gates that the rule takes; a momentum's come as log_decay [..., 3]: log_decay, log_momentum, applied."""

    def call(q, k, v, *, log_decay, beta, initial_state):
        if rule.momentum:
            log_decay, log_momentum, applied = (log_decay[..., i] for i in range(3))
            return function(q, k, v, log_decay=log_decay, log_momentum=log_momentum, beta=beta, applied=applied, initial_state=initial_state)
        decays = {"log_decay": log_decay} if rule.decays else {}
        return function(q, k, v, **decays, beta=beta, initial_state=initial_state)

    return call


def rule_of(name: str, tokens: int) -> Callable:
    """`f(q, k, v, log_decay=, beta=, initial_state=)` for so many tokens; decoding takes one at a time, for which there is a form without chunks.

    Raises:
      ValueError: what a rule returned is not shaped as it must be.
    """
    rule = rules.get(name)
    single = tokens == 1 and rule.token is not None
    where = rule.token if single else rule.window
    function = _called(rule, rules.find(where) if isinstance(where, str) else where)

    def call(q, k, v, *, log_decay, beta, initial_state):
        given = (q, k, v, log_decay, beta)
        q_, k_, v_, log_decay, beta = jax.tree.map(lambda x: x[:, 0], given) if single else given
        read, state = function(q_, k_, v_, log_decay=log_decay, beta=beta, initial_state=initial_state)
        read = read[:, None] if single else read
        if read.shape != v.shape or (state.shape, state.dtype) != (initial_state.shape, initial_state.dtype):
            raise ValueError(
                f"model.rule={name!r} returned {read.dtype}{list(read.shape)} and {state.dtype}{list(state.shape)}; it must return what it read, "
                f"{list(v.shape)}, and the state, {initial_state.dtype}{list(initial_state.shape)}"
            )
        return read, state

    return call


def decay_start(config: ModelConfig, rngs: nnx.Rngs) -> tuple[jax.Array, jax.Array]:
    """The first values of exp(a) and softplus(b), [H] each; their product is what a head forgets per token, in nats.

    `windows`: exp(a) = 1; 1/8 … 1/128 in a whole window, geometric over the heads. S is written N times and must outlive that.
    `mamba2`:  exp(a) 1 … 16, linear over the heads; softplus(b) 0.001 … 0.1, log-uniform (Dao and Gu, arXiv 2405.21060). A head that
               starts with a large product forgets most of S within a window, and whether any other remembers is luck.
    """
    heads = config.value_shape[0]
    if config.decay_start == "windows":
        return jnp.ones((heads,), jnp.float32), 1.0 / (config.window * jnp.geomspace(8.0, 128.0, heads, dtype=jnp.float32))
    step = jnp.exp(jax.random.uniform(rngs.params(), (heads,), jnp.float32, jnp.log(1e-3), jnp.log(1e-1)))
    return jnp.linspace(1.0, 16.0, heads, dtype=jnp.float32), step


def _tail(before_BxPxC: jax.Array, inputs_BxTxC: jax.Array, newest) -> jax.Array:
    """The last P inputs behind the first `newest` of T."""
    extended = jnp.concatenate([before_BxPxC, inputs_BxTxC], axis=1)
    return jax.lax.dynamic_slice_in_dim(extended, newest, before_BxPxC.shape[1], axis=1)


class FastWeightMixer(nnx.Module):
    """`q, k, v = silu(conv(W x))`, q and k of unit length (q times K^−½ with `scale_queries`), then the rule, a gated norm and the projection back.

    q and k have G heads, all else H: H / G consecutive heads share one of q and k.
    log_decay = −exp(a) · softplus(W_a x + b)  and  beta = beta_max · sigmoid(W_b x), one of each per head and token. A rule that
    decays by channel has one log_decay for each, a one per head, and W_a of rank V (Kimi Linear, arXiv 2510.26692); each
    channel starts as its head would. A rule without decay has no W_a, a and b. A dynamic convolution is over v alone.
    log_momentum = log σ(W_m x), one per head. Where `valid` is False all are 0: the token neither writes nor decays S.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        (heads, value_dim), key_dim = config.value_shape, config.key_shape[1]
        keys, inner = math.prod(config.key_shape), heads * value_dim
        make = lambda outputs: Linear(config.width, outputs, rngs=rngs)
        self.q, self.k, self.v, self.gate = make(keys), make(keys), make(inner), make(inner)
        decays = rules.get(config.rule).decays
        if decays == "channel":
            self.decay_in = Linear(config.width, value_dim, rngs=rngs, axes=(None, None))
            self.decay = Linear(value_dim, heads * key_dim, rngs=rngs)
        elif decays:
            self.decay = make(heads)
        self.beta = make(heads)
        if rules.get(config.rule).momentum:
            self.momentum = make(heads)
        self.out = Linear(inner, config.width, rngs=rngs, scale=config.output_scale, axes=("tensor", None))
        if config.conv == "dynamic":
            self.dynamic_conv = DynamicConv(config, rngs)
        else:
            shape = (config.conv_width, config.conv_channels)
            self.conv = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * config.conv_width**-0.5)
        if decays:
            rate, step = decay_start(config, rngs)
            step = jnp.repeat(step, key_dim) if decays == "channel" else step
            self.decay_rate = nnx.Param(jnp.log(rate))
            self.decay_bias = nnx.Param(step + jnp.log(-jnp.expm1(-step)))
        self.out_scale = nnx.Param(jnp.ones((value_dim,), jnp.float32))
        self.decays = decays
        self.config = config

    def _log_decay(self, step_BxTxN: jax.Array, mask_BxTx1: jax.Array) -> jax.Array:
        """[B, T, H], or [B, T, H, K] where channels decay on their own, from what was projected."""
        rate = -jnp.exp(self.decay_rate[...])[None, None]
        if self.decays == "channel":
            step_BxTxN, rate, mask_BxTx1 = self.decay(step_BxTxN), rate[..., None], mask_BxTx1[..., None]
        step = jax.nn.softplus(step_BxTxN.astype(jnp.float32) + self.decay_bias[...][None, None])
        step = rearrange(step, "b t (h d) -> b t h d", h=self.config.value_shape[0]) if self.decays == "channel" else step
        return jnp.where(mask_BxTx1, rate * step, 0.0)

    def __call__(
        self, x_BxTxD: jax.Array, valid_BxT: jax.Array, fast_weights_BxHxKxV: jax.Array, tail_BxWxC: jax.Array | None, newest=None, onto_BxHxKxV=None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the output [B, T, D], the fast weights after the T tokens and the convolution's tail: behind `newest` tokens where that is given.

        With `onto` the output is read as ever, and the fast weights are those that the same writes leave of `onto`.
        """
        config = self.config
        heads = lambda x, width: rearrange(x, "b t (h d) -> b t h d", d=width)
        mask_BxTx1, keys, before = valid_BxT[:, :, None], math.prod(config.key_shape), tail_BxWxC
        forget = [self.decay_in if self.decays == "channel" else self.decay] if self.decays else []
        q, k, v, gate, *step, beta = together(x_BxTxD, self.q, self.k, self.v, self.gate, *forget, self.beta)
        mixed = jnp.concatenate([q, k, v], axis=-1)
        mixed = jnp.where(mask_BxTx1, mixed, jnp.zeros_like(mixed))
        remembered = mixed
        if config.conv == "dynamic":
            q, k, v = jnp.split(mixed, [keys, 2 * keys], axis=-1)
            remembered = v
            v, tail_BxWxC = self.dynamic_conv(x_BxTxD, v, tail_BxWxC)
            mixed = jnp.concatenate([q, k, v], axis=-1)
        else:
            mixed, tail_BxWxC = causal_conv1d(mixed, self.conv[...].astype(mixed.dtype), initial_state=tail_BxWxC)
        if newest is not None:
            tail_BxWxC = _tail(before, remembered, newest)
        widths = (config.key_shape[1], config.key_shape[1], config.value_shape[1])
        parts = jnp.split(jax.nn.silu(mixed), [keys, 2 * keys], axis=-1)
        q, k, v = (constrain(heads(x, width), BATCH, None, "tensor", None) for x, width in zip(parts, widths))
        q, k = l2_norm(q), l2_norm(k)
        q = q * jnp.asarray(widths[0] ** -0.5, q.dtype) if config.scale_queries else q
        k, v = (jnp.where(mask_BxTx1[..., None], a, jnp.zeros_like(a)) for a in (k, v))
        log_decay = self._log_decay(*step, mask_BxTx1) if step else None
        if rules.get(config.rule).momentum:
            log_momentum = jnp.where(mask_BxTx1, jax.nn.log_sigmoid(self.momentum(x_BxTxD).astype(jnp.float32)), 0.0)
            applied = jnp.broadcast_to(mask_BxTx1, log_decay.shape).astype(jnp.float32)
            log_decay = jnp.stack([log_decay, log_momentum, applied], axis=-1)
        beta = config.beta_max * jax.nn.sigmoid(beta.astype(jnp.float32))
        beta = jnp.where(mask_BxTx1, beta, 0.0)
        rule = over_batch_and_heads(rule_of(config.rule, x_BxTxD.shape[1]))
        read, fast_weights_BxHxKxV = rule(q, k, v, log_decay=log_decay, beta=beta, initial_state=fast_weights_BxHxKxV)
        if onto_BxHxKxV is not None:
            _, fast_weights_BxHxKxV = rule(q, k, v, log_decay=log_decay, beta=beta, initial_state=onto_BxHxKxV)
        read = rms_norm(read, self.out_scale[...], config.gate_epsilon) * jax.nn.silu(heads(gate, widths[2]))
        return self.out(rearrange(read, "b t h d -> b t (h d)")), fast_weights_BxHxKxV, tail_BxWxC
