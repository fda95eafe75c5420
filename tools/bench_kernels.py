r"""Times the fast-weight rules: forward, and forward + backward, every implementation on the same arguments.

No speed is printed for a row whose output, final state or any gradient is further from the oracle than the agreed tolerance.
Implementations take turns round by round, so that whatever else the machine does hits all of them; a cell is the median
over rounds, with half the distance between its quartiles. The ratio is the oracle's forward + backward over the row's.

Examples:
  python tools/bench_kernels.py --shapes=32,100,4,32,32
  python tools/bench_kernels.py --rule=hebbian --dtype=bfloat16 --rounds=20 --json=bench.json
  python tools/bench_kernels.py --chunk_sizes=16,32 --maxtext=$HOME/maxtext

A shape is batch,tokens,heads,key width,value width; give several separated by spaces in quotes.
"""
import ast
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from sleepnet_kernels import numerics
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule import arg_specs
from sleepnet_kernels.gated_delta_rule import xla_chunked as delta_chunked
from sleepnet_kernels.gated_hebbian_rule import api as hebbian_api
from sleepnet_kernels.gated_hebbian_rule import xla_chunked as hebbian_chunked

RULES = {
    "delta": (delta_api.gated_delta_rule, delta_api.IMPLEMENTATIONS, delta_chunked.gated_delta_rule),
    "hebbian": (hebbian_api.gated_hebbian_rule, hebbian_api.IMPLEMENTATIONS, hebbian_chunked.gated_hebbian_rule),
}
ORACLE = "reference"
NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")
HEADER = f"{'platform':8} {'B,T,H,dk,dv':>17} {'dtype':8} {'implementation':16} {'fwd ms':>14} {'fwd+bwd ms':>16} {'tokens/s':>10} {'ratio':>6}"


def maxtext_rule(checkout: str, chunk_size: int | None):
    """Returns maxtext's chunked rule from a local checkout, cut out of its file because the file imports all of maxtext."""
    path = pathlib.Path(checkout).expanduser() / "src/maxtext/models/qwen3.py"
    names = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "jax_chunk_gated_delta_rule"]
    if not names:
        raise ValueError(f"{path} has no function jax_chunk_gated_delta_rule")
    scope = {"jax": jax, "jnp": jnp, "lax": jax.lax, "Array": jax.Array}
    exec(compile(ast.Module(names, []), str(path), "exec"), scope)  # pylint: disable=exec-used
    peer, keywords = scope["jax_chunk_gated_delta_rule"], {} if chunk_size is None else {"chunk_size": chunk_size}

    def rule(q, k, v, log_decay, beta, initial_state):
        # It scales queries inside; its inputs are float32 where ours are.
        scaled = q * jnp.asarray(q.shape[-1] ** 0.5, q.dtype)
        output, state = peer(scaled, k, v, log_decay, beta, initial_state=initial_state, compute_dtype=q.dtype, **keywords)
        return output.astype(v.dtype), state

    return rule


def contenders(rule: str, chunk_sizes, maxtext: str, maxtext_chunk_sizes):
    """Returns what is to be timed by name, all called with positional arguments; the oracle first."""
    public, known, chunked = RULES[rule]

    def named(implementation):
        def call(q, k, v, log_decay, beta, initial_state):
            return public(q, k, v, log_decay=log_decay, beta=beta, initial_state=initial_state, implementation=implementation)

        return call

    rows = {name: named(name) for name in (ORACLE, *(n for n in known if n != ORACLE))}
    rows |= {f"xla_chunked C={c}": functools.partial(chunked, chunk_size=c) for c in chunk_sizes}
    if maxtext:
        rows["maxtext"] = maxtext_rule(maxtext, None)
        rows |= {f"maxtext C={c}": maxtext_rule(maxtext, c) for c in maxtext_chunk_sizes}
    return rows


def with_backward(rule):
    """Returns a function to output, state and all six gradients, for arguments by name and two cotangents."""

    def run(given, d_output, d_state):
        (output, state), pullback = jax.vjp(rule, *(given[name] for name in NAMES))
        gradients = pullback((d_output.astype(output.dtype), d_state.astype(state.dtype)))
        return {"output": output, "final_state": state} | {f"d_{name}": g for name, g in zip(NAMES, gradients)}

    return run


def beyond_tolerance(actual, expected, tolerance) -> str:
    """Names what is further from the oracle than tolerated, with its ratio; empty where nothing is."""
    ratios = {name: numerics.rms_ratio(actual[name].astype(jnp.float32), expected[name].astype(jnp.float32)) for name in expected}
    bad = {n: r for n, r in ratios.items() if not r <= (tolerance.gradient if n.startswith("d_") else tolerance.output)}
    return ", ".join(f"{name} {ratio:.1e}" for name, ratio in bad.items())


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def spread(times) -> float:
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / 2


def bench(shape: arg_specs.Shape, dtype: str, rows, rounds: int):
    """Yields one result a row: a dictionary with the measurements, or with `failed` where the numerics gate is red."""
    given = arg_specs.arguments(shape, dtype)
    d_output, d_state = (jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate((given["v"], given["initial_state"])))
    d_output = d_output.astype(dtype)
    oracle = jax.jit(with_backward(rows[ORACLE]))
    expected = oracle({n: x.astype(jnp.float32) for n, x in given.items()}, d_output.astype(jnp.float32), d_state)
    ready, failed = {}, {}
    for name, rule in rows.items():
        forward, both = jax.jit(rule), jax.jit(with_backward(rule))
        # A peer may mix dtypes and ranks that our own code may not.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            failed[name] = beyond_tolerance(both(given, d_output, d_state), expected, numerics.tolerance(dtype))
            if not failed[name]:
                jax.block_until_ready(forward(*(given[n] for n in NAMES)))
                ready[name] = (forward, both)
    times = {name: ([], []) for name in ready}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(rounds):
            for name, (forward, both) in ready.items():
                times[name][0].append(seconds(forward, *(given[n] for n in NAMES)))
                times[name][1].append(seconds(both, given, d_output, d_state))
    for name in rows:
        row = {"platform": jax.default_backend(), "shape": str(shape), "dtype": dtype, "implementation": name}
        if failed[name]:
            yield row | {"failed": failed[name]}
            continue
        forward, both = (statistics.median(t) for t in times[name])
        yield row | {
            "forward_ms": 1e3 * forward, "forward_spread_ms": 1e3 * spread(times[name][0]),
            "both_ms": 1e3 * both, "both_spread_ms": 1e3 * spread(times[name][1]),
            "tokens_per_second": shape.b * shape.t / both, "ratio": statistics.median(times[ORACLE][1]) / both,
        }


def line(row) -> str:
    start = f"{row['platform']:8} {row['shape']:>17} {row['dtype']:8} {row['implementation']:16} "
    if "failed" in row:
        return start + f"not timed, beyond tolerance: {row['failed']}"
    forward = f"{row['forward_ms']:.2f} ±{row['forward_spread_ms']:.2f}"
    both = f"{row['both_ms']:.2f} ±{row['both_spread_ms']:.2f}"
    return start + f"{forward:>14} {both:>16} {row['tokens_per_second']:10.3g} {row['ratio']:6.2f}"


def main(argv):
    """Reads the flags; everything else can be imported."""
    del argv
    f = flags.FLAGS
    shapes = [arg_specs.Shape(*map(int, s.split(","))) for s in f.shapes.split()] or arg_specs.BENCHMARK_SHAPES
    if f.maxtext and f.rule != "delta":
        raise app.UsageError("--maxtext is a peer of --rule=delta")
    rows = contenders(f.rule, map(int, f.chunk_sizes), f.maxtext, map(int, f.maxtext_chunk_sizes))
    print(HEADER)
    results = []
    for shape in shapes:
        for row in bench(shape, f.dtype, rows, f.rounds):
            results.append(row | {"rule": f.rule})
            print(line(row), flush=True)
    if f.json:
        pathlib.Path(f.json).write_text(json.dumps({"jax": jax.__version__, "rounds": f.rounds, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_enum("rule", "delta", list(RULES), "which rule to time")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of q, k and v")
    flags.DEFINE_string("shapes", "", "batch,tokens,heads,key width,value width; several in quotes; default: the project's own list")
    flags.DEFINE_list("chunk_sizes", [], "also time the chunked form at these chunk sizes, e.g. 16,32,64")
    flags.DEFINE_string("maxtext", "", "a local checkout of maxtext, timed as a peer; nothing of it is copied")
    flags.DEFINE_list("maxtext_chunk_sizes", ["8", "16", "32"], "beside maxtext's default of 64")
    flags.DEFINE_integer("rounds", 9, "rounds of which the median is taken", lower_bound=3)
    flags.DEFINE_string("json", "", "also write the results to this file")
    app.run(main)
