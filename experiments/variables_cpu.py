"""Variable tracking at a size that a CPU trains: four chains of three copies, each after what it copies, up to two statements of noise.

Memory and depth: a variable may be three copies away from its number, in the same window or in the other. Training asks for the variables that
are given a number alone for 700 steps, then for those one, two and three copies away from steps 700, 1,100 and 1,400 on, in every arm alike.

Command:   python -m sleepnet.study --config=experiments/variables_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: about 16 minutes an arm by its FLOPs, at 19 GFLOP/s a core; 22 and 14 on busy cores
Score:     three copies, seeds 0, 1, 2: N = 4 .530 .982 .931, N = 1 with as much compute .252 .990 .238; own number or a guess .250
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 2200, 64


def get_config():
    """The study's configuration."""
    return pair(
        "variables",
        title="Variable tracking, asleep and awake",
        question="How many assignments can N = 4 passes of sleep follow, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(chains=4, hops=3, noise=(0, 2), order="forward", queries=4, names=24, values=16, window=27, hops_rise=tuple(step * BATCH for step in (700, 1100, 1400))),
    )
