"""Products of 16 elements of A5, taught pass by pass: pass j says the product of the j elements that end at each place, so that every pass does the same, one place further.

The word problem of A5 is complete for NC¹: no fixed depth is known to do it, and without labels at the passes nothing here has learnt more than four
elements (group_cpu.py). Whoever sleeps with N passes is asked for the product of the last N elements, so that what is asked can be known at every N;
training has N = 2 (the table of A5), 4 and 8, the test goes up to the whole word, N = 16. One pass can't be asked so: its arms are asked for the whole word,
as the test is. `heads` gets the very same labels, and those of all longer products, from one pass: each step through a readout of its own.

`sooner` has N = 2 for 400 steps and ends at 1,800, where the table has not been learnt with every seed: one of three stays at .055 of the whole words.
`:whole` is the first try, in which every N was asked for the whole word and N went up to 16: the passes learnt it (.99999 of their labels), the answer awake
stayed a guess (.014), for while N is below 16 it can't be known.

Command:   python -m sleepnet.study --config=experiments/group_taught.py
Hardware:  two CPU cores, a core a run
Wall time: a quarter of an hour a run
"""
from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec, taught

STEPS, BATCH, ELEMENTS = 3000, 64, 16
TRAINED, ASKED = (2, 4, 8), (2, 4, 8, 12, ELEMENTS)


def get_config(which="last"):
    """The study's configuration; `which`: last, or whole."""
    if which not in ("last", "whole"):
        raise UsageError(f"group_taught.py:{which} is not one of last, whole")
    config = spec.default()
    config.title = "Products of 16 in A5, taught pass by pass"
    config.question = "Do labels at every pass let passes multiply sixteen elements of a non-solvable group, where one pass with the same labels and compute does not?"
    follow = {"follow_passes": True} if which == "last" else {}
    config.base = presets.cpu_size("group", dict(group="A5", length=ELEMENTS, spans="growing", **follow), steps=STEPS, batch_size=BATCH)
    config.base.model.sleep.passes = max(TRAINED)
    # the table of A5 has 3,600 entries, and an MLP of 128 is too narrow to learn them soon
    config.base.model.mlp_width = 384
    config.base.train.random_passes, config.base.train.passes_rise = TRAINED, (1000, 1400)
    if which == "last":
        config.base.eval.examples, config.base.eval.passes = 4096, ASKED
    config.arms = taught.arms(
        ELEMENTS - 1, once=taught.ALWAYS_ONCE, asked={"whole": {"task.arguments.follow_passes": False}},
        more=[dict(name="sooner", label="a label at every pass, less of training with N = 2 alone", overrides={**taught.TAUGHT, "train.passes_rise": (400, 700), "train.steps": 1800})],
    )
    config.seeds, config.reference = (0, 1, 2), "taught"
    if which == "whole":
        config.base.train.steps, config.base.train.random_passes, config.base.train.passes_rise = 2400, (2, 4, 8, ELEMENTS), (600, 800, 1000)
        config.base.model.sleep.passes = ELEMENTS
        config.arms = config.arms[:1]
    return config
