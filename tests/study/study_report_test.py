"""From outcomes to the verdict and the report."""
import json
import re

import pytest
from rich.console import Console

from sleepnet.errors import UsageError
from sleepnet.study import ledger, outcomes, overview, report, resolve
from sleepnet.study.claim import verdict
from studies import ARMS, CLAIM, outcome, spec


@pytest.mark.parametrize("sleep, control, held, words", [
    ([0.97, 0.96], [0.3, 0.4], True, "held: at k = 4, four passes (sleep4) scores 0.965 (2 seeds, 0.960–0.970)"),
    ([0.99, 0.93], [0.3, 0.4], True, "true of 1 of 2 seeds"),
    ([0.94, 0.94], [0.3, 0.4], False, "NOT held"),
    ([0.97, 0.96], [0.7, 0.6], False, "once_matched) scores 0.650 (2 seeds, 0.600–0.700), where at most 0.600 was claimed"),
    ([0.97], [0.3], True, "0.970 (one seed, 95 % interval 0.953–0.983)"),
    ([0.97], [], None, "not decided: there is no finished run of arm 'once_matched'"),
])
def test_the_verdict_is_plain(sleep, control, held, words):
    study = spec(claim=CLAIM)
    found = [outcome(study, "sleep4", seed, at4) for seed, at4 in enumerate(sleep)]
    found += [outcome(study, "once_matched", seed, at4) for seed, at4 in enumerate(control)]
    result = verdict(study, found)
    assert result.held is held
    assert words in result.sentence


def test_a_study_may_claim_nothing():
    assert verdict(spec(), []).held is None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report on three arms of a study, two of them finished, by way of a folder of results."""
    study, folder = spec(ARMS[:4], claim=CLAIM, seeds=(0, 1)), tmp_path_factory.mktemp("study")
    found = [outcome(study, "sleep4", 0, 0.961), outcome(study, "sleep4", 1, 0.973), outcome(study, "once_matched", 0, 0.317)]
    found.append(outcome(study, "once", 0, 0.222, passes=(1, 4)))
    outcomes.collect(found, study, ["python -m sleepnet.study --config=a.py --workdir=b"], folder / "results")
    study, commands = ledger.read_study(folder / "results")
    report.write(folder / "out", study, outcomes.load(folder / "results", study), commands)
    return study, folder


def test_the_report_has_the_figures(written):
    study, folder = written
    matched = resolve.resolve(study)["once_matched"]
    for name in ("report.md", "report.html"):
        text = (folder / "out" / name).read_text()
        for words in (
            "0.967 [0.961–0.973]",  # two seeds: mean, least, greatest
            "0.317 [0.300–0.330]",  # one seed: its interval
            "Wilson", "The claim is held", "reference", "control: training compute of sleep4",
            "baseline: chance", "baseline: in context", "0.111", "0.399", "4 (trained with 1)",
            f"train.steps = {matched.train.steps}", "model.pattern = AGAGAGAG", "7.65e6", "321", "123,456", "54,321",
            "python -m sleepnet.study --config=a.py --workdir=b", "jax 0.10.2", "a test&#x27;s CPU" if "html" in name else "a test's CPU",
            "Not finished: once/1, once_matched/1, deep/0, deep/1", "k = 4",
        ):
            assert words in text, (name, words)
    assert "n = 10" not in (folder / "out" / "report.md").read_text().split("## How")[0], "an axis with one value says nothing"
    lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 5 * 4 and {"arm", "seed", "exact_accuracy", "baselines"} <= set(lines[0])


def test_the_page_is_one_file(written):
    _, folder = written
    text = (folder / "out" / "report.html").read_text()
    assert "same &lt;compute&gt; &amp; data" in text and "<compute>" not in text
    assert text.count("<picture>") == 4
    assert not re.search(r'(src|href|srcset)="(?!data:)', text) and "http" not in text and "url(" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    for name in ("validation_over_flops", "validation_over_steps", "accuracy_by_k", "heat_by_k"):
        assert (folder / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_screen_says_it_too(written):
    study, folder = written
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    with console.file:
        report.show(console, study, outcomes.load(folder / "results", study))
    text = console.export_text()
    assert "0.967 [0.961–0.973]" in text and "Mean over seeds [least–most]" in text and "The claim is held" in text


def test_a_report_before_anything_has_finished(tmp_path):
    report.write(tmp_path, spec(claim=CLAIM), [], ["command"])
    assert "not decided" in (tmp_path / "report.md").read_text()


def test_outcomes_older_than_a_key_are_taken_to_have_its_default(written, tmp_path):
    study, folder = written
    for path in (folder / "results").iterdir():
        values = json.loads(path.read_text())
        del (values["spec"]["base"] if path.name == "study.json" else values["config"])["model"]["beta_max"]
        (tmp_path / path.name).write_text(json.dumps(values))
    ledger.check(tmp_path, study, "results")
    assert [run.arm for run in outcomes.load(tmp_path, study)] == [run.arm for run in outcomes.load(folder / "results", study)]


def test_foreign_outcomes_are_refused(written, tmp_path):
    study, folder = written
    other = spec(ARMS[:4], base={"model": {"width": 32}})
    with pytest.raises(UsageError, match="model.width=64, the study says 32"):
        outcomes.load(folder / "results", other)
    (tmp_path / "sleep4-seed0.json").write_text("{}")
    with pytest.raises(UsageError, match="not the outcome of a run"):
        outcomes.load(tmp_path, study)


def test_the_overview_has_every_study_and_its_guesses(written, tmp_path):
    study, folder = written
    table = overview.overview(folder)
    cells = {row[1]: row for row in table.rows}
    assert {row[0] for row in table.rows} == {"results"}
    assert cells["sleep4"][2:4] == ("4", "0, 1") and cells["sleep4"][7:] == ("0.967 [0.961–0.973]", "k = 4")
    matched = cells["once_matched (compute of sleep4)"]
    assert matched[4:6] == ("7.65e6", "1.19e12") and matched[7] == "0.317"
    assert "guess: chance" in cells and cells["guess: in context"][7] == "0.111"
    assert "deep" not in cells, "an arm without a run"
    with pytest.raises(UsageError, match="holds a study.json"):
        overview.overview(tmp_path)
