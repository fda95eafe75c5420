"""Every command prints on any encoding and on closed streams; what it has to save is saved before it is shown."""
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli_test import grade  # noqa: F401, a fixture
from sleepnet.eval import report

ROOT = Path(__file__).parents[2]
PACKAGES = ["train", "eval", "study", "study.worker"]
TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))
COMMANDS = [
    *([f"sleepnet.{name}", "--help"] for name in PACKAGES), ["sleepnet.tasks", "list"], ["sleepnet.tasks", "describe", "rule110"], ["sleepnet.tasks", "--help"],
    ["sleepnet.models", "list"], ["sleepnet.models", "show", "depo8_sleep4"], *([str(path), "--help"] for path in TOOLS),
]
# all in one process, since most of the time is imports
SCRIPT = """
import io, json, os, runpy, sys
from absl import flags, logging
known, ended, real = set(flags.FLAGS), {}, os.dup(1)
for argv in json.loads(sys.argv[1]):
    for kind in ("ascii", "closed"):
        written = io.BytesIO()
        sys.stdout = io.TextIOWrapper(written, "ascii") if kind == "ascii" else None
        sys.stderr = io.TextIOWrapper(io.BytesIO(), "ascii") if kind == "ascii" else None
        sys.argv, sys.path[0] = list(argv), os.path.dirname(argv[0])
        try:
            runpy.run_path(argv[0], run_name="__main__") if argv[0].endswith(".py") else runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            ended[" ".join(argv), kind] = stop.code or 0
        except BaseException as error:
            ended[" ".join(argv), kind] = repr(error)
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        if kind == "ascii" and len(written.getvalue()) < 100:
            ended[" ".join(argv), kind] = f"printed {written.getvalue()}"
os.write(real, json.dumps([[*key, code] for key, code in ended.items()]).encode())
"""


def test_every_command_prints_on_ascii_and_on_nothing():
    assert len(TOOLS) > 10
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(COMMANDS)], capture_output=True, text=True, cwd=ROOT)
    ended = {(command, kind): code for command, kind, code in json.loads(done.stdout)}
    assert len(ended) == 2 * len(COMMANDS) and {key: code for key, code in ended.items() if code != 0} == {}, done.stderr


LIST = f"{sys.executable} -m sleepnet.tasks list"


@pytest.mark.parametrize("command, code, error", [
    (f"{LIST} >&-", 0, ""),
    (f"{LIST} 2>&- <&-", 0, ""),
    (f"{LIST} >/dev/full", 2, "python -m sleepnet.tasks: standard output: No space left on device; free some space or write elsewhere\n"),
    (f"{sys.executable} -m sleepnet.tasks describe nothing >&- 2>&-", 2, ""),
    (f"{sys.executable} -m sleepnet.tasks describe nothing 2>/dev/full", 2, ""),
])
def test_closed_and_full_streams_of_a_shell(command, code, error):
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=buffered)
    assert (done.returncode, done.stderr) == (code, error)
    assert "depo" in done.stdout or ">" in command


def test_a_file_opened_later_is_not_what_closed_output_goes_to(tmp_path):
    """The lowest free number is the next file's: whatever prints to number 1 would print into it."""
    script = (
        f"import os\nfrom sleepnet import cli\ndef main():\n    file = open({str(tmp_path / 'file')!r}, 'wb', buffering=0)\n"
        "    file.write(b'mine')\n    os.write(1, b'printed')\ncli.guarded(main)"
    )
    subprocess.run([f"{sys.executable} -W ignore -c \"$0\" >&-", script], shell=True, check=True)
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("to", ["| true", "2>/dev/full"])
def test_who_no_longer_reads_standard_error_stops_no_work(tmp_path, to):
    """`python -m sleepnet.train … 2>&1 | head`: progress bars and lines are no reason to lose an evaluation or a run."""
    script = f"""
import sys, time
from rich.progress import Progress
from rich.console import Console
from sleepnet import cli
def main():
    for _ in range(20):
        print("step", file=sys.stderr, flush=True)
        time.sleep(0.01)
    with Progress(console=Console(stderr=True, force_terminal=True)) as bar:
        bar.update(bar.add_task("work", total=2), completed=1)
    open({str(tmp_path / "saved")!r}, "w").close()
cli.guarded(main)
"""
    subprocess.run(["bash", "-c", f"{sys.executable} -W ignore -c \"$0\" 2>&1 >/dev/null {to}", script], check=True)
    assert (tmp_path / "saved").exists()


def test_an_evaluation_prints_on_ascii_and_has_saved_before(grade, tmp_path, monkeypatch):  # noqa: F811
    screen = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    code, *_ = grade("--workdir=run", "--examples=20")
    assert code == 0 and rb"\xb1 is half of Wilson's" in screen.buffer.getvalue()
    assert len(report.read_rows(tmp_path / "run/eval/test.jsonl")) == 4


def test_an_evaluation_that_cannot_be_shown_is_saved(grade, tmp_path, monkeypatch):  # noqa: F811
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(report, "show", broken)
    assert grade("--workdir=run", "--examples=20")[0] == 141
    assert sorted(os.listdir(tmp_path / "run/eval")) == ["test.jsonl", "test_steps.png", "test_steps_heat.png"]
