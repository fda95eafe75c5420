"""Examples on disk: bit-equal batches from every format, through grain, and the refusal of folders that are not what they say."""
import json
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sleepnet import data, tasks
from sleepnet.errors import UsageError
from sleepnet.tasks import exported
from sleepnet.tasks.machinery import shards

FIELDS = {"tokens": np.int32, "targets": np.int32, "loss_mask": np.bool_, "answer": np.int32}
COUNT, SEED = 130, 3
every_format = pytest.mark.parametrize("format", exported.FORMATS)


def small_task(name="depo"):
    arguments = {"depo": {"nodes": 6, "hops": 3, "queries": 4}, "rule110": {"width": 12, "strings": 2, "steps": (1, 4)}}
    return tasks.get(name, **arguments[name])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder in each format, shards of 50 examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "shard_examples", lambda task: 50)
        root = tmp_path_factory.mktemp("exported")
        return {f: exported.write(small_task(), root / f, format=f, split="train", count=COUNT, seed=SEED) for f in exported.FORMATS}


@pytest.fixture
def shards_of_50(monkeypatch):
    monkeypatch.setattr(shards, "shard_examples", lambda task: 50)


@pytest.fixture
def copy(folders, tmp_path, shards_of_50):
    """Returns a copy of a folder, to damage."""

    def of(format):
        subprocess.run(["cp", "-r", str(folders[format]), str(tmp_path / "copy")], check=True)
        return tmp_path / "copy"

    return of


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        if isinstance(value, dict):
            assert_equal(got[name], value)
        else:
            assert got[name].dtype == value.dtype, name
            np.testing.assert_array_equal(got[name], value, err_msg=name)


@every_format
def test_what_was_written_comes_back_bit_for_bit(folders, format, shards_of_50):
    source, task = exported.load(folders[format]), small_task()
    assert (len(source), source.task, source.seed, source.split) == (COUNT, task, SEED, "train")
    for start, size in ((0, COUNT), (0, 1), (48, 5), (99, 31)):
        assert_equal(source.batch(SEED, "train", start, size), task.batch(SEED, "train", start, size))
    scattered = [129, 0, 51, 51, 49, 100]
    assert_equal(source.batch_at(SEED, "train", scattered), task.batch_at(SEED, "train", scattered))
    for index in (0, 50, COUNT - 1):
        assert_equal(source[index], task.example(SEED, "train", index))
    with pytest.raises(IndexError):
        source[COUNT]


@every_format
@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_splits_and_other_tasks(tmp_path, format, split):
    task = small_task("rule110")
    source = exported.load(exported.write(task, tmp_path / "new" / "folder", format=format, split=split, count=20))
    assert_equal(source.batch(0, split, 0, 20), task.batch(0, split, 0, 20))


@every_format
def test_training_reads_a_folder_as_it_reads_the_task(folders, format, shards_of_50):
    """Same batches in the same order through grain, and from wherever a run goes on."""
    source = exported.load(folders[format]).expect(small_task(), seed=SEED, split="train", count=6 * 20)
    settings = {"seed": SEED, "batch_size": 20, "steps": 6}
    for start in (0, 4):
        generated = list(data.batches(data.BatchSource(small_task(), **settings), start))
        read = data.batches(data.BatchSource(source, **settings), start)
        for number, want in enumerate(generated):
            assert_equal(next(read), want)
            assert read.get_state()["next_index"] == start + number + 1
        assert len(generated) == 6 - start


def test_examples_are_a_sequence_for_grain(folders, shards_of_50):
    shuffled = grain.MapDataset.source(exported.load(folders["npz"])).shuffle(seed=1).batch(10)
    tokens = np.concatenate([shuffled[i]["tokens"] for i in range(len(shuffled))])
    want = small_task().batch(SEED, "train", 0, COUNT)["tokens"]
    assert tokens.shape == want.shape and not np.array_equal(tokens, want)
    assert sorted(map(bytes, tokens)) == sorted(map(bytes, want))


def test_array_record_is_a_data_set_that_tfds_itself_reads(folders):
    source = tfds.data_source("depo", data_dir=folders["array_record"], split="train")
    assert len(source) == COUNT
    assert_equal(source[77], small_task().example(SEED, "train", 77))
    assert [row["tokens"].tobytes() for row in tfds.data_source("depo", data_dir=folders["array_record"], split="train[5:8]")] == [
        small_task().example(SEED, "train", index)["tokens"].tobytes() for index in (5, 6, 7)
    ]


def test_jsonl_is_plain_json(folders):
    lines = [line for path in sorted(folders["jsonl"].glob("*.jsonl")) for line in path.read_text().splitlines()]
    assert [json.loads(line)["index"] for line in lines] == list(range(COUNT))
    example, row = small_task().example(SEED, "train", 7), json.loads(lines[7])
    assert {name: row[name] for name in FIELDS} == {name: example[name].tolist() for name in FIELDS}
    assert row["difficulty"] == {axis: value.tolist() for axis, value in example["difficulty"].items()}


def test_npz_is_plain_numpy(folders):
    paths = sorted(folders["npz"].glob("*.npz"))
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.npz" for i in range(3)]
    with np.load(paths[2]) as archive:
        assert set(archive) == {*FIELDS, "difficulty.k", "difficulty.n"}
        np.testing.assert_array_equal(archive["tokens"], small_task().batch(SEED, "train", 100, 30)["tokens"])


@every_format
def test_the_manifest_tells_what_is_there(folders, format):
    manifest, task = json.loads((folders[format] / "manifest.json").read_text()), small_task()
    assert manifest["task"] == json.loads(json.dumps(task.spec())) and manifest["spec_hash"] == task.spec_hash
    assert (manifest["seed"], manifest["split"], manifest["count"], manifest["format"]) == (SEED, "train", COUNT, format)
    for name, about in manifest["files"].items():
        told = subprocess.run(["sha256sum", folders[format] / name], capture_output=True, text=True, check=True).stdout.split()[0]
        assert (about["sha256"], about["bytes"]) == (told, (folders[format] / name).stat().st_size)
    there = {str(path.relative_to(folders[format])) for path in folders[format].rglob("*") if path.is_file() or not any(path.iterdir())}
    assert there == {*manifest["files"], "manifest.json"}


def test_the_same_again_changes_nothing(folders, shards_of_50):
    before = {path: path.stat().st_mtime_ns for path in folders["npz"].rglob("*")}
    exported.write(small_task(), folders["npz"], format="npz", split="train", count=COUNT, seed=SEED)
    assert before == {path: path.stat().st_mtime_ns for path in folders["npz"].rglob("*")}


@pytest.mark.parametrize(
    "changed, words",
    [({"seed": 4}, "another seed"), ({"count": 9}, "another count"), ({"split": "test"}, "another split"), ({"format": "jsonl"}, "another format")],
)
def test_a_folder_of_other_examples_is_not_overwritten(folders, changed, words, shards_of_50):
    wanted = {"format": "npz", "split": "train", "count": COUNT, "seed": SEED} | changed
    with pytest.raises(UsageError, match=f"{words}; nothing is overwritten"):
        exported.write(small_task(), folders["npz"], **wanted)
    with pytest.raises(UsageError, match="another task, spec_hash; nothing is overwritten"):
        exported.write(small_task("rule110"), folders["npz"], format="npz", split="train", count=COUNT, seed=SEED)
    exported.load(folders["npz"])


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UsageError, match="holds other data|is a file"):
            exported.write(small_task(), folder, format="npz", split="test", count=5)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"] and (tmp_path / "thesis.tex").read_text() == "precious"


@every_format
def test_a_write_that_fails_leaves_nothing(tmp_path, format):
    def stop(more):
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        exported.write(small_task(), tmp_path / "out", format=format, split="test", count=5, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not any((tmp_path / "out").iterdir())


def change(key, value):
    def damage(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest[key] = value
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def change_task(**values):
    return lambda folder: change("task", json.loads((folder / "manifest.json").read_text())["task"] | values)(folder)


def cut(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def flip_a_byte(folder):
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-10])


DAMAGE = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
    "half a manifest": (cut, "is damaged: no JSON"),
    "an empty manifest": (lambda folder: (folder / "manifest.json").write_text(""), "is damaged: no JSON"),
    "a foreign manifest": (lambda folder: (folder / "manifest.json").write_text('{"name": "app"}'), "is not of examples of a sleepnet task"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "is not of examples of a sleepnet task"),
    "another layout": (change("kind", "examples of a sleepnet task, 2"), "another version of its layout"),
    "no seed": (change("seed", None), "seed is missing or no int"),
    "no task": (change("task", {}), "its task has no name"),
    "an unknown task": (change_task(name="deppo"), "unknown task 'deppo'; did you mean 'depo'"),
    "an unknown argument": (change_task(arguments={"node": 6}), "no argument 'node'"),
    "other arguments": (change_task(arguments={"nodes": 7}), "spec_hash is not that of its task"),
    "another version": (change_task(version=99), "written by version 99 of task 'depo', this is version"),
    "another seed": (change("seed", 4), "example 0 is not that of depo, seed 4"),
    "an unknown split": (change("split", "tests"), "tests"),
    "no examples": (change("count", 0), "count=0"),
    "another split": (change("split", "test"), "test"),
    "a larger count": (change("count", COUNT + 1), "examples, not"),
    "a smaller count": (change("count", COUNT - 1), "examples, not"),
    "an unknown format": (change("format", "tar"), "unknown format='tar'"),
    "no files": (change("files", {}), "the manifest does not know"),
    "a file too many": (lambda folder: (folder / "more.txt").write_text("x"), "the manifest does not know more.txt"),
    "a flipped bit": (flip_a_byte, "is not what the manifest says"),
    "a truncated file": (truncate, "is not what the manifest says"),
    "no data": (lambda folder: next(folder.rglob("*train*-*")).unlink(), "is missing; export it again"),
}


@every_format
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_refused_in_one_line(copy, damage, format):
    folder = copy(format)
    do, words = DAMAGE[damage]
    do(folder)
    with pytest.raises(UsageError, match=words) as caught:
        exported.load(folder)
    assert "\n" not in str(caught.value)


def test_what_a_folder_does_not_hold_is_refused_before_the_run(folders, shards_of_50):
    source, task = exported.load(folders["npz"]), small_task()
    run = {"seed": SEED, "split": "train", "count": COUNT}
    assert source.expect(task, **run) is source
    for changed, words in (
        ({"seed": 0}, "holds seed 3, not 0; export another folder with --seed 0"),
        ({"split": "test"}, "holds split train, not test"),
        ({"count": COUNT + 1}, f"holds {COUNT} examples, the run needs {COUNT + 1} .*; export with -n {COUNT + 1}"),
    ):
        with pytest.raises(UsageError, match=words):
            source.expect(task, **run | changed)
    with pytest.raises(UsageError, match="holds other hops; export"):
        source.expect(tasks.get("depo", nodes=6, hops=2, queries=4, test_hops=(1, 2)), **run)
    with pytest.raises(UsageError, match="holds task 'depo', not 'rule110'"):
        source.expect(small_task("rule110"), **run)
    with pytest.raises(UsageError, match="at least 0"):
        source.batch(SEED, "train", -1, 2)


@pytest.mark.parametrize("changed, words", [({"format": "jsonl2"}, "did you mean 'jsonl'"), ({"count": 0}, "count=0"), ({"split": "tets"}, "'test'")])
def test_impossible_exports_make_no_folder(tmp_path, changed, words):
    with pytest.raises(UsageError, match=words):
        exported.write(small_task(), tmp_path / "out", **{"format": "npz", "split": "test", "count": 3} | changed)
    assert not any(tmp_path.iterdir())


def test_neither_writing_nor_reading_needs_tensorflow(folders):
    code = f"""import sys
import sleepnet.tasks as t; t.names()
assert "tensorflow_datasets" not in sys.modules, "imported before it is used"
from sleepnet.tasks import exported
exported.load({str(folders["array_record"])!r}).batch({SEED}, "train", 0, 3)
sys.exit("tensorflow" in sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True)
