"""What the environment says that this machine can't do: one line with the variable and the fix, or it is no business of ours."""
import ast
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import pytest
from absl import flags

from sleepnet import cli, origin
from sleepnet.errors import UsageError
from sleepnet.study import pool, worker

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments, **environment):
    """(exit code, stdout, stderr) of this Python in an environment of its own."""
    told = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "MPL", "PYTHONOPT"))}
    done = subprocess.run([sys.executable, *arguments], env=told | environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "module://nowhere.at_all", "nonsense", "TkAgg"])
def test_a_picture_is_drawn_whatever_a_notebook_has_set(backend):
    draw = "from sleepnet.pictures import Figure, png; figure = Figure(); figure.subplots().plot([1, 2]); print(png(figure, 50)[1:4].decode())"
    look = "; import os; print(os.environ['MPLBACKEND'])"  # the notebook's own cells go on with theirs
    assert python("-c", draw + look, MPLBACKEND=backend) == (0, f"PNG\n{backend}\n", "")


def test_a_backend_that_is_here_stays_the_process_s():
    code = "import sleepnet.pictures, matplotlib; print(matplotlib.rcParams['backend'])"
    assert python("-c", code, MPLBACKEND="svg") == (0, "svg\n", "")


def test_nothing_imports_matplotlib_but_through_the_one_place():
    found = []
    for path in [path for folder in ("sleepnet", "tools", "experiments") for path in (ROOT / folder).rglob("*.py")]:
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = [name for node in nodes for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])]
        found += [str(path.relative_to(ROOT)) for name in names if name.split(".")[0] == "matplotlib"]
    assert set(found) == {"sleepnet/pictures.py"}


@pytest.mark.parametrize("name, platform, why", [
    ("JAX_PLATFORMS", "cuda", ""),
    ("JAX_PLATFORMS", "nonsense", r" (Unable to initialize backend 'nonsense': "),
    ("JAX_PLATFORM_NAME", "nonsense", " (Unknown backend"),
])
def test_a_platform_that_is_not_here_is_one_line(name, platform, why):
    if platform == "cuda" and any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("this machine has a GPU")
    code = "import sys; from absl import flags; from sleepnet import cli; cli.run(lambda argv: __import__('jax').numpy.ones(3), flags.FlagValues())"
    status, out, error = python("-c", code, **{name: platform})
    assert (status, out) == (2, "") and error.count("\n") == 1, error
    assert error.startswith(f"error: {name}={platform}: JAX finds no such device here{why}") and error.endswith(f"; unset it, or set {name}=cpu\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "argv", ["program"])

    def fail(argv):
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        cli.run(fail, flags.FlagValues())


def test_a_study_asks_before_it_starts_its_runs(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(UsageError, match="^JAX_PLATFORMS=nonsense: JAX finds no such device here .*; unset it, or set JAX_PLATFORMS=cpu$"):
        pool.slots(0, 1)


def test_versions_are_known_where_nothing_is_installed(monkeypatch):
    """A source tree on PYTHONPATH, a zip file, a bundle; what tells nothing is unknown, and no run is lost for it."""
    installed = origin.versions("numpy")
    assert installed["sleepnet"] == sys.modules["sleepnet"].__version__
    assert all(installed[name] == metadata.version(name) for name in (*origin.PACKAGES, "numpy"))

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert origin.versions("numpy", "a_package") == installed | {"a_package": "unknown"}


def test_nothing_else_asks_for_installed_packages():
    found = [path for path in (ROOT / "sleepnet").rglob("*.py") if "importlib import metadata" in (text := path.read_text()) or "importlib.metadata" in text]
    assert sorted(found) == [ROOT / "sleepnet/hf/sources.py", ROOT / "sleepnet/origin.py"], "both do without an answer"


def test_help_without_docstrings():
    """`python -OO` leaves them out."""
    code = "import sys; sys.argv = ['eval', '--help']; from sleepnet import cli; from sleepnet.eval import __main__ as m; cli.run(m.main, m.FLAGS)"
    plain, without = (python(*optimised, "-c", code) for optimised in ((), ("-OO",)))
    assert plain == without and "python -m sleepnet.eval --model=" in plain[1] and plain[2] == ""
    code = "import sys; from sleepnet.tasks.__main__ import main; main(['list'])"
    plain, without = (python(*optimised, "-c", code) for optimised in ((), ("-OO",)))
    assert plain == without and "depo" in plain[1] and plain[2] == ""


def test_a_worker_starts_without_docstrings(monkeypatch, capsys):
    monkeypatch.setattr(worker, "__doc__", None)
    with pytest.raises(SystemExit) as stop:
        worker.main(["--help"])
    assert stop.value.code == 0 and "--folder" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["sleepnet", "kernels", "tools"])
def test_nothing_is_checked_by_assert_or_read_from_a_docstring(folder):
    """Both are gone under `python -O` and `-OO`; `cli.docstring` reads the source."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
            name = getattr(node, "id", getattr(node, "attr", ""))
            assert name != "__doc__" or path.name == "inspect_checkpoint.py", f"{path}:{node.lineno}"
