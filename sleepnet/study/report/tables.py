"""A study's figures as tables of words: what the screen, the Markdown file and the page show alike."""
import dataclasses
import statistics
from typing import Any

from sleepnet.config import to_dict
from sleepnet.study import outcomes as results
from sleepnet.study.ledger import plain
from sleepnet.study.outcomes import Outcome
from sleepnet.study.resolve import changes
from sleepnet.study.spec import Arm, StudySpec, flatten

NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Table:
    """Headers and rows of cells; the first column is text, the others are figures."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def tables(spec: StudySpec, found: list[Outcome]) -> list[Table]:
    """Exact accuracy, also after the model's own chain of thought where there is one, accuracy per label, cost, and what each arm changes."""
    thinks = _thinks(found)
    return [
        accuracy(spec, found),
        *([_accuracies(spec, found, "own_chain_exact", "Exact accuracy on the test split, after the model's own chain of thought")] if thinks else []),
        _accuracies(spec, found, "label", "Accuracy per label on the test split" + ", the chain of thought written right" * thinks),
        cost(spec, found),
        _differences(spec, found),
    ]


def accuracy(spec: StudySpec, found: list[Outcome]) -> Table:
    """Exact accuracy of every arm with each N, and what guessing scores."""
    return _accuracies(spec, found, "exact", "Exact accuracy on the test split" + ", the chain of thought written right" * _thinks(found))


def _thinks(found: list[Outcome]) -> bool:
    return any("own_chain_exact_accuracy" in row for outcome in found for row in outcome.rows)


def describe(spec: StudySpec, arm: Arm) -> str:
    """An arm's label, name and role."""
    roles = [arm.name]
    if arm.name == spec.reference:
        roles.append("reference")
    if arm.match:
        roles.append(f"control: training compute of {arm.match}")
    return f"{arm.label} ({'; '.join(roles)})"


def missing(spec: StudySpec, found: list[Outcome]) -> list[str]:
    """Runs of the study that have not finished."""
    have = {(outcome.arm, outcome.seed) for outcome in found}
    return [f"{arm.name}/{seed}" for arm in spec.arms for seed in spec.seeds if (arm.name, seed) not in have]


def number(value: float | None) -> str:
    """A large count in three digits."""
    if value is None:
        return NOTHING
    if abs(value) < 1e6:
        return f"{value:,.0f}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}e{int(exponent)}"


def _places(found: list[Outcome]) -> list[tuple[str, Any]]:
    return [("all", None), *((axis, value) for axis, values in results.axes(found).items() for value in values)]


def _accuracies(spec: StudySpec, found: list[Outcome], metric: str, title: str) -> Table:
    places = _places(found)
    reference = results.of_arm(found, spec.reference)
    standard = results.score(reference, reference[0].passes, metric=metric) if reference else None
    rows = []
    for arm in spec.arms:
        runs = results.of_arm(found, arm.name)
        for passes in sorted({row["passes"] for outcome in runs for row in outcome.rows}):
            scores = [results.score(runs, passes, axis, value, metric) for axis, value in places]
            own = passes == runs[0].passes
            gap = NOTHING
            if standard and scores[0] and not (own and arm.name == spec.reference) and results.same_test(runs[0], reference[0]):
                gap = f"{scores[0].mean - standard.mean:+.3f}"
            cells = [str(score) if score else NOTHING for score in scores]
            read = str(passes) if own else f"{passes} (trained with {runs[0].passes})"
            rows.append((describe(spec, arm), read, str(len(runs)), *cells, gap))
        if not runs:
            rows.append((describe(spec, arm), NOTHING, "0", *[NOTHING] * len(places), NOTHING))
    for name in results.baselines(found):
        scores = [results.baselines(found, axis, value).get(name) for axis, value in places]
        cells = [f"{score[metric.removeprefix('own_chain_')]:.3f}" if score else NOTHING for score in scores]
        rows.append((f"baseline: {name.replace('_', ' ')}", NOTHING, NOTHING, *cells, NOTHING))
    heads = ["all" if axis == "all" else f"{axis} = {value}" for axis, value in places]
    note = (
        "N: passes over a window that sleeps, at test time. Mean over seeds [least–most]; of one seed its 95 % Wilson interval. "
        "Last column: difference over all, from the reference with its own N."
    )
    return Table(title, ("arm", "N", "seeds", *heads, "vs reference"), rows, note)


def cost(spec: StudySpec, found: list[Outcome]) -> Table:
    """What one run of each arm took, with all its phases."""
    reference = results.of_arm(found, spec.reference)
    rows = []
    for arm in spec.arms:
        runs = results.of_arm(found, arm.name)
        if not runs:
            rows.append((describe(spec, arm), *[NOTHING] * 7))
            continue
        first = runs[0]
        share = f"{first.chain_flops / reference[0].chain_flops:.3f}" if reference else NOTHING
        row = first.row(first.passes) or {}
        rows.append((
            describe(spec, arm), number(first.chain_steps), number(first.chain_tokens), number(first.chain_flops), share,
            NOTHING if first.before else _seconds(runs), _wake(first, row), number(first.result.get("parameters")),
        ))
    headers = ("arm", "steps", "training tokens", "training FLOPs", "× reference", "seconds", "FLOPs per wake token", "parameters")
    return Table("Cost of one run", headers, rows, (
        "FLOPs are counted, not measured. Seconds are the mean over seeds of runs that shared a machine: no benchmark."
    ))


def _wake(outcome: Outcome, row: dict[str, Any]) -> str:
    loops = outcome.config["model"]["sleep"]["predict_passes"]
    return number(row.get("flops_wake_token")) + (f" × {loops} passes" if loops > 1 else "")


def _seconds(runs: list[Outcome]) -> str:
    known = [outcome.result["seconds"] for outcome in runs if outcome.result.get("seconds") is not None]
    return number(statistics.fmean(known)) if known else NOTHING


def _differences(spec: StudySpec, found: list[Outcome]) -> Table:
    base, rows = plain(to_dict(spec.base)), []
    for arm in spec.arms:
        runs = results.of_arm(found, arm.name)
        if arm.phases:
            text = _by_phase(arm, runs)
        else:
            text = _words(changes(base, runs[0].config) if runs else flatten(plain(arm.overrides))) or "nothing"
        rows.append((describe(spec, arm), text))
    note = "Everything else, seeds and data and their order included, is the same for all arms."
    return Table("What each arm changes", ("arm", "differs from the base in"), rows, note)


def _by_phase(arm: Arm, runs: list[Outcome]) -> str:
    """What an arm changes in all its phases, and what each of them does."""
    parts = [f"all phases: {_words(plain(arm.overrides))}"] if arm.overrides else []
    for phase in arm.phases:
        said = plain(phase.overrides) | ({"start": phase.start} if phase.start else {})
        if arm.match and runs and phase is arm.phases[-1]:
            said["train.steps"] = runs[0].steps
        parts.append(f"{phase.name}: {_words(said) or 'nothing'}")
    return "; ".join(parts)


def _words(differing: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in differing.items())
