"""What every benchmark offers beside what training needs of any source: answers that are graded, a solver, what guessing scores.

Dimension letters: T tokens of an example, L tokens of a window, A answer groups, B examples of a batch.
"""
import abc
import dataclasses
import textwrap
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks.machinery import steps
from sleepnet.tasks.machinery.arguments import whole
from sleepnet.tasks.machinery.splits import SPLITS
from sleepnet.tasks.source import PAD, WIDTH, Source

__all__ = ["FIELDS", "PAD", "Source", "Task"]

FIELDS = {**Source.fields, "answer": np.int32}  # of an example, each [T]
_BY_HEART = "To be known by heart: train, validation and test ask about the same instances. Nothing is held out, and accuracy is recall."
_LEGEND = "reading → what must be predicted there; * marks what is graded; PAD×n is n paddings"
_SURELY_ENOUGH = 10_000  # instances: a bucket of 1/64 of them is empty with probability 1e-68


@dataclasses.dataclass(frozen=True)
class Grammar:
    """How a sentence of a chain of thought states a value, in tokens: `begins` NAME `equals` … `equals` VALUE `stop`."""

    begins: int
    equals: int
    stop: int
    zero: int = -1  # the number 0, which those after it follow; −1: what is between the first `equals` and the last is no arithmetic
    plus: int = -1
    minus: int = -1
    times: int = -1
    opened: int = -1  # brackets, one in another never
    closed: int = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Source):
    """A benchmark: a pure function from (seed, split, index) to an example.

    The dataclass fields of a subclass are the task's arguments. An example has what that of a `Source` has, and
      answer      int32 [T]  the answer group a graded position belongs to, else -1. Accuracy per label counts graded
                             positions, exact accuracy counts groups whose positions are all right
      difficulty  {axis: int32 [A]} what each answer group is graded by; -1 for a group this example does not have
    Token 0 is PAD.
    Splits ("train", "validation", "test") share no instance, whatever the seeds; of what is to be known `by_heart` all have every one.

    Attributes:
      difficulty_axes: names of the difficulties.
      axis_words: {axis: what it is, in words for a picture}.
      answers: A.
    """

    difficulty_axes: ClassVar[tuple[str, ...]]
    axis_words: ClassVar[Mapping[str, str]]
    fields: ClassVar[Mapping[str, type]] = FIELDS

    answers: int = dataclasses.field(init=False, repr=False, compare=False)

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
    def narrate(self, example: Mapping[str, Any]) -> str:
        """Returns in words what one example says and what its right answers are."""

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
        raise UsageError(f"task {self.title} does not tell the steps of its solutions as a chain: group and rule110 do, without chain_of_thought, running or follow_passes")

    def describe(self) -> str:
        """Returns the task in words: what it asks, its sizes and baselines, and its first test example, marked and explained."""
        parts = [*self._head(), *([textwrap.fill(_BY_HEART, WIDTH), ""] if self.by_heart else []), "What guessing scores on the test split (per label, exact):"]
        parts += [f"  {name:12} {b['label']:.4f}  {b['exact']:.4f}  {b['meaning']}" for name, b in self.baselines().items()]
        parts += ["", "Example 0 of seed 0, split test:", self.mark(self.example(0, "test", 0))]
        return "\n".join(parts + ([told] if (told := steps.mark(self, self.example(0, "test", 0))) else ["It has no steps of a computation that passes could be taught by."]))

    def _sizes(self) -> str:
        return f"{super()._sizes()}; answers per example {self.answers}; graded by {' and '.join(self.difficulty_axes)}."

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
            lines.append(textwrap.fill(head + " ".join(words), WIDTH, subsequent_indent="    ", break_long_words=False))
        return "\n".join([*lines, self.narrate(example)])

    def _check_splits(self, instances: int) -> None:
        """Raises UsageError where so few instances exist that a split has none."""
        if instances < _SURELY_ENOUGH:
            for split in SPLITS:
                self.batch_at(0, split, [0])
