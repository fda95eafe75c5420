"""Every command's `--help` shows examples that parse as pasted: their flags, config files, models, tasks and folders exist."""
import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from absl import flags

from sleepnet import cli, config, tasks
from sleepnet.models import zoo
from sleepnet.study import spec
from sleepnet.tasks.__main__ import _arguments

ROOT = Path(__file__).parents[2]
NO_PERSONS = "-m sleepnet.study.worker"  # a study starts it, one for each run


def commands():
    """"-m sleepnet.eval", "tools/soak.py" and all others → the file that runs."""
    found = {}
    for folder in ("sleepnet", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if '\nif __name__ == "__main__":\n' in path.read_text():
                name = str(path.relative_to(ROOT))
                dotted = name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
                found[name if folder == "tools" else f"-m {dotted}"] = path
    del found[NO_PERSONS]
    return found


COMMAND_FILES = commands()


class Parsed(Exception):
    """A command line that was understood, before anything was done: its flags by name."""

    def __init__(self, values):
        self.values = values


@pytest.fixture
def call(monkeypatch):
    """Runs a command's file as far as its flags; raises Parsed, or SystemExit for help and what is refused."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "tools")
    run, parse_args = cli.run, argparse.ArgumentParser.parse_args

    def parse(main, flag_values=flags.FLAGS):
        def stop(argv):
            raise Parsed({name: flag_values[name].value for name in flag_values})
        stop.__module__ = main.__module__
        run(stop, flag_values)

    def parse_arguments(self, *arguments, **named):
        raise Parsed(vars(parse_args(self, *arguments, **named)))

    monkeypatch.setattr(cli, "run", parse)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_arguments)

    def call(command, *words):
        monkeypatch.setattr(sys, "argv", [str(COMMAND_FILES[command]), *words])
        monkeypatch.setattr(sys, "path", list(sys.path))
        shared = set(flags.FLAGS)
        try:
            runpy.run_path(str(COMMAND_FILES[command]), run_name="__main__")
        finally:
            for name in set(flags.FLAGS) - shared:  # a process defines them once, this one may again
                delattr(flags.FLAGS, name)

    return call


def help_of(call, command):
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as stop:
        call(command, "--help")
    assert not stop.value.code
    return said.getvalue()


def examples(text):
    return [line.strip() for line in text.splitlines() if re.match(r"\s+python ", line)]


def words_of(example):
    """The command of an example and its words, as a shell splits them."""
    python, *words = shlex.split(example)
    assert python == "python"
    return (" ".join(words[:2]), words[2:]) if words[0] == "-m" else (words[0], words[1:])


def made(call, command):
    """Folders that the command's own examples write."""
    folders = set()
    for example in examples(help_of(call, command)):
        with pytest.raises(Parsed) as seen:
            call(command, *words_of(example)[1])
        folders.add(seen.value.values["workdir"])
    return folders


def understood(call, command, words):
    """The flags of a command line, or a failure with what it said."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            call(command, *words)
        except Parsed as seen:
            return seen.values
        except SystemExit:
            pytest.fail(f"{command} {shlex.join(words)}: {said.getvalue()}")


@pytest.mark.parametrize("command", COMMAND_FILES)
def test_help_shows_two_examples_that_parse(call, command):
    shown = examples(help_of(call, command))
    assert len(shown) >= 2, "two examples are due, each a line of its own that begins with python"
    for example in shown:
        of, words = words_of(example)
        assert of == command, example
        values = understood(call, of, words)
        given = values.get("config")
        if given is not None:
            parsed = spec.parse(given) if "arms" in given else config.parse(given)
            if only := values.get("only"):
                assert {arm.name for arm in parsed.arms} >= set(only), example
        if command == "-m sleepnet.tasks" and "name" in values:
            tasks.get(values["name"], **_arguments(values["arguments"]))
        model = values.get("model") or (command == "-m sleepnet.models" and values.get("name"))
        assert not model or model in zoo.names(), example
        for folder in ("results", "overview", "ablations", "reuse"):
            assert values.get(folder) is None or Path(values[folder]).is_dir(), example


@pytest.mark.parametrize("command, key", [("-m sleepnet.eval", "workdir"), ("tools/inspect_checkpoint.py", "path"), ("tools/ship_checkpoint.py", "workdir")])
def test_a_run_in_an_example_is_made_by_an_example(call, command, key):
    """Folders that a command reads are those that the examples of training write, or the quickstart."""
    runs = {*made(call, "-m sleepnet.train"), "runs/quickstart"}
    for example in examples(help_of(call, command)):
        folder = understood(call, *words_of(example))[key]
        assert folder is None or any(Path(folder).is_relative_to(run) for run in runs), example


def test_commands_of_the_readme_parse(call):
    """Those in its blocks and those in its lines, but for what stands for something else: FILE, and the dots of a command told before."""
    text = (ROOT / "README.md").read_text()
    shown = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in re.split("\n|&&", block)]
    inline = re.findall(r"`(python [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = [line.strip() for line in (*shown, *inline) if line.strip().startswith("python ") and "FILE" not in line]
    assert len(found) > 10
    for example in found:
        understood(call, *words_of(example))
