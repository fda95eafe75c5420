"""A factor's figures as tables of words: what the runs cost, how they scored, and how each arm stands beside the reference."""
from collections.abc import Iterable
from typing import Any

from sleepnet import build
from sleepnet.models import flops
from sleepnet.study import contrasts, outcomes as results, resolve
from sleepnet.study.ablations.studies import Study
from sleepnet.study.outcomes import Outcome
from sleepnet.study.overview import hardest
from sleepnet.study.report.tables import NOTHING, Table, number


def cost(study: Study) -> Table:
    """Every arm's price, counted, whether it has been run or not; and what it is a control for."""
    rows, base = [], study.chains[study.spec.reference]
    for arm in study.spec.arms:
        chain = study.chains[arm.name]
        config = chain[-1]
        task = build.task_of(config)
        model = build.fit(config.model, task)
        windows = max((i for i, labelled in enumerate(task.predicts) if not labelled), default=0)
        spent, seeds = resolve.chain_flops(chain), [outcome.seed for outcome in results.of_arm(study.found, arm.name)]
        loops = config.model.sleep.predict_passes
        rows.append((
            f"{arm.label} (`{arm.name}`)", ", ".join(map(str, seeds)) or "open", _control(study, arm.name, spent), number(sum(one.train.steps for one in chain)),
            number(sum(map(resolve.tokens, chain))), number(spent), f"{spent / resolve.chain_flops(base):.2f}",
            number(flops.sleep_flops(model, None, windows)), number(sum(task.predicts[i // task.window] for i in range(task.seq_len))),
            number(flops.forward_flops(model, task.predicts, task.seq_len)), number(loops * flops.wake_token_flops(model, len(task.predicts) - 1)),
            number(flops.state_bytes(model)), number(flops.cache_bytes(model, len(task.predicts) - 1)), number(flops.parameters(model)),
        ))
    headers = (
        "arm", "seeds", "matched", "steps", "training tokens", "training FLOPs", "× reference", "FLOPs of one sleep", "tokens awake",
        "FLOPs of a sequence", "FLOPs of a wake token",
        "state bytes", "cache bytes", "parameters",
    )
    return Table("Cost", headers, rows, (
        "FLOPs are counted. One sleep: over the last window before the answer. Tokens awake: of one sequence in windows that predict, padding and any chain "
        "of thought among them. A sequence: all windows once, asleep and awake. A wake token: after all windows, times the passes made there. State and "
        "cache: of one sequence, fast weights and keys with values, at its end."
    ))


def _control(study: Study, name: str, spent: float) -> str:
    """What the arm has in common with the reference: steps, FLOPs to half a per cent, both or neither."""
    if name == study.spec.reference:
        return "reference"
    steps = lambda arm: sum(config.train.steps for config in study.chains[arm])
    same = ["steps"] * (steps(name) == steps(study.spec.reference))
    same += ["FLOPs"] * (abs(spent / resolve.chain_flops(study.chains[study.spec.reference]) - 1) < 0.005)
    return " and ".join(same) or "neither"


def accuracies(found: list[Outcome]) -> list[Table]:
    """Exact accuracy, also after the model's own chain of thought where there is one, and accuracy per label where answers have several."""
    longer = any(row["tokens_graded"] > row["answers"] for outcome in found for row in outcome.rows if "tokens_graded" in row)
    thinks = any("own_chain_exact_accuracy" in row for outcome in found for row in outcome.rows)
    return [_accuracy(found, kind) for kind in ("exact", *["own_chain_exact"] * thinks, *["label"] * longer)]


def _accuracy(found: list[Outcome], kind: str) -> Table:
    """A row for each run and test-time N, accuracy ± half its 95 % interval; then what guessing scores."""
    places = _places(found)
    rows = []
    for outcome in found:
        for passes in sorted({row["passes"] for row in outcome.rows}):
            cells = [_share(outcome.row(passes, *place), kind) for place in places]
            rows.append((f"`{outcome.arm}`", str(outcome.seed), str(passes) + "*" * (passes == outcome.passes), *cells))
    for label, name in _guesses(found):
        told = [results.baselines(found, *place).get(name) for place in places]
        rows.append((label, NOTHING, NOTHING, *[f"{score[kind.removeprefix('own_chain_')]:.3f}" if score else NOTHING for score in told]))
    heads = [where(*place).removeprefix("at ") for place in places]
    title = {
        "exact": "Exact accuracy on held-out answers", "own_chain_exact": "Exact accuracy after the model's own chain of thought",
        "label": "Accuracy per label",
    }[kind]
    return Table(title, ("arm", "seed", "test N", *heads), rows, (
        "± is half of Wilson's 95 % interval, answers, or labels, taken as independent. *: the N it was trained with."
    ))


def _guesses(found: Iterable[Outcome]) -> list[tuple[str, str]]:
    """Chance, the best constant answer, and the best guess over the whole test."""
    told = results.baselines(found)
    best = max(told, key=lambda name: told[name]["exact"], default=None)
    named = [("chance", "chance"), ("best constant", "constant"), (f"best guess ({best})", best)]
    return [(label, name) for label, name in named if name in told]


def beside(study: Study, found: list[Outcome]) -> tuple[Table, list[str]]:
    """The contrasts over all answers and at the hardest ones, and what they allow to be said: with the reference, and of a control with its arm."""
    spec, rows, said = study.spec, [], []
    places = list(dict.fromkeys([("all", None), hardest(spec, found)]))
    for arm in spec.arms:
        for other in dict.fromkeys(filter(None, (spec.reference, arm.match))):
            for place in places if arm.name != other else ():
                both = contrasts.contrasts(results.of_arm(found, arm.name), results.of_arm(found, other), *place)
                rows += [(f"`{arm.name}`", f"`{other}`", where(*place), *_cells(one)) for one in both]
                said += [contrasts.sentence(arm.name, other, where(*place), both)] if both else []
    headers = ("arm", "beside", "where", "seed", "difference", "95 %", "right alone", "p")
    return Table("Side by side", headers, rows, (
        "Right alone: answers that the arm got and the other did not, and the other way round; p of McNemar's exact test on them. Unpaired: an outcome "
        "does not say which answers were right; Newcombe's interval of independent shares."
    )), said


def _cells(one: contrasts.Contrast) -> tuple[str, ...]:
    alone = NOTHING if one.alone is None else f"{one.alone[0]} : {one.alone[1]}"
    return str(one.seed), f"{one.gap:+.3f}", f"[{one.low:+.3f}, {one.high:+.3f}]", alone, "unpaired" if one.p is None else f"{one.p:.2g}"


def _places(found: Iterable[Outcome]) -> list[tuple[str, Any]]:
    return [("all", None), *((axis, value) for axis, values in results.axes(found).items() for value in values)]


def where(axis: str, value: Any) -> str:
    """A place of the test in words."""
    return "over all" if axis == "all" else f"at {axis} = {value}"


def _share(row: dict[str, Any] | None, kind: str) -> str:
    if not row or f"{kind}_accuracy" not in row:
        return NOTHING
    low, high = row[f"{kind}_interval"]
    return f"{row[f'{kind}_accuracy']:.3f} ±{(high - low) / 2:.3f}"


def runs(studies: list[Study], pace: float | None, command: str) -> Table:
    """Every run once, with its price, its state, and the command that makes it.

    Args:
      studies: as `suite` returns them.
      pace: FLOP/s, for the minutes; None: unknown.
      command: with {factor}, {base}, {arm}, {seed} and {name} of the study to fill in.
    """
    rows, seen = [], set()
    for study in studies:
        for arm in study.spec.arms:
            spent = resolve.chain_flops(study.chains[arm.name])
            for seed in study.seeds(arm.name):
                identity = repr(study.chains[arm.name]), seed
                if identity in seen:
                    continue
                seen.add(identity)
                state = "done" if study.outcome(arm.name, seed) else "open"
                call = command.format(factor=study.factor, base=study.base, arm=arm.name, seed=seed, name=study.name)
                minutes = NOTHING if pace is None else f"{spent / pace / 60:.0f}"
                rows.append((study.name, arm.name, str(seed), number(spent), minutes, state, f"`{call}`"))
    done = sum(row[5] == "done" for row in rows)
    pace_words = "" if pace is None else f" Minutes are FLOPs at {pace / 1e9:.1f} GFLOP/s a run, the mean of those that are done (on busy cores)."
    note = f"{len(rows)} runs, {done} done, {len(rows) - done} open. A run that several studies share stands under the first.{pace_words}"
    return Table("Runs", ("study", "arm", "seed", "training FLOPs", "minutes", "state", "command"), rows, note)
