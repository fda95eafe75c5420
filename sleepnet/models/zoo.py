"""Named models: their configurations, and the ones that come trained with the package.

A trained model lies in `checkpoints/NAME/`: `weights.safetensors` (parameters by their path) and `card.json` (model, task with
its hash, the command that trained it, and its score). Loading never unpickles.
"""
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save as in_bytes

from sleepnet import seeds, tasks, trust
from sleepnet.config import ModelConfig, from_dict, to_dict
from sleepnet.errors import UsageError, nearest
from sleepnet.files import write_bytes, write_json
from sleepnet.models.hybrid import Hybrid
from sleepnet.tasks.base import Task

CHECKPOINTS = Path(__file__).parent / "checkpoints"

_PAPER = {"heads": 4, "head_dim": 64, "mlp_width": 768, "vocab_size": 4, "window": 24, "pattern": "AGAG", "width": 256, "sleep": {"passes": 4, "remat": True}}
_CPU = {"vocab_size": 128, "window": 32, "pattern": "AG"}
# name → what it is, and its configuration; heads, MLP and vocabulary are ours throughout
_SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper_rule110": ("Lee et al., arXiv 2605.26099, the model for Rule-110", _PAPER),
    "paper_depo": (
        "Lee et al., arXiv 2605.26099, the model for Depo",
        {**_PAPER, "vocab_size": 119, "window": 75, "pattern": "AG" * 5, "width": 512, "heads": 8, "mlp_width": 1536},
    ),
    "paper_looped": ("paper_rule110 that never sleeps and loops where it predicts", {**_PAPER, "sleep": {"passes": 1, "predict_passes": 4, "remat": True}}),
    "paper_transformer": ("paper_rule110's size, attention alone, the whole KV cache kept", {**_PAPER, "pattern": "AAAA", "sleep": {"passes": 1, "eviction": "none"}}),
    "paper_gdn": ("paper_rule110's size, Gated DeltaNet alone (Yang et al., arXiv 2412.06464)", {**_PAPER, "pattern": "GGGG", "sleep": {"passes": 1}}),
    "paper_samba": (
        "paper_rule110's size, fast weights before sliding-window attention, as Samba (Ren et al., arXiv 2406.07522) with GDN for Mamba",
        {**_PAPER, "pattern": "GAGA", "sleep": {"passes": 1, "eviction": "sliding"}},
    ),
    "cpu_hybrid": ("one attention and one fast-weight block", _CPU),
    "cpu_hybrid_deep": ("cpu_hybrid twice", {**_CPU, "pattern": "AGAG"}),
    "cpu_looped": ("cpu_hybrid that never sleeps and loops where it predicts", {**_CPU, "sleep": {"passes": 1, "predict_passes": 4}}),
    "cpu_transformer": ("attention alone, the KV cache emptied with every window", {**_CPU, "pattern": "AA"}),
    "cpu_full_cache": ("attention alone, the whole KV cache kept", {**_CPU, "pattern": "AA", "sleep": {"passes": 1, "eviction": "none"}}),
    "cpu_gdn": ("fast weights alone", {**_CPU, "pattern": "GG"}),
    "cpu_samba": ("fast weights before sliding-window attention", {**_CPU, "pattern": "GA", "sleep": {"passes": 1, "eviction": "sliding"}}),
}


def _card_path(name: str) -> Path:
    return CHECKPOINTS / name / "card.json"


def _trained() -> list[str]:
    return sorted(path.parent.name for path in CHECKPOINTS.glob("*/card.json"))


def names() -> list[str]:
    """Every model that `create` knows."""
    return sorted({*_SIZES, *_trained()})


def has_checkpoint(name: str) -> bool:
    """Whether the model comes trained.

    Raises:
      UsageError: no such model.
    """
    _known(name)
    return _card_path(name).exists()


def about(name: str) -> str:
    """What the model is, in a line.

    Raises:
      UsageError: no such model.
    """
    _known(name)
    if name in _SIZES:
        return _SIZES[name][0]
    values = json.loads(_card_path(name).read_text())
    steps = f" for {values['step']:,} steps" if "step" in values else ""
    return f"trained{steps} on {_task(values).title}"


def card(name: str) -> str:
    """How a trained model was made and what it scores, in a line."""
    values = json.loads(_card_path(name).read_text())
    arguments = ", ".join(f"{key}={value}" for key, value in values["task"]["arguments"].items())
    scores = ", ".join(f"{place.replace('all=None', 'all')} {score:.3f}" for place, score in values["exact_accuracy"].items())
    return f"by {values['made_with']}, on {values['task']['name']}({arguments}); exact {scores}"


def _task(card: dict[str, Any]) -> Task:
    return tasks.get(card["task"]["name"], **card["task"]["arguments"])


def _known(name: str) -> None:
    if name not in names():
        raise UsageError(f"unknown model {name!r}{nearest(name, names())}")


def _overridden(values: dict[str, Any], overrides: dict[str, Any]) -> ModelConfig:
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return from_dict(ModelConfig, values, "model.")


def config_of(name: str, **overrides: Any) -> ModelConfig:
    """The configuration of a model, with some of its keys changed; `sleep` takes a mapping.

    Raises:
      UsageError: no such model, or no such key.
    """
    _known(name)
    values = json.loads(_card_path(name).read_text())["model"] if _card_path(name).exists() else dict(_SIZES[name][1])
    trust.named(*overrides.values())
    with trust.reading(_card_path(name)):
        return _overridden(dict(values), overrides)


def create(name: str, seed: int = 0, **overrides: Any) -> Hybrid:
    """A model by name: trained where a checkpoint comes with it, else fresh from `seed`.

    Args:
      name: one of `names()`.
      seed: of fresh parameters, 0 … 2^64 − 1.
      **overrides: keys of ModelConfig. For a trained model only those that leave the parameters' shapes alone.

    Raises:
      UsageError: no such model or key, a seed that is none, or a trained model whose shapes the overrides change.
    """
    config = config_of(name, **overrides)
    make = lambda: Hybrid(config, seeds.rngs(seed))
    if not has_checkpoint(name):
        return make()
    graph, state = nnx.split(nnx.eval_shape(make), nnx.Param)
    saved = load_file(CHECKPOINTS / name / "weights.safetensors")
    flat, tree = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    fresh = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}
    for key in sorted(fresh.keys() | saved.keys()):
        have, want = (tuple(side[key].shape) if key in side else None for side in (saved, fresh))
        if have != want:
            raise UsageError(f"model {name} comes trained and its {key} has shape {have}, not {want}: drop the override, or use another model")
    return nnx.merge(graph, jax.tree.unflatten(tree, [jnp.asarray(saved[key]) for key in fresh]))


def load(name: str) -> tuple[Hybrid, Task]:
    """A trained model and the task it was trained on.

    Raises:
      UsageError: no such model, one that does not come trained, or a task that has changed since.
    """
    if not has_checkpoint(name):
        raise UsageError(f"model {name} does not come trained; these do: {', '.join(_trained()) or 'none'}. Train it, then use --workdir=DIR")
    values = json.loads(_card_path(name).read_text())
    spec, task = values["task"], _task(values)
    if task.spec_hash != spec["hash"]:
        raise UsageError(f"model {name} was trained on {spec}, which this package's {task.spec()} is no longer")
    return create(name), task


def save(name: str, model: Hybrid, task: Task, card: dict[str, Any], folder: Path | None = None) -> Path:
    """Writes a trained model where `create` and `load` find it; `card` says how it was made and what it scores."""
    folder = CHECKPOINTS if folder is None else folder
    flat, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))
    weights = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in flat}
    write_bytes(folder / name / "weights.safetensors", in_bytes(weights))
    write_json(folder / name / "card.json", {"model": to_dict(model.config), "task": {**task.spec(), "hash": task.spec_hash}, **card})
    return folder / name
