"""The paper's own protocol for Rule 110 (4 strings of 24 cells, L = 24, the first cell of each asked, held-out states), taught pass by pass.

The paper: t = 32 at a little above .30 of all four labels after about 5 B tokens, its best N = 4. Here N = t + 1 and a label at every pass, trained on
t = 2, 5 and 8 alone, from rule110_taught, which has learnt to step one row. What is new is four rows in turn: keys of S turn behind every window
(`model.turn_keys`), so that no string is written over the one before.

Command:   python -m sleepnet.study --config=experiments/rule110_taught_paper.py
Hardware:  two CPU cores, a core a run
Wall time: a quarter of an hour a run, and ten minutes for rule110_taught
"""
from sleepnet import presets
from sleepnet.study import spec

STEPS, BATCH = 800, 32
TAUGHT = {"method.name": "taught"}
RING = {  # one row, as in rule110_taught.py
    "task.arguments": dict(width=24, strings=1, cells=24, steps=8, follow_passes=True, graded="rows"), "train.steps": 1200,
    "train.passes_rise": (100, 300), "optim.learning_rate": 1.5e-2, "optim.adam_rate": 2.25e-3,
}


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Rule 110 by the paper's protocol, taught pass by pass"
    config.question = "Can passes that are taught carry four strings 32 steps and more ahead, where the paper's best has .30 of four labels?"
    config.base = presets.cpu_size("rule110", dict(width=24, strings=4, steps=8, follow_passes=True), steps=STEPS, batch_size=BATCH)
    config.base.start = "rule110_taught"
    config.base.train.random_passes = (3, 6, 9)
    config.base.model.sleep.passes = 9
    config.base.model.head_dim, config.base.model.turn_keys = 64, "windows"
    config.base.optim.learning_rate, config.base.optim.adam_rate = 7.5e-3, 1.125e-3
    config.base.eval.examples = 4096
    config.base.eval.passes = (3, 6, 9, 17, 33, 65)
    config.arms = [
        dict(name="rewrite", label="a label at every pass, keys that turn, each pass writes onto the window's first S", overrides={**TAUGHT, "model.sleep.rewrite": True}, phases=[
            dict(name="ring", overrides=RING), dict(name="four", overrides={"optim.warmup": 50}),
        ]),
        dict(name="taught", label="a label at every pass, keys that turn", overrides=TAUGHT),
        dict(name="unturned", label="a label at every pass, keys that stay", overrides={**TAUGHT, "model.turn_keys": "never"}),
        dict(name="untaught", label="labels at the answer alone, keys that turn", overrides={}),
    ]
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config
