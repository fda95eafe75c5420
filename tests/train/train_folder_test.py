"""Training from an exported folder: the same run, bit for bit; folders and resumes that are refused before anything is written. And what a
run's own folder survives: a path with dots, a TensorBoard or a profile that can't be written, a full disk."""
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from sleepnet import build, cli, tasks
from sleepnet.checkpoint import load_model
from sleepnet.errors import UsageError
from sleepnet.tasks import exported
from sleepnet.train import __main__ as command
from sleepnet.train import trace
from sleepnet.train.board import Board
from sleepnet.train.loop import train
from sleepnet.train.metrics import Metrics
from train_test import CONFIG, STEPS, TASK, assert_same_run, compiled_once, config_file, copied, whole  # noqa: F401, fixtures among them

COUNT = STEPS * CONFIG.train.batch_size


def reading(folder, config=CONFIG):
    return dataclasses.replace(config, task=dataclasses.replace(config.task, folder=str(folder)))


def export(folder, *, task=TASK, count=COUNT, seed=CONFIG.seed, split="train", format="npz"):
    return exported.write(task, folder, format=format, split=split, count=count, seed=seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {format: export(root / format, format=format) for format in exported.FORMATS}


@pytest.fixture(scope="module")
def read(compiled_once, folders, tmp_path_factory):  # noqa: F811
    """The folder of an unbroken run that read its examples from array_record files."""
    workdir = tmp_path_factory.mktemp("read") / "run"
    train(reading(folders["array_record"]), workdir, quiet=True)
    return workdir


def test_a_run_from_a_folder_is_the_run_on_the_fly_bit_for_bit(whole, read):  # noqa: F811
    assert_same_run(read, whole)


@pytest.mark.parametrize("format", ["jsonl", "npz"])
def test_every_format_goes_on_where_a_run_stopped(format, folders, whole, tmp_path):  # noqa: F811
    """The first leg reads 30 batches, the second the last ten."""
    config = reading(folders[format])
    train(config, tmp_path / "run", quiet=True)
    workdir = copied(tmp_path / "run", tmp_path / "again", without=(40,))
    train(config, workdir, quiet=True)
    assert_same_run(workdir, whole)


def test_the_examples_are_those_of_the_folder(folders, tmp_path, monkeypatch):
    """With no way to draw any, a run from a folder trains all the same."""
    drawn, real = [], type(TASK).batch_at

    def batch_at(self, seed, split, indices):
        drawn.append(split)
        return real(self, seed, split, indices)

    monkeypatch.setattr(type(TASK), "batch_at", batch_at)
    train(reading(folders["npz"]), tmp_path / "run", quiet=True)
    assert drawn and set(drawn) == {"validation"}


def test_a_run_keeps_its_folder_s_manifest(read, folders, tmp_path):
    manifest = json.loads((folders["array_record"] / "manifest.json").read_text())
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert json.loads((read / "task.json").read_text())["manifest_hash"] == hashlib.sha256(canonical.encode()).hexdigest()
    moved = folders["array_record"].rename(tmp_path / "elsewhere")
    try:
        train(reading(moved), read, quiet=True)  # the place may change, what is there may not
        assert load_model(read).task == TASK
    finally:
        moved.rename(folders["array_record"])


def test_a_resume_on_other_data_is_refused(read, whole, folders, tmp_path):  # noqa: F811
    more = export(tmp_path / "more", count=COUNT + 1)
    for workdir, config in ((read, reading(more)), (read, CONFIG), (whole, reading(more))):
        left = copied(workdir, tmp_path / "run", without=(40,))
        before = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
        with pytest.raises(UsageError, match="was trained on .*task.folder=.* give that folder, or another --workdir"):
            train(config, left, quiet=True)
        assert before == {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
        left.rename(tmp_path / f"done{len(list(tmp_path.iterdir()))}")


def cut(folder):
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-10])


REFUSED = {
    "another task": (dict(task=tasks.get("mqar", pairs=4, length=32, vocabulary=64)), "holds task 'mqar', not 'depo'"),
    "other arguments": (dict(task=dataclasses.replace(TASK, queries=1)), "holds other queries"),
    "another seed": (dict(seed=7), "holds seed 7, not 0; export another folder with --seed 0"),
    "another split": (dict(split="test"), "holds split test, not train"),
    "too few": (dict(count=COUNT - 1), f"holds {COUNT - 1} examples, the run needs {COUNT} .*; export with -n {COUNT}"),
    "damaged": (dict(), "is damaged: .* is not what the manifest says"),
    "no export": (None, "holds no exported examples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_not_the_run_s_is_refused_before_a_workdir_is_made(case, tmp_path):
    wanted, words = REFUSED[case]
    folder = tmp_path / "data" if wanted is None else export(tmp_path / "data", **wanted)
    if case == "damaged":
        cut(folder)
    with pytest.raises(UsageError, match=words) as caught:
        train(reading(folder), tmp_path / "run", quiet=True)
    assert str(caught.value).startswith("task.folder: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_on_the_command_line_it_is_one_line(tmp_path, monkeypatch, capsys):
    few = export(tmp_path / "data", count=1)
    monkeypatch.setattr(sys, "argv", ["train", f"--config={config_file(tmp_path)}", f"--workdir={tmp_path / 'run'}", f"--config.task.folder={few}"])
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main, command.FLAGS)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"error: task.folder: {few} holds 1 examples, the run needs {COUNT} (train.steps · train.batch_size)")


def test_build_does_not_read_the_folder(tmp_path):
    """Grading a run needs no data on disk."""
    assert build.task_of(reading(tmp_path / "gone")) == TASK


# The run's own folder

def test_a_workdir_with_dots_goes_on_and_can_be_graded(whole, tmp_path):  # noqa: F811
    (tmp_path / "here").mkdir()
    workdir = copied(whole, tmp_path / "run", without=(40,))
    train(CONFIG, tmp_path / "here/../run", quiet=True)
    assert_same_run(tmp_path / "here/../run", whole)
    assert load_model(f"{tmp_path}/here/../run").step == STEPS and (workdir / "result.json").exists()


def broken_after(count):
    """A record writer whose disk is full after so many records."""
    real, written = RecordWriter.write, []

    def write(self, data):
        written.append(data)
        if len(written) > count:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return real(self, data)

    return write


@pytest.mark.parametrize("count", [None, 1, 7], ids=["folder", "first", "middle"])
def test_a_tensorboard_that_cannot_be_written_is_told_once_and_the_run_goes_on(whole, tmp_path, monkeypatch, capsys, count):  # noqa: F811
    """Its writer was a thread of its own, and training waited for ever for one that had died."""
    workdir = copied(whole, tmp_path / "run", without=(40,))
    shutil.rmtree(workdir / "tensorboard")
    if count is None:
        (workdir / "tensorboard").write_text("a file")
    else:
        monkeypatch.setattr(RecordWriter, "write", broken_after(count))
    train(CONFIG, workdir, quiet=True)
    why = os.strerror(errno.EEXIST if count is None else errno.EFBIG)
    assert capsys.readouterr().err == f"{workdir}/tensorboard can't be written to ({why}): the run goes on without it, metrics.jsonl has everything\n"
    assert_same_run(workdir, whole)


def test_tensorboard_gets_every_number_and_forgets_what_is_repeated(tmp_path):
    """Read back by the file format, not with what wrote it."""
    for leg, purge in ((1, None), (2, 3)):
        board = Board(tmp_path, purge)
        for step in (1, 2, 3) if leg == 1 else (3, 4):
            board.write(step, {"train/loss": step / leg, "train/tokens": step * 10})
        board.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    events = [[Event.FromString(record) for record in records(path)] for path in files]
    scalars = [[(event.step, value.tag, value.simple_value) for event in leg for value in event.summary.value] for leg in events]
    assert scalars[0] == [(step, tag, value) for step in (1, 2, 3) for tag, value in (("train/loss", step), ("train/tokens", step * 10))]
    assert scalars[1] == [(3, "train/loss", 1.5), (3, "train/tokens", 30), (4, "train/loss", 2), (4, "train/tokens", 40)]
    assert [event.step for event in events[1] if event.session_log.status] == [3] and not any(event.session_log.status for event in events[0])


def records(path):
    """The records of a file, by its format: length, its checksum, content, its checksum."""
    content = path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12:12 + length]
        content = content[16 + length:]


def test_a_profile_that_cannot_be_written_is_told_and_the_run_goes_on(whole, tmp_path, monkeypatch, capsys):  # noqa: F811
    def fails():
        raise RuntimeError("FAILED_PRECONDITION: is not a directory\nmore")

    monkeypatch.setattr(trace.jax.profiler, "start_trace", lambda folder: None)
    monkeypatch.setattr(trace.jax.profiler, "stop_trace", fails)
    workdir = copied(whole, tmp_path / "run", without=(40,))
    train(dataclasses.replace(CONFIG, profile="31:33"), workdir, quiet=True)
    assert capsys.readouterr().err == f"{workdir}/profile can't be written to (FAILED_PRECONDITION: is not a directory): the run goes on without a profile\n"
    assert_same_run(workdir, whole)


def test_what_fails_while_a_run_is_taken_up_loses_no_line(whole, tmp_path, monkeypatch):  # noqa: F811
    workdir = copied(whole, tmp_path / "run", without=(40,))
    before = (workdir / "metrics.jsonl").read_text()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="metrics.jsonl"):
        patch.setattr(os, "fsync", full)
        Metrics(workdir, start=30, steps=STEPS, quiet=True)
    assert (workdir / "metrics.jsonl").read_text() == before and not list(workdir.glob(".*"))


def test_a_line_that_the_disk_does_not_take_names_the_file(tmp_path):
    full = Metrics(tmp_path, start=0, steps=STEPS, quiet=True)
    full.file.close()
    full.file = open("/dev/full", "wb", buffering=0)
    with pytest.raises(OSError, match="No space left on device: .*metrics.jsonl"):
        full.write(1, "train", {"loss": 1.0})
    full.close()
