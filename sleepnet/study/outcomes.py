"""What finished runs leave behind, from a study's folder or from a folder of results kept beside the code."""
import dataclasses
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sleepnet import lock, trust
from sleepnet.config import to_dict
from sleepnet.errors import UsageError
from sleepnet.eval import bins
from sleepnet.files import write_json
from sleepnet.study import chains, differences, ledger, resolve
from sleepnet.study.chains import Chain
from sleepnet.study.ledger import plain, read_json
from sleepnet.study.spec import StudySpec
from sleepnet.tasks.registry import task_class


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One finished run.

    Attributes:
      arm, seed: which.
      config: the whole run configuration, plain.
      steps: of training.
      flops: of training.
      result: what training reported: tokens, seconds, parameters …
      rows: what grading on the test split reported, one for each test-time N and value of a difficulty.
      curve: validation over steps: step, flops, tokens, loss, exact_accuracy, and what the method tells besides.
      versions: of packages and Python.
      device: what it ran on.
      before: of a phase the runs that it comes from, the first of the chain first: `arm`, `steps`, `tokens`, `flops` and `config`, as here.
      tests: name → `task` and `examples`, which the test set is made from, and `rows` as above.
      begun: of a run that starts from another's end, rows over all difficulties of its own test before its first step.
    """

    arm: str
    seed: int
    config: dict[str, Any]
    steps: int
    flops: float
    result: dict[str, Any]
    rows: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    versions: dict[str, str]
    device: str
    before: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tests: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    begun: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As it is kept; what an arm without phases or a study without tests has no need of is left out."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value or key not in _LATER}

    @property
    def past_flops(self) -> float:
        """FLOPs of the runs that it comes from."""
        return sum(run["flops"] for run in self.before)

    @property
    def chain_flops(self) -> float:
        """Its own and those of the past: what an arm costs."""
        return self.past_flops + self.flops

    @property
    def chain_steps(self) -> int:
        """Steps of it and of the runs that it comes from."""
        return sum(run["steps"] for run in self.before) + self.steps

    @property
    def chain_tokens(self) -> int | None:
        """Tokens that they read in training; None where it does not tell."""
        own = self.result.get("tokens")
        return None if own is None else sum(run["tokens"] for run in self.before) + own

    @property
    def phase(self) -> str:
        """Its name, "" of an arm without phases."""
        return self.config.get("phase", "")

    def graded_on(self, test: str) -> "Outcome | None":
        """Itself with the rows of a test set; None without them."""
        return dataclasses.replace(self, rows=self.tests[test]["rows"]) if test in self.tests else None

    @property
    def passes(self) -> int:
        """N it was trained with."""
        return self.config["model"]["sleep"]["passes"]

    def row(self, passes: int, axis: str = "all", value: Any = None) -> dict[str, Any] | None:
        """The row of a test-time N and a value of a difficulty, None without one."""
        for row in self.rows:
            if (row["passes"], row["axis"]) == (passes, axis) and (axis == "all" or row["value"] == value):
                return row
        return None


_LATER = {"before", "tests", "begun"}  # keys that older outcomes lack


@dataclasses.dataclass(frozen=True)
class Score:
    """Accuracy over seeds: mean, and the range over them; of one seed its 95 % Wilson interval."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}–{self.high:.3f}]"


def load(folder: Path, spec: StudySpec) -> list[Outcome]:
    """All outcomes of the study's arms in `folder`, in the order of the arms and of the seeds.

    Args:
      folder: a study's workdir (ARM/seedK/outcome.json) or a folder of results (ARM-seedK.json).
      spec: the study.

    Raises:
      UsageError: a damaged file, or one that another configuration made.
    """
    with trust.reading(folder / "study.json"):
        drafts = resolve.drafts(spec)
    found = []
    for arm in spec.arms:
        found += _found(folder, arm.name, drafts[arm.name], {"seed"} | ({"train.steps"} if arm.match else set()))
    return found


def load_phases(folder: Path, spec: StudySpec) -> list[Outcome]:
    """All outcomes in `folder` of the phases that others start from, each once; see `load`."""
    with trust.reading(folder / "study.json"):
        drafts = resolve.drafts(spec)
    inner = {chains.home(chain[:k]): chain[:k] for chain in drafts.values() for k in range(1, len(chain))}
    return [outcome for home, chain in inner.items() for outcome in _found(folder, home, chain, {"seed"}, exactly=False)]


def _found(folder: Path, name: str, chain: Chain, free: set[str], exactly: bool = True) -> list[Outcome]:
    outcomes = []
    for path in [*folder.glob(f"{name}/seed*/outcome.json"), *folder.glob(f"{name}-seed*.json")]:
        outcome = read(path)
        if outcome.arm != name:
            raise UsageError(f"{path} is of arm {outcome.arm!r}: not its outcome")
        if differing := differences.outcome(outcome.to_dict(), chain, path, free, exactly):
            key, there, here = differing
            raise UsageError(f"{path} was made with {key}={there!r}, the study says {here!r}: not its outcome")
        outcomes.append(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.seed)


def collect(outcomes: Iterable[Outcome], spec: StudySpec, commands: list[str], folder: Path) -> None:
    """Writes ARM-seedK.json for each outcome, that of a phase that others start from to phases/, and study.json, to `folder`: all that a report is made from, and more may join it."""
    with lock.held(folder, "a study", wait=True):  # another one may add its own at the same moment
        for outcome in outcomes:
            write_json(folder / f"{outcome.arm}-seed{outcome.seed}.json", outcome.to_dict())
        ledger.join(folder, spec, commands)


def score(outcomes: Iterable[Outcome], passes: int, axis: str = "all", value: Any = None, metric: str = "exact") -> Score | None:
    """Accuracy of one arm's outcomes at a test-time N and a value of a difficulty; `metric` is exact, label, own_chain_exact or own_chain_label."""
    rows = [row for outcome in outcomes if (row := outcome.row(passes, axis, value)) and f"{metric}_accuracy" in row]
    if not rows:
        return None
    values = tuple(row[f"{metric}_accuracy"] for row in rows)
    low, high = rows[0][f"{metric}_interval"] if len(rows) == 1 else (min(values), max(values))
    return Score(statistics.fmean(values), low, high, values)


def same_test(outcome: Outcome, other: "Outcome | StudySpec") -> bool:
    """Whether what they were graded on is one test, or that of a study's base: an arm that ends on data of its own has another."""
    task = plain(to_dict(other.base.task)) if isinstance(other, StudySpec) else other.config["task"]
    reordered = task_class(task["name"]).reorders
    told = [
        (one["name"], {key: value for key, value in one["arguments"].items() if key not in reordered}) for one in (task, outcome.config["task"])
    ]
    return told[0] == told[1]


def of_arm(outcomes: Iterable[Outcome], arm: str) -> list[Outcome]:
    """The outcomes of one arm."""
    return [outcome for outcome in outcomes if outcome.arm == arm]


def axes(outcomes: Iterable[Outcome]) -> dict[str, list[Any]]:
    """Difficulties that take more than one value in the test → their values."""
    values: dict[str, set] = {}
    for outcome in outcomes:
        for row in outcome.rows:
            if row["axis"] != "all":
                values.setdefault(row["axis"], set()).add(row["value"])
    return {axis: sorted(found) for axis, found in values.items() if len(found) > 1}


def baselines(outcomes: Iterable[Outcome], axis: str = "all", value: Any = None) -> dict[str, dict[str, float]]:
    """Name → {label, exact}: what guessing scores there."""
    for outcome in outcomes:
        if row := outcome.row(outcome.passes, axis, value):
            return row["baselines"]
    return {}


def binned(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes as a report shows them: of a difficulty with many values, neighbours taken together, in all outcomes alike."""
    found = list(outcomes)
    spans = bins.spans(row for outcome in found for row in outcome.rows)
    return [dataclasses.replace(outcome, rows=bins.pool(outcome.rows, spans)) for outcome in found] if spans else found


def read(path: Path) -> Outcome:
    """An outcome's file; raises UsageError if it is damaged or none."""
    values, known = read_json(path), {field.name for field in dataclasses.fields(Outcome)}
    if not known - _LATER <= set(values) <= known or type(values["seed"]) is not int:
        raise UsageError(f"{path} is not the outcome of a run: it needs the keys {', '.join(sorted(known - _LATER))}, and a whole number for its seed")
    return Outcome(**values)
