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
_UNSOLVED = "Problems of the test of which what the arm's first phase started from had no right chain; among as many others it would have a few."


def tables(spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome]) -> list[Table]:
    """pass@k of all arms that drew chains of their tests, and of what they start from; then of unsolved problems where outcomes tell which they are. Nothing where none drew."""
    nodes = walk(tree(spec))
    starts: dict[str, dict[int, Outcome]] = {}
    every, unsolved = [], []
    for arm in spec.arms:
        runs = [run for run in results.of_arm(found, arm.name) if "pass_at" in (run.row(run.passes) or {})]
        firsts = {run.seed: first for run in runs if (first := _first(arm, run, nodes, found, inner))}
        for first in firsts.values():
            starts.setdefault(first.config["start"], {}).setdefault(first.seed, first)
        for axis, value in _values([row for run in runs for row in run.rows]):
            every.append(_line(arm.name, axis, value, [row for run in runs if (row := run.row(run.passes, axis, value))]))
            left = [told for run in runs if (told := of_unsolved(run, firsts.get(run.seed), axis, value))]
            if left:
                name, words, _, *cells = _line(arm.name, axis, value, left)
                unsolved.append((name, words, ", ".join(str(told["problems"]) for told in left), *cells))
    before = []
    for start, runs in starts.items():
        rows = [row for run in runs.values() for row in run.begun if "pass_at" in row]
        before += [_line(f"before ({start})", axis, value, [row for row in rows if (row["axis"], row["value"]) == (axis, value)]) for axis, value in _values(rows)]
    if not every:
        return []
    ks = [f"pass@{k}" for k in pass_at_k.KS]
    made = [Table("Chains drawn", ("arm", "problems", "seeds", *ks, "any"), before + every, _NOTE)]
    return made + ([Table("Of what was never solved before", ("arm", "problems", "how many, by seed", *ks, "any"), unsolved, _UNSOLVED)] if unsolved else [])


def of_unsolved(run: Outcome, first: Outcome | None, axis: str = "all", value: Any = None) -> dict[str, Any] | None:
    """What `pass_at_k.told` says of the run's chains on problems that the start of `first` never solved, and how many `problems` these are; None where outcomes do not tell, or it solved all."""
    before = next((row for row in first.begun if (row["axis"], row["value"]) == (axis, value)), {}) if first else {}
    after = run.row(run.passes, axis, value) or {}
    if "right_chains" not in before or len(before["right_chains"]) != len(after.get("right_chains", ())):
        return None
    left = np.asarray(after["right_chains"])[np.asarray(before["right_chains"]) == 0]
    return {"problems": len(left), **pass_at_k.told(left, after["chains"])} if len(left) else None


def _first(arm: Arm, run: Outcome, nodes: list[Node], found: list[Outcome], inner: Sequence[Outcome]) -> Outcome | None:
    """The run of the arm's first phase that told of what it started from."""
    path = [one for node in nodes if arm in node.arms for one in node.outcomes(found, list(inner)) if one.seed == run.seed]
    return next((one for one in path if any("right_chains" in row for row in one.begun)), None)


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
