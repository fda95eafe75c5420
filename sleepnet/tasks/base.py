"""What every task offers: the contract between a benchmark and whoever trains or grades on it.

Dimension letters: T tokens of an example, L tokens of a window, A answer groups, B examples of a batch.
"""
import abc
import dataclasses
import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet import seeds
from sleepnet.errors import UsageError, nearest
from sleepnet.tasks.splits import SPLITS

PAD = 0  # in every task's vocabulary: no content, no state write, no label
FIELDS = {"tokens": np.int32, "targets": np.int32, "loss_mask": np.bool_, "answer": np.int32}  # of an example, each [T]
_SURELY_ENOUGH = 10_000  # instances: a bucket of 1/64 of them is empty with probability 1e-68


def require(condition: bool, message: str) -> None:
    """Raises UsageError unless the condition holds; the message names the key and the fix."""
    if not condition:
        raise UsageError(message)


def whole(key: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns the value of an argument as an int; raises UsageError unless it is one between `least` and `most`."""
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    good = good and value >= least and (most is None or value <= most)
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    require(good, f"{key}={value!r} must be a whole number {limits}")
    return int(value)


def span(key: str, value: Any, least: int, most: int | None = None) -> tuple[int, int]:
    """Returns (least, most) of an argument that is a number or a range; raises UsageError unless it is one, within the limits."""
    ends = value if isinstance(value, (list, tuple)) else (value, value)
    require(len(ends) == 2, f"{key}={value!r} must be a number, or a range (least, most)")
    first = whole(key, ends[0], least, most)
    return first, whole(key, ends[1], first, most)


def choice(key: str, value: Any, known: tuple[str, ...]) -> str:
    """Returns the value of an argument; raises UsageError unless it is one of `known`."""
    require(value in known, f"unknown {key}={value!r}{nearest(str(value), known)}")
    return value


def rising(key: str, value: Any, most: int) -> tuple[int, ...]:
    """Returns a curriculum's thresholds: entry i is the number of training examples before difficulty i + 2 may be drawn.

    Raises UsageError unless they are at most `most` − 1 whole numbers, none smaller than the one before.
    """
    listed = isinstance(value, (list, tuple)) and all(isinstance(v, int) and v >= 0 for v in value) and list(value) == sorted(value)
    require(listed, f"{key}={value!r} must be a list of rising numbers of training examples, such as (10000, 30000)")
    require(len(value) < most, f"{key}={value!r} has {len(value)} thresholds; {most} difficulties have at most {most - 1}")
    return tuple(value)


def risen(thresholds: tuple[int, ...], most: int, index: Any) -> Any:
    """Returns how many difficulties the training example at `index` (a number or an array) is drawn from."""
    passed = np.searchsorted(np.array(thresholds, np.int64), index, "right")
    return passed + (most - len(thresholds))


def tell_rise(thresholds: tuple[int, ...]) -> str:
    """Returns a curriculum in words, for the end of a sentence; nothing where there is none."""
    return f" (the largest may grow after {', '.join(f'{t:,}' for t in thresholds)} training examples)" if thresholds else ""


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
      axis_words: {axis: what it is, in words for a picture}.
      vocab_size: number of tokens; token 0 is PAD.
      seq_len: T.
      window: L; windows are cut from position 0, the last may be shorter.
      predicts: one bool per window: True where it holds labels, False where it sleeps.
      answers: A.
      added: arguments that came after the first release, with what was so before: at that value `spec` leaves them out, so hashes stay.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    difficulty_axes: ClassVar[tuple[str, ...]]
    axis_words: ClassVar[Mapping[str, str]]
    pad: ClassVar[int] = PAD
    added: ClassVar[Mapping[str, Any]] = {}

    vocab_size: int = dataclasses.field(init=False, repr=False, compare=False)
    seq_len: int = dataclasses.field(init=False, repr=False, compare=False)
    predicts: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)
    answers: int = dataclasses.field(init=False, repr=False, compare=False)

    @abc.abstractmethod
    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        """Returns one example, by the plain path that is written to be read."""

    @abc.abstractmethod
    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns the examples at these indices, stacked, by the vectorised path."""

    @abc.abstractmethod
    def solve(self, tokens: np.ndarray) -> np.ndarray:
        """Returns what must be predicted at each position, int32 [T], read from the tokens alone by a plain solver that shares
        no code with the generator; PAD where nothing is asked. It equals `targets` wherever there is a loss."""

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        """Returns the instances that an example's tokens hold, by which splits differ: the whole example unless a task knows better."""
        return {tokens.tobytes()}

    @abc.abstractmethod
    def baselines(self) -> dict[str, Any]:
        """Returns what guessing scores on the test split.

        {baseline: {"meaning": str, "label": float, "exact": float, "by": {axis: {value: {"label": …, "exact": …}}}}}
        """

    @abc.abstractmethod
    def token(self, number: int) -> str:
        """Returns a token as a reader would write it."""

    @abc.abstractmethod
    def explain(self) -> str:
        """Returns in words what the task asks and how an example is laid out."""

    @abc.abstractmethod
    def narrate(self, example: Mapping[str, Any]) -> str:
        """Returns in words what one example says and what its right answers are."""

    def batch(self, seed: int, split: str, start: int, size: int) -> dict[str, Any]:
        """Returns examples start … start + size - 1, stacked."""
        whole("start", start, 0)
        whole("size", size, 1)
        return self.batch_at(seed, split, np.arange(start, start + size))

    @property
    def thinks(self) -> bool:
        """Whether a chain of thought stands between the query and the answer: labels whose tokens follow, so that a model can write its own."""
        return bool(getattr(self, "chain_of_thought", False))

    @property
    def answer_marker(self) -> int | None:
        """The token that ends a chain of thought and has the answer for its label, wherever it stands; None: the answer has its own place."""
        return None

    def describe(self) -> str:
        """Returns the task in words: what it asks, its sizes and baselines, and one example, marked and explained."""
        from sleepnet.tasks.describe import describe

        return describe(self)

    @property
    def title(self) -> str:
        """The task in a line: its name, the arguments that are not at their defaults, and whether difficulty rises in training; the window is the model's too."""
        given = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self) if field.init and getattr(self, field.name) != field.default]
        told = ", ".join(f"{key}={value}" for key, value in given if key != "window" and not key.endswith("_rise"))
        return f"{self.name}({told})" + ", by a curriculum" * any(key.endswith("_rise") for key, _ in given)

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument with its value, defaults resolved, as plain JSON values."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    def spec(self) -> dict[str, Any]:
        """Returns what determines every example of the task."""
        told = {key: value for key, value in self.arguments.items() if key not in self.added or value != self.added[key]}
        return {"name": self.name, "version": self.version, "arguments": told}

    @property
    def spec_hash(self) -> str:
        """sha256, in hex, of `spec()` as canonical JSON: saved with a checkpoint, so that other data is refused on resuming."""
        canonical = json.dumps(self.spec(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _set(self, **values: Any) -> None:
        """Fills fields while a frozen instance is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_splits(self, instances: int) -> None:
        """Raises UsageError where so few instances exist that a split has none."""
        if instances < _SURELY_ENOUGH:
            for split in SPLITS:
                self.batch_at(0, split, [0])

    @staticmethod
    def _key(seed: int, split: str) -> tuple[int, int]:
        """Returns the generator's key, (seed, split number)."""
        choice("split", split, tuple(SPLITS))
        return seeds.check("seed", seed), SPLITS[split]

    @staticmethod
    def _indices(indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns indices as uint64 [B]."""
        array = np.asarray(indices)
        require(array.ndim == 1 and array.size > 0 and array.min() >= 0, "indices must be a row of numbers of at least 0")
        return array.astype(np.uint64)
