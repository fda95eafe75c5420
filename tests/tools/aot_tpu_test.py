"""What aot_tpu.py reads out of a compiled program, and what it predicts from that; the compiler itself is asked under `-m aot`."""
import json
import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from sleepnet.config import parse
from sleepnet.errors import UsageError

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import aot_tpu  # noqa: E402
import aot_tpu_pod as pod  # noqa: E402
from aot import chips, hlo  # noqa: E402

PLANE = [(i % 4, i // 4, 0) for i in range(16)]
HLO = """HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%fused (p0: f32[5,8,16], p1: s32[]) -> f32[8,16] {
  %p0 = f32[5,8,16]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %cut = f32[1,8,16]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
  ROOT %flat = f32[8,16]{1,0:T(8,128)} bitcast(%cut)
}

%product (x: f32[8,16], w: f32[16,32]) -> f32[8,32] {
  %x = f32[8,16]{1,0:T(8,128)} parameter(0)
  %w = f32[16,32]{1,0:T(8,128)} parameter(1)
  ROOT %convolution.7 = f32[8,32]{1,0:T(8,128)} convolution(%x, %w), dim_labels=bf_io->bf
}

%condition (c: (s32[], f32[5,8,16], f32[16,32])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[5,8,16]{2,1,0:T(8,128)}, /*index=2*/f32[16,32]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %bound = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%body (c.1: (s32[], f32[5,8,16], f32[16,32])) -> (s32[], f32[5,8,16], f32[16,32]) {
  %c.1 = (s32[]{:T(128)}, f32[5,8,16]{2,1,0:T(8,128)}, /*index=2*/f32[16,32]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%c.1), index=0
  %xs = f32[5,8,16]{2,1,0:T(8,128)} get-tuple-element(%c.1), index=1
  %w.1 = f32[16,32]{1,0:T(8,128)} get-tuple-element(%c.1), index=2
  %row = f32[8,16]{1,0:T(8,128)S(1)} fusion(%xs, %i.1), kind=kLoop, calls=%fused
  %out = f32[8,32]{1,0:T(8,128)} fusion(%row, %w.1), kind=kOutput, calls=%product
  %all-reduce.1 = f32[8,32]{1,0:T(8,128)} all-reduce(%out), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_0'}, use_global_device_ids=true, to_apply=%sum
  ROOT %next = (s32[]{:T(128)}, f32[5,8,16]{2,1,0:T(8,128)}, f32[16,32]{1,0:T(8,128)}) tuple(%i.1, %xs, %w.1)
}

ENTRY %main (xs.1: f32[5,8,16], w.2: f32[16,32]) -> f32[64,32] {
  %xs.1 = f32[5,8,16]{2,1,0:T(8,128)} parameter(0)
  %w.2 = f32[16,32]{1,0:T(8,128)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, f32[5,8,16]{2,1,0:T(8,128)}, f32[16,32]{1,0:T(8,128)}) tuple(%start, %xs.1, %w.2)
  %while.1 = (s32[]{:T(128)}, f32[5,8,16]{2,1,0:T(8,128)}, f32[16,32]{1,0:T(8,128)}) while(%begin), condition=%condition, body=%body
  %end = f32[16,32]{1,0:T(8,128)} get-tuple-element(%while.1), index=2
  %kernel = bf16[16,32]{1,0:T(8,128)(2,1)} custom-call(%end), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000","transcendentals":"7"}}}
  ROOT %all-gather.1 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%kernel), channel_id=2, replica_groups=[4,4]<=[16], dimensions={0}
}
"""


def test_loops_are_counted_as_often_as_they_run():
    found = hlo.read(HLO, PLANE)
    assert (found["flops"], found["kernel_flops"], found["unknown_loops"]) == (5 * 2 * 8 * 16 * 32 + 1000, 1000, 0)
    slices, products, sums = 5 * (8 * 16 * 4 + 4), 5 * (16 * 32 + 8 * 32) * 4, 5 * 2 * 8 * 32 * 4  # vector memory costs nothing
    assert found["bytes"] == slices + products + sums + 16 * 32 * 4 + 16 * 32 * 2 + 16 * 32 * 2 + 64 * 32 * 2
    assert found["collectives"] == [
        {"kind": "all-reduce", "chips": 4, "extent": (1, 4, 1), "bytes": 8 * 32 * 4, "count": 5},
        {"kind": "all-gather", "chips": 4, "extent": (4, 1, 1), "bytes": 64 * 32 * 2, "count": 1},
    ]


def test_a_loop_of_unknown_length_is_told():
    found = hlo.read(HLO.replace("direction=LT", "direction=NE"), PLANE)
    assert found["unknown_loops"] == 1 and found["flops"] == 2 * 8 * 16 * 32 + 1000


def test_a_collective_in_several_fusions_is_one():
    """The compiler writes one that overlaps with products as its start, its steps and its end, each in a fusion, all of one channel."""
    piece = "%piece.N (p: bf16[16,32]) -> bf16[64,32] {\n  %p = bf16[16,32]{1,0} parameter(0)\n  ROOT %ag.N = bf16[64,32]{1,0} all-gather(%p), channel_id=2, replica_groups=[4,4]<=[16], dimensions={0}\n}\n\n"
    fused = "\n".join(f"  %step.{i} = bf16[64,32]{{1,0}} fusion(%kernel), kind=kCustom, calls=%piece.{i}" for i in (1, 2, 3))
    cut, end = HLO.index("ENTRY"), HLO.index("  ROOT %all-gather.1")
    text = HLO[:cut] + "".join(piece.replace("N", str(i)) for i in (1, 2, 3)) + HLO[cut:end] + fused + "\n}\n"
    assert hlo.read(text, PLANE)["collectives"] == hlo.read(HLO, PLANE)["collectives"]


def test_collectives_that_share_a_channel_are_each_counted():
    """All sums of a `shard_map` have channel 1."""
    end = HLO.index("  ROOT %all-gather.1")
    sums = "".join(f"  %sum.{i} = f32[16,32]{{1,0}} all-reduce(%end), channel_id=2, replica_groups=[4,4]<=[16], to_apply=%sum\n" for i in (1, 2))
    found = hlo.read(HLO[:end] + sums + HLO[end:], PLANE)["collectives"]
    assert {"kind": "all-reduce", "chips": 4, "extent": (4, 1, 1), "bytes": 16 * 32 * 4, "count": 2} in found and len(found) == 3


def test_what_xla_makes_of_a_scan_is_read():
    """Not our text: XLA's, for the machine that runs the test."""
    step = lambda x, w: (jnp.tanh(jnp.dot(x, w)), jnp.einsum("ij,kj->ik", x, w))
    text = jax.jit(lambda x, ws: jax.lax.scan(step, x, ws)).lower(jnp.ones((8, 16)), jnp.ones((7, 16, 16))).compile().as_text()
    found = hlo.read(text, [(0, 0, 0)])
    assert found["flops"] == 7 * 2 * (2 * 8 * 16 * 16) and found["unknown_loops"] == 0 and not found["collectives"]


@pytest.mark.parametrize(
    "attributes, flops",
    [
        ("dim_labels=bf_io->bf", 2 * 24 * 64 * 48),
        # heads and sequences as dilated space, as the TPU compiler writes a product with two axes in common
        ("window={size=32x4 stride=31x3 lhs_dilate=32x4}, dim_labels=0b1f_0o1i->01bf", 2 * 32 * 4 * 24 * 24 * 64),
        ("window={size=4 pad=3_0}, dim_labels=b0f_0io->b0f", 2 * 3 * 5 * 7 * (1 + 2 + 3 + 4 + 4 + 4)),
    ],
)
def test_products_count_what_is_multiplied(attributes, flops):
    shapes = {"bf_": ((24, 64), (64, 48), (24, 48)), "0b1": ((32, 24, 4, 64), (32, 24, 4, 64), (32, 4, 24, 24)), "b0f": ((3, 6, 5), (4, 5, 7), (3, 6, 7))}
    left, right, out = (hlo.Array("f32", shape, False) for shape in shapes[attributes.split("dim_labels=")[1][:3]])
    assert hlo.product_flops(hlo.Instruction("c", (out,), "convolution", ("l", "r"), attributes), left, right) == flops


@pytest.mark.parametrize(
    "attributes, group",
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%sum", [0, 2]),
        ("replica_groups=[2,8]<=[16]", list(range(8))),
        ("replica_groups=[4,4]<=[4,4]T(1,0)", [0, 4, 8, 12]),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2,'axis_2'=2] {'axis_0','axis_2'}", [0, 1, 4, 5, 8, 9, 12, 13]),
        ("replica_groups=mesh['axis_0'=16] {'axis_0':(1)4}", [0, 4, 8, 12]),
        ("replica_groups=mesh['axis_0'=16] {'axis_0':(4)4}", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=4], device_ids=([4,4]T(1,0)) {'axis_0'}, use_global_device_ids=true", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=4], device_ids=([4,4]T(1,0)) {'axis_2'}, use_global_device_ids=true", [0, 4, 8, 12]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=(3,1,2,0) {'axis_0'}", [3, 2]),
        ("source_target_pairs={{3,1},{1,3}}", [3, 1]),
        ("source_target_pairs={{0,0},{1,2},{2,1}}, channel_id=5", [1, 2]),
        ("source_target_pairs={{0,0},{1,1}}", [0]),
        ("replica_groups={}", list(range(16))),
    ],
)
def test_groups_of_chips(attributes, group):
    assert hlo.group_of(attributes, 16) == group


def test_groups_that_cannot_be_read_are_not_taken_for_all_chips():
    with pytest.raises(ValueError, match="written in a way this tool does not read: @grid"):
        hlo.group_of("replica_groups=@grid {'x'}, use_global_device_ids=true", 16)


def test_a_collective_takes_what_its_links_allow():
    v5e, v5p = chips.CHIPS["v5e"], chips.CHIPS["v5p"]
    row = {"kind": "all-reduce", "chips": 16, "extent": (4, 4, 1), "bytes": 160e6}
    # two lines of 50 GB/s, 3 hops each; v5e's axes are rings at 16 alone
    assert chips.collective_seconds(row, v5e, (4, 4)) == pytest.approx(2 * (150e6 / 100e9 + 6e-6))
    row = {"kind": "all-gather", "chips": 4, "extent": (1, 4, 1), "bytes": 160e6}
    # one ring, both ways at 100 GB/s, 2 hops to the farthest
    assert chips.collective_seconds(row, v5p, (4, 4, 4)) == pytest.approx(120e6 / 200e9 + 2e-6)


def test_the_slowest_part_bounds_the_step():
    chip = chips.CHIPS["v6e"]
    row = {"kind": "reduce-scatter", "chips": 2, "extent": (2, 1, 1), "bytes": 400e6}
    figures = {"flops": 918e9, "flops_model": 459e9, "bytes": 3.2e9, "collectives": [row | {"count": 2}]}
    found = chips.predict(figures, chip, (2, 1))
    assert found["compute"] == pytest.approx(1e-3) and found["HBM"] == pytest.approx(2e-3)
    assert found["interconnect"] == pytest.approx(2 * (200e6 / 100e9 + 1e-6)) and found["bound"] == "interconnect"
    assert found["step"] == found["interconnect"] and found["share"] == pytest.approx(459e9 / found["step"] / 918e12)


def test_a_shortage_names_the_largest_buffers():
    message = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm.

Largest program allocations in hbm:

  1. Size: 2.50M
     Operator: op_name="jit(step)/mul"
     Shape: f32[10]
     XLA label: fusion
  2. Size: 12.00G
     Operator: op_name="jit(step)/dot_general"
     Shape: f32[3,1024]{1,0}
"""
    found = hlo.shortage(message)
    assert found["message"] == "needs 20.00G of the 15.75G that the compiler has for it" and found["buffers"][0]["bytes"] == 12 * 2**30
    assert found["buffers"][0]["shape"] == "f32[3,1024]{1,0}" and "dot_general" in found["buffers"][0]["operator"] and len(found["buffers"]) == 2
    worse = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (38.35G) exceeds available HBM (15.75G)."
    assert hlo.shortage(worse) == {"message": "needs 38.35G of the 15.75G that the compiler has for it", "buffers": []}
    assert hlo.shortage("INTERNAL: other")["message"] == "INTERNAL: other"
    told = aot_tpu.told("train", "v5e:4x4", {"failed": found})
    assert "does not compile for v5e:4x4" in told and "12.00 GiB" in told


def test_a_compiler_that_was_stopped_is_no_result(monkeypatch):
    monkeypatch.setattr(aot_tpu.importlib.util, "find_spec", lambda name: name)
    ended = lambda code: lambda command, **_: subprocess.CompletedProcess(command, code, "", "said last")
    monkeypatch.setattr(aot_tpu.subprocess, "run", ended(-15))
    with pytest.raises(UsageError, match="stopped by SIGTERM"):
        aot_tpu.measured([], "v5e:4x4", "train")
    monkeypatch.setattr(aot_tpu.subprocess, "run", ended(-6))
    assert aot_tpu.measured([], "v5e:4x4", "train")["failed"]["message"] == "said last"


def test_every_mesh_multiplies_to_the_chips():
    meshes = list(aot_tpu.every_mesh(64))
    assert len(set(meshes)) == len(meshes) == 28 and all(data * fsdp * tensor == 64 for data, fsdp, tensor in meshes)


def test_the_search_puts_the_fastest_first_and_what_can_not_be_last(monkeypatch, capsys):
    def measured(arguments, topology, phase):
        data, fsdp, tensor = (int(argument.split("=")[1]) for argument in arguments[-3:])
        if fsdp == 16:
            return {"failed": {"message": "does not fit", "buffers": []}}
        return {"predicted": {"step": 1.0 / data + tensor, "bound": "HBM", "share": 0.1}, "peak_bytes": 0}

    monkeypatch.setattr(aot_tpu, "measured", measured)
    config = parse(runpy.run_path(str(ROOT / "experiments/rule110_paper.py"))["get_config"]())
    ranking = aot_tpu.search(config, [], "v5e:4x4", "train")
    assert len(ranking) == 15 and ranking[0][0] == (16, 1, 1)
    reasons = {sizes: figures["failed"]["message"] for sizes, figures in ranking if "failed" in figures}
    assert [sizes for sizes, _ in ranking[-len(reasons):]] and {sizes for sizes, _ in ranking[-len(reasons):]} == reasons.keys()
    assert reasons[1, 16, 1] == "does not fit" and "model.heads=4 must be a multiple of mesh.tensor=8" in reasons[1, 2, 8]
    capsys.readouterr()


def test_the_committed_curve_is_of_one_program_on_more_and_more_chips():
    curve, wanted = json.loads((pod.POD / "weak_scaling.json").read_text()), pod.weak_scaling()
    assert list(curve) == list(wanted) == ["1", "4", "16", "64", "256"]
    for chips_there, figures in curve.items():
        assert (figures["topology"], figures["arguments"]) == wanted[chips_there][1:] and figures["chips"] == int(chips_there) == figures["mesh"]["data"]
        assert figures["predicted"] == chips.predict(figures, *chips.slice_of(figures["topology"]))
        assert figures["flops_model"] == curve["1"]["flops_model"], "each chip has as much to do"


def test_only_what_is_lacking_is_compiled_and_kept_at_once(tmp_path, monkeypatch, capsys):
    """Predictions follow the facts of today, whenever a row was compiled."""
    figures = {
        "flops": 197e9, "flops_model": 1e9, "flops_compiler": 1, "kernel_flops": 0, "bytes": 819e6, "collectives": [], "unknown_loops": 0, "chips": 1, "mesh": {},
        "memory": {"argument": 1, "temp": 1, "generated_code": 1}, "peak_bytes": 3, "compile_s": 1, "trace_s": 1,
    }
    asked = []

    def measured(arguments, topology, phase):
        asked.append((arguments, topology, phase))
        return figures | {"predicted": chips.predict(figures, *chips.slice_of(topology))}

    monkeypatch.setattr(aot_tpu, "measured", measured)
    rows, path = {name: ("train", f"v5e:{name}", [f"--config={name}"]) for name in ("1x1", "2x2", "4x4")}, tmp_path / "rows.json"
    path.write_text(json.dumps({"1x1": figures | {"topology": "v5e:1x1", "arguments": ["--config=1x1"], "predicted": {"step": 9}}}))
    found = pod.compiled(rows, path, "2x2")
    assert asked == [(["--config=2x2"], "v5e:2x2", "train")] and list(found) == ["1x1", "2x2"] and json.loads(path.read_text()) == found
    assert found["1x1"]["predicted"]["step"] == pytest.approx(1e-3)
    capsys.readouterr()


def test_the_committed_table_is_what_the_tool_would_say_of_its_figures():
    """The rows' predictions and the table in the README follow from their figures; rows that are no longer asked for are gone."""
    found = json.loads((pod.POD / "table.json").read_text())
    wanted, text = pod.rows(), (pod.POD / "README.md").read_text()
    for name, figures in found.items():
        phase, topology, arguments = wanted[name]
        assert (figures["topology"], figures["arguments"]) == (topology, arguments) and pod.line(name, figures) in text
        if "predicted" in figures:
            assert figures["predicted"] == chips.predict(figures, *chips.slice_of(topology))


def test_an_unknown_slice_is_told():
    for wrong in ("v5p", "h100:8", "v5e:4xfour"):
        with pytest.raises(UsageError, match="must be a chip and the sides of its slice"):
            chips.slice_of(wrong)
    assert chips.slice_of("v5p:4x4x8")[1] == (4, 4, 8)


TINY = """
from sleepnet.config import default

def get_config():
    config = default()
    config.task.arguments = {"nodes": 5, "hops": 2, "queries": 2, "names": 6, "name_tokens": (1, 1), "min_nodes": 2}
    config.model.pattern, config.model.width, config.model.heads, config.model.head_dim, config.model.mlp_width = "G", 128, 2, 64, 0
    config.train.batch_size = 16
    return config
"""


@pytest.mark.aot
def test_a_small_run_compiles_for_a_slice(tmp_path):
    """Its gradients go round once a step; the bytes are the parameters', and what does not fit is refused."""
    (tmp_path / "config.py").write_text(TINY)
    command = [sys.executable, str(ROOT / "tools/aot_tpu.py"), f"--config={tmp_path / 'config.py'}", "--topology=v5e:2x2", f"--json={tmp_path / 'out.json'}"]
    done = subprocess.run([*command, "--phase=all"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["phase"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert rows.keys() == {"train", "sleep", "wake"} and all(row["predicted"]["step"] > 0 for row in rows.values())
    moved = sum(row["bytes"] * row["count"] for row in rows["train"]["collectives"] if row["kind"] == "all-reduce")
    assert moved >= 4 * (5 * 128 * 128) and rows["train"]["kernel_flops"] > 0 and not rows["wake"]["collectives"]
    assert rows["train"]["flops"] > 0.5 * rows["train"]["flops_model"]
