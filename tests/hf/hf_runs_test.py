"""Runs that began with a released model: exported as what they have learnt, spoken with, and never fed another tokenizer's ids."""
import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import config as configs, start as starts
from sleepnet.config import ExpertsConfig, parse
from sleepnet.errors import UsageError
from sleepnet.hf import check, load, say, trained
from sleepnet.hf.__main__ import main
from sleepnet.models.hybrid import Hybrid
from sleepnet.origin import named
from sleepnet.tasks.text import Text, token_file
from sleepnet.tokenizers import hash_of

GOLDEN = check.GOLDENS / "llama"


def params_of(model):
    return {name: np.asarray(leaf) for name, leaf in named(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])).items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The llama golden with a block put in and a tokenizer, imported."""
    folder = tmp_path_factory.mktemp("opened")
    shutil.copytree(GOLDEN, folder / "hub")
    (folder / "hub/tokenizer.json").write_text("{}")
    assert main(["import", str(folder / "hub"), f"--out={folder / 'in'}", "--insert=G:1", "--window=8"]) == 0
    return folder / "in"


def run_of(opened, folder, model, monkeypatch):
    """The folder of a run that began with it and has this model now."""
    folder.mkdir()
    (folder / "task.json").write_text("{}")
    link = {"name": "in", "folder": str(opened), "task": "", "method": "released", "steps": None, "flops": None, "tokens": None, "digest": ""}
    (folder / "start.json").write_text(json.dumps({"start": str(opened), "kind": "released", "digest": "", "frozen": "", "flops": None, "tokens": None, "chain": [link]}))
    monkeypatch.setattr(trained.checkpoint, "load_model", lambda _: types.SimpleNamespace(model=model))
    return folder


def learnt(model):
    """It with every parameter moved by a number of its own."""
    graph, params = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    return nnx.merge(graph, jax.tree.unflatten(tree, [leaf + jnp.float32(0.01 * (1 + i)) for i, leaf in enumerate(leaves)]))


def otherwise(opened, **changes):
    """A fresh model that is configured otherwise than it."""
    return nnx.eval_shape(lambda: Hybrid(dataclasses.replace(load(opened)[0].config, **changes), nnx.Rngs(0)))


def test_a_run_is_exported_as_what_it_has_learnt(opened, tmp_path, monkeypatch, capsys):
    model = learnt(load(opened)[0])
    run = run_of(opened, tmp_path / "run", model, monkeypatch)
    assert main(["export", str(run), f"--out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    again, wanted = params_of(load(tmp_path / "out")[0]), params_of(model)
    assert again.keys() == wanted.keys() and "blocks.1.mixer.out.kernel" in wanted
    for name, value in wanted.items():
        assert again[name].tobytes() == value.tobytes(), name
    assert (tmp_path / "out/config.json").read_bytes() == (GOLDEN / "config.json").read_bytes()


@pytest.mark.parametrize("changes, words", [
    ({"experts": ExpertsConfig(count=1)}, "the model has blocks.0.experts.born, for which a llama model has no name"),
    ({"rope_theta": 7.0}, "model.rope_theta=7.0 is not what config.json of the released model says (100.0)"),
])
def test_what_a_family_can_not_say_is_not_exported(opened, tmp_path, monkeypatch, capsys, changes, words):
    run = run_of(opened, tmp_path / "run", otherwise(opened, **changes), monkeypatch)
    assert main(["export", str(run), f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_run_says_what_follows_with_its_own_passes(opened, tmp_path, monkeypatch, capsys):
    found, sleep = [], dataclasses.replace(load(opened)[0].config.sleep, passes=3, after_predicting=True)
    run = run_of(opened, tmp_path / "run", otherwise(opened, sleep=sleep), monkeypatch)
    monkeypatch.setattr("sleepnet.talk.follow", lambda model, prompt, count, **how: found.append((prompt, how["passes"], how["stop"])) or [])
    monkeypatch.setattr("sleepnet.hf.tokens.Json", Fake)
    assert main(["say", str(run), "word"]) == 0 and main(["say", str(run), "word", "--passes=2"]) == 0
    assert found == [([1, 5], 3, (1,)), ([1, 5], 2, (1,))]


def test_the_folder_of_a_run_is_not_taken_for_a_released_model(opened, tmp_path, monkeypatch, capsys):
    run = run_of(opened, tmp_path / "run", None, monkeypatch)
    (run / "config.json").write_text("{}")
    assert main(["describe", str(run)]) == 2 and "is a run's folder: `say` and `export` take it" in capsys.readouterr().err
    (run / "start.json").unlink()
    assert main(["export", str(run), f"--out={tmp_path / 'out'}"]) == 2 and "did not begin with a released model" in capsys.readouterr().err


class Fake:
    """A tokenizer that puts 1 before every text, unless it is told that it is there already."""

    def __init__(self, path, content):
        pass

    def encode(self, text, special=True):
        return [1, 5] if special else [5]


def test_a_chat_template_has_put_the_special_tokens_itself(opened, monkeypatch):
    found = []
    monkeypatch.setattr("sleepnet.talk.follow", lambda model, prompt, *more, **how: found.append(prompt) or [])
    monkeypatch.setattr("sleepnet.hf.tokens.Json", Fake)
    monkeypatch.setattr(say, "chat", lambda folder, text: f"<s>{text}")
    assert main(["say", str(opened), "word"]) == 0 and main(["say", str(opened), "word", "--chat"]) == 0
    assert found == [[1, 5], [5]]


def text_of(folder, name, sha256):
    """Text of sixteen documents in another's tokens."""
    documents = (token_file.Document(f"d{i}", i, [1 + i, 2, 3] * 9, 27) for i in range(16))
    token_file.write(folder / name, documents, source="counting", tokenizer={"name": name, "sha256": sha256, "vocab_size": 32})
    return str(folder / name)


def test_text_in_another_tokenizers_ids_is_refused_by_the_model_that_a_run_starts_from(opened, tmp_path):
    values = configs.default()
    values.model.update({"pretrained": str(opened), "pad_id": -1})
    values.task = {"name": "text", "arguments": {"tokens": text_of(tmp_path, "other", "0" * 64), "window": 8, "windows": 2}, "folder": ""}
    config = parse(values)
    with pytest.raises(UsageError, match=r"has the tokenizer tokenizer.json \(\w{12}\), task.arguments.tokens='.*other' are of other \(0{12}\): write them with its own"):
        starts.find(config, Text(**config.task.arguments), tmp_path / "run")
    same = Text(tokens=text_of(tmp_path, "same", hash_of(str(opened))), window=8, windows=2)
    assert starts.find(config, same, tmp_path / "run").record["kind"] == "released"
