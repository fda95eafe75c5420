"""The staircase of Depo: how many hops does each number of passes reach? 12 of 24 names on one cycle, k ≤ 8, N = 1, 2, 4, 8.

On a cycle of 12, k = 6 lies farthest: seven steps forward are five back. Training asks k = 1 alone for 500 steps, k ≤ 2 up to step 2,200 and
then lets k grow to 8 by step 3,000, in every arm alike.

Command:   python -m sleepnet.study --config=experiments/depo_staircase.py
Hardware:  two CPU cores, a core an arm
Wall time: 17 to 25 minutes an arm on busy cores
Score:     k = 1 … 8, held-out cycles: N = 8 .998 .997 .992 .992 .866 .720 .356 .318; N = 4 .974 .970 .739, then a guess; N = 2 .992 .972 .664;
           N = 1 with the compute of N = 8 1.000 .603 .145; a guess in context .091 (seed 0)
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 5000, 32
RISE = (500, 2200, 2200, 2600, 2600, 3000, 3000)


def get_config():
    """The study's configuration."""
    config = pair(
        "depo",
        title="The staircase: hops reached by N passes of sleep",
        question="How far does each further pass of sleep reach, and does one pass reach as far at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(
            nodes=12, hops=8, queries=12, names=24, name_tokens=(1, 1), nodes_law="fixed", test_hops=tuple(range(1, 9)), window=24,
            hops_rise=tuple(step * BATCH for step in RISE),
        ),
    )
    config.arms = [
        *(dict(name=f"sleep{n}", label=f"N = {n} passes of sleep", overrides={"model.sleep.passes": n}) for n in (8, 4, 2, 1)),
        dict(
            name="random_passes", label="N drawn from 1, 2, 4, 8 at every step", eval_passes=(1, 2, 3, 4, 6, 8, 12, 16),
            overrides={"model.sleep.passes": 8, "train.random_passes": (1, 2, 4, 8)},
        ),
        dict(name="once_matched", label="N = 1, as much compute as N = 8", overrides={"model.sleep.passes": 1}, match="sleep8"),
    ]
    config.reference = "sleep8"
    config.base.optim.decay = 0.3
    config.base.eval.examples = 1024
    return config
