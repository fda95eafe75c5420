"""What every method offers: the contract between what is learnt toward and the one loop that trains.

Letters: B rows of a batch, T tokens of a row, V vocabulary, N passes of a sleep.
"""
import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet.config import ModelConfig, RunConfig
from sleepnet.errors import UsageError
from sleepnet.models import flops
from sleepnet.tasks.base import Task
from sleepnet.tasks.source import Source

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a method is asked about: a model and a task. Static: nothing in it is traced.

    Attributes:
      graph: the model without its parameters.
      task: what the batches are of.
      references: within a step, parameters that the method names and never changes, by the name of its argument (see `Method.references`); values of the
        compiled program, no constants of it.
      memory: within `loss` and `tell`, what `prepare` gave for the method's arrays (see `Method.memory`).
    """

    graph: nnx.GraphDef
    task: Source
    references: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    memory: Any = dataclasses.field(default=(), compare=False, repr=False)

    def forward(self, params: Any, tokens: jax.Array, passes: int | jax.Array) -> jax.Array:
        """[B, T, V] logits of Algorithm 1 at the task's layout; zeros in windows that sleep."""
        return nnx.merge(self.graph, params).forward(tokens, passes=passes, predicts=self.task.predicts)

    def predicted(self, params: Any, tokens: jax.Array, passes: int | jax.Array) -> tuple[jax.Array, np.ndarray | None]:
        """The logits of `forward`, and None; or, of a model that `spares` the zeros, [B, P, V] alone, where something is predicted, and the P places."""
        model, predicts = nnx.merge(self.graph, params), self.task.predicts
        if not model.spares(predicts):
            return model.forward(tokens, passes=passes, predicts=predicts), None
        return model.predicted_logits(tokens, passes=passes, predicts=predicts)

    def forward_each(self, params: Any, tokens: jax.Array, passes: int) -> tuple[jax.Array, jax.Array]:
        """The same logits, and what every pass wrote, [N, B, T', D] over the T' tokens of windows that sleep."""
        return nnx.merge(self.graph, params).forward_each(tokens, passes=passes, predicts=self.task.predicts)

    def pass_logits(self, params: Any, hidden: jax.Array) -> jax.Array:
        """[…, V] logits that the model's own norm and head read from what a pass wrote, […, D]."""
        return nnx.merge(self.graph, params).pass_logits(hidden)


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A method: its arguments are the fields of a frozen dataclass, each with a comment, what it does are pure functions.

    A step of the loop is, all in one compiled program:

        batch         = a task's, with what `draw` adds
        batch, memory = prepare(problem, params, memory, batch, key, passes)        whole batch, no gradient: samples, rewards, a teacher's logits
        n             = count(batch)
        loss          = Σ over devices and microbatches of  loss(…, part, passes, n)[0]        problem.memory: what prepare gave
        numbers       = Σ over the same of  tell(problem, part, seen)
        the optimiser moves what `config.adapters` lets change; not at all where `moves(batch)` is False

    A method with nights changes what may change, `dusk` steps behind step 0 and each `every` steps; the optimiser then begins anew, its rates too:

        params        = night(params, memory)

    so nothing of a method knows of devices, microbatches, resuming or what is frozen: it is given whole parameters, with adapters merged.
    Whatever `prepare` adds to a batch has rows first. Everything random comes from `key`, which is made of (seed, phase, step); fold a row's number into it.

    Attributes:
      name: what `sleepnet.methods.get` calls it.
      prepares: whether it has a `prepare` of its own; without one no key is made.
      tells: names of the numbers of a step that `tell` gives, beside loss, exact, answered and gradient_norm.
      looks: names of the numbers that a look at the validation split tells besides, see `look`; a method that has some is looked at before its first step, too.
      graded: chains of each test prompt that the outcome of a run in a study tells pass@k by; 0: none.
      references: arguments of it that name other weights of the same shapes, a teacher or a reference policy: a run's folder, a trained model of the zoo,
        "start" for what the run itself starts from, or "" for none. They are read when a run begins and goes on, must be the same then by digest, are never
        saved, and stand in `problem.references` of `prepare`, `loss` and `tell`.
      any_source: whether it can do with a source that is no benchmark, text, which has no answers: see `sleepnet.tasks.source`.
    """

    name: ClassVar[str]
    prepares: ClassVar[bool] = False
    tells: ClassVar[tuple[str, ...]] = ()
    references: ClassVar[tuple[str, ...]] = ()
    any_source: ClassVar[bool] = False
    graded: ClassVar[int] = 0
    looks: ClassVar[tuple[str, ...]] = ()

    def check(self, config: RunConfig, task: Task) -> None:
        """Raises UsageError, with the key and the fix, where the run is none that the method can train."""

    def check_start(self, config: RunConfig, task: Task, params: Any) -> None:
        """Raises UsageError where `params`, what may change as it is before the first step, is nothing that the run can go through with."""

    def check_model(self, config: RunConfig, problem: Problem, params: Any) -> None:
        """As `check_start`, of the whole model and with the method's references: raises UsageError where these are, before the first step, nothing that it could learn from."""

    def check_reference(self, argument: str, config: RunConfig, task: Task, known: Task, model: ModelConfig) -> None:
        """Raises UsageError where what `argument` of `references` names, a model `model` that was trained on `known`, is nothing that the method can do with."""

    def every(self, config: RunConfig, task: Task) -> int:
        """Steps from one night to the next; 0: there is none."""
        return 0

    def dusk(self, config: RunConfig, task: Task) -> int:
        """Steps of each `every` that come before its night."""
        return 0

    def night(self, params: Any, memory: Any) -> Any:
        """What may change, as the steps to the next night begin with it: a tree of the same shapes. Computed within the step, from that tree and the method's memory alone."""
        return params

    def keeps(self, task: Task, trained: int) -> int:
        """Bytes of earlier days that a stream's last day still needs beside the parameters, of which `trained` may change: the examples that are replayed, as int32."""
        return self._replayed(task, task.seq_len)

    @staticmethod
    def _replayed(task: Task, tokens: int) -> int:
        return 4 * tokens * task.kept * (task.days - 1) if getattr(task, "replay", 0) else 0

    def examined(self, task: Task) -> Task:
        """What the looks at the validation split ask: a task of the same vocabulary and window."""
        return task

    def look(self, config: RunConfig, problem: Problem, params: Any) -> dict[str, float]:
        """What a look at the validation split tells besides, by the names of `looks`; `params` of the whole model, `problem` with the method's references."""
        return {}

    def chosen(self, config: RunConfig, problem: Problem, params: Any) -> list[str]:
        """The heads' slices, "NAME#head", that may change with `adapters.kind=heads`: a share of those that `adapters` names, as the run begins.

        Raises:
          UsageError: the method has no choice to make, or nothing to make it by.
        """
        raise UsageError(f"adapters.kind='heads' lets the method choose, and method.name={config.method.name!r} has no choice: set adapters.kind to 'named', or method.name to 'unlearn'")

    def memory(self, batch_size: int, params: Any) -> Any:
        """Arrays of its own that the method carries from step to step: a pytree, () for none. They are saved with the optimiser's. `params`: what may change."""
        return ()

    def draw(self, task: Task, config: RunConfig, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What the loss reads of the task beyond its `fields`, by name, rows first: drawn on the host with the batch, a function of it alone."""
        return {}

    def prepare(self, problem: Problem, params: Any, memory: Any, batch: Batch, key: jax.Array | None, passes: int) -> tuple[Batch, Any]:
        """What the loss needs and no gradient goes through, added to the batch, and the memory after the step."""
        return batch, memory

    def count(self, batch: Batch) -> jax.Array:
        """What the loss of the whole batch is divided by: float32 scalar."""
        return jnp.sum(batch["loss_mask"].astype(jnp.float32))

    def moves(self, batch: Batch) -> jax.Array | None:
        """Whether a prepared batch moves anything, bool scalar; where it is False parameters and the optimiser's whole state stay bit for bit. None: always."""
        return None

    @abc.abstractmethod
    def loss(self, problem: Problem, params: Any, batch: Batch, passes: int, count: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """This part's share of the loss.

        Args:
          problem: see there.
          params: of the whole model.
          batch: some rows of the prepared batch.
          passes: N, static.
          count: of the whole batch; shares of the parts add up to the loss.

        Returns:
          float32 scalar, and what was computed on the way by name: `tell` reads it, and where a step is not finite it is searched, in this order.
        """

    @abc.abstractmethod
    def tell(self, problem: Problem, batch: Batch, seen: Mapping[str, jax.Array], count: jax.Array) -> dict[str, jax.Array]:
        """Numbers of this part, float32 scalars that add up over the parts: `tells`, and exact and answered (answers right, answers asked) where there are such."""

    @abc.abstractmethod
    def flops(self, model: ModelConfig, task: Task, passes: int) -> int:
        """FLOPs of one row of a step, all that `prepare` does counted: controls of equal compute are made of it."""


def read_and_learn(model: ModelConfig, task: Task, passes: int) -> int:
    """FLOPs of one row whose loss is of one pass of Algorithm 1, forward and backward; see `sleepnet.models.flops.train_flops`."""
    return flops.train_flops(model, task.predicts, task.seq_len, passes)


def read(model: ModelConfig, task: Task, passes: int) -> int:
    """FLOPs of one row that is only read."""
    return flops.forward_flops(model, task.predicts, task.seq_len, passes)
