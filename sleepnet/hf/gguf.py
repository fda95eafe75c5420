"""GGUF, as llama.cpp writes it: typed keys, then tensors, some of them in blocks of 32 quantised values. Read from its bytes with NumPy alone.

    "GGUF" version u32, tensors u64, keys u64
    keys: name, type u32, value                      a string is its length u64 and its UTF-8; an array its type u32, its length u64 and its values
    tensors: name, dimensions u32, each u64 (the fastest first), format u32, offset u64 from the start of the data
    the data, aligned

    Q8_0    34 bytes for 32 values: d float16, q int8              x = d q
    Q4_1    20 bytes for 32 values: d, m float16, q 4 bits         x = d q + m, the low halves of the 16 bytes first, then the high ones
"""
import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet.errors import UsageError

MAGIC = b"GGUF"
BLOCK = 32  # quantised values that share their d
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# number of a format → name, values of a block, bytes of it
_FORMATS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 3: ("Q4_1", BLOCK, 20), 8: ("Q8_0", BLOCK, 34)}
_OTHERS = {2: "Q4_0", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 30: "BF16"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
      shape: as NumPy has it, the fastest dimension last.
      dtype: F32, F16, Q4_1 or Q8_0.
      start, stop: bytes of the file.
    """

    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


class Gguf:
    """A file's keys, and its tensors one by one.

    Attributes:
      path: of the file.
      keys: name → value.
      tensors: name → where it lies.

    Raises:
      UsageError: it is no GGUF, is cut short or damaged, or holds a format that is not read here.
    """

    def __init__(self, path: Path):
        self.path, self._at = path, 0
        self._bytes = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        if self._bytes[:4].tobytes() != MAGIC:
            raise UsageError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        self._at = 4
        version, tensors, keys = self._scalar("I"), self._scalar("Q"), self._scalar("Q")
        if version not in (2, 3):
            raise UsageError(f"{path} is GGUF of version {version}, which is not read here, only 2 and 3 (little-endian): convert it again")
        self.keys = self._table("key", keys, lambda: self._value(self._scalar("I")))
        found = self._table("tensor", tensors, self._place)
        align = self.keys.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1:
            raise self._damaged(f"general.alignment is {align!r}")
        first = math.ceil(self._at / align) * align
        self.tensors = {name: self._tensor(name, first, *place) for name, place in found.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor; quantised values as float32."""
        place = self.tensors[name]
        raw = self._bytes[place.start:place.stop]
        return _NUMBERS[place.dtype](raw).reshape(place.shape)

    def _table(self, what: str, count: int, value: Any) -> dict[str, Any]:
        found = {}
        for _ in range(count):
            name = self._string()
            if name in found:
                raise self._damaged(f"it has the {what} {name} twice")
            found[name] = value()
        return found

    def _place(self) -> tuple[tuple[int, ...], int, int]:
        shape = tuple(self._scalar("Q") for _ in range(self._length(self._scalar("I"), 8)))
        return shape[::-1], self._scalar("I"), self._scalar("Q")

    def _tensor(self, name: str, first: int, shape: tuple[int, ...], number: int, offset: int) -> Tensor:
        if number not in _FORMATS:
            known = ", ".join(sorted(name for name, _, _ in _FORMATS.values()))
            raise UsageError(f"{self.path}: tensor {name} is {_OTHERS.get(number, f'of format {number}')}, which is not read here, only {known}: fetch a file of these")
        dtype, values, size = _FORMATS[number]
        if not shape or shape[-1] % values:
            raise self._damaged(f"tensor {name} of shape {list(shape)} is no whole number of {dtype} blocks")
        start = first + offset
        stop = start + math.prod(shape) // values * size
        if stop > len(self._bytes):
            raise self._damaged(f"tensor {name} ends at byte {stop:,} of {len(self._bytes):,}")
        return Tensor(shape, dtype, start, stop)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, count = self._scalar("I"), self._scalar("Q")
            if kind in _SCALARS:
                code = _SCALARS[kind]
                self._length(count, struct.calcsize(code))
                return list(struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(code))))
            return [self._value(kind) for _ in range(self._length(count, 8))]
        if kind not in _SCALARS:
            raise self._damaged(f"a value is of type {kind}")
        return self._scalar(_SCALARS[kind])

    def _scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]

    def _string(self) -> str:
        raw = self._take(self._scalar("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._damaged("a string is not UTF-8") from error

    def _length(self, count: int, size: int) -> int:
        """`count`, of things of `size` bytes at least, which the file must have room for."""
        if count * size > len(self._bytes) - self._at:
            raise self._damaged(f"it says {count:,} where {len(self._bytes) - self._at:,} bytes are left")
        return count

    def _take(self, count: int) -> bytes:
        self._length(count, 1)
        self._at += count
        return self._bytes[self._at - count:self._at].tobytes()

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"{self.path} is cut short or damaged ({why}): fetch it again")


def _halves(raw: np.ndarray) -> np.ndarray:
    """[blocks, k] float32 of k float16 each."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _q8_0(raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(-1, 34)
    return _halves(blocks[:, :2]) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)


def _q4_1(raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(-1, 20)
    scale, least = _halves(blocks[:, :2]), _halves(blocks[:, 2:4])
    packed = blocks[:, 4:]
    return scale * np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) + least


_NUMBERS = {"F32": lambda raw: raw.view(np.float32), "F16": lambda raw: raw.view(np.float16), "Q8_0": _q8_0, "Q4_1": _q4_1}
