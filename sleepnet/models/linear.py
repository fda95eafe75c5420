"""The one projection that every block uses: products in the dtype of the activations, a bias only where it is asked for."""
import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet.mesh import Axis, gathered, splits_heads

_JOINED = 1 << 18  # elements of kernels that are joined: a megabyte


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` for x [..., D] and kernel [D, F], both of one dtype.

    The gradient of the kernel is written as one product over all leading axes: left to itself, XLA's CPU compiler copies the
    whole transposed cotangent first, which costs as much as the product.
    """
    return x @ kernel


def _forward(x, kernel):
    return x @ kernel, (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    flat = lambda a: a.reshape(-1, a.shape[-1])
    return g @ kernel.T, jnp.einsum("td,tf->df", flat(x), flat(g))


matmul.defvjp(_forward, _backward)


class Linear(nnx.Module):
    """Weights ~ N(0, scale² / inputs). On a mesh the product is done with `axes` cut alone; stored, `fsdp` cuts the first of the others."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, scale: float = 1.0, axes: tuple[Axis, Axis] = (None, "tensor"), bias: bool = False):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs), jnp.float32) * (scale * inputs**-0.5))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.axes, self.has_bias = axes, bias

    def weights(self) -> jax.Array:
        """The kernel, as a product takes it."""
        first = self.axes.index(None)
        return gathered(self.kernel[...], self.axes, (*self.axes[:first], "fsdp", *self.axes[first + 1 :]))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.shifted(matmul(x, self.weights().astype(x.dtype)))

    def shifted(self, y: jax.Array) -> jax.Array:
        """A product with the bias, where there is one."""
        return y + self.bias[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,)) if self.has_bias else y


def together(x: jax.Array, *layers: Linear) -> list[jax.Array]:
    """`[layer(x) for layer in layers]` as one product: separate matrices for the optimiser, one for the machine.

    Where the mesh cuts their columns, joining them would move them between devices, and large ones cost more to copy than one call saves: they stay apart.
    """
    if splits_heads() or sum(layer.kernel.size for layer in layers) > _JOINED:
        return [layer(x) for layer in layers]
    kernels = [layer.weights() for layer in layers]
    ends = [sum(kernel.shape[1] for kernel in kernels[:i]) for i in range(1, len(kernels))]
    products = jnp.split(matmul(x, jnp.concatenate(kernels, axis=1).astype(x.dtype)), ends, axis=-1)
    return [layer.shifted(product) for layer, product in zip(layers, products)]
