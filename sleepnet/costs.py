"""What a run's steps cost: FLOPs of its method, with the passes that each step takes."""
import numpy as np

from sleepnet import build, methods
from sleepnet.config import RunConfig


def passes_at(config: RunConfig, step: int) -> int:
    """N of a step: `model.sleep.passes`, or one of `train.random_passes`, drawn by (seed, step) alone."""
    if not config.train.random_passes:
        return config.model.sleep.passes
    return int(np.random.default_rng((config.seed, step)).choice(_drawn(config, step)))


def _drawn(config: RunConfig, step: int) -> tuple[int, ...]:
    """What a step's N is drawn from: with `train.passes_rise` the largest come later."""
    drawn, rise = config.train.random_passes, config.train.passes_rise
    return drawn if not rise else tuple(sorted(set(drawn)))[: len(set(drawn)) - sum(step < since for since in rise)]


def of_step(config: RunConfig) -> dict[int, int]:
    """N → FLOPs of a step with so many passes, forward and backward, all that its method prepares counted; see `sleepnet.models.flops`."""
    task, method = build.task_of(config), methods.of(config)
    model = build.fit(config.model, task)
    return {passes: method.flops(model, task, passes) * config.train.batch_size for passes in config.all_passes}


def of_steps(config: RunConfig, steps: int) -> int:
    """FLOPs of the first `steps` steps, looks at the validation split not counted."""
    costs = of_step(config)
    return sum(costs[passes_at(config, step)] for step in range(steps)) if len(costs) > 1 else steps * sum(costs.values())


def expected(config: RunConfig) -> float:
    """FLOPs of a step; with `train.random_passes`, the mean over what is drawn from, and with `train.passes_rise` over the run's steps."""
    costs, steps = of_step(config), config.train.steps
    starts = [0, *(since for since in config.train.passes_rise if since < steps)]
    total = 0.0
    for start, stop in zip(starts, [*starts[1:], steps]):
        drawn = _drawn(config, start) or config.all_passes
        total += (stop - start) * sum(costs[passes] for passes in drawn) / len(drawn)
    return total / steps
