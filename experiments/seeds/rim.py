"""Memory blocks (RiM, arXiv 2605.30343) beside passes and a chain of thought: products of 2 … 24 elements of S5; rim.md beside this file has what is asked.

A block is a few learnt tokens behind the word and before the question. At layer l a token reads others of layer l − 1 alone, so that whatever K is, what one
step finds crosses at most L further: blocks should add width, and passes depth. The depth reached then grows with L, N and R, and stops growing with K.

Two layers:   python -m sleepnet.study --config=experiments/seeds/rim.py
Four layers:  python -m sleepnet.study --config=experiments/seeds/rim.py:l4
Blocks:       python -m sleepnet.study --config=experiments/seeds/rim.py:k (K = 4, 8, 16 at L = 2 and 4)
Laws of λ:    python -m sleepnet.study --config=experiments/seeds/rim.py:laws
Faithful:     python -m sleepnet.study --config=experiments/seeds/rim.py:faithful (from a model that answers at once, low-rank factors and three embeddings)
Small:        python -m sleepnet.study --config=experiments/seeds/rim.py:small (S4, 2 … 12 elements, L = 2; beside passes with labels), …:small_l4
Hardware:     1.6e14 FLOPs an arm at L = 2, half a day of a CPU core; `small` 9.2e12, 6 to 13 minutes of one
Score:        rim.md
"""
from collections.abc import Mapping
from typing import Any

import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec

BATCH, STEPS, ANSWER_STEPS = 128, 12000, 4000  # stage 1 has three quarters of the steps
RATE, ADAM_RATE = 1.5e-2, 2.25e-3
RISE = tuple(BATCH * (1500 + 100 * i) for i in range(22))  # k = 2 alone, then one more every 100 steps
LOOPED = {2: 7000, 4: 4000}  # R → steps of stage 1, about as much compute; stage 2 gets what is left
K = 8
WHICH = ("l2", "l4", "k", "laws", "faithful", "small", "small_l4")
SMALL_STEPS, MOST = 3000, 12  # of `small`: steps of stage 1, elements
LATER = {"optim.learning_rate": RATE / 3, "optim.adam_rate": ADAM_RATE / 3}


def get_config(which: str = "l2") -> ml_collections.ConfigDict:
    """The study `which`, one of WHICH."""
    if which not in WHICH:
        raise UsageError(f"rim.py:{which} is not one of {', '.join(WHICH)}")
    arms = {
        "l2": lambda: rivals("AA"), "l4": lambda: rivals("AAAA"), "faithful": faithful, "small": small, "small_l4": lambda: small("AAAA"),
        "k": lambda: [rim(f"rim_l{len(pattern)}_k{count}", f"L = {len(pattern)}, K = {count}", count=count, more={"model.pattern": pattern}) for pattern in ("AA", "AAAA") for count in (4, 8, 16)],
        "laws": lambda: [rim(f"rim_{law}" if law != "relative" else "rim", f"λ {law}", law=law) for law in ("relative", "constant", "absolute")] + [rim("rim_fade_answer", "λ relative, the answer's too", fade_answer=True)],
    }[which]()  # fmt: skip
    config = spec.default()
    config.title = "Memory blocks, passes, a chain of thought: products in S5"
    config.question = "How many elements of S5 are multiplied with memory blocks, with passes and with a chain of thought, at equal compute?"
    config.base = presets.cpu_size("group", {"group": "S5", "length": (2, 24), "length_rise": RISE}, steps=STEPS, batch_size=BATCH)
    config.base.model.pattern, config.base.model.sleep.eviction, config.base.model.sleep.passes = "AA", "none", 1
    config.base.optim.learning_rate, config.base.optim.adam_rate = RATE, ADAM_RATE
    config.base.train.update(save_every=1000, eval_every=1000)
    config.arms, config.seeds, config.reference = arms, (0, 1, 2), arms[0]["name"]
    if which.startswith("small"):
        config.title = "Memory blocks, passes, a chain of thought: products in S4"
        config.question = "How many elements of S4 are multiplied with memory blocks, with passes taught or not and with a chain of thought, at equal compute?"
        config.base.task.arguments = {"group": "S4", "length": (2, MOST), "length_rise": tuple(64 * (400 + 50 * i) for i in range(MOST - 2))}
        config.base.train.batch_size, config.base.train.steps = 64, SMALL_STEPS
    return config


def rim(name: str, label: str, *, count: int = K, passes: int = 1, law: str = "relative", taken: int = STEPS, answered: int = ANSWER_STEPS, leaky: bool = False, more: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """An arm: the steps behind the blocks, then the answer behind each."""
    fades = {} if law == "constant" else {"fade_steps": taken}
    seen = {"leaky": True} if leaky else {}
    steps = {"method.arguments": {"stage": 1, "schedule": law, **fades, **arguments, **seen}, "train.steps": taken}
    answer = {"method.arguments": {"stage": 2, **seen}, "train.steps": answered, "optim.warmup": 0, **LATER}
    shared = {"model.memory_blocks.count": count, "model.memory_blocks.passes": passes, "method.name": "rim", **(more or {})}
    return dict(name=name, label=label, overrides=shared, phases=[dict(name="steps", overrides=steps), dict(name="answer", overrides=answer)])


def rivals(pattern: str, *, taken: int = STEPS, answered: int = ANSWER_STEPS, looped: Mapping[int, int] = LOOPED) -> list[dict[str, Any]]:
    """`rim`, of `taken` steps and `answered` more, and all that it is compared with, each with as much compute; `looped`: R → steps of stage 1."""
    blocks, multi = {"model.memory_blocks.count": K}, {"method.name": "rim", "method.arguments": {"stage": 2}}
    only_steps = {**blocks, "method.name": "rim", "method.arguments": {"stage": 1, "fade_steps": taken}}
    chain = {"task.arguments.chain_of_thought": True}
    stages = dict(taken=taken, answered=answered)
    arms = [rim("rim", f"RiM: K = {K} blocks, the steps first, then the answer behind each", **stages), rim("rim_leaky", "RiM, read-outs see those before them, as many steps", leaky=True, **stages)]
    arms += [rim(f"rim_loop{R}", f"RiM, R = {R} passes over the blocks", passes=R, taken=steps, answered=answered) for R, steps in looped.items()]
    arms += [
        dict(name="rim_s1", label="the steps alone", overrides=only_steps),
        dict(name="pause_multi", label="the answer behind each block, no steps", overrides={**blocks, **multi}),
        dict(name="pause", label="as many tokens, the answer behind the last", overrides=blocks),
        dict(name="direct", label="no blocks", overrides={}),
        *(dict(name=f"loop{N}", label=f"N = {N} passes over the word, no labels, no blocks", overrides={"model.sleep.passes": N}) for N in (2, 4, 8)),
        dict(name="deep", label="no blocks, 4 × untied depth", overrides={"model.pattern": pattern * 4}),
        dict(name="cot", label="a chain of thought of its own", overrides={}, phases=[dict(name="chain", overrides=chain)]),
    ]
    for arm in arms:
        arm["overrides"] = {"model.pattern": pattern, **arm["overrides"]}
        arm.update({} if arm["name"] in ("rim", "rim_leaky") else {"match": "rim"})
    return arms


def small(pattern: str = "AA") -> list[dict[str, Any]]:
    """Of `rivals` those that decide, with an eighth of the steps, and what the house has beside them: passes that sleep, with a label each and without, of as many layers."""
    decide = ("rim", "rim_loop4", "pause_multi", "pause", "direct", "loop4", "cot")
    arms = [arm for arm in rivals(pattern, taken=SMALL_STEPS, answered=1000, looped={4: 1000}) if arm["name"] in decide]
    asleep = {  # who sleeps with N passes is asked for the last N elements of one length
        "model.pattern": "AG" * (len(pattern) // 2), "model.sleep.eviction": "hard", "model.sleep.passes": 8, "train.random_passes": (2, 4, 8), "train.passes_rise": (500, 1000),
        "eval.passes": tuple(range(2, MOST + 1)),
    }
    last = [dict(name="last", overrides={"task.arguments.length": MOST, "task.arguments.length_rise": (), "task.arguments.spans": "growing", "task.arguments.follow_passes": True})]
    for name, label, method in (("taught", "passes asleep, a label at every pass", "taught"), ("untaught", "passes asleep, labels at the answer alone", "answers")):
        arms.append(dict(name=name, label=label, overrides={**asleep, "method.name": method}, phases=last, match="rim"))
    return arms


def faithful() -> list[dict[str, Any]]:
    """From a model that answers at once: the blocks' three embeddings and low-rank factors are all that learns, then."""
    adapted = {"adapters.kind": "low_rank", "adapters.names": r"blocks\.\d+\.(mixer|mlp)\.", "adapters.rank": 16, "adapters.also": "block_tokens"}
    base = dict(name="direct", overrides={"method.arguments": {"stage": 0}})
    arms = []
    for name, label, kinds in (("rim", "low-rank factors and three embeddings", adapted), ("rim_all", "every parameter", {})):
        arm = rim(name, label)
        arm["phases"] = [base, *(dict(name=phase["name"], overrides={**phase["overrides"], **kinds}) for phase in arm["phases"])]
        arms.append(arm)
    alone = dict(name="more", overrides={"method.arguments": {"stage": 0}, "train.steps": ANSWER_STEPS, "optim.warmup": 0, **LATER})
    arms.append(dict(name="direct", label="no blocks, as much compute", overrides=arms[0]["overrides"], phases=[base, alone], match="rim"))
    return arms
