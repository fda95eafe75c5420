"""Which tensor of a folder becomes which parameter: settled, and refused, from headers alone, before any number is read."""
import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sleepnet import registry
from sleepnet.config import ModelConfig, from_dict
from sleepnet.errors import UsageError, nearest
from sleepnet.hf import families, insertion
from sleepnet.hf.folder import PREFIX, PUT_IN, Folder
from sleepnet.hf.rows import SAME, TRANSPOSED, Family, Row
from sleepnet.hf.values import Values
from sleepnet.models.hybrid import Hybrid

WINDOW = 512  # tokens, unless a person says so
# what other families would need
_LACKING = {
    "moe": "mixtures of experts", "deepseek": "latent attention and mixtures of experts", "kimi": "latent attention and mixtures of experts",
    "mamba": "Mamba-2 blocks", "granitemoehybrid": "Mamba-2 blocks", "bamba": "Mamba-2 blocks", "falcon_h1": "Mamba-2 blocks", "nemotron_h": "Mamba-2 blocks",
    "zamba": "Mamba-2 blocks", "jet": "dynamic convolutions with a bias", "gemma": "soft-capped logits and scaled embeddings", "mistral": "sliding windows",
    "rwkv": "the generalised delta rule", "qwen3_next": "mixtures of experts", "gpt2": "learned positions of a whole sequence and LayerNorm",
}
OWN = {"loop_gain"}  # a parameter of the loop, which no released model has


@dataclasses.dataclass(frozen=True)
class Item:
    """One row, applied: full names of its tensors there and of its parameters here."""

    row: Row
    theirs: tuple[str, ...]
    ours: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a folder becomes a model.

    Attributes:
      kind: its `model_type`.
      family: its table.
      config: the model.
      shapes: of our parameters, by dotted name.
      items: rows, each tensor and each parameter in exactly one.
      left_out: (tensor, what it is) that nobody reads.
      own: parameters that keep their first values.
    """

    kind: str
    family: Family
    config: ModelConfig
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    items: tuple[Item, ...]
    left_out: tuple[tuple[str, str], ...]
    own: tuple[str, ...]


def names() -> dict[str, Family]:
    """model_type → family, of every file in `sleepnet.hf.families`."""
    found = {}
    for name, loaded in registry.modules(families.__name__, Path(families.__path__[0])).items():
        found |= {name: loaded.FAMILY} if hasattr(loaded, "FAMILY") else {}
        found |= {f"{name}_text": loaded.TEXT} if hasattr(loaded, "TEXT") else {}
    return found


def family_of(folder: Folder) -> tuple[str, Family]:
    """(model_type, family) of a folder.

    Raises:
      UsageError: it has none, or one that is not built here; says what it would need where that is known.
    """
    kind = folder.config.get("model_type")
    known = names()
    if not isinstance(kind, str):
        raise UsageError(f"{folder.described}: model_type is missing; known: {', '.join(sorted(known))}")
    if kind in known:
        return kind, known[kind]
    if part := max((part for part in _LACKING if part in kind), key=len, default=""):
        raise UsageError(f"{folder.described}: model_type={kind!r} is not supported; it needs {_LACKING[part]}, which are not built here; supported: {', '.join(sorted(known))}")
    raise UsageError(f"{folder.described}: model_type={kind!r} is not supported{nearest(kind, known)}")


def config_of(folder: Folder, family: Family, changes: Mapping[str, Any], tied: bool | None = None, insert: str = "") -> ModelConfig:
    """The model that a folder's config.json describes, with some keys changed and blocks put in; `tied` overrules what it says of the head.

    Raises:
      UsageError: a key that is missing, or that asks for what is not built here.
    """
    where, top = str(folder.described), folder.config
    section = top.get(family.section, top) if family.section else top
    if not isinstance(section, dict):
        raise UsageError(f"{where}: {family.section} must be a section")
    said = {level["tie_word_embeddings"] for level in (top, section) if isinstance(level.get("tie_word_embeddings"), bool)}
    if tied is None and len(said) > 1:
        raise UsageError(f"{where}: tie_word_embeddings is True on one level and False on the other: say which with --tied or --untied")
    section = {**section, "tie_word_embeddings": tied if tied is not None else True in said}
    values = {"window": WINDOW, **family.model(Values(section, where))}
    if insert and folder.put_in:
        raise UsageError(f"{folder.path} has blocks put in already, in {PUT_IN}: leave --insert out, or take that file away")
    values = insertion.inserted(values, insert) if insert else values
    return from_dict(ModelConfig, changed(values, folder.put_in, changes), "model.")


def changed(values: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ModelConfig with others in their place, `sleep` as a mapping. Convolutions remember across windows wherever no KV entries are lost there, or there are
    none, as the released models' do; unless `sleep.keep_tails` says something, or nothing is changed that it hangs on."""
    made = dict(values)
    for key, value in (item for change in changes for item in change.items()):
        made[key] = {**made.get(key, {}), **value} if isinstance(value, Mapping) else value
    asked = {key for change in changes if isinstance(change.get("sleep"), Mapping) for key in change["sleep"]}
    if not isinstance(sleep := made.get("sleep", {}), Mapping) or "keep_tails" in asked or "keep_tails" in sleep and "eviction" not in asked:
        return made
    pattern = str(made.get("pattern"))
    keeps = "G" in pattern and ("A" not in pattern or sleep.get("eviction", "hard") != "hard")
    return {**made, "sleep": {**sleep, "keep_tails": keeps}}


def shapes_of(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Our parameters, by dotted name, without making them."""
    tree = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: Hybrid(config, nnx.Rngs(0))), nnx.Param)[1])
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def spelled(
    family: Family, config: ModelConfig, shapes: Mapping[str, jax.ShapeDtypeStruct], theirs: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Item, ...]:
    """The family's rows for this model; of several spellings the one that `theirs` has, the first where it has none, or where it is None.

    Args:
      family, config: what is spelled.
      shapes: of our parameters; a row of others is left out.
      theirs: name → shape of the tensors in a folder, or of those that one had.
    """
    ours, there = shapes.keys(), {} if theirs is None else theirs
    prefix = next((each for each in family.prefixes if any(name.startswith(each) for name in there)), family.prefixes[0])
    theirs_at = [index for index in range(len(config.pattern)) if index not in config.no_mlp]  # blocks that were put in are ours alone
    blocks = [(f"layers.{i}.", f"blocks.{index}.", family.blocks[config.pattern[index]]) for i, index in enumerate(theirs_at)]
    head = (Item(Row("lm_head.weight", "head.kernel", TRANSPOSED), ("lm_head.weight",), ("head.kernel",)),)
    items = []
    for before, here, rows in (("", "", family.ends), *blocks):
        for choice in rows:
            spellings = choice if isinstance(choice, tuple) else (choice,)
            applied = [Item(row, *(tuple(at + name for name in each) for at, each in zip((prefix + before, here), row.names))) for row in spellings]
            if not ours >= set(applied[0].ours):
                continue
            whole = [each for each in applied if there.keys() >= set(each.theirs)]
            fitting = [each for each in whole if len(whole) > 1 and all(there[name] == shape for name, shape in theirs_of(config, shapes, each).items())]
            items.append((fitting or whole or applied)[0])
    put_in = [name for name in ours if insertion.within(config, name)] if any(name.startswith(PREFIX) for name in there) else []
    items += [Item(Row(name, name, SAME), (PREFIX + name,), (name,)) for name in put_in]
    return tuple(items) + tuple(item for item in head if ours >= set(item.ours))


def theirs_of(config: ModelConfig, shapes: Mapping[str, jax.ShapeDtypeStruct], item: Item) -> dict[str, tuple[int, ...]]:
    """Name → shape that a row's tensors must have there."""
    blank = [np.broadcast_to(np.int8(0), shapes[name].shape) for name in item.ours]
    return {name: array.shape for name, array in zip(item.theirs, item.row.layout.theirs(config, blank), strict=True)}


def _tied_twice(folder: Folder, config: ModelConfig, left: list[str]) -> list[tuple[str, str]]:
    """A tied model's head, where the folder has it all the same."""
    return [("lm_head.weight", "the embedding once more")] if config.tied and "lm_head.weight" in left else []


def make(folder: Folder, changes: Mapping[str, Any] | None = None, tied: bool | None = None, insert: str = "") -> Plan:
    """How this folder becomes a model.

    Args:
      folder: with its headers read.
      changes: keys of ModelConfig that shall be others, `sleep` as a mapping.
      tied: whether the head is the embedding; None: as config.json says.
      insert: blocks to put in, see `sleepnet.hf.insertion`.

    Raises:
      UsageError: the family is not built here, the configuration asks for what is not, or a tensor is missing, left over or of another shape: names it.
    """
    kind, family = family_of(folder)
    config = config_of(folder, family, changes or {}, tied, insert)
    shapes = shapes_of(config)
    items = spelled(family, config, shapes, folder.shapes)
    for item in items:
        for name in item.theirs:
            if name not in folder.shapes:
                raise UsageError(f"{folder.path}: tensor {name} is missing{_why(name)}")
    read = {name for item in items for name in item.theirs}
    left = sorted(folder.shapes.keys() - read)
    told = _tied_twice(folder, config, left)
    for name in left:
        what = next((what for pattern, what in family.left_out if re.search(pattern, name)), None)
        if what is None and (name, "the embedding once more") not in told:
            raise UsageError(f"{folder.path}: tensor {name} belongs to no part of a {kind} model here: another family's, or a changed one; nothing is dropped in silence")
        told += [] if what is None else [(name, what)]
    filled = [name for item in items for name in item.ours]
    own = tuple(sorted(shapes.keys() - set(filled)))
    if foreign := {name for name in own if name not in OWN and not insertion.within(config, name)}:
        raise UsageError(f"{folder.path}: the configuration asks for {min(foreign)}, which a {kind} model does not have: drop what was changed in model.*")
    _check_shapes(folder, config, shapes, items)
    return Plan(kind, family, config, shapes, items, tuple(told), own)


def _why(name: str) -> str:
    if name == "lm_head.weight":
        return ", and config.json does not say that the head is the embedding: give the tensor, or --tied where it is"
    return ": the file is not whole, or config.json is of another model"


def _check_shapes(folder: Folder, config: ModelConfig, shapes: Mapping[str, jax.ShapeDtypeStruct], items: Iterable[Item]) -> None:
    for item in items:
        for name, wanted in theirs_of(config, shapes, item).items():
            if folder.shapes[name] != wanted:
                raise UsageError(f"{folder.path}: tensor {name} has shape {list(folder.shapes[name])}, config.json asks for {list(wanted)}")
