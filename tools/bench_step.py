r"""What a training step costs: peak memory and time for each N, each policy of recomputing and each gradient through the passes.

Rows in which as many passes get a gradient as there are passes stand under `full` alone. Peak memory is what the compiler asks for: arguments, results that do not take an argument's place, and temporaries. It is exact for the program and says
nothing of other programs on the device. FLOPs are counted (`sleepnet.models.flops`). Rows take turns step by step, so that a slower clock hits all of them;
a time is the median, with half the distance between its quartiles, and a ratio is to the first row.

With --rollout=G, of a task whose answers a model can write behind a chain of its own, tokens a second of CPU time (the least of all runs, in turns) are told besides:
of G continuations a prompt by the house's sampler, prompts read and slept over once; of the same in a Python loop of single jitted steps; and of training.

Examples:
  python tools/bench_step.py --config=experiments/depo_cpu.py
  python tools/bench_step.py --config=experiments/rule110_paper.py --config.train.batch_size=8 --passes=1,4 --remat=none,pass,chunk,named
  python tools/bench_step.py --config=experiments/depo_cpu.py --remat=none --gradient=full,last1,last2,implicit --json=gradients.json
  python tools/bench_step.py --config=experiments/depo_cpu.py --remat=none --passes=4,8 --method=answers,taught
  python tools/bench_step.py --config=experiments/seeds/exprl.py:base --config.train.batch_size=16 --passes=1 --remat=none --rollout=8
"""
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import config_flags

from sleepnet import adapters, build, cli, costs, data, methods, paths, sharding
from sleepnet import mesh as meshes
from sleepnet.config import RunConfig, parse
from sleepnet.decode import Law
from sleepnet.errors import UsageError
from sleepnet.files import write_json
from sleepnet.methods.rl import experience
from sleepnet.state import fork
from sleepnet.train.step import draw, learning_of, make_step

FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "config file of the run", lock_config=True, flag_values=FLAGS)
flags.DEFINE_list("passes", ["1", "2", "4", "8"], "N", flag_values=FLAGS)
flags.DEFINE_list("remat", ["none", "pass", "chunk", "named"], "policies, values of model.remat", flag_values=FLAGS)
flags.DEFINE_list("gradient", ["full"], "gradients through the passes: full, lastK (the last K passes), implicit", flag_values=FLAGS)
flags.DEFINE_list("method", [], "names of methods, with their default arguments, a row of each; by default the config's own", flag_values=FLAGS)
flags.DEFINE_integer("rollout", 0, "G, continuations of each prompt that are drawn; 0: none are", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("steps", 10, "steps that are timed, for each row; 0: memory alone", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("json", None, "file for the figures", flag_values=FLAGS)


@dataclasses.dataclass
class Row:
    """One way to take a step.

    Attributes:
      gradient, remat, passes, method: what it is.
      flops: of a step, without the optimiser.
      bytes: peak memory.
      compile_seconds: of tracing, lowering and compiling.
      step: the compiled step, with its state.
    """

    gradient: str
    remat: str
    passes: int
    flops: int
    bytes: int
    compile_seconds: float
    step: Any
    state: Any
    method: str = ""
    seconds: list[float] = dataclasses.field(default_factory=list)


def _gradient(word: str) -> tuple[str, int]:
    """(model.sleep.gradient, gradient_passes) of full, implicit or lastK."""
    kind, count = ("last", word[4:]) if word.startswith("last") else (word, "1")
    if not count.isdigit():
        raise UsageError(f"--gradient={word} must be full, implicit or lastK, for instance last1")
    return kind, int(count)


def _with(config: RunConfig, gradient: str, remat: str, passes: int, method: str = "") -> RunConfig:
    kind, count = _gradient(gradient)
    sleep = dataclasses.replace(config.model.sleep, passes=passes, gradient=kind, gradient_passes=count, remat=False)
    learnt = dataclasses.replace(config.method, name=method, arguments={}) if method else config.method
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat, sleep=sleep), method=learnt)


def drawn(configs: list[RunConfig], batch: Any) -> dict[str, Any]:
    """What the methods of all these runs read of the task beyond its fields."""
    return {key: values for config in configs for key, values in methods.of(config).draw(build.task_of(config), config, batch).items()}


def row_of(config: RunConfig, gradient: str, remat: str, passes: int, batch: Any, method: str = "") -> Row:
    """Compiles the step that `sleepnet.train` would take."""
    config = _with(config, gradient, remat, passes, method)
    task = build.task_of(config)
    learning = learning_of(config, task)
    trainable, frozen = adapters.split(config.adapters, nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1]), config.seed)
    state = learning.begin(trainable, config.train.batch_size)
    step = make_step(learning)
    words = draw(config.seed, config.phase, 0) if learning.method.prepares else None
    began = time.perf_counter()
    compiled = step.lower(state, frozen, batch, words, passes).compile()
    seconds, memory = time.perf_counter() - began, compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return Row(gradient, remat, passes, costs.of_step(config)[passes], peak, seconds, lambda state, batch: compiled(state, frozen, batch, words), state, config.method.name)


def measure(rows: list[Row], batch: Any, steps: int) -> None:
    """Times `steps` steps of each row, in turns."""
    for count in range(steps + 1):
        for row in rows:
            began = time.perf_counter()
            row.state, numbers = row.step(row.state, batch)
            jax.block_until_ready((row.state, numbers))
            if count:  # the first warms
                row.seconds.append(time.perf_counter() - began)


def rollouts(config: RunConfig, group: int, batch: Any) -> dict[str, tuple[int, Callable[[], jax.Array]]]:
    """(tokens drawn, a call that draws them, [B G, T]) of the sampler and of a loop of single steps, which draw the same.

    Raises:
      UsageError: a task whose chains the model can't write.
    """
    task = build.task_of(config)
    model = build.model_of(config, task)
    experience.check(task, model.config)
    graph, params = nnx.split(model, nnx.Param)
    problem, passes, steps, law, key = methods.base.Problem(graph, task), config.model.sleep.passes, experience.room(task), Law(), jax.random.key(0)
    rows = batch["tokens"].shape[0]
    opened = lambda params, tokens: experience.opened(problem, params, tokens, passes)

    @jax.jit
    def sample(params, tokens):
        return experience.drawn(problem, params, opened(params, tokens), key, group=group, steps=steps, law=law).tokens.reshape(rows * group, steps)

    begin = jax.jit(lambda params, tokens: fork(opened(params, tokens), group))
    keys = jax.vmap(lambda b: jax.vmap(lambda g: jax.random.fold_in(jax.random.fold_in(key, b), g))(jnp.arange(group, dtype=jnp.uint32)))(jnp.arange(rows, dtype=jnp.uint32)).reshape(-1)
    times = [jnp.int32(t) for t in range(steps)]

    @jax.jit
    def one(params, state, token, t):
        logits, state = nnx.merge(graph, params).wake(token[:, None], state)
        drawn = jax.vmap(jax.random.categorical)(jax.vmap(jax.random.fold_in, (0, None))(keys, t), law.log_probs(logits[:, 0]))
        return state, drawn.astype(jnp.int32)

    def loop():
        state, token, said = begin(params, batch["tokens"]), jnp.full((rows * group,), task.opening, jnp.int32), []
        for t in times:
            state, token = one(params, state, token, t)
            said.append(token)
        return jnp.stack(said, axis=1)

    return {"sampler": (rows * group * steps, functools.partial(sample, params, batch["tokens"])), "loop": (rows * group * steps, loop)}


def rates(config: RunConfig, group: int, batch: Any, row: Row, steps: int) -> dict[str, float]:
    """Tokens a second of CPU time: of the sampler, of the loop, and of the training step `row`; of each the fastest of `steps` runs, in turns.

    Raises:
      UsageError: as `rollouts`; or the loop draws other tokens than the sampler.
    """
    calls = rollouts(config, group, batch)
    said = {name: np.asarray(call()) for name, (_, call) in calls.items()}
    valid = said["sampler"] != 0  # behind its end a continuation is cut
    same = (said["sampler"] == said["loop"])[valid].mean()
    if same < 0.9:  # programs differ in the last bits of a logit, which may move a draw and with it all of its row that comes after
        raise UsageError(f"the sampler draws other tokens than a loop of single steps, {1 - same:.0%} of them: one of the two is wrong, and neither is timed")

    def trained():
        row.state, numbers = row.step(row.state, batch)
        return row.state, numbers

    calls["training"] = (batch["tokens"].size, trained)
    least = dict.fromkeys(calls, float("inf"))
    for count in range(steps + 1):
        for name, (_, call) in calls.items():
            began = time.process_time()
            jax.block_until_ready(call())
            if count:  # the first warms
                least[name] = min(least[name], time.process_time() - began)
    return {name: tokens / least[name] for name, (tokens, _) in calls.items()}


def line(row: Row, first: Row) -> str:
    """One line of the table."""
    shown = f"{row.method:9} {row.gradient:9} {row.remat:6} {row.passes:3} {row.flops:12.3g} {row.flops / first.flops:6.2f} {row.bytes / 2**20:10,.1f} {row.bytes / first.bytes:6.2f}"
    if not row.seconds:
        return f"{shown} {'':26} {row.compile_seconds:9.1f}"
    middle, (low, _, high) = statistics.median(row.seconds), statistics.quantiles(row.seconds, n=4)
    ratio = middle / statistics.median(first.seconds)
    return f"{shown} {1e3 * middle:9,.1f} ± {1e3 * (high - low) / 2:6,.1f} {ratio:7.2f} {row.compile_seconds:9.1f}"


def main(argv: list[str]) -> int:
    """Prints the table."""
    del argv
    if FLAGS.config is None:
        raise UsageError("--config is missing: python tools/bench_step.py --config=FILE")
    if not all(value.isdigit() and int(value) for value in FLAGS.passes):
        raise UsageError(f"--passes={','.join(FLAGS.passes)} must be whole numbers of at least 1, for instance 1,4")
    if FLAGS.rollout and not FLAGS.steps:
        raise UsageError("--rollout is timed: give --steps=2 or more")
    if FLAGS.steps == 1:
        raise UsageError("--steps=1 has no spread: give 0, or 2 and more")
    config, out = parse(FLAGS.config), paths.given(FLAGS.json, "json")
    # where no pass goes without a gradient there is but the full one
    ways = [
        (gradient, remat, int(passes), method) for gradient in FLAGS.gradient for remat in FLAGS.remat for passes in FLAGS.passes for method in FLAGS.method or [""]
        if gradient == "full" or int(passes) > _gradient(gradient)[1]
    ]
    for way in ways:  # all of them checked before the first is compiled
        learning_of(_with(config, *way), build.task_of(config))
    task, mesh, rows = build.task_of(config), meshes.make(config.mesh), []
    sharding.check(config, mesh)
    size = config.train.batch_size
    with meshes.use(mesh):
        mine = sharding.rows(mesh, size)
        source = data.BatchSource(task, seed=config.seed, batch_size=size, steps=1, rows=mine, more=lambda batch: drawn([_with(config, *way) for way in ways], batch))
        batch = sharding.place(mesh, source[0], size, mine)
        for at, way in enumerate(ways):
            print(f"compiling {at + 1} of {len(ways)}: gradient={way[0]} remat={way[1]} N={way[2]} {way[3]}", file=sys.stderr)
            rows.append(row_of(config, *way[:3], batch, way[3]))
        measure(rows, batch, FLAGS.steps)
        rolled = rates(_with(config, *ways[0]), FLAGS.rollout, batch, rows[0], FLAGS.steps) if FLAGS.rollout else {}
    if out:
        keep = ("method", "gradient", "remat", "passes", "flops", "bytes", "compile_seconds", "seconds")
        write_json(out, [{key: getattr(row, key) for key in keep} for row in rows])
    print(f"{'method':9} {'gradient':9} {'remat':6} {'N':>3} {'FLOPs':>12} {'ratio':>6} {'peak MiB':>10} {'ratio':>6} {'ms a step':>18} {'ratio':>7} {'compile s':>9}   {jax.devices()[0].device_kind}")
    for row in rows:
        print(line(row, rows[0]))
    if rolled:
        of = lambda name: f"{rolled['sampler'] / rolled[name]:.2f} × {name}"
        print(f"sampler, N = {ways[0][2]}, G = {FLAGS.rollout}: {rolled['sampler']:,.0f} tokens a second of CPU time, {of('training')}, {of('loop')}")
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS)
