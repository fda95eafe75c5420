"""From arms to chains of runs, one for each phase: where each starts, what it sees, and which of them are one and the same.

A phase starts from the one before it. Phases of different arms that are the same run, after the same runs, are found by the digest of their chains and
trained once, in phases/DIGEST-NAME of the study's folder; `start` of what follows says "phases/DIGEST-NAME", in every folder that the study is kept in.
"""
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from flax import nnx

from sleepnet import adapters, build, methods, origin, seeds, tasks
from sleepnet.config import ModelConfig, RunConfig, TaskConfig, to_dict
from sleepnet.errors import UsageError
from sleepnet.models.hybrid import Hybrid
from sleepnet.study.arms import Arm, Phase
from sleepnet.study.overrides import apply, flatten
from sleepnet.study.spec import StudySpec
from sleepnet.tasks.base import Task

Chain = tuple[RunConfig, ...]  # the phases of an arm in their order, whose seed is still the base's; an arm without phases is a chain of one

# with the seed, what batch i of a run is made from
_DATA = ("task.", "train.batch_size", "train.first_example")
_STRIDE = 1 << 32  # training examples between the first of two phases; no phase takes as many


def drafts(spec: StudySpec) -> dict[str, Chain]:
    """Every arm's name → its chain, before its steps are matched.

    Raises:
      UsageError: a phase or test that is no valid run, that changes the data or the model, or does not fit to the others.
    """
    known: dict[str, Task] = {}  # of a study's many runs few differ in their task
    names = list(dict.fromkeys(phase.name for arm in spec.arms for phase in arm.phases))
    chains = {arm.name: _configs(spec, arm, names, known) for arm in spec.arms}
    _same_data(spec, chains, known)
    return _fitted(spec, chains, known)


def tests(spec: StudySpec) -> dict[str, dict[str, Any]]:
    """Name → what a test set is: `task` as a run's configuration says it, and `examples`; JSON values.

    Raises:
      UsageError: a task or an argument that there is not.
    """
    found = {}
    for test in spec.tests:
        with _in(f"test {test.name!r}"):
            config = apply(spec.base, {f"task.{key}": value for key, value in test.task.items()}, {"task.folder": ""}).task
            tasks.get(config.name, **config.arguments)
        found[test.name] = {"task": json.loads(json.dumps(to_dict(config))), "examples": test.examples or spec.base.eval.examples}
    return found


def essence(config: dict[str, Any]) -> dict[str, Any]:
    """What a run comes to, by dotted keys, from its configuration as `to_dict` gives it: without its seed, its start, and what changes nothing."""
    return {key: value for key, value in flatten(json.loads(json.dumps(config))).items() if key != "seed" and not key.startswith(origin.FREE)}


def home(chain: Sequence[RunConfig]) -> str:
    """The folder, in a study's, of a chain's last run where it is one of several arms' or of an inner phase: phases/DIGEST-NAME.

    Keys at their defaults are left out of the digest: one that is added to the configuration later changes no folder's name.
    """
    usual, first = essence(to_dict(RunConfig())), chain[0].start
    told = [{key: value for key, value in essence(to_dict(config)).items() if value != usual.get(key)} for config in chain]
    digest = hashlib.sha256(json.dumps([first, *told], sort_keys=True).encode()).hexdigest()
    return f"phases/{digest[:8]}-{chain[-1].phase}"


def changes(base: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys whose values differ from the base's, both as `to_dict` gives them; the seed left out."""
    old, new = flatten(base), flatten(config)
    return {key: value for key, value in new.items() if value != old.get(key) and key not in ("seed", "resume")}


@contextlib.contextmanager
def _in(where: str) -> Iterator[None]:
    """Within it a UsageError is told with where it arose."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _where(arm: str, config: RunConfig, phases: Sequence[Phase]) -> str:
    return f"arm {arm!r}, phase {config.phase!r}" if phases else f"arm {arm!r}"


def _configs(spec: StudySpec, arm: Arm, names: list[str], known: dict[str, Task]) -> Chain:
    """An arm's runs, each a valid one by itself, whose starts are still open."""
    if not arm.phases:
        with _in(f"arm {arm.name!r}"):
            config = _graded(apply(spec.base, arm.overrides), arm.eval_passes)
            _fits(config, _task(config.task, known))
        _check_seed(spec, f"arm {arm.name!r}", config)
        return (config,)
    chain: Chain = ()
    for phase in arm.phases:
        where = f"arm {arm.name!r}, phase {phase.name!r}"
        with _in(where):
            config = apply(spec.base, arm.overrides, phase.overrides, {"phase": phase.name})
            config = _graded(config, arm.eval_passes if phase is arm.phases[-1] else ())
            if not {"train.first_example"} & {*arm.overrides, *phase.overrides}:
                first = config.train.first_example + names.index(phase.name) * _STRIDE
                config = dataclasses.replace(config, train=dataclasses.replace(config.train, first_example=first))
            if phase.start:
                config = dataclasses.replace(config, start=phase.start)
            _fits(config, _task(config.task, known))
        _check_seed(spec, where, config)
        for key, value in changes(to_dict(chain[-1].model), to_dict(config.model)).items() if chain else ():
            kind = key.partition(".")[0]
            if kind in ("experts", "sparse") and not getattr(chain[-1].model, kind).count:  # a model gains them once
                continue
            raise UsageError(f"{where} sets model.{key}={value!r}: a model stays what it is from phase to phase; set it in the arm's overrides, for all of them")
        chain = (*chain, config)
    return chain


def _graded(config: RunConfig, eval_passes: tuple[int, ...]) -> RunConfig:
    """With its own N among those of its test, where there are several."""
    passes = eval_passes or config.eval.passes
    if not passes:
        return config
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, passes=tuple(sorted({*passes, config.model.sleep.passes}))))


def _fits(config: RunConfig, task: Task) -> None:
    """Raises UsageError where the model or the method is none for the task, or there is nothing of the model that the adapters name."""
    model = build.fit(config.model, task)
    methods.of(config).check(config, task)
    adapters.check(config.adapters, shapes(model) if config.adapters.kind != "all" else {})


@functools.cache
def shapes(model: ModelConfig) -> dict[Any, Any]:
    """Of a model's parameters; a study's many runs have few models."""
    return jax.eval_shape(lambda: nnx.to_pure_dict(nnx.split(Hybrid(model, seeds.rngs(0)), nnx.Param)[1]))


def _check_seed(spec: StudySpec, where: str, config: RunConfig) -> None:
    if config.seed != spec.base.seed:
        raise UsageError(f"{where} sets seed: all arms run with the study's seeds on the same data; use config.seeds")


def _task(config: TaskConfig, known: dict[str, Task]) -> Task:
    key = json.dumps([config.name, config.arguments], sort_keys=True)
    if key not in known:
        known[key] = tasks.get(config.name, **config.arguments)
    if not isinstance(known[key], Task):
        raise UsageError(f"task.name={config.name!r} has no answers, which a study's report is of: train its arms one by one and compare them with python -m sleepnet.eval --workdir=… --beside=…")
    return known[key]


def _same_data(spec: StudySpec, chains: dict[str, Chain], known: dict[str, Task]) -> None:
    """Sees that arms without phases have the base's data, and phases of one name one another's, but for arguments that reorder it."""
    first: dict[str, tuple[str, RunConfig]] = {}
    for arm in spec.arms:
        for config in chains[arm.name]:
            other, standard = first.setdefault(config.phase, (arm.name, config)) if arm.phases else ("", spec.base)
            free = {f"task.arguments.{name}" for name in _task(config.task, known).reorders}
            for key, (there, here) in origin.changes(to_dict(standard), to_dict(config)).items():
                if not key.startswith(_DATA) or key in free:
                    continue
                if not arm.phases:
                    raise UsageError(
                        f"arm {arm.name!r} sets {key}={here!r}: all arms must see the same data in the same order, or they can't be compared; set it in the study's base"
                    )
                raise UsageError(
                    f"{_where(arm.name, config, arm.phases)} has {key}={here!r}, that of arm {other!r} {there!r}: phases of one name must see the same data in "
                    "the same order, or they can't be compared; set it alike in both, or give one another name"
                )


def _fitted(spec: StudySpec, chains: dict[str, Chain], known: dict[str, Task]) -> dict[str, Chain]:
    """The chains with one vocabulary for all that a model is to read, whose windows are seen to be the same, and with their starts."""
    graded = {name: _task(TaskConfig(**test["task"]), known) for name, test in tests(spec).items()}
    tested = max((task.vocab_size for task in graded.values()), default=0)
    shared = max((_task(config.task, known).vocab_size for arm in spec.arms if arm.phases for config in chains[arm.name]), default=0)
    done = {}
    for arm in spec.arms:
        chain, own = chains[arm.name], [_task(config.task, known) for config in chains[arm.name]]
        size = max(tested, shared) if arm.phases else max(tested, own[0].vocab_size)
        fitted = [dataclasses.replace(config, model=_with_vocabulary(config.model, size, [*own, *graded.values()])) for config in chain]
        read = {**dict(zip((_where(arm.name, config, arm.phases) for config in chain), own)), **{f"test {name!r}": task for name, task in graded.items()}}
        (said, usual), *others = reversed(read.items()) if arm.phases else read.items()
        for where, task in others:
            if task.window != usual.window:
                raise UsageError(
                    f"{where} has windows of {task.window} tokens, {said} of {usual.window}: a model cuts all it reads alike; set task.arguments.window, or what it follows from, alike"
                )
            with _in(where):
                build.fit(fitted[0].model, task)
        done[arm.name] = _started(fitted)
    return done


def _with_vocabulary(model: ModelConfig, size: int, read: list[Task]) -> ModelConfig:
    """Left open where every task that is read fills it."""
    return model if model.vocab_size or all(task.vocab_size == size for task in read) else dataclasses.replace(model, vocab_size=size)


def _started(configs: Sequence[RunConfig]) -> Chain:
    chain = tuple(configs[:1])
    for config in configs[1:]:
        chain = (*chain, dataclasses.replace(config, start=home(chain)))
    return chain
