"""What a run is made of while it trains, beside its state."""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sleepnet import checkpoint, data, sharding
from sleepnet.config import RunConfig
from sleepnet.start import Start
from sleepnet.tasks.source import Source
from sleepnet.train.step import Learning, TrainState, draw


@functools.partial(jax.jit, static_argnums=0)
def _whole(learning: Learning, params: Any, frozen: Any) -> Any:
    return learning.whole(params, frozen)


@dataclasses.dataclass(frozen=True)
class Leg:
    """A run from where it stands to where it stops: all but its state.

    Attributes:
      config, workdir, task: the run.
      learning: how a step is computed.
      begin: where its parameters come from.
      frozen: on the mesh, what the run does not change, and its method's references.
      mesh: the devices.
      source: its batches, by number.
      rows: of each batch, those that this process holds.
      checkpoints: where it is saved.
      told: of a step, whether to stop there.
      quiet: no lines on the terminal.
    """

    config: RunConfig
    workdir: Path
    task: Source
    learning: Learning
    begin: Start
    frozen: Any
    mesh: jax.sharding.Mesh
    source: data.BatchSource
    rows: np.ndarray
    checkpoints: checkpoint.Checkpoints
    told: Callable[[int], bool]
    quiet: bool

    def placed(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch on the mesh."""
        return sharding.place(self.mesh, batch, self.config.train.batch_size, self.rows)

    def draw(self, step: int) -> np.ndarray | None:
        """What the randomness of a step is made from, see `sleepnet.train.step.draw`; None where its method needs none."""
        return draw(self.config.seed, self.config.phase, step) if self.learning.method.prepares else None

    def model(self, state: TrainState) -> nnx.Module:
        """The whole model."""
        params = state.params if self.config.adapters.kind == "all" else _whole(self.learning, state.params, self.frozen)
        return nnx.merge(self.learning.problem.graph, params)
