"""The runs that experiments start from: one that a CPU core trains in minutes, one at the paper's size."""
from typing import Any

import ml_collections

from sleepnet import config as run_config

_WIDTHS = {256: 4, 512: 8}  # D → heads of 64


def cpu_size(task: str, arguments: dict[str, Any], *, steps: int, batch_size: int) -> ml_collections.ConfigDict:
    """Returns a run of one attention and one fast-weight block, D = 64, about 90,000 parameters.

    Args:
      task, arguments: name and arguments of what is trained and graded.
      steps, batch_size: how long, and sequences a step.
    """
    config = _run(task, arguments, steps, batch_size)
    config.model.pattern = "AG"
    config.optim.learning_rate = 1.5e-2
    config.optim.adam_rate = 2.25e-3
    config.optim.decay = 0.4
    config.train.save_every = 250
    config.train.eval_every = 250
    config.train.keep = 1
    config.eval.examples = 4096
    return config


def paper_size(task: str, arguments: dict[str, Any], *, pattern: str, width: int, steps: int, batch_size: int) -> ml_collections.ConfigDict:
    """Returns a run of N = 4 with the paper's rates: Muon 2e-3, AdamW 5e-5.

    Layers, D, L and batch are what the paper gives for Rule-110 (4 layers, D = 256) and Depo (10 layers, D = 512), arXiv 2605.26099. Heads of
    64, an MLP of 3 D, norms, schedule and what goes round the loop are ours; `model.sleep.carry = "hidden"` is the paper's loop. Each pass is
    recomputed in the backward pass.

    Args:
      task, arguments: name and arguments of what is trained and graded.
      pattern: the blocks, A attention and G fast weights.
      width: D, 256 or 512.
      steps, batch_size: how long, and sequences a step.
    """
    config = _run(task, arguments, steps, batch_size)
    config.model.pattern = pattern
    config.model.width = width
    config.model.heads = _WIDTHS[width]
    config.model.head_dim = 64
    config.model.mlp_width = 3 * width
    config.model.sleep.passes = 4
    config.model.sleep.remat = True
    config.optim.learning_rate = 2e-3
    config.optim.adam_rate = 5e-5
    config.optim.warmup = 1000
    config.train.save_every = 1000
    config.train.eval_every = 1000
    config.eval.examples = 1600
    config.eval.batch_size = batch_size
    return config


def _run(task: str, arguments: dict[str, Any], steps: int, batch_size: int) -> ml_collections.ConfigDict:
    config = run_config.default()
    config.task.name = task
    config.task.arguments = arguments
    config.train.steps = steps
    config.train.batch_size = batch_size
    return config
