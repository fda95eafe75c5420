"""Depo's arguments, and where everything stands that follows from them: what both paths to an example read."""
import dataclasses
import functools
import itertools
import math
from typing import Any

from sleepnet.tasks.base import Task
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, whole

BOS, ANS, FIRST_NAME = 1, 2, 3  # BOS is reserved: the published layout, 300 + 60 = 360 tokens, has no room for it
SIZE, NAMES, EDGES, STARTS, HOPS = range(5)  # streams
EDGE = 0xD6E8FEB86659FD93  # odd: tells the two ends of an edge apart
_PAPER_WINDOW = 75
_MOST_NAMES = 2**40  # a name is drawn from one 64-bit word: many more would be drawn unevenly


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(Task):
    """A cycle and its queries in tokens.

    Attributes:
      nodes: N, the most nodes of a cycle.
      hops: K, the most steps of a query.
      queries: M; an example asks min(n, M) queries, with distinct start nodes.
      names: V, the letters names are made of; the vocabulary holds 2V name tokens.
      name_tokens: (least, most) tokens of a name; the length is drawn uniformly, then each letter.
      min_nodes: least n under `nodes_law="inverse"`.
      nodes_law: of n in training: "inverse", p ∝ 1 / (n + √N), or "fixed", n = N.
      test_hops: the k of validation and test; None: the powers of two up to `hops`.
      hops_rise: training examples before the largest k drawn grows by one, for each of the last growths up to `hops`; empty:
        k ~ U[1, hops] throughout. A curriculum over the order of the training examples: validation and test know nothing of it.
      window: L; None: 75 (the paper's) where the edges fill more than one such window exactly and the queries fit into
        one, else one window for all edges and one for all queries, whichever is longer.
      asked: k of every query of every split, which its token does not tell then; None: each query tells its own. `hops` is 1 with it: there is one query token.
      follow_passes: `asked` is N − 1 of whoever sleeps, at least 1, `at`: what a pass has found is written by the next. Where no N is known, k is 1.
    """

    nodes: int = 75
    hops: int = 16
    queries: int = 10
    names: int = 50
    name_tokens: tuple[int, int] = (1, 2)
    min_nodes: int = 3
    nodes_law: str = "inverse"
    test_hops: tuple[int, ...] | None = None
    hops_rise: tuple[int, ...] = ()
    window: int | None = None
    asked: int | None = None
    follow_passes: bool = False

    def __post_init__(self) -> None:
        N, K, M = whole("nodes", self.nodes, 2), whole("hops", self.hops, 1), whole("queries", self.queries, 1)
        V = whole("names", self.names, 1)
        hops_rise = rising("hops_rise", self.hops_rise, K)
        require(isinstance(self.follow_passes, bool), f"follow_passes={self.follow_passes!r} must be True or False")
        if self.follow_passes or self.asked is not None:
            key = "follow_passes" if self.follow_passes else "asked"
            require(K == 1, f"{key}={getattr(self, key)!r} says k where hops={K} lets each query tell its own: use hops=1")
            require(self.asked is None or not self.follow_passes, f"follow_passes=True lets the passes say how many hops, which asked={self.asked!r} says too: leave out one")
            whole("asked", 1 if self.asked is None else self.asked, 1)
        choice("nodes_law", self.nodes_law, ("inverse", "fixed"))
        inverse = self.nodes_law == "inverse"
        min_nodes = whole("min_nodes", self.min_nodes, 2, N if inverse else None)
        lengths, test_hops = self.name_tokens, self.test_hops
        require(
            isinstance(lengths, (list, tuple)) and len(lengths) == 2,
            f"name_tokens={lengths!r} must be a pair, (least, most) tokens of a name, such as (1, 2)",
        )
        least = whole("name_tokens[0]", lengths[0], 1)
        P = whole("name_tokens[1]", lengths[1], least)
        kinds = sum(V**length for length in range(least, P + 1))
        made = f"names={V} with name_tokens=({least}, {P}) makes {kinds} names"
        require(kinds >= N, f"{made}, fewer than nodes={N}; raise names")
        require(kinds <= _MOST_NAMES, f"{made}, more than 2**40; lower names or name_tokens")
        if test_hops is None:
            test_hops = [2**i for i in range(K.bit_length())]
        listed = isinstance(test_hops, (list, tuple)) and len(test_hops) > 0
        require(listed, f"test_hops={test_hops!r} must be a list of hops such as (1, 2, 4)")
        test_hops = tuple(sorted({whole("test_hops", k, 1, K) for k in test_hops}))

        edges, asked = N * 2 * P, M * (2 + 2 * P)
        if self.window is None:
            paper = edges > _PAPER_WINDOW and edges % _PAPER_WINDOW == 0 and asked <= _PAPER_WINDOW
            window = _PAPER_WINDOW if paper else max(edges, asked)
        else:
            window = whole("window", self.window, 1)
        fit = window // (2 + 2 * P)
        whole_queries = least == P and fit and window % (2 + 2 * P) == 0  # no window's end cuts one in two
        require(
            asked <= window or whole_queries,
            f"window={window} can't hold the {asked} tokens of queries={M} and would cut a query; use window={asked}"
            + (f" or queries={fit}" if fit else ""),
        )
        edges = -(-edges // window) * window
        self._set(
            nodes=N, hops=K, hops_rise=hops_rise, queries=M, names=V, min_nodes=min_nodes,
            name_tokens=(least, P), test_hops=test_hops, window=window, answers=M,
            vocab_size=FIRST_NAME + 2 * V + K, seq_len=edges + asked, predicts=(False,) * (edges // window) + (True,) * -(-asked // window),
        )
        self._check_splits(math.comb(kinds, N) * math.factorial(N - 1))

    @property
    def tested(self) -> tuple[int, ...]:
        """The k of validation and test."""
        return self.test_hops if self.asked is None else (self.asked,)

    def most_hops(self, index: Any) -> Any:
        """Returns the largest k of the training example at `index` (a number or an array)."""
        return risen(self.hops_rise, self.hops, index)

    @property
    def edge_tokens(self) -> int:
        """Tokens before the queries, padding included."""
        return self.window * self.predicts.count(False)

    @functools.cached_property
    def first_number(self) -> list[int]:
        """A name is a number, the shortest names first: [i] is the first number of length least + i; the last entry ends them."""
        least, most = self.name_tokens
        return list(itertools.accumulate((self.names**length for length in range(least, most + 1)), initial=0))

    @functools.cached_property
    def size_thresholds(self) -> list[int]:
        """The law of n, cumulated, in units of 2**-53; without the last entry."""
        if self.nodes_law == "fixed":
            return []
        weights = [1 / (n + math.sqrt(self.nodes)) for n in range(self.min_nodes, self.nodes + 1)]
        total = math.fsum(weights)
        return [int(part / total * 2**53) for part in itertools.accumulate(weights)][:-1]

    def query_token(self, k: Any) -> Any:
        """Returns the token that asks for k steps, 1 … hops (a number or an array)."""
        return FIRST_NAME + 2 * self.names + k - 1
