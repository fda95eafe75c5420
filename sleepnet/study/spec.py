"""What a study is: a base run, arms that differ from it in named keys, seeds, and a claim to check.

An arm in a config file is a dict, its overrides keyed by dotted keys of the run's configuration:

    config.arms = [
        dict(name="sleep4", label="four passes", overrides={"model.sleep.passes": 4}),
        dict(name="once", label="one pass", overrides={"model.sleep.passes": 1}),
        dict(name="once_matched", label="one pass, as much compute", overrides={"model.sleep.passes": 1}, match="sleep4"),
    ]

An arm may be a chain of runs, and there may be more tests than one: see `sleepnet.study.arms`.
"""
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from sleepnet import config as run_config, scalars, trust
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError, nearest
from sleepnet.seeds import check as check_seed
from sleepnet.study import arms as stated
from sleepnet.study.arms import Arm, Phase, TestSet
from sleepnet.study.overrides import apply, flatten

__all__ = ["Arm", "Claim", "Phase", "StudySpec", "TestSet", "apply", "completed", "default", "flatten", "from_dict", "parse", "seeds", "to_dict"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """`arm` scores at least `at_least` (exact, mean over seeds) where `axis` is `value`, and `against` at most `at_most`.

    `axis="all"` is the whole test; without `against` the first half stands alone.
    """

    arm: str
    at_least: float
    axis: str = "all"
    value: int | None = None
    against: str = ""
    at_most: float = 1.0


@dataclasses.dataclass(frozen=True)
class StudySpec:
    """A matrix of runs, and what it is to decide.

    Attributes:
      title: of the report.
      question: one sentence, printed on top of the report.
      seeds: every arm runs with each of them.
      base: the run that every arm starts from; its own seed is not read.
      arms: in the order of the report.
      reference: name of the arm the others are compared with.
      claim: what the report checks; None: it only reports.
      tests: that every phase of every arm is graded on besides its own.
    """

    title: str
    question: str
    seeds: tuple[int, ...]
    base: RunConfig
    arms: tuple[Arm, ...]
    reference: str
    claim: Claim | None = None
    tests: tuple[TestSet, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)


def default() -> ml_collections.ConfigDict:
    """A study without arms: what a config file starts from."""
    return run_config.section({
        "title": "", "question": "", "seeds": (0,), "base": run_config.default(), "arms": (), "reference": "", "claim": {}, "tests": (),
    })


def parse(config: ml_collections.ConfigDict | Mapping[str, Any]) -> StudySpec:
    """A person's study, a config file's result or a mapping, as a `StudySpec`: the modules that it names are theirs, see `trust`.

    Raises:
      UsageError: an unknown key, a name that is used twice or not at all, or a value of another type.
    """
    values = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    known = [field.name for field in dataclasses.fields(StudySpec)]
    for key in values:
        if key not in known:
            raise UsageError(f"unknown study key {key}{nearest(key, known)}")
    base = run_config.parse(values.get("base", {}), "base.")
    arms = tuple(map(stated.arm, values.get("arms", ())))
    if not arms:
        raise UsageError("the study has no arms: set config.arms to a list of dicts with name, label and overrides")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two arms are called {name!r}")
    for arm in arms:
        if arm.match:
            _known(f"arm {arm.name!r}: match", arm.match, names)
    reference = values.get("reference") or names[0]
    _known("reference", reference, names)
    return StudySpec(
        title=str(values.get("title") or "A study"),
        question=str(values.get("question", "")),
        seeds=seeds(values.get("seeds", (0,))),
        base=base,
        arms=arms,
        reference=reference,
        claim=_claim(values.get("claim"), names),
        tests=stated.tests(values.get("tests") or ()),
    )


def to_dict(spec: StudySpec) -> dict[str, Any]:
    """A study as plain JSON values; `from_dict` reads it again."""
    return run_config.to_dict(spec)


def from_dict(values: Mapping[str, Any]) -> StudySpec:
    """A study of any origin, as `parse`: a module that it names is not imported unless the person has named it."""
    with trust.reading():
        return parse(values)


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_dict` gave, keys that it lacks at their defaults, without building it, see `sleepnet.config.completed`."""
    with trust.reading():
        arms = [run_config.to_dict(stated.arm(arm)) for arm in values.get("arms", ())]
        tests = [run_config.to_dict(test) for test in stated.tests(values.get("tests") or ())]
    return {**values, "base": run_config.completed(RunConfig, values.get("base", {}), "base."), "arms": arms, "tests": tests}


def seeds(values: Iterable[int]) -> tuple[int, ...]:
    """Checks a study's seeds, each once; numpy's integers become Python's."""
    values = tuple(check_seed("seeds", seed) for seed in (values if isinstance(values, Iterable) else [values]))
    if not values or len(set(values)) < len(values):
        raise UsageError(f"seeds={values!r} must be different whole numbers, for instance (0, 1)")
    return values


def _known(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UsageError(f"{what}={name!r} is not an arm{nearest(str(name), names)}")


def _claim(values: Any, names: list[str]) -> Claim | None:
    if not values:
        return None
    values, known = scalars.python(dict(values)), [field.name for field in dataclasses.fields(Claim)]
    for key in values:
        if key not in known:
            raise UsageError(f"unknown key claim.{key}{nearest(key, known)}")
    for key in ("arm", "at_least"):
        if key not in values:
            raise UsageError(f"claim.{key} is missing: a claim needs arm and at_least, and may have axis, value, against and at_most")
    _known("claim.arm", values["arm"], names)
    if values.get("against"):
        _known("claim.against", values["against"], names)
    elif values.get("at_most", 1.0) != 1.0:  # which is how a claim without it is kept
        raise UsageError("claim.at_most needs claim.against, the arm that it is about")
    for key in ("at_least", "at_most"):
        bound = values.get(key, 1.0)
        if not isinstance(bound, (int, float)) or not 0 <= bound <= 1:
            raise UsageError(f"claim.{key}={bound!r} must be a share between 0 and 1")
    if (values.get("axis", "all") == "all") != (values.get("value") is None):
        raise UsageError("claim.axis and claim.value go together: an axis and a value of it, or neither for the whole test")
    return Claim(**values)
