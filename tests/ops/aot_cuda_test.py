"""The GPU kernels compile for real GPUs without spilling and stay within the committed budget; what the tool reads out of a dump."""
import importlib.util
import json
import pathlib
import sys

import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "aot_cuda.py"


def load():
    spec = importlib.util.spec_from_file_location("aot_cuda", TOOL)
    module = sys.modules["aot_cuda"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


aot = load()
BUDGET = json.loads(aot.BUDGET.read_text())
KERNELS = {"prepare", "forward", "forward_saving", "reverse", "gradients"}


@pytest.mark.aot
@pytest.mark.parametrize("name", sorted(BUDGET))
def test_kernels_stay_within_their_budget(name):
    pytest.importorskip("jax_cuda12_plugin", reason="needs the extra aot-cuda")
    chip, rule, width = name.split()
    measured = aot.measure(aot.Job(chip, rule, int(width)))
    assert "failed" not in measured, measured
    assert measured["kernels"].keys() == KERNELS
    for kernel, found in measured["kernels"].items():
        assert not aot.over_budget(found, BUDGET[name][kernel]), kernel


def test_the_budget_has_every_kernel_and_nothing_spills():
    assert BUDGET.keys() == {f"{chip} {rule} {width}" for chip in aot.CHIPS for rule in ("delta", "hebbian") for width in (64, 128)}
    for kernels in BUDGET.values():
        assert kernels.keys() == KERNELS
        for found in kernels.values():
            # A Hopper thread has 255 registers, and a thread block 227 KiB of shared memory.
            assert found["spilled_bytes"] == 0 and found["registers"] <= 255 and found["shared_kib"] <= 227 and "serialised" not in found


def test_what_ptxas_says_is_read():
    said = "    96 bytes stack frame, 96 bytes spill stores, 92 bytes spill loads\nptxas info    : Used 255 registers, used 2 barriers\n"
    lowered = "gpu.launch blocks(%0) dynamic_shared_memory_size %c198664_i32\n %1 dynamic_shared_memory_size %20"
    assert aot.figures(said, lowered) == {"registers": 255, "spilled_bytes": 96, "shared_kib": 194.0}
    waits = "Potential Performance Loss: wgmma.mma_async instructions are serialized due to"
    assert aot.over_budget(aot.figures(said + waits, lowered), aot.figures(said, lowered)) == ["tensor cores wait for each other"]
    with pytest.raises(ValueError, match="found .* and \\[\\]"):
        aot.figures(said, "nothing of shared memory")


def test_a_spilled_byte_is_over_budget_and_five_per_cent_more_registers():
    budget = {"registers": 200, "spilled_bytes": 0, "shared_kib": 100.0}
    assert aot.over_budget(budget | {"registers": 210}, budget) == []
    assert aot.over_budget({"registers": 211, "spilled_bytes": 4, "shared_kib": 101.0}, budget) == [
        "registers 211 > 200", "spilled_bytes 4 > 0", "shared_kib 101.0 > 100.0",
    ]
    assert aot.over_budget(budget, None) == ["no budget"]


def test_the_compiler_is_told_of_hopper():
    text = aot.target("h200")
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text and 'device_description_str: "NVIDIA H200"' in text
    assert "shared_memory_per_block_optin: 232448" in text
