"""What a fast-weight rule costs at least: its products and the bytes that any implementation moves, and what a device can do of each.

Counted by the chunked form at chunks of 64, whatever runs. A training forward stores one state a chunk, in q's dtype, and the
backward reads it; a forward alone stores none. Recomputation inside a chunk is counted in the backward: saving it would move more.
"""
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp

from sleepnet.files import write_bytes

CHUNK = 64
# FLOP/s of dense products with float32 sums, and bytes/s of memory, from the makers' data sheets; float32 operands are not
# rounded, which is six bfloat16 passes on a TPU and no tensor core on a GPU. The key begins `jax.Device.device_kind`.
PEAKS = {
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 67e12, "memory": 4.8e12},
    "NVIDIA H100": {"bfloat16": 989e12, "float32": 67e12, "memory": 3.35e12},
    "NVIDIA A100": {"bfloat16": 312e12, "float32": 19.5e12, "memory": 2.039e12},
    "TPU v5 lite": {"bfloat16": 197e12, "float32": 197e12 / 6, "memory": 0.819e12},
    "TPU v6 lite": {"bfloat16": 918e12, "float32": 918e12 / 6, "memory": 1.64e12},
    "TPU v5": {"bfloat16": 459e12, "float32": 459e12 / 6, "memory": 2.765e12},
}


@dataclasses.dataclass(frozen=True)
class Peak:
    """What a device can do: FLOP/s, bytes/s, and whether that was measured here rather than looked up."""

    flops: float
    memory: float
    measured: bool


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs and bytes; `+` is one after the other."""

    flops: float
    moved: float

    def seconds(self, peak: Peak) -> float:
        """The floor: products and transfers overlap at best."""
        return max(self.flops / peak.flops, self.moved / peak.memory)


def forward(shape, dtype: str, *, delta: bool, saves: bool) -> Cost:
    """The cost of a forward; `saves`: with the states that a backward needs."""
    c, dk, dv = min(CHUNK, shape.t), shape.dk, shape.dv
    products = c * c * (dk + dv) + 2 * c * dk * dv
    if delta:
        # Scores among keys, the product with the inverse, what the state predicts, and a triangle inverted.
        products += c * c * (dk + dv) + c * dk * dv + c**3 / 6
    size, _, gates, states = _bytes(shape, dtype)
    return Cost(2 * products * _chunks(shape), size + gates + (states if saves else 0))


def backward(shape, dtype: str, *, delta: bool) -> Cost:
    """The cost of a backward."""
    c, dk, dv = min(CHUNK, shape.t), shape.dk, shape.dv
    products = c * c * (3 * dk + 2 * dv) + 4 * c * dk * dv
    if delta:
        products += c * c * (2 * dk + 3 * dv) + 3 * c * dk * dv
    _, size, gates, states = _bytes(shape, dtype)
    return Cost(2 * products * _chunks(shape), size + 2 * gates + states)


def _chunks(shape) -> float:
    return shape.b * shape.h * shape.t / min(CHUNK, shape.t)


def _bytes(shape, dtype):
    """Bytes of the forward's and the backward's operands, of the gates read once, and of the states stored."""
    wide = jnp.dtype(dtype).itemsize
    keys, values = (shape.b * shape.t * heads * width * wide for heads, width in ((shape.groups, shape.dk), (shape.h, shape.dv)))
    state = shape.b * shape.h * shape.dk * shape.dv
    gates = 2 * shape.b * shape.t * shape.h * 4
    states = state * -(-shape.t // CHUNK) * wide
    # q, k, v and the output; then q, k, v, the output's cotangent and three gradients. The state comes and goes in float32.
    return 2 * keys + 2 * values + 8 * state, 4 * keys + 3 * values + 8 * state, gates, states


@functools.cache
def peak(dtype: str) -> Peak:
    """What this process's first device can do with operands of `dtype`; measured where its kind is not in the table."""
    kind = jax.devices()[0].device_kind
    known = next((PEAKS[name] for name in PEAKS if kind.startswith(name)), None)
    if known:
        return Peak(known[dtype], known["memory"], measured=False)
    n, length = 1024, 2**24
    matrix, long = jnp.ones((n, n), dtype), jnp.ones(length, jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    return Peak(2 * n**3 / _best(product, matrix), 8 * length / _best(jax.jit(lambda a: a + 1), long), measured=True)


def _best(function, argument) -> float:
    jax.block_until_ready(function(argument))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - start)
    return min(times)


def plot(rows, path) -> None:
    """Draws the roofline: each timed row's forward + backward at its FLOPs per byte, under what its device can do."""
    from sleepnet.pictures import Figure, png  # pylint: disable=import-outside-toplevel

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows if row.get("both_ms")]
    for dtype in sorted({row["dtype"] for row in rows}):
        top = next(row["peak"] for row in rows if row["dtype"] == dtype)
        x = [2.0**i for i in range(-2, 11)]
        axes.loglog(x, [min(top["flops"], i * top["memory"]) for i in x], label=f"{dtype} roof{', measured' if top['measured'] else ''}")
    for name in dict.fromkeys(row["implementation"] for row in rows):
        mine = [row for row in rows if row["implementation"] == name]
        axes.loglog([row["flop_per_byte"] for row in mine], [row["flop_per_second"] for row in mine], "o", label=name)
    axes.set(xlabel="FLOP per byte, at least", ylabel="FLOP/s, forward + backward")
    axes.legend(fontsize=8)
    write_bytes(path, png(figure, 150))
