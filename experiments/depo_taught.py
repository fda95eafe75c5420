"""Depo on 24 nodes, taught pass by pass: pass j says, at each edge, the node j − 1 hops on from where it leads, and N passes are asked for N − 1 hops.

Trained with N = 2, 3, 5 and 9 on cycles of 4 … 24 nodes, asked with up to 17 on 24. With labels at the answer alone
N = 8 reaches eight hops on 12 nodes at .32 (depo_staircase.py). The query does not tell k, the passes do (`follow_passes`), so S need hold one answer a node.
One pass can't be asked so: its arms are asked for eight hops, always. `heads` gets the very same labels, of eight steps, from one pass: each step through a
readout of its own. `windows` tells the same edges in two windows, of which the first has slept and is gone before the second is read.

Command:   python -m sleepnet.study --config=experiments/depo_taught.py
Hardware:  two CPU cores, a core a run
Wall time: a quarter of an hour a run
"""
from sleepnet import presets
from sleepnet.study import spec, taught

STEPS, BATCH = 2400, 32
TRAINED, ASKED = (2, 3, 5, 9), (2, 3, 5, 9, 13, 17)


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Eight hops and more on 24 nodes, taught pass by pass"
    config.question = "Do labels at every pass let passes follow a cycle of 24 nodes for eight hops and more, where one pass with the same labels and compute does not?"
    most = max(TRAINED)
    config.base = presets.cpu_size(
        "depo", dict(nodes=24, hops=1, follow_passes=True, queries=8, names=32, name_tokens=(1, 1), nodes_law="inverse", min_nodes=4, window=48), steps=STEPS, batch_size=BATCH,
    )
    config.base.model.sleep.passes, config.base.model.head_dim = most, 64
    config.base.train.random_passes, config.base.train.passes_rise = TRAINED, (400, 700, 1000)
    config.base.eval.examples, config.base.eval.passes = 2048, ASKED
    config.arms = taught.arms(
        most - 1, once=taught.ALWAYS_ONCE, asked={"eight": {"task.arguments.follow_passes": False, "task.arguments.asked": most - 1}},
        more=[dict(name="windows", label="a label at every pass, edges in two windows", overrides=taught.TAUGHT, phases=[dict(name="two", overrides={"task.arguments.window": 24})])],
    )
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config
