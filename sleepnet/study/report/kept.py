"""What an arm keeps of one day after another: the matrices of its runs as measures with intervals, and as heat maps.

A matrix is of an arm whose last phases each have a test of their name, one after the other; or of a run that lived through days, and looked at all of them at each one's end.
"""
from collections.abc import Sequence

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.eval import continual
from sleepnet.pictures import png
from sleepnet.study import outcomes as results
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report.phases import Node, tree, walk
from sleepnet.study.report.tables import NOTHING, Table
from sleepnet.study.spec import Arm, StudySpec

Matrix = tuple[np.ndarray, np.ndarray | None, int]  # R, b, answers of each day


def tables(spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome]) -> list[Table]:
    """A row for each arm with such matrices; nothing where there is none."""
    told = {}
    for arm, runs in matrices(spec, found, inner).items():
        if len(runs) > 1:
            told[arm] = len(runs), continual.over_runs([continual.measures(R, before=before) for R, before, _ in runs])
        else:
            ((R, before, answers),) = runs
            told[arm] = 1, continual.intervals(R, answers, before=before)
    names = [name for name in continual.SOURCES if any(name in values for _, values in told.values())]
    cell = lambda values: "{:.3f} [{:.3f}–{:.3f}]".format(*values)
    rows = [(arm, str(count), *(cell(values[name]) if name in values else NOTHING for name in names)) for arm, (count, values) in told.items()]
    note = "Mean over seeds [least–most]; of one seed a 95 % interval, each accuracy drawn anew. " + "; ".join(f"{name}: {continual.SOURCES[name]}" for name in names) + "."
    return [Table("What is kept", ("arm", "seeds", *names), rows, note)] if rows else []


def figures(spec: StudySpec, found: list[Outcome]) -> dict[str, bytes]:
    """Name → PNG of the mean matrix of each arm that lived through days."""
    by_arm = {arm.name: [one[0] for run in results.of_arm(found, arm.name) if (one := lived(run))] for arm in spec.arms}
    return {f"kept_by_{arm}": png(continual.picture(np.mean(each, axis=0)), 150) for arm, each in by_arm.items() if each}


def matrices(spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome]) -> dict[str, list[Matrix]]:
    """Arm → one for each seed that has finished."""
    nodes = walk(tree(spec))
    both = {arm.name: _by_phase(spec, arm, nodes, found, inner) or [one for run in results.of_arm(found, arm.name) if (one := lived(run))] for arm in spec.arms}
    return {arm: runs for arm, runs in both.items() if runs}


def _by_phase(spec: StudySpec, arm: Arm, nodes: list[Node], found: list[Outcome], inner: Sequence[Outcome]) -> list[Matrix]:
    names, path = {test.name for test in spec.tests}, [node for node in nodes if arm in node.arms]
    days = [node for node in path if node.name in names]
    if len(days) < 2 or path[-len(days) :] != days:
        return []
    by_seed = [{run.seed: run for run in node.outcomes(found, list(inner))} for node in path[-len(days) - 1 :]]
    runs = []
    for seed in sorted(set.intersection(*map(set, by_seed))):
        rows = [[_graded(each[seed], day.name) for day in days] for each in by_seed]
        shares = np.array([[row["exact_accuracy"] for row in line] for line in rows])
        runs.append((shares[-len(days) :], shares[0] if len(path) > len(days) else None, min(row["answers"] for row in rows[-1])))
    return runs


def _graded(run: Outcome, test: str) -> dict:
    return run.graded_on(test).row(run.passes)


def lived(run: Outcome) -> Matrix | None:
    """R of a run whose looks at the validation split are one a day, graded by day; else None."""
    settings = run.config["train"]
    try:
        R, before = continual.of_curve(run.curve, settings["eval_every"]) if settings["eval_every"] else (np.zeros((0, 0)), None)
    except UsageError:
        return None
    return (R, before, max(settings["eval_examples"] // len(R), 1)) if len(R) > 1 and len(R) * settings["eval_every"] == settings["steps"] else None
