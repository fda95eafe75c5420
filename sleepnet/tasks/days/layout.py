"""The days' arguments, and where everything stands that follows from them: what both paths to an example read."""
import dataclasses

import numpy as np

from sleepnet import seeds
from sleepnet.tasks.base import Task
from sleepnet.tasks.machinery import turns
from sleepnet.tasks.machinery.arguments import choice, require, whole

# words: of questions, of templates; then ten digits, then the names
END, ASK, ABOUT, GIVE, WHOSE, TWICE, IS, FOR, NOTE, HAS, ZERO = range(1, 12)
NAME = ZERO + 10
KEYS, VALUES, ORDER, TEMPLATE, ASKED, TURN, REPLAY = range(7)  # streams
CONTENT = 3  # beside a content's number where the seed has the split's: no split draws these words
TEMPLATES = 3
KINDS = ("asked", "paraphrased", "reversed", "two_hop")
MOST_DIGITS = 9  # of a value
_MOST = 2**12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(Task):
    """Facts and questions in tokens.

    Attributes:
      kind: "fresh": new days in every example, all told, to learn the skill from; or "stream": one life, D days whose facts are to be known afterwards.
      days: D; None: 12, of fresh days 1.
      facts: F of a day.
      links: of these, whose key is a value of the day before (the first day's: of the last); None: a quarter.
      names: a key is two of them.
      digits: of a value.
      content: which life, a number like a seed; neither seed nor split changes it. Nothing of fresh days.
      told: what stands before the questions, in windows that sleep: "all" days, "today", the example's day alone, or "nothing". Fresh days are all told.
      asks: kinds of questions, all equally often; None: asked, paraphrased, reversed and, where there are links, two_hop.
      questions: of an example; None: 4, in a stream 1.
      per_day: training examples of a day: example i is of day i // per_day; behind the last day it is the first's turn again. Of a stream.
      order: of a stream's training: "given", day after day, "shuffled", the days in an order that the seed draws, or "mixed", days take turns.
      replay: per cent of training examples that are of a day before instead, one of its first `kept`.
      kept: of each day before; see replay.
      window: L.
    """

    kind: str = "fresh"
    days: int | None = None
    facts: int = 16
    links: int | None = None
    names: int = 64
    digits: int = 4
    content: int = 0
    told: str | None = None
    asks: tuple[str, ...] | None = None
    questions: int | None = None
    per_day: int = 3200
    order: str = "given"
    replay: int = 0
    kept: int = 32
    window: int = 64

    def __post_init__(self) -> None:
        kind = choice("kind", self.kind, ("fresh", "stream"))
        stream = kind == "stream"
        D = whole("days", (12 if stream else 1) if self.days is None else self.days, 1, _MOST)
        F, digits = whole("facts", self.facts, 1, _MOST), whole("digits", self.digits, 1, MOST_DIGITS)
        names, window = whole("names", self.names, 1, 1024), whole("window", self.window, 4)
        links = whole("links", F // 4 if self.links is None else self.links, 0, F // 2)
        told = choice("told", ("today" if stream else "all") if self.told is None else self.told, ("all", "today", "nothing"))
        require(stream or told == "all", f"told={told!r} needs kind='stream': fresh days can be read in the example alone")
        asks = (KINDS if links else KINDS[:-1]) if self.asks is None else self.asks
        require(isinstance(asks, (list, tuple)) and len(asks) > 0 and len(set(asks)) == len(asks), f"asks={asks!r} must be a list of kinds, none twice, such as ('asked',)")
        for each in asks:
            choice("asks", each, KINDS)
        require(links or "two_hop" not in asks, f"asks={tuple(asks)!r} has two_hop, which needs links of at least 1")
        for what, least, there in (("names", names**2, f"{names}² keys"), ("digits", 10**digits, f"{10**digits} values")):
            require(D * F <= least, f"days={D} × facts={F} are more than the {there}, and no two facts share one: raise {what}")
        turns.fresh_says_nothing_of(self, "content")
        self._set(
            kind=kind, days=D, facts=F, links=links, names=names, digits=digits, content=seeds.check("content", self.content), told=told, asks=tuple(asks),
            questions=whole("questions", (1 if stream else 4) if self.questions is None else self.questions, 1, 256), window=window, **turns.checked(self),
        )  # fmt: skip
        for key, held in (("a fact", self.fact_tokens), (f"questions={self.questions}", self.questions * self.question_tokens)):
            require(held <= window, f"window={window} can't hold the {held} tokens of {key}; use window={held}")
        asleep = self.first_asked // window
        self._set(
            vocab_size=NAME + names, seq_len=self.first_asked + self.questions * self.question_tokens, answers=self.questions, predicts=(False,) * asleep + (True,),
        )  # fmt: skip

    @property
    def by_heart(self) -> bool:
        return self.kind == "stream"

    @property
    def named(self) -> int:
        """Facts of a day whose key is two names; they come first, then the links."""
        return self.facts - self.links

    @property
    def key_tokens(self) -> int:
        """The most tokens of a key."""
        return max(2, self.digits) if self.links else 2

    @property
    def fact_tokens(self) -> int:
        """Tokens that a fact in the text has room for: NOTE, key, HAS, value."""
        return 2 + self.key_tokens + self.digits

    @property
    def question_tokens(self) -> int:
        """Tokens that a question has room for, with its answer, after whose last token END is predicted."""
        return 2 + self.key_tokens + self.digits

    @property
    def told_days(self) -> int:
        """Days whose text an example has."""
        return {"all": self.days, "today": 1, "nothing": 0}[self.told]

    @property
    def places(self) -> np.ndarray:
        """Where each fact of a day's text begins, from the day's first window on: int64 [F]. No fact is cut in two."""
        each = self.window // self.fact_tokens
        slot = np.arange(self.facts)
        return slot // each * self.window + slot % each * self.fact_tokens

    @property
    def day_tokens(self) -> int:
        """Tokens of a day's text: whole windows."""
        return -(-self.facts // (self.window // self.fact_tokens)) * self.window

    @property
    def first_asked(self) -> int:
        """Where the first question begins: at the start of a window."""
        return self.told_days * self.day_tokens

    def of_kind(self, kind: str) -> tuple[int, int]:
        """(first, how many) of a day's facts that a kind of question can be about."""
        return {"reversed": (0, self.named), "two_hop": (self.named, self.links)}.get(kind, (0, self.facts))
