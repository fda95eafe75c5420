r"""How fast the decoder writes: beside a Python loop of single jitted steps, and what forking a prompt that was slept over saves.

Rows of random prompts write --tokens tokens each, drawn at temperature 1:

  loop R        R rows write in Python, a jitted step a token: wake and draw; and a jitted sleep where a window is full
  decoder R     the same with `sleepnet.decode.write`, one program
  prompts       each of G rows reads --windows windows and sleeps over them with the model's N, all G the same, then writes
  forked        the windows are read and slept over once, and the state is forked into G rows

All take turns, so that a slower clock hits all of them, and no speed is told of ways that write other tokens. A figure is the median of --repeats runs with half
the distance between its quartiles; ratios are those of medians. The more a step computes, the less a loop in Python costs beside it. --clock=cpu counts what all
threads of the process worked instead of the time that passed, which other work on the machine disturbs less.

Examples:
  python tools/bench_decode.py
  python tools/bench_decode.py --model=group_a5_sleep4 --rows=1,16,128 --continuations=16 --tokens=80
  python tools/bench_decode.py --clock=cpu --repeats=31 --json=decode.json
"""
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

from sleepnet import cli, decode, paths
from sleepnet.errors import UsageError
from sleepnet.files import write_json
from sleepnet.models import zoo
from sleepnet.state import fork

FLAGS = flags.FlagValues()
cli.trust_flag(FLAGS)
flags.DEFINE_string("model", "depo8_sleep4", "a model that sleeps, by its name in the zoo", flag_values=FLAGS)
flags.DEFINE_list("rows", ["1", "8"], "R, rows that the loop and the decoder write at a time", flag_values=FLAGS)
flags.DEFINE_integer("continuations", 8, "G, of one prompt", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("windows", 4, "windows of a prompt", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("tokens", 32, "that a row writes", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("repeats", 15, "runs that are timed, of each way", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "seconds that passed, or that all threads of the process worked", flag_values=FLAGS)
flags.DEFINE_string("json", None, "file for the figures", flag_values=FLAGS)


def ways(name: str, rows: list[int], continuations: int, windows: int, tokens: int) -> dict[str, Callable[[], jax.Array]]:
    """The ways by name, in pairs that write the same; each returns the tokens, one row each."""
    model = zoo.create(name)
    (graph, params), size, law = nnx.split(model, nnx.Param), model.config.window, decode.Law()
    draw = lambda key, shape: jax.random.randint(jax.random.key(key), shape, 1, model.config.vocab_size, jnp.int32)
    begin = lambda count: (draw(1, (count,)), jax.random.split(jax.random.key(2), count))  # first tokens and keys

    @jax.jit
    def read(params, tokens):
        state = nnx.merge(graph, params).init_state(len(tokens))
        return decode.read(graph, params, state, tokens, at=0, passes=model.config.sleep.passes)[1]

    @jax.jit
    def write(params, state, first, keys):
        return decode.write(graph, params, state, first, keys, at=0, steps=tokens, law=law).tokens

    @jax.jit
    def step(params, state, token, keys, t):
        logits, state = nnx.merge(graph, params).wake(token[:, None], state)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        return state, jax.vmap(jax.random.categorical)(keys, law.log_probs(logits[:, 0])).astype(jnp.int32)

    sleep = jax.jit(lambda params, state: nnx.merge(graph, params).sleep(state, 1))
    times = [jnp.int32(t) for t in range(tokens)]

    def loop(state, token, keys):
        said = []
        for t in range(tokens):
            state, token = step(params, state, token, keys, times[t])
            said.append(token)
            if (t + 1) % size == 0:
                state = sleep(params, state)
        return jnp.stack(said, axis=1)

    found = {}
    for count in rows:
        given = read(params, draw(0, (count, windows * size))), *begin(count)
        found[f"loop {count}"] = functools.partial(loop, *given)
        found[f"decoder {count}"] = functools.partial(write, params, *given)
    forked, prompt, given = jax.jit(lambda state: fork(state, continuations)), draw(0, (1, windows * size)), begin(continuations)
    prompts = jnp.repeat(prompt, continuations, axis=0)
    found["prompts"] = lambda: write(params, read(params, prompts), *given)
    found["forked"] = lambda: write(params, forked(read(params, prompt)), *given)
    return found


def measure(calls: dict[str, Callable[[], jax.Array]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each way's runs, in turns."""
    seconds = {name: [] for name in calls}
    for count in range(repeats + 1):
        for name, call in calls.items():
            began = clock()
            jax.block_until_ready(call())
            if count:  # the first warms
                seconds[name].append(clock() - began)
    return seconds


def pairs(calls: dict[str, Any]) -> list[tuple[str, str]]:
    """(the slow way, the fast one) of the same work."""
    return list(zip(list(calls)[::2], list(calls)[1::2]))


def check(calls: dict[str, Callable[[], jax.Array]]) -> None:
    """Compiles all ways and sees that both of a pair write the same.

    Raises:
      UsageError: they do not.
    """
    said = {name: np.asarray(call()) for name, call in calls.items()}
    for slow, fast in pairs(calls):
        same = (said[slow] == said[fast]).mean()
        if same < 0.9:  # programs differ in the last bits of a logit, which may move a draw and with it all of its row that comes after
            raise UsageError(f"{fast} writes other tokens than {slow}, {1 - same:.0%} of them: one of the two is wrong, and neither is timed")


def main(argv: list[str]) -> int:
    """Prints the table."""
    del argv
    out = paths.given(FLAGS.json, "json")
    if FLAGS.model not in zoo.names():
        raise UsageError(f"--model={FLAGS.model} is not in the zoo: python -m sleepnet.models list")
    if not FLAGS.rows or not all(value.isdigit() and int(value) for value in FLAGS.rows):
        raise UsageError(f"--rows={','.join(FLAGS.rows)} must be whole numbers of at least 1, for instance 1,8")
    rows = list(dict.fromkeys(int(value) for value in FLAGS.rows))
    calls = ways(FLAGS.model, rows, FLAGS.continuations, FLAGS.windows, FLAGS.tokens)
    check(calls)
    seconds = measure(calls, FLAGS.repeats, time.process_time if FLAGS.clock == "cpu" else time.perf_counter)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{'way':14} {'ms':>18} {'µs a step':>10} {'ratio':>6}   {FLAGS.model}, {FLAGS.tokens} tokens, {FLAGS.clock} time, {jax.devices()[0].device_kind}")
    for pair in pairs(calls):
        for name in pair:
            low, _, high = statistics.quantiles(seconds[name], n=4)
            step, ratio = 1e6 * middle[name] / FLAGS.tokens, middle[pair[0]] / middle[name]
            print(f"{name:14} {1e3 * middle[name]:9,.1f} ± {1e3 * (high - low) / 2:6,.1f} {step:10,.0f} {ratio:6.2f}")
    if out:
        write_json(out, {"model": FLAGS.model, "clock": FLAGS.clock, "tokens": FLAGS.tokens, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, FLAGS))
