"""Both fast-weight rules as Mosaic kernels for Hopper GPUs: padding, operands and derivatives; the bodies are in mosaic_gpu_kernels.py.

Four kernels: `prepare` and `gradients` take one chunk of one head a thread block, `forward` and `reverse` walk the chunks of one
head and of some columns of its state. Dimension letters as in chunked.py.
"""
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from sleepnet_kernels import log_decays
from sleepnet_kernels import mosaic_gpu_kernels as kernels
from sleepnet_kernels import mosaic_gpu_launch as launch
from sleepnet_kernels.betas import never_zero
from sleepnet_kernels.mosaic_gpu_launch import C, COLUMNS
from sleepnet_kernels.mosaic_gpu_ops import F32

# Widths are padded to a multiple of C; wider states have not been compiled.
WIDEST = 128


def mosaic_gpu_rule(q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, log_decay_BxTxH, beta_BxTxH, initial_state_BxHxKxV, *, delta: bool, interpret=None):
    """Runs the gated delta rule (`delta`) or the gated Hebbian rule as kernels for a Hopper GPU; q, k and v in bfloat16.

    Args:
      interpret: None compiles; an `InterpretGPUParams` of JAX runs the kernels on any platform, slowly.

    Returns:
      output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.
    """
    (b, t, h, dk), dv = q_BxTxHxK.shape, v_BxTxHxV.shape[-1]

    def padded(x_BxTxHxD):
        # Zero keys, values, beta and log-decay leave the state as it is.
        return jnp.pad(x_BxTxHxD, [(0, 0), (0, -t % C), (0, 0), (0, -x_BxTxHxD.shape[-1] % C)])

    def by_head(x_BxTxH):
        return jnp.pad(x_BxTxH.astype(F32).swapaxes(1, 2), [(0, 0), (0, 0), (0, -t % C)])

    state = jnp.pad(initial_state_BxHxKxV, [(0, 0), (0, 0), (0, -dk % C), (0, -dv % C)])
    operands = (padded(q_BxTxHxK), padded(k_BxTxHxK), padded(v_BxTxHxV), by_head(log_decay_BxTxH), by_head(beta_BxTxH), state)
    output, final_state = _walk(launch.Static(delta, interpret), *operands)
    return output[:, :t, :, :dv], final_state[:, :, :dk, :dv]


def refuses(q, k, v, log_decay, beta, initial_state, segment_ids=None) -> str | None:
    """Says why the kernels can't run these arguments; None where they can."""
    del log_decay, beta, initial_state
    if segment_ids is not None:
        return "it has no segment_ids; 'xla_chunked' has"
    if any(x.dtype != jnp.bfloat16 for x in (q, k, v)):
        return "q, k and v must be bfloat16: tensor cores keep ten bits of a float32"
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return f"widths of keys and values must be at most {WIDEST}"
    return None


def refuses_device(device) -> str | None:
    """Says why the kernels can't run on a GPU; None where they can, and of one that is described without its compute capability."""
    capability = getattr(device, "compute_capability", "9.0")
    if not capability.startswith("9."):
        return f"the tensor cores of Hopper, compute capability 9.0, are needed, and this GPU has {capability}"
    return None


def _cumulated(log_decay_BxHxT):
    g, lost = log_decays.cumulated(log_decay_BxHxT.reshape(*log_decay_BxHxT.shape[:2], -1, C))
    return (g + lost).reshape(log_decay_BxHxT.shape)


# Traced once a shape, however often a model calls it.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(static, save, q, k, v, log_decay, beta, state):
    """Returns the output, the final state, and where `save` what the derivative needs, by name."""
    (b, t, h, dk), dv, width = q.shape, v.shape[-1], min(COLUMNS, v.shape[-1])
    pairs, values = jax.ShapeDtypeStruct((b, h, t, C), q.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)
    inputs = {"q": launch.of_tokens(q), "k": launch.of_tokens(k), "g": launch.of_gates(_cumulated(log_decay)), "beta": launch.of_gates(beta)}
    names = ("scores", "inverse") if static.delta else ("scores",)
    other = {"other": (C, C)} if static.delta else {}
    prepared = launch.chunk_by_chunk(static, "prepare", kernels.prepare, inputs, {name: launch.of_pairs(pairs) for name in names}, other)
    inputs |= {"v": launch.of_tokens(v, width)} | {name: launch.of_pairs(x) for name, x in prepared.items()}
    outputs, scratch = {"output": launch.of_tokens(values, width)}, {"stage": (C, width)}
    kept = {"states": launch.of_states(jax.ShapeDtypeStruct((b, h, t // C * dk, dv), q.dtype), dk, width)}
    if static.delta:
        kept["updates"] = launch.of_tokens(values, width)
    if save:
        outputs |= kept
    else:
        scratch |= {name: x.block for name, x in kept.items()}
    made, final_state = launch.in_order(static, "forward_saving" if save else "forward", kernels.forward, inputs, outputs, state, scratch)
    return made.pop("output"), final_state, prepared | made if save else {}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(static, *operands):
    return _forward(static, False, *operands)[:2]


def _walk_fwd(static, *operands):
    output, final_state, saved = _forward(static, True, *operands)
    names = {"states": "chunk_states", "inverse": "chunk_inverses", "scores": "chunk_scores", "updates": "chunk_updates"}
    return (output, final_state), (operands[:-1], {name: checkpoint_name(x, names[name]) for name, x in saved.items()})


@functools.partial(jax.jit, static_argnums=0)
def _walk_bwd(static, residuals, cotangents):
    (q, k, v, log_decay, beta), saved = residuals
    d_output, d_final_state = cotangents
    (b, t, h, dk), dv, width = q.shape, v.shape[-1], min(COLUMNS, v.shape[-1])
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    g = _cumulated(log_decay)
    inputs = {"q": launch.of_tokens(q), "k": launch.of_tokens(k), "g": launch.of_gates(g), "beta": launch.of_gates(beta)}
    pairs = {name: launch.of_pairs(saved[name]) for name in ("scores", "inverse") if name in saved}
    outputs = {"d_v": launch.of_tokens(like(v), width), "d_states": launch.of_states(like(saved["states"]), dk, width)}
    scratch = {"stage": (C, width), "other": (C, width)} if static.delta else {"stage": (C, width)}
    walk_inputs = inputs | pairs | {"d_output": launch.of_tokens(d_output, width)}
    made, d_state = launch.in_order(static, "reverse", kernels.reverse, walk_inputs, outputs, d_final_state, scratch, backwards=True)

    whole = {"updates": saved.get("updates", v), "d_output": d_output} | ({"d_v": made["d_v"]} if static.delta else {})
    inputs |= {name: launch.of_tokens(x) for name, x in whole.items()}
    inputs |= {name: launch.of_states(x, dk) for name, x in (("states", saved["states"]), ("d_states", made["d_states"]))}
    outputs = {"d_q": launch.of_tokens(like(q)), "d_k": launch.of_tokens(like(k))}
    outputs |= {name: launch.of_gates(like(g)) for name in ("read", "was_read", "written", "d_beta")}
    scratch = {"d_qk": (C, C), "d_kk": (C, C)} if static.delta else {"d_qk": (C, C)}
    found = launch.chunk_by_chunk(static, "gradients", kernels.gradients, inputs, outputs, scratch)

    by_chunk = lambda x: x.reshape(b, h, -1, C)
    in_states = [x.astype(F32).reshape(b, h, -1, dk * dv) for x in (saved["states"], made["d_states"])]
    kept = jnp.exp(by_chunk(g)[..., -1]) * jnp.sum(in_states[0] * in_states[1], axis=-1)
    # Each side is summed on its own, as in chunked.py: what was written before a token, the state included, and what is read from it on.
    written = jnp.concatenate([kept[..., None], by_chunk(beta * found["written"])[..., :-1]], axis=-1)
    d_log_decay = lax.cumsum(by_chunk(found["read"] - found["was_read"]), axis=3, reverse=True) + jnp.cumsum(written, axis=-1)
    d_log_decay = log_decays.gradient(log_decay, d_log_decay.reshape(g.shape))
    d_beta = found["d_beta"] / never_zero(beta) if static.delta else found["d_beta"] + found["written"]
    return found["d_q"], found["d_k"], made["d_v"], d_log_decay, d_beta, d_state


_walk.defvjp(_walk_fwd, _walk_bwd)
