"""A life of twelve days, each night of which moves what the fast weights hold into a new expert (after arXiv 2606.03979): see days.md beside this file.

A base learns from fresh days what is told, asked, paraphrased, reversed and linked. Then it lives through a stream of its own: a day is read, the night
carries it over, and all days so far are asked for with no text at all.

The life:           python -m sleepnet.study --config=experiments/seeds/days.py
Forty days:         python -m sleepnet.study --config=experiments/seeds/days.py:forty
At a tenth of it:   python -m sleepnet.study --config=experiments/seeds/days.py:tiny
Hardware:           two CPU cores
Score:              not run yet
"""
import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec

KINDS = ("asked", "paraphrased", "reversed", "two_hop")
# which → (days, facts of one, steps of a night, its batch, rank of an expert)
SIZES = {"life": (12, 16, 100, 32, 8), "forty": (40, 16, 100, 32, 8), "tiny": (4, 6, 40, 16, 4)}

# name → (what it is, method's arguments, whether all nights share one expert)
ARMS = {
    "gkd": ("half the answers the student's own, forward KL", {}, False),
    "kd_off": ("all answers the teacher's", {"own": 0.0}, False),
    "kd_on": ("all answers the student's own", {"own": 1.0}, False),
    "reverse": ("reverse KL", {"beta": 1.0}, False),
    "jensen_shannon": ("Jensen–Shannon, half and half", {"beta": 0.5}, False),
    "fixed": ("one expert of all nights' rank, trained every night", {"grow": False}, True),
    "real_keys": ("asked by the true keys, not by its own dreams", {"prompts": "keys"}, False),
    "wrong_reference": ("a teacher that read another day", {"teacher": "another_day"}, False),
    "no_state": ("a teacher with S = 0", {"teacher": "nothing"}, False),
}


def get_config(which: str = "life") -> ml_collections.ConfigDict:
    """The study `which`: life, forty or tiny."""
    if which not in SIZES:
        raise UsageError(f"days.py:{which} is not one of {', '.join(SIZES)}")
    days, facts, steps, batch, rank = SIZES[which]
    fresh = {"days": 2, "facts": facts}
    stream = lambda told, **more: {"kind": "stream", "days": days, "facts": facts, "told": told, "per_day": steps * batch, **more}
    test = lambda name, count, task: dict(name=name, task={"arguments": task}, examples=count)
    each = 4 * facts * days
    base = dict(name="base", overrides={"task.arguments": fresh})
    config = spec.default()
    config.title = f"A life of {days} days"
    config.question = "Can a night carry what the fast weights hold of a day into slow ones, so that all days are known without text?"
    config.base = presets.cpu_size("days", fresh, steps=600 if which == "tiny" else 6000, batch_size=32)
    if which != "tiny":
        config.base.model.update(pattern="AGAG", width=128, heads=4, mlp_width=256)
    config.base.model.sleep.passes = 4
    config.base.train.update(save_every=500, eval_every=500, eval_examples=256)
    config.base.eval.examples = 1024

    def life(arguments: dict, shared: bool) -> dict:
        return dict(name="life", overrides={
            "task.arguments": stream("today"), "train.steps": days * steps, "train.batch_size": batch, "train.first_example": 0, "train.eval_every": steps,
            "train.eval_examples": each, "train.save_every": steps, "eval.examples": each, "adapters.kind": "newest_expert", "method.name": "seeding", "method.arguments": arguments,
            "model.experts.count": 1 if shared else days, "model.experts.rank": rank * (days if shared else 1), "model.experts.alpha": float(rank * (days if shared else 1)),
            "optim.adam_rate": 1e-3, "optim.warmup": 0, "optim.decay": 0.3,
        })  # fmt: skip

    full_cache = {"model.pattern": "A" * len(config.base.model.pattern), "model.sleep.eviction": "none", "model.sleep.passes": 1}
    config.arms = [
        *(dict(name=name, label=label, phases=[base, life(arguments, shared)]) for name, (label, arguments, shared) in ARMS.items()),
        dict(name="frozen", label="no night at all", phases=[base]),
        dict(name="context", label="a full cache of all that is told, no fast weights", phases=[base], overrides=full_cache),
    ]
    config.tests = [
        test("recall", each, stream("nothing")), *(test(f"recall_{kind}", facts * days, stream("nothing", asks=(kind,))) for kind in KINDS),
        test("today", each, stream("today")), test("all_told", 4 * days, stream("all")), test("skill", 1024, fresh),
    ]
    config.reference, config.seeds = "gkd", (0, 1, 2)
    return config
