r"""Times the fast-weight rules: forward, and forward + backward, every implementation on the same arguments.

A kernel takes part on the platform that it is made for, unless it refuses the arguments, which is told.
No speed is printed for a row whose output, final state or any gradient is further from the oracle than the agreed tolerance.
Implementations take turns round by round, so that whatever else the machine does hits all of them; a cell is the median
over rounds, with half the distance between its quartiles. TFLOP/s and GB/s are of the least work and traffic (bench/floors.py), share
is how much of the time that work would take at the device's peak (measured where the device is not in the table: on a CPU),
memory is the temporary memory of forward + backward, and a ratio is a peer's forward + backward over the row's; fla's, which has
no backward here, is its forward over the row's.

Examples:
  python tools/bench_kernels.py --shapes=32,100,4,32,32
  python tools/bench_kernels.py --shapes=sleep --chunk_sizes=16,32 --cpu_time
  python tools/bench_kernels.py --rule=hebbian --dtype=bfloat16 --rounds=20 --json=bench.json
  python tools/bench_kernels.py --static --dtype=bfloat16
  python tools/bench_kernels.py --rule=kda --chunk_sizes=4,16

The floor of kda is that of one decay a head. Peers of the gated delta rule: --maxtext=FOLDER, a checkout, beside --chunk_sizes=16,32; and
--fla --dtype=bfloat16, where fla and a GPU are; --plot=roofline.png draws either.
A shape is batch,tokens,heads,key width,value width, and after them how many heads share one of q and k where that is not 1;
give several separated by spaces in quotes. "sleep" is one window of a small batch, 24 to 2048 tokens, once: since each of N passes
computes its own queries, keys and values from the one before, a sleep costs N times that and no kernel can run them together.
"""
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from bench import floors, peers, static
from sleepnet import cli, paths
from sleepnet.errors import UsageError
from sleepnet.files import write_json
from sleepnet_kernels import numerics
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule import arg_specs
from sleepnet_kernels.gated_delta_rule import xla_chunked as delta_chunked
from sleepnet_kernels.gated_hebbian_rule import api as hebbian_api
from sleepnet_kernels.gated_hebbian_rule import xla_chunked as hebbian_chunked
from sleepnet_kernels.kda_rule import api as kda_api
from sleepnet_kernels.kda_rule import arg_specs as kda_arg_specs
from sleepnet_kernels.kda_rule import xla_chunked as kda_chunked

RULES = {
    "delta": (delta_api.gated_delta_rule, delta_api.IMPLEMENTATIONS, delta_chunked.gated_delta_rule),
    "hebbian": (hebbian_api.gated_hebbian_rule, hebbian_api.IMPLEMENTATIONS, hebbian_chunked.gated_hebbian_rule),
    "kda": (kda_api.kda_rule, kda_api.IMPLEMENTATIONS, kda_chunked.kda_rule),
}
# Rules whose arguments have shapes of their own.
ARGUMENTS = {"kda": kda_arg_specs.arguments}
ORACLE = "reference"
SHAPES = {"": arg_specs.BENCHMARK_SHAPES, "sleep": arg_specs.SLEEP_SHAPES}
# What a row is compared with: names that begin so.
PEERS = (ORACLE, "maxtext", "fla")
NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")
HEADER = (
    f"{'platform':8} {'B,T,H,dk,dv':>17} {'dtype':8} {'implementation':16} {'fwd ms':>14} {'fwd+bwd ms':>16} {'tokens/s':>10} "
    f"{'TFLOP/s':>8} {'GB/s':>7} {'share':>6} {'MiB':>7} {'compile s':>9} {'error':>7} ratio to"
)

# Made for one platform; a rule without an entry has none.
KERNELS = {"delta": delta_api.KERNELS, "hebbian": hebbian_api.KERNELS}


def contenders(rule: str, chunk_sizes, maxtext: str, maxtext_chunk_sizes, *, made_for: str | None = None):
    """Returns what is to be timed by name, all called with positional arguments; the oracle first, kernels for a platform `made_for`."""
    public, known, chunked = RULES[rule]

    def named(implementation):
        def call(q, k, v, log_decay, beta, initial_state):
            return public(q, k, v, log_decay=log_decay, beta=beta, initial_state=initial_state, implementation=implementation)

        return call

    rows = {name: named(name) for name in (ORACLE, *(n for n in known if n != ORACLE))}
    rows |= {name: named(name) for name, kernel in KERNELS.get(rule, {}).items() if made_for is not None and kernel.platform == made_for}
    rows |= {f"xla_chunked C={c}": functools.partial(chunked, chunk_size=c) for c in chunk_sizes}
    if maxtext:
        rows["maxtext"] = peers.maxtext_rule(maxtext, None)
        rows |= {f"maxtext C={c}": peers.maxtext_rule(maxtext, c) for c in maxtext_chunk_sizes}
    return rows


def with_backward(rule):
    """Returns a function to output, state and all six gradients, for arguments by name and two cotangents."""

    def run(given, d_output, d_state):
        (output, state), pullback = jax.vjp(rule, *(given[name] for name in NAMES))
        gradients = pullback((d_output.astype(output.dtype), d_state.astype(state.dtype)))
        return {"output": output, "final_state": state} | {f"d_{name}": g for name, g in zip(NAMES, gradients)}

    return run


def distances(actual, expected) -> dict[str, float]:
    """Returns how far each result is from the oracle's, by name."""
    return {name: numerics.rms_ratio(np.asarray(actual[name], np.float32), expected[name]) for name in actual}


def beyond_tolerance(ratios, tolerance) -> str:
    """Names what is further from the oracle than tolerated, with its ratio; empty where nothing is."""
    bad = {n: r for n, r in ratios.items() if not r <= (tolerance.gradient if n.startswith("d_") else tolerance.output)}
    return ", ".join(f"{name} {ratio:.1e}" for name, ratio in bad.items())


def shapes_of(text: str):
    """Returns the shapes that a set's name or numbers stand for."""
    if text in SHAPES:
        return SHAPES[text]
    try:
        return [arg_specs.Shape(*map(int, one.split(","))) for one in text.split()]
    except (TypeError, ValueError) as error:
        raise UsageError(f"--shapes={text!r}: give sleep, or 5 or 6 numbers a shape as in 8,24,2,32,32") from error


def wall_seconds(function, *arguments) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def cpu_seconds(function, *arguments) -> float:
    """Returns what a call costs this process, over as many calls as take 20 ms: alone, a short one is mostly what wakes it."""
    start, calls, spent = time.process_time(), 0, 0.0
    while spent < 0.02:
        jax.block_until_ready(function(*arguments))
        calls, spent = calls + 1, time.process_time() - start
    return spent / calls


def spread(times) -> float:
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / 2


@dataclasses.dataclass
class Compiled:
    """A contender at one shape: what to call, how far its results are, what compiling both took in seconds, temporary bytes."""

    forward: Callable
    both: Callable | None
    errors: dict[str, float]
    compile_s: float | None = None
    temporary: int | None = None


def compile_rule(rule, given, d_output, d_state, expected, seconds) -> Compiled:
    start = time.perf_counter()
    forward = jax.jit(rule).lower(*(given[n] for n in NAMES)).compile()
    both = jax.jit(with_backward(rule)).lower(given, d_output, d_state).compile()
    spent, memory = time.perf_counter() - start, both.memory_analysis()
    errors = distances(both(given, d_output, d_state), expected)
    timed = lambda function, *arguments: lambda: seconds(function, *arguments)
    return Compiled(
        timed(forward, *(given[n] for n in NAMES)), timed(both, given, d_output, d_state), errors, spent,
        None if memory is None else memory.temp_size_in_bytes,
    )


def compile_fla(peer, given, expected) -> Compiled:
    run = peer.forward(given)
    output, state, _ = run()
    return Compiled(lambda: run()[2], None, distances({"output": output, "final_state": state}, expected))


def bench(rule: str, shape: arg_specs.Shape, dtype: str, rows, rounds: int, fla=None, seconds=wall_seconds):
    """Yields one result a row: a dictionary with the measurements, or with `failed` where the numerics gate is red."""
    given = ARGUMENTS.get(rule, arg_specs.arguments)(shape, dtype)
    d_output, d_state = (jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate((given["v"], given["initial_state"])))
    d_output = d_output.astype(dtype)
    refused = {name: kernel.refuses(*given.values()) or kernel.refuses_device(jax.devices()[0]) for name, kernel in KERNELS.get(rule, {}).items() if name in rows}
    for name in (name for name, reason in refused.items() if reason):
        print(f"{name}, {shape}, {dtype}: not timed, {refused[name]}")
    rows = {name: row for name, row in rows.items() if not refused.get(name)}
    oracle = jax.jit(with_backward(rows[ORACLE]))
    expected = oracle({n: x.astype(jnp.float32) for n, x in given.items()}, d_output.astype(jnp.float32), d_state)
    # A peer may mix dtypes and ranks that our own code may not.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        compiled = {name: compile_rule(function, given, d_output, d_state, expected, seconds) for name, function in rows.items()}
    if fla is not None:
        compiled["fla forward"] = compile_fla(fla, given, expected)
    failed = {name: beyond_tolerance(c.errors, numerics.tolerance(dtype)) for name, c in compiled.items()}
    times = {name: ([], []) for name in compiled if not failed[name]}
    for _ in range(rounds):
        for name, (forward, both) in times.items():
            compiled[name].forward()  # discarded: freeing the buffers of the row before falls into it
            forward.append(compiled[name].forward())
            if compiled[name].both:
                both.append(compiled[name].both())
    median = {name: tuple(statistics.median(t) if t else None for t in pair) for name, pair in times.items()}
    peak, delta = floors.peak(dtype), rule != "hebbian"
    alone = floors.forward(shape, dtype, delta=delta, saves=False)
    passes = floors.forward(shape, dtype, delta=delta, saves=True), floors.backward(shape, dtype, delta=delta)
    flops, moved = sum(p.flops for p in passes), sum(p.moved for p in passes)
    for name, c in compiled.items():
        row = {"platform": jax.default_backend(), "device": jax.devices()[0].device_kind, "rule": rule, "shape": str(shape)}
        row |= {"dtype": dtype, "implementation": name, "errors": c.errors}
        if failed[name]:
            yield row | {"failed": failed[name]}
            continue
        forward, both = median[name]
        row |= {"forward_ms": 1e3 * forward, "forward_spread_ms": 1e3 * spread(times[name][0]), "forward_share": alone.seconds(peak) / forward}
        row |= {"compile_s": c.compile_s, "temporary_bytes": c.temporary, "peak": dataclasses.asdict(peak)}
        beside = [n for n in median if n != name and n.split()[0] in PEERS]
        row["forward_ratios"] = {n: median[n][0] / forward for n in beside}
        if both is None:
            yield row
            continue
        yield row | {
            "both_ms": 1e3 * both, "both_spread_ms": 1e3 * spread(times[name][1]), "tokens_per_second": shape.b * shape.t / both,
            "flop_per_second": flops / both, "bytes_per_second": moved / both, "flop_per_byte": flops / moved,
            "share": sum(p.seconds(peak) for p in passes) / both,
            "ratio": median[ORACLE][1] / both if ORACLE in median else None,
            "ratios": {n: median[n][1] / both for n in beside if median[n][1]},
        }


def line(row) -> str:
    start = f"{row['platform']:8} {row['shape']:>17} {row['dtype']:8} {row['implementation']:16} "
    if "failed" in row:
        return start + f"not timed, beyond tolerance: {row['failed']}"
    start += f"{row['forward_ms']:8.2f} ±{row['forward_spread_ms']:<4.2f} "
    error = f"{max(row['errors'].values()):7.0e}"
    if "both_ms" not in row:
        return start + f"{'-':>16} {'-':>10} {'-':>8} {'-':>7} {row['forward_share']:6.1%} {'-':>7} {'-':>9} {error}"
    ratios = {name: row["ratios"].get(name, ratio) for name, ratio in row["forward_ratios"].items()}
    both = f"{row['both_ms']:.2f} ±{row['both_spread_ms']:.2f}"
    memory = "-" if row["temporary_bytes"] is None else f"{row['temporary_bytes'] / 2**20:.1f}"
    return start + (
        f"{both:>16} {row['tokens_per_second']:10.3g} {row['flop_per_second'] / 1e12:8.3g} {row['bytes_per_second'] / 1e9:7.3g} {row['share']:6.1%} "
        f"{memory:>7} {row['compile_s']:9.1f} {error} " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    )


FLAGS = flags.FlagValues()
flags.DEFINE_enum("rule", "delta", list(RULES), "which rule to time", flag_values=FLAGS)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of q, k and v", flag_values=FLAGS)
flags.DEFINE_string("shapes", "", "batch,tokens,heads,key width,value width; several in quotes; or sleep; default: the project's own list", flag_values=FLAGS)
flags.DEFINE_list("chunk_sizes", [], "also time the chunked form at these chunk sizes, e.g. 16,32,64", flag_values=FLAGS)
flags.DEFINE_string("maxtext", "", "a local checkout of maxtext, timed as a peer; nothing of it is copied", flag_values=FLAGS)
flags.DEFINE_list("maxtext_chunk_sizes", ["8", "16", "32"], "beside maxtext's default of 64", flag_values=FLAGS)
flags.DEFINE_bool("fla", False, "time fla's Triton kernel as a peer, forward alone; torch and fla must be installed and see a GPU", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 9, "rounds of which the median is taken", lower_bound=3, flag_values=FLAGS)
flags.DEFINE_bool("cpu_time", False, "count the time this process ran, not the time that passed: for a CPU that others use; shares mean little then", flag_values=FLAGS)
flags.DEFINE_bool("static", False, "tell what compilers say of the rule's kernels on TPUs and GPUs (the committed budgets), and time nothing", flag_values=FLAGS)
flags.DEFINE_string("json", "", "also write the results to this file", flag_values=FLAGS)
flags.DEFINE_string("plot", "", "also draw the roofline into this PNG file", flag_values=FLAGS)


def main(argv):
    """Reads the flags; everything else can be imported."""
    del argv
    f = FLAGS
    out, picture = paths.given(f.json, "json"), paths.given(f.plot, "plot")
    if f.static:
        told = static.rows(f.rule, f.dtype)
        if out:
            write_json(out, {"static": told})
        print(*map(static.line, told), sep="\n") if told else print(f"no kernel of --rule={f.rule} --dtype={f.dtype} has a budget")
        return
    shapes = shapes_of(f.shapes)
    if (f.maxtext or f.fla) and f.rule != "delta":
        raise UsageError("--maxtext and --fla are peers of --rule=delta")
    if f.cpu_time and jax.default_backend() != "cpu":
        raise UsageError("--cpu_time is for a CPU alone: an accelerator's time is not this process's")
    rows = contenders(f.rule, map(int, f.chunk_sizes), f.maxtext, map(int, f.maxtext_chunk_sizes), made_for=jax.default_backend())
    try:
        fla = peers.Fla() if f.fla else None
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"--fla: {error}") from error
    print(HEADER)
    results = []
    for shape in shapes:
        for row in bench(f.rule, shape, f.dtype, rows, f.rounds, fla, cpu_seconds if f.cpu_time else wall_seconds):
            results.append(row)
            if out:
                write_json(out, {"jax": jax.__version__, "rounds": f.rounds, "rows": results})
            print(line(row), flush=True)
    if picture:
        floors.plot(results, picture)


if __name__ == "__main__":
    cli.run(main, FLAGS)
