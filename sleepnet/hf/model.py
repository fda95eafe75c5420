"""A folder read into a model: one tensor at a time, each placed on its shard and let go."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from sleepnet import seeds, sharding
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.hf import insertion, plan as plans, sources, workdir
from sleepnet.hf.folder import Folder
from sleepnet.hf.tokens import tokenizer_of
from sleepnet.models.hybrid import Hybrid


def parameters(folder: Folder, plan: plans.Plan, like: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """(our name, value) of every parameter that the folder holds, or that was put in, in the dtype that the model keeps it in.

    Args:
      folder, plan: of the model.
      like: `attention` where blocks that are put in begin like the attention that they stand before, see `sleepnet.hf.insertion`.

    Raises:
      UsageError: a tensor that is not finite, a head that is said to be the embedding and is another, or what `insertion.beside` refuses.
    """
    wanted = {name for index in plan.config.no_mlp for name in insertion.beside(plan.config, index).values()} if like else ()
    kept = {}
    for item in plan.items:
        arrays = [folder.read(name) for name in item.theirs]
        if "lm_head.weight" in dict(plan.left_out) and item.ours == ("embedding",) and (folder.read("lm_head.weight") != arrays[0]).any():
            raise UsageError(f"{folder.path}: lm_head.weight is not the embedding, though config.json says so: give --untied")
        for name, value in zip(item.ours, item.row.layout.ours(plan.config, arrays), strict=True):
            value = np.ascontiguousarray(value).astype(plan.shapes[name].dtype, copy=False)
            kept |= {name: value} if name in wanted else {}
            yield name, value
    for name, value in insertion.first_values(plan.config, kept if like else None) if not folder.put_in else ():
        yield name, value.astype(plan.shapes[name].dtype, copy=False)


def built(config: ModelConfig, values: Iterator[tuple[str, np.ndarray]], mesh: Mesh | None = None) -> Hybrid:
    """A model of these parameters, by dotted name; the gain of the loop, where it is not among them, has its first value."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Hybrid(config, nnx.Rngs(0))), nnx.Param)
    place = lambda name, value: jax.device_put(value, NamedSharding(mesh, sharding.spec_of(name, value.shape, mesh))) if mesh else jnp.asarray(value)
    held = {name: place(name, value) for name, value in values}
    leaves, tree = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    gain = lambda leaf: jnp.full(leaf.shape, config.loop_gain, leaf.dtype)  # all that `plan.make` lets a model have of its own
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, [held[name] if name in held else gain(leaf) for name, leaf in named]))


def load(
    folder: str | Path, *, dtype: str | None = None, activations: str = "float32", window: int | None = None, sleep: Mapping[str, Any] | None = None,
    tied: bool | None = None, insert: str = "", mesh: Mesh | None = None,
) -> tuple[Hybrid, Any]:
    """A released model from a local folder, as the Hugging Face hub has it or as `python -m sleepnet.hf import` has written it.

    Nothing is fetched, unpickled or run. Beyond `window` tokens the model sleeps: what it has to remember then is S, and attention alone has none.

    Args:
      folder: config.json and safetensors; or a GGUF file, or a name of `sources.PACKAGED`.
      dtype: of projections and embeddings, float32 or bfloat16; convolutions, decays and norms stay float32. Float32, or as imported, if None.
      activations: likewise. In bfloat16 answers of small models change.
      window: L; 512, or what was imported, if None.
      sleep: keys of SleepConfig that shall be others.
      tied: whether the head is the embedding; as config.json says if None.
      insert: fast-weight blocks to put in, such as "G:4,8,12", see `sleepnet.hf.insertion`; not into what was imported, which has its own.
      mesh: each parameter is put where `sleepnet.sharding` says.

    Returns:
      The model, and its tokenizer: `encode(text) → [ids]`, `decode(ids) → text`, see `sleepnet.hf.tokens`; None where the folder has none.

    Raises:
      UsageError: what the folder holds is not whole, or not a model that can be built here; names the key or tensor.
    """
    asked = {"weights_dtype": dtype, "dtype": activations, "window": window, "sleep": sleep}
    changes = {key: value for key, value in asked.items() if value is not None}
    if workdir.is_one(folder):
        if insert:
            raise UsageError(f"insert={insert!r}: {folder} was imported, and its blocks are settled; import it again with --insert={insert}")
        config, values = workdir.read(folder, changes)
    else:
        held = sources.opened(folder).headers()
        plan = plans.make(held, changes, tied, insert)
        config, values = plan.config, parameters(held, plan)
    return built(config, values, mesh), tokenizer_of(folder, config.vocab_size)


def fresh(config: ModelConfig, seed: int) -> Hybrid:
    """A model of random parameters, for something to try."""
    return Hybrid(config, seeds.rngs(seed))
