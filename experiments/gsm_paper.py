"""GSM-Infinite-style problems at the paper's size: 1 … 8 operations in 2,000–3,300 tokens, question first, L = 2,000, N = 4.

Command:   python -m sleepnet.train --config=experiments/gsm_paper.py --workdir=runs/gsm_paper
Hardware:  one accelerator
Score:     not trained here yet. The best constant answer and the majority answer of each number of operations: python -m sleepnet.tasks stats gsm
Choices:   as in rule110_paper.py, and the batch: the paper fine-tunes trained models of 1.4B and 2B, 256 sequences a step, for up to 1,000
           steps; this one starts from nothing. Tokens are words
"""
from sleepnet import config as run_config


def get_config():
    """The run's configuration."""
    config = run_config.default()
    config.task.name = "gsm"
    config.task.arguments = dict(ops=(1, 8), length=(2000, 3300), question="first", window=2000)
    config.model.pattern = "AG" * 5
    config.model.width = 512
    config.model.heads = 8
    config.model.head_dim = 64
    config.model.mlp_width = 1536
    config.model.sleep.passes = 4
    config.model.sleep.remat = True
    config.optim.learning_rate = 1e-3
    config.optim.adam_rate = 5e-5
    config.optim.warmup = 1000
    config.train.steps = 50_000
    config.train.batch_size = 32
    config.train.save_every = 1000
    config.train.eval_every = 1000
    config.eval.examples = 1600
    config.eval.batch_size = 32
    return config
