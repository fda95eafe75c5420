"""A folder told from its config.json and its headers, or from config.json alone where there is nothing else: no weight is read."""
import math
from pathlib import Path

from sleepnet.hf import plan as plans, sources, tokens, workdir
from sleepnet.hf.folder import Folder
from sleepnet.models import drawing, flops
from sleepnet.config import ModelConfig, from_dict


def describe(folder: str | Path, window: int | None = None) -> list[str]:
    """Lines for a reader; raises UsageError as `sleepnet.hf.load` does, but for numbers that are not finite."""
    if workdir.is_one(folder):
        known = workdir.record(folder)
        config = from_dict(ModelConfig, {**known["model"], **({"window": window} if window else {})}, "model.")
        origin = ", ".join(f"{file['name']} (sha256 {file['sha256'][:12]})" for file in known["origin"])
        return [f"imported from {known['source']}: {plans.names()[known['family']].title}", f"of {origin}", "", drawing.draw(config), "", *_figures(config)]
    held, changes = sources.opened(folder), {"window": window} if window else {}
    if not held.has_weights():
        kind, family = plans.family_of(held)
        config = plans.config_of(held, family, changes)
        return [f"{kind}: {family.title}", "", drawing.draw(config), "", *_figures(config), f"{'note':14} of {held.described.name} alone: there are no weights in the folder"]
    plan = plans.make(held.headers(), changes)
    stored = sorted({held.dtypes[name] for item in plan.items for name in item.theirs})
    count = sum(math.prod(held.shapes[name]) for item in plan.items for name in item.theirs)
    lines = [
        f"{plan.kind}: {plan.family.title}", "", drawing.draw(plan.config), "", *_figures(plan.config),
        f"{'in the files':14} {count:,} values as {', '.join(stored)}, {len(held.files())} file{'s' if len(held.files()) > 1 else ''}",
        f"{'licence':14} {held.license() or 'not said: see the model card'}",
    ]
    for what in sorted({what for _, what in plan.left_out}):
        lines.append(f"{'left out':14} {sum(other == what for _, other in plan.left_out)} tensors: {what}")
    return lines + [f"{'note':14} {line}" for line in notes(held, plan)]


def notes(folder: Folder, plan: plans.Plan) -> list[str]:
    """What a person should know before it is used."""
    found = [plan.family.note] if plan.family.note else []
    if code := folder.remote_code():
        found.append(f"{', '.join(code)}: code that comes with the model is not run")
    if plan.config.vocab_size != tokens.BYTES and folder.beside("tokenizer.json") is None:
        found.append("no tokenizer.json, and none that could be made: token ids alone, in Python")
    if "G" not in plan.config.pattern:
        found.append(f"attention alone: what is beyond {plan.config.window} tokens is forgotten, a sleep keeps nothing")
    if plan.config.sleep.predict_passes == 1:
        found.append("it was trained for one pass: with more asleep its answers are out of distribution until it is trained so")
    return found


def _figures(config: ModelConfig) -> list[str]:
    told = {**drawing.figures(config), "vocabulary": f"{config.vocab_size:,}", "weights": f"{flops.parameters(config) * (2 if config.weights_dtype == 'bfloat16' else 4):,} bytes as {config.weights_dtype}"}
    return [f"{key:14} {value}" for key, value in told.items()]
