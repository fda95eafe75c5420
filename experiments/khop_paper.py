"""k-hop induction: strings of 100 letters out of 4, k = 1 … 16, N = 4.

Command:   python -m sleepnet.train --config=experiments/khop_paper.py --workdir=runs/khop_paper
Hardware:  one accelerator
Score:     not trained here yet; chance .25, the best guess from one hop .348 over all k
Choices:   the model and batch of rule110_paper.py; training draws k over its whole range, see `hops_rise` for a curriculum
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    return presets.paper_size(
        "khop", dict(length=100, letters=4, hops=(1, 16)), pattern="AGAG", width=256, steps=98_000, batch_size=512
    )
