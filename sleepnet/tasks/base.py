"""What every task offers: the contract between a benchmark and whoever trains or grades on it.

Dimension letters: T tokens of an example, L tokens of a window, A answer groups, B examples of a batch.
"""
import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.errors import UsageError, nearest
from sleepnet.tasks.philox import MASK64

PAD = 0  # in every task's vocabulary: no content, no state write, no label

SPLITS = {"train": 0, "validation": 1, "test": 2}
_BUCKETS = 64
_HELD_OUT = {2: 0, 1: 1}  # test owns bucket 0, validation bucket 1, train all others
_MAX_ATTEMPTS = 4096  # a non-empty bucket is missed this often with probability (63/64)**4096 = 1e-28
_ROWS = 16384  # candidates drawn at once while looking for instances of a split
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix64(x: np.ndarray) -> np.ndarray:
    """Scatters uint64 values over 64 bits (splitmix64): neighbours land far apart, and distinct values stay distinct."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[1])
    return x ^ (x >> np.uint64(31))


def mix64_int(x: int) -> int:
    """`mix64` of one Python integer."""
    x = (x + _GOLDEN) & MASK64
    x = ((x ^ (x >> 30)) * _MIX[0]) & MASK64
    x = ((x ^ (x >> 27)) * _MIX[1]) & MASK64
    return x ^ (x >> 31)


def belongs(fingerprint: Any, split: int) -> Any:
    """Tells whether instances with these 64-bit fingerprints (an array, or one integer) belong to a split."""
    bucket = fingerprint // _BUCKET_SIZE if isinstance(fingerprint, int) else fingerprint >> np.uint64(58)
    return bucket == _HELD_OUT[split] if split in _HELD_OUT else bucket >= len(_HELD_OUT)


_BUCKET_SIZE = 2**64 // _BUCKETS


def attempts(split: int) -> range:
    """The attempts an example may take to find instances of its split."""
    return range(_MAX_ATTEMPTS)


def draw_members(
    propose: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], rows: int, split: int
) -> np.ndarray:
    """Draws until every part of every row belongs to the split; each part keeps its first attempt that does.

    `propose(row, attempt)`, both int64 [n], returns values [n, parts, ...] and their fingerprints uint64 [n, parts].
    Returns values [rows, parts, ...]. Raises UsageError where no attempt serves.
    """
    at_once = 32 if split in _HELD_OUT else 1
    waiting, found, values, first = np.arange(rows), None, None, 0
    while len(waiting):
        if first >= _MAX_ATTEMPTS:
            raise empty_split(split)
        still = []
        for a in range(0, len(waiting), _ROWS // at_once):
            row = waiting[a : a + _ROWS // at_once]
            tries = np.arange(first, first + at_once)
            value, fingerprint = propose(np.repeat(row, at_once), np.tile(tries, len(row)))
            value = value.reshape(len(row), at_once, *value.shape[1:])
            good = belongs(fingerprint, split).reshape(len(row), at_once, -1)
            if values is None:
                values = np.empty((rows, *value.shape[2:]), value.dtype)
                found = np.zeros((rows, good.shape[2]), bool)
            r, p = np.nonzero(good.any(1) & ~found[row])
            values[row[r], p] = value[r, good.argmax(1)[r, p], p]
            found[row[r], p] = True
            still.append(row[~found[row].all(1)])
        waiting, first = np.concatenate(still), first + at_once
    return values


def empty_split(split: int) -> UsageError:
    """The error for a split in which no instance was found."""
    name = {number: name for name, number in SPLITS.items()}[split]
    return UsageError(
        f"split {name!r} is empty: with these arguments there are too few instances to hold any out; make the task larger"
    )


def require(condition: bool, message: str) -> None:
    """Raises UsageError with a message that names the key and the fix, unless the condition holds."""
    if not condition:
        raise UsageError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """A benchmark: a pure function from (seed, split, index) to an example.

    The dataclass fields of a subclass are the task's arguments. An example is a mapping:
      tokens      int32 [T]  what the model reads
      targets     int32 [T]  what it must predict *at* each position (nothing is shifted by the trainer)
      loss_mask   bool [T]   where there is a loss
      answer      int32 [T]  the answer group a graded position belongs to, else -1. Accuracy per label counts graded
                             positions, exact accuracy counts groups whose positions are all right
      difficulty  {axis: int32 [A]} what each answer group is graded by; -1 for a group this example does not have
    A batch has a leading axis B on all of these, and equals the examples stacked, bit for bit.
    Splits ("train", "validation", "test") share no instance, whatever the seeds.

    Attributes:
      name: what `sleepnet.tasks.get` calls it.
      version: raised whenever the same arguments give other examples.
      difficulty_axes: names of the difficulties.
      vocab_size: number of tokens; token 0 is PAD.
      seq_len: T.
      window: L; windows are cut from position 0, the last may be shorter.
      predicts: one bool per window: True where it holds labels, False where it sleeps.
      answers: A.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    difficulty_axes: ClassVar[tuple[str, ...]]
    pad: ClassVar[int] = PAD

    vocab_size: int = dataclasses.field(init=False, repr=False, compare=False)
    seq_len: int = dataclasses.field(init=False, repr=False, compare=False)
    predicts: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)
    answers: int = dataclasses.field(init=False, repr=False, compare=False)

    @abc.abstractmethod
    def example(self, seed: int, split: str, index: int) -> Mapping[str, Any]:
        """Returns one example, by the plain path that is written to be read."""

    @abc.abstractmethod
    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> Mapping[str, Any]:
        """Returns the examples at these indices, stacked, by the vectorised path."""

    @abc.abstractmethod
    def baselines(self) -> Mapping[str, Any]:
        """Returns what guessing scores on the test split.

        {baseline: {"meaning": str, "label": float, "exact": float, "by": {axis: {value: {"label", "exact"}}}}}
        """

    @abc.abstractmethod
    def token(self, number: int) -> str:
        """Returns a token as a reader would write it."""

    @abc.abstractmethod
    def explain(self) -> str:
        """Returns in words what an example asks and how it is laid out."""

    def batch(self, seed: int, split: str, start: int, size: int) -> Mapping[str, Any]:
        """Returns examples start … start + size - 1, stacked."""
        return self.batch_at(seed, split, np.arange(start, start + size))

    def describe(self) -> str:
        """Returns the task in words, with its sizes, its baselines and one example."""
        from sleepnet.tasks.describe import describe

        return describe(self)

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument with its value, defaults resolved, as plain JSON values."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    def spec(self) -> dict[str, Any]:
        """Returns what determines every example of the task."""
        return {"name": self.name, "version": self.version, "arguments": self.arguments}

    @property
    def spec_hash(self) -> str:
        """sha256, in hex, of `spec()` as canonical JSON: saved with a checkpoint, so that other data is refused on resuming."""
        canonical = json.dumps(self.spec(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _set(self, **values: Any) -> None:
        """Fills fields while a frozen instance is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def _key(seed: int, split: str) -> tuple[int, int]:
        """Returns the generator's key, (seed, split number)."""
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}{nearest(str(split), SPLITS)}")
        require(0 <= int(seed) <= MASK64, f"seed={seed} must lie in 0 … 2**64 - 1")
        return int(seed), SPLITS[split]
