"""What every task offers: the contract between a benchmark and whoever trains or grades on it.

Dimension letters: T tokens of an example, L tokens of a window, A answer groups, B examples of a batch.
"""
import abc
import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet import seeds
from sleepnet.errors import UsageError
from sleepnet.tasks.machinery import steps
from sleepnet.tasks.machinery.arguments import choice, require, whole
from sleepnet.tasks.machinery.splits import SPLITS

PAD = 0  # in every task's vocabulary: no content, no state write, no label
FIELDS = {"tokens": np.int32, "targets": np.int32, "loss_mask": np.bool_, "answer": np.int32}  # of an example, each [T]
_WIDTH = 110  # characters of a line for readers
_BY_HEART = "To be known by heart: train, validation and test ask about the same instances. Nothing is held out, and accuracy is recall."
_LEGEND = "reading → what must be predicted there; * marks what is graded; PAD×n is n paddings"
_SURELY_ENOUGH = 10_000  # instances: a bucket of 1/64 of them is empty with probability 1e-68


@dataclasses.dataclass(frozen=True)
class Grammar:
    """How a sentence of a chain of thought states a value, in tokens: `begins` NAME `equals` … `equals` VALUE `stop`."""

    begins: int
    equals: int
    stop: int


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
    Splits ("train", "validation", "test") share no instance, whatever the seeds; of what is to be known `by_heart` all have every one.

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
      reorders: arguments that change nothing but which of the same examples comes when, and how often, in training: each example is one that
        every other value gives too, and validation and test stay as they are. Arms of a study may differ in them.
      added: arguments that came after the first release, with what was so before: at that value `spec` leaves them out, so hashes stay.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    difficulty_axes: ClassVar[tuple[str, ...]]
    axis_words: ClassVar[Mapping[str, str]]
    pad: ClassVar[int] = PAD
    reorders: ClassVar[tuple[str, ...]] = ()
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

    @property
    def most_steps(self) -> int | None:
        """The most steps of its computation that `steps_of` can tell; None: as many as are asked for; 0: the task has none to tell."""
        return 0

    @property
    def least_passes(self) -> int:
        """The fewest passes, one that reads and one for each step, after which a sleeping window can hold what is asked; 1 where no number is known beforehand."""
        return 1

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        """Returns what a solver holds after 0, 1, … `most` steps of the computation, int32 [B, most + 1, T], by the vectorised path.

        In windows that sleep: at the tokens of what is computed on, what stands there after j steps; PAD elsewhere. In windows that predict: what the
        answers were if the computation ended after j steps; PAD where a task's answers do not hang on the steps. Where the tokens say how many
        steps are asked for, nothing moves after them.

        Args:
          batch: as `batch` returns it; `tokens` and `targets` are read.
          most: at least 0.

        Raises:
          UsageError: more steps than `most_steps`.
        """
        raise UsageError(f"task {self.name} has no steps of a computation to tell: method.name=taught needs a task that has, such as rule110")

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        """Returns `steps_of` of one example, int32 [most + 1, T], read from the tokens alone by a plain solver that shares no code with it."""
        raise UsageError(f"task {self.name} has no steps of a computation to tell")

    def _count_steps(self, most: int) -> int:
        """`most`, where there are so many steps to tell."""
        if self.most_steps is not None and whole("most", most, 0) > self.most_steps:
            raise UsageError(f"task {self.title} has at most {self.most_steps} steps to tell, not {most}: fewer passes will do (model.sleep.passes, train.random_passes)")
        return most

    @property
    def follows_passes(self) -> bool:
        """Whether what is asked hangs on the passes of the sleep: then `at` says what, for each N."""
        return False

    def at(self, passes: int) -> "Task":
        """Returns the task that a model with N passes is asked: itself, unless it `follows_passes`. The examples are the same but for targets and difficulty."""
        return self

    def baselines(self) -> dict[str, Any]:
        """Returns what guessing scores on the test split.

        {baseline: {"meaning": str, "label": float, "exact": float, "by": {axis: {value: {"label": …, "exact": …}}}}}
        """
        return self._baselines

    @property
    @abc.abstractmethod
    def _baselines(self) -> dict[str, Any]:
        """What `baselines` returns: a cached property, since some take a second to work out."""

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
    def by_heart(self) -> bool:
        """Whether the content is to be memorised: it hangs on the arguments alone, all splits ask about the same instances, and the score is recall."""
        return False

    @property
    def thinks(self) -> bool:
        """Whether labels have tokens that follow, a chain of thought or a long answer, so that it is graded as a model writes it itself, too."""
        return bool(getattr(self, "chain_of_thought", False))

    @property
    def answer_marker(self) -> int | None:
        """The token that ends a chain of thought and has the answer for its label, wherever it stands; None: the answer has its own place."""
        return None

    @property
    def opening(self) -> int | None:
        """The token with which what a model writes itself begins, where all that it is asked has slept before; None: part of the prompt stands in windows that predict."""
        return None

    @property
    def grammar(self) -> Grammar | None:
        """How a chain of thought states what it passes; None: no milestones of it are told."""
        return None

    def milestones(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The quantities that a right chain of thought passes, read from the tokens alone by the plain solver: a reference that can't be imitated word by word.

        Args:
          tokens: int32 [B, T] of examples.

        Returns:
          Names, int32 [B, M, W], as a sentence has them behind its first word, PAD behind each; values, int32 [B, M]; and what each follows from, bool
          [B, M, M], which stands before it. A milestone of PADs alone is none.

        Raises:
          UsageError: the task as given does not tell them.
        """
        raise UsageError(f"task {self.title} tells no milestones of its solutions: gsm does, with chain_of_thought=True and direction='forward'")

    @property
    def chain_shape(self) -> tuple[int, int] | None:
        """(R, Q) of what `chain` returns; None: the task does not tell the steps of its solutions."""
        return None

    def chain(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The steps c_1 … c_T of each solution, T ≤ R, the last of them the answer: each as it would be asked for in the place of the answer.

        Args:
          tokens: int32 [B, T] of examples.

        Returns:
          What is read and what must be predicted there, both int32 [B, R, Q]: PAD behind a step's last token and behind the last step. What is read of the last
          step is what the example has in the windows that predict.

        Raises:
          UsageError: the task as given does not tell them.
        """
        raise UsageError(f"task {self.title} does not tell the steps of its solutions as a chain: group does, with running=False and chain_of_thought=False")

    def describe(self) -> str:
        """Returns the task in words: what it asks, its sizes and baselines, and its first test example, marked and explained."""
        sleeping = sum(not p for p in self.predicts)
        sizes = (
            f"T = {self.seq_len} tokens in {len(self.predicts)} windows of L = {self.window}: {sleeping} sleep, "
            f"{len(self.predicts) - sleeping} predict. Vocabulary {self.vocab_size}; answers per example {self.answers}; graded by "
            f"{' and '.join(self.difficulty_axes)}."
        )
        parts = [
            f"{self.name}, version {self.version}, spec {self.spec_hash[:12]}",
            "  " + ", ".join(f"{k}={v!r}" for k, v in self.arguments.items()),
            "",
            textwrap.fill(self.explain(), _WIDTH),
            textwrap.fill(sizes, _WIDTH),
            "",
            *([textwrap.fill(_BY_HEART, _WIDTH), ""] if self.by_heart else []),
            "What guessing scores on the test split (per label, exact):",
        ]
        parts += [f"  {name:12} {b['label']:.4f}  {b['exact']:.4f}  {b['meaning']}" for name, b in self.baselines().items()]
        parts += ["", "Example 0 of seed 0, split test:", self.mark(self.example(0, "test", 0))]
        return "\n".join(parts + ([told] if (told := steps.mark(self, self.example(0, "test", 0))) else ["It has no steps of a computation that passes could be taught by."]))

    def mark(self, example: Mapping[str, Any]) -> str:
        """Returns an example window by window, with its labels beside the tokens they belong to, and then in words."""
        lines = [f"({_LEGEND})"]
        for w, predicts in enumerate(self.predicts):
            words: list[str] = []
            pads = 0
            for t in range(w * self.window, min((w + 1) * self.window, self.seq_len)):
                word = self.token(int(example["tokens"][t]))
                if example["loss_mask"][t]:
                    word += f"→{self.token(int(example['targets'][t]))}" + "*" * bool(example["answer"][t] >= 0)
                pads = pads + 1 if word == "PAD" else 0
                if pads > 1:
                    words.pop()
                words.append(f"PAD×{pads}" if pads > 1 else word)
            head = f"window {w + 1}, {'predicts' if predicts else 'sleeps'}: "
            lines.append(textwrap.fill(head + " ".join(words), _WIDTH, subsequent_indent="    ", break_long_words=False))
        return "\n".join([*lines, self.narrate(example)])

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
