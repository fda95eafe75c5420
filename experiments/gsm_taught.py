"""Arithmetic stories of up to four operations, taught pass by pass: pass j says, at each sentence whose value j − 1 operations make known, that value.

Texts of 40 … 110 words in one window, fillers among them. Training starts with no operation and adds one at steps 120, 300, 480 and 660, in every
arm alike. N = 5 is a pass an operation, and one that reads. `heads` gets the very same labels from one pass: each step through a readout of its own.

Command:   python -m sleepnet.study --config=experiments/gsm_taught.py
Hardware:  two CPU cores, a core a run
Wall time: half an hour a run
"""
from sleepnet import presets
from sleepnet.study import spec, taught

STEPS, BATCH, OPERATIONS = 1200, 32, 4


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Arithmetic stories of four operations, taught pass by pass"
    config.question = "Do labels at every pass let passes chain four operations, where one pass with the same labels and compute does not?"
    rise = tuple(step * BATCH for step in (120, 300, 480, 660))
    config.base = presets.cpu_size(
        "gsm", dict(ops=(0, OPERATIONS), length=(40, 110), places=8, things=8, limit=40, fillers="alike", window=112, answer_alone=True, ops_rise=rise), steps=STEPS, batch_size=BATCH,
    )
    config.base.model.sleep.passes, config.base.model.head_dim = OPERATIONS + 1, 64
    # sums and products of numbers up to 40 are a table to learn
    config.base.model.mlp_width = 256
    config.arms = taught.arms(OPERATIONS)
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config
