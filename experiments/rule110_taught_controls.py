"""What labels at every pass bring on Rule 110 at equal compute and equal labels: a ring of 16 cells, t = 1 … 6 told before the row, N = 8.

Each row tells t, and a pass beyond it holds still. Training starts with t = 1 alone and lets t grow to 6 by step 1,000, in every arm alike, as in
rule110_cpu.py, whose arms without labels had 6,000 steps. `heads` gets the very same labels from one pass: each step through a readout of its own.

Command:   python -m sleepnet.study --config=experiments/rule110_taught_controls.py
Hardware:  two CPU cores, a core a run
Wall time: 5 minutes a run
"""
from sleepnet import presets
from sleepnet.study import spec

STEPS, BATCH = 2000, 32
TAUGHT = {"method.name": "taught"}


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Rule 110: labels at every pass, and what else they might be"
    config.question = "Is it a label at every pass that solves Rule 110 asleep, or labels as such, or compute?"
    config.base = presets.cpu_size(
        "rule110",
        dict(width=16, strings=1, cells=16, steps=(1, 6), steps_rise=tuple(step * BATCH for step in (200, 400, 600, 800, 1000)), graded="rows"),
        steps=STEPS, batch_size=BATCH,
    )
    config.base.model.sleep.passes = 8
    config.base.eval.examples = 6000
    once = {"model.sleep.passes": 1}
    config.arms = [
        dict(name="taught", label="a label at every pass", overrides=TAUGHT),
        dict(name="untaught", label="labels at the answer alone", overrides={}),
        dict(name="wrong_reference", label="labels of another row", overrides={**TAUGHT, "method.arguments": {"labels": "wrong_reference"}}),
        dict(name="reversed", label="labels in reversed order", overrides={**TAUGHT, "method.arguments": {"labels": "reversed"}}),
        dict(name="heads", label="the same labels as further heads of one pass, as much compute", overrides={**TAUGHT, **once, "method.arguments": {"labels": "heads", "heads": 7}}, match="taught"),
        dict(name="once_matched", label="one pass, labels at the answer alone, as much compute", overrides=once, match="taught"),
        dict(
            name="full_cache", label="attention alone, the whole KV cache kept, nothing sleeps, as much compute",
            overrides={**once, "model.pattern": "AA", "model.sleep.eviction": "none"}, match="taught",
        ),
        dict(name="thought", label="one pass, and the same rows written awake before the answer, as much compute", overrides=once, phases=[dict(name="chain", overrides={"task.arguments.chain_of_thought": True})], match="taught"),
        dict(name="half_rate", label="a label at every pass, half the rate", overrides={**TAUGHT, "optim.learning_rate": 7.5e-3, "optim.adam_rate": 1.125e-3}),
        dict(name="twice_rate", label="a label at every pass, twice the rate", overrides={**TAUGHT, "optim.learning_rate": 3e-2, "optim.adam_rate": 4.5e-3}),
    ]
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config
