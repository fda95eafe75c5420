"""Variable tracking at a size that a CPU trains: four chains of three copies in any order, up to eight statements of noise.

Memory and depth: a variable may be three copies away from its number, in other windows. Training starts with the variables that
are given a number or one copy away and asks for farther ones from step 700 on, in every arm alike.

Command:   python -m sleepnet.study --config=experiments/variables_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: 10 minutes an arm by its FLOPs, at 19 GFLOP/s a core; not timed
Score:     not run to the end yet
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 2000, 32


def get_config():
    """The study's configuration."""
    return pair(
        "variables",
        title="Variable tracking, asleep and awake",
        question="How many assignments can N = 4 passes of sleep follow, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(chains=4, hops=3, noise=(0, 8), order="shuffled", queries=8, names=32, values=32, hops_rise=tuple(step * BATCH for step in (700, 1100))),
    )
