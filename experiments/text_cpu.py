"""Text, byte by byte: the standard library of the running Python in windows of 64 bytes, N = 4 passes of sleep behind each that predicts.

Command:   python -m sleepnet.train --config=experiments/text_cpu.py --workdir=runs/text/sleep        (and :few, :once, :sliding, :full, each with its --workdir)
Graded:    python -m sleepnet.eval --workdir=runs/text/sleep --beside=runs/text/few,runs/text/once,runs/text/sliding,runs/text/full
Hardware:  one CPU core
Wall time: 4 minutes (few) to 12 an arm, two arms side by side on two cores; 1.14e13 FLOPs each, twice those of a quickstart's, but for few
Score:     seed 0, nats a byte of held-out files behind the first window: N = 4 1.975, one pass on as many bytes 1.976, one pass with as many FLOPs 1.668,
           sliding cache 1.676, full cache 1.737
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
