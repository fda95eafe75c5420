"""An arm beside the reference, seed by seed, and what may be said of it."""
import dataclasses
from collections.abc import Iterable
from typing import Any

from sleepnet.eval import paired
from sleepnet.study.outcomes import Outcome, same_test

_LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One seed: exact accuracy of an arm less the reference's, on the same held-out answers.

    Attributes:
      seed: of both.
      gap: the difference.
      low, high: its 95 % interval; paired where both outcomes say which answers were right, else of independent shares.
      alone: answers that the arm alone got right, and that the reference alone did; None: not paired.
      p: of McNemar's exact test; None: not paired.
    """

    seed: int
    gap: float
    low: float
    high: float
    alone: tuple[int, int] | None = None
    p: float | None = None

    @property
    def sign(self) -> int:
        """1: the arm is ahead; −1: behind; 0: not decided by this seed."""
        decided = self.p < _LEVEL if self.p is not None else not self.low <= 0 <= self.high
        return (self.gap > 0) - (self.gap < 0) if decided else 0


def contrast(arm: Outcome, reference: Outcome, axis: str = "all", value: Any = None) -> Contrast | None:
    """The contrast of two outcomes of one seed, each with the N it was trained with; None where either has no score, or another test."""
    one, other = arm.row(arm.passes, axis, value), reference.row(reference.passes, axis, value)
    if not one or not other or not same_test(arm, reference):
        return None
    gap = one["exact_accuracy"] - other["exact_accuracy"]
    if "right_answers" in one and "right_answers" in other and one["answers"] == other["answers"]:
        b, c, p = paired.mcnemar(*(paired.unpack(row["right_answers"], row["answers"]) for row in (one, other)))
        return Contrast(arm.seed, gap, *paired.paired_interval(b, c, one["answers"]), (b, c), p)
    interval = paired.unpaired_interval(one["exact_accuracy"], one["exact_interval"], other["exact_accuracy"], other["exact_interval"])
    return Contrast(arm.seed, gap, *interval)


def contrasts(arm: Iterable[Outcome], reference: Iterable[Outcome], axis: str = "all", value: Any = None) -> list[Contrast]:
    """One for each seed that both have."""
    known = {outcome.seed: outcome for outcome in reference}
    found = [contrast(outcome, known[outcome.seed], axis, value) for outcome in arm if outcome.seed in known]
    return [one for one in found if one]


def sentence(arm: str, reference: str, where: str, found: list[Contrast]) -> str:
    """What the seeds allow to be said, and no more: ahead or behind only where every seed decides it alike."""
    test = "McNemar's exact test" if all(one.p is not None for one in found) else "intervals, unpaired"
    seeds = f"{len(found)} of {len(found)} seeds" if len(found) > 1 else f"the one seed run ({found[0].seed}), which says nothing of others"
    signs = {one.sign for one in found}
    least, most = min(abs(one.gap) for one in found), max(abs(one.gap) for one in found)
    by = f"by {least:.3f}" if f"{least:.3f}" == f"{most:.3f}" else f"by {least:.3f} to {most:.3f}"
    if signs in ({1}, {-1}):
        word = "ahead of" if signs == {1} else "behind"
        return f"`{arm}` is {word} `{reference}` {where} in {seeds}; {by} ({test})."
    told = ", ".join(f"{one.gap:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in found)
    words = f"{told} in seeds {', '.join(str(one.seed) for one in found)} ({test})"
    if {1, -1} <= signs:
        return f"The seeds disagree on `{arm}` and `{reference}` {where}: {words}; more seeds are due."
    decided = sum(one.sign != 0 for one in found)
    return f"No difference of `{arm}` and `{reference}` {where} is settled, {decided} of {len(found)} seeds decide: {words}."
