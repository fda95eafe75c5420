"""GSM-Infinite-style problems at the paper's size: 1 … 8 operations in 2,000–3,300 tokens, question first, L = 2,000, N = 4.

Command:   python -m sleepnet.train --config=experiments/gsm_paper.py --workdir=runs/gsm_paper
Hardware:  one accelerator
Score:     not trained here yet. The best constant answer and the majority answer of each number of operations: python -m sleepnet.tasks stats gsm
Choices:   as in rule110_paper.py, and the batch: the paper fine-tunes trained models of 1.4B and 2B, 256 sequences a step, for up to 1,000
           steps; this one starts from nothing. Tokens are words
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    config = presets.paper_size(
        "gsm", dict(ops=(1, 8), length=(2000, 3300), question="first", window=2000), pattern="AG" * 5, width=512, steps=50_000, batch_size=32
    )
    config.optim.learning_rate = 1e-3
    return config
