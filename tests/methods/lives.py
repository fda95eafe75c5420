"""The beginning of a run whose steps are made by hand: what the tests of methods that live through days share."""
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from sleepnet import adapters, build
from sleepnet.config import RunConfig
from sleepnet.train.step import Learning, learning_of, make_step


def begin(config: RunConfig) -> tuple[Learning, Any, dict, Callable]:
    """(learning, its state, what is frozen, the step) of a run from fresh parameters; under the promotions that optax's Muon needs."""
    task = build.task_of(config)
    learning = learning_of(config, task)
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    trainable, frozen = adapters.split(config.adapters, params, 0)
    return learning, learning.begin(trainable, config.train.batch_size), frozen, make_step(learning)
