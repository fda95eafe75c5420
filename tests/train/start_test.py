"""Where a run starts: from another's end with a part that changes; stopped and moved it ends as unbroken; other parameters are refused; what it comes from is told."""
import dataclasses
import functools
import json
import shutil
from pathlib import Path

import inspect_checkpoint
import jax
import numpy as np
import pytest
from flax import nnx

from sleepnet import adapters, checkpoint, costs, lineage, optim, origin, start as starts
from sleepnet.config import AdaptersConfig, MethodConfig, RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.lineage import digest
from sleepnet.models import zoo
from sleepnet.origin import named
from sleepnet.train import loop
from sleepnet.train.loop import train

BASE = from_dict(RunConfig, {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "sleep": {"passes": 1}},
    "optim": {"warmup": 1, "decay": 0.0},
    "train": {"steps": 3, "batch_size": 4, "log_every": 1, "save_every": 3, "keep": 9, "eval_every": 0},
    "compile_cache": "off", "phase": "base",
})  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_compilation():
    """Optax's Muon divides a power of a float by an int32, which strict promotion forbids; equal runs share their compiled step."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        patch.setattr(optim, "optimizer", functools.cache(optim.optimizer))
        patch.setattr(loop, "make_step", functools.cache(loop.make_step))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    train(BASE, folder, quiet=True)
    return folder


def heart(base: Path, **changes) -> RunConfig:
    """A run that learns by heart with adapters on the MLP of `base`."""
    adapted = AdaptersConfig("low_rank", "mlp", rank=2)
    method = MethodConfig("memft", {"weights": "random_mask"})
    settings = dataclasses.replace(BASE.train, steps=4, save_every=2, first_example=1000)
    return dataclasses.replace(BASE, start=str(base), phase="heart", method=method, adapters=adapted, train=settings, **changes)


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted") / "heart"
    train(heart(base), folder, quiet=True)
    return folder


def params_of(folder: Path) -> dict:
    return nnx.to_pure_dict(nnx.split(checkpoint.load_model(folder).model, nnx.Param)[1])


def losses_of(folder: Path) -> list:
    return [{key: value for key, value in json.loads(line).items() if "seconds" not in key and key != "input_share"} for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_begins_with_the_end_of_the_other_and_changes_its_part_alone(base, adapted):
    before, after = named(params_of(base)), named(params_of(adapted))
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        assert (np.asarray(leaf).tobytes() == np.asarray(after[name]).tobytes()) != ("mlp." in name), name
    record = lineage.read(adapted)
    assert record["digest"] == digest(params_of(base)) and record["frozen"] == digest({"parameters": params_of(base)})
    values = checkpoint.load_model(adapted)
    held = named(origin.contents(adapted / "checkpoints" / "4").tree["params"])
    assert len(held) == 6 and all(name.endswith(("low_rank_a", "low_rank_b")) for name in held)
    result = json.loads((adapted / "result.json").read_text())
    assert result["parameters"] == sum(leaf.size for leaf in before.values())
    assert result["trained_parameters"] == 3 * 2 * (8 + 8) and result["flops_before"] == costs.of_steps(BASE, 3) and result["flops"] == costs.of_steps(values.config, 4)


def test_its_first_batch_is_where_the_configuration_says(base, adapted):
    """The loss before the first update is MemFT's of examples 1000 … under the other's parameters, by hand."""
    loaded = checkpoint.load_model(base)
    batch = loaded.task.batch(0, "train", 1000, 4)
    logits = np.asarray(loaded.model.forward(batch["tokens"], batch["loss_mask"], passes=1), np.float64)
    losses = -np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), batch["targets"][..., None], -1)[..., 0]
    mask = batch["loss_mask"]
    line = losses_of(adapted)[0]
    assert line["active_share"] == pytest.approx((losses[mask] > np.log(2)).mean(), abs=1e-6)
    assert line["active_share"] == 1 and line["loss"] == pytest.approx(losses[mask].mean(), rel=1e-5)  # as many drawn as there are: all


def test_stopped_it_ends_as_unbroken(base, adapted, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(adapted, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "result.json").unlink()
    train(heart(base), folder, quiet=True)
    assert digest(params_of(folder)) == digest(params_of(adapted)) and losses_of(folder) == losses_of(adapted)


def test_a_folder_that_was_moved_needs_its_start_no_more(base, adapted, tmp_path):
    folder, elsewhere = tmp_path / "moved", tmp_path / "base"
    shutil.copytree(adapted, folder)
    shutil.copytree(base, elsewhere)
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "result.json").unlink()
    train(dataclasses.replace(heart(base), start=str(elsewhere)), folder, quiet=True)  # the same parameters, elsewhere
    assert digest(params_of(folder)) == digest(params_of(adapted))


def test_a_chain_tells_all_it_comes_from(base, adapted, tmp_path, capsys):
    config = dataclasses.replace(BASE, start=str(adapted), phase="last", train=dataclasses.replace(BASE.train, steps=2, save_every=2))
    train(config, tmp_path / "last", quiet=True)
    record = lineage.read(tmp_path / "last")
    assert [(link["name"], link["method"], link["steps"]) for link in record["chain"]] == [("base", "answers", 3), ("heart", "memft", 4)]
    assert record["flops"] == sum(link["flops"] for link in record["chain"]) == costs.of_steps(BASE, 3) + costs.of_steps(heart(base), 4)
    assert record["frozen"] == "" and not (tmp_path / "last" / lineage.FROZEN).exists()
    assert inspect_checkpoint.main([str(tmp_path / "last")]) == 0
    told = capsys.readouterr().out
    assert "base (answers, 3 steps) → heart (memft, 4 steps)" in told and record["digest"][:12] in told


def test_a_model_of_the_zoo_is_a_start(tmp_path):
    model, task = zoo.load("depo8_sleep4")
    values = {"task": {"name": task.name, "arguments": task.arguments}, "adapters": {"kind": "named", "names": "final_norm"}, "start": "depo8_sleep4"}
    config = from_dict(RunConfig, {**values, "model": {"pattern": "AG"}, "train": {"steps": 1, "batch_size": 2, "eval_every": 0}, "optim": {"warmup": 0}})
    config = dataclasses.replace(config, model=dataclasses.replace(model.config, sleep=dataclasses.replace(model.config.sleep, passes=1)))
    begin = starts.find(config, task, tmp_path / "run")
    assert begin.record["kind"] == "zoo" and begin.record["flops"] is None and list(named(begin.shapes)) == ["final_norm.scale"]
    whole = adapters.whole(config.adapters, begin.trainable(), begin.frozen)
    assert digest(whole) == digest(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))


@pytest.mark.parametrize("change, message", [
    (lambda config, folder: dataclasses.replace(config, start="runs/nowhere"), "start='runs/nowhere' is neither the folder of a run nor a model that comes trained"),
    (lambda config, folder: dataclasses.replace(config, start="depo8_slep4"), "did you mean 'depo8_sleep4'"),
    (lambda config, folder: dataclasses.replace(config, model=dataclasses.replace(config.model, width=16)), r"does not fit: blocks.0.mixer.beta.kernel has shape \(8, 1\) there and \(16, 1\) here; set model"),
    (lambda config, folder: dataclasses.replace(config, model=dataclasses.replace(config.model, pattern="GG")), r"does not fit: blocks.1.mixer.beta.kernel is none there and \(8, 1\) here"),
    (lambda config, folder: dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=99)), r"does not fit: embedding has shape .* and \(99, 8\) here; set model.vocab_size"),
])
def test_what_does_not_fit_is_refused_before_anything_is_written(base, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        train(change(heart(base), tmp_path), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_other_parameters_and_damage_are_refused(base, adapted, tmp_path):
    other, folder = tmp_path / "other", tmp_path / "run"
    shutil.copytree(adapted, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    train(dataclasses.replace(BASE, seed=1), other, quiet=True)
    with pytest.raises(UsageError, match=r"started from other parameters: '?.*base'? \(sha256 .*other.*give that start, or another --workdir"):
        train(heart(other), folder, quiet=True)
    plain = tmp_path / "plain"
    shutil.copytree(base, plain)
    with pytest.raises(UsageError, match="holds a run of fresh parameters that changes them all"):
        train(dataclasses.replace(BASE, start=str(other)), plain, quiet=True)
    data = (folder / lineage.FROZEN).read_bytes()
    for spoilt, message in ((data[:100], "can't be read"), (data[:-4] + b"\0\0\1\0", "is not what .*start.json says")):
        (folder / lineage.FROZEN).write_bytes(spoilt)
        with pytest.raises(UsageError, match=message):
            checkpoint.load_model(folder)
    (folder / lineage.FROZEN).unlink()
    with pytest.raises(UsageError, match="can't be read"):
        train(heart(base), folder, quiet=True)


def test_a_checkpoint_of_another_start_is_refused(base, adapted, tmp_path):
    other, folder = tmp_path / "other", tmp_path / "run"
    train(dataclasses.replace(BASE, seed=1), other, quiet=True)
    train(heart(other), tmp_path / "others", quiet=True)
    shutil.copytree(adapted, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(tmp_path / "others" / "checkpoints", folder / "checkpoints")
    for use in (lambda: train(heart(base), folder, quiet=True), lambda: checkpoint.load_model(folder)):
        with pytest.raises(UsageError, match="checkpoint .*/4 is of a run that started from other parameters"):
            use()


def test_a_start_that_was_trained_on_is_another(base, tmp_path):
    """Killed before the first save, its start longer by then: refused, not begun anew from elsewhere."""
    start, folder = tmp_path / "start", tmp_path / "run"
    shutil.copytree(base, start)
    train(heart(start), folder, quiet=True)
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    train(dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, steps=5)), start, quiet=True)
    with pytest.raises(UsageError, match="started from other parameters"):
        train(heart(start), folder, quiet=True)
