"""The word problem of A5 at a size that a CPU trains: products of k = 2 … 4 even permutations of five things.

Depth with a tiny memory: the product is one of 60, whatever k is. Training starts with k = 2 alone (3,600 words, all but the held-out
ones soon seen) and adds k = 3 at step 3,000 and k = 4 at step 4,500, in every arm alike.

Command:   python -m sleepnet.study --config=experiments/group_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: 8 minutes an arm
Score:     k = 2, 3, 4, held-out words: N = 4 1.000 1.000 .950, .994, 1.000, N = 1 with as much compute 1.000 1.000 1.000; guesses .017 (seeds 0, 1, 2)
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 9000, 128


def get_config():
    """The study's configuration."""
    return pair(
        "group",
        title="Products in A5, asleep and awake",
        question="How many elements of a non-solvable group can N = 4 passes of sleep multiply, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(group="A5", length=(2, 4), length_rise=tuple(step * BATCH for step in (3000, 4500))),
    )
