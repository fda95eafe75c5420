"""Files that are damaged, or that a newer version wrote: one line says which, and what to do; a log is read without its spoilt lines."""
import json
import re

import pytest

from checkpoint_test import CONFIG, TASK
from sleepnet import origin
from sleepnet.checkpoint import claim, load_model
from sleepnet.errors import UsageError
from sleepnet.files import json_lines, write_json
from sleepnet.study import ablations, ledger, outcomes, resolve
from sleepnet.study.progress import standing
from sleepnet.study.worker import curve
from sleepnet.train import loop
from sleepnet.train.metrics import Metrics
from studies import ARMS, make, outcome, spec

NEWER = "; if a newer version of sleepnet wrote it, use that one"


@pytest.fixture
def workdir(tmp_path):
    claim(tmp_path / "run", CONFIG, TASK)
    return tmp_path / "run"


def change(path, **values):
    write_json(path, json.loads(path.read_text()) | values)


@pytest.mark.parametrize("text, what", [
    ("", r"can't be read \(Expecting value"), ("[1]", r"can't be read \(list where a JSON object"), ('{"steps": 6}', "lacks device, flops, seconds, tokens"),
])  # fmt: skip
def test_a_damaged_result_is_written_anew(workdir, text, what):
    (workdir / "result.json").write_text(text)
    with pytest.raises(UsageError, match=f"result.json {what}.*; remove it and run the same command again: it is written anew from the last checkpoint$"):
        loop._finished(workdir)


@pytest.mark.parametrize("values, what", [
    ({"nights": 3}, "unknown config key nights"),
    ({"model": {"widht": 3}}, "unknown config key model.widht; did you mean 'width'?"),
    ({"model": 3}, "model=3 must be a section of keys and values"),
    ({"model": {"rule": "longhorn"}}, "model.rule='longhorn' is unknown"),
    ({"task": {"name": "depo2"}}, "unknown task 'depo2'; did you mean 'depo'?"),
    ({"task": {"name": "depo", "arguments": {"nights": 3}}}, "task 'depo' has no argument 'nights'"),
])  # fmt: skip
def test_a_configuration_of_a_newer_version_is_told_by_its_file(workdir, values, what):
    change(workdir / "config.json", **values)
    with pytest.raises(UsageError, match=f"^{re.escape(f'{workdir}/config.json: {what}')}.*{re.escape(NEWER)}$"):
        load_model(workdir)
    if what.startswith("unknown config key"):  # else it is another run's, which is told first
        with pytest.raises(UsageError, match=f"^{re.escape(f'{workdir}/config.json: {what}')}.*{re.escape(NEWER)}$"):
            claim(workdir, CONFIG, TASK)


def test_so_is_a_checkpoint_s():
    mine = origin.card(CONFIG, TASK)
    newer = {**mine, "config": mine["config"] | {"nights": 3}, "versions": mine["versions"] | {"sleepnet": "9.0"}}
    with pytest.raises(origin.Unusable, match=r"^of a newer version, or damaged \(unknown config key nights.*; sleepnet 9.0 wrote it\)$"):
        origin.check(origin.Contents(newer, 0, {}, {}, 0.0), mine, {})


def study(folder, **values):
    make(folder, spec(ARMS[:2]))
    change(folder / "study.json", **values)


@pytest.mark.parametrize("values", [{"spec": 3}, {"spec": {}}, {"commands": {}}])
def test_a_damaged_study_is_told_by_its_file(tmp_path, values):
    study(tmp_path, **values)
    for action in (lambda: ledger.read_study(tmp_path), lambda: make(tmp_path, spec(ARMS[:2]))):
        with pytest.raises(UsageError, match="study.json is no study's: it needs spec, with its seeds, and commands; if it is damaged, remove it"):
            action()


def test_a_newer_study_is_told_by_its_file(tmp_path):
    make(tmp_path, spec(ARMS[:2]))
    known = json.loads((tmp_path / "study.json").read_text())
    for values, what in (({"nights": 1}, "unknown study key nights"), ({"base": {"nights": 1}}, "unknown config key base.nights")):
        write_json(tmp_path / "study.json", known | {"spec": known["spec"] | values})
        with pytest.raises(UsageError, match=f"^{re.escape(f'{tmp_path}/study.json: {what}')}.*{re.escape(NEWER)}$"):
            ledger.read_study(tmp_path)
    with pytest.raises(UsageError, match=f"^{re.escape(f'{tmp_path}/study.json: unknown config key base.nights')}.*{re.escape(NEWER)}$"):
        make(tmp_path, spec(ARMS[:2]))


@pytest.mark.parametrize("config, what", [(3, "config=3 must be a section"), ({"nights": 1}, "unknown config key nights")])
def test_an_outcome_of_another_version_is_told_by_its_file(tmp_path, config, what):
    known = spec(ARMS[:1])
    run = make(tmp_path / "study", known)[0]
    good = ledger.plain(outcome(known, run.arm, run.seed, 0.5).__dict__)
    path = tmp_path / "results" / f"{run.arm}-seed{run.seed}.json"
    write_json(path, good | {"config": config})
    told = f"^{re.escape(f'{path}: {what}')}.*{re.escape(NEWER)}$"
    for action in (
        lambda: ledger.adopt(path.parent, [run]), lambda: ablations.catalogue(path.parent), lambda: outcomes.load(path.parent, known),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            action()
    assert resolve.resolve(known)  # the study itself is fine


LINE = {"step": 2, "split": "train", "seconds": 1.5, "loss": 2.0, "exact_accuracy": 0.5, "tokens": 8}
SPOILT = ['{"step": 3, "sp', "\0\0\0\0", "[1]", '"step"', '{"loss": 1}', "\udc80"]


def log(path, *, tail=""):
    lines = [json.dumps(LINE), *SPOILT, json.dumps(LINE | {"step": 4, "split": "validation", "seconds": 3.0}), json.dumps(LINE | {"step": 6, "seconds": 4.0})]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n" + tail).encode(errors="surrogateescape"))
    return path


def test_whole_lines_alone_are_read():
    text = '{"a": 1}\n{"a": 2\n[3]\n{"b": 4}\n\n{"a": 5, "b": 6}\n{"a": 7}'
    assert list(json_lines(text, "a")) == [('{"a": 1}\n', {"a": 1}), ('{"a": 5, "b": 6}\n', {"a": 5, "b": 6})]


def test_a_run_goes_on_behind_a_spoilt_log(tmp_path, capsys):
    path = log(tmp_path / "metrics.jsonl", tail='{"step": 7, "spl')
    metrics = Metrics(tmp_path, start=4, steps=9, quiet=True)
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4] and metrics.seconds == 3.0
    assert capsys.readouterr().err == f"{path}: {len(SPOILT)} damaged lines are left out\n"


def test_a_study_reads_a_spoilt_log(tmp_path):
    run = make(tmp_path, spec(ARMS[:1]))[0]
    path = log(run.metrics, tail='{"step": 7, "spl')
    assert [line["step"] for line in curve(path)] == [4]
    now = standing(run)
    assert (now.step, now.exact, now.steps_per_second) == (6, 0.5, 4 / 2.5)
