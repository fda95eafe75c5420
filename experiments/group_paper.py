"""The word problem of S5: the product of k = 2 … 20 of its 120 elements, one window, N = 4.

Command:   python -m sleepnet.train --config=experiments/group_paper.py --workdir=runs/group_paper
Hardware:  one accelerator
Score:     not trained here yet; chance .008
Choices:   the model and batch of rule110_paper.py; training draws k over its whole range, see `length_rise` for a curriculum
"""
from sleepnet import presets


def get_config():
    """The run's configuration."""
    return presets.paper_size(
        "group", dict(group="S5", length=(2, 20)), pattern="AGAG", width=256, steps=98_000, batch_size=512
    )
