"""The phone book's arguments, and where everything stands that follows from them: what both paths to an example read."""
import dataclasses
import math
from typing import Any

import numpy as np

from sleepnet import seeds
from sleepnet.tasks.base import Task
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, whole

COLON, ZERO = 1, 2  # the ten digits from ZERO on, then the first names, then the surnames
FIRST_NAME = ZERO + 10
KEYS, DIGITS, ASKED, LIST, EPOCH = range(5)  # streams
CONTENT = 3  # beside a content's number where the seed has the split's: no split draws these words
SHARES = 5  # of the list, as a curriculum adds them
_MOST = 2**16  # entries, digits
_ENTRIES = {"book": 32, "string": 1, "context": 4}
_DIGITS = {"book": 10, "string": 50, "context": 10}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(Task):
    """Entries and a question in tokens.

    Attributes:
      kind: "book" or "string", to be known by heart, or "context": a fresh book in every example, to be looked up.
      entries: n, of the book; None: 32, in a fresh book 4. A string is one entry.
      digits: of a number; None: 10, of a string 50.
      content: which book or string, a number like a seed. Of one content shorter books are the first entries of longer ones, shorter strings their
        first digits. Neither seed nor split changes it.
      names: first names there are, and surnames; n is at most their product.
      listed: where a fresh book stands: "asleep", in windows that sleep, no entry cut in two, or "awake", before the question in its own window.
      order: of the training examples, whole epochs of n: "shuffled", every epoch anew, or "fixed", shuffled once. The seed draws it.
      share_rise: training examples before the next fifth of the list joins those in use, for each of the last growths up to all of it; empty: all
        from the start. The list is shuffled once, the first fifths are in use, and epochs are as long as these. It changes the order alone.
      window: L, of every kind alike, so that a model goes from one to another.
    """

    kind: str = "book"
    entries: int | None = None
    digits: int | None = None
    content: int = 0
    names: int = 64
    listed: str = "asleep"
    order: str = "shuffled"
    share_rise: tuple[int, ...] = ()
    window: int = 64

    def __post_init__(self) -> None:
        kind = choice("kind", self.kind, tuple(_ENTRIES))
        names = whole("names", self.names, 1, 1024)
        n = whole("entries", _ENTRIES[kind] if self.entries is None else self.entries, 1, _MOST)
        digits = whole("digits", _DIGITS[kind] if self.digits is None else self.digits, 1, _MOST)
        content, window = seeds.check("content", self.content), whole("window", self.window, 3)
        choice("order", self.order, ("shuffled", "fixed"))
        choice("listed", self.listed, ("asleep", "awake"))
        rise = rising("share_rise", self.share_rise, SHARES)
        require(kind != "string" or n == 1, f"entries={n} need kind='book': a string is one entry")
        require(n <= names**2, f"entries={n} are more than the {names**2} keys of names={names}; use names={math.isqrt(n - 1) + 1}")
        unheard = {"content": content, "order": self.order, "share_rise": rise} if kind == "context" else {"listed": self.listed}
        for key, value in unheard.items():
            require(value == getattr(Layout, key), f"{key}={value!r} says nothing where kind={kind!r}; leave it out")
        self._set(kind=kind, entries=n, digits=digits, content=content, names=names, share_rise=rise, window=window)
        if kind == "context":
            held, what = (self.entry_tokens, "an entry") if self.listed == "asleep" else (n * self.entry_tokens + self.asked_tokens, f"entries={n} and the question")
            require(held <= window, f"window={window} can't hold the {held} tokens of {what}; use window={held}")
        asleep = self.first_asked // window
        self._set(
            vocab_size=FIRST_NAME + 2 * names, seq_len=self.first_asked + self.asked_tokens, answers=1,
            predicts=(False,) * asleep + (True,) * -(-(self.first_asked + self.asked_tokens - asleep * window) // window),
        )
        if kind == "context":
            self._check_splits(math.comb(names**2, n) * 10 ** (n * digits))

    @property
    def by_heart(self) -> bool:
        return self.kind != "context"

    @property
    def bits(self) -> float:
        """What is to be known by heart, in bits: n · digits · log2 10, about 3.32 a digit; keys are given. 0 of a fresh book."""
        return self.by_heart * self.entries * self.digits * math.log2(10)

    @property
    def entry_tokens(self) -> int:
        """Tokens of an entry that is listed."""
        return 3 + self.digits

    @property
    def asked_tokens(self) -> int:
        """Tokens of a question with its answer, whose last digit is predicted but not read."""
        return 2 + self.digits

    @property
    def places(self) -> np.ndarray:
        """Where each entry of a fresh book begins: int64 [n]. Asleep they fill the last windows, each at its right end."""
        n, entry = self.entries, self.entry_tokens
        if self.listed == "awake":
            return np.arange(n) * entry
        each = self.window // entry
        windows = -(-n // each)
        slot = windows * each - n + np.arange(n)
        return slot // each * self.window + self.window - (each - slot % each) * entry

    @property
    def first_asked(self) -> int:
        """Where the question begins."""
        return 0 if self.by_heart else int(self.places[-1]) + self.entry_tokens

    def shares(self, index: Any) -> Any:
        """Returns how many fifths of the list are in use at the training example `index` (a number or an array)."""
        return risen(self.share_rise, SHARES, index)

    def in_use(self, share: int) -> tuple[int, int]:
        """Returns how many entries so many fifths are, and the training example from which on they are in use."""
        growths = share - SHARES + len(self.share_rise)
        return -(-self.entries * share // SHARES), self.share_rise[growths - 1] if growths else 0
