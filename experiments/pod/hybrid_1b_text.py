"""The hybrid of 1.3 B weights on text: token files instead of puzzles, windows of 2,048 that predict and sleep, L = 2,048, N = 4, 1 M tokens a step.

Tokens:    python -m sleepnet.tasks tokenize --from pages.jsonl --tokenizer=tokenizer.json --out=/mnt/tokens        (or --tfds NAME, .parquet, .array_record)
Command:   python -m sleepnet.train --config=experiments/pod/hybrid_1b_text.py --workdir=DIR --coordinator=auto --config.task.arguments.tokens=/mnt/tokens
Hardware:  as hybrid_1b, whose sizes these are. Parsed, resolved and built without memory; never compiled for a pod, never run
Score:     not trained yet
Choices:   without `tokens` it reads the standard library of the running Python in bytes, so that the command can be tried anywhere; the vocabulary is the token
           file's. A document goes on over eight windows; the sleep behind each is differentiated through, and each window, all its passes at once, is
           computed again in the backward pass, since the loop over windows stacks what it keeps. One pass (model.sleep.passes=1) and the same key read as
           much for less: the control
"""
import importlib.util
from pathlib import Path


def get_config():
    """The run's configuration."""
    spec = importlib.util.spec_from_file_location("hybrid_1b", Path(__file__).with_name("hybrid_1b.py"))
    hybrid = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hybrid)
    config = hybrid.get_config()
    config.task.name = "text"
    config.task.arguments = dict(tokens="", window=2048, windows=8, held_out=64)
    config.model.pad_id = -1
    config.model.window_positions = False
    config.model.remat = "chunk"
    config.model.sleep.after_predicting = True
    config.train.batch_size = 64
    return config
