r"""What one more token awake costs: of a model that slept N times over every window, beside a transformer that keeps its whole KV cache.

A row is a model behind so many tokens of context. A model that sleeps has one shape of memory whatever it read, and the same program whatever N was:
its rows ought to be equal, and this measures whether they are. It really reads --read tokens, sleeping N times over each window; longer contexts
start from that state. The transformer's cache is filled with random keys and values: what they are does not change the time.

Rows of one model take turns token by token, so that a slower clock hits all of them; a figure is the median over --tokens tokens, with half the distance
between its quartiles. One token at a time, logits included, the state handed over in place.

Examples:
  python tools/bench_wake.py
  python tools/bench_wake.py --model=paper_depo --contexts=1024,131072 --passes=1,8 --tokens=100
  python tools/bench_wake.py --json=wake.json
"""
import dataclasses
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx

from sleepnet import cli, decode, paths
from sleepnet.errors import UsageError
from sleepnet.files import write_json
from sleepnet.models import flops, zoo
from sleepnet.models.hybrid import Hybrid
from sleepnet.state import KvCache, State

FLAGS = flags.FlagValues()
cli.trust_flag(FLAGS)
flags.DEFINE_string("model", "paper_rule110", "a model that sleeps, by its name in the zoo", flag_values=FLAGS)
flags.DEFINE_list("contexts", ["1024", "16384", "131072", "1048576"], "tokens that were read before", flag_values=FLAGS)
flags.DEFINE_list("passes", ["1", "2", "4", "8"], "N", flag_values=FLAGS)
flags.DEFINE_integer("tokens", 300, "tokens that are timed, for each row", lower_bound=4, flag_values=FLAGS)
flags.DEFINE_integer("batch", 1, "sequences", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("read", 1024, "tokens that the model that sleeps really reads", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool("transformer", True, "time the transformer too; its cache takes 2 · blocks · D · 4 bytes a token", flag_values=FLAGS)
flags.DEFINE_string("json", None, "file for the figures", flag_values=FLAGS)


@dataclasses.dataclass
class Row:
    """A model behind a context."""

    model: str
    passes: int
    context: int
    bytes: int
    flops: int
    graph: nnx.GraphDef
    params: nnx.State
    state: State
    seconds: list[float] = dataclasses.field(default_factory=list)


def rows_of_sleep(name: str, contexts: list[int], passes: list[int], batch: int, read: int) -> list[Row]:
    """One row for each N and context; the state has been read, `read` tokens of it or the context if that is less."""
    model = zoo.create(name)
    graph, params = nnx.split(model, nnx.Param)
    config, rows = model.config, []
    for count in passes:
        states = {}
        for context in contexts:
            length = min(context, read)
            if length not in states:
                states[length] = _read(graph, params, config, batch, length, count)
            size = flops.state_bytes(config) + flops.cache_bytes(config)
            rows.append(Row(name, count, context, batch * size, batch * flops.wake_token_flops(config), graph, params, jax.tree.map(jnp.copy, states[length])))
    return rows


def _read(graph, params, config, batch: int, length: int, passes: int) -> State:
    tokens = jax.random.randint(jax.random.key(0), (batch, length), 1, config.vocab_size, jnp.int32)

    @jax.jit
    def read(params):
        model = nnx.merge(graph, params)
        state = decode.read(graph, params, model.init_state(batch), tokens, at=0, passes=passes)[1]
        return model.sleep(state, passes) if length % config.window else state

    return read(params)


def rows_of_cache(name: str, contexts: list[int], batch: int) -> list[Row]:
    """A transformer of as many blocks and the same width, whose cache holds the context."""
    blocks = len(zoo.config_of(name).pattern)
    config = zoo.config_of(name, pattern="A" * blocks, sleep={"eviction": "none", "passes": 1, "loop_start": 0, "loop_stop": -1})
    graph, params = nnx.split(Hybrid(config, nnx.Rngs(0)), nnx.Param)
    rows = []
    for context in contexts:
        windows = context // config.window
        draw = lambda key: jax.random.normal(jax.random.key(key), (batch, windows * config.window, config.heads, config.head_dim), jnp.dtype(config.dtype))
        kept = KvCache(
            tuple(draw(2 * i) for i in range(blocks)), tuple(draw(2 * i + 1) for i in range(blocks)), jnp.ones((batch, windows * config.window), bool)
        )
        state = _open(Hybrid(config, nnx.Rngs(0)), batch, kept)
        size = flops.cache_bytes(config, windows)
        rows.append(Row("transformer", 1, context, batch * size, batch * flops.wake_token_flops(config, windows), graph, params, state))
    return rows


def _open(model: Hybrid, batch: int, kept: KvCache) -> State:
    """The state behind an eviction that left `kept`."""
    state = model.init_state(batch)
    window = dataclasses.replace(state.window, kv_cache=kept.append(state.window.kv_cache))
    return dataclasses.replace(state, window=window)


def measure(rows: list[Row], tokens: int, batch: int) -> None:
    """Times `tokens` tokens of each row, in turns; a window that is full starts over at its first slot."""
    steps = {}
    for row in rows:
        if row.graph not in steps:
            steps[row.graph] = jax.jit(_step, static_argnums=0, donate_argnums=3)
    token = jnp.ones((batch, 1), jnp.int32)
    for count in range(tokens + 1):
        for row in rows:
            for timed in (False, count > 0):  # the first token ever compiles; the one before a timed token warms the caches that the last row used
                began = time.perf_counter()
                logits, row.state = steps[row.graph](row.graph, row.params, token, row.state)
                jax.block_until_ready((logits, row.state))
                if timed:
                    row.seconds.append(time.perf_counter() - began)


def _step(graph, params, token, state):
    window = dataclasses.replace(state.window, length=state.window.length % state.window.tokens.shape[1])
    return nnx.merge(graph, params).wake(token, dataclasses.replace(state, window=window))


def line(row: Row, first: float) -> str:
    """One line of the table."""
    middle = statistics.median(row.seconds)
    low, _, high = statistics.quantiles(row.seconds, n=4)
    return (
        f"{row.model:16} {row.passes:3} {row.context:10,} {1e6 * middle:12,.0f} ± {1e6 * (high - low) / 2:8,.0f} {middle / first:10.3f} "
        f"{row.flops:14,} {row.bytes:16,}"
    )


def _whole(flag: str, least: int) -> list[int]:
    values = getattr(FLAGS, flag)
    if not values or not all(value.isdigit() and int(value) >= least for value in values):
        raise UsageError(f"--{flag}={','.join(values)} must be whole numbers of at least {least}, for instance {flags_example(flag)}")
    return [int(value) for value in values]


def flags_example(flag: str) -> str:
    """What a user might have meant."""
    return {"contexts": "1024,131072", "passes": "1,8"}[flag]


def main(argv: list[str]) -> int:
    """Prints the table."""
    del argv
    out = paths.given(FLAGS.json, "json")
    window = zoo.config_of(FLAGS.model).window
    contexts, passes = _whole("contexts", window), _whole("passes", 1)
    rows = rows_of_sleep(FLAGS.model, contexts, passes, FLAGS.batch, FLAGS.read)
    measure(rows, FLAGS.tokens, FLAGS.batch)
    if FLAGS.transformer:  # after the others: a cache of gigabytes slows whatever runs next
        others = rows_of_cache(FLAGS.model, contexts, FLAGS.batch)
        measure(others, FLAGS.tokens, FLAGS.batch)
        rows += others
    first = statistics.median(rows[0].seconds)
    if out:
        keep = ("model", "passes", "context", "bytes", "flops", "seconds")
        write_json(out, [{key: getattr(row, key) for key in keep} for row in rows])
    print(f"{'model':16} {'N':>3} {'context':>10} {'µs a token':>23} {'ratio':>10} {'FLOPs a token':>14} {'bytes of memory':>16}   {jax.devices()[0].device_kind}")
    for row in rows:
        print(line(row, first))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, FLAGS))
