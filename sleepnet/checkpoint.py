"""A run's folder: what identifies it, its checkpoints, and a trained model back from them.

    config.json    the whole RunConfig
    task.json      name, version, arguments and hash of the task's specification; the manifest's hash of an export it is read from
    checkpoints/   Orbax, one folder a step: `state` (parameters, optimiser), `data` (the iterator's one integer), and beside them
                   where they come from, see `sleepnet.origin`; of a run that changes a part of its model, that part alone
    start.json     where the run started, and frozen.safetensors, what it does not change; see `sleepnet.lineage`
    damaged/       checkpoints that `resume=latest-good` passed over
    .lock          who writes here, while somebody does: a folder has one writer, and any number of readers
"""
import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as preservation

from sleepnet import adapters, build, files, lineage, lock, orbax_log, origin, paths, step_folders, trust
from sleepnet.config import RunConfig, from_dict, to_dict
from sleepnet.errors import UsageError, first_line
from sleepnet.files import read_json, write_json
from sleepnet.models.hybrid import Hybrid
from sleepnet.tasks.source import Source

_SPARE_BYTES = 1 << 20  # of a checkpoint's own metadata, and of what else the run writes before the next one


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained model and what it was trained on."""

    model: Hybrid
    task: Source
    config: RunConfig
    step: int


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, "the run's folder is damaged, or not a run's folder")


def claim(workdir: Path, config: RunConfig, task: Source, manifest_hash: str = "") -> None:
    """Makes `workdir` the folder of this run, or sees that it already is.

    Args:
      workdir: the folder.
      config: the run.
      task: what it trains on.
      manifest_hash: of the export that the training examples are read from; "": they are drawn as they are needed.

    Raises:
      UsageError: the folder belongs to another run (names the first key that differs) or holds other things.
    """
    mine, spec = to_dict(config), {**task.spec(), "hash": task.spec_hash}
    if manifest_hash:
        spec["manifest_hash"] = manifest_hash
    if (workdir / "config.json").exists():
        if config.resume == "never":
            raise UsageError(f"{workdir} holds a run already and resume=never: give another --workdir, or --config.resume=latest to go on")
        known = _read_json(workdir / "task.json")
        if known.get("hash") != spec["hash"]:
            raise UsageError(f"{workdir} was trained on another task ({known}), this is {spec}: give another --workdir")
        if (held := known.get("manifest_hash", "")) != manifest_hash:
            there, here = (f"the export with manifest {digest[:12]}" if digest else "examples drawn by the task" for digest in (held, manifest_hash))
            raise UsageError(f"{workdir} was trained on {there}, task.folder={config.task.folder!r} is {here}: give that folder, or another --workdir")
        with trust.reading(workdir / "config.json"):
            key = origin.difference(_read_json(workdir / "config.json"), mine)
        if key:
            raise UsageError(f"{workdir} belongs to another run: {key}; give another --workdir")
        return
    if workdir.exists() and any(path.name not in ("task.json", lock.NAME) and path.suffix != ".part" for path in workdir.iterdir()):
        raise UsageError(f"{workdir} is not empty and holds no run: give an empty or new --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "task.json", spec)
    write_json(workdir / "config.json", mine)


def changed(workdir: Path, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Key → what it was, and what it is in `config`, as which the run goes on; but for what is of one leg alone."""
    found = origin.changes(_read_json(workdir / "config.json"), to_dict(config))
    return {key: values for key, values in found.items() if key not in ("resume", "profile")}


def change(workdir: Path, config: RunConfig) -> None:
    """Writes down that the run goes on as `config`, which `claim` and its checkpoint have let pass."""
    write_json(workdir / "config.json", to_dict(config))


def read_claim(workdir: Path) -> tuple[RunConfig, Source]:
    """The configuration and task of a run's folder.

    Raises:
      UsageError: no run there, its task has changed since (another version of the package), or it asks for code of a module that nobody has named.
    """
    if not (workdir / "config.json").exists():
        raise UsageError(f"{workdir} holds no run: there is no config.json in it")
    with trust.reading(workdir / "config.json"):
        config = from_dict(RunConfig, _read_json(workdir / "config.json"))
        task, known = build.task_of(config), _read_json(workdir / "task.json")
    if known.get("hash") != task.spec_hash:
        raise UsageError(f"{workdir}: the run's task {known} is not this package's {task.spec()}; use the version it was trained with")
    return config, task


class Checkpoints:
    """The checkpoints of one run's folder; saves in the background, one at a time.

    Args:
      workdir: the run's folder.
      card: what is saved beside the weights, and what a checkpoint must agree with, see `sleepnet.origin`; empty: nothing.
      keep: newest ones kept, all if None.
      keep_period: multiples of it are kept besides; 0: none.
      keep_best: the one with the highest value of this metric is kept besides; "": none.
      create: make the folder.
      failed: is told at once, in another thread, what `check` would raise.
    """

    def __init__(
        self, workdir: Path, card: Mapping[str, Any] = MappingProxyType({}), *, keep: int | None = None, keep_period: int = 0, keep_best: str = "",
        create: bool = True, failed: Callable[[Exception], None] = lambda error: None,
    ):
        self.workdir = paths.readable(paths.plain(workdir, "workdir"), "workdir")
        self.folder, self.card, self._proven = self.workdir / "checkpoints", dict(card), False
        self._failure, self._failed, self._listener = None, failed, orbax_log.Listener(self._note)
        policies = [preservation.LatestN(keep)]
        if keep_period:
            policies.append(preservation.EveryNSteps(keep_period))
        rank = (lambda metrics: metrics.get(keep_best, float("-inf"))) if keep_best else None
        if rank:
            policies.append(preservation.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(preservation_policy=preservation.AnyPreservationPolicy(policies), best_fn=rank, create=create, step_name_format=step_folders.Names())
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """Step of the newest checkpoint, None without any."""
        return self.manager.latest_step()

    def save(self, step: int, state: Any, data: dict[str, int], metrics: dict[str, float] | None = None) -> None:
        """Saves `state` (a pytree of arrays) and the data iterator's state, whose `next_index` is `step`; returns once the arrays are copied.

        The first of a folder is waited for and read back: nothing is trained on the strength of checkpoints that can't be read.

        Raises:
          UsageError: the disk has no room for it, or had none for the save before; Orbax declines it; the first can't be read back.
        """
        need, free = _SPARE_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(self.folder).free
        if free < need:
            raise UsageError(self._full(f"the checkpoint of step {step} takes {need:,} bytes and {free:,} are free"))
        if (self.folder / str(step)).exists():
            raise UsageError(f"{self.folder / str(step)} is where the checkpoint of step {step} has to be: move it away, {self._again()}")
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        try:
            taken = self.manager.save(step, args=args, metrics=metrics, custom_metadata=self.card)
        except (OSError, ValueError) as error:  # tensorstore's word for a full disk is a ValueError
            raise self._translated(error) from error
        if not taken:
            raise UsageError(f"{self.folder}: Orbax declines a checkpoint of step {step}, the newest there being of {self.latest()}; start in a new workdir")
        if not self._proven:
            self.wait()
            self._read_back(step, state)
            self._proven = True

    def _read_back(self, step: int, state: Any) -> None:
        """Sees that what was saved has the tree, shapes and card of what should be, and in its smallest array the same bytes."""
        if jax.process_index() != 0:
            return  # on another host the folder may not be seen yet
        folder = self.folder / str(step)
        try:
            self._examined(step, state)
            whole = {name: leaf for name, leaf in origin.named(state).items() if leaf.is_fully_replicated}
            name = min(whole, key=lambda name: whole[name].nbytes, default="")
            if name and origin.array(folder, name).tobytes() != np.asarray(whole[name]).tobytes():
                raise origin.Unusable(f"not what was saved ({name})")
        except Exception as error:  # Orbax and tensorstore raise many kinds
            why = f"it is {error}" if isinstance(error, origin.Unusable) else first_line(error)
            raise UsageError(f"checkpoint {folder} can't be read back: {why}; nothing is trained without checkpoints: give a --workdir elsewhere") from error

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, int]]:
        """The state saved at `step`, in the shapes, dtypes and shardings of `like`.

        Raises:
          UsageError: it is truncated, incomplete, or another run's.
        """
        try:
            return self._restore(step, like)
        except origin.Unusable as error:
            raise UsageError(self._refusal(step, error)) from error

    def restore_good(self, like: Any) -> tuple[int | None, tuple[Any, dict[str, int]] | None, list[str]]:
        """As `restore` of the newest step that can be read; (None, None, …) without one. Those in front of it go to `damaged/`, one line each."""
        lines = []
        while (step := self.latest()) is not None:
            try:
                return step, self._restore(step, like), lines
            except origin.Unusable as error:
                lines.append(f"checkpoint {self.folder / str(step)} is {error}; set aside as {self._set_aside(step)}")
        return None, None, lines

    def _examined(self, step: int, like: Any) -> None:
        found = origin.contents(self.folder / str(step))
        if found.step != step:
            raise origin.Unusable(f"that of step {found.step}")
        origin.check(found, self.card, like)

    def _restore(self, step: int, like: Any) -> tuple[Any, dict[str, int]]:
        self._examined(step, like)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        orbax_log.expect_late_answers()
        try:
            out = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()))
        except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged file
            raise origin.Unusable(f"truncated or damaged ({first_line(error)})") from error
        self._proven = True
        return out.state, out.data

    def restore_parameters(self, step: int, like: Any) -> Any:
        """The parameters alone, see `restore`."""
        item = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, like)}
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
        orbax_log.expect_late_answers()
        try:
            self._examined(step, item)
            args = ocp.args.Composite(state=ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True))
            params = self.manager.restore(step, args=args).state["params"]
            origin.contents(self.folder / str(step))  # of a folder that is being deleted, arrays may have come back as zeros
            return params
        except origin.Unusable as error:
            raise UsageError(self._refusal(step, error)) from error
        except Exception as error:  # as above
            raise UsageError(self._refusal(step, f"truncated or damaged ({first_line(error)})")) from error

    def _refusal(self, step: int, what: Any) -> str:
        older = [other for other in self.manager.all_steps() if other < step]
        fix = f"--config.resume=latest-good goes on from step {max(older)}, or remove that folder" if older else "there is no older one: start again in a new workdir"
        return f"checkpoint {self.folder / str(step)} is {what}; {fix}"

    def _set_aside(self, step: int) -> Path:
        """Moves a checkpoint out of the way; nothing of it is lost."""
        number, place = 1, self.workdir / "damaged" / str(step)
        while place.exists():
            number, place = number + 1, self.workdir / "damaged" / f"{step}.{number + 1}"
        multihost_utils.sync_global_devices(f"sleepnet: looked for a place for {step}")
        if jax.process_index() == 0:
            place.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(place)
        multihost_utils.sync_global_devices(f"sleepnet: set aside {step}")
        self.manager.reload()
        return place

    def _note(self, error: BaseException) -> None:
        self._failure = self._translated(error)
        self._failed(self._failure)

    def check(self) -> None:
        """Raises as `save`, if a save has failed since."""
        if self._failure:
            raise self._failure

    def wait(self) -> None:
        """Returns once everything is on disk; raises as `save`."""
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        number = files.full(error)
        return UsageError(self._full("a checkpoint could not be written", number)) if number else error

    def _full(self, what: str, number: int = errno.ENOSPC) -> str:
        said = "no space left on the disk" if number == errno.ENOSPC else os.strerror(number).lower()
        return f"{self.folder}: {said}, {what}; {files.FULL[number]}, {self._again()}"

    def _again(self) -> str:
        saved = step_folders.steps(self.folder)  # the manager counts one that is being written
        return f"the same command goes on from step {saved[-1]}" if saved else "then run the same command again"

    def close(self) -> None:
        """Waits and lets go of the folder."""
        try:
            self.manager.close()
        finally:
            self._listener.stop()


def load_model(workdir: str | Path) -> Loaded:
    """The model of a run's newest checkpoint.

    Raises:
      UsageError: no run, no checkpoint, a damaged one, or one of another model or task.
    """
    workdir = paths.readable(paths.plain(workdir, "workdir"), "workdir")
    config, task = read_claim(workdir)
    graph, abstract = nnx.split(nnx.eval_shape(lambda: build.model_of(config, task)), nnx.Param)
    trainable, frozen = jax.eval_shape(lambda params: adapters.split(config.adapters, params, config.seed), nnx.to_pure_dict(abstract))
    card = origin.card(config, task, start=lineage.read(workdir))

    def newest():
        if not step_folders.steps(workdir / "checkpoints"):
            raise UsageError(f"{workdir} has no checkpoint yet: train it first")
        with contextlib.closing(Checkpoints(workdir, card, create=False)) as checkpoints:
            step = checkpoints.latest()
            return step, checkpoints.restore_parameters(step, trainable)

    step, params = origin.beside_a_run(workdir / "checkpoints", newest)
    params, frozen = jax.tree.map(jnp.asarray, (params, lineage.load_frozen(workdir, frozen)))
    return Loaded(nnx.merge(graph, adapters.whole(config.adapters, params, frozen)), task, config, step)
