"""What arms that learn from rewards say in many chains: pass@k by difficulty, and of the problems that what they start from never solved."""
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sleepnet.eval import pass_at_k
from sleepnet.study import outcomes as results
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report.phases import Node, tree, walk
from sleepnet.study.report.tables import NOTHING, Table
from sleepnet.study.spec import Arm, StudySpec

_NOTE = "Of chains that were drawn, the unbiased estimate; mean over seeds [least–most]. Any: the share of problems with a right chain."
_UNSOLVED = (
    "Problems of the test of which what the arm's first phase started from had no right chain in a draw of its own. The same start, drawn again, has some by luck: "
    "the rows called before, beside which the others stand."
)


def tables(spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome]) -> list[Table]:
    """pass@k of all arms that drew chains of their tests, and of what they start from; then of unsolved problems where outcomes tell which they are. Nothing where none drew."""
    drew = {arm.name: runs for arm in spec.arms if (runs := [run for run in results.of_arm(found, arm.name) if "pass_at" in (run.row(run.passes) or {})])}
    if not drew:
        return []
    nodes = walk(tree(spec))
    starts: dict[str, list[Outcome]] = {}
    every, unsolved = [], []
    for name, runs in drew.items():
        firsts = {run.seed: first for run in runs if (first := _first(spec.arm(name), run, nodes, found, inner))}
        for first in firsts.values():
            starts.setdefault(first.config["start"], []).append(first)
        for axis, value in _values([row for run in runs for row in run.rows]):
            every.append(_line(name, axis, value, [row for run in runs if (row := run.row(run.passes, axis, value))]))
            unsolved += _unsolved(name, axis, value, [told for run in runs if (told := of_unsolved(run.row(run.passes, axis, value), _begun(firsts.get(run.seed), axis, value)))])
    before, luck = [], []
    for start, runs in starts.items():
        for axis, value in _values([row for run in runs for row in run.begun]):
            rows = [row for run in runs if (row := _begun(run, axis, value))]
            rows = list({tuple(row["pass_at"].values()): row for row in rows if "pass_at" in row}.values())  # one start of all seeds is one
            before.append(_line(f"before ({start})", axis, value, rows))
            luck += _unsolved(f"before ({start})", axis, value, [told for row in rows if (told := of_unsolved(row, row))])
    ks = [f"pass@{k}" for k in pass_at_k.KS]
    made = [Table("Chains drawn", ("arm", "problems", "runs", *ks, "any"), before + every, _NOTE)]
    return made + ([Table("Of what was never solved before", ("arm", "problems", "how many, by run", *ks, "any"), luck + unsolved, _UNSOLVED)] if unsolved else [])


def of_unsolved(after: dict[str, Any] | None, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """What `pass_at_k.told` says of the chains that the row `after` counts, of problems that `before`, a row of a start, never solved in its other draw, and how many `problems` these are.

    None where rows do not tell, or are of other tests, or all was solved.
    """
    chosen, counts = (before or {}).get(pass_at_k.OTHER_DRAW), (after or {}).get("right_chains")
    if chosen is None or counts is None or len(chosen) != len(counts):
        return None
    left = np.asarray(counts)[np.asarray(chosen) == 0]
    return {"problems": len(left), **pass_at_k.told(left, after["chains"])} if len(left) else None


def _first(arm: Arm, run: Outcome, nodes: list[Node], found: list[Outcome], inner: Sequence[Outcome]) -> Outcome | None:
    """The run of the arm's first phase that starts from another run; None where it has not finished, or has another test."""
    node = next((node for node in nodes if arm in node.arms and node.config.start), None)
    runs = node.outcomes(found, list(inner)) if node else []
    return next((one for one in runs if one.seed == run.seed and results.same_test(one, run)), None)


def _begun(first: Outcome | None, axis: str, value: Any) -> dict[str, Any] | None:
    return next((row for row in first.begun if (row["axis"], row["value"]) == (axis, value)), None) if first else None


def _unsolved(name: str, axis: str, value: Any, told: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    if not told:
        return []
    name, words, _, *cells = _line(name, axis, value, told)
    return [(name, words, ", ".join(str(one["problems"]) for one in told), *cells)]


def _values(rows: Iterable[dict[str, Any]]) -> list[tuple[str, Any]]:
    """All, and what difficulties split: an axis of one value says what `all` does."""
    known = list(dict.fromkeys((row["axis"], row["value"]) for row in rows if "pass_at" in row))
    axes = [axis for axis, _ in known]
    return [(axis, value) for axis, value in known if axis == "all" or axes.count(axis) > 1]


def _line(name: str, axis: str, value: Any, told: list[dict[str, Any]]) -> tuple[str, ...]:
    """Of each k and of any, over what each seed told; a dash where fewer chains were drawn."""
    cells = []
    for key in (*map(str, pass_at_k.KS), "any"):
        values = [one for row in told if (one := row["coverage"] if key == "any" else row["pass_at"].get(key)) is not None]
        spread = f" [{min(values):.3f}–{max(values):.3f}]" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.3f}{spread}" if values else NOTHING)
    return name, "all" if axis == "all" else f"{axis} {value}", str(len(told)), *cells
