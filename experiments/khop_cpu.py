"""k-hop induction at a size that a CPU trains: strings of 48 letters out of 4, k = 1 … 6, two questions each.

Depth by log₂ k. Training starts with k ≤ 2 and lets k grow by one from step 800 on, in every arm alike.

Command:   python -m sleepnet.study --config=experiments/khop_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: about 10 minutes an arm by its FLOPs, at 19 GFLOP/s a core; 18 and 6 on busy cores
Score:     k = 6, seeds 0, 1, 2: N = 4 .440, .406, .357, N = 1 with as much compute .611, .522, .591; guesses .287
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 3000, 32


def get_config():
    """The study's configuration."""
    return pair(
        "khop",
        title="k-hop induction, asleep and awake",
        question="How many hops can N = 4 passes of sleep follow, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(length=48, hops=(1, 6), queries=2, hops_rise=tuple(step * BATCH for step in (800, 1100, 1400, 1700))),
    )
