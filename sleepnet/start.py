"""Where a run starts: from fresh parameters, another run's newest checkpoint, a released model that was imported, or a model of the zoo; see `sleepnet.lineage` for what is written down."""
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sleepnet import adapters, build, checkpoint, costs, hf, lineage, methods, origin, paths, released, step_folders
from sleepnet.config import ModelConfig, RunConfig
from sleepnet.errors import UsageError, nearest
from sleepnet.hf import trained
from sleepnet.methods.base import Problem
from sleepnet.models import zoo
from sleepnet.models.experts import EXPERTS
from sleepnet.models.sparse import SPARSE
from sleepnet.tasks.source import Source


@dataclasses.dataclass(frozen=True)
class Start:
    """How a run begins.

    Attributes:
      shapes: of what changes, see `sleepnet.adapters`: a tree of jax.ShapeDtypeStruct.
      trainable: gives what changes, as it is before the first step: a tree of arrays; not needed by a run that goes on.
      frozen: what does not change: a tree of arrays, {} where all changes.
      record: of start.json; {} of a run of fresh parameters that changes all and whose method names no other weights.
      references: argument of the method → the parameters that it names.
    """

    shapes: Any
    trainable: Callable[[], Any]
    frozen: Any
    record: dict[str, Any]
    references: dict[str, Any] = dataclasses.field(default_factory=dict)


def find(config: RunConfig, task: Source, workdir: Path) -> Start:
    """How the run in `workdir` begins, or has begun; writes nothing.

    Raises:
      UsageError: `config.start` is neither a run nor a trained model, does not fit (names the first tensor), or is not what the run in `workdir` started from;
        or so one of the method's references.
    """
    make = lambda: nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1])
    shapes = jax.eval_shape(make)
    adapters.check(config.adapters, shapes)
    references, told = _references(config, task, shapes, make, workdir)
    if not config.start and config.adapters.kind == "all" and not references:
        return Start(shapes, make, {}, _same(config, workdir, {}))
    record, saved = lineage.read(workdir), step_folders.steps(workdir / "checkpoints")
    if saved and not record:
        raise UsageError(f"{workdir} holds a run of fresh parameters that changes them all: give another --workdir, or drop start={config.start!r} and adapters")
    if saved:
        if config.start and config.start != record["start"]:
            _same(config, workdir, {"digest": lineage.digest(_fitting("start", config.start, shapes, _elsewhere("start", config.start)[0], make))})
        trainable, frozen = jax.eval_shape(lambda params: adapters.split(config.adapters, params, config.seed), shapes)
        return Start(trainable, lambda: _first(config, task, shapes, make, workdir, references).trainable(), lineage.load_frozen(workdir, frozen), record, references)
    begin = _first(config, task, shapes, make, workdir, references)
    return dataclasses.replace(begin, record=begin.record | ({"references": told} if told else {}), references=references)


def references(config: RunConfig, task: Source, workdir: Path, *only: str) -> dict[str, Any]:
    """The parameters that these arguments of the method of the run in `workdir` name, as it learnt from them; raises UsageError as `find`."""
    make = lambda: nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1])
    return _references(config, task, jax.eval_shape(make), make, workdir, only)[0]


def _references(
    config: RunConfig, task: Source, shapes: Any, make: Callable[[], Any], workdir: Path, only: tuple[str, ...] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """What the method names, and what is written down of it: argument → where it comes from, and its digest. `only`: of these arguments; all if None."""
    method, found = methods.of(config), {}
    for name in method.references if only is None else only:
        if where := getattr(method, name):
            key, where = (f"method.arguments.{name}", where) if where != "start" else ("start", config.start)
            if not where:
                raise UsageError(f"method.arguments.{name}='start' is what the run starts from, and this one starts from nothing: set start, or name a run or a trained model")
            if known := _learnt(key, where):
                method.check_reference(name, config, task, *known)
            found[name] = (where, _fitting(key, where, shapes, _elsewhere(key, where)[0], make))
    told = {name: {"start": where, "digest": lineage.digest(params)} for name, (where, params) in found.items()}
    if known := lineage.read(workdir):
        held = {name: each for name, each in known.get("references", {}).items() if only is None or name in only}
        for name in {**held, **told}:
            there, here = (side.get(name, {}).get("digest", "") for side in (held, told))
            if there != here:
                raise UsageError(f"{workdir} learnt from another {name}: sha256 {there[:12] or '(none)'} there, {here[:12] or '(none)'} here; give that one as method.arguments.{name}, or another --workdir")
    return {name: params for name, (_, params) in found.items()}, told


def _learnt(key: str, where: str) -> tuple[Source, ModelConfig] | None:
    """What the run or the model of the zoo that the configuration's `key` names was trained on, and what model it is; None of anything else."""
    folder = paths.plain(where, key)
    if (folder / "config.json").exists() and not released.is_one(folder):
        config, task = checkpoint.read_claim(folder)
        return task, build.fit(config.model, task)
    if where in zoo.names() and zoo.has_checkpoint(where):
        return zoo.load(where)[1], zoo.config_of(where)
    return None


def model(config: RunConfig, task: Source) -> nnx.Module:
    """The model that `config.start` names, as the run begins with it; raises UsageError as `find`."""
    make = lambda: nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1])
    graph, params = nnx.split(nnx.eval_shape(lambda: build.model_of(config, task)), nnx.Param)
    return nnx.merge(graph, _fitting("start", config.start, nnx.to_pure_dict(params), _elsewhere("start", config.start)[0], make))


def _first(config: RunConfig, task: Source, shapes: Any, make: Callable[[], Any], workdir: Path, references: dict[str, Any]) -> Start:
    """A run's beginning, all of it read or made."""
    _same_tokenizer(config.start, task)
    whole, record = _elsewhere("start", config.start) if config.start else (make(), {"start": "", "kind": "fresh", "flops": 0, "tokens": 0, "chain": []})
    whole = _fitting("start", config.start, shapes, whole, make)
    chosen, told = None, {}
    if config.adapters.kind == "heads":
        problem = Problem(nnx.split(nnx.eval_shape(lambda: build.model_of(config, task)), nnx.Param)[0], task, references)
        told = {"heads": methods.of(config).chosen(config, problem, whole)}
        chosen = adapters.head_channels(told["heads"], config.model.heads, whole)
    trainable, frozen = adapters.split(config.adapters, whole, config.seed, chosen)
    record = record | told
    record = _same(config, workdir, {**record, "digest": lineage.digest(whole), "frozen": lineage.digest(frozen)})
    return Start(jax.eval_shape(lambda: trainable), lambda: trainable, frozen, record)


def _same_tokenizer(where: str, task: Source) -> None:
    """Refuses text in other tokens than those of the model or the run to start from, where both are known: ids that mean something else train all the same."""
    if not where or not (corpus := getattr(task, "corpus", None)):
        return
    known, given = trained.tokenizer_of(paths.plain(where, "start")), corpus.tokenizer
    if known is not None and known[1] != given["sha256"]:
        raise UsageError(
            f"start={where} has the tokenizer {known[0]} ({known[1][:12]}), task.arguments.tokens={task.tokens!r} are of {given['name']} ({given['sha256'][:12]}): "
            f"write them with its own (python -m sleepnet.tasks tokenize --tokenizer=…)"
        )


def _same(config: RunConfig, workdir: Path, record: dict[str, Any]) -> dict[str, Any]:
    """`record`, or the folder's own; refused where that is of other parameters."""
    if (known := lineage.read(workdir)) and known["digest"] != record.get("digest"):
        there, here = (f"{each['start'] or 'fresh parameters'} (sha256 {each.get('digest', '')[:12]})" for each in (known, {**record, "start": config.start}))
        raise UsageError(f"{workdir} started from other parameters: {there} there, {here} here; give that start, or another --workdir")
    return known or record


def _elsewhere(key: str, where: str) -> tuple[Any, dict[str, Any]]:
    """Whole parameters of the run or model that the configuration's `key` names, and a record without their digest."""
    folder = paths.plain(where, key)
    if released.is_one(folder):
        params = nnx.to_pure_dict(nnx.split(hf.load(folder, dtype="float32")[0], nnx.Param)[1])
        link = {"name": folder.name, "folder": str(folder), "task": "", "method": "released", "steps": None, "flops": None, "tokens": None, "digest": lineage.digest(params)}
        return params, {"start": where, "kind": "released", "flops": None, "tokens": None, "chain": [link]}
    if (folder / "config.json").exists():
        loaded = checkpoint.load_model(folder)
        past, values = lineage.read(folder), loaded.config
        params = nnx.to_pure_dict(nnx.split(loaded.model, nnx.Param)[1])
        spent, tokens = costs.of_steps(values, loaded.step), loaded.step * values.train.batch_size * loaded.task.seq_len
        link = {
            "name": values.phase or folder.name, "task": loaded.task.name, "method": values.method.name, "steps": loaded.step, "flops": spent, "tokens": tokens,
            "digest": lineage.digest(params),
        }  # fmt: skip
        before = {key: past.get(key, 0) for key in ("flops", "tokens")}
        add = lambda key, more: None if before[key] is None else before[key] + more
        return params, {"start": where, "kind": "run", "flops": add("flops", spent), "tokens": add("tokens", tokens), "chain": [*past.get("chain", []), link]}
    if where in zoo.names() and zoo.has_checkpoint(where):
        model, task = zoo.load(where)
        params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
        link = {"name": where, "task": task.name, "method": "answers", "steps": None, "flops": None, "tokens": None, "digest": lineage.digest(params)}
        return params, {"start": where, "kind": "zoo", "flops": None, "tokens": None, "chain": [link]}
    trained = [name for name in zoo.names() if zoo.has_checkpoint(name)]
    raise UsageError(f"{key}={where!r} is neither the folder of a run nor a model that comes trained ({', '.join(trained)}), nor what `python -m sleepnet.hf import` has written{nearest(where, trained)}")


def _fitting(key: str, where: str, params: Any, found: Any, make: Callable[[], Any]) -> Any:
    """`found`, which the configuration's `key` names, in the tree of `params`; experts and sparse increments, where it has none at all, as `make` draws them.

    Raises:
      UsageError: another tensor, or one of another shape: names the first.
    """
    want, have = origin.named(params), origin.named(found)
    for kind in (f".{EXPERTS}.", f".{SPARSE}."):
        gained = [name for name in want if kind in f".{name}"]
        if gained and not any(kind in f".{name}" for name in have):
            fresh = origin.named(make())
            have = {**have, **{name: fresh[name] for name in gained}}
    for name in [*want, *(name for name in have if name not in want)]:
        there, here = (f"has shape {tuple(side[name].shape)}" if name in side else "is none" for side in (have, want))
        if there != here:
            fix = "model.vocab_size, or the task's arguments" if name in ("embedding", "head.kernel") else "model.window, or the task's" if name == "positions" else "model.* as it is there"
            raise UsageError(f"{key}={where} does not fit: {name} {there} there and {here.replace('has shape ', '')} here; set {fix}")
    return jax.tree.unflatten(jax.tree.structure(params), [np.asarray(have[name]) for name in want])
