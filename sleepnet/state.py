"""What lives between calls of a model: the fast weights that cross every boundary, and the window that dies at it.

Letters: B batch, L window length, P tokens that survive an eviction (0 when hard, L − 1 when sliding, all without), H heads,
K key width, V value width, D attention head width, C channels of a short convolution, W its width.
"""
import dataclasses
import jax
import jax.numpy as jnp


def _register(cls):
    return jax.tree_util.register_dataclass(cls, data_fields=[field.name for field in dataclasses.fields(cls)], meta_fields=[])


@_register
@dataclasses.dataclass(frozen=True)
class FastWeights:
    """The memory that crosses every boundary: one matrix per head of every SSM block, always float32.

    Attributes:
      layers: one [B, H, K, V] array per SSM block, first block first.
    """

    layers: tuple[jax.Array, ...]

    @staticmethod
    def zeros(batch_size: int, shapes: tuple[tuple[int, int, int], ...]) -> "FastWeights":
        """The state before anything was read; `shapes` has one (H, K, V) per SSM block."""
        return FastWeights(tuple(jnp.zeros((batch_size, *shape), jnp.float32) for shape in shapes))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole state, all sequences of the batch together."""
        return sum(layer.size * layer.dtype.itemsize for layer in self.layers)


@_register
@dataclasses.dataclass(frozen=True)
class KvCache:
    """Keys and values that attention may read: P survivors of the last eviction, then the window so far.

    Keys are stored after QK-norm and RoPE, so that a token awake turns its own key alone; of sliding eviction, which moves slots, before RoPE. A slot's index is its position.

    Attributes:
      keys: one [B, M, H, D] array per attention block.
      values: the same.
      valid: [B, M] bool; False for PAD and for slots not yet written.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    valid: jax.Array

    @staticmethod
    def empty(batch_size: int, slots: int, layers: int, heads: int, head_dim: int, dtype) -> "KvCache":
        """A cache of `slots` slots that nothing was written to."""
        blank = tuple(jnp.zeros((batch_size, slots, heads, head_dim), dtype) for _ in range(layers))
        return KvCache(blank, blank, jnp.zeros((batch_size, slots), bool))

    def append(self, other: "KvCache") -> "KvCache":
        """Slots of `other` behind the slots of `self`."""
        join = lambda a, b: jnp.concatenate([a, b], axis=1)
        return jax.tree.map(join, self, other)

    def newest(self, count: int) -> "KvCache":
        """The last `count` slots (eviction keeps L − 1 of them when sliding, none when hard)."""
        return jax.tree.map(lambda a: a[:, a.shape[1] - count:], self)


@_register
@dataclasses.dataclass(frozen=True)
class Window:
    """What lives inside one window and is cleared at its end.

    Attributes:
      tokens: [B, L] int32, 0 from `length` on: what a sleep will read again, where the cache's slots of the window are valid.
      length: int32 scalar, tokens read so far.
      fast_weights: the fast weights after those tokens (one pass).
      conv_tails: one [B, W − 1, C] array per SSM block.
      kv_cache: P + L slots.
    """

    tokens: jax.Array
    length: jax.Array
    fast_weights: FastWeights
    conv_tails: tuple[jax.Array, ...]
    kv_cache: KvCache


@_register
@dataclasses.dataclass(frozen=True)
class State:
    """A model's whole memory between two calls.

    Attributes:
      fast_weights: the fast weights when the current window began; a sleep starts from them.
      window: the current window.
      conv_tails: those of the current window's beginning, where the model keeps them; else none, and a window begins with blank ones.
    """

    fast_weights: FastWeights
    window: Window
    conv_tails: tuple[jax.Array, ...] = ()


def new_window(
    fast_weights: FastWeights, survivors: KvCache, *, length: int, tail_shape: tuple[int, int], dtype, tails: tuple[jax.Array, ...] = ()
) -> Window:
    """An empty window of `length` tokens behind an eviction that left `survivors`; tokens start blank, and tails where none are given.

    Args:
      fast_weights: what the window starts from.
      survivors: [B, P] slots that attention may still read.
      length: L.
      tail_shape: (W − 1, C) of every short convolution.
      dtype: of the convolution tails.
      tails: what the convolutions remember of the window before.
    """
    batch_size = survivors.valid.shape[0]
    blank = jax.tree.map(lambda a: jnp.zeros((a.shape[0], length, *a.shape[2:]), a.dtype), survivors)
    return Window(
        tokens=jnp.zeros((batch_size, length), jnp.int32),
        length=jnp.zeros((), jnp.int32),
        fast_weights=fast_weights,
        conv_tails=tails or tuple(jnp.zeros((batch_size, *tail_shape), dtype) for _ in fast_weights.layers),
        kv_cache=survivors.append(blank),
    )


def fork(state: State, count: int) -> State:
    """A state of `count` · B sequences: row b stands `count` times, as rows b · count … b · count + count − 1; whatever comes after, each goes its own way.

    What was read and slept over before is paid for once. Gradients of the copies add up. On a mesh the decoder puts the rows where they belong.

    Raises:
      ValueError: count < 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: a state can be forked into 1 or more")
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0) if leaf.ndim else leaf, state)
