"""One training step as a pure function on a pytree, whatever is learnt toward and whatever may change."""
import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sleepnet import adapters, build, methods, optim
from sleepnet.config import AdaptersConfig, RunConfig
from sleepnet.errors import UsageError
from sleepnet.mesh import BATCH, constrain, over_data
from sleepnet.methods.base import Batch, Method, Problem
from sleepnet.tasks.base import Task
from sleepnet.tasks.source import Source


REFERENCES = "references"  # where the frozen tree of a step has what its method names; all else there is the adapters'


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params", "opt_state", "step", "bad_step"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes.

    Attributes:
      params: nested dict of float32 arrays: what may change, see `sleepnet.adapters`.
      opt_state: the optimiser's; of a method with a memory {"optimizer": the optimiser's, "memory": the method's}.
      step: int32 scalar, steps taken.
      bad_step: int32 scalar, the first step with a loss, gradient or update that was not finite, −1 without one. From there on the
        state stands still, so the tensor at fault can be looked up.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    bad_step: jax.Array


@dataclasses.dataclass(frozen=True)
class Learning:
    """How a step is computed: the static half of it.

    Attributes:
      method: toward what.
      problem: of which model and task.
      adapters: what of the model may change.
      optimizer: how.
      accumulate: microbatches that a batch is computed in, one after the other.
      every: steps from one of the method's nights to the next; 0: it has none.
      dusk: of them, those before its night.
    """

    method: Method
    problem: Problem
    adapters: AdaptersConfig
    optimizer: optax.GradientTransformation
    accumulate: int = 1
    every: int = 0
    dusk: int = 0

    def begin(self, params: Any, batch_size: int) -> TrainState:
        """The state before the first step; `params` as `TrainState` has them."""
        opt_state, memory = self.optimizer.init(params), jax.tree.map(jnp.copy, self.method.memory(batch_size, params))  # a step donates each buffer once
        return TrainState(params, _kept(opt_state, memory), jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))

    def evening(self, state: TrainState) -> TrainState:
        """The state that the step is computed from: behind a night, where one falls before it."""
        if not self.every:
            return state

        def fall(state: TrainState) -> TrainState:
            memory = _parts(state.opt_state)[1]
            params = self.method.night(state.params, memory)
            return dataclasses.replace(state, params=params, opt_state=_kept(self.optimizer.init(params), memory))

        return jax.lax.cond(state.step % self.every == self.dusk, fall, lambda state: state, state)

    def whole(self, params: Any, frozen: Any) -> Any:
        """The model's parameters."""
        return adapters.whole(self.adapters, params, {name: tree for name, tree in frozen.items() if name != REFERENCES})

    def within(self, frozen: Any, memory: Any = ()) -> Problem:
        """The problem as a step sees it: with the method's references and arrays."""
        return dataclasses.replace(self.problem, references=frozen.get(REFERENCES, {}), memory=memory)


def learning_of(config: RunConfig, task: Source) -> Learning:
    """How the run computes its steps; raises UsageError where its method can't train it."""
    method = methods.of(config)
    if not isinstance(task, Task):
        if not method.any_source:
            raise UsageError(f"method.name={config.method.name!r} learns toward answers, of which task {task.name} has none: set it to 'answers', which predicts what comes next")
        if config.train.keep_best:
            raise UsageError(f"train.keep_best={config.train.keep_best!r} ranks by answers, of which task {task.name} has none: leave it empty")
    method.check(config, task)
    graph = nnx.split(nnx.eval_shape(lambda: build.model_of(config, task)), nnx.Param)[0]
    every, dusk = method.every(config, task), method.dusk(config, task)
    return Learning(method, Problem(graph, task), config.adapters, optim.optimizer(config.optim, every - dusk or config.train.steps), config.train.accumulate, every, dusk)


def _kept(opt_state: Any, memory: Any) -> Any:
    return {"optimizer": opt_state, "memory": memory} if jax.tree.leaves(memory) else opt_state


def _parts(opt_state: Any) -> tuple[Any, Any]:
    return (opt_state["optimizer"], opt_state["memory"]) if isinstance(opt_state, dict) else (opt_state, ())


def draw(seed: int, phase: str, step: int) -> np.ndarray:
    """uint32 [4] that a step's randomness is made from: the seed's halves, the phase's name, the step."""
    high, low = divmod(seed, 1 << 32)
    return np.array([low, high, zlib.crc32(phase.encode()), step], np.uint32)


def _key(words: jax.Array | None) -> jax.Array | None:
    """The key of a step's randomness, of `draw`."""
    if words is None:
        return None
    return functools.reduce(jax.random.fold_in, [words[i] for i in range(1, 4)], jax.random.key(words[0]))


def split(batch: Batch, parts: int) -> Batch:
    """[B, …] → [parts, B / parts, …]: part i has the rows i, i + parts, …, so each device goes on with rows that it holds."""
    rows = batch["tokens"].shape[0] // parts
    cut = lambda x: jnp.swapaxes(x.reshape(rows, parts, *x.shape[1:]), 0, 1)
    return {key: constrain(cut(value), None, BATCH, *(None,) * (value.ndim - 1)) for key, value in batch.items()}


def prepared(learning: Learning, state: TrainState, frozen: Any, batch: Batch, words: jax.Array | None, passes: int) -> tuple[Batch, Any]:
    """The batch with all that the loss needs, and the method's memory after the step."""
    memory = _parts(state.opt_state)[1]
    if not learning.method.prepares:
        return batch, memory
    params = jax.lax.stop_gradient(learning.whole(state.params, frozen))
    return learning.method.prepare(learning.within(frozen), params, memory, batch, _key(words), passes)


def gradients(learning: Learning, params: Any, frozen: Any, batch: Batch, passes: int, memory: Any = ()) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """Loss, gradient and the method's numbers of a prepared batch, computed in `accumulate` parts; equal to one part up to rounding."""
    method = learning.method

    def of(held, batch, count):
        params, frozen, memory = held
        problem = learning.within(frozen, memory)
        value_and_grad = jax.value_and_grad(lambda params: method.loss(problem, learning.whole(params, frozen), batch, passes, count), has_aux=True)
        (loss, seen), grads = value_and_grad(params)
        return loss, grads, method.tell(problem, batch, seen, count)

    def share(held, batch, count):
        if learning.accumulate == 1:
            return of(held, batch, count)
        parts = split(batch, learning.accumulate)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(of, held, jax.tree.map(lambda x: x[0], parts), count))
        return jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, of(held, part, count)), None), zeros, parts)[0]

    loss, grads, numbers = over_data(share, (params, frozen, memory), batch, method.count(batch))
    whole = {key: numbers[key].astype(jnp.int32) for key in ("exact", "answered") if key in numbers}
    return loss, grads, numbers | whole


def make_step(learning: Learning) -> Callable[[TrainState, Any, Batch, jax.Array | None, int], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles `step(state, frozen, batch, words, passes) → (state, numbers)`; `words` as `draw` gives them, None for a method without randomness, `passes` static, `state` donated.

    Numbers, one scalar each: loss, gradient_norm (before clipping), and what the method tells: exact and answered (answers right, and asked), its `tells`.
    """

    @functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
    def step(state: TrainState, frozen: Any, batch: Batch, words: jax.Array | None, passes: int):
        dusk, state = state, learning.evening(state)
        batch, memory = prepared(learning, state, frozen, batch, words, passes)
        loss, grads, numbers = gradients(learning, state.params, frozen, batch, passes, memory)
        norm = optax.global_norm(grads)
        before = _parts(state.opt_state)[0]
        updates, opt_state = learning.optimizer.update(grads, before, state.params)
        params = adapters.moved(learning.adapters, state.params, optax.apply_updates(state.params, updates))
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.global_norm(params)) & (state.bad_step < 0)
        if (moves := learning.method.moves(batch)) is not None:
            params, opt_state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), (params, opt_state), (state.params, before))
        moved = TrainState(params, _kept(opt_state, memory), state.step + 1, state.bad_step)
        stopped = dataclasses.replace(dusk, bad_step=jnp.where(state.bad_step < 0, state.step, state.bad_step))
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, stopped), {"loss": loss, "gradient_norm": norm, **numbers}

    return step


def first_bad_tensor(learning: Learning, state: TrainState, frozen: Any, batch: Batch, words: jax.Array | None, passes: int) -> str:
    """The name of the first tensor that is not finite: parameters, what the loss is computed from, loss, gradients, updated parameters, each in tree order."""

    @jax.jit
    def compute(state, frozen):
        state = learning.evening(state)
        ready, memory = prepared(learning, state, frozen, batch, words, passes)
        count = learning.method.count(ready)
        value_and_grad = jax.value_and_grad(lambda p: learning.method.loss(learning.within(frozen, memory), learning.whole(p, frozen), ready, passes, count), has_aux=True)
        (loss, seen), grads = value_and_grad(state.params)
        updates, _ = learning.optimizer.update(grads, _parts(state.opt_state)[0], state.params)
        return {name: value for name, value in ready.items() if name not in batch}, seen, loss, grads, optax.apply_updates(state.params, updates)

    made, seen, loss, grads, moved = compute(state, frozen)
    kinds = ("parameter", learning.whole(state.params, frozen)), ("prepared", made), ("", seen), ("loss", loss), ("gradient of", grads), ("update of", moved)
    for kind, tree in kinds:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not bool(jnp.all(jnp.isfinite(leaf))):
                return f"{kind} {jax.tree_util.keystr(path, simple=True, separator='.')}".strip()
    return "nothing at fault when computed again"
