"""The words of gsm: towns, containers and what lies in them; a quantity's name as a number, and as it is written.

A quantity is one of four kinds, in the town P:
  THING   the number of jars in P                THINGS  the number of containers in P: of all that the text gives a number for
  PART    the number of coins in each jar in P   PARTS   the number of coins in P: containers times coins in each, summed
"""
import functools

import numpy as np

from sleepnet.tasks.base import PAD

THING, PART, THINGS, PARTS = range(4)

_PLACES = """
Ashford Barton Clifton Dalton Elmwood Fairview Glenwood Hartley Ironton Jarrow Kendal Langley Marlow Newton Oakham Preston
Quincy Redhill Stanton Thornton Upton Verwood Walton Yarmouth Alton Bedford Camden Dover Easton Fulton Grafton Hilton
Irving Jasper Kingston Lincoln Milford Norwood Orford Penrith Quorn Radford Salem Trenton Ulverton Vernon Weston York
Ambleside Burford Chester Denton Epping Felton Garfield Hadley Ilford Keswick Ludlow Melton Norton Oxford Pelham Ripon
""".split()
_THINGS = """
jar bag crate basket barrel bucket drawer trunk bottle carton chest locker cabinet hamper tub tin
sack bin case bowl pot tray wallet purse parcel packet urn vase cupboard satchel backpack jug
""".split()
_PARTS = """
coins pens apples buttons marbles stamps nails beads keys ribbons candles spoons pebbles shells cards whistles
acorns bolts corks feathers figs forks lemons needles walnuts pears pencils pins plums rings screws seeds
""".split()
_OTHERS = "The the number of in each equals more than times sum difference and containers is not known What . ? x + - × = ( )".split()
ANSWER, SOLUTION = "Answer:", "Solution:"
_NO_SPACE_BEFORE = frozenset(".?")
_BITS = 6  # of the number of a place, a thing or a part in a name

MOST_PLACES, MOST_THINGS, MOST_PARTS = len(_PLACES) // 2, len(_THINGS) // 2, len(_PARTS) // 2


def name_of(kind: int, place: int, thing: int = 0, part: int = 0) -> int:
    """Returns a quantity's name as one number."""
    return ((place << _BITS | thing) << _BITS | part) << 2 | kind


def kind_of(name: int) -> int:
    """Returns what kind of quantity a name is of."""
    return name & 3


def place_of(name: int) -> int:
    """Returns the number of a name's town."""
    return name >> 2 * _BITS + 2


def phrase_length(kind: int) -> int:
    """Returns how many tokens a name has."""
    return 9 if kind == PART else 6


class Vocabulary:
    """Tokens ↔ words: PAD, the words of every sentence, the towns and things in use, then the numbers 0 … limit.

    A number is one token: an answer is one decision at one place, so no digit is graded with the true digits before it in view,
    and every answer has the same number of tokens.

    Attributes:
      words: the word of each token.
      number: the token of 0.
    """

    def __init__(self, places: int, things: int, parts: int, limit: int):
        things_used, each = _THINGS[:things], _THINGS[: things if parts else 0]
        words = [*_OTHERS, ANSWER, SOLUTION, *_PLACES[:places], *(f"{thing}s" for thing in things_used), *each, *_PARTS[:parts]]
        self.number = 1 + len(words)
        self.words = ("PAD", *words, *map(str, range(limit + 1)))
        self._token = {word: token for token, word in enumerate(self.words)}
        self.phrase = functools.cache(self._phrase)

    def tokens(self, text: str) -> list[int]:
        """Returns the tokens of words that have spaces between them."""
        return [self._token[word] for word in text.split()]

    def _phrase(self, name: int) -> list[int]:
        """Returns the tokens of a quantity's name, `the number of …`."""
        rest, kind = divmod(name, 4)
        mask = (1 << _BITS) - 1
        place, thing, part = rest >> 2 * _BITS, _THINGS[rest >> _BITS & mask], _PARTS[rest & mask]
        what = {THING: f"{thing}s", PART: f"{part} in each {thing}", THINGS: "containers", PARTS: part}[kind]
        return self.tokens(f"the number of {what} in {_PLACES[place]}")

    def text(self, tokens: np.ndarray) -> str:
        """Returns what tokens say, paddings left out."""
        words = [self.words[token] for token in tokens.tolist() if token != PAD]
        return "".join(word if word in _NO_SPACE_BEFORE else f" {word}" for word in words).strip()
