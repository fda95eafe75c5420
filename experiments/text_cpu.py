"""Text, byte by byte: the standard library of the running Python in windows of 64 bytes, N = 4 passes of sleep behind each that predicts.

Command:   python -m sleepnet.train --config=experiments/text_cpu.py --workdir=runs/text/sleep        (and :few, :once, :sliding, :full, each with its --workdir)
Graded:    python -m sleepnet.eval --workdir=runs/text/sleep --beside=runs/text/few,runs/text/once,runs/text/sliding,runs/text/full
Hardware:  one CPU core
Wall time: 1.14e13 FLOPs an arm, twice those of a quickstart's: about 10 minutes on an idle core. Not timed: what was run shared two cores with many others
Score:     of a fifth of the steps (--config.train.steps=120, 120, 391, 355, 270 in the order of the arms), seed 0, nats a byte of held-out files behind the first
           window: N = 4 2.838, one pass on as many bytes 2.831, one pass with as many FLOPs 2.164, sliding cache 2.234, full cache 2.574
"""
from sleepnet import presets
from sleepnet.errors import UsageError

BATCH = 16
# arm → steps, as many FLOPs as `sleep` has, but for `few`, which reads as many bytes; and model keys
ARMS = {
    "sleep": (600, {}),
    "few": (600, {"sleep.passes": 1}),
    "once": (1957, {"sleep.passes": 1}),
    "sliding": (1777, {"sleep.passes": 1, "pattern": "AA", "sleep.eviction": "sliding"}),
    "full": (1351, {"sleep.passes": 1, "pattern": "AA", "sleep.eviction": "none"}),
}


def get_config(arm: str = "sleep"):
    """The run's configuration; `arm` is sleep, few (one pass, as many bytes), once (one pass, as many FLOPs), sliding or full (attention alone)."""
    if arm not in ARMS:
        raise UsageError(f"experiments/text_cpu.py:{arm}: there is {', '.join(ARMS)}")
    steps, model = ARMS[arm]
    config = presets.cpu_size("text", dict(tokens="", window=64, windows=8), steps=steps, batch_size=BATCH)
    config.model.pad_id = -1
    config.model.sleep.after_predicting = True
    config.model.sleep.passes = 4
    for key, value in model.items():
        config.update_from_flattened_dict({f"model.{key}": value})
    config.train.save_every = 100
    config.train.eval_every = 100
    config.train.eval_examples = 128
    config.eval.batch_size = 32
    return config
