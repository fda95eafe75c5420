r"""Compiles the GPU kernels for GPUs that are not here, and holds what ptxas says against a committed budget.

Needs the extra `aot-cuda` and no accelerator. Each rule is compiled in a process of its own, forward and gradient in one, for every
chip and width of keys and values. Exits with 1 where registers, shared memory or spilled bytes are more than in
aot_cuda_budget.json beside this file, registers by more than 5 %. Nothing is timed: no GPU has run these kernels here.

Examples:
  python tools/aot_cuda.py
  python tools/aot_cuda.py --chips=h200 --rules=delta --widths=128
  python tools/aot_cuda.py --update
"""
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from absl import flags

from sleepnet import cli
from sleepnet.files import write_text

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUDGET = pathlib.Path(__file__).with_name("aot_cuda_budget.json")
SLACK = {"registers": 1.05, "spilled_bytes": 1.0, "shared_kib": 1.0}
# Tokens, heads and batch do not change what is compiled.
TOKENS, HEADS = 256, 2
# Bytes of memory and per second, and bytes of its last-level cache; the rest of what the compiler asks for is Hopper's.
CHIPS = {
    "h100": ("NVIDIA H100 80GB HBM3", 85_000_000_000, 3_350_000_000_000, 50 * 2**20),
    "h200": ("NVIDIA H200", 150_000_000_000, 4_800_000_000_000, 60 * 2**20),
}


def target(chip: str) -> str:
    """Returns the facts of a GPU as the compiler reads them, in protobuf's text format."""
    name, memory, bandwidth, cache = CHIPS[chip]
    facts = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": 2048, "core_count": 132, "fpus_per_core": 128,
        "shared_memory_per_block": 48 * 2**10, "shared_memory_per_block_optin": 227 * 2**10, "shared_memory_per_core": 228 * 2**10,
        "registers_per_block_limit": 65536, "registers_per_core_limit": 65536, "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535, "memory_bandwidth": bandwidth, "device_memory_size": memory, "l2_cache_size": cache, "clock_rate_ghz": 1.98,
    }
    lines = [f"{key}: {value}" for key, value in facts.items()]
    device = "\n".join([*lines, "cuda_compute_capability { major: 9 minor: 0 }"])
    return f'gpu_device_info {{ {device} }}\nplatform_name: "CUDA"\ndnn_version_info {{ major: 9 }}\ndevice_description_str: "{name}"\n'


@dataclasses.dataclass(frozen=True)
class Job:
    """One rule for one chip at one width of keys and values."""

    chip: str
    rule: str
    width: int

    def __str__(self):
        return f"{self.chip} {self.rule} {self.width}"


def compile_here(job: Job) -> float:
    """Compiles the rule's forward and gradient in this process, whose environment must be set; returns the seconds."""
    import jax  # pylint: disable=import-outside-toplevel
    from jax.experimental import topologies  # pylint: disable=import-outside-toplevel

    from sleepnet_kernels import mosaic_gpu  # pylint: disable=import-outside-toplevel

    topology = topologies.get_topology_desc(platform="cuda", target_config=target(job.chip), topology="1x1x1")
    mesh = jax.sharding.Mesh(topology.devices[:1], ("x",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)
    operand, gate = array((1, TOKENS, HEADS, job.width), "bfloat16"), array((1, TOKENS, HEADS), "float32")
    given = (operand, operand, operand, gate, gate, array((1, HEADS, job.width, job.width), "float32"))

    def forward(*given):
        return mosaic_gpu.mosaic_gpu_rule(*given, delta=job.rule == "delta")

    def both(cotangents, *given):
        return forward(*given), jax.vjp(forward, *given)[1](cotangents)

    with jax.set_mesh(mesh):
        lowered = jax.jit(both).trace((operand, given[-1]), *given).lower(lowering_platforms=("cuda",))
        start = time.perf_counter()
        lowered.compile()
    return time.perf_counter() - start


def figures(ptxas: str, passes: str) -> dict:
    """Returns registers a thread, bytes spilled and KiB of shared memory from what ptxas said and what was lowered."""
    (registers,) = set(re.findall(r"Used (\d+) registers", ptxas))
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", ptxas)
    serialised = "serialized" in ptxas
    shared = {int(size) for size in re.findall(r"dynamic_shared_memory_size %c(\d+)", passes)}
    if not spilled or len(shared) != 1:
        raise ValueError(f"expected spills and one size of shared memory in the dump, found {spilled} and {sorted(shared)}")
    found = {"registers": int(registers), "spilled_bytes": max(max(map(int, pair)) for pair in spilled), "shared_kib": round(shared.pop() / 2**10, 1)}
    return found | ({"serialised": True} if serialised else {})


def measure(job: Job) -> dict:
    """Compiles the job in a subprocess; returns figures by kernel and the seconds, or `failed` with the last line of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        dump = {"MOSAIC_GPU_DUMP_PTXAS": "1", "MOSAIC_GPU_DUMP_TO": folder, "JAX_PLATFORMS": "cpu"}
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, __file__, f"--one={json.dumps(dataclasses.asdict(job))}"]
        done = subprocess.run(command, env=os.environ | dump | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
        found = {}
        for said in sorted(pathlib.Path(folder).glob("*.ptxas")):
            name = re.fullmatch(rf"fast_weights_{job.rule}_(\w+)_\d+", said.stem)[1]
            found[name] = figures(said.read_text(), said.with_suffix(".mlir-passes.log").read_text())
        return {"kernels": found, "compile_s": json.loads(done.stdout.strip().splitlines()[-1])}


def over_budget(found: dict, budget: dict | None) -> list[str]:
    """Names what a kernel needs more of than the budget allows; "no budget" where none is committed."""
    if budget is None:
        return ["no budget"]
    beyond = [f"{name} {found[name]} > {budget[name]}" for name, slack in SLACK.items() if found[name] > slack * budget[name]]
    return beyond + (["tensor cores wait for each other"] if "serialised" in found else [])


FLAGS = flags.FlagValues()
flags.DEFINE_list("chips", list(CHIPS), "which GPUs to compile for", flag_values=FLAGS)
flags.DEFINE_list("rules", ["delta", "hebbian"], "which rules", flag_values=FLAGS)
flags.DEFINE_list("widths", ["64", "128"], "of keys and values", flag_values=FLAGS)
flags.DEFINE_bool("update", False, "write the figures to aot_cuda_budget.json", flag_values=FLAGS)
flags.DEFINE_string("one", "", "used by the tool itself: one job, compiled in this process", flag_values=FLAGS)


def main(argv):
    """Reads the flags; everything else can be imported."""
    del argv
    f = FLAGS
    if f.one:
        print(json.dumps(compile_here(Job(**json.loads(f.one)))))
        return 0
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    red = False
    for job in (Job(c, r, int(w)) for c in f.chips for r in f.rules for w in f.widths):
        measured = measure(job)
        if "failed" in measured:
            print(f"{job!s:18} failed: {measured['failed']}", flush=True)
            red = True
            continue
        if f.update:
            budget[str(job)] = measured["kernels"]
            write_text(BUDGET, json.dumps(budget, indent=1, sort_keys=True) + "\n")
        print(f"{job!s:18} compiled in {measured['compile_s']:.1f} s", flush=True)
        for name, found in measured["kernels"].items():
            beyond = over_budget(found, budget.get(str(job), {}).get(name))
            red |= bool(beyond)
            print(f"  {name:15}", *(f"{key} {value:6}" for key, value in found.items()), *beyond, flush=True)
    return int(red)


if __name__ == "__main__":
    cli.run(main, FLAGS)
