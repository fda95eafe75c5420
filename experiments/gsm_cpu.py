"""GSM-Infinite-style problems at a size that a CPU trains: 1 … 3 operations in texts of 60 … 120 words, question first, windows of 32.

Memory and depth: the sentences that count stand among others of the same words. Training starts with one operation and adds
others from steps 600 and 900 on, in every arm alike.

Command:   python -m sleepnet.study --config=experiments/gsm_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: about 9 minutes an arm by its FLOPs, at 19 GFLOP/s a core; 20 on busy cores
Score:     hardly learnt in that time: 1, 2, 3 operations N = 4 .296 .204 .098, N = 1 .304 .222 .124; the majority answer .176 .137 .105 (seed 0)
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 1300, 32


def get_config():
    """The study's configuration."""
    return pair(
        "gsm",
        title="Arithmetic stories, asleep and awake",
        question="How many operations can N = 4 passes of sleep chain, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(ops=(1, 3), length=(60, 120), places=8, things=8, limit=60, fillers="alike", window=32, ops_rise=tuple(step * BATCH for step in (600, 900))),
    )
