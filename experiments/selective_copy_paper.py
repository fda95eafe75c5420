"""Selective copying at MAD's size: 16 letters out of 14 among 240 places in four windows of 60 tokens, copied in order in a fifth, N = 4.

Command:   python -m sleepnet.train --config=experiments/selective_copy_paper.py --workdir=runs/selective_copy_paper
Hardware:  one accelerator
Score:     not trained here yet
Choices:   the model and batch of rule110_paper.py; MAD trains the task alone, on models of two layers
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    return presets.paper_size(
        "selective_copy", dict(length=256, copies=16), pattern="AGAG", width=256, steps=50_000, batch_size=256
    )
