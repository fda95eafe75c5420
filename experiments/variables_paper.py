"""Variable tracking: four chains of four copies among twenty statements of noise in four windows of 30 tokens, ten asked for in a fifth, N = 4.

Command:   python -m sleepnet.train --config=experiments/variables_paper.py --workdir=runs/variables_paper
Hardware:  one accelerator
Score:     not trained here yet; chance .02, the variable's own number or a guess .40
Choices:   the model and batch of rule110_paper.py; chains in the order of RULER's, see `order` for shuffled ones
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    return presets.paper_size(
        "variables", dict(chains=4, hops=4, noise=20, queries=10), pattern="AGAG", width=256, steps=98_000, batch_size=256
    )
