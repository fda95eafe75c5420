"""Arguments of products in a group, and where everything stands that follows from them: what both paths to an example read."""
import dataclasses
from typing import Any

from sleepnet.tasks.base import Task
from sleepnet.tasks.group.elements import SIZES
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, span, whole
from sleepnet.tasks.machinery.splits import TRAIN

LENGTH, ELEMENTS = range(2)  # streams
_SPANS = ("doubling", "growing")
_SHORTEST = 2  # one element alone is no product, and gives too few words to hold some out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(Task):
    """A word of a group and its query in tokens.

    Attributes:
      group: "S5", "A5", "S4" or "Z60".
      length: k: a number, or (least, most), drawn uniformly per example. With `running` words have the most, and products of
        fewer than the least are learned but not graded.
      chain_of_thought: write g1·g2, g1·g2·g3, … after the query, before the answer: learned, not graded. A word of k has k − 1 labels.
      running: ask for the product so far at every element instead of once after the sleep.
      length_rise: training examples before the largest k drawn grows by one, for each of the last growths up to `length[1]`;
        empty: the whole range throughout. A curriculum over the order of the training examples alone.
      window: L; None: the longest word.
      spans: what a step of the computation holds at each element: the product of the 2^j elements that end there (`doubling`, a parallel scan, log k
        steps that look ever further back), or of the j + 1 (`growing`, k − 1 steps that look back by one).
      asked: the label is the product of so many of the word's last elements; None: of all. Words have one length then, and k is `asked`.
      follow_passes: `asked` is as many as the steps of whoever sleeps reach, `at`: the last N of `growing` spans. Where no N is known, all.
    """

    group: str = "S5"
    length: int | tuple[int, int] = (2, 20)
    chain_of_thought: bool = False
    running: bool = False
    length_rise: tuple[int, ...] = ()
    window: int | None = None
    spans: str = "doubling"
    asked: int | None = None
    follow_passes: bool = False

    def __post_init__(self) -> None:
        choice("group", self.group, tuple(SIZES))
        choice("spans", self.spans, _SPANS)
        least, most = span("length", self.length, _SHORTEST)
        for key in ("running", "chain_of_thought", "follow_passes"):
            require(isinstance(getattr(self, key), bool), f"{key}={getattr(self, key)!r} must be True or False")
        require(not (self.running and self.chain_of_thought), "chain_of_thought needs running=False: running words ask for every product already")
        rise = rising("length_rise", self.length_rise, most - least + 1)
        require(not (rise and self.running), "length_rise needs running=False: running words have all one length")
        if self.asked is not None or self.follow_passes:
            key = "follow_passes" if self.follow_passes else "asked"
            alone = least == most and not (self.running or self.chain_of_thought)
            require(alone, f"{key}={getattr(self, key)!r} asks for a product of a word's last elements: use one length, running=False and chain_of_thought=False")
            require(self.asked is None or not self.follow_passes, f"follow_passes=True lets the passes say how many elements are multiplied, which asked={self.asked!r} says too: leave out one")
            require(self.asked is None or whole("asked", self.asked, 1) <= most, f"asked={self.asked!r} is more than the {most} elements of a word")
        window = whole("window", most if self.window is None else self.window, 1)
        windows = -(-most // window)
        tail = most - 1 if self.chain_of_thought else 1
        predicts = (True,) * windows if self.running else (False,) * windows + (True,) * -(-tail // window)
        self._set(
            length=most if least == most else (least, most), length_rise=rise, window=window, predicts=predicts,
            vocab_size=self.size + 2, seq_len=most if self.running else windows * window + tail,
            answers=most - least + 1 if self.running else 1,
        )
        self._check_splits(self.size**least)

    @property
    def length_range(self) -> tuple[int, int]:
        """(least, most) elements."""
        return self.length if isinstance(self.length, tuple) else (self.length, self.length)

    @property
    def multiplied(self) -> tuple[int, int]:
        """(least, most) elements that an answer is the product of."""
        return self.length_range if self.asked is None else (self.asked, self.asked)

    @property
    def size(self) -> int:
        """How many elements the group has."""
        return SIZES[self.group]

    @property
    def context(self) -> int:
        """Tokens of the word, padding included."""
        return self.seq_len if self.running else self.predicts.count(False) * self.window

    @property
    def query(self) -> int:
        """The token `?`."""
        return self.size + 1

    def lengths(self, split: int, index: Any) -> Any:
        """Returns how many values of k the example at `index` is drawn from (a number or an array)."""
        least, most = self.length_range
        if self.running:
            return 1
        return risen(self.length_rise, most - least + 1, index) if split == TRAIN else most - least + 1

    def reach(self, step: int) -> int:
        """How many elements a step's spans have."""
        return 1 << step if self.spans == "doubling" else step + 1
