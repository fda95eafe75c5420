"""Whether an opened model is the released one: logits beside torch's where it is installed, beside stored goldens of the family where it is not."""
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open

from sleepnet.hf import model as models, sources, workdir
from sleepnet.hf.plan import family_of, names
from sleepnet.models.hybrid import Hybrid

GOLDENS = Path(__file__).parent / "goldens"
BAR = 5e-5  # of the largest logit


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two arrays of logits: the largest, beside the largest logit, and the mean divergence of what they say, in nats."""

    largest: float
    logit: float
    nats: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether it is rounding."""
        return self.largest <= self.bar

    def __str__(self) -> str:
        return f"largest difference {self.largest:.2g} of logits up to {self.logit:.3g} (bar {self.bar:.2g}), KL {self.nats:.2g} nats"


def difference(ours: Any, theirs: Any, rounding: float = 0.0) -> Difference:
    """Between logits [B, T, V]; `rounding`: how far theirs are from float64's, of which three times are allowed where that is more than `BAR`."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    log = lambda x: x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
    nats = (np.exp(log(other)) * (log(other) - log(one))).sum(-1).mean()
    most = float(np.abs(other).max())
    return Difference(float(np.abs(one - other).max()), most, float(nats), max(BAR * most, 3 * rounding))


def logits_of(model: Hybrid, tokens: np.ndarray) -> jax.Array:
    """Of whole sequences, each in one window."""
    graph, params = nnx.split(model, nnx.Param)
    return jax.jit(lambda params, tokens: nnx.merge(graph, params).forward(tokens, predicts=(True,)))(params, jnp.asarray(tokens, jnp.int32))


def stepped(model: Hybrid, tokens: np.ndarray, size: int = 1) -> tuple[np.ndarray, Any]:
    """Logits and state of the same, `size` tokens at a time."""
    graph, params = nnx.split(model, nnx.Param)
    wake = jax.jit(lambda params, tokens, state: nnx.merge(graph, params).wake(tokens, state))
    state, told = model.init_state(len(tokens)), []
    for start in range(0, tokens.shape[1], size):
        logits, state = wake(params, jnp.asarray(tokens[:, start:start + size], jnp.int32), state)
        told.append(np.asarray(logits))
    return np.concatenate(told, axis=1), state


def golden(kind: str) -> Difference:
    """Of a family's tiny model that is kept here with the logits that torch gave."""
    folder = GOLDENS / kind
    with safe_open(folder / "golden.safetensors", framework="numpy") as file:
        tokens, logits, told = file.get_tensor("tokens"), file.get_tensor("logits"), file.metadata()
    model, _ = models.load(folder, window=tokens.shape[1])
    return difference(logits_of(model, tokens), logits, float(told["from_float64"]))


def families() -> list[str]:
    """A table: of each family's tiny model, how far its logits are from torch's, and those from float64's."""
    rows = ["| `model_type` | largest logit | largest difference | torch from float64 | bar |", "|---|---|---|---|---|"]
    for kind in sorted(path.name for path in GOLDENS.iterdir() if path.is_dir()):
        with safe_open(GOLDENS / kind / "golden.safetensors", framework="numpy") as file:
            rounding = float(file.metadata()["from_float64"])
        found = golden(kind)
        rows.append(f"| `{kind}` | {found.logit:.1f} | {found.largest:.1e} | {rounding:.1e} | {found.bar:.1e}{'' if found.passed else ', missed'} |")
    return rows


def has_torch() -> bool:
    """Whether torch and transformers are installed; neither is imported."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def torch_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """What transformers gives in float32, from the folder alone; code that comes with a model is not run."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.as_tensor(tokens).long()).logits.numpy()


def check(folder: str | Path, tokens: int = 64, seed: int = 0) -> tuple[list[str], bool]:
    """What was found, in lines, and whether all of it is rounding.

    Args:
      folder: a model's, or what `import` has written.
      tokens: of each of two random sequences.
      seed: of theirs.
    """
    path, imported = sources.place(folder), workdir.is_one(folder)
    kind = workdir.record(folder)["family"] if imported else family_of(sources.opened(folder))[0]
    model, _ = models.load(folder, window=tokens)
    first = Path(workdir.record(folder)["source"]) if imported and model.config.weights_dtype == "float32" else path  # still there, it says what the import must
    drawn = np.random.default_rng(seed).integers(0, model.config.vocab_size, (2, tokens)).astype(np.int32)
    whole, lines, good = logits_of(model, drawn), [], True
    if has_torch() and first.is_dir() and not workdir.is_one(first) and not names()[kind].note:
        found = difference(whole, torch_logits(first, drawn))
        lines, good = [f"beside transformers: {found}"], found.passed
    elif (GOLDENS / kind).is_dir():
        found = golden(kind)
        why = "the family loops" if names()[kind].note else "give the folder of safetensors that it came from" if has_torch() else "torch or transformers is not installed"
        lines, good = [f"{why}: the family's golden, {found}"], found.passed
    else:
        lines = [f"no golden of {kind} is kept, and torch or transformers is not installed: its logits were not compared"]
    if model.config.sleep.predict_passes > 1:
        return [*lines, "it loops where it predicts: there is no token by token to compare"], good
    logits, state = stepped(model, drawn)
    apart = difference(logits, whole)
    _, chunked = stepped(model, drawn, tokens)
    lines.append(f"token by token beside all at once: {apart}")
    layers = list(zip(state.window.fast_weights.layers, chunked.window.fast_weights.layers, strict=True))
    if layers:
        worst = max(float(jnp.max(jnp.abs(one - other))) for one, other in layers)
        most = max(float(jnp.max(jnp.abs(one))) for one, _ in layers)
        lines.append(f"fast weights of {len(layers)} blocks, likewise: largest difference {worst:.2g} of up to {most:.3g}")
        good &= worst <= 10 * BAR * max(most, 1.0)
    return lines, good and apart.largest <= 3 * apart.bar
