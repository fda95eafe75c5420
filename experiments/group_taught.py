"""Products of 16 elements of A5, taught pass by pass: pass j says the product of the j elements that end at each place, so that every pass does the same, one place further.

The word problem of A5 is complete for NC¹: no fixed depth is known to do it, and without labels at the passes nothing here has learnt more than four
elements (group_cpu.py). Training starts with N = 2 (the table of A5) and goes up to N = 16, the N of the test. `heads` gets the very same labels from
one pass: each step through a readout of its own.

Found so far (`taught`, seed 0): the passes do it, the answer awake does not. At the end of training .99999 of all labels of all passes are right, products of
16 included, on words never seen before; asked awake, the product is a guess (.014). While N is below 16 the answer can't be known, and what is left of
training, as well as 300 further steps with N = 17 alone (a look, of which nothing was kept), did not teach the question to read the last place of S. No control has run.

Command:   python -m sleepnet.study --config=experiments/group_taught.py
Hardware:  two CPU cores, a core a run
Wall time: a quarter of an hour a run
"""
from sleepnet import presets
from sleepnet.study import spec

STEPS, BATCH, PASSES = 2400, 64, 16
TAUGHT = {"method.name": "taught"}


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Products of 16 in A5, taught pass by pass"
    config.question = "Do labels at every pass let passes multiply sixteen elements of a non-solvable group, where one pass with the same labels and compute does not?"
    config.base = presets.cpu_size("group", dict(group="A5", length=PASSES, spans="growing"), steps=STEPS, batch_size=BATCH)
    config.base.model.sleep.passes = PASSES
    # the table of A5 has 3,600 entries, and an MLP of 128 is too narrow to learn them soon
    config.base.model.mlp_width = 384
    config.base.train.random_passes, config.base.train.passes_rise = (2, 4, 8, PASSES), (600, 800, 1000)
    once = {"model.sleep.passes": 1, "train.random_passes": (), "train.passes_rise": ()}
    config.arms = [
        dict(name="taught", label="a label at every pass", overrides=TAUGHT),
        dict(name="untaught", label="labels at the answer alone, the same passes", overrides={}),
        dict(name="heads", label="the same labels as further heads of one pass, as much compute", overrides={**TAUGHT, **once, "method.arguments": {"labels": "heads", "heads": PASSES - 1}}, match="taught"),
        dict(name="once_matched", label="one pass, labels at the answer alone, as much compute", overrides=once, match="taught"),
    ]
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config
