"""One table over many studies: every arm's accuracy, seeds, tokens and FLOPs, beside what guessing scores."""
from pathlib import Path
from typing import Any

from sleepnet.errors import UsageError
from sleepnet.study import ledger, outcomes as results
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report.tables import NOTHING, Table, number
from sleepnet.study.spec import Arm, StudySpec
from sleepnet.tasks.registry import task_class

HEADERS = ("study", "arm", "N", "seeds", "training tokens", "training FLOPs", "exact, all", "exact, hardest", "hardest")


def overview(folder: Path) -> Table:
    """Returns the table over all studies whose results lie in folders of `folder`.

    Accuracy is exact, each arm with the N it was trained with: the mean over seeds, [least–most] of several. The hardest column is the last value of the
    task's first difficulty that varies in the test. Below each study's arms: chance, the best constant answer, and the best guess without learning.

    Raises:
      UsageError: no folder there holds a study, or an outcome is damaged.
    """
    rows = []
    for path in sorted(folder.glob("*/study.json")):
        spec, _ = ledger.read_study(path.parent)
        rows += _study(path.parent.name, spec, results.binned(results.load(path.parent, spec)))
    if not rows:
        raise UsageError(f"--overview={folder}: no folder in it holds a study.json; give the folder of the folders that --results names")
    note = "Tokens and FLOPs are of one run, FLOPs are counted. Guesses: chance, the best constant answer, and what guesses best in either column."
    return Table("All studies", HEADERS, rows, note)


def _study(name: str, spec: StudySpec, found: list[Outcome]) -> list[tuple[str, ...]]:
    axis, value = hardest(spec, found)
    rows = [
        _arm(name, arm, runs, axis, value)
        for arm in spec.arms if (runs := results.of_arm(found, arm.name))
    ]
    if not rows:
        return []
    places = [("all", None), (axis, value)]
    told = [results.baselines(found, *place) for place in places]
    best = [max(there, key=lambda name: there[name]["exact"]) for there in told if there]
    for guess in dict.fromkeys(("chance", "constant", *best)):
        scores = [f"{there[guess]['exact']:.3f}" if guess in there else NOTHING for there in told]
        rows.append((name, f"guess: {guess.replace('_', ' ')}", *[NOTHING] * 4, *scores, _words(axis, value)))
    return rows


def _arm(name: str, arm: Arm, runs: list[Outcome], axis: str, value: Any) -> tuple[str, ...]:
    first = runs[0]
    scores = [results.score(runs, first.passes), results.score(runs, first.passes, axis, value)]
    cells = [NOTHING if score is None else str(score) if len(runs) > 1 else f"{score.mean:.3f}" for score in scores]
    role = f"{arm.name} (compute of {arm.match})" if arm.match else arm.name
    seeds = ", ".join(str(outcome.seed) for outcome in runs)
    return name, role, str(first.passes), seeds, number(first.chain_tokens), number(first.chain_flops), *cells, _words(axis, value)


def _words(axis: str, value: Any) -> str:
    return NOTHING if axis == "all" else f"{axis} = {value}"


def hardest(spec: StudySpec, found: list[Outcome]) -> tuple[str, Any]:
    """The last value of the task's first difficulty that varies in the test, or ("all", None)."""
    varying = results.axes(found)
    for axis in task_class(spec.base.task.name).difficulty_axes:
        if axis in varying:
            return axis, varying[axis][-1]
    return "all", None
