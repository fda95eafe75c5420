"""Rule 110 on a ring of 24 cells, taught pass by pass: pass j says the row after j − 1 steps, and nobody says when to stop but the number of passes.

Trained with N = 3, 6 and 9 (t = 2, 5, 8), asked with up to 129 (t = 128). One attention and one fast-weight block, two heads of 64; states are
kept from the tests by hash (2^24, of which training draws 80,000). An answer is a whole row: all 24 cells right, awake, at one pass a token.

Command:   python -m sleepnet.study --config=experiments/rule110_taught.py
Hardware:  two CPU cores, a core a run
Wall time: 5 minutes a run
"""
from sleepnet import presets
from sleepnet.study import spec

STEPS, BATCH = 2500, 32
TRAINED, ASKED = (3, 6, 9), (3, 6, 9, 13, 17, 33, 65, 129)

TAUGHT = dict(name="taught", label="a label at every pass", overrides={"method.name": "taught"})


def arm(name, label, **overrides):
    """An arm that is taught, but for `overrides`, dotted keys with __ for the dot."""
    return dict(name=name, label=label, overrides={"method.name": "taught"} | {key.replace("__", "."): value for key, value in overrides.items()})


def get_config():
    """The study's configuration."""
    config = spec.default()
    config.title = "Rule 110, taught pass by pass"
    config.question = "Do the passes of sleep become the algorithm, so that more of them compute further than was trained?"
    config.base = presets.cpu_size("rule110", dict(width=24, strings=1, cells=24, steps=8, follow_passes=True, graded="rows"), steps=STEPS, batch_size=BATCH)
    config.base.train.random_passes, config.base.train.passes_rise = TRAINED, (400, 800)
    config.base.model.sleep.passes = 9
    # heads of 32 learn t = 8 as well, but keys of 24 cells crowd in them, and rows are lost far beyond
    config.base.model.head_dim, config.base.model.turn_keys = 64, "windows"
    config.base.eval.examples = 4096
    config.base.eval.passes = ASKED
    config.arms = [
        TAUGHT,
        dict(name="untaught", label="labels at the answer alone, the same passes", overrides={}),
        arm("wrong_reference", "labels of another row", method__arguments={"labels": "wrong_reference"}),
        arm("reversed", "labels in reversed order", method__arguments={"labels": "reversed"}),
        arm("fade", "labels that fade to nothing by step 1,250", method__arguments={"fade_from": 800, "fade_until": 1250}),
        arm("one_pass_back", "gradients through one pass alone", model__sleep__gradient="last"),
        arm("half_rate", "half the rate", optim__learning_rate=7.5e-3, optim__adam_rate=1.125e-3),
        arm("longer", "a label at every pass, 3,500 steps", train__steps=3500),
        arm("twice_rate", "twice the rate", optim__learning_rate=3e-2, optim__adam_rate=4.5e-3),
    ]
    config.seeds, config.reference = (0, 1, 2), "taught"
    return config
