"""The benchmark of the rules: its floors against figures worked out elsewhere, and no speed for what is wrong."""
import json
import pathlib
import sys
import time

import jax.numpy as jnp
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import bench_kernels  # noqa: E402
from bench import floors, static  # noqa: E402
from sleepnet.errors import UsageError  # noqa: E402
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape  # noqa: E402

SMALL = Shape(1, 6, 2, 8, 12)


@pytest.mark.parametrize("kind, forward, backward", [("NVIDIA H200", 169, 253), ("TPU v5", 293, 449), ("TPU v6 lite", 494, 742)])
def test_the_floors_are_those_of_the_targets(kind, forward, backward):
    """Microseconds at batch 8, 4,096 tokens, 16 heads of 128, bfloat16, as the project's targets state them without the state's own traffic."""
    shape, known = Shape(8, 4096, 16, 128, 128), floors.PEAKS[kind]
    peak = floors.Peak(known["bfloat16"], known["memory"], measured=False)
    assert 1e6 * floors.forward(shape, "bfloat16", delta=True, saves=True).seconds(peak) == pytest.approx(forward, rel=0.03)
    assert 1e6 * floors.backward(shape, "bfloat16", delta=True).seconds(peak) == pytest.approx(backward, rel=0.03)

    # The backward of a v5p is bound by its products: 449 microseconds at 459 TFLOP/s.
    assert floors.backward(shape, "bfloat16", delta=True).flops == pytest.approx(449e-6 * 459e12, rel=0.01)


def test_shared_heads_move_fewer_bytes():
    one, other = (floors.forward(Shape(1, 64, 4, 8, 8, shared), "float32", delta=True, saves=False) for shared in (1, 4))
    assert one.moved - other.moved == 2 * 3 * 64 * 8 * 4 and one.flops == other.flops


def test_shapes_are_a_set_or_numbers():
    assert {shape.t for shape in bench_kernels.shapes_of("sleep")} >= {24, 2048} and len(bench_kernels.shapes_of("")) > 1
    assert bench_kernels.shapes_of("1,6,2,8,12 1,64,4,8,8,4") == [SMALL, Shape(1, 64, 4, 8, 8, 4)]
    for bad in ("sleeep", "1,6,2,8", "1,6,2,8,12,1,1"):
        with pytest.raises(UsageError, match=f"--shapes='{bad}': give sleep, or 5 or 6 numbers a shape"):
            bench_kernels.shapes_of(bad)


def test_what_compilers_say_is_read_off_the_budgets(tmp_path):
    (tmp_path / "aot_budget.json").write_text('{"v5p delta forward bfloat16": {"cycles": 1.5}, "v5p delta forward float32": {"cycles": 3}, "v5p hebbian forward bfloat16": {}}')
    (tmp_path / "aot_cuda_budget.json").write_text('{"h200 delta 64": {"forward": {"registers": 7}, "reverse": {"registers": 8}}, "h200 hebbian 64": {}}')
    told = static.rows("delta", "bfloat16", tmp_path)
    assert [row["kernel"] for row in told] == ["v5p delta forward bfloat16", "h200 delta 64 forward", "h200 delta 64 reverse"]
    assert "cycles 1.5" in static.line(told[0]) and told[2]["registers"] == 8
    assert static.line({"platform": "TPU", "kernel": "k", "cycles": 7.9, "target": 7.8}).endswith("cycles 7.9; target 7.8 cycles: missed")
    assert [row["kernel"] for row in static.rows("delta", "float32", tmp_path)] == ["v5p delta forward float32"]
    committed = static.rows("delta", "bfloat16")
    assert {row["platform"] for row in committed} == {"TPU", "GPU"}
    with_target = {row["kernel"] for row in committed if "target" in row and "packed" not in row["kernel"]}
    assert with_target == {f"{chip} delta {direction} bfloat16" for chip in ("v5p", "v6e") for direction in ("forward", "backward")}


def test_a_busy_machine_is_not_counted_where_the_process_is():
    """A call that sleeps costs the process next to nothing, one that computes does not get cheaper by being repeated."""
    asleep = lambda: time.sleep(0.01)
    busy = lambda: sum(range(200_000))
    assert bench_kernels.wall_seconds(asleep) >= 0.01
    assert 5e-4 < bench_kernels.cpu_seconds(busy) < 1.0
    assert bench_kernels.cpu_seconds(lambda: (asleep(), busy())) < bench_kernels.wall_seconds(lambda: (asleep(), busy()))


def test_a_row_has_every_column_and_what_is_wrong_has_no_speed(tmp_path):
    rows = bench_kernels.contenders("delta", [], "", [])

    def forgetful(q, k, v, log_decay, beta, state):
        return rows["xla_chunked"](q, k, v, jnp.zeros_like(log_decay), beta, state)

    measured = list(bench_kernels.bench("delta", SMALL, "float32", rows | {"forgetful": forgetful}, rounds=3))
    oracle, chunked, wrong = json.loads(json.dumps(measured))
    assert "output" in wrong["failed"] and "both_ms" not in wrong and "not timed" in bench_kernels.line(wrong)
    assert chunked["ratios"] == {"reference": chunked["ratio"]} and oracle["ratios"] == {}
    assert chunked["ratio"] == pytest.approx(oracle["both_ms"] / chunked["both_ms"])
    assert chunked["share"] * chunked["both_ms"] == pytest.approx(oracle["share"] * oracle["both_ms"])
    assert chunked["temporary_bytes"] > 0 and chunked["compile_s"] > 0 and 0 < max(chunked["errors"].values()) < 1e-5
    assert f"reference {chunked['ratio']:.2f}" in bench_kernels.line(chunked)
    floors.plot(measured, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
