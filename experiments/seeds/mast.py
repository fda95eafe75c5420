"""MAST (arXiv 2606.19222) at small size, a reconstruction: forgetting what rewards brought by touching few tensors; see mast.md beside this file for what is asked and what was found.

A policy learns from sparse rewards, behind the base of exprl.py. Then each arm forgets, on the policy's own right chains, what rewards brought: totals of all containers in a place,
of which the base was never shown one. Each may touch other tensors. Other problems of two operations are near, those of one, which the base knew, are far. Strengths are steps of a rate
that rises throughout: greedy answers are looked at before the first and behind every `LOOK`, eight times. Arms called revert read no text: weights are drawn back to where rewards found them.

The base:   python -m sleepnet.train --config=experiments/seeds/exprl.py:base --workdir=runs/exprl_base
The study:  python -m sleepnet.study --config=experiments/seeds/mast.py
Curves:     python -m sleepnet.eval.unlearning --outcomes=runs/mast
Increments: python -m sleepnet.eval.increments --before=runs/exprl_base --after=runs/mast/rl/seed0/train --beside=runs/mast/sft/seed0/train
Hardware:   two CPU cores, a core a run
"""
import runpy
from pathlib import Path

import ml_collections

from sleepnet.study import spec

EXPRL = runpy.run_path(str(Path(__file__).with_name("exprl.py")))
START = EXPRL["START"]
PROMPTS, RL_STEPS, STEPS, LOOK, EXAMPLES, LOOKED = 16, 120, 32, 4, 384, 1024
FORGET = ("containers",)
THINGS = ("jars", "bags", "crates", "baskets", "barrels", "buckets", "drawers", "trunks")
SLOWLY = ("revert_all", "revert_both")
KEPT = {"retain": THINGS, "retain_weight": 1.0}
PROJECTIONS = r"\.mixer\.(q|k|v|out)\.kernel"
heads = lambda score, share, **arguments: ({"adapters.kind": "heads", "adapters.names": PROJECTIONS, "adapters.share": share}, {"score": score, **arguments})
# name → (what it is, what may change, the method's arguments)
ARMS = {
    "mast": ("the quarter of the heads' slices that MAST scores highest", *heads("mast", 0.25)),
    "magnitude": ("the quarter that rewards changed most", *heads("magnitude", 0.25)),
    "coupling": ("the quarter most coupled with forgetting", *heads("coupling", 0.25)),
    "off_principal": ("the quarter whose increment lies most off the principal directions", *heads("off_principal", 0.25)),
    "bottom": ("the quarter that MAST scores lowest", *heads("bottom", 0.25)),
    **{f"random_mask{'' if not pick else pick + 1}": (f"a quarter drawn at random, number {pick}", *heads("random", 0.25, pick=pick)) for pick in range(3)},
    "mast86": ("the .86 that MAST scores highest", *heads("mast", 0.86)),
    "random_mask86": ("a share of .86 drawn at random", *heads("random", 0.86)),
    "retain": ("the quarter that MAST scores highest, shown right chains of the rest, too", *heads("mast", 0.25, **KEPT)),
    "retain_more": ("the quarter that MAST scores highest, shown right chains of the rest, too, weighed 32 times", *heads("mast", 0.25, **{**KEPT, "retain_weight": 32.0})),
    "random_retain_more": ("a quarter drawn at random, shown right chains of the rest, too, weighed 32 times", *heads("random", 0.25, **{**KEPT, "retain_weight": 32.0})),
    "attention_all": ("all projections of the mixers", {"adapters.kind": "named", "adapters.names": PROJECTIONS}, {}),
    "mlp_only": ("the MLPs", {"adapters.kind": "named", "adapters.names": r"\.mlp\."}, {}),
    "full": ("all parameters", {}, {}),
    "swapped": ("all parameters, the rest to be forgotten instead: what is lost of totals", {}, {"forget": THINGS, "least": 0}),
    "full_retain": ("all parameters, shown right chains of the rest, too", {}, KEPT),
    "full_retain_more": ("all parameters, shown right chains of the rest, too, weighed 32 times", {}, {**KEPT, "retain_weight": 32.0}),
    "revert": ("the quarter that MAST scores highest, drawn back to where rewards found it", *heads("mast", 0.25)),
    "revert86": ("the .86 that MAST scores highest, drawn back", *heads("mast", 0.86)),
    "revert_attention": ("all projections of the mixers, drawn back", {"adapters.kind": "named", "adapters.names": PROJECTIONS}, {}),
    "revert_mlp": ("the MLPs, drawn back", {"adapters.kind": "named", "adapters.names": r"\.mlp\."}, {}),
    "revert_both": ("these projections and the MLPs, drawn back", {"adapters.kind": "named", "adapters.names": rf"{PROJECTIONS}|\.mlp\."}, {}),
    "revert_rest": ("all but these, drawn back", {"adapters.kind": "named", "adapters.names": rf"^(?!.*({PROJECTIONS}|\.mlp\.))"}, {}),
    "revert_all": ("all parameters, drawn back to where rewards found them", {}, {}),
}


def get_config() -> ml_collections.ConfigDict:
    """The study."""
    base = EXPRL["get_config"]("base")
    told = {
        "task.arguments": {**EXPRL["SMALL"], "ops": (1, 2), "ops_rise": ()}, "train.batch_size": PROMPTS, "train.log_every": 10, "train.save_every": 1000, "train.eval_every": 0,
        "eval.examples": EXAMPLES, "eval.batch_size": 64, "optim.learning_rate": 2e-3, "optim.adam_rate": 3e-4, "optim.warmup": 10, "optim.decay": 0.0,
    }  # fmt: skip
    rl = dict(name="rl", start=START, overrides={**told, "train.steps": RL_STEPS, "method.name": "exprl", "method.arguments": {**EXPRL["SPARSE"], "tried": 0}})
    sft = dict(name="sft", start=START, overrides={**told, "train.steps": RL_STEPS})

    def arm(name: str) -> dict:
        label, adapters, arguments = ARMS[name]
        method = "revert" if name.startswith("revert") else "unlearn"
        rate = 0.02 if name.startswith(("full", "swapped")) else 0.06 if adapters.get("adapters.share") == 0.25 else 0.03  # so that all pass half
        rising = {"optim.learning_rate": rate, "optim.adam_rate": rate / 10, "optim.warmup": STEPS, "train.steps": STEPS, "train.log_every": LOOK, "train.eval_every": LOOK, "train.eval_examples": 64, "eval.examples": 64}
        if method == "revert":  # what is drawn back must come to rest
            rising |= {"optim.learning_rate": 2e-2, "optim.adam_rate": 3e-3, "optim.warmup": 1, "optim.decay": 1.0, "optim.momentum": 0.0, "optim.adam_b1": 0.0}
        if name in SLOWLY:  # a third of the rate, three times the steps: looks lie close where much is forgotten
            rising |= {"optim.learning_rate": 2e-2 / 3, "optim.adam_rate": 1e-3, "train.steps": 3 * STEPS}
        forget = {**told, **rising, **adapters, "method.name": method, "method.arguments": {"forget": FORGET, "least": 2, "before": START, "looked": LOOKED, "scored": 128, **arguments}}
        return dict(name=name, label=label, phases=[rl, dict(name="unlearn", overrides=forget)])

    config = spec.default()
    config.title = "MAST: forgetting what rewards brought"
    config.question = "At equal forgetting, does touching the tensors that a score chooses do less damage than touching others?"
    config.base = base
    config.base.seed, config.base.phase = 0, ""
    config.arms = [dict(name="rl", label="learnt from right answers alone", phases=[rl]), dict(name="sft", label="shown right chains instead, as many steps", phases=[sft]), *map(arm, ARMS)]
    config.reference, config.seeds = "rl", (0, 1, 2, 3, 4)
    return config
