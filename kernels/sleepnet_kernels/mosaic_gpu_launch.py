"""How the GPU kernels are launched: what a thread block takes of each array, one chunk alone or all chunks of a head in order.

Blocks are copied out of [B, T, H, D] as the caller has it.
"""
import dataclasses
import types
from collections.abc import Callable

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sleepnet_kernels.mosaic_gpu_ops import Ops

# A chunk is as many tokens as one product of a warpgroup has rows, and as one swizzled row of bfloat16 has columns.
C = 64
# Columns of the state that a thread block keeps in registers, and chunks whose blocks are in shared memory at once.
COLUMNS = 64
STEPS = 2


@dataclasses.dataclass(frozen=True)
class Static:
    """What is known before tracing."""

    delta: bool
    interpret: object

    @property
    def ops(self):
        return Ops(plain=self.interpret is not None)


@dataclasses.dataclass(frozen=True)
class Operand:
    """An array in global memory, or what is to become one.

    Attributes:
      like: its shape and dtype.
      block: what a chunk takes of it, after batch entry and head are chosen.
      cut: from its reference, batch entry, head and columns to what one head has of it.
    """

    like: jax.typing.ArrayLike | jax.ShapeDtypeStruct
    block: tuple[int, ...]
    cut: Callable


def of_tokens(x_BxTxHxD, width=None):
    """A block of whole rows, or of the columns that a thread block walks with where `width` says how many."""
    if width is None:
        return Operand(x_BxTxHxD, (C, x_BxTxHxD.shape[-1]), lambda ref, row, head, columns: ref.at[row, :, head])
    return Operand(x_BxTxHxD, (C, width), lambda ref, row, head, columns: ref.at[row, :, head, columns])


def of_gates(x_BxHxT):
    """A value a token."""
    return Operand(x_BxHxT, (C,), lambda ref, row, head, columns: ref.at[row, head])


def of_pairs(x_BxHxTxC):
    """A matrix over the pairs of a chunk's tokens."""
    return Operand(x_BxHxTxC, (C, C), lambda ref, row, head, columns: ref.at[row, head])


def of_states(x_BxHxNKxV, dk, width=None):
    """A chunk's state, whole or the columns that a thread block walks with."""
    if width is None:
        return Operand(x_BxHxNKxV, (dk, x_BxHxNKxV.shape[-1]), lambda ref, row, head, columns: ref.at[row, head])
    return Operand(x_BxHxNKxV, (dk, width), lambda ref, row, head, columns: ref.at[row, head, :, columns])


def _launch(static, name, body, grid, out_types, scratch, inputs):
    keywords = {} if static.interpret is None else {"interpret": static.interpret}
    rule = "delta" if static.delta else "hebbian"
    return plgpu.kernel(
        body, out_type=out_types, scratch_types=scratch, grid=grid, grid_names=("block", "head", "row"), kernel_name=f"fast_weights_{rule}_{name}",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane), **keywords,
    )(*inputs)


def chunk_by_chunk(static, name, body, inputs, outputs, scratch):
    """Calls `body` on every chunk of every head at once, with blocks by name; vectors stay in global memory."""
    names = (*inputs, *outputs)
    operands = {**inputs, **outputs}
    b, h, t = inputs["g"].like.shape
    in_shared = [n for n in names if len(operands[n].block) == 2]

    def kernel(*refs):
        refs, shared, barrier = refs[: len(names)], refs[len(names) : -1], refs[-1]
        n, head, row = (lax.axis_index(axis) for axis in ("block", "head", "row"))
        place = lambda x: pl.ds(n * operands[x].block[0], operands[x].block[0])
        cut = {x: operands[x].cut(ref, row, head, None).at[place(x)] for x, ref in zip(names, refs)}
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


def in_order(static, name, body, inputs, outputs, state, scratch, *, backwards=False):
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
