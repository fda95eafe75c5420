"""A hybrid of 1.3 B weights on GSM-Infinite-style problems: 6 blocks, D = 4,096, 32 heads of 128, L = 2,048, N = 4, 1 M tokens a step.

Command:   python -m sleepnet.train --config=experiments/pod/hybrid_1b.py --workdir=DIR --coordinator=auto
Hardware:  a TPU slice of 64 chips or more; on 16 of v5e with mesh.fsdp=4 mesh.tensor=4 train.accumulate=64. Compiled ahead of time (README.md), never run
Score:     not trained yet
Choices:   the widths of a 7 B transformer and few blocks: a sleep loops them N times, and what is compiled grows with their number. Activations
           in bfloat16; weights, fast weights and the optimiser in float32. The mesh cuts weights over all chips; each pass is recomputed
"""
from sleepnet.config import default


def get_config():
    """The run's configuration."""
    config = default()
    config.task.name = "gsm"
    config.task.arguments = dict(ops=(1, 8), length=(2000, 3300), question="first", window=2048)
    config.model.pattern = "AGAGAG"
    config.model.width = 4096
    config.model.heads = 32
    config.model.head_dim = 128
    config.model.mlp_width = 11008
    config.model.dtype = "bfloat16"
    config.model.remat = "pass"
    config.model.sleep.passes = 4
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.optim.learning_rate = 2e-3
    config.optim.adam_rate = 5e-5
    config.optim.warmup = 1000
    config.train.steps = 20_000
    config.train.batch_size = 256
    config.train.save_every = 250
    config.train.eval_every = 1000
    config.train.eval_examples = 1024
    config.eval.examples = 4096
    config.eval.batch_size = 256
    return config
