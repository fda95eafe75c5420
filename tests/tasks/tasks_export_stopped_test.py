"""Exports into mounted volumes, and exports that are stopped: whole or not there, nothing hidden stays, one line."""
import errno
import os
import shutil
import signal

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks import exported
from sleepnet.tasks.__main__ import main
from sleepnet.tasks.depo import Depo

TASK, COUNT, TEXT = tasks.get("depo", nodes=5, hops=2, queries=2), 1300, ["nodes=5", "hops=2", "queries=2"]
every_format = pytest.mark.parametrize("format", exported.FORMATS)


def export(folder, format="npz", count=COUNT, **more):
    return exported.write(TASK, folder, format=format, split="test", count=count, **more)


def command(folder, format):
    return main(["export", "depo", "--format", format, "-n", str(COUNT), "--out", str(folder), "--arguments", *TEXT])


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@every_format
def test_an_empty_mounted_volume_is_filled(format, tmp_path, monkeypatch):
    """What lies in a mount can't be renamed out of it or into it, nor the mount itself."""
    volume, real = tmp_path / "volume", {name: getattr(os, name) for name in ("rename", "replace")}
    volume.mkdir()

    def renamed(name):
        def rename(source, to, *rest, **options):
            paths = [os.path.abspath(os.fspath(path)) for path in (source, to)]
            if str(volume) in paths:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source), None, str(to))
            if len({path.startswith(f"{volume}/") for path in paths}) == 2:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(to))
            return real[name](source, to, *rest, **options)

        return rename

    for name in real:
        monkeypatch.setattr(os, name, renamed(name))
    export(volume, format)
    got = exported.load(volume).batch(0, "test", 1200, 100)
    np.testing.assert_array_equal(got["tokens"], TASK.batch(0, "test", 1200, 100)["tokens"])
    assert not [name for name in everything(volume) if name.startswith(".")]


@pytest.fixture
def heard():
    """Ctrl-C is heard, as in a terminal: a shell starts what it runs in the background with SIGINT ignored, and so may have started these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


STOPS = {
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), 130, "interrupted\n"),
    "Ctrl-C": (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "interrupted\n"),
}


@every_format
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "empty"])
def test_an_export_that_is_stopped_leaves_nothing_and_says_one_line(format, stop, is_there, tmp_path, monkeypatch, capsys, heard):
    action, code, line = STOPS[stop]
    batch, calls, folder = Depo.batch_at, [], tmp_path / "data" / "depo"

    def stopping(self, seed, split, indices):
        calls.append(indices)
        if len(calls) == 3:
            action()
        return batch(self, seed, split, indices)

    monkeypatch.setattr(Depo, "batch_at", stopping)
    (folder if is_there else folder.parent).mkdir(parents=True)
    before = everything(tmp_path)
    assert command(folder, format) == code
    assert capsys.readouterr().err == line and everything(tmp_path) == before
    assert len(calls) == 3 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def disk_full_npz(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full_array_record(*_, **__):
    raise RuntimeError('Failed to finalize writing of split "test": write() failed: No space left on device; writing …')


FULL = {"npz": ("numpy.savez_compressed", disk_full_npz), "array_record": ("sleepnet.tasks.machinery.tfds_builder.TaskBuilder.download_and_prepare", disk_full_array_record)}


@pytest.mark.parametrize("format", FULL)
def test_a_full_disk_leaves_nothing_and_is_one_line_that_names_the_folder(format, tmp_path, monkeypatch, capsys):
    exported.write(TASK, tmp_path / "first", format=format, split="test", count=1)  # the modules are there
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setattr(*FULL[format])
    assert command(tmp_path / "depo", format) == 2 and everything(tmp_path) == []
    error = capsys.readouterr().err
    assert error == f"python -m sleepnet.tasks: {tmp_path / 'depo'}: No space left on device; free some space or write elsewhere\n"


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_what_a_killed_export_left_is_finished_or_removed_by_the_next(moved, tmp_path):
    """Killed while its files came over from the hidden folder, or before its manifest was written."""
    whole, folder = export(tmp_path / "whole", count=3), tmp_path / "killed"
    hidden = folder / ".sleepnet-export.part"
    shutil.copytree(whole, hidden)
    for name in ["test-00000-of-00001.npz", "manifest.json"][:moved]:
        (hidden / name).rename(folder / name)
    (folder / ".lock").write_text("a dead process")
    assert export(folder, count=3) == folder and everything(folder) == everything(whole)
    assert exported.load(folder).count == 3
    broken = tmp_path / "broken"
    (broken / hidden.name).mkdir(parents=True)
    (broken / hidden.name / "test-00000-of-00001.npz").write_text("half")
    export(broken, count=3)
    assert everything(broken) == everything(whole)


def test_a_folder_of_other_things_keeps_them(tmp_path):
    (tmp_path / ".sleepnet-export.part").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="holds other data; nothing is overwritten"):
        export(tmp_path, count=3)
    assert (tmp_path / "thesis.tex").read_text() == "mine" and everything(tmp_path) == ["thesis.tex"]


def test_two_exports_into_one_folder_do_not_meet(tmp_path):
    told = []

    def progress(more):
        if not told:
            with pytest.raises(UsageError, match=rf"depo is in use by an export, pid {os.getpid()} on .*, since "):
                export(tmp_path / "depo", count=5)
            told.append(more)

    export(tmp_path / "depo", progress=progress)
    assert told and exported.load(tmp_path / "depo").count == COUNT
