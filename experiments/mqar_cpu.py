"""MQAR at a size that a CPU trains: 8 … 16 key-value pairs in one window, eight of them asked for in the next.

Memory without depth: one pass should do as well as four, and sleep must not cost accuracy.

Command:   python -m sleepnet.study --config=experiments/mqar_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: about 8 minutes an arm by its FLOPs, at 19 GFLOP/s a core; 26 and 4 on busy cores
Score:     16 pairs: N = 4 .999, N = 1 with as much compute .998; chance .031, a guess in context .062 (seed 0)
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 3000, 32


def get_config():
    """The study's configuration."""
    return pair(
        "mqar",
        title="Associative recall, asleep and awake",
        question="Where one look is enough, do four passes of sleep cost anything at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(vocabulary=64, length=64, pairs=(8, 16), queries=8),
    )
