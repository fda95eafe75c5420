"""MQAR at the size of Zoology's hardest row: 64 key-value pairs and the slots that ask for all of them in 512 tokens, V = 8192, N = 4.

Command:   python -m sleepnet.train --config=experiments/mqar_paper.py --workdir=runs/mqar_paper
Hardware:  one accelerator
Score:     not trained here yet
Choices:   the model and batch of rule110_paper.py; Zoology trains the task alone, on models of two layers
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    return presets.paper_size(
        "mqar", dict(vocabulary=8192, length=512, pairs=64, queries=64), pattern="AGAG", width=256, steps=50_000, batch_size=256
    )
