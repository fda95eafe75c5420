"""Depo at the paper's size: up to 75 nodes, k ≤ 16, 10 queries, L = 75, 10 layers, d = 512, batch 128, N = 4.

Command:   python -m sleepnet.train --config=experiments/depo_paper.py --workdir=runs/depo_paper
Hardware:  one accelerator
Score:     not trained here yet. The paper reports losses only: N = 1 stalls from 4 hops, N = 2 from 8, N = 4 begins to move at 16
Choices:   as in rule110_paper.py
"""
from sleepnet import config as run_config


def get_config():
    """The run's configuration."""
    config = run_config.default()
    config.task.name = "depo"
    config.task.arguments = dict(nodes=75, hops=16, queries=10)
    config.model.pattern = "AG" * 5
    config.model.width = 512
    config.model.heads = 8
    config.model.head_dim = 64
    config.model.mlp_width = 1536
    config.model.sleep.passes = 4
    config.model.sleep.remat = True
    config.optim.learning_rate = 2e-3
    config.optim.adam_rate = 5e-5
    config.optim.warmup = 1000
    config.train.steps = 100_000
    config.train.batch_size = 128
    config.train.save_every = 1000
    config.train.eval_every = 1000
    config.eval.examples = 1600
    config.eval.batch_size = 128
    return config
