"""What labels at every pass bring on Rule 110 at equal compute and equal labels, control by control: a ring of 16 cells, asked for whole rows.

As rule110_taught.py, smaller, so that every control can run: trained with N = 2, 4 and 7 (t = 1, 3, 6), asked with up to 17. One pass can't be asked by its
passes: its arms are asked for t = 6, always. `heads` gets the very same labels, of six steps, from one pass, each through a readout of its own;
`thought` writes the same rows awake. `told` has t written before the row: a pass beyond it must hold still. `rim` thinks in memory blocks instead.

Command:   python -m sleepnet.study --config=experiments/rule110_taught_controls.py
Hardware:  two CPU cores, a core a run
Wall time: 4 minutes a run
"""
from sleepnet import presets
from sleepnet.study import spec
from sleepnet.study.taught import ALWAYS_ONCE, TAUGHT

STEPS, BATCH = 1600, 32
TRAINED, ASKED, T = (2, 4, 7), (2, 4, 7, 9, 13, 17), 6
FAR = (2, 4, 7, 9, 13, 17, 33, 57)  # eight times the N of training
RISE = tuple(step * BATCH for step in (150, 300, 450, 600, 750))  # of t that is told
BLOCKS = {"model.pattern": "AA", "model.sleep.eviction": "none", "model.memory_blocks.count": T}


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Rule 110: labels at every pass, and what else they might be"
    config.question = "Is it a label at every pass that solves Rule 110 asleep, or labels as such, or compute?"
    config.base = presets.cpu_size("rule110", dict(width=16, strings=1, cells=16, steps=T, follow_passes=True, graded="rows"), steps=STEPS, batch_size=BATCH)
    config.base.train.random_passes, config.base.train.passes_rise = TRAINED, (300, 600)
    config.base.model.sleep.passes, config.base.model.head_dim = T + 1, 64
    config.base.eval.examples, config.base.eval.passes = 4096, ASKED
    config.arms = [
        dict(name="taught", label="a label at every pass", overrides=TAUGHT, eval_passes=FAR),
        dict(name="up_to_3", label="a label at every pass, trained on t = 1, 3", overrides={**TAUGHT, "model.sleep.passes": 4, "train.random_passes": (2, 4), "train.passes_rise": (300,)}, eval_passes=FAR),
        dict(name="up_to_1", label="a label at every pass, trained on t = 1", overrides={**TAUGHT, "model.sleep.passes": 2, "train.random_passes": (), "train.passes_rise": ()}, eval_passes=FAR),
        dict(name="untaught", label="labels at the answer alone", overrides={}),
        labels("wrong_reference", "labels of another row"),
        labels("reversed", "labels in reversed order"),
        six("heads", "one pass, the same labels as further heads, as much compute", {**TAUGHT, **ALWAYS_ONCE, "method.arguments": {"labels": "heads", "heads": T}}),
        six("once_matched", "one pass, labels at the answer alone, as much compute", ALWAYS_ONCE),
        six("full_cache", "attention alone, the whole KV cache kept, nothing sleeps, as much compute", {**ALWAYS_ONCE, "model.pattern": "AA", "model.sleep.eviction": "none"}),
        six("thought", "one pass, and the same rows written awake before the answer, as much compute", ALWAYS_ONCE, chain_of_thought=True),
        dict(name="fade", label="labels that fade to nothing by step 1,000", overrides={**TAUGHT, "method.arguments": {"fade_from": 600, "fade_until": 1000}}),
        dict(name="one_pass_back", label="a label at every pass, gradients through one pass alone", overrides={**TAUGHT, "model.sleep.gradient": "last"}),
        dict(name="half_rate", label="a label at every pass, half the rate", overrides={**TAUGHT, "optim.learning_rate": 7.5e-3, "optim.adam_rate": 1.125e-3}),
        dict(name="twice_rate", label="a label at every pass, twice the rate", overrides={**TAUGHT, "optim.learning_rate": 3e-2, "optim.adam_rate": 4.5e-3}),
        dict(
            name="told", label="a label at every pass, t told before the row", match="taught",
            overrides={**TAUGHT, "train.random_passes": (), "train.passes_rise": (), "eval.passes": ()},
            phases=[dict(name="told", overrides={"task.arguments.follow_passes": False, "task.arguments.steps": (1, T), "task.arguments.steps_rise": RISE})],
        ),
        rim("rim", "memory blocks (RiM), two layers: a row behind each of six blocks, then the answer behind each, as much compute"),
        rim("rim_deep", "the same, four layers", pattern="AAAA", taken=250),
        rim("rim_loop", "the same, two layers, four passes over the blocks", passes=4, taken=250),
        six("pause", "as many blocks, the answer behind the last alone, as much compute", {**BLOCKS, **ALWAYS_ONCE}),
    ]
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config


def rim(name, label, *, pattern="AA", passes=1, taken=500):
    """An arm of memory blocks: `taken` steps with a row behind each block, then the answer behind each with what compute is left; seeds/rim.py has the method's own study."""
    asked = {"task.arguments.follow_passes": False}
    steps = {**asked, "method.arguments": {"stage": 1, "fade_steps": taken}, "train.steps": taken}
    answer = {**asked, "method.arguments": {"stage": 2}, "optim.warmup": 0, "optim.learning_rate": 5e-3, "optim.adam_rate": 7.5e-4}
    shared = {**BLOCKS, **ALWAYS_ONCE, "model.pattern": pattern, "model.memory_blocks.passes": passes, "method.name": "rim"}
    return dict(name=name, label=label, overrides=shared, phases=[dict(name="rows", overrides=steps), dict(name="answer", overrides=answer)], match="taught")


def labels(name, label):
    """An arm whose passes get labels that are not theirs."""
    return dict(name=name, label=label, overrides={**TAUGHT, "method.arguments": {"labels": name}})


def six(name, label, overrides, **arguments):
    """An arm that is asked for t = 6, always, with as much compute as `taught`."""
    asked = {"task.arguments.follow_passes": False} | {f"task.arguments.{key}": value for key, value in arguments.items()}
    return dict(name=name, label=label, overrides=overrides, phases=[dict(name="chain" if arguments else "six", overrides=asked)], match="taught")
