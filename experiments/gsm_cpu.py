"""GSM-Infinite-style problems at a size that a CPU trains: 0 … 2 operations in texts of 30 … 66 words, question first, windows of 24.

Memory and depth: the sentences that count stand among others of the same words. With no operation the text tells the answer, which has but
to be found. Training starts with these and adds an operation at steps 400 and 1,000, in every arm alike: without them (1 … 3 operations in 60 …
120 words, 1,300 steps of 32) neither arm had got beyond .3 at one operation, the majority answer being .18.

Command:   python -m sleepnet.study --config=experiments/gsm_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: about 14 minutes an arm by its FLOPs, at 19 GFLOP/s a core; 14 and 67 on busy cores
Score:     0, 1, 2 operations: N = 4 .823 .758 .769, N = 1 with as much compute .507 .734 .838; the majority answer .277 .176 .146 (seed 0). At this
           length 61 % of the texts with two operations hold no filler: compare arms, not operations
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 2000, 64


def get_config():
    """The study's configuration."""
    return pair(
        "gsm",
        title="Arithmetic stories, asleep and awake",
        question="How many operations can N = 4 passes of sleep chain, beside one pass at equal compute?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(ops=(0, 2), length=(30, 66), places=8, things=8, limit=20, fillers="alike", window=24, ops_rise=tuple(step * BATCH for step in (400, 1000))),
    )
