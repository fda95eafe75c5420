"""Skills, one after the other: sparse shared and unique experts against the usual ways not to forget (after the abstract of arXiv 2606.07500): see seta.md beside this file.

A base learns five other rules, all at once, and so what an example is. Then it learns the rules of a stream, each of which agrees with the one before in `overlap` of eight entries, one a
day, and after each day is asked for all. The base is one run for all seeds, which draw orders of examples, random masks and what the gate remembers.

The base:        python -m sleepnet.train --config=experiments/seeds/seta.py:base --workdir=runs/skills_base
Four of eight:   python -m sleepnet.study --config=experiments/seeds/seta.py
Another overlap: python -m sleepnet.study --config=experiments/seeds/seta.py:0, …:2, …:6, …:7, …:8
Hardware:        one CPU core
Score:           see seta.md
"""
import dataclasses

import ml_collections

from sleepnet import build, methods, presets, tasks
from sleepnet.config import SparseConfig, parse
from sleepnet.errors import UsageError
from sleepnet.study import spec
from sleepnet.tasks.skills.task import NAMED

DAYS = {0: 2, 2: 5, 4: 5, 6: 5, 7: 5, 8: 5}  # overlap → days; only two tables share nothing in turn
STEPS, BATCH, SURVEY, RATE = 300, 16, 640, 3e-3  # of a day; the survey in examples
START = "runs/skills_base"
NAMES = r"mlp\.(gate|up|down)\.kernel|mixer\.(q|v)\.kernel"
DENSE = {"adapters.kind": "named", "adapters.names": NAMES, "method.name": "tuned", "method.arguments": {}}

# name → (what it is, arguments of seta, other overrides)
SETA = {
    "seta": ("shared and unique entries, anchor, router term, one gate", {}, {}),
    "no_anchor": ("nothing holds shared entries", {"anchor": 0.0}, {}),
    "no_router": ("nothing holds the gate", {"router": 0.0}, {}),
    "random_mask": ("as many entries, drawn at random", {"utility": "random"}, {}),
    "all_shared": ("all entries shared", {"split": "all_shared"}, {}),
    "all_unique": ("no entry shared", {"split": "all_unique"}, {}),
    "uniform_gate": ("all days' increments alike", {}, {"model.sparse.gate": "uniform"}),
    "oracle_id": ("the day is told", {}, {"model.sparse.gate": "told", "model.sparse.told_from": NAMED, "task.arguments.tells": True}),
    "sequential": ("the same entries, all shared, nothing held", {"split": "all_shared", "anchor": 0.0}, {}),
    "ewc": ("all entries of the same matrices, anchored", {"top": 1.0, "split": "all_shared", "adaptive": False}, {}),
}
# name → (what it is, overrides)
TUNED = {
    "tuned": ("all entries of the same matrices, nothing held", {}),
    "replay_1": ("the same, 1 % of the examples of days before", {"task.arguments.replay": 1}),
    "replay_10": ("the same, 10 %", {"task.arguments.replay": 10}),
    "joint": ("the same, all days taking turns", {"task.arguments.order": "mixed"}),
    "lora": ("a LoRA a day, of which the day is told: read its diagonal", {"adapters.kind": "low_rank", "adapters.rank": 4, "method.arguments.fresh": True}),
}
# of TUNED, those that live longer days, too: as many FLOPs as `seta`, whose survey, gate and F cost something
MATCHED = ("tuned", "replay_10", "joint")


def get_config(which: str = "4") -> ml_collections.ConfigDict:
    """The study of an overlap, 0 to 8; or the run that is the base of all."""
    if which == "base":
        return _base()
    if which not in map(str, DAYS):
        raise UsageError(f"seta.py:{which} is not one of base, {', '.join(map(str, DAYS))}")
    overlap, days = int(which), DAYS[int(which)]
    stream = {"kind": "stream", "days": days, "overlap": overlap, "per_day": STEPS * BATCH}
    config = spec.default()
    config.title = f"{days} skills, each sharing {overlap} of 8 entries with the one before"
    config.question = "Do sparse shared and unique experts keep what was learnt before, with one gate and no task's name?"
    config.base = _base()
    config.base.task.arguments = {}  # a phase's arguments are laid over these
    each = 64 * days
    longer = _matched_steps(days)
    life = {
        "task.arguments": stream, "train.steps": days * STEPS, "train.batch_size": BATCH, "train.first_example": 0, "train.eval_every": STEPS, "train.eval_examples": each,
        "train.save_every": days * STEPS, "train.log_every": STEPS, "eval.examples": 4 * each, "optim.adam_rate": RATE, "optim.warmup": 0, "optim.decay": 0.3,
    }  # fmt: skip
    if days < max(DAYS.values()):  # the base has a word for each of its days
        life["model.vocab_size"] = build.fit(parse(_base()).model, tasks.get("skills", kind="stream", days=max(DAYS.values()))).vocab_size
    sparse = lambda arguments, more: {"adapters.kind": "sparse", "model.sparse.count": days, "method.name": "seta", "method.arguments": {"survey": SURVEY, **arguments}, **more}
    arms = {name: (label, sparse(arguments, more)) for name, (label, arguments, more) in SETA.items()} | {name: (label, {**DENSE, **more}) for name, (label, more) in TUNED.items()}
    made = [dict(name=name, label=label, phases=[dict(name="life", start=START, overrides={**life, **more})]) for name, (label, more) in arms.items()]
    more_steps = {"task.arguments": {**stream, "per_day": longer * BATCH}, "train.steps": days * longer, "train.eval_every": longer, "train.save_every": days * longer, "train.log_every": longer}
    made += [
        dict(name=f"{name}_matched", label=f"{TUNED[name][0]}; days of {longer} steps, as many FLOPs as seta",
             phases=[dict(name="longer_life", start=START, overrides={**life, **more_steps, **DENSE, **TUNED[name][1]})])
        for name in MATCHED
    ]
    config.arms, config.reference, config.seeds = made, "seta", (0, 1, 2)
    return config


def _matched_steps(days: int) -> int:
    """Steps of a day of `tuned` that cost what those of `seta` do."""
    task = tasks.get("skills", kind="stream", days=days, per_day=STEPS * BATCH)
    plain = build.fit(parse(_base()).model, task)
    sparse = dataclasses.replace(plain, sparse=SparseConfig(count=days))
    cost = lambda model, name, **arguments: methods.get(name, **arguments).flops(model, task, plain.sleep.passes)
    return round(STEPS * cost(sparse, "seta", survey=SURVEY) / cost(plain, "tuned"))


def _base() -> ml_collections.ConfigDict:
    days = max(DAYS.values())
    config = presets.cpu_size("skills", {"kind": "stream", "days": days, "content": 1, "order": "mixed"}, steps=600, batch_size=32)
    config.model.pattern = "AA"
    config.model.sleep.passes = 1
    config.train.update(log_every=100, eval_every=100, save_every=300)
    config.eval.examples = 512
    config.phase = "base"
    return config
