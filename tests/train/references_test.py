"""Other weights that a method names: read as a start is, given to the compiled step, written down by digest, saved nowhere; another one is refused."""
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet import checkpoint, lineage, origin
from sleepnet.config import AdaptersConfig, MethodConfig
from sleepnet.errors import UsageError
from sleepnet.lineage import digest
from sleepnet.methods import base as contract
from sleepnet.origin import named
from sleepnet.train.loop import train
from start_test import BASE, base, inspect_checkpoint, losses_of, one_compilation, params_of  # noqa: F401  fixtures


@dataclasses.dataclass(frozen=True)
class Pull(contract.Method):
    """Σ KL(teacher ‖ model) over labels; beside it how far the law of `anchor` is from the model's, told alone."""

    teacher: str = ""
    anchor: str = ""

    name = "pull"
    prepares = True
    tells = ("anchor_gap",)
    references = ("teacher", "anchor")

    def prepare(self, problem, params, memory, batch, key, passes):
        return {**batch, "law": jax.nn.log_softmax(problem.forward(problem.references["teacher"], batch["tokens"], passes))}, memory

    def loss(self, problem, params, batch, passes, count):
        logits = problem.forward(params, batch["tokens"], passes)
        gaps = jnp.sum(jnp.exp(batch["law"]) * (batch["law"] - jax.nn.log_softmax(logits)), axis=-1)
        # in the loss, where devices and microbatches have their parts
        far = jnp.abs(problem.forward(problem.references["anchor"], batch["tokens"], passes) - logits) if self.anchor else jnp.zeros_like(logits)
        return jnp.sum(jnp.where(batch["loss_mask"], gaps, 0.0)) / count, {"logits": logits, "far": jnp.sum(jnp.where(batch["loss_mask"][..., None], far, 0.0))}

    def tell(self, problem, batch, seen, count):
        return {"anchor_gap": seen["far"]}

    def flops(self, model, task, passes):
        return contract.read_and_learn(model, task, passes) + contract.read(model, task, passes)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    train(dataclasses.replace(BASE, seed=1), folder, quiet=True)
    return folder


def pulled(base, teacher, **changes):  # noqa: F811
    settings = dataclasses.replace(BASE.train, steps=4, save_every=2, accumulate=2)
    method = MethodConfig("references_test:Pull", {"teacher": str(teacher), "anchor": "start"})
    return dataclasses.replace(BASE, start=str(base), phase="pulled", method=method, adapters=AdaptersConfig("named", "mlp|head"), train=settings, **changes)


@pytest.fixture(scope="module")
def run(base, teacher, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("pulled") / "run"
    train(pulled(base, teacher), folder, quiet=True)
    return folder


def log_p(folder, batch):
    loaded = checkpoint.load_model(folder)
    logits = np.asarray(loaded.model.forward(batch["tokens"], batch["loss_mask"], passes=1), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_first_loss_is_the_divergence_by_hand(base, teacher, run):  # noqa: F811
    batch = checkpoint.load_model(base).task.batch(0, "train", 0, 4)
    law, ours = log_p(teacher, batch), log_p(base, batch)
    gaps = (np.exp(law) * (law - ours)).sum(-1)[batch["loss_mask"]]
    lines = [line for line in losses_of(run) if line["split"] == "train"]
    assert lines[0]["loss"] == pytest.approx(gaps.mean(), rel=1e-4) and gaps.mean() > 0.01
    assert lines[0]["anchor_gap"] == 0 < lines[-1]["anchor_gap"], "it begins where it is anchored, bit for bit, and leaves it"


def test_they_are_written_down_and_saved_nowhere(base, teacher, run, capsys):  # noqa: F811
    record = lineage.read(run)
    assert {name: told["digest"] for name, told in record["references"].items()} == {"teacher": digest(params_of(teacher)), "anchor": digest(params_of(base))}
    assert record["references"]["teacher"]["start"] == str(teacher)
    whole, held = named(params_of(base)), named(origin.contents(run / "checkpoints" / "4").tree["params"])
    frozen = lineage.load_file(run / lineage.FROZEN)
    assert set(held) | set(frozen) == set(whole) and not set(held) & set(frozen)
    loaded = named(params_of(run))
    assert all(np.asarray(loaded[name]).tobytes() == np.asarray(whole[name]).tobytes() for name in frozen) and any((loaded[name] != whole[name]).any() for name in held)
    assert inspect_checkpoint.main([str(run)]) == 0
    assert f"teacher is {teacher}; sha256 {digest(params_of(teacher))[:12]}" in capsys.readouterr().out


def test_stopped_it_ends_as_unbroken_and_learns_from_no_other(base, teacher, run, tmp_path):  # noqa: F811
    folder, moved = tmp_path / "again", tmp_path / "teacher"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "result.json").unlink()
    again = tmp_path / "other"
    shutil.copytree(folder, again)
    train(pulled(base, teacher), folder, quiet=True)
    assert digest(params_of(folder)) == digest(params_of(run)) and losses_of(folder) == losses_of(run)
    shutil.copytree(teacher, moved)
    spoilt = json.loads((again / lineage.RECORD).read_text())
    spoilt["references"]["teacher"]["digest"] = "0" * 64
    (again / lineage.RECORD).write_text(json.dumps(spoilt))
    with pytest.raises(UsageError, match=rf"learnt from another teacher: sha256 0{{12}} there, {digest(params_of(teacher))[:12]} here; give that one as method.arguments.teacher"):
        train(pulled(base, moved), again, quiet=True)


@pytest.mark.parametrize("change, message", [
    (lambda config: dataclasses.replace(config, method=MethodConfig("references_test:Pull", {"teacher": "runs/nowhere"})), "method.arguments.teacher='runs/nowhere' is neither the folder of a run"),
    (lambda config: dataclasses.replace(config, start="", adapters=AdaptersConfig()), "method.arguments.anchor='start' is what the run starts from, and this one starts from nothing"),
    (lambda config: dataclasses.replace(config, start="", method=MethodConfig("references_test:Pull", config.method.arguments | {"anchor": ""}), model=dataclasses.replace(config.model, width=16)),
     r"method.arguments.teacher=.*teacher does not fit: blocks.0.mixer.beta.kernel has shape \(8, 1\) there and \(16, 1\) here"),
])  # fmt: skip
def test_what_can_not_be_is_refused_before_anything_is_written(base, teacher, tmp_path, change, message):  # noqa: F811
    with pytest.raises(UsageError, match=message):
        train(change(pulled(base, teacher)), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
