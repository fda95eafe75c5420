"""Blocks put into a released model: it says bit for bit what it said, they learn alone, and what is refused."""
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sleepnet import build, checkpoint, config as configs, optim, start as starts
from sleepnet.config import ModelConfig, RunConfig, parse
from sleepnet.errors import UsageError
from sleepnet.hf import check, load
from sleepnet.hf.__main__ import main
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid
from sleepnet.origin import named
from sleepnet.train.loop import train

GOLDEN = check.GOLDENS / "llama"
PUT_IN = r"^blocks\.(1|3)\."


def params_of(model):
    return named(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))


@pytest.mark.parametrize("kind, insert", [("llama", "Jet:0,2"), *(pytest.param(kind, "G:1,2", marks=pytest.mark.slow) for kind in ("llama", "qwen3_5_text", "olmo_hybrid"))])
def test_at_first_logits_are_those_of_the_model_bit_for_bit(kind, insert):
    tokens = load_file(check.GOLDENS / kind / "golden.safetensors")["tokens"]
    before, after = (load(check.GOLDENS / kind, window=tokens.shape[1], insert=put)[0] for put in ("", insert))
    assert after.config.pattern.count("G") == before.config.pattern.count("G") + 2
    assert np.asarray(check.logits_of(before, tokens)).tobytes() == np.asarray(check.logits_of(after, tokens)).tobytes()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The llama golden with two blocks put in, imported."""
    folder = tmp_path_factory.mktemp("opened") / "in"
    assert main(["import", str(GOLDEN), f"--out={folder}", "--insert=G:1,2", "--window=8"]) == 0
    return folder


def test_places_count_the_models_own_blocks(opened, tmp_path, capsys):
    model, _ = load(opened)
    assert (model.config.pattern, model.config.no_mlp) == ("AGAG", (1, 3))
    known, there = params_of(model), params_of(load(GOLDEN)[0])
    for name, value in there.items():
        ours = name.replace("blocks.1.", "blocks.2.")
        np.testing.assert_array_equal(known.pop(ours), value, err_msg=name)
    assert {name.split(".")[1] for name in known} == {"1", "3"} and not any("mlp" in name for name in known)
    assert not np.any(known["blocks.1.mixer.out.kernel"]) and np.any(known["blocks.1.mixer.q.kernel"])
    assert sum(leaf.size for leaf in params_of(model).values()) == flops.parameters(model.config)
    assert main(["describe", str(opened)]) == 0 and "2 G  gated_delta" in capsys.readouterr().out


def test_what_is_exported_is_the_model_without_them_and_they_beside_it(opened, tmp_path, capsys):
    assert main(["export", str(opened), f"--out={tmp_path / 'out'}"]) == 0
    assert "blocks 1, 3 were put in: they are in sleepnet.safetensors" in capsys.readouterr().out
    there, here = load_file(GOLDEN / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert there.keys() == here.keys() and all(there[name].tobytes() == here[name].tobytes() for name in there)
    beside = load_file(tmp_path / "out/sleepnet.safetensors")
    assert {name.split(".")[2] for name in beside} == {"1", "3"} and all(name.startswith("sleepnet.blocks.") for name in beside)


def test_blocks_without_an_mlp_cost_none():
    """Beside the same model with MLPs everywhere: the difference is that of two MLPs and their norms."""
    small = {"vocab_size": 8, "window": 8, "pattern": "AGG", "width": 16, "heads": 1, "head_dim": 8, "mlp_width": 24}
    whole, less = ModelConfig(**small), ModelConfig(**small, no_mlp=(0, 2))
    count = lambda config: sum(leaf.size for leaf in params_of(nnx.eval_shape(lambda: Hybrid(config, nnx.Rngs(0)))).values())
    assert count(less) == flops.parameters(less) == flops.parameters(whole) - 2 * (3 * 16 * 24 + 16)
    assert flops.pass_flops(whole, 5) - flops.pass_flops(less, 5) == 2 * 5 * 2 * 3 * 16 * 24


REFUSED = {
    "--insert=H:1": "must be G or Jet, and places", "--insert=G:": "must be G or Jet", "--insert=G:1,3": "place 3 is behind the last of 2 blocks", "--insert=G:1,1": "names a place twice",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_places_that_are_none_are_refused(flag, tmp_path, capsys):
    assert main(["import", str(GOLDEN), f"--out={tmp_path / 'in'}", flag]) == 2
    error = capsys.readouterr().err
    assert REFUSED[flag] in error and error.count("\n") == 1 and not (tmp_path / "in").exists()


def test_other_blocks_that_make_no_sense_are_refused(opened, capsys):
    with pytest.raises(UsageError, match="have another convolution; insert G"):
        load(check.GOLDENS / "qwen3_5_text", insert="Jet:1")
    with pytest.raises(UsageError, match="its blocks are settled"):
        load(opened, insert="G:1")
    with pytest.raises(UsageError, match=r"model.no_mlp=\(2,\) must be different blocks"):
        ModelConfig(pattern="AG", no_mlp=(2,))


# A run of it

def run(opened, **model):
    """As a config file and flags give it."""
    values = configs.default()
    values.task = {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}, "folder": ""}
    values.model.update({"pretrained": str(opened), **model})
    values.adapters.update({"kind": "named", "names": PUT_IN})
    values.optim.update({"warmup": 1, "decay": 0.0})
    values.train.update({"steps": 2, "batch_size": 2, "log_every": 1, "save_every": 2, "eval_every": 0})
    values.compile_cache = "off"
    return parse(values)


def test_a_run_takes_the_model_and_keeps_what_is_its_own(opened):
    found = run(opened, sleep={"passes": 2, "eviction": "hard"})
    assert (found.model.pattern, found.model.no_mlp, found.model.qk_norm, found.model.vocab_size, found.model.sleep.carry) == ("AGAG", (1, 3), "none", 32, "normed")
    assert (found.model.window, found.model.pad_id, found.model.sleep.passes, found.start) == (0, 0, 2, str(opened))
    assert run(opened, rope_theta=7.0).model.rope_theta == 7.0
    plain = configs.default()
    assert parse(plain) == RunConfig() and "pretrained" not in configs.to_dict(RunConfig())["model"]
    plain.model.pretrained = str(GOLDEN)
    with pytest.raises(UsageError, match="holds no imported.json: give the folder that"):
        parse(plain)


def test_a_folder_does_not_say_whose_code_runs(opened, tmp_path):
    shutil.copytree(opened, tmp_path / "in")
    known = json.loads((tmp_path / "in/imported.json").read_text())
    (tmp_path / "in/imported.json").write_text(json.dumps({**known, "model": {**known["model"], "rule": "their_rules:RULE"}}))
    with pytest.raises(UsageError, match="asks for code of the module their_rules"):
        run(tmp_path / "in")


def test_a_run_begins_with_the_model_and_lets_the_blocks_alone_change(opened, tmp_path):
    config = run(opened)
    begin, there = starts.find(config, build.task_of(config), tmp_path / "run"), params_of(load(opened)[0])
    trainable, frozen = named(begin.trainable()), named(begin.frozen)
    assert all(name.startswith(("blocks.1.", "blocks.3.")) for name in trainable) and not trainable.keys() & frozen.keys()
    for name, value in there.items():
        assert np.asarray((trainable | frozen)[name]).tobytes() == np.asarray(value).tobytes(), name
    assert begin.record["kind"] == "released" and begin.record["chain"][0]["folder"] == str(opened) and begin.record["flops"] is None


@pytest.mark.slow
def test_the_blocks_learn_alone(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(optim, "optimizer", functools.cache(optim.optimizer))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        train(run(opened, sleep={"passes": 2}), tmp_path / "run", quiet=True)
    before, after = params_of(load(opened)[0]), params_of(checkpoint.load_model(tmp_path / "run").model)
    assert before.keys() == after.keys()
    moved = {name for name in before if np.asarray(before[name]).tobytes() != np.asarray(after[name]).tobytes()}
    assert moved and all(name.startswith(("blocks.1.", "blocks.3.")) for name in moved) and "blocks.3.mixer.out.kernel" in moved
    assert jnp.all(jnp.isfinite(after["blocks.1.mixer.out.kernel"]))
    assert main(["export", str(tmp_path / "run"), f"--out={tmp_path / 'out'}"]) == 0
    for name, value in params_of(load(tmp_path / "out")[0]).items():
        assert np.asarray(value).tobytes() == np.asarray(after[name]).tobytes(), name
    assert (tmp_path / "out/model.safetensors").read_bytes() == (GOLDEN / "model.safetensors").read_bytes()


# What is exported with them is opened again

@pytest.fixture(scope="module")
def exported(opened, tmp_path_factory):
    """What `export` writes of it, other values in the blocks that were put in: as after training."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(opened, folder / "trained")
    known = json.loads((opened / "imported.json").read_text())
    for file in {known["files"][name] for name in known["files"] if re.search(PUT_IN, name)}:
        held = load_file(folder / "trained" / file)
        save_file({name: value + np.float32(0.25) if re.search(PUT_IN, name) else value for name, value in held.items()}, folder / "trained" / file, metadata={"format": "pt"})
    assert main(["export", str(folder / "trained"), f"--out={folder / 'out'}"]) == 0
    return folder


def test_what_is_exported_is_opened_again_bit_for_bit(exported, opened, tmp_path):
    assert main(["import", str(exported / "out"), f"--out={tmp_path / 'again'}"]) == 0
    (first, _), (again, _), (straight, _) = load(exported / "trained"), load(tmp_path / "again"), load(exported / "out")
    assert first.config == again.config == straight.config and again.config.no_mlp == (1, 3) and again.config.window == 8
    held = params_of(first)
    for other in (again, straight):
        assert held.keys() == params_of(other).keys()
        for name, value in params_of(other).items():
            assert np.asarray(value).tobytes() == np.asarray(held[name]).tobytes(), name
    assert main(["export", str(tmp_path / "again"), f"--out={tmp_path / 'out'}"]) == 0
    for name in ("model.safetensors", "sleepnet.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (exported / "out" / name).read_bytes(), name
    assert run(tmp_path / "again").start == str(tmp_path / "again")


def broken(change, metadata=None):
    def do(path):
        with safe_open(path, framework="numpy") as held:
            said = metadata if metadata is not None else held.metadata()
        values = load_file(path)
        change(values)
        save_file(values, path, metadata=said)

    return do


NAME = "sleepnet.blocks.3.mixer.out.kernel"
HOSTILE = {
    "missing": (broken(lambda values: values.pop(NAME)), f"tensor {NAME} is missing"),
    "extra": (broken(lambda values: values.update({"sleepnet.blocks.2.mixer.out.kernel": np.zeros(3, np.float32)})), "tensor sleepnet.blocks.2.mixer.out.kernel belongs to no part"),
    "shape": (broken(lambda values: values.update({NAME: np.zeros((3, 3), np.float32)})), f"tensor {NAME} has shape [3, 3]"),
    "nan": (broken(lambda values: values[NAME].fill(np.nan)), f"tensor {NAME} holds numbers that are not finite"),
    "unsaid": (broken(lambda values: None, {"format": "pt"}), "does not say what model its blocks are of"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_of_blocks_that_is_not_whole_is_refused(exported, tmp_path, capsys, what):
    shutil.copytree(exported / "out", tmp_path / "in")
    change, words = HOSTILE[what]
    change(tmp_path / "in/sleepnet.safetensors")
    assert main(["import", str(tmp_path / "in"), f"--out={tmp_path / 'no'}"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "no").exists()


def test_blocks_are_not_put_in_twice(exported, tmp_path, capsys):
    assert main(["import", str(exported / "out"), f"--out={tmp_path / 'no'}", "--insert=G:1"]) == 2
    assert "has blocks put in already" in capsys.readouterr().err


# Blocks that begin like the attention beside them

@pytest.fixture(scope="module")
def like(tmp_path_factory):
    """The llama golden with two blocks that begin like its attention."""
    folder = tmp_path_factory.mktemp("like") / "in"
    assert main(["import", str(GOLDEN), f"--out={folder}", "--insert=G:0,1", "--like=attention", "--loop=0:3", "--carry=hidden", "--window=8"]) == 0
    return load(folder)[0]


def test_blocks_begin_like_the_attention_that_they_stand_before(like):
    known, heads, kept = params_of(like), like.config.heads, like.config.kv_heads
    assert (like.config.pattern, like.config.sleep.carry, like.config.loop) == ("GAGA", "hidden", (0, 3)) and kept < heads
    for index in (0, 2):
        for part in ("mixer_norm.scale", "mixer.q.kernel", "mixer.out.kernel"):
            np.testing.assert_array_equal(known[f"blocks.{index}.{part}"], known[f"blocks.{index + 1}.{part}"])
        for part in ("k", "v"):
            ours, theirs = (np.asarray(known[f"blocks.{at}.mixer.{part}.kernel"]) for at in (index, index + 1))
            wide = ours.shape[1] // heads
            for head in range(heads):
                group = head * kept // heads
                np.testing.assert_array_equal(ours[:, head * wide : (head + 1) * wide], theirs[:, group * wide : (group + 1) * wide])
        assert np.any(known[f"blocks.{index}.mixer.out.kernel"]) and not np.any(known[f"blocks.{index}.mixer.gate.kernel"])  # silu(0) = 0: silent
        taps = np.asarray(known[f"blocks.{index}.mixer.conv"])
        assert not np.any(taps[:-1]) and np.all(taps[-1] == taps[-1, 0]) and 0 < taps[-1, 0] <= 0.1  # the token itself


@pytest.mark.slow
def test_they_are_silent_and_the_gate_alone_has_a_gradient_at_first(like):
    tokens = load_file(GOLDEN / "golden.safetensors")["tokens"][:, :8]
    plain = load(GOLDEN, window=8)[0]
    assert np.asarray(check.logits_of(plain, tokens)).tobytes() == np.asarray(check.logits_of(like, tokens)).tobytes()
    graph, params = nnx.split(like, nnx.Param)
    slope = jax.grad(lambda params: jnp.sum(jnp.square(nnx.merge(graph, params).forward(tokens, passes=1, predicts=(True,)))))(params)
    moved = {name for name, leaf in named(nnx.to_pure_dict(slope)).items() if name.startswith("blocks.0.") and np.any(leaf)}
    assert moved == {"blocks.0.mixer.gate.kernel"}


@pytest.mark.parametrize("kind, flags, words", [
    ("llama", ["--insert=G:2", "--like=attention"], "no attention stands behind block 2"), ("llama", ["--like=attention"], "none are: give --insert"),
    ("qwen2", ["--insert=G:1", "--like=attention"], "takes over plain attention, without biases"),
])
def test_an_attention_that_no_block_can_begin_like_is_refused(kind, flags, words, tmp_path, capsys):
    assert main(["import", str(check.GOLDENS / kind), f"--out={tmp_path / 'no'}", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "no").exists()
