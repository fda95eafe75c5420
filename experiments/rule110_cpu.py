"""Rule-110 at a size that a CPU trains: a ring of 16 cells, t = 1 … 6 mixed, every cell asked for (2^16 states, six depths).

Held-out states. Training starts with t = 1 alone and lets t grow to 6 by step 1,000, in every arm alike. One row: with two, the
second was written over the first (see README.md).

Command:   python -m sleepnet.study --config=experiments/rule110_cpu.py
Hardware:  two CPU cores
Wall time: 20 to 30 minutes on two busy cores
Score:     t = 6, per cell, seeds 0, 1, 2: N = 8 .986, .692, .663, N = 1 with as much compute .944, .935, .996; seeds 0, 1: N = 4 .691, .694, N = 1 with as much
           compute .823, .823; chance .5
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 6000, 32


def get_config():
    """The study's configuration."""
    config = pair(
        "rule110",
        title="Rule 110, asleep and awake",
        question="How many steps of a cellular automaton can N passes of sleep run ahead, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(
            width=16, strings=1, cells=16, steps=(1, 6), steps_rise=tuple(step * BATCH for step in (200, 400, 600, 800, 1000))
        ),
    )
    config.arms = [
        *config.arms,
        dict(name="sleep8", label="N = 8 passes of sleep", overrides={"model.sleep.passes": 8}),
        dict(name="once_matched8", label="N = 1, as much compute as N = 8", overrides={"model.sleep.passes": 1}, match="sleep8"),
    ]
    config.base.train.eval_every = 100
    config.base.eval.examples = 6000
    return config
