"""The TPU kernels compile for real chips and stay within the committed budget; what the tool reads out of a dump."""
import importlib.util
import itertools
import json
import pathlib

import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "aot_kernels.py"


def load():
    spec = importlib.util.spec_from_file_location("aot_kernels", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


aot = load()
BUDGET = json.loads(aot.BUDGET.read_text())


@pytest.mark.aot
@pytest.mark.parametrize("name", sorted(BUDGET))
def test_a_kernel_stays_within_its_budget(name):
    figures = aot.measure(aot.Job.named(name))
    assert "failed" not in figures, figures
    assert not aot.over_budget(figures, BUDGET[name])


def test_the_budget_has_every_chip_rule_direction_and_dtype():
    every = {" ".join(x) for x in itertools.product(aot.TOPOLOGIES, ("delta", "hebbian"), ("forward", "backward"), ("bfloat16", "float32"))}
    assert every <= set(BUDGET) and any(name.endswith("packed") for name in BUDGET)
    assert all(str(aot.Job.named(name)) == name for name in BUDGET)


@pytest.mark.parametrize("key", sorted(aot.TARGETS))
def test_the_budget_meets_the_targets(key):
    chip, direction = key
    assert BUDGET[f"{chip} delta {direction} bfloat16"]["cycles"] <= aot.TARGETS[key]


def test_a_loop_is_counted_from_its_head_to_its_exit_test():
    text = "     0   :  { %a = b }\n  0x16 LB: > { x }\n  0x17   : > { y }\n  0x1f   : > { %p = scmp /* loop exit test */ }\n 0x20 PF:  {}\n"
    assert aot.bundles(text) == 10
    with pytest.raises(ValueError, match="expected one loop in the dump, found 2 heads and 2 exit tests"):
        aot.bundles(text + text)


def test_memory_is_summed_over_allocations():
    one = "#allocation35_spill [shape = 'u32[8,128]{1,0}', space=vmem, size = 0x1000, offset = 0x580000, scoped]"
    other = "#allocation3 [shape = 'u8[524288]{0}', space=vmem, size = 0x80000, scoped]"
    assert aot.vector_memory(f"{one}\n{other}\n#allocation4 [shape = 's32[2]{{0}}', space=sflag, size = 0x8]") == 0x81000 / 2**20


def test_five_per_cent_more_is_over_budget():
    budget = {"cycles": 10.0, "vmem_mib": 4.0}
    assert aot.over_budget({"cycles": 10.4, "vmem_mib": 4.1}, budget) == []
    assert aot.over_budget({"cycles": 10.6, "vmem_mib": 4.0}, budget) == ["cycles 10.6 > 10.0"]
    assert aot.over_budget({"cycles": 1.0, "vmem_mib": 4.0}, None) == ["no budget"]
