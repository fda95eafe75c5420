"""A training run: data, steps, metrics, checkpoints, from wherever its folder stands to the end."""
import contextlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sleepnet import build, checkpoint, costs, data, lineage, lock, mesh as meshes, origin, paths, sharding, start as starts, step_folders
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError
from sleepnet.eval import text
from sleepnet.eval.runner import evaluate
from sleepnet.files import read_json, write_json
from sleepnet.tasks.base import Task
from sleepnet.train import compiled, hosts, preempt
from sleepnet.train.leg import Leg
from sleepnet.train.metrics import Metrics, Seconds
from sleepnet.train.step import REFERENCES, TrainState, first_bad_tensor, learning_of, make_step
from sleepnet.train.trace import Trace

_RESULT = {"steps", "tokens", "flops", "seconds", "device"}  # of result.json, what is told at the end
_AHEAD = 2  # steps that may be on their way at once: with more, simulated CPU devices run out of threads and wait for each other


def train(config: RunConfig, workdir: str | Path, *, quiet: bool = False) -> dict[str, Any]:
    """Trains to the last step and returns what `result.json` says; a finished run is returned at once.

    A run that was stopped, however, goes on from its newest checkpoint and ends with the same parameters and the same
    metrics, bit for bit, as if it had not been. Keys that change nothing computed so far may be other ones then, see `sleepnet.origin`: `train.steps`
    too, while no rate has fallen yet that would not have in a run of that length.

    Args:
      config: the run.
      workdir: its folder; see `sleepnet.checkpoint` for what is kept there.
      quiet: no progress line.

    Raises:
      UsageError: a folder of another run, a damaged checkpoint, a `start` that does not fit, or a `task.folder` that does not hold the run's examples.
      FloatingPointError: a loss or gradient that is not finite; what is saved stays.
      Preempted: SIGTERM, SIGHUP or SIGUSR1 came; the checkpoint of the step reached is saved.
    """
    workdir = paths.readable(paths.plain(workdir, "workdir"), "workdir")
    paths.plain(config.compile_cache, "compile_cache")  # told now, not behind the folder that it makes
    settings, task = config.train, build.task_of(config)
    learning = learning_of(config, task)
    mesh = meshes.make(config.mesh)
    sharding.check(config, mesh)
    last = settings.first_example + settings.steps * settings.batch_size
    examples = data.examples(task, config.task.folder, seed=config.seed, count=last)
    begin = starts.find(config, task, workdir)
    card = origin.card(config, task, mesh, begin.record)
    hosts.agree(card)
    hosts.share(workdir)
    with contextlib.ExitStack() as stack:
        # Of several processes the first writes for all
        hosts.first(lambda: stack.enter_context(lock.held(workdir, "a training")), "lock")
        hosts.first(lambda: checkpoint.claim(workdir, config, task, examples.manifest_hash if config.task.folder else ""), "claim")
        if begin.record:
            hosts.first(lambda: lineage.read(workdir) or lineage.write(workdir, begin.record, begin.frozen), "start")
        if (workdir / "result.json").exists():
            result = _finished(workdir)
            if result["steps"] == settings.steps:
                return result
        keep = {key: getattr(settings, key) for key in ("keep", "keep_period", "keep_best")}
        # Of several processes the others wait for this one, and Orbax waits for them: only its thread can still act
        failed = (lambda error: hosts.fail(str(error))) if hosts.several() else (lambda error: None)
        checkpoints = checkpoint.Checkpoints(workdir, card, **keep, failed=failed)
        stack.callback(checkpoints.close)
        with compiled.cached(config.compile_cache, workdir), meshes.use(mesh), preempt.watch() as told:
            rows = sharding.rows(mesh, settings.batch_size)
            source = data.BatchSource(
                examples, seed=config.seed, batch_size=settings.batch_size, steps=settings.steps, rows=rows, first=settings.first_example,
                more=lambda batch: learning.method.draw(task, config, batch), passes=lambda step: costs.passes_at(config, step),
            )
            held = begin.frozen | ({REFERENCES: begin.references} if begin.references else {})
            frozen = jax.jit(lambda tree: tree, out_shardings=sharding.shardings(held, mesh))(held) if held else {}
            return _run(Leg(config, workdir, task, learning, begin, frozen, mesh, source, rows, checkpoints, told, quiet))


def _run(leg: Leg) -> dict[str, Any]:
    config, settings, workdir, task, checkpoints = leg.config, leg.config.train, leg.workdir, leg.task, leg.checkpoints
    state, position = _state(leg)
    start, pending = position.get("next_index", 0), position.get("pending", [])
    changed = checkpoint.changed(workdir, config) if hosts.primary() else {}
    if not leg.quiet:
        _say_where(workdir, start, changed)
    step_once = make_step(leg.learning)
    iterator = data.batches(leg.source, start)
    costs_of = costs.of_step(config)
    metrics = Metrics(workdir, start=start, steps=settings.steps, quiet=leg.quiet, writes=hosts.primary())
    if hosts.primary():
        _write_down(workdir, config, metrics, start, changed)
    seconds, trace = Seconds(), Trace(config.profile, workdir / "profile" if hosts.primary() else None)
    spent, rank = costs.of_steps(config, start), {}

    def save(step):
        jax.block_until_ready(state)  # the time until then is the steps' own
        with seconds.of("checkpoint"):  # the numbers that no line of metrics has yet go along: a line can span a stop
            checkpoints.save(step, state, {**iterator.get_state(), "pending": _plain(pending)}, rank or None)

    try:
        if not start and settings.eval_every and leg.learning.method.looks:
            metrics.write(0, "validation", _validate(leg, state, 0, 0))
        for step in range(start, settings.steps):
            checkpoints.check()
            if leg.told(step):
                checkpoints.wait()
                if step > (checkpoints.latest() or 0):
                    _stop_if_bad(leg, state)
                    save(step)
                    checkpoints.wait()
                raise preempt.Preempted(step, settings.steps)
            passes = costs.passes_at(config, step)
            trace.before(step)
            with seconds.of("input", pending[-1:]):
                batch = leg.placed(next(iterator))
            state, numbers = step_once(state, leg.frozen, batch, leg.draw(step), passes)
            trace.after(step, numbers)
            spent += costs_of[passes]
            pending.append(numbers)
            jax.block_until_ready(pending[-1 - _AHEAD : -_AHEAD])
            done, rank = step + 1, {}
            if done % settings.log_every == 0 or done % settings.save_every == 0 or done == settings.steps:
                _stop_if_bad(leg, state)
            if done % settings.log_every == 0 or done == settings.steps:
                metrics.write(done, "train", _summary(leg, pending, done, spent) | seconds.take())
                pending = []
            if settings.eval_every and (done % settings.eval_every == 0 or done == settings.steps):
                jax.block_until_ready(state)
                with seconds.of("evaluation"):
                    seen = _validate(leg, state, done, spent)
                rank = {key: seen[key] for key in ("exact_accuracy", "label_accuracy")} if settings.keep_best else {}
                metrics.write(done, "validation", seen)
            if done % settings.save_every == 0 or done == settings.steps:
                save(done)
        checkpoints.wait()
    finally:
        trace.close()
        metrics.close()
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (jax.eval_shape(leg.learning.whole, state.params, leg.frozen), state.params)]
    result = {
        "steps": settings.steps,
        "tokens": settings.steps * settings.batch_size * task.seq_len,
        "flops": spent,
        "seconds": round(metrics.seconds, 3),
        "parameters": sizes[0],
        "device": jax.devices()[0].device_kind,
    }
    if leg.begin.record:
        result |= {"trained_parameters": sizes[1], **{f"{key}_before": leg.begin.record.get(key) for key in ("flops", "tokens")}}
    if hosts.primary():
        write_json(workdir / "result.json", result)
    return result


def _state(leg: Leg) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on with, and the position in the data: of a checkpoint, or the first."""
    begin = lambda params: leg.learning.begin(params, leg.config.train.batch_size)
    shapes = jax.eval_shape(begin, leg.begin.shapes)
    shardings = sharding.shardings(shapes, leg.mesh)
    if leg.mesh.size > 1 and not leg.quiet:
        for line in sharding.uncut(shapes.params, leg.mesh):
            print(f"sharding: {line}", file=sys.stderr)
    like = jax.tree.map(lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings)
    if found := _restored(leg.config, leg.checkpoints, like):
        return found
    if (leg.workdir / "result.json").exists():
        raise UsageError(f"{leg.workdir} holds a run that has ended, and no checkpoint to go on from to train.steps={leg.config.train.steps}: give another --workdir")
    params = leg.begin.trainable()
    leg.learning.method.check_start(leg.config, leg.task, params)
    leg.learning.method.check_model(leg.config, leg.learning.within(leg.frozen), leg.learning.whole(params, leg.frozen))
    return jax.jit(begin, out_shardings=shardings)(params), {}


def _finished(workdir: Path) -> dict[str, Any]:
    """What `result.json` says; raises UsageError if it is damaged."""
    path, fix = workdir / "result.json", "remove it and run the same command again: it is written anew from the last checkpoint"
    result = read_json(path, fix)
    if lacks := _RESULT - result.keys():
        raise UsageError(f"{path} lacks {', '.join(sorted(lacks))}; {fix}")
    return result


def _write_down(workdir: Path, config: RunConfig, metrics: Metrics, start: int, changed: dict[str, Any]) -> None:
    """That the run goes on from `start`, longer than it was, or with other keys."""
    (workdir / "result.json").unlink(missing_ok=True)
    if changed:
        metrics.note(start, changed)
        checkpoint.change(workdir, config)


def _restored(config: RunConfig, checkpoints: checkpoint.Checkpoints, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """State and data position of the checkpoint to go on from, as `resume` says; None: from the beginning."""
    if config.resume == "latest-good":
        _, found, lines = checkpoints.restore_good(like)
        if hosts.primary():
            print(*(f"resume=latest-good: {line}" for line in lines), sep="\n", end="\n" if lines else "", file=sys.stderr)
        return found
    latest = checkpoints.latest()
    return None if latest is None else checkpoints.restore(latest, like)


def _say_where(workdir: Path, start: int, changed: dict[str, Any]) -> None:
    """A line for whoever started the command again; none at the beginning. And one for each folder that only looks like a checkpoint."""
    for line in step_folders.foreign(workdir / "checkpoints"):
        print(f"{line}: it is left alone", file=sys.stderr)
    if start:
        other = "".join(f"; {key} was {before!r}, is {now!r}" for key, (before, now) in changed.items())
        print(f"goes on from the checkpoint of step {start}{other}", file=sys.stderr)
    elif (workdir / "metrics.jsonl").exists():
        print(f"{workdir / 'checkpoints'} holds no checkpoint: begins again at step 0", file=sys.stderr)


def _plain(pending: list[dict[str, Any]]) -> list[dict[str, float | int]]:
    """The numbers of steps as JSON holds them without loss."""
    return [{key: np.asarray(value).item() for key, value in numbers.items()} for numbers in jax.device_get(pending)]


def _summary(leg: Leg, pending: list[dict[str, Any]], step: int, spent: int) -> dict[str, Any]:
    """Means over the steps since the last line, in float64 so that their order is all that matters."""
    numbers = jax.device_get(pending)
    mean = lambda key: float(np.mean([float(n[key]) for n in numbers]))
    told = {"loss": mean("loss")}
    if "exact" in numbers[0]:
        right, asked = (sum(int(n[key]) for n in numbers) for key in ("exact", "answered"))
        told["exact_accuracy"] = right / max(asked, 1)
    told |= {key: mean(key) for key in ("gradient_norm", *leg.learning.method.tells)}
    return told | {"tokens": step * leg.config.train.batch_size * leg.task.seq_len, "flops": spent}


def _validate(leg: Leg, state: TrainState, step: int, spent: int) -> dict[str, Any]:
    """Exact accuracy on the validation split with the run's own N, whole and by the task's first axis; of a source without answers, the loss."""
    config, settings, task = leg.config, leg.config.train, leg.learning.method.examined(leg.task)
    size = min(settings.eval_examples, config.eval.batch_size)
    if not isinstance(task, Task):
        nats = text.loss(leg.model(state), task, passes=config.model.sleep.passes, examples=settings.eval_examples, batch_size=size, split="validation")
        return {"loss": nats, "tokens": step * settings.batch_size * task.seq_len, "flops": spent}
    rows = evaluate(
        leg.model(state),
        task,
        passes=(config.model.sleep.passes,),
        examples=settings.eval_examples,
        batch_size=size,
        split="validation",
    )
    values = {"exact_accuracy": rows[0]["exact_accuracy"], "label_accuracy": rows[0]["label_accuracy"]}
    axis = task.difficulty_axes[0]
    values |= {f"exact_accuracy_{axis}{row['value']}": row["exact_accuracy"] for row in rows if row["axis"] == axis}
    values |= leg.learning.method.look(config, leg.learning.within(leg.frozen), nnx.split(leg.model(state), nnx.Param)[1]) if leg.learning.method.looks else {}
    return values | {"tokens": step * settings.batch_size * leg.task.seq_len, "flops": spent}


def _stop_if_bad(leg: Leg, state: TrainState) -> None:
    """Raises FloatingPointError once a step had a loss, gradient or update that was not finite."""
    bad_step = int(state.bad_step)
    if bad_step < 0:
        return
    name = first_bad_tensor(leg.learning, state, leg.frozen, leg.placed(leg.source[bad_step]), leg.draw(bad_step), costs.passes_at(leg.config, bad_step))
    saved = step_folders.steps(leg.workdir / "checkpoints")
    kept = f"the checkpoint of step {saved[-1]} is kept in {leg.workdir / 'checkpoints'}" if saved else "no checkpoint had been saved before"
    raise FloatingPointError(
        f"step {bad_step} (batch {bad_step} of seed {leg.config.seed}) is not finite, first in {name}; {kept}. Lower optim.learning_rate or optim.clip and start in a new workdir"
    )
