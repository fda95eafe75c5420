"""The compilation cache holds native code: whose a folder must be for it to be read, and that nothing is read or written where it is not."""
import grp
import os
import pwd
import re
import stat
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from sleepnet.train import compiled

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hits():
    """Compiles a function anew, within `cached`; how often JAX found something on the disk."""
    events, kept = [], {key: getattr(jax.config, key) for key in ("jax_persistent_cache_min_compile_time_secs", "jax_compilation_cache_dir")}
    listen = lambda event, **_: events.append(event)
    jax.monitoring.register_event_listener(listen)
    for key, value in zip(kept, (0, None)):
        jax.config.update(key, value)

    def run(where, workdir):
        events.clear()
        with compiled.cached(where, workdir):
            jax.jit(lambda x: jnp.sin(x) + 17)(jnp.ones(3))  # another function each time, the same program
        assert jax.config.jax_compilation_cache_dir is None
        return events.count("/jax/compilation_cache/cache_hits")

    yield run
    for key, value in kept.items():
        jax.config.update(key, value)
    jax.monitoring.unregister_event_listener(listen)


@pytest.fixture
def workdir(tmp_path, hits):
    """A run's folder with what one leg has compiled."""
    (tmp_path / "run").mkdir(mode=0o755)
    assert hits("workdir", tmp_path / "run") == 0
    return tmp_path / "run"


def entry(workdir):
    return next((workdir / "compiled").glob("*-cache"))


def test_ones_own_folder_is_private_and_found_again(workdir, hits, tmp_path, capsys):
    assert stat.S_IMODE((workdir / "compiled").stat().st_mode) == 0o700 and compiled.refusal(workdir / "compiled") == ""
    assert hits("workdir", workdir) >= 1
    assert hits(str(tmp_path / "own"), workdir) == 0 and hits(str(tmp_path / "own"), workdir) >= 1 and stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert hits(str(tmp_path / "link"), workdir) >= 1
    assert hits("off", workdir) == 0
    assert capsys.readouterr().err == ""


def test_nothing_but_training_knows_of_it():
    """So that an evaluation, which must not import training (layering_test.py), reads none, whatever a saved `compile_cache` says."""
    sources = [path for folder in ("sleepnet", "kernels", "tools") for path in (ROOT / folder).rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in sources if "compilation_cache" in path.read_text()} == {"sleepnet/train/compiled.py"}


def open_file(workdir):
    entry(workdir).chmod(0o666)


def open_folder(workdir):
    (workdir / "compiled").chmod(0o777)


def open_around(workdir):
    workdir.chmod(0o777)


def nested(workdir):
    (workdir / "compiled/of_xla").mkdir()
    (workdir / "compiled/of_xla").chmod(0o702)


def link_in(workdir):
    elsewhere = entry(workdir).rename(workdir / "code")
    (workdir / "compiled" / f"{elsewhere.name}-cache").symlink_to(elsewhere)


def link_to_open(workdir):
    (workdir / "compiled").rename(workdir.parent / "elsewhere").chmod(0o777)
    (workdir / "compiled").symlink_to(workdir.parent / "elsewhere")


def a_file(workdir):
    (workdir / "compiled").rename(workdir.parent / "elsewhere")
    (workdir / "compiled").write_text("")


@pytest.mark.parametrize("plant, match", [
    (open_file, "others may write {run}/compiled/jit_.*-cache: if nobody has, chmod -R go-w {run}/compiled takes that away"),
    (open_folder, "others may write {run}/compiled: if nobody has, chmod -R go-w {run}/compiled "),
    (open_around, "others may write {run}: chmod go-w {run} takes that away"),
    (nested, "others may write {run}/compiled/of_xla: "),
    (link_in, "{run}/compiled/code-cache is neither a file nor a folder: rm -r {run}/compiled makes room"),
    (link_to_open, "others may write .*/elsewhere: "),
    (a_file, "{run}/compiled is no folder: rm {run}/compiled makes room for one"),
])
def test_what_others_may_have_written_is_neither_read_nor_written(workdir, hits, capsys, plant, match):
    plant(workdir)
    before = sorted(workdir.parent.rglob("*"))
    assert hits("workdir", workdir) == 0 and sorted(workdir.parent.rglob("*")) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"warning: what is compiled is neither read from {workdir}/compiled nor kept there, since ")
    assert said.endswith("; compile_cache=off says no more of it\n")
    with pytest.raises(ValueError, match=match.format(run=workdir)):
        raise ValueError(said)


def test_chmod_as_it_says_is_enough(workdir, hits, capsys):
    for plant in (open_file, open_folder, open_around, nested):
        plant(workdir)
    for _ in range(2):  # of what lies around first, then of the folder
        hits("workdir", workdir)
        assert os.system(re.search(r": (?:if nobody has, )?(chmod .*) takes", capsys.readouterr().err)[1]) == 0
    assert hits("workdir", workdir) >= 1 and capsys.readouterr().err == ""


def test_what_belongs_to_somebody_else(workdir, monkeypatch):
    """Seen as another user, who may read it all."""
    folder, me = workdir / "compiled", os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert compiled.refusal(folder).startswith(f"{workdir} belongs to another user: " if me else f"{folder} belongs to another user: rm -r {folder}")
    monkeypatch.undo()
    if me == 0:  # who alone may give files away
        os.chown(entry(workdir), 12345, 12345)
        assert compiled.refusal(folder).startswith(f"{entry(workdir)} belongs to another user")
        os.chown(workdir, 12345, 12345)
        assert compiled.refusal(folder).startswith(f"{workdir} belongs to another user: compile_cache=FOLDER")


def test_other_users_may_have_folders_beside_it(workdir, tmp_path):
    tmp_path.chmod(0o1777)
    assert compiled.refusal(tmp_path / "run") == "" and compiled.refusal(tmp_path / "not there yet") == ""
    tmp_path.chmod(0o777)
    assert compiled.refusal(tmp_path / "run").startswith(f"others may write {tmp_path}: ")


@pytest.mark.parametrize("uid, user, group, members, fine", [
    (1000, "ann", "ann", [], True), (1000, "ann", "ann", ["ann"], True), (1000, "ann", "ann", ["bob"], False), (1000, "ann", "users", [], False), (0, "root", "root", [], False),
])
def test_a_group_of_ones_own_is_nobody_else(workdir, monkeypatch, uid, user, group, members, fine):
    """As umask 002 makes files where each user has a group of their own."""
    entry(workdir).chmod(0o664)
    gid, found = entry(workdir).stat().st_gid, entry(workdir).lstat()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: types.SimpleNamespace(pw_uid=uid, pw_gid=gid, pw_name=user))
    monkeypatch.setattr(grp, "getgrgid", lambda _: types.SimpleNamespace(gr_gid=gid, gr_name=group, gr_mem=members))
    assert compiled._others_write(found) == (not fine) and (compiled.refusal(workdir / "compiled") == "") == fine
