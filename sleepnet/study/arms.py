"""An arm of a study, its phases, and the test sets that all are graded on: what a config file says of them, checked.

An arm is a dict, its overrides keyed by dotted keys of the run's configuration. It is one run, or, where it lists phases, a chain of them:

    PRETRAIN = dict(name="pretrain", overrides={"train.steps": 3200, "task.arguments.hops": 2})
    config.arms = [
        dict(name="tuned", label="taught", phases=[PRETRAIN, dict(name="teach", overrides={"train.steps": 400})]),
        dict(name="slow", label="taught at half the rate", phases=[PRETRAIN, dict(name="teach", overrides={"train.steps": 400, "optim.adam_rate": 7e-4})]),
        dict(name="alone", label="never pre-trained, as much compute", overrides={}, match="tuned"),
    ]
    config.tests = [dict(name="far", task={"arguments.hops": 8}, examples=512)]
"""
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sleepnet import scalars, trust
from sleepnet.errors import UsageError, nearest
from sleepnet.study.overrides import given

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TAKEN = ("phases", "compiled")  # folders of a study's own


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of an arm's training: a run that starts where the phase before it ended.

    Attributes:
      name: of the same data in the same order in all arms that have a phase of this name.
      overrides: dotted key of the run's configuration → value, over the arm's own.
      start: where the first phase starts, as `start` of a run says; "": as the arm and the base say.
    """

    name: str
    overrides: dict[str, Any]
    start: str = ""

    def __post_init__(self):
        trust.named(*self.overrides.values())


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train, as differences from the base.

    Attributes:
      name: a word that can name a folder.
      label: the arm in words.
      overrides: dotted key of the run's configuration → value, for all its phases.
      match: name of the arm whose training FLOPs this one is given, by its number of steps, or that of its last phase; "": as many steps as it says.
      eval_passes: test-time N at its end; empty: those of the base's `eval.passes`. The arm's own N is always among them.
      phases: the chain of runs that it is; empty: it is one run.
    """

    name: str
    label: str
    overrides: dict[str, Any]
    match: str = ""
    eval_passes: tuple[int, ...] = ()
    phases: tuple[Phase, ...] = ()

    def __post_init__(self):
        trust.named(*self.overrides.values())


@dataclasses.dataclass(frozen=True)
class TestSet:
    """What every phase of every arm is graded on besides its own test.

    Attributes:
      name: of it.
      task: dotted key of the run's `task` → value, over the base's.
      examples: of its test split; 0: as many as the base's `eval.examples`.
    """

    __test__ = False  # no class of tests to pytest

    name: str
    task: dict[str, Any]
    examples: int = 0


def arm(values: Any) -> Arm:
    """An arm as a config file gives it.

    Raises:
      UsageError: an unknown key, a name that names no folder, or a value of another type.
    """
    values = _dict(values, "an arm", "name, label and overrides")
    name = _name(values, Arm, "arm")
    overrides = given(values.get("overrides"))
    phases = _phases(name, values.get("phases", ()))
    if values.get("match") and "train.steps" in overrides and not phases:
        raise UsageError(f"arm {name!r} sets train.steps and match={values['match']!r}, which computes it: drop one of them")
    passes = scalars.python(values.get("eval_passes", ())) or ()
    passes = (passes,) if isinstance(passes, int) else tuple(passes)
    if any(type(n) is not int or n < 1 for n in passes):
        raise UsageError(f"arm {name!r}: eval_passes={passes!r} must be whole numbers of at least 1")
    return Arm(name, str(values.get("label") or name), overrides, values.get("match") or "", passes, phases)


def tests(values: Any) -> tuple[TestSet, ...]:
    """Named test sets as a config file gives them; raises UsageError as `arm`."""
    found = tuple(_test(each) for each in _listed(values, "tests"))
    _once([test.name for test in found], "two tests are called {!r}")
    return found


def _phases(arm: str, values: Any) -> tuple[Phase, ...]:
    found = []
    for each in _listed(values, f"arm {arm!r}: phases"):
        each = _dict(each, f"arm {arm!r}: a phase", "name and overrides")
        name, overrides = _name(each, Phase, f"arm {arm!r}, phase"), given(each.get("overrides"))
        start = each.get("start", "")
        if not isinstance(start, str):
            raise UsageError(f"arm {arm!r}, phase {name!r}: start={start!r} must be a str: a run's workdir or a zoo name")
        if "phase" in overrides:
            raise UsageError(f"arm {arm!r}, phase {name!r} sets phase={overrides['phase']!r}: a phase's name is what it is called by; change its name")
        if start and "start" in overrides:
            raise UsageError(f"arm {arm!r}, phase {name!r} says start twice, by itself and in overrides: drop one of them")
        if overrides.get("start"):  # "" stays: from nothing, whatever the base says
            start = overrides.pop("start")
        if start and found and start != found[-1].name:
            raise UsageError(
                f"arm {arm!r}, phase {name!r}: start={start!r}, but a phase starts from the one before it, {found[-1].name!r}: drop start, or that phase"
            )
        found.append(Phase(name, overrides, "" if found else start))
    _once([phase.name for phase in found], f"arm {arm!r} has two phases called {{!r}}")
    return tuple(found)


def _test(values: Any) -> TestSet:
    values = _dict(values, "a test", "name, task and examples")
    name, examples = _name(values, TestSet, "test"), scalars.python(values.get("examples", 0))
    task = given(values.get("task"))
    for key in task:
        if key != "name" and not key.startswith("arguments.") and not (key == "arguments" and not task[key]):
            raise UsageError(f"test {name!r}: task has no key {key!r}: it has name and arguments, for instance task={{'arguments.nodes': 20}}")
    if type(examples) is not int or examples < 0:
        raise UsageError(f"test {name!r}: examples={examples!r} must be a whole number of at least 1, or 0 for the base's eval.examples")
    return TestSet(name, task, examples)


def _dict(values: Any, what: str, keys: str) -> dict[str, Any]:
    if not isinstance(values, Mapping) and not hasattr(values, "to_dict"):
        raise UsageError(f"{what} must be a dict with {keys}, not {values!r}")
    return dict(values.to_dict() if hasattr(values, "to_dict") else values)


def _listed(values: Any, what: str) -> list[Any]:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise UsageError(f"{what}={values!r} must be a list of dicts")
    return list(values)


def _name(values: Mapping[str, Any], cls: type, what: str) -> str:
    """The name in `values`, whose keys are fields of `cls`."""
    known, name = [field.name for field in dataclasses.fields(cls)], values.get("name", "")
    for key in values:
        if key not in known:
            raise UsageError(f"{what} {name!r}: unknown key {key!r}{nearest(key, known)}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name!r}: its name must be letters, digits, '_', '-' or '.', since it names a folder")
    if name in _TAKEN and cls is Arm:
        raise UsageError(f"an arm can't be called {name!r}, which is a folder of the study's own: give another name")
    return name


def _once(names: list[str], message: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(message.format(name))
