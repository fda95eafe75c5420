"""The parts of gpu_check.py, each a function of the file for its rows and of whether it runs on a CPU; a failure is an exception."""
import itertools
import json
import pathlib
import platform
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What `arguments` is told; kernels go wrong at the ends first.
HOSTILE = {
    "moderate decay": {}, "no decay": {"decay": 0.0}, "decay 50": {"decay": 50.0}, "identical keys, beta 1": {"decay": 0.0, "beta": 1.0, "correlation": 1.0},
    "correlated keys": {"decay": 0.01, "beta": 1.0, "correlation": 0.9}, "beta 2": {"beta": 1.999},
}


def device(out: pathlib.Path, cpu: bool) -> None:
    """Says what the machine is; fails without a GPU."""
    import jax

    first = jax.devices()[0]
    row = {"device": first.device_kind, "devices": jax.device_count(), "backend": first.client.platform_version.splitlines()[0]}
    _write(out, [row | {"jax": jax.__version__, "python": platform.python_version()}])
    if not cpu and first.platform != "gpu":
        raise RuntimeError(f"JAX sees {first.device_kind} and no GPU; --cpu checks a machine without one")


def numerics(out: pathlib.Path, cpu: bool) -> None:
    """Every implementation of every op but this platform's kernels against its oracle; a kernel for another one is told with the reason."""
    from sleepnet_kernels.gated_delta_rule.arg_specs import Shape

    shapes = [Shape(2, 20, 2, 8, 12)] if cpu else [Shape(2, 36, 2, 8, 12), Shape(1, 100, 4, 64, 128, 2)]
    rows = _numerics(out, cpu, shapes, ("float32", "bfloat16"), own_kernels=False) + list(_convolution())
    _write(out, rows)
    _raise_if_red(rows)


def kernels(out: pathlib.Path, cpu: bool) -> None:
    """This platform's own kernels, in a process by themselves: numerics, then the delta rule timed."""
    import jax

    from sleepnet_kernels.gated_delta_rule.arg_specs import Shape

    rows = _numerics(out, cpu, [Shape(1, 100, 4, 64, 128, 2)], ("float32", "bfloat16"), own_kernels=True)
    if not rows:
        raise RuntimeError(f"no kernel is made for {jax.default_backend()}")
    _raise_if_red(rows)
    _bench(out, cpu, (("delta", "bfloat16"),), None, rows=rows, shapes=[Shape(4, 1024, 16, 128, 128)], made_for=jax.default_backend())


def _raise_if_red(rows):
    red = [row for row in rows if row["result"].startswith(("beyond", "raised"))]
    if red:
        raise AssertionError(f"{len(red)} of {len(rows)} rows beyond tolerance, the first: {red[0]}")


def _numerics(out, cpu, shapes, dtypes, *, own_kernels):
    import jax
    import jax.numpy as jnp

    import bench_kernels
    from sleepnet_kernels import numerics as agreed
    from sleepnet_kernels.gated_delta_rule.arg_specs import arguments

    # On a CPU compiling takes longer than running.
    jax.config.update("jax_disable_most_optimizations", cpu)
    rows = []
    hostile = {name: HOSTILE[name] for name in ("moderate decay", "correlated keys")} if cpu else HOSTILE
    for rule, (_, known, kernels) in _rules().items():
        own = {name for name, kernel in kernels.items() if kernel.platform == jax.default_backend()}
        tried = own if own_kernels else {*known, *kernels} - own
        compiled = {name: jax.jit(bench_kernels.with_backward(_named(rule, name))) for name in (*known, *kernels)}
        for shape, dtype, (case, told) in itertools.product(shapes, dtypes, hostile.items()) if tried else ():
            given = arguments(shape, dtype, **told)
            exact = {name: x.astype(jnp.float32) for name, x in given.items()}
            cotangents = [jax.random.normal(jax.random.key(i), given[n].shape).astype(given[n].dtype) for i, n in enumerate(("v", "initial_state"))]
            expected = compiled["reference"](exact, cotangents[0].astype(jnp.float32), cotangents[1])
            tolerance = agreed.tolerance(dtype, correlated_keys="correlation" in told)
            for name in (n for n in compiled if n in tried):
                row = {"rule": rule, "implementation": name, "shape": str(shape), "dtype": dtype, "case": case}
                if name in kernels and kernels[name].platform not in (None, jax.default_backend()):
                    rows.append(row | {"result": f"not for {jax.default_backend()}: made for {kernels[name].platform} alone"})
                    continue
                kernel = {**known, **kernels}[name]
                if reason := kernel.refuses(*given.values()) or kernel.refuses_device(jax.devices()[0]):
                    rows.append(row | {"result": f"can't run these arguments: {reason}"})
                    continue
                if name.endswith("interpret") and shape != shapes[0]:
                    rows.append(row | {"result": "not at this size: interpreting takes long to compile"})
                    continue
                try:
                    ratios = bench_kernels.distances(compiled[name](given, *cotangents), expected)
                except Exception as error:  # pylint: disable=broad-except
                    # What fails is a row of the report, beside those that don't.
                    rows.append(row | {"result": f"raised {type(error).__name__}: {str(error).strip().splitlines()[0]}"})
                    continue
                bad = bench_kernels.beyond_tolerance(ratios, tolerance)
                rows.append(row | {"largest": max(ratios.values()), "result": f"beyond tolerance: {bad}" if bad else "within tolerance"})
            _write(out, rows)
    return rows


def _rules():
    from sleepnet_kernels.gated_delta_rule import api as delta
    from sleepnet_kernels.gated_hebbian_rule import api as hebbian

    return {
        "delta": (delta.gated_delta_rule, delta.IMPLEMENTATIONS, delta.KERNELS),
        "hebbian": (hebbian.gated_hebbian_rule, hebbian.IMPLEMENTATIONS, hebbian.KERNELS),
    }


def _named(rule, implementation):
    public = _rules()[rule][0]

    def call(q, k, v, log_decay, beta, initial_state):
        return public(q, k, v, log_decay=log_decay, beta=beta, initial_state=initial_state, implementation=implementation)

    return call


def _convolution():
    import jax
    import jax.numpy as jnp

    from sleepnet_kernels import causal_conv1d
    from sleepnet_kernels import numerics as agreed
    from sleepnet_kernels.causal_conv1d import api, arg_specs

    for dtype in ("float32", "bfloat16"):
        given = arg_specs.arguments(arg_specs.SHAPES[3], dtype)
        call = lambda x, weight, state, name: causal_conv1d(x, weight, initial_state=state, implementation=name)
        exact = jax.vjp(lambda *a: call(*a, "reference")[0], *(x.astype(jnp.float32) for x in given.values()))
        for name in api.IMPLEMENTATIONS:
            output, pullback = jax.vjp(lambda *a: call(*a, name)[0], *given.values())
            ones = jnp.ones_like(output)
            results = dict(zip(("output", "d_x", "d_weight", "d_state"), (output, *pullback(ones))))
            oracle = dict(zip(results, (exact[0], *exact[1](ones.astype(jnp.float32)))))
            ratios = {key: agreed.rms_ratio(results[key].astype(jnp.float32), oracle[key]) for key in results}
            bound = agreed.tolerance(dtype).gradient
            row = {"rule": "causal_conv1d", "implementation": name, "shape": str(arg_specs.SHAPES[3]), "dtype": dtype, "largest": max(ratios.values())}
            yield row | {"result": "within tolerance" if row["largest"] <= bound else "beyond tolerance"}


def bench(out: pathlib.Path, cpu: bool) -> None:
    """Times the delta rule in both dtypes and the Hebbian one in bfloat16, and draws the roofline."""
    _bench(out, cpu, (("delta", "bfloat16"), ("delta", "float32"), ("hebbian", "bfloat16")), None)


def fla(out: pathlib.Path, cpu: bool) -> None:
    """Times the delta rule in bfloat16 beside fla's Triton kernel."""
    from bench import peers

    _bench(out, cpu, (("delta", "bfloat16"),), peers.Fla())


def _bench(out, cpu, what, peer, *, rows=(), shapes=None, made_for=None):
    import bench_kernels
    from bench import floors
    from sleepnet_kernels.gated_delta_rule.arg_specs import Shape

    # The oracle stores a state a token: at 4 x 1,024 x 16 heads of 128 that is 4 GiB an array.
    shapes = shapes or ([Shape(2, 20, 2, 8, 8)] if cpu else [Shape(4, 1024, 16, 128, 128), Shape(512, 24, 4, 64, 64)])
    rows, checked = list(rows), len(rows)
    contenders = bench_kernels.contenders
    print(bench_kernels.HEADER)
    for shape in shapes:
        for rule, dtype in what:
            for row in bench_kernels.bench(rule, shape, dtype, contenders(rule, [], "", [], made_for=made_for), 3 if cpu else 9, peer):
                print(bench_kernels.line(row), flush=True)
                rows.append(row)
                _write(out, rows)
    floors.plot(rows[checked:], out.with_suffix(".png"))
    # A peer beyond our tolerance is told in its row; the check is of our own.
    red = [row for row in rows if "failed" in row and not row["implementation"].startswith("fla")]
    if red:
        raise AssertionError(f"{len(red)} of {len(rows)} rows beyond tolerance, the first: {red[0]['implementation']}: {red[0]['failed']}")


def depo(out: pathlib.Path, cpu: bool) -> None:
    """Trains experiments/depo_cpu.py for a few steps."""
    _train(out, "depo_cpu", 20 if cpu else 200, 10, {"batch_size": 4} if cpu else {})


def rule110(out: pathlib.Path, cpu: bool) -> None:
    """Trains experiments/rule110_paper.py for a few steps."""
    _train(out, "rule110_paper", 4 if cpu else 40, 2 if cpu else 10, {"batch_size": 2} if cpu else {})


def _train(out, experiment, steps, every, train_keys):
    """Runs the command that a user would; speeds are from the first line of the log, behind which all is compiled, to the last."""
    from bench import floors

    keys = {"steps": steps, "log_every": every, "save_every": steps, "eval_every": 0} | train_keys
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sleepnet.train", f"--config=experiments/{experiment}.py", f"--workdir={folder}/run"]
        subprocess.run([*command, *(f"--config.train.{key}={value}" for key, value in keys.items())], cwd=ROOT, check=True)
        lines = [json.loads(line) for line in pathlib.Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        result = json.loads(pathlib.Path(folder, "run", "result.json").read_text(encoding="utf-8"))
        dtype = json.loads(pathlib.Path(folder, "run", "config.json").read_text(encoding="utf-8"))["model"]["dtype"]
    first, last = lines[0], lines[-1]
    rate = lambda key: (last[key] - first[key]) / (last["seconds"] - first["seconds"])
    row = {"experiment": experiment, "device": result["device"], "dtype": dtype, "steps": steps, "compile_and_first_s": first["seconds"]}
    row |= {"steps_per_second": rate("step"), "tokens_per_second": rate("tokens"), "share_of_peak": rate("flops") / floors.peak(dtype).flops}
    _write(out, [row | {"first_loss": first["loss"], "last_loss": last["loss"]}])


def _write(out, rows):
    from sleepnet.files import write_json

    write_json(out, rows)


PARTS = {part.__name__: part for part in (device, numerics, bench, kernels, fla, depo, rule110)}
