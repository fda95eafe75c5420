"""Does a study's claim hold? In one plain sentence, with the figures."""
import dataclasses

from sleepnet.study.outcomes import Outcome, Score, of_arm, score
from sleepnet.study.spec import StudySpec


@dataclasses.dataclass(frozen=True)
class Verdict:
    """held is None where there is no claim, or no finished run to decide it by."""

    held: bool | None
    sentence: str


def verdict(spec: StudySpec, outcomes: list[Outcome]) -> Verdict:
    """Checks the study's claim: exact accuracy, mean over seeds, each arm with the N it was trained with."""
    claim = spec.claim
    if claim is None:
        return Verdict(None, "This study makes no claim; it only reports.")
    where = "over the whole test" if claim.axis == "all" else f"at {claim.axis} = {claim.value}"
    halves = [(claim.arm, claim.at_least, "at least")]
    if claim.against:
        halves.append((claim.against, claim.at_most, "at most"))
    held, parts = True, []
    for arm, bound, direction in halves:
        runs = of_arm(outcomes, arm)
        found = score(runs, runs[0].passes, claim.axis, claim.value) if runs else None
        if found is None:
            return Verdict(None, f"The claim is not decided: there is no finished run of arm {arm!r} with a score {where}.")
        good = (lambda value: value >= bound) if direction == "at least" else (lambda value: value <= bound)
        held = held and good(found.mean)
        claimed = f"where {direction} {bound:.3f} was claimed{_seeds(found, good)}"
        parts.append(f"{spec.arm(arm).label} ({arm}) scores {_figures(found)}, {claimed}")
    return Verdict(held, f"The claim is {'held' if held else 'NOT held'}: {where}, {'; '.join(parts)}. Exact accuracy, means over seeds.")


def _figures(found: Score) -> str:
    seeds = len(found.values)
    if seeds == 1:
        return f"{found.mean:.3f} (one seed, 95 % interval {found.low:.3f}–{found.high:.3f})"
    return f"{found.mean:.3f} ({seeds} seeds, {found.low:.3f}–{found.high:.3f})"


def _seeds(found: Score, good) -> str:
    if len(found.values) == 1:
        return ""
    return f", true of {sum(map(good, found.values))} of {len(found.values)} seeds"
