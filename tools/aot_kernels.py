r"""Compiles the TPU kernels for chips that are not here, and holds what the compiler says against a committed budget.

Needs the extra `aot-tpu` and no accelerator. Each kernel is compiled in a process of its own, because the compiler may abort it.
Cycles are bundles of the kernel's loop body, per token and head: a lower bound, since stalls are not counted. Exits with 1 where
a figure is more than 5 % over aot_budget.json beside this file.

Examples:
  python tools/aot_kernels.py --rules=delta --dtypes=bfloat16
  python tools/aot_kernels.py --chips=v6e --rules=delta --directions=backward --heads=4
  python tools/aot_kernels.py --chips=tpu7x --packed=true
  python tools/aot_kernels.py --update
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

BUDGET = pathlib.Path(__file__).with_name("aot_budget.json")
SLACK = 1.05
TOPOLOGIES = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1", "tpu7x": "tpu7x:1x1x1"}
# Cycles per token and head at chunks of 128 and widths of 128, from the project's list of targets.
TARGETS = {("v5p", "forward"): 7.8, ("v6e", "forward"): 5.2, ("v5p", "backward"): 11.0, ("v6e", "backward"): 10.0}
CHUNKS = 8
WIDTH = 128
# Nothing here asks for a device: the compiler must not look for one, nor refuse because another process has it.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One kernel for one chip; `packed` with segment ids; chunk or heads 0 take the committed block sizes."""

    chip: str
    rule: str
    direction: str
    dtype: str
    packed: bool = False
    chunk: int = 0
    heads: int = 0

    def __str__(self):
        return f"{self.chip} {self.rule} {self.direction} {self.dtype}" + (" packed" if self.packed else "")

    @classmethod
    def named(cls, name: str):
        """Returns the job of a name in the budget."""
        chip, rule, direction, dtype, *packed = name.split()
        return cls(chip, rule, direction, dtype, packed=bool(packed))


def compile_here(job: Job) -> dict:
    """Compiles the job in this process, whose environment must be set, and returns the sizes it ran with and the compile time."""
    import jax  # pylint: disable=import-outside-toplevel
    from jax.experimental import topologies  # pylint: disable=import-outside-toplevel

    from sleepnet_kernels import mosaic  # pylint: disable=import-outside-toplevel

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[job.chip], chips_per_host_bounds=(1, 1, 1))
    mesh = jax.sharding.Mesh(topology.devices[:1], ("x",))
    blocks = mosaic.blocks_for(topology.devices[0].device_kind, job.dtype, delta=job.rule == "delta")
    blocks = dataclasses.replace(blocks, chunk=job.chunk or blocks.chunk)
    if job.heads:
        blocks = dataclasses.replace(blocks, heads=job.heads, backward_heads=job.heads)
    heads = blocks.heads if job.direction == "forward" else blocks.backward_heads
    tokens = CHUNKS * blocks.chunk
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)
    operand, gate = array((1, tokens, heads, WIDTH), job.dtype), array((1, tokens, heads), "float32")
    given = (operand, operand, operand, gate, gate, array((1, heads, WIDTH, WIDTH), "float32"))
    segment_ids = array((1, tokens), "int32") if job.packed else None

    def forward(segment_ids, *given):
        return mosaic.mosaic_rule(*given, segment_ids, delta=job.rule == "delta", blocks=blocks)

    def backward(cotangents, segment_ids, *given):
        return jax.vjp(lambda *given: forward(segment_ids, *given), *given)[1](cotangents)

    with jax.set_mesh(mesh):
        # The gradient's forward kernel is compiled as well; its own dump is told apart by name.
        arguments = (segment_ids, *given) if job.direction == "forward" else ((operand, given[-1]), segment_ids, *given)
        lowered = jax.jit(forward if job.direction == "forward" else backward).trace(*arguments).lower(lowering_platforms=("tpu",))
        start = time.perf_counter()
        lowered.compile()
    return {"chunk": blocks.chunk, "heads": heads, "compile_s": time.perf_counter() - start}


def bundles(text: str) -> int:
    """Returns how many bundles lie between the head of the kernel's loop and its exit test."""
    address = r"^\s*(0x[0-9a-f]+)\s+"
    heads = re.findall(address + "LB:", text, re.M)
    tests = re.findall(address + r".*/\* loop exit test \*/", text, re.M)
    if len(heads) != 1 or len(tests) != 1:
        raise ValueError(f"expected one loop in the dump, found {len(heads)} heads and {len(tests)} exit tests")
    return int(tests[0], 16) - int(heads[0], 16) + 1


def vector_memory(text: str) -> float:
    """Returns the MiB of vector memory that the kernel's allocations sum to: windows, scratch and spilled registers."""
    return sum(int(size, 16) for size in re.findall(r"#allocation\w+ \[shape = '[^']*', space=vmem, size = (0x[0-9a-f]+)", text)) / 2**20


def measure(job: Job) -> dict:
    """Compiles the job in a subprocess and returns its figures, or `failed` with the last line of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        dump = {"LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"}
        command = [sys.executable, __file__, f"--one={json.dumps(dataclasses.asdict(job))}"]
        done = subprocess.run(command, env=os.environ | ENVIRONMENT | dump, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        name = f"*fast_weights_{job.rule}_{job.direction}*"
        (final,) = [p for p in pathlib.Path(folder).glob(name + "-final_bundles.txt") if "schedule-analysis" not in p.name]
        (allocated,) = [p for p in pathlib.Path(folder).glob(name + "-post-ra.txt") if re.search(r"-\d+-post-ra.txt$", p.name)]
        cycles = bundles(final.read_text()) / figures["heads"] / figures["chunk"]
        return figures | {"cycles": round(cycles, 2), "vmem_mib": round(vector_memory(allocated.read_text()), 2)}


def over_budget(figures: dict, budget: dict | None) -> list[str]:
    """Names what is over the budget by more than the slack; "no budget" where none is committed."""
    if budget is None:
        return ["no budget"]
    return [f"{name} {figures[name]} > {budget[name]}" for name in ("cycles", "vmem_mib") if figures[name] > SLACK * budget[name]]


def target(job: Job) -> float | None:
    """Returns the target of a kernel's cycles, None where there is none."""
    return TARGETS.get((job.chip, job.direction)) if (job.rule, job.dtype) == ("delta", "bfloat16") else None


def line(job: Job, figures: dict) -> str:
    return (
        f"{job!s:38} C {figures['chunk']:4} heads {figures['heads']:2}  cycles {figures['cycles']:6.2f}"
        f"  target {target(job) or '-':>5}  vmem {figures['vmem_mib']:6.2f} MiB  compiled in {figures['compile_s']:.1f} s"
    )


FLAGS = flags.FlagValues()
flags.DEFINE_list("chips", list(TOPOLOGIES), "which chips to compile for", flag_values=FLAGS)
flags.DEFINE_list("rules", ["delta", "hebbian"], "which rules", flag_values=FLAGS)
flags.DEFINE_list("directions", ["forward", "backward"], "which kernels", flag_values=FLAGS)
flags.DEFINE_list("dtypes", ["bfloat16", "float32"], "of q, k and v", flag_values=FLAGS)
flags.DEFINE_bool("packed", False, "rows packed with several sequences", flag_values=FLAGS)
flags.DEFINE_integer("chunk", 0, "tokens of a chunk; 0: as committed. Not held against the budget", flag_values=FLAGS)
flags.DEFINE_integer("heads", 0, "heads of a grid step; 0: as committed. Not held against the budget", flag_values=FLAGS)
flags.DEFINE_bool("update", False, "write the figures to aot_budget.json", flag_values=FLAGS)
flags.DEFINE_string("one", "", "used by the tool itself: one job, compiled in this process", flag_values=FLAGS)


def main(argv):
    """Reads the flags; everything else can be imported."""
    del argv
    f = FLAGS
    if f.one:
        print(json.dumps(compile_here(Job(**json.loads(f.one)))))
        return 0
    jobs = [Job(c, r, d, t, f.packed, f.chunk, f.heads) for c in f.chips for r in f.rules for d in f.directions for t in f.dtypes]
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    red = False
    for job in jobs:
        figures = measure(job)
        if "failed" in figures:
            print(f"{job!s:38} failed: {figures['failed']}", flush=True)
            red = True
            continue
        if f.update:
            budget[str(job)] = {name: figures[name] for name in ("chunk", "heads", "cycles", "vmem_mib")}
        beyond = over_budget(figures, budget.get(str(job))) if not (f.chunk or f.heads) else []
        if f.update:
            write_text(BUDGET, json.dumps(budget, indent=1, sort_keys=True) + "\n")
        print(line(job, figures), *beyond, flush=True)
        red |= bool(beyond)
    return int(red)


if __name__ == "__main__":
    cli.run(main, FLAGS)
