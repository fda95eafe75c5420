"""Meshes and sharding rules without devices: sizes, specs by name, what is refused."""
import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from sleepnet import build, mesh as meshes, sharding
from sleepnet.config import MeshConfig, ModelConfig, RunConfig, TrainConfig
from sleepnet.errors import UsageError
from sleepnet.models import zoo


@pytest.mark.parametrize("config, devices, sizes", [
    (MeshConfig(), 1, (1, 1, 1)),
    (MeshConfig(), 8, (8, 1, 1)),
    (MeshConfig(fsdp=4), 8, (2, 4, 1)),
    (MeshConfig(data=1, fsdp=-1, tensor=2), 8, (1, 4, 2)),
    (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 2)),
])
def test_minus_one_fills_the_mesh(config, devices, sizes):
    assert meshes.sizes(config, devices) == sizes
    assert dict(meshes.abstract(config, devices).shape) == dict(zip(meshes.AXES, sizes))


@pytest.mark.parametrize("config, devices", [(MeshConfig(fsdp=3), 8), (MeshConfig(data=2, fsdp=2), 8), (MeshConfig(fsdp=16), 8)])
def test_a_mesh_that_is_not_the_devices_is_refused(config, devices):
    with pytest.raises(UsageError, match=rf"mesh.data=.* × mesh.fsdp=.* must multiply to the number of devices, {devices}"):
        meshes.sizes(config, devices)


def test_impossible_axes_are_refused():
    with pytest.raises(UsageError, match="mesh.data and mesh.tensor are both -1"):
        MeshConfig(tensor=-1)
    with pytest.raises(UsageError, match="mesh.fsdp=0"):
        MeshConfig(fsdp=0)


@pytest.mark.parametrize("config, message", [
    (RunConfig(train=TrainConfig(batch_size=30)), "train.batch_size=30 must be a multiple of mesh.data × mesh.fsdp = 4"),
    (RunConfig(model=ModelConfig(heads=3)), "model.heads=3 must be a multiple of mesh.tensor=2"),
])
def test_a_run_that_does_not_divide_is_refused(config, message):
    with pytest.raises(UsageError, match=message):
        sharding.check(config, meshes.abstract(MeshConfig(fsdp=2, tensor=2), 8))


def parameters(name="paper_rule110"):
    return nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: zoo.create(name)), nnx.Param)[1])


@pytest.mark.parametrize("name", ["paper_rule110", "paper_depo"])
def test_every_parameter_has_a_rule(name):
    assert not [line for line in sharding.uncut(parameters(name), meshes.abstract(MeshConfig(fsdp=2, tensor=2), 8)) if "no sharding rule" in line]


def test_the_table_counts_every_byte():
    mesh = meshes.abstract(MeshConfig(fsdp=4, tensor=2), 8)
    lines = {name: (shape, spec, size) for name, shape, spec, size in sharding.table(parameters(), mesh)}
    assert lines["blocks.1.mixer.q.kernel"] == ((256, 256), P("fsdp", "tensor"), 256 * 256 * 4 // 8)
    assert lines["blocks.1.mixer.out.kernel"] == ((256, 256), P("tensor", "fsdp"), 256 * 256 * 4 // 8)
    assert lines["blocks.0.mlp.down.kernel"][1] == P("tensor", "fsdp")
    assert lines["embedding"] == ((4, 256), P(None, "fsdp"), 4 * 256)
    assert lines["blocks.1.mixer.decay_bias"] == ((4,), P(None), 16)
    whole = sharding.table(parameters(), meshes.abstract(MeshConfig(), 1))
    assert sum(line[3] for line in whole) == 4 * sum(leaf.size for leaf in jax.tree.leaves(parameters()))


def test_what_does_not_divide_stays_whole_and_is_named():
    mesh = meshes.abstract(MeshConfig(fsdp=3, tensor=1), 3)
    assert sharding.spec_of("blocks.0.mixer.q.kernel", (256, 256), mesh) == P(None, None)
    lines = sharding.uncut(parameters(), mesh)
    assert any(line.startswith("blocks.0.mixer.q.kernel (256, 256), 65,536 values: mesh.fsdp=3 does not divide 256") for line in lines)


def test_a_parameter_without_a_rule_is_named():
    lines = sharding.uncut({"blocks": {"0": {"mixer": {"novel": np.zeros((4, 4))}}}}, meshes.abstract(MeshConfig(), 2))
    assert lines == ["blocks.0.mixer.novel (4, 4), 16 values: no sharding rule, whole on every device"]


def test_the_optimisers_copies_follow_their_parameter():
    mesh = meshes.abstract(MeshConfig(fsdp=2), 2)
    assert sharding.spec_of("opt_state.1.inner_states.muon.mu.blocks.1.mixer.q.kernel", (64, 64), mesh) == P("fsdp", None)
    assert sharding.spec_of("opt_state.1.count", (), mesh) == P()


def test_on_one_device_nothing_changes():
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    assert sharding.rows(mesh, 6).tolist() == list(range(6))
    rule = object()
    with meshes.use(mesh):
        assert meshes.over_batch_and_heads(rule) is rule and not meshes.splits_heads()
        value = jax.numpy.ones((3, 2))
        assert meshes.constrain(value, "fsdp", None) is value


def test_a_batch_is_what_its_rows_are():
    config = dataclasses.replace(RunConfig(), train=TrainConfig(batch_size=6))
    task = build.task_of(config)
    batch = {key: value for key, value in task.batch(0, "train", 12, 6).items() if key in ("tokens", "loss_mask")}
    placed = sharding.place(meshes.make(MeshConfig(), jax.devices()[:1]), batch, 6, np.arange(6))
    for key, value in batch.items():
        np.testing.assert_array_equal(placed[key], value)
        assert placed[key].dtype == value.dtype
