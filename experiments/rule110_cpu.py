"""Rule-110 at a size that a CPU trains: a ring of 16 cells, t = 1 … 6 mixed, every cell asked for (2^16 states, six depths).

Held-out states. Training starts with t = 1 alone and lets t grow to 6 by step 1,000, in every arm alike. One row: with two, the
second was written over the first (see README.md).

Command:   python -m sleepnet.study --config=experiments/rule110_cpu.py
Hardware:  two CPU cores
Wall time: 20 to 30 minutes on two busy cores
Score:     t = 6, per cell: N = 8 .986, N = 1 with as much compute .944; N = 4 .691, N = 1 with as much compute .823 (seed 0); chance .5
"""
from sleepnet import config as run_config
from sleepnet.study import spec

STEPS, BATCH = 6000, 32


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Rule 110, asleep and awake"
    config.question = "How many steps of a cellular automaton can N passes of sleep run ahead, beside one pass at equal compute?"
    config.seeds = (0,)
    config.base = base()
    config.arms = [
        dict(name="sleep4", label="N = 4 passes of sleep", overrides={"model.sleep.passes": 4}),
        dict(name="once_matched", label="N = 1, as much compute (more steps)", overrides={"model.sleep.passes": 1}, match="sleep4"),
        dict(name="sleep8", label="N = 8 passes of sleep", overrides={"model.sleep.passes": 8}),
        dict(name="once_matched8", label="N = 1, as much compute as N = 8", overrides={"model.sleep.passes": 1}, match="sleep8"),
    ]
    config.reference = "sleep4"
    return config


def base():
    """The run that every arm starts from."""
    config = run_config.default()
    config.task.name = "rule110"
    config.task.arguments = dict(
        width=16, strings=1, cells=16, steps=(1, 6), steps_rise=tuple(step * BATCH for step in (200, 400, 600, 800, 1000))
    )
    config.model.pattern = "AG"
    config.optim.learning_rate = 1.5e-2
    config.optim.adam_rate = 2.25e-3
    config.optim.decay = 0.4
    config.train.steps = STEPS
    config.train.batch_size = BATCH
    config.train.save_every = 250
    config.train.eval_every = 100
    config.train.keep = 1
    config.eval.examples = 6000
    return config
