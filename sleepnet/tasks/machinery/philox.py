"""Counter-based randomness: every word is a function of (seed, split, index, stream, attempt, position).

Philox4x64-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011), written in numpy over many counters at
once. Its words equal numpy's own generator, which `stream` reads for one example at a time:

    np.random.Philox(key=[seed, split], counter=[0, stream, attempt, index]).random_raw(count)

Each field of an example reads its own `stream`; drawing a field again raises `attempt` and disturbs no other field.
"""
from collections.abc import Iterator

import numpy as np

_MASK32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_FEW, _MANY = 8, 64  # words that `stream` takes from numpy at once: most streams are short, some very long
_CHUNK = 8192  # counters handled at once: the temporaries stay in the cache

MASK64 = (1 << 64) - 1


def multiply_high(x: np.ndarray, y: np.ndarray | np.uint64) -> np.ndarray:
    """Returns the upper 64 bits of x·y, elementwise in uint64: floor(x·y / 2**64), an integer in [0, y) for a random x."""
    x_low, x_high = x & _MASK32, x >> _SHIFT32
    if isinstance(y, np.uint64) and y <= _MASK32:  # half of the products are 0
        return x_high * y + (x_low * y >> _SHIFT32) >> _SHIFT32
    y_low, y_high = y & _MASK32, y >> _SHIFT32
    middle = x_high * y_low + (x_low * y_low >> _SHIFT32)
    lower = x_low * y_high + (middle & _MASK32)
    return x_high * y_high + (middle >> _SHIFT32) + (lower >> _SHIFT32)


def _block(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Ten Philox rounds on four counter words, each uint64 [n]."""
    c0, c1, c2, c3 = counter
    for r in range(_ROUNDS):
        k0, k1 = (np.uint64((k + r * w) & MASK64) for k, w in zip(key, _WEYL))
        m0, m1 = _MULTIPLIERS
        high0, high1 = multiply_high(c0, m0), multiply_high(c2, m1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, c2 * m1, high0 ^ c3 ^ k1, c0 * m0
    return [c0, c1, c2, c3]


def words(key: tuple[int, int], index: np.ndarray, stream: int, attempt: np.ndarray | int, count: int) -> np.ndarray:
    """Returns the first `count` words of one stream of many examples: uint64 [rows, count].

    `key` is (seed, split number); `index` and `attempt` are [rows] (a scalar `attempt` serves all rows).
    """
    index = np.asarray(index, np.uint64)
    attempt = np.broadcast_to(np.asarray(attempt, np.uint64), index.shape)
    blocks = -(-count // 4)
    # numpy raises the counter before it makes a block, so the first block has number 1
    block = np.tile(np.arange(1, blocks + 1, dtype=np.uint64), len(index))
    of_stream = np.full(block.shape, stream, np.uint64)
    counter = [block, of_stream, np.repeat(attempt, blocks), np.repeat(index, blocks)]
    out = np.empty((len(block), 4), np.uint64)
    for a in range(0, len(out), _CHUNK):
        part = slice(a, a + _CHUNK)
        for column, word in enumerate(_block([c[part] for c in counter], key)):
            out[part, column] = word
    return out.reshape(len(index), blocks * 4)[:, :count]


def stream(key: tuple[int, int], index: int, number: int, attempt: int = 0) -> Iterator[int]:
    """Yields the words of stream `number` of one example as Python integers, from numpy's own Philox."""
    bits = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([0, number, attempt, index], np.uint64))
    yield from bits.random_raw(_FEW).tolist()
    while True:
        yield from bits.random_raw(_MANY).tolist()


def below(word: int, bound: int) -> int:
    """Returns an integer in [0, bound) from one word; `multiply_high` is the same on arrays."""
    return (word * bound) >> 64


def order(keys: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns a random permutation of 0..size-1 per row, then the rest: int64 [rows, n] from words [rows, n] and sizes [rows]."""
    unused = np.arange(keys.shape[1]) >= size[:, None]
    return np.argsort(np.where(unused, np.uint64(MASK64), keys), axis=1, kind="stable")
