"""Runs that began with a released model: spoken with, and written back, as what was imported is."""
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from sleepnet import checkpoint, lineage, origin, paths, released
from sleepnet.errors import UsageError
from sleepnet.hf import tokens, workdir
from sleepnet.models.hybrid import Hybrid


def is_run(folder: str | Path) -> bool:
    """Whether it is the folder of a run."""
    return (paths.plain(folder, "folder") / "task.json").is_file()


def began_with(run: Path) -> Path | None:
    """The folder of the released model that a run's past begins with; None where it begins with something else, or that folder is gone."""
    found = next((Path(link["folder"]) for link in lineage.read(run).get("chain", ()) if link.get("folder")), None)
    return found if found is not None and released.is_one(found) else None


def tokenizer_of(folder: Path) -> tuple[str, str] | None:
    """(name, sha256) of the tokenizer of an imported model, or of what a run reads or began with; None where nobody knows."""
    if is_run(folder):
        _, task = checkpoint.read_claim(folder)
        if (corpus := getattr(task, "corpus", None)) is not None:
            return corpus.tokenizer["name"], corpus.tokenizer["sha256"]
    before = began_with(folder) if is_run(folder) else folder if released.is_one(folder) else None
    return None if before is None else tokens.told_of(before)


def opened(run: str | Path) -> tuple[Hybrid, Any, Path]:
    """(model of a run's newest checkpoint, tokenizer, the folder that was imported).

    Raises:
      UsageError: the run did not begin with a released model, or that is gone.
    """
    before = began_with(paths.plain(run, "folder"))
    if before is None:
        raise UsageError(f"{run} is a run that did not begin with a released model, or that model's folder is gone: python -m sleepnet.eval and python -m sleepnet.memory read it")
    model = checkpoint.load_model(run).model
    return model, tokens.tokenizer_of(before, model.config.vocab_size), before


def export(run: str | Path, out: str | Path) -> list[str]:
    """`sleepnet.hf.workdir.export` of a run: what it has learnt, in the names and dtypes of the model that it began with.

    Raises:
      UsageError: as `opened` and `workdir.put_back`.
    """
    model, _, before = opened(run)
    held = origin.named(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))
    return workdir.put_back(before, model.config, lambda names: ((name, np.asarray(held[name])) for name in names), out)
