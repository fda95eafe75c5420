"""A person's paths: plain or refused by name, wherever one is taken; and files that are whole or not there."""
import ast
import os
import stat
from pathlib import Path

import pytest

from sleepnet import checkpoint, data, files, paths
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError
from sleepnet.tasks import exported, get
from sleepnet.train import loop

ROOT = Path(__file__).parents[2]
URLS = ["gs://bucket/run", "s3://bucket/run", "hdfs://host/run", "file:///tmp/run", "https://host/run", Path("gs://bucket/run")]
PATTERNS = ["runs[1]", "a*", "a?", "back\\slash"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a symbolic link into another folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "here/link").symlink_to(tmp_path / "far/away")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("given, want", [
    ("run", "here/run"), ("./run", "here/run"), ("../run", "run"), ("a/../../run", "run"), ("~/run", "home/run"), ("~", "home"), ("./~x", "here/~x"),
    ("link/run", "here/link/run"), ("link/../run", "far/run"), ("a:b", "here/a:b"), ("run..1", "here/run..1"),
])
def test_a_path_is_the_one_that_the_system_would_take(here, given, want):
    """Compared with the system's own walk for all that a shell would not have changed."""
    found = paths.plain(given)
    assert found == here / want and ".." not in found.parts
    if not given.startswith("~"):
        os.makedirs("a", exist_ok=True)
        assert os.path.realpath(given) == os.path.realpath(found)
    assert paths.plain(found) == found
    assert (Path.cwd() / paths.shown(found)) == found


@pytest.mark.parametrize("given, words", [
    *((url, "is a URL, which would become a folder of that name here: give the path of a mounted folder") for url in URLS),
    ("", "is no path"), ("a\0b", "is no path"), ("~nobody-of-that-name/run", "there is no such user; write ./~nobody-of-that-name/run for a folder"),
])
def test_what_is_no_path_of_ours_is_refused_in_one_line_by_name(here, given, words):
    with pytest.raises(UsageError, match=f"^out=.*{words}") as caught:
        paths.plain(given, "out")
    assert "\n" not in str(caught.value) and sorted(os.listdir()) == ["link"]


DOORS = {
    "train": lambda path: loop.train(RunConfig(), path),
    "compile_cache": lambda path: loop.train(RunConfig(compile_cache=str(path)), "run"),
    "task.folder": lambda path: data.examples(get("depo"), str(path), seed=0, count=1),
    "load_model": checkpoint.load_model,
    "Checkpoints": checkpoint.Checkpoints,
    "exported.load": exported.load,
    "files": lambda path: files.write_text(Path(path) / "file", "text"),
    "exported.write": lambda path: exported.write(get("depo"), path, format="npz", split="test", count=1),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_urls_and_makes_nothing(here, door):
    for url in ("gs://bucket/run", "hdfs://host/run"):
        with pytest.raises(UsageError, match="is a URL"):
            DOORS[door](url)
    assert sorted(os.listdir()) == ["link"]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("door", ["train", "load_model", "Checkpoints"])
def test_what_orbax_could_not_read_back_is_refused_before_anything_is_made(here, name, door):
    with pytest.raises(UsageError, match="Orbax finds no checkpoints where a path has a . in it; rename that folder, or give a symbolic link to it"):
        DOORS[door](Path(name) / "run")
    assert sorted(os.listdir()) == ["link"]
    os.mkdir(name)
    (here / "here/alias").symlink_to(here / "here" / name)
    assert paths.readable(paths.plain("alias/run")) == here / "here/alias/run"


def test_a_whole_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep/file"
    files.write_bytes(path, b"old")

    def fails(*_):
        raise OSError(28, os.strerror(28))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as caught:
            patch.setattr(os, name, fails)
            files.write_text(path, "new")
        assert caught.value.filename == str(path) and path.read_text() == "old" and os.listdir(path.parent) == ["file"]
    files.write_json(path, {"a": 1})
    assert path.read_text() == '{\n  "a": 1\n}\n' and os.listdir(path.parent) == ["file"]


def test_a_whole_file_goes_where_a_link_points_and_into_a_pipe(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through" and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    os.close(reader)
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path, "text")


# what is written in pieces, to a name that nobody reads before it is whole, or is no whole file
PIECES = {"sleepnet/tasks/machinery/shards.py", "sleepnet/tasks/text/token_file.py", "sleepnet/train/hosts.py", "sleepnet/train/metrics.py", "tools/gpu/packs.py", "tools/gpu_check.py"}


def test_whole_files_are_written_in_one_place():
    found = set()
    for path in [*(ROOT / "sleepnet").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            method = isinstance(node.func, ast.Attribute)
            modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant) and argument.value in ("w", "wb", "a", "ab", "x")]
            if called == "open" and modes or method and called in ("write_text", "write_bytes") and not getattr(node.func.value, "id", "") == "files":
                found.add(str(path.relative_to(ROOT)))
            if called == "savefig" and getattr(node.args[0], "id", "") not in ("file", "picture") or called == "save_file":
                found.add(str(path.relative_to(ROOT)))
    assert found - PIECES - {"sleepnet/files.py", "sleepnet/cli.py", "sleepnet/study/pool.py", "tools/soak.py"} == set()
