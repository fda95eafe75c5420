"""Both fast-weight rules as Mosaic kernels for TPUs: layout, block sizes and derivatives; the bodies are in mosaic_kernels.py.

Inputs stay as the caller has them, [B, T, H * D], and a grid step takes a block [C, heads * D] of one batch entry: nothing is
transposed. Dimension letters as in chunked.py; L counts the heads of one grid step and P the groups of L heads.
"""
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sleepnet_kernels import dispatch, log_decays, mosaic_kernels, platform_bound, segments

LANES = 128
# Rows of a packed bfloat16 tile: a shorter chunk would be padded to this many anyway.
ROWS = 16
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Blocks:
    """What one grid step takes.

    Attributes:
      chunk: tokens C, a multiple of 16.
      heads: heads forward, at most; the largest divisor of the head count up to it is taken.
      backward_heads: the same, backward.
      vmem_mib: the kernel's limit on scoped vector memory.
    """

    chunk: int
    heads: int
    backward_heads: int
    vmem_mib: int


def blocks_for(device_kind: str, dtype: jax.typing.DTypeLike, *, delta: bool) -> Blocks:
    """Returns the committed block sizes for a device kind, as in `jax.Device.device_kind`, the dtype of q, k and v, and the rule.

    The table's entries "default", "default delta DTYPE", "KIND" and "KIND delta DTYPE" (or hebbian) add up, later ones outdo earlier ones.
    """
    table = json.loads(pathlib.Path(__file__).with_name("block_sizes.json").read_text(encoding="utf-8"))
    chosen = {}
    for kind in ("default", device_kind):
        chosen |= table.get(kind, {}) | table.get(f"{kind} {'delta' if delta else 'hebbian'} {jnp.dtype(dtype).name}", {})
    return Blocks(**chosen)


def mosaic_rule(
    q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, log_decay_BxTxH, beta_BxTxH, initial_state_BxHxKxV, segment_ids_BxT=None, *, delta: bool,
    blocks: Blocks | None = None, interpret=False,
):
    """Runs the gated delta rule (`delta`) or the gated Hebbian rule as a TPU kernel.

    Args:
      blocks: None takes the table's for the device lowered for, the operands' dtype and the rule.
      interpret: False compiles; True or a `pltpu.InterpretParams` runs the kernel as ordinary operations on any platform.

    Returns:
      output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.
    """
    blocks = blocks_for(dispatch.device_kind(), q_BxTxHxK.dtype, delta=delta) if blocks is None else blocks
    (b, t, h, dk), dv = q_BxTxHxK.shape, v_BxTxHxV.shape[-1]
    c = min(blocks.chunk, -(-t // ROWS) * ROWS)
    if c % ROWS:
        raise ValueError(f"a chunk must be a multiple of {ROWS} tokens, given {c}")
    blocks = dataclasses.replace(blocks, chunk=c)

    def padded(x_BxTxHxD, width):
        # Zero keys, values, beta and log-decay leave the state as it is. A head starts at a lane that is a multiple of 128, so
        # that a block is cut at whole registers: heads of other widths would be rotated within the kernel, or not be lowered.
        x = jnp.pad(x_BxTxHxD, [(0, 0), (0, -t % c), (0, 0), (0, -width % LANES)])
        return x.reshape(b, x.shape[1], -1)

    def by_chunk(x_BxTxH):
        return jnp.pad(x_BxTxH.astype(jnp.float32), [(0, 0), (0, -t % c), (0, 0)]).reshape(b, -1, c, h)

    state = jnp.pad(initial_state_BxHxKxV, [(0, 0), (0, 0), (0, -dk % LANES), (0, -dv % LANES)])
    operands = (padded(q_BxTxHxK, dk), padded(k_BxTxHxK, dk), padded(v_BxTxHxV, dv))
    segments_BxNxC = None
    if segment_ids_BxT is not None:
        log_decay_BxTxH, segments_BxNxC = segments.decay_within(log_decay_BxTxH, segment_ids_BxT), segments.by_chunk(segment_ids_BxT, c)
    gates = (by_chunk(log_decay_BxTxH), by_chunk(beta_BxTxH))
    output, final_state = _walk(_Static(delta, blocks, interpret), segments_BxNxC, *operands, *gates, state)
    return output.reshape(b, -1, h, output.shape[-1] // h)[:, :t, :, :dv], final_state[:, :, :dk, :dv]


@dataclasses.dataclass(frozen=True)
class _Static:
    """What is known before tracing."""

    delta: bool
    blocks: Blocks
    interpret: bool | pltpu.InterpretParams

    @property
    def keywords(self):
        # XLA on a CPU refuses some products of bfloat16 with a float32 result: interpreted, operands are widened first.
        return {"delta": self.delta, "wide": bool(self.interpret)}


def _by_group(x_BxNxCxH, heads):
    """Returns [B, P, N, L, C]: a grid step's gates as rows, whose block covers whole axes and so fits any C and L."""
    b, n, c, h = x_BxNxCxH.shape
    return x_BxNxCxH.reshape(b, n, c, h // heads, heads).transpose(0, 3, 1, 4, 2)


def _gates(log_decay_BxNxCxH, beta_BxNxCxH, segments_BxNxC, heads, dtype):
    """Returns what the kernels take beside q, k and v, [B, P, N, 2 to 4, L, C]: cumulated log-decay, beta, and where they are needed two rows more.

    These are what rounding lost of the sums, for operands in float32 (in bfloat16 it is beside nothing), and segments of packed rows.
    """
    segments_BxNx1xC = None if segments_BxNxC is None else segments_BxNxC[:, :, None]
    g, lost = (jnp.swapaxes(x, 2, 3) for x in log_decays.cumulated(jnp.swapaxes(log_decay_BxNxCxH, 2, 3), segments_BxNx1xC))
    rows = [g, beta_BxNxCxH, lost] if dtype == jnp.float32 else [g + lost, beta_BxNxCxH]
    if segments_BxNxC is not None:
        rows.append(jnp.broadcast_to(segments_BxNxC[..., None].astype(jnp.float32), beta_BxNxCxH.shape))
    return jnp.stack([_by_group(x, heads) for x in rows], axis=3)


def _restarting(x_BxNxCxH, segments_BxNxC, *, reverse=False):
    """Sums along C from each segment's beginning, or from its end."""
    return jnp.swapaxes(segments.sums(jnp.swapaxes(x_BxNxCxH, 2, 3), segments_BxNxC[:, :, None], reverse=reverse), 2, 3)


def _from_group(x_BxPxNxLxC):
    b, p, n, heads, c = x_BxPxNxLxC.shape
    return x_BxPxNxLxC.transpose(0, 2, 4, 1, 3).reshape(b, n, c, p * heads)


def _specs(c, heads, dk, dv, gates, order):
    """Returns the blocks by name; `gates` is how many rows they have, `order` maps a grid step to the chunk it works on."""
    spec = lambda shape, index: pl.BlockSpec(shape, index)
    tokens = lambda width: spec((None, c, heads * width), lambda b, p, n: (b, order(n), p))
    return {
        "keys": tokens(dk),
        "values": tokens(dv),
        "gates": spec((None, None, None, gates, heads, c), lambda b, p, n: (b, p, order(n), 0, 0, 0)),
        "d_gates": spec((None, None, None, 3, heads, c), lambda b, p, n: (b, p, order(n), 0, 0, 0)),
        "state": spec((None, heads, dk, dv), lambda b, p, n: (b, p, 0, 0)),
        "states": spec((None, None, heads, dk, dv), lambda b, p, n: (b, order(n), p, 0, 0)),
        "inverses": spec((None, None, heads, c, c), lambda b, p, n: (b, order(n), p, 0, 0)),
    }


def _sizes(q_BxTxX, v_BxTxX, log_decay_BxNxCxH, at_most):
    b, n, c, h = log_decay_BxNxCxH.shape
    heads = max(size for size in range(1, min(h, at_most) + 1) if h % size == 0)
    return b, n, c, h, heads, q_BxTxX.shape[-1] // h, v_BxTxX.shape[-1] // h


def _call(body, static, name, grid, in_specs, out_specs, out_shape, scratch, flops, inputs):
    """Calls a kernel that walks the last grid axis in order; every byte of its inputs and outputs is moved once."""
    moved = sum(x.size * x.dtype.itemsize for x in (*inputs, *out_shape))
    exponentials = grid[0] * grid[1] * grid[2] * scratch[0] * static.blocks.chunk**2
    kernel = pl.pallas_call(
        body,
        out_shape=out_shape,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=0, grid=grid, in_specs=in_specs, out_specs=out_specs, scratch_shapes=[pltpu.VMEM(scratch, jnp.float32)]
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=static.blocks.vmem_mib * MIB
        ),
        cost_estimate=pl.CostEstimate(flops=flops, bytes_accessed=moved, transcendentals=exponentials),
        interpret=static.interpret,
        name=name,
    )
    return kernel(*inputs) if static.interpret else platform_bound.alone("tpu", kernel, *inputs)


# Traced once a shape, however often a model calls it.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(static, save, segments_BxNxC, q, k, v, log_decay_BxNxCxH, beta_BxNxCxH, state):
    b, n, c, h, heads, dk, dv = _sizes(q, v, log_decay_BxNxCxH, static.blocks.heads)
    gates = _gates(log_decay_BxNxCxH, beta_BxNxCxH, segments_BxNxC, heads, q.dtype)
    specs = _specs(c, heads, dk, dv, gates.shape[3], lambda n: n)
    out = {"values": jax.ShapeDtypeStruct(v.shape, v.dtype), "state": jax.ShapeDtypeStruct(state.shape, jnp.float32)}
    if save:
        out["states"] = jax.ShapeDtypeStruct((b, n, h, dk, dv), q.dtype)
        if static.delta:
            out["inverses"] = jax.ShapeDtypeStruct((b, n, h, c, c), q.dtype)
    # The inverse has two products a level but the first, and four more to refine.
    products = (2 * (c - 1).bit_length() + 2 if static.delta else 0) * c**3 + c * c * (dk + dv) + 2 * c * dk * dv
    products += c * c * (dk + dv) + c * dk * dv if static.delta else 0
    return _call(
        functools.partial(mosaic_kernels.forward, save=save, **static.keywords), static,
        f"fast_weights_{'delta' if static.delta else 'hebbian'}_forward", (b, h // heads, n),
        [specs[name] for name in ("keys", "keys", "values", "gates", "state")], [specs[name] for name in out], list(out.values()),
        (heads, dk, dv), 2 * b * n * h * products, (q, k, v, gates, state),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(static, segments_BxNxC, *operands):
    return tuple(_forward(static, False, segments_BxNxC, *operands))


def _walk_fwd(static, segments_BxNxC, *operands):
    output, final_state, *residuals = _forward(static, True, segments_BxNxC, *operands)
    named = [checkpoint_name(x, name) for x, name in zip(residuals, ("chunk_states", "chunk_inverses"))]
    return (output, final_state), (segments_BxNxC, operands[:-1], named)


@functools.partial(jax.jit, static_argnums=0)
def _walk_bwd(static, residuals, cotangents):
    segments_BxNxC, (q, k, v, log_decay_BxNxCxH, beta_BxNxCxH), saved = residuals
    d_output, d_final_state = cotangents
    b, n, c, h, heads, dk, dv = _sizes(q, v, log_decay_BxNxCxH, static.blocks.backward_heads)
    gates = _gates(log_decay_BxNxCxH, beta_BxNxCxH, segments_BxNxC, heads, q.dtype)
    specs = _specs(c, heads, dk, dv, gates.shape[3], lambda step: n - 1 - step)
    d_gates = jax.ShapeDtypeStruct((b, h // heads, n, 3, heads, c), jnp.float32)
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    products = c * c * (3 * dk + 2 * dv) + 4 * c * dk * dv
    products += c * c * (3 * dk + 3 * dv) + 3 * c * dk * dv if static.delta else 0
    inputs = (q, k, v, gates, *saved, d_output, d_final_state)
    names = ("keys", "keys", "values", "gates", "states", *(("inverses",) if static.delta else ()), "values", "state")
    d_q, d_k, d_v, d_gates, d_state = _call(
        functools.partial(mosaic_kernels.backward, **static.keywords), static,
        f"fast_weights_{'delta' if static.delta else 'hebbian'}_backward", (b, h // heads, n), [specs[name] for name in names],
        [specs[name] for name in ("keys", "keys", "values", "d_gates", "state")], [*like, d_gates, d_final_state],
        (heads, dk, dv), 2 * b * n * h * products, inputs,
    )
    read, written, d_beta = (_from_group(d_gates[:, :, :, i]) for i in range(3))
    # Each side is summed on its own, as in chunked.py: what was written before a token, the state included, and what is read from it on.
    d_read = jax.lax.cumsum(read, axis=2, reverse=True) if segments_BxNxC is None else _restarting(read, segments_BxNxC, reverse=True)
    d_log_decay = d_read + jax.lax.cumsum(jnp.roll(written, 1, axis=2), axis=2)
    d_log_decay = log_decays.gradient(log_decay_BxNxCxH, d_log_decay)
    return None, d_q, d_k, d_v, d_log_decay, d_beta, d_state


_walk.defvjp(_walk_fwd, _walk_bwd)
