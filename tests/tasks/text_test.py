"""Text: documents found, tokenised, split and cut, against plain Python on the same files; trained on, resumed, graded."""
import argparse
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from sleepnet import build, data, tasks
from sleepnet.config import ModelConfig, default, parse
from sleepnet.errors import UsageError
from sleepnet.tasks.__main__ import main
from sleepnet.tasks.base import Task
from sleepnet.tasks.machinery.shuffle import shuffled
from sleepnet.tasks.machinery.splits import SPLITS
from sleepnet.tasks.registry import task_class
from sleepnet.tasks.source import Source
from sleepnet.tasks.text import corpus, readers, token_file
from sleepnet.train.step import learning_of

L, W = 4, 3
SMALL = dict(window=L, windows=W, held_out=4)


def words_of(number):
    """A document of one to fifty bytes, no two alike."""
    return f"{number}:" + "".join(chr(97 + (number * 7 + i * i) % 26) for i in range(number * 5 % 50))


TEXTS = {f"{name}/{number}.txt": words_of(number) for number, name in enumerate(["a", "b"] * 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty documents as files, and as a token file."""
    root = tmp_path_factory.mktemp("text")
    for name, text in TEXTS.items():
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_text(text, encoding="utf-8")
    assert main(["tokenize", "--from", str(root / "in"), "--out", str(root / "tokens")]) == 0
    return root


@pytest.fixture(scope="module")
def text(folder):
    return tasks.get("text", tokens=str(folder / "tokens"), **SMALL)


def split_of(name, held_out):
    """By the first eight bytes of the name's sha256: as it is said, worked out again."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % held_out
    return {0: "test", 1: "validation"}.get(bucket, "train")


def stretches(split):
    """Every (tokens, targets) of the split that has labels, cut by hand."""
    found = []
    for name, words in TEXTS.items():
        ids = list(words.encode())
        if split_of(name, SMALL["held_out"]) == split:
            found += [(ids[s : s + L * W], ids[s + 1 : s + L * W + 1]) for s in range(0, len(ids) - 1, L * W)]
    return sorted(found)


def read(batch):
    return sorted((tokens[: len(targets)].tolist(), targets.tolist()) for tokens, targets in zip(batch["tokens"], (row[mask] for row, mask in zip(batch["targets"], batch["loss_mask"]))))


@pytest.mark.parametrize("split", SPLITS)
def test_an_epoch_is_every_stretch_of_every_document_once(text, split):
    wanted = [(tokens[: len(targets)], targets) for tokens, targets in stretches(split)]
    assert text.stretches(split) == len(wanted) > 3
    epochs = [text.batch(5, split, len(wanted) * e, len(wanted)) for e in (0, 1)]
    assert [read(epoch) for epoch in epochs] == [sorted(wanted)] * 2
    assert not np.array_equal(epochs[0]["tokens"], epochs[1]["tokens"])  # in another order
    assert not np.array_equal(epochs[0]["tokens"], text.batch(6, split, 0, len(wanted))["tokens"])


def test_a_batch_is_its_examples_however_it_is_cut(text):
    whole = text.batch(2, "train", 100, 40)
    for i in range(40):
        for key, value in text.example(2, "train", 100 + i).items():
            assert value.dtype == whole[key].dtype == text.fields[key]
            np.testing.assert_array_equal(value, whole[key][i])
    scattered = text.batch_at(2, "train", [139, 103, 103, 2**40])
    np.testing.assert_array_equal(scattered["tokens"][:3], whole["tokens"][[39, 3, 3]])
    hosts = [data.BatchSource(text, seed=2, batch_size=8, steps=20, rows=np.arange(8)[part]) for part in (slice(None), slice(0, 4), slice(4, 8))]
    alone, first, second = (host[13] for host in hosts)
    assert set(alone) == {"tokens", "targets", "loss_mask"}
    for key in alone:
        np.testing.assert_array_equal(alone[key], np.concatenate([first[key], second[key]]))


def test_resumed_the_batches_go_on_bit_for_bit(text):
    source = data.BatchSource(text, seed=2, batch_size=8, steps=6)
    whole = list(data.batches(source))
    again = list(data.batches(source, start=4))
    assert len(whole) == 6 and len(again) == 2
    for one, other in zip(whole[4:], again):
        np.testing.assert_array_equal(one["tokens"], other["tokens"])


def test_a_shuffle_is_a_permutation_and_not_the_same_twice():
    key = lambda n, value: np.full(n, value, np.uint64)
    for n in (1, 2, 3, 16, 17, 1000):
        places = np.arange(n, dtype=np.uint64)
        orders = [shuffled(places, n, key(n, value)) for value in (1, 2)]
        assert all(sorted(order.tolist()) == list(range(n)) for order in orders)
        np.testing.assert_array_equal(shuffled(places[::-1], n, key(n, 1)), orders[0][::-1])
    assert (orders[0] != orders[1]).mean() > 0.9
    # neighbours do not stay neighbours, and places are taken evenly: of a thousand, the first half goes to either half alike
    assert abs(np.corrcoef(np.arange(1000), orders[0].astype(float))[0, 1]) < 0.1


def test_the_standard_library_is_the_default_and_says_which():
    text = tasks.get("text")
    spec = text.spec()
    version = ".".join(map(str, sys.version_info[:3]))
    assert version in spec["corpus"]["source"] and version in text.title and spec["corpus"]["sha256"][:12] in text.title
    assert spec["corpus"]["tokens"] > 5_000_000 and text.vocab_size == 256
    names = text.corpus.names()
    assert "argparse.py" in names and not [name for name in names if "test" in name.split("/") or "tests" in name.split("/")]
    place = names.index("argparse.py")
    start, stop = text.corpus.starts[place : place + 2]
    assert bytes(text.corpus.tokens[start:stop]) == Path(argparse.__file__).read_bytes()


def test_a_source_is_no_benchmark(text):
    assert isinstance(text, Source) and not isinstance(text, Task)
    assert not hasattr(text, "solve") and not hasattr(text, "baselines")
    assert all(issubclass(task_class(name), Task) for name in tasks.names() if name != "text")


def test_where_it_lies_changes_no_hash_and_what_it_holds_does(folder, text, tmp_path):
    os.symlink(folder / "tokens", tmp_path / "elsewhere")
    assert tasks.get("text", tokens=str(tmp_path / "elsewhere"), **SMALL).spec_hash == text.spec_hash
    (tmp_path / "other.txt").write_text("something else " * 9)
    assert main(["tokenize", "--from", str(folder / "in"), str(tmp_path / "other.txt"), "--out", str(tmp_path / "more")]) == 0
    assert tasks.get("text", tokens=str(tmp_path / "more"), **SMALL).spec_hash != text.spec_hash


def test_readers_find_the_same_documents(folder, text, tmp_path):
    """Lines, rows and records of the same texts are the same tokens; ids of others are taken as they are."""
    from array_record.python import array_record_module

    texts = [TEXTS[name] for name in sorted(TEXTS)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"body": text, "n": 1}) + "\n" for text in texts))
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "ids.array_record"), "group_size:1")
    for one in texts:
        writer.write(np.array(list(one.encode()), "<u2").tobytes())
    writer.close()
    given = {"lines.jsonl": ["--field", "body"], "ids.array_record": []}
    held = tasks.get("text", tokens=str(folder / "tokens"), **SMALL).corpus
    for name, flags in given.items():
        assert main(["tokenize", "--from", str(tmp_path / name), "--out", str(tmp_path / f"{name}.tokens"), *flags]) == 0
        found = tasks.get("text", tokens=str(tmp_path / f"{name}.tokens"), **SMALL).corpus
        np.testing.assert_array_equal(found.tokens, held.tokens)
        np.testing.assert_array_equal(found.starts, held.starts)
    assert (found.sizes == 0).all() and (held.sizes == np.diff(held.starts)).all()


def test_of_a_folder_some_files(tmp_path):
    for name in ("a.py", "b.bin", ".hidden/c.py", "d/e.py"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\xff" if name == "b.bin" else name.encode())
    assert main(["tokenize", "--from", str(tmp_path / "in"), "--suffix", ".py", "--out", str(tmp_path / "out")]) == 0
    assert token_file.load(tmp_path / "out").names() == ("a.py", "d/e.py")


def test_parquet_through_pyarrow(tmp_path, monkeypatch, capsys):
    """A stand-in where it is not installed: what is asked of it is what pyarrow has; without it, one line says how to get it."""
    rows = ["first row", "and the second"]
    column = types.SimpleNamespace(to_pylist=lambda: rows)

    class ParquetFile:
        schema_arrow = types.SimpleNamespace(names=["n", "text"])

        def __init__(self, path):
            assert str(path).endswith("rows.parquet")

        def iter_batches(self, size, columns):
            assert columns == ["text"]
            return iter([types.SimpleNamespace(column=lambda index: column)])

        __enter__, __exit__ = lambda self: self, lambda self, *error: None

    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    parquet = types.SimpleNamespace(ParquetFile=ParquetFile)
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=parquet, ArrowException=Exception))
    assert main(["tokenize", "--from", str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "out")]) == 0
    corpus = token_file.load(tmp_path / "out")
    assert bytes(corpus.tokens) == "".join(rows).encode() and corpus.names() == ("rows.parquet:1", "rows.parquet:2")
    assert main(["tokenize", "--from", str(tmp_path / "rows.parquet"), "--field", "body", "--out", str(tmp_path / "no")]) == 2
    assert "has no column 'body', but n, text" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["tokenize", "--from", str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "no")]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_a_data_set_of_tfds_that_is_on_disk(tmp_path, capsys):
    import tensorflow_datasets as tfds

    class Lines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, VERSION, code_path = "lines", tfds.core.Version("1.0.0"), None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}), disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": iter([(0, {"text": "first line"}), (1, {"text": "naïve"})])}

        _generate_examples = None

    Lines(data_dir=tmp_path / "sets", file_format="array_record").download_and_prepare()
    assert main(["tokenize", "--tfds", "lines", "--data_dir", str(tmp_path / "sets"), "--out", str(tmp_path / "out")]) == 0
    corpus = token_file.load(tmp_path / "out")
    assert bytes(corpus.tokens) == "first linenaïve".encode() and "TFDS lines" in corpus.about["source"]
    assert main(["tokenize", "--tfds", "lines", "--split", "test", "--data_dir", str(tmp_path / "sets"), "--out", str(tmp_path / "no")]) == 2
    assert main(["tokenize", "--tfds", "unknown_set", "--data_dir", str(tmp_path / "sets"), "--out", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.count("nothing is fetched here") == 2 and not (tmp_path / "no").exists()


# Errors: one line, exit status 2, nothing left behind

@pytest.mark.parametrize("content, name, words", [
    (b"caf\xe9", "a.txt", "a.txt is no UTF-8: byte 3 is 0xe9"), (b'{"text": "caf\xe9"}\n', "a.jsonl", "a.jsonl, line 1 is no UTF-8"),
    (b'{"body": "x"}\n', "a.jsonl", "line 1 has no 'text'; name the field with --field"), (b'{"text": 3}\n', "a.jsonl", "'text' is int, not a text"), (b"no json\n", "a.jsonl", "line 1 is no JSON"),
    (b'{"text": "\\ud800"}\n', "a.jsonl", "half a surrogate pair"), (b"x", "a.txt", "no document with two tokens or more"), (b"nothing", "a.array_record", "can't be read as ArrayRecord"),
    (b"nothing", "a.parquet", "parquet"),
])
def test_what_is_no_text_is_refused_by_name(content, name, words, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["tokenize", "--from", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_nothing_is_overwritten(folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("kept")
    for out in (tmp_path / "mine", folder / "tokens"):
        before = {path: path.read_bytes() for path in out.iterdir()}
        assert main(["tokenize", "--from", str(folder / "in"), "--out", str(out)]) == 2
        assert "nothing is overwritten" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    assert main(["tokenize", "--from", str(folder / "in"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'out'}: No space left on device; free some space" in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, words", [
    (dict(short="refuse"), "documents are shorter than task.arguments.window=4 tokens, a/0.txt has 2"), (dict(tokens="/nowhere/at/all"), "there is no such folder"),
    (dict(short="drop"), "unknown short='drop'"), (dict(held_out=10**9), "split .* has no document: give more of them"), (dict(short="skip", window=9999), "has no document of more than task.arguments.window=9999 tokens, and short='skip' leaves the others out: give"), (dict(held_out=2), "held_out=2 must be a whole number of at least 3"),
])
def test_impossible_requests_name_the_fix(folder, arguments, words):
    with pytest.raises(UsageError, match=words):
        tasks.get("text", **{"tokens": str(folder / "tokens"), **SMALL, **arguments})


def test_short_documents_are_padded_or_skipped(folder, text):
    skipped = tasks.get("text", tokens=str(folder / "tokens"), **SMALL, short="skip")
    short = [words for name, words in TEXTS.items() if split_of(name, 4) == "train" and len(words) <= L]
    assert short and skipped.stretches("train") == text.stretches("train") - len([words for words in short if len(words) > 1])


def test_a_token_file_of_another_tokenizer_is_refused(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="are of the tokenizer bytes .*, not of .*: write them again"):
        tasks.get("text", tokens=str(folder / "tokens"), tokenizer=str(tmp_path), **SMALL)
    assert tasks.get("text", tokens=str(folder / "tokens"), tokenizer="bytes", **SMALL).vocab_size == 256


@pytest.mark.parametrize("damage, words", [
    (lambda at: (at / "manifest.json").unlink(), "is no token file: it has no manifest.json"), (lambda at: (at / "tokens.bin").write_bytes(b"x"), "is damaged: tokens.bin does not have"),
    (lambda at: (at / "manifest.json").write_text('{"kind": "other"}'), "is not of tokens of text"), (lambda at: (at / "keys.npy").unlink(), "is damaged: keys.npy"),
])
def test_a_damaged_token_file_is_refused(folder, tmp_path, damage, words):
    shutil.copytree(folder / "tokens", tmp_path / "tokens")
    damage(tmp_path / "tokens")
    with pytest.raises(UsageError, match=words):
        tasks.get("text", tokens=str(tmp_path / "tokens"), **SMALL)


def test_commands_tell_of_it(folder, capsys):
    given = ["--arguments", f"tokens={folder / 'tokens'}", "window=4", "windows=3", "held_out=4"]
    assert main(["describe", "text", *given]) == main(["sample", "text", "--split", "train", *given]) == main(["stats", "text", "-n", "20", *given]) == 0
    told = capsys.readouterr().out
    assert "40 documents" in told and "window 1: " in told and "nats a label" in told
    assert main(["check", "text", "-n", "3", *given]) == main(["export", "text", "--format", "npz", "-n", "3", "--out", "x", *given]) == 2


# Training and grading

def config_of(folder, **values):
    config = default()
    config.task.name, config.task.arguments = "text", dict(tokens=str(folder / "tokens"), **SMALL)
    config.model.pad_id = -1
    for key, value in values.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return parse(config)


@pytest.mark.parametrize("values, words", [
    ({"model__pad_id": 0}, "model.pad_id=0, but task text has no padding, and every token is one: set it to -1"),
    ({"method__name": "memft"}, "method.name='memft' learns toward answers, of which task text has none"),
    ({"train__keep_best": "exact_accuracy"}, "train.keep_best='exact_accuracy' ranks by answers"),
])
def test_what_a_text_can_not_have_is_refused(folder, values, words):
    config = config_of(folder, **values)
    with pytest.raises(UsageError, match=words):
        task = build.task_of(config)
        learning_of(config, task)


def test_costs_are_cut_into_bins(text, monkeypatch):
    """A model whose cost is known: a label costs what its target's byte is, or so much more where its window stands alone."""
    from sleepnet.eval import text as grading

    def costs(graph, params, tokens_BxT, targets_BxT, *, passes, predicts):
        return np.asarray(targets_BxT, np.float32) + (100 if len(predicts) == 1 else 0)

    monkeypatch.setattr(grading, "_costs", costs)
    monkeypatch.setattr(grading.nnx, "split", lambda model, kind: (None, None))
    model = types.SimpleNamespace(config=types.SimpleNamespace(window=L, vocab_size=256))
    rows = grading.evaluate({"mine": (model, [1, 4])}, text, documents=99, windows=6, batch_size=3, split="train")
    here = sorted((list(words.encode()) for name, words in TEXTS.items() if split_of(name, 4) == "train" and len(words) > 1), key=len)
    labels = [(place + 1, token) for ids in here for place, token in enumerate(ids[1 : 6 * L + 1])]  # read at `place`, the token behind it is predicted
    mean = lambda axis, member: (sum(1 for _ in filter(member, axis)), np.mean([token for _, token in filter(member, axis)]))
    wanted = {
        ("all", 1): mean(labels, lambda one: True), ("behind", 2): mean(labels, lambda one: one[0] > L),
        ("distance", 3): mean(labels, lambda one: one[0] > L and (one[0] - 1) % L + 1 in (3, 4)), ("place", 5): mean(labels, lambda one: 4 * L < one[0] <= 6 * L),
    }
    found = {(row["way"], row["axis"], row["first"]): row for row in rows}
    for (axis, first), (count, nats) in wanted.items():
        for way, more in (("mine, N = 1", 0), ("mine, N = 4", 0), (f"mine, {grading.ALONE}", 100)):
            row = found[way, axis, first]
            assert row["labels"] == count and row["nats"] == pytest.approx(nats + more) and row["saved"] == pytest.approx(100 - more)
            assert row["interval"][0] <= row["nats"] <= row["interval"][1] and row["saved_interval"] == pytest.approx([100 - more] * 2)
            assert row["bits_per_byte"] == pytest.approx((nats + more) / np.log(2))


def test_what_is_won_is_told_of_the_model_before(text, monkeypatch):
    """Costs that are known: by eviction before training, by N after it. Won is less than the first model's windows alone, whoever reads."""
    from sleepnet.eval import text as grading, text_plot, text_report

    told = {("hard", 1): 100, ("sliding", 6): 60, ("none", 6): 20, ("mine", 1): 90, ("mine", 6): 70}
    monkeypatch.setattr(grading, "_evicting", lambda model, eviction: types.SimpleNamespace(config=model.config, kind=eviction))
    monkeypatch.setattr(grading.nnx, "split", lambda model, kind: (model.kind, None))
    monkeypatch.setattr(grading, "_costs", lambda graph, params, tokens, targets, *, passes, predicts: np.full(targets.shape, told[graph, len(predicts)], np.float32))
    config = types.SimpleNamespace(window=L, vocab_size=256)
    mine, before = (types.SimpleNamespace(config=config, kind=kind) for kind in ("mine", "before"))
    rows = grading.evaluate({"mine": (mine, [1])}, text, documents=99, windows=6, batch_size=3, split="train", before=before)
    found = {row["way"]: (row["nats"], row["saved"], row["won"], row["won_interval"]) for row in rows if row["axis"] == "behind"}
    assert found == {
        "mine, each window alone": (90, 0, 10, [10, 10]), "mine, N = 1": (70, 20, 30, [30, 30]), "before training, each window alone": (100, 0, 0, [0, 0]),
        "before training, sliding cache": (60, 40, 40, [40, 40]), "before training, full cache": (20, 80, 80, [80, 80]),
    }
    assert [str(table.title).split(",")[0] for table in text_report.tables(rows)][2] == "nats a token less than the model had"
    drawn = []
    monkeypatch.setattr(text_plot, "png", lambda figure, dpi: drawn.extend(text.get_text() for text in figure.legends[0].get_texts()) or b"")
    monkeypatch.setattr(text_plot, "write_bytes", lambda path, content: drawn.append(path.name))
    text_plot.plot(rows, Path(), "mine")
    assert drawn == [*(way for way in found if way != "before training, each window alone"), "train_distance.png"]


def test_a_model_reads_with_another_eviction_and_the_same_parameters():
    from sleepnet.eval import text as grading
    from sleepnet.models.hybrid import Hybrid

    model = Hybrid(ModelConfig(vocab_size=8, window=4, pattern="AG", width=8, heads=1, head_dim=8), nnx.Rngs(0))
    other = grading._evicting(model, "none")
    assert other.config == dataclasses.replace(model.config, sleep=dataclasses.replace(model.config.sleep, eviction="none", keep_tails=True))
    for one, same in zip(jax.tree.leaves(nnx.state(model, nnx.Param)), jax.tree.leaves(nnx.state(other, nnx.Param)), strict=True):
        assert one is same


def test_the_standard_library_is_tokenised_in_the_splits_that_it_has_as_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readers, "library", lambda: {"a.py": "schläft".encode(), "b/c.py": b"import a\n"})
    assert main(["tokenize", "--standard_library", f"--out={tmp_path / 'out'}"]) == 0
    held, whole = token_file.load(tmp_path / "out"), corpus.standard_library()
    assert held.names() == ("a.py", "b/c.py") and bytes(held.tokens[: held.starts[1]].astype(np.uint8)).decode() == "schläft"
    assert held.about["source"] == whole.about["source"] and held.keys.tolist() == [corpus.key_of(b"a.py"), corpus.key_of(b"b/c.py")]


@pytest.mark.slow
def test_a_run_on_text_is_trained_stopped_and_graded(folder, tmp_path):
    """Gone on with from step 4, it ends with the bits of the unbroken run; and `python -m sleepnet.eval` tells what it costs."""
    from sleepnet.checkpoint import load_model
    from sleepnet.eval import text as grading
    from sleepnet.train.loop import train

    values = {"model__width": 16, "model__head_dim": 8, "model__mlp_width": 16, "model__sleep__after_predicting": True, "model__sleep__passes": 2, "train__batch_size": 4, "train__save_every": 4, "train__eval_every": 4, "train__eval_examples": 8, "train__log_every": 4}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        train(config_of(folder, train__steps=8, **values), tmp_path / "whole", quiet=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "broken")
        (tmp_path / "broken" / "result.json").unlink()
        shutil.rmtree(tmp_path / "broken" / "checkpoints" / "8")
        train(config_of(folder, train__steps=8, **values), tmp_path / "broken", quiet=True)
    lines = [[{k: v for k, v in json.loads(line).items() if "seconds" not in k and k != "input_share"} for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "broken")]
    assert lines[1] == lines[0] and "loss" in lines[0][-1] and "exact_accuracy" not in lines[0][-1]
    loaded = load_model(tmp_path / "whole")
    rows = grading.evaluate({"whole": (loaded.model, [1, 2])}, loaded.task, documents=4, windows=6, batch_size=2, split="test")
    assert {row["way"] for row in rows} == {f"whole, {grading.ALONE}", "whole, N = 1", "whole, N = 2"}
    first = [row["nats"] for row in rows if (row["axis"], row["first"]) == ("place", 1)]
    assert first == pytest.approx([first[0]] * 3, abs=1e-4)  # nothing stands before the first window


def test_a_data_set_that_fails_without_a_word_is_told_by_its_kind(monkeypatch):
    import tensorflow_datasets as tfds

    def silent(*_, **__):
        raise AssertionError

    monkeypatch.setattr(tfds, "data_source", silent)
    with pytest.raises(UsageError, match=r"--tfds=mine: split 'train' is not prepared in .* as array_record \(AssertionError\); prepare it there"):
        next(readers.data_set("mine", split="train", data_dir=None))
