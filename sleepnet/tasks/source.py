"""What training needs of data: a pure function from (seed, split, index) to tokens, targets and where there is a loss. `Task` adds what a benchmark has.

Dimension letters: T tokens of an example, L tokens of a window, B examples of a batch.
"""
import abc
import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet import seeds
from sleepnet.tasks.machinery.arguments import choice, require, whole
from sleepnet.tasks.machinery.splits import SPLITS

PAD = 0  # in every benchmark's vocabulary: no content, no state write, no label
WIDTH = 110  # characters of a line for readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(abc.ABC):
    """A source of examples: the dataclass fields of a subclass are its arguments. An example is a mapping:

      tokens      int32 [T]  what the model reads
      targets     int32 [T]  what it must predict *at* each position (nothing is shifted by the trainer)
      loss_mask   bool [T]   where there is a loss
    A batch has a leading axis B on all of these, and equals the examples stacked, bit for bit.
    Splits ("train", "validation", "test") share no instance, whatever the seeds.

    Attributes:
      name: what `sleepnet.tasks.get` calls it.
      version: raised whenever the same arguments give other examples.
      pad: the token that is padding; −1: none.
      fields: of an example, each [T], with dtypes: what a batch of training has.
      vocab_size: number of tokens.
      seq_len: T.
      window: L; windows are cut from position 0, the last may be shorter.
      predicts: one bool per window: True where it holds labels, False where it sleeps.
      reorders: arguments that change nothing but which of the same examples comes when, and how often, in training: each example is one that
        every other value gives too, and validation and test stay as they are. Arms of a study may differ in them.
      added: arguments that came after the first release, with what was so before: at that value `spec` leaves them out, so hashes stay.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    pad: ClassVar[int] = PAD
    fields: ClassVar[Mapping[str, type]] = {"tokens": np.int32, "targets": np.int32, "loss_mask": np.bool_}
    reorders: ClassVar[tuple[str, ...]] = ()
    added: ClassVar[Mapping[str, Any]] = {}

    vocab_size: int = dataclasses.field(init=False, repr=False, compare=False)
    seq_len: int = dataclasses.field(init=False, repr=False, compare=False)
    predicts: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)

    @abc.abstractmethod
    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        """Returns one example, by the plain path that is written to be read."""

    @abc.abstractmethod
    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns the examples at these indices, stacked, by the vectorised path."""

    @abc.abstractmethod
    def token(self, number: int) -> str:
        """Returns a token as a reader would write it."""

    @abc.abstractmethod
    def explain(self) -> str:
        """Returns in words what is read and asked, and how an example is laid out."""

    @abc.abstractmethod
    def mark(self, example: Mapping[str, Any]) -> str:
        """Returns an example window by window, for a reader."""

    def batch(self, seed: int, split: str, start: int, size: int) -> dict[str, Any]:
        """Returns examples start … start + size - 1, stacked."""
        whole("start", start, 0)
        whole("size", size, 1)
        return self.batch_at(seed, split, np.arange(start, start + size))

    @property
    def follows_passes(self) -> bool:
        """Whether what is asked hangs on the passes of the sleep: then `at` says what, for each N."""
        return False

    def at(self, passes: int) -> "Source":
        """Returns the source that a model with N passes is asked: itself, unless it `follows_passes`. The examples are the same but for targets and difficulty."""
        return self

    def describe(self) -> str:
        """Returns the source in words: what it asks, its sizes, and its first test example."""
        return "\n".join([*self._head(), "Example 0 of seed 0, split test:", self.mark(self.example(0, "test", 0))])

    def _head(self) -> list[str]:
        """The lines of `describe` before anything of an example."""
        parts = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return [f"{self.name}, version {self.version}, spec {self.spec_hash[:12]}", f"  {parts}", "", *(textwrap.fill(text, WIDTH) for text in (self.explain(), self._sizes())), ""]

    def _sizes(self) -> str:
        sleeping = sum(not p for p in self.predicts)
        layout = f"{sleeping} sleep, {len(self.predicts) - sleeping} predict"
        return f"T = {self.seq_len} tokens in {len(self.predicts)} windows of L = {self.window}: {layout}. Vocabulary {self.vocab_size}"

    @property
    def title(self) -> str:
        """The source in a line: its name, the arguments that are not at their defaults, and whether difficulty rises in training; the window is the model's too."""
        given = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self) if field.init and getattr(self, field.name) != field.default]
        told = ", ".join(f"{key}={value}" for key, value in given if key != "window" and not key.endswith("_rise"))
        return f"{self.name}({told})" + ", by a curriculum" * any(key.endswith("_rise") for key, _ in given)

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument with its value, defaults resolved, as plain JSON values."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    def spec(self) -> dict[str, Any]:
        """Returns what determines every example."""
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
