"""The goldens of released models as tests read them: opened once, copied with something else in them, compared bit for bit."""
import json

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import load_file, save_file

from sleepnet.hf import check, load
from sleepnet.hf.folder import Folder
from sleepnet.models.hybrid import Hybrid

KINDS = sorted(path.name for path in check.GOLDENS.iterdir())
WINDOW = 20  # the goldens' 12 tokens, and what is said after them


def named(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


class Opened:
    """A golden, its model, and one program for its logits."""

    def __init__(self, kind):
        self.golden = load_file(check.GOLDENS / kind / "golden.safetensors")
        self.model, _ = load(check.GOLDENS / kind, window=WINDOW)
        self.config = self.model.config
        self.graph, state = nnx.split(self.model, nnx.Param)
        self.tree = jax.tree.structure(state)
        self.params, self.names = state, named(nnx.to_pure_dict(state))
        self.run = jax.jit(lambda params: nnx.merge(self.graph, params).forward(jnp.asarray(self.golden["tokens"]), predicts=(True,)))

    def broken(self, **changes):
        """What is left of the difference's bar with these parameters, by name, in their place."""
        logits = self.run(jax.tree.unflatten(self.tree, [changes.get(name, leaf) for name, leaf in self.names.items()]))
        return check.difference(logits, self.golden["logits"])

    def with_config(self, **changes):
        """… with the same parameters in a model that is configured otherwise."""
        graph = nnx.split(nnx.eval_shape(lambda: Hybrid(type(self.config)(**{**vars(self.config), **changes}), nnx.Rngs(0))), nnx.Param)[0]
        logits = jax.jit(lambda params: nnx.merge(graph, params).forward(jnp.asarray(self.golden["tokens"]), predicts=(True,)))(self.params)
        return check.difference(logits, self.golden["logits"])


_OPENED = {}


def opened(kind):
    return _OPENED.setdefault(kind, None) or _OPENED.__setitem__(kind, Opened(kind)) or _OPENED[kind]


def tensors(folder):
    held = Folder(folder).headers()
    return {name: held.read(name) for name in held.shapes}


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape and one[name].tobytes() == other[name].tobytes(), name


def copied(kind, folder, change=None, config=None):
    """A golden with other tensors or another config.json."""
    folder.mkdir()
    held = tensors(check.GOLDENS / kind)
    known = json.loads((check.GOLDENS / kind / "config.json").read_text())
    save_file(change(held) or held if change else held, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(known) or known if config else known))
    return folder


def told(**values):
    return lambda known: {**known, **values}
