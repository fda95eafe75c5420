"""Rule-110 at the paper's size: 4 strings of 24 cells, t = 32, L = 24, 4 layers, d = 256, batch 512, N = 4.

Command:   python -m sleepnet.train --config=experiments/rule110_paper.py --workdir=runs/rule110_paper
           or in legs: python tools/gpu_train.py --config=experiments/rule110_paper.py --minutes=9 --pack=legs/rule110
Hardware:  one accelerator. On a CPU it starts and steps: add --config.train.steps=3 --config.train.log_every=1 --config.train.save_every=3 --config.train.eval_every=0
Score:     not trained here yet. The paper: N = 1 about .10 exact, N = 4 a little above .30 after 5 B tokens; the best constant .0995
Choices:   the paper gives layers, width, L, batch, Muon 2e-3 and AdamW 5e-5. Heads, MLP, norms, schedule and what goes round the
           loop are ours; --config.model.sleep.carry=hidden is the paper's loop.
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    config = presets.paper_size(
        "rule110", dict(width=24, strings=4, steps=32), pattern="AGAG", width=256, steps=98_000, batch_size=512
    )
    config.train.eval_examples = 2048
    config.eval.examples = 16_384
    return config
