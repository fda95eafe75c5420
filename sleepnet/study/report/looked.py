"""What methods tell at their own looks, beside accuracy: damage where so much is forgotten, and hints that a memory gave."""
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.eval import unlearning
from sleepnet.study import outcomes as results
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report.tables import NOTHING, Table
from sleepnet.study.spec import StudySpec

LEVEL = 0.5
_LOST = (
    "Mean over runs [least–most], of looks at the validation split. Forgotten: most of it that was gone at any look. Damage: accuracy lost on the rest where half of what is to be forgotten "
    "is gone, below 0 gained; far is what is easier than the method's least, near all else. A dash: some run never forgot half, or nothing was asked. See python -m sleepnet.eval.unlearning."
)
_HINTS = (
    "Mean over runs [least–most], of the last look at the validation split. Given: share of questions with a hint. AUROC: of π(GEN) against that the solver fails by itself. "
    "Regret: what an oracle of the decision would have more. Every hint: reward if each were given. See python -m sleepnet.eval.hints."
)
HINTS = {"never_accuracy": "without", "learned_accuracy": "accuracy", "learned_given": "given", "auroc": "AUROC", "learned_reward": "reward", "regret": "regret", "always_reward": "every hint"}


def tables(spec: StudySpec, found: Sequence[Outcome]) -> list[Table]:
    """A row for each arm whose runs unlearn, and one for each whose runs give hints; no table where there is none."""
    lost = _rows(spec, found, "forget_exact", _lost)
    given = _rows(spec, found, "learned_accuracy", lambda looks: {name: looks[-1].get(key, math.nan) for key, name in HINTS.items()})
    made = [Table(f"Damage where {LEVEL:g} is forgotten", ("arm", "runs", "forgotten", "near", "far"), lost, _LOST)] if lost else []
    return made + ([Table("Hints given", ("arm", "runs", *HINTS.values()), given, _HINTS)] if given else [])


def _lost(looks: list[dict[str, Any]]) -> dict[str, float]:
    """What one run forgot at most, and the damage where it has forgotten half."""
    try:
        told = unlearning.curves(looks)
    except UsageError:  # it has no look from before its first step, or knew nothing
        return {}
    at = lambda rest: unlearning.at_level(told["forgotten"], told[key], LEVEL) if (key := unlearning.REST[rest]) in told else math.nan
    return {"forgotten": float(told["forgotten"].max()), "near": at("near"), "far": at("far")}


def _rows(spec: StudySpec, found: Sequence[Outcome], key: str, told: Callable[[list[dict[str, Any]]], dict[str, float]]) -> list[tuple[str, ...]]:
    """Of each arm whose looks tell `key`, its name, how many runs, and what each run told, over runs."""
    rows = []
    for arm in spec.arms:
        runs = [values for run in results.of_arm(found, arm.name) if (looks := [look for look in run.curve if look.get(key) is not None]) and (values := told(looks))]
        if runs:
            rows.append((arm.name, str(len(runs)), *(_spread([run[name] for run in runs]) for name in runs[0])))
    return rows


def _spread(values: list[float]) -> str:
    if any(map(math.isnan, values)):
        return NOTHING
    return f"{np.mean(values):.3f}" + (f" [{min(values):.3f}–{max(values):.3f}]" if len(values) > 1 else "")
