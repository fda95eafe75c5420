"""Where a checkpoint comes from: what is saved beside its weights, and what is wrong with one that can't be used.

Orbax keeps it as the checkpoint's custom metadata: `tree_version`, `versions` of the packages, `mesh`, and the run's `config` and
`task` (with the hash of its specification), and `start`, where the run did not begin with fresh parameters. Reading it needs neither the weights nor the devices that they were saved on.
"""
import contextlib
import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from jax.sharding import Mesh

from sleepnet import methods, optim, tasks
from sleepnet.config import RunConfig, completed, from_dict, to_dict
from sleepnet.errors import UsageError, first_line
from sleepnet.files import json_object
from sleepnet.step_folders import ITEMS, METADATA, steps
from sleepnet.tasks.source import Source

TREE_VERSION = 1  # raised whenever the tree of parameters or of the optimiser changes its names, shapes or meaning
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")

# Keys that may change between two legs of one run without changing what it computes; where a token file lies changes nothing, its hash is in the task's specification.
FREE = (
    "resume", "profile", "compile_cache", "start", "task.folder", "task.arguments.tokens", "task.arguments.tokenizer", "train.log_every", "train.save_every", "train.keep", "train.eval_every", "train.eval_examples", "eval.", "mesh."
)  # fmt: skip

_TRIES = 50
_CARD = {"tree_version": int, "versions": dict, "mesh": dict, "config": dict, "task": dict}

T = TypeVar("T")


class Unusable(Exception):
    """What is wrong with a checkpoint, as it follows on "checkpoint X is"."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """A checkpoint without its weights.

    Attributes:
      card: as `card` made it; empty in checkpoints of earlier versions.
      step: that it was saved at, whatever its folder is called.
      metrics: the numbers that it is ranked by, empty without `train.keep_best`.
      tree: `state` as nested dicts; leaves have shape, dtype and sharding as it was saved.
      saved: seconds since 1970.
    """

    card: dict[str, Any]
    step: int
    metrics: dict[str, float]
    tree: Any
    saved: float


def versions(*more: str) -> dict[str, str]:
    """Python's and those of the packages that decide what a checkpoint holds, and of `more`; "unknown" where a package does not tell."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("sleepnet", *PACKAGES, *more)}}


def _version(package: str) -> str:
    """By the package itself where it is imported: a source tree, a zip file or a bundle has nothing installed to ask."""
    told = getattr(sys.modules.get(package.replace("-", ".")), "__version__", None)
    if told is None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            told = metadata.version(package)
    return told or "unknown"


def card(config: RunConfig, task: Source, mesh: Mesh | None = None, start: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """What is saved beside the weights of the run `config` on `mesh`; JSON values. `start`: what it started from, see `sleepnet.lineage`."""
    where = {} if mesh is None else {**mesh.shape, "processes": jax.process_count(), "device": mesh.devices.flat[0].device_kind}
    made = {"tree_version": TREE_VERSION, "versions": versions(), "mesh": where, "config": to_dict(config), "task": {**task.spec(), "hash": task.spec_hash}}
    return json.loads(json.dumps({**made, "start": dict(start)} if start else made))


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections → dotted keys."""
    if isinstance(tree, dict) and (tree or not prefix):
        return {name: leaf for key, value in tree.items() for name, leaf in flat(value, f"{prefix}{key}.").items()}
    return {prefix[:-1]: tree}


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key → what it is in two configurations, where they differ; keys newer than one of them have their default there."""
    old, new = (flat(json.loads(json.dumps(completed(RunConfig, values)))) for values in (old, new))
    return {key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)}


def difference(old: dict[str, Any], new: dict[str, Any], taken: int = 0) -> str:
    """The first key in which two runs differ that changes what the first `taken` steps compute, or can be no more, "" without one."""
    found = changes(old, new)
    for key, (there, here) in found.items():
        if key != "train.steps" and not key.startswith(FREE):
            return f"{key} is {there!r} there and {here!r} here"
    there, here = found.get("train.steps", (taken, taken))
    if here < taken:
        return f"train.steps is {there} there and {here} here, where {taken} are taken"
    if there == here:
        return ""
    run = from_dict(RunConfig, new)
    if methods.of(run).every(run, tasks.get(run.task.name, **run.task.arguments)):  # rates rise and fall with each night, whatever the number of nights
        return ""
    same = optim.alike(run.optim, there, here)
    if same < taken:
        why = f"since step {same} the learning rate would be another (optim.decay), so a checkpoint of that step at most can go on"
        why = why if same else "the warm-up would be another from the first on (optim.warmup)"
        return f"train.steps is {there} there and {here} here, and {taken} are taken: {why}"
    return ""


def beside_a_run(folder: Path, read: Callable[[], T]) -> T:
    """`read()`, which takes the newest checkpoint of `folder`; again, where it failed while the run, which may be at work, saved and deleted some.

    Raises:
      UsageError: the run deletes them faster than they are read; what `read` raises where `folder` stayed as it was.
    """
    for _ in range(_TRIES):
        before = steps(folder)
        try:
            return read()
        except (OSError, Unusable, UsageError):
            if steps(folder) == before:
                raise
    raise UsageError(f"{folder}: its run deleted the newest checkpoint each of the {_TRIES} times that it was being read; wait for its end, or train with a larger train.keep")


def contents(folder: Path) -> Contents:
    """Reads a checkpoint without its weights.

    Raises:
      Unusable: a part is missing or truncated.
    """
    for item in ITEMS:
        if not (folder / item).is_dir():
            raise Unusable(f"incomplete (there is no {item}/ in it)")
    known, data, _ = _json(folder / METADATA), _json(folder / "data" / "metadata"), _json(folder / "state" / "_METADATA")
    metrics = _json(folder / "metrics" / "metrics") if (folder / "metrics").is_dir() else {}
    try:
        _read_index(folder / "state")
        tree = ocp.StandardCheckpointer().metadata(folder / "state").item_metadata.tree
    except Exception as error:  # of many kinds, for a damaged file
        raise Unusable(f"truncated or damaged (state/: {first_line(error)})") from error
    card = known.get("custom_metadata") or {}
    if not isinstance(card, dict) or card and not all(isinstance(card.get(key), kind) for key, kind in _CARD.items()):
        raise Unusable(f"truncated or damaged ({folder.name}/{METADATA}: its card needs {', '.join(_CARD)})")
    return Contents(card, data.get("next_index"), metrics, tree, known.get("init_timestamp_nsecs", 0) / 1e9)


def _spec(state: Path) -> dict[str, Any]:
    """Tensorstore's words for a checkpoint's folder `state`."""
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{state}/"}}


def _read_index(state: Path) -> None:
    """Reads where the arrays lie and their shapes, one at a time: where Orbax, which asks for all at once, is left with answers that nobody
    waits for any more, tensorstore writes a traceback for each."""
    if not (state / "manifest.ocdbt").is_file():
        raise FileNotFoundError("there is no manifest.ocdbt in it")
    store = tensorstore.KvStore.open(_spec(state)).result()
    for key in store.list().result():
        if key.endswith(b".zarray"):
            store.read(key).result()


def array(folder: Path, name: str) -> np.ndarray:
    """One array of a checkpoint, by its dotted name; raises as tensorstore does."""
    return tensorstore.open({"driver": "zarr", "kvstore": {**_spec(folder / "state"), "path": f"{name}/"}}).result().read().result()


def _json(path: Path) -> dict[str, Any]:
    try:
        return json_object(path)
    except (OSError, ValueError) as error:
        raise Unusable(f"truncated or damaged ({path.parent.name}/{path.name}: {first_line(error)})") from error



def check(found: Contents, mine: dict[str, Any], like: Any) -> None:
    """Sees that a checkpoint is one of this run's.

    Args:
      found: the checkpoint.
      mine: this run's own card; empty: any run's will do.
      like: the state that is to be read, a pytree of arrays or their shapes; what else the checkpoint holds may be anything.

    Raises:
      Unusable: another tree version, task, configuration, or other shapes.
    """
    if found.card and mine:
        if (version := found.card["tree_version"]) != mine["tree_version"]:
            raise Unusable(f"of tree version {version}, this package reads {mine['tree_version']} (sleepnet {found.card['versions'].get('sleepnet')} wrote it)")
        if found.card["task"].get("hash") != mine["task"]["hash"]:
            raise Unusable(f"of another task ({found.card['task'].get('name')} {str(found.card['task'].get('hash'))[:12]}, here {mine['task']['name']} {mine['task']['hash'][:12]})")
        try:
            key = difference(found.card["config"], mine["config"], found.step)
        except UsageError as error:
            raise Unusable(f"of a newer version, or damaged ({error}; sleepnet {found.card['versions'].get('sleepnet')} wrote it)") from error
        if key:
            raise Unusable(f"another run's ({key})")
        there, here = (each.get("start") or {} for each in (found.card, mine))
        for key in ("digest", "frozen"):
            if there.get(key) != here.get(key):
                raise Unusable(f"of a run that started from other parameters (sha256 {str(there.get(key))[:12]}, here {str(here.get(key))[:12]})")
    have = named(found.tree)
    for name, leaf in named(like).items():
        if name not in have:
            raise Unusable(f"another model's (it has no {name}){_other_versions(found, mine)}")
        if tuple(have[name].shape) != tuple(leaf.shape):
            raise Unusable(f"another model's ({name} is {tuple(have[name].shape)} there and {tuple(leaf.shape)} here)")


def _other_versions(found: Contents, mine: dict[str, Any]) -> str:
    old, new = found.card.get("versions", {}), mine.get("versions", {})
    changed = [f"{name} {old[name]}, here {new.get(name)}" for name in old if old[name] != new.get(name)]
    return f"; it was written with {'; '.join(changed)}" if changed and mine else ""


def named(tree: Any) -> dict[str, Any]:
    """Leaves by dotted name, the same for dataclasses, tuples and what Orbax makes of them."""
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
