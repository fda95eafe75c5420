"""A tiny model of random weights in a released family's names and layout, over bytes: something to try the commands with."""
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from sleepnet.errors import UsageError, nearest
from sleepnet.files import write_json
from sleepnet.hf import plan as plans, workdir
from sleepnet.hf.check import GOLDENS
from sleepnet.hf.folder import Folder
from sleepnet.hf.model import fresh
from sleepnet.hf.tokens import BYTES


def kinds() -> list[str]:
    """Families that one can be made of."""
    return sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())


def make(out: str | Path, kind: str = "qwen3_5_text", seed: int = 0) -> Path:
    """Writes config.json and model.safetensors: the family's golden, with a vocabulary of bytes and other weights.

    Raises:
      UsageError: no such family, or `out` is not empty.
    """
    if kind not in kinds():
        raise UsageError(f"family={kind!r} has no tiny model{nearest(kind, kinds())}")
    source = Folder(GOLDENS / kind)
    source.config = {**source.config, "vocab_size": BYTES, "eos_token_id": None}
    family = plans.family_of(source)[1]
    config = plans.config_of(source, family, {})
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.split(fresh(config, seed), nnx.Param)[1]))
    values = ((jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(leaf)) for path, leaf in leaves)
    with workdir.filling(out) as part:
        write_json(part / "config.json", source.config)
        workdir.save(part, workdir.theirs(family, config, values, None))
    return Path(out)
