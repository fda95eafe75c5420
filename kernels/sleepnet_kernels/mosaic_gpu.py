"""Both fast-weight rules as Mosaic kernels for Hopper GPUs: layout, launches and derivatives; the bodies are in mosaic_gpu_kernels.py.

Four kernels: `prepare` and `gradients` take one chunk of one head a thread block, `forward` and `reverse` walk the chunks of one
head and of some columns of its state. Blocks are copied out of [B, T, H, D] as the caller has it. Dimension letters as in
chunked.py.
"""
import dataclasses
import functools
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sleepnet_kernels import mosaic_gpu_kernels as kernels
from sleepnet_kernels.mosaic_gpu_ops import F32, Ops

# A chunk is as many tokens as one product of a warpgroup has rows, and as one swizzled row of bfloat16 has columns.
C = 64
# Widths are padded to a multiple of C; wider states have not been compiled.
WIDEST = 128
# Columns of the state that a thread block keeps in registers, and chunks whose blocks are in shared memory at once.
COLUMNS = 64
STEPS = 2


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
    output, final_state = _walk(_Static(delta, interpret), *operands)
    return output[:, :t, :, :dv], final_state[:, :, :dk, :dv]


def refuses(q, k, v, log_decay, beta, initial_state, segment_ids=None) -> str | None:
    """Says why the kernels can't run these arguments, or this process's GPU can't run the kernels; None where they can."""
    del log_decay, beta, initial_state
    if segment_ids is not None:
        return "it has no segment_ids yet"
    if any(x.dtype != jnp.bfloat16 for x in (q, k, v)):
        return "q, k and v must be bfloat16: tensor cores keep ten bits of a float32"
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return f"widths of keys and values must be at most {WIDEST}"
    capability = getattr(jax.devices()[0], "compute_capability", "9.0")
    if jax.default_backend() == "gpu" and not capability.startswith("9."):
        return f"the tensor cores of Hopper, compute capability 9.0, are needed, and this GPU has {capability}"
    return None


@dataclasses.dataclass(frozen=True)
class _Static:
    """What is known before tracing."""

    delta: bool
    interpret: object

    @property
    def ops(self):
        return Ops(plain=self.interpret is not None)


@dataclasses.dataclass(frozen=True)
class _Operand:
    """An array in global memory, or what is to become one.

    Attributes:
      like: its shape and dtype.
      block: what a chunk takes of it, after batch entry and head are chosen.
      cut: from its reference, batch entry, head and columns to what one head has of it.
    """

    like: jax.typing.ArrayLike | jax.ShapeDtypeStruct
    block: tuple[int, ...]
    cut: Callable


def _of_tokens(x_BxTxHxD, width=None):
    """A block of whole rows, or of the columns that a thread block walks with where `width` says how many."""
    if width is None:
        return _Operand(x_BxTxHxD, (C, x_BxTxHxD.shape[-1]), lambda ref, row, head, columns: ref.at[row, :, head])
    return _Operand(x_BxTxHxD, (C, width), lambda ref, row, head, columns: ref.at[row, :, head, columns])


def _of_gates(x_BxHxT):
    return _Operand(x_BxHxT, (C,), lambda ref, row, head, columns: ref.at[row, head])


def _of_pairs(x_BxHxTxC):
    return _Operand(x_BxHxTxC, (C, C), lambda ref, row, head, columns: ref.at[row, head])


def _of_states(x_BxHxNKxV, dk, width=None):
    if width is None:
        return _Operand(x_BxHxNKxV, (dk, x_BxHxNKxV.shape[-1]), lambda ref, row, head, columns: ref.at[row, head])
    return _Operand(x_BxHxNKxV, (dk, width), lambda ref, row, head, columns: ref.at[row, head, :, columns])


def _launch(static, name, body, grid, out_types, scratch, inputs):
    keywords = {} if static.interpret is None else {"interpret": static.interpret}
    return plgpu.kernel(
        body, out_type=out_types, scratch_types=scratch, grid=grid, grid_names=("block", "head", "row"), kernel_name=f"fast_weights_{'delta' if static.delta else 'hebbian'}_{name}",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane), **keywords,
    )(*inputs)


def _chunk_by_chunk(static, name, body, inputs, outputs, scratch):
    """Calls `body` on every chunk of every head at once, with blocks by name; vectors stay in global memory."""
    names = (*inputs, *outputs)
    operands = {**inputs, **outputs}
    b, h, t = inputs["g"].like.shape
    in_shared = [n for n in names if len(operands[n].block) == 2]

    def kernel(*refs):
        refs, shared, barrier = refs[: len(names)], refs[len(names) : -1], refs[-1]
        n, head, row = (lax.axis_index(axis) for axis in ("block", "head", "row"))
        cut = {x: operands[x].cut(ref, row, head, None).at[pl.ds(n * operands[x].block[0], operands[x].block[0])] for x, ref in zip(names, refs)}
        blocks = cut | dict(zip((*in_shared, *scratch), shared))
        copied = [x for x in inputs if x in in_shared]
        for x in copied:
            plgpu.copy_gmem_to_smem(cut[x], blocks[x], barrier)
        plgpu.barrier_wait(barrier)
        body(static.ops, types.SimpleNamespace(**blocks), delta=static.delta)
        for x in outputs:
            if x in in_shared:
                plgpu.copy_smem_to_gmem(blocks[x], cut[x])
        plgpu.wait_smem_to_gmem(0)

    arrivals = sum(x in in_shared for x in inputs)
    memory = [static.ops.block(*operands[x].block) for x in in_shared] + [static.ops.block(*x) for x in scratch.values()]
    types_out = [jax.ShapeDtypeStruct(x.like.shape, x.like.dtype) for x in outputs.values()]
    grid = (t // C, h, b)
    made = _launch(static, name, kernel, grid, types_out, [*memory, plgpu.Barrier(num_arrivals=arrivals)], [x.like for x in inputs.values()])
    return dict(zip(outputs, made))


def _in_order(static, name, body, inputs, outputs, state, scratch, *, backwards=False):
    """Walks the chunks of every head with the state in registers; returns the outputs by name and the last state."""
    (b, h, dk, dv), chunks = state.shape, inputs["g"].like.shape[-1] // C
    width = min(COLUMNS, dv)

    at = (lambda n: chunks - 1 - n) if backwards else (lambda n: n)
    specs = [static.ops.spec(x.block, lambda n, axes=len(x.block): (at(n), *(0,) * (axes - 1))) for x in inputs.values()]

    def kernel(*refs):
        refs = list(refs)
        block, head, row = (lax.axis_index(axis) for axis in ("block", "head", "row"))
        columns = pl.ds(block * width, width)
        take = lambda operands: [x.cut(refs.pop(0), row, head, columns) for x in operands.values()]
        given = take(inputs)
        initial_ref = refs.pop(0)
        made, last_ref = take(outputs), refs.pop(0)
        buffers = dict(zip((*outputs, *scratch), refs))

        def step(indices, *blocks_and_state):
            *blocks, carried = blocks_and_state
            slot = lax.rem(indices[0], STEPS)
            mine = {name: ref.at[slot] if name in outputs else ref for name, ref in buffers.items()}
            # What was left in this slot is on its way before it is written again.
            plgpu.wait_smem_to_gmem(STEPS - 1, wait_read_only=True)
            carried = body(static.ops, carried, types.SimpleNamespace(**mine, **dict(zip(inputs, blocks))), delta=static.delta)
            plgpu.commit_smem()
            for (name, x), ref in zip(outputs.items(), made):
                plgpu.copy_smem_to_gmem(mine[name], ref.at[pl.ds(at(indices[0]) * x.block[0], x.block[0])], commit_group=False)
            plgpu.commit_smem_to_gmem_group()
            return carried

        pipeline = plgpu.emit_pipeline(
            step, grid=(chunks,), in_specs=specs, max_concurrent_steps=STEPS, init_carry=static.ops.matrix(initial_ref.at[row, head, :, columns])
        )
        last_ref.at[row, head, :, columns][...] = pipeline(*given)
        plgpu.wait_smem_to_gmem(0)

    memory = [static.ops.block(STEPS, *x.block) for x in outputs.values()] + [static.ops.block(*x) for x in scratch.values()]
    types_out = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*(y.like for y in outputs.values()), state)]
    given = [*(x.like for x in inputs.values()), state]
    *made, last = _launch(static, name, kernel, (dv // width, h, b), types_out, memory, given)
    return dict(zip(outputs, made)), last


def _cumulated(log_decay_BxHxT):
    return jnp.cumsum(log_decay_BxHxT.reshape(*log_decay_BxHxT.shape[:2], -1, C), axis=-1).reshape(log_decay_BxHxT.shape)


# Traced once a shape, however often a model calls it.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(static, save, q, k, v, log_decay, beta, state):
    """Returns the output, the final state, and where `save` what the derivative needs, by name."""
    (b, t, h, dk), dv, width = q.shape, v.shape[-1], min(COLUMNS, v.shape[-1])
    pairs, values = jax.ShapeDtypeStruct((b, h, t, C), q.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)
    inputs = {"q": _of_tokens(q), "k": _of_tokens(k), "g": _of_gates(_cumulated(log_decay)), "beta": _of_gates(beta)}
    names = ("scores", "inverse") if static.delta else ("scores",)
    other = {"other": (C, C)} if static.delta else {}
    prepared = _chunk_by_chunk(static, "prepare", kernels.prepare, inputs, {name: _of_pairs(pairs) for name in names}, other)
    inputs |= {"v": _of_tokens(v, width)} | {name: _of_pairs(x) for name, x in prepared.items()}
    outputs, scratch = {"output": _of_tokens(values, width)}, {"stage": (C, width)}
    kept = {"states": _of_states(jax.ShapeDtypeStruct((b, h, t // C * dk, dv), q.dtype), dk, width)}
    if static.delta:
        kept["updates"] = _of_tokens(values, width)
    if save:
        outputs |= kept
    else:
        scratch |= {name: x.block for name, x in kept.items()}
    made, final_state = _in_order(static, "forward_saving" if save else "forward", kernels.forward, inputs, outputs, state, scratch)
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
    inputs = {"q": _of_tokens(q), "k": _of_tokens(k), "g": _of_gates(g), "beta": _of_gates(beta)}
    pairs = {name: _of_pairs(saved[name]) for name in ("scores", "inverse") if name in saved}
    outputs = {"d_v": _of_tokens(like(v), width), "d_states": _of_states(like(saved["states"]), dk, width)}
    scratch = {"stage": (C, width), "other": (C, width)} if static.delta else {"stage": (C, width)}
    walk_inputs = inputs | pairs | {"d_output": _of_tokens(d_output, width)}
    made, d_state = _in_order(static, "reverse", kernels.reverse, walk_inputs, outputs, d_final_state, scratch, backwards=True)

    whole = {"updates": saved.get("updates", v), "d_output": d_output} | ({"d_v": made["d_v"]} if static.delta else {})
    inputs |= {name: _of_tokens(x) for name, x in whole.items()}
    inputs |= {name: _of_states(x, dk) for name, x in (("states", saved["states"]), ("d_states", made["d_states"]))}
    outputs = {"d_q": _of_tokens(like(q)), "d_k": _of_tokens(like(k))} | {n: _of_gates(like(g)) for n in ("read", "was_read", "written", "d_beta")}
    scratch = {"d_qk": (C, C), "d_kk": (C, C)} if static.delta else {"d_qk": (C, C)}
    found = _chunk_by_chunk(static, "gradients", kernels.gradients, inputs, outputs, scratch)

    by_chunk = lambda x: x.reshape(b, h, -1, C)
    in_states = [x.astype(F32).reshape(b, h, -1, dk * dv) for x in (saved["states"], made["d_states"])]
    kept = jnp.exp(by_chunk(g)[..., -1]) * jnp.sum(in_states[0] * in_states[1], axis=-1)
    # Each side is summed on its own, as in chunked.py: what was written before a token, the state included, and what is read from it on.
    written = jnp.concatenate([kept[..., None], by_chunk(beta * found["written"])[..., :-1]], axis=-1)
    d_log_decay = lax.cumsum(by_chunk(found["read"] - found["was_read"]), axis=3, reverse=True) + jnp.cumsum(written, axis=-1)
    return found["d_q"], found["d_k"], made["d_v"], d_log_decay.reshape(g.shape), found["d_beta"] + found["written"], d_state


_walk.defvjp(_walk_fwd, _walk_bwd)
