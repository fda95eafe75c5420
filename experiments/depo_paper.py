"""Depo at the paper's size: up to 75 nodes, k ≤ 16, 10 queries, L = 75, 10 layers, d = 512, batch 128, N = 4.

Command:   python -m sleepnet.train --config=experiments/depo_paper.py --workdir=runs/depo_paper
Hardware:  one accelerator
Score:     not trained here yet. The paper reports losses only: N = 1 stalls from 4 hops, N = 2 from 8, N = 4 begins to move at 16
Choices:   as in rule110_paper.py
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    return presets.paper_size("depo", dict(nodes=75, hops=16, queries=10), pattern="AG" * 5, width=512, steps=100_000, batch_size=128)
