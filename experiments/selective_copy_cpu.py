"""Selective copying at a size that a CPU trains: 4 … 16 letters scattered over four windows of 16 tokens, copied in order in a fifth.

Memory, and counting across windows: one pass was expected to do as well as four and does not. Letters must outlive up to three later sleeps.

Command:   python -m sleepnet.study --config=experiments/selective_copy_cpu.py
Hardware:  two CPU cores, a core an arm
Wall time: about 9 minutes an arm by its FLOPs, at 19 GFLOP/s a core; 33 and 7 on busy cores
Score:     all letters in order: N = 4 .943, .962 (16 letters .547, .702), N = 1 with as much compute .244, .342 (.000, .000); guesses .006 (seeds 0, 1)
"""
from sleepnet.study.pair import pair

STEPS, BATCH = 2000, 32


def get_config():
    """The study's configuration."""
    return pair(
        "selective_copy",
        title="Selective copying, asleep and awake",
        question="Does what was written in one window outlive the passes over the next ones?",
        steps=STEPS,
        batch_size=BATCH,
        arguments=dict(length=80, copies=(4, 16)),
    )
