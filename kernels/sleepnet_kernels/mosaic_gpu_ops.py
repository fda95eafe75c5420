"""The operations in which the body of a Mosaic GPU kernel differs from arithmetic on arrays, each on the device and plain.

Plain operations let the same bodies run in JAX's GPU interpreter, which knows neither layouts nor transposed or register operands
of the tensor cores. Products are bfloat16 x bfloat16 -> float32 in both.
"""
import dataclasses
import inspect

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

F32 = jnp.float32
# How bfloat16 blocks lie in shared memory for the tensor cores: 64 columns are one swizzled row of 128 bytes.
TILES = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))

# JAX 0.10 asks for an index, which later versions do not take.
INDEX = ((),) if "idx" in inspect.signature(plgpu.load).parameters else ()


def _load(ref, layout):
    return plgpu.load(ref, *INDEX, layout=layout, optimized=False)


@dataclasses.dataclass(frozen=True)
class Ops:
    """Operations on the device, or where `plain` as ordinary ones.

    Matrices in registers have one row a token; `by_row` and `by_column` are per-token vectors that scale its rows or its columns.
    """

    plain: bool

    def block(self, *shape: int):
        """Returns scratch for bfloat16 operands of products, the last two axes."""
        return plgpu.SMEM(shape, jnp.bfloat16, transforms=() if self.plain else TILES)

    def spec(self, shape, index):
        """Returns a pipelined block: an operand of products where it has two axes."""
        return plgpu.BlockSpec(shape, index, transforms=TILES if len(shape) == 2 and not self.plain else ())

    def stage(self, ref, x) -> None:
        """Writes an operand to shared memory, for a product or a copy to see."""
        ref[...] = x.astype(ref.dtype)
        plgpu.commit_smem()

    def transposed(self, ref):
        """Returns an operand of a product that is read transposed."""
        return ref[...].T if self.plain else ref.T

    def product(self, *pairs, start=None):
        """Returns start + the sum of a @ b in float32; a is in registers or, as b is, in shared memory."""
        if self.plain:
            wide = lambda x: x[...].astype(F32)
            total = sum(jnp.dot(wide(a), wide(b), precision=jax.lax.Precision.HIGHEST) for a, b in pairs)
            return total if start is None else start + total

        def accumulate(sum_ref):
            for a, b in pairs:
                plgpu.wgmma(sum_ref, a, b)

        def read(sum_ref):
            accumulate(sum_ref)
            return sum_ref[...]

        if start is not None:
            return pl.run_state(accumulate)(plgpu.ACC.init(start))
        a, b = pairs[0]
        return pl.run_scoped(read, plgpu.ACC((a.shape[0], b.shape[1]), F32))

    def by_row(self, ref):
        """Reads a vector [C] that scales rows."""
        return ref[...] if self.plain else _load(ref, plgpu.Layout.WGMMA.reduce(1))

    def by_column(self, ref):
        """Reads a vector [C] that scales columns."""
        return ref[...] if self.plain else _load(ref, plgpu.Layout.WGMMA.reduce(0))

    def matrix(self, ref):
        """Reads a matrix from global memory into registers."""
        return ref[...] if self.plain else _load(ref, plgpu.Layout.WGMMA)

    def zeros(self, c: int):
        """Returns zeros [C] that scale rows, to begin a loop with."""
        zeros = jnp.zeros(c, F32)
        return zeros if self.plain else plgpu.layout_cast(zeros, plgpu.Layout.WGMMA.reduce(1))

    def positions(self, c: int):
        """Returns the row and the column of each entry of [C, C]."""
        if self.plain:
            return [jax.lax.broadcasted_iota(jnp.int32, (c, c), axis) for axis in (0, 1)]
        return [plgpu.broadcasted_iota(jnp.int32, (c, c), axis, layout=plgpu.Layout.WGMMA) for axis in (0, 1)]


def rows(x_C, width):
    """Returns [C, width] whose every row i is x_i."""
    return jax.lax.broadcast_in_dim(x_C, (x_C.shape[0], width), [0])


def columns(x_C, height):
    """Returns [height, C] whose every column j is x_j."""
    return jax.lax.broadcast_in_dim(x_C, (height, x_C.shape[0]), [1])
